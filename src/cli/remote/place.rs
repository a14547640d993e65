//! Where the server is, and how the way to it is protected.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http::Uri;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::cli::Failure;
use crate::tls;

/// How long a connection may be silent before it is asked whether it is there, ...
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// ... and how long the answer may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the server is.
#[derive(Args)]
pub(in crate::cli) struct Place {
    /// The server: http://HOST:PORT, https://HOST:PORT, or HOST:PORT, which is http on this machine and https elsewhere
    #[arg(long, value_name = "ADDRESS", env = "TOGGLED_ADDR", default_value = "127.0.0.1:50051", value_parser = address)]
    addr: Uri,
    /// Who vouches for the server's certificate (PEM); those that the system trusts without it
    #[arg(long, value_name = "FILE", env = "TOGGLED_CA_CERTIFICATE")]
    ca_certificate: Option<PathBuf>,
    /// The certificate to show to a server that demands one (PEM)
    #[arg(long, value_name = "FILE", env = "TOGGLED_CLIENT_CERTIFICATE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", env = "TOGGLED_CLIENT_KEY", requires = "client_certificate")]
    client_key: Option<PathBuf>,
}

impl Place {
    /// What the server is called in words to a person.
    pub fn name(&self) -> String {
        self.addr.to_string().trim_end_matches('/').to_owned()
    }

    /// A way there, which is taken with the first call; connecting may last so long.
    pub async fn channel(&self, patience: Duration) -> Result<Channel, Failure> {
        let mut endpoint = Endpoint::from(self.addr.clone())
            .user_agent(concat!("toggled/", env!("CARGO_PKG_VERSION")))?
            .connect_timeout(patience)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        if self.addr.scheme_str() == Some("https") {
            let tls = self.tls().await?.timeout(patience);
            endpoint = endpoint.tls_config(tls).map_err(|error| Failure::usage(self.unusable(&error)))?;
        } else if let Some((setting, _)) = self.files().into_iter().find(|(_, file)| file.is_some()) {
            // Whoever gives a certificate counts on TLS: a token must not go out in clear.
            return Err(Failure::usage(format!(
                "{setting} is for https, and --addr (TOGGLED_ADDR) is {}",
                self.name()
            )));
        }
        Ok(endpoint.connect_lazy())
    }

    /// What may be wrong where a server hangs up on every call: it does so without a word of why.
    pub fn lost_hint(&self) -> &'static str {
        if self.addr.scheme_str() != Some("https") {
            "; if it speaks TLS, it is https:// instead of http://"
        } else if self.client_certificate.is_none() {
            "; if it demands a certificate, give --client-certificate and --client-key"
        } else {
            ""
        }
    }

    async fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let mut config = ClientTlsConfig::new();
        config = match &self.ca_certificate {
            Some(path) => config.ca_certificate(Certificate::from_pem(read(tls::read_certificates(path).await)?)),
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = self.client_certificate.as_deref().zip(self.client_key.as_deref()) {
            let (certificate, key) = (tls::read_certificates(certificate).await, tls::read_private_key(key).await);
            config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(config)
    }

    fn files(&self) -> [(&'static str, Option<&Path>); 3] {
        [
            ("--ca-certificate (TOGGLED_CA_CERTIFICATE)", self.ca_certificate.as_deref()),
            ("--client-certificate (TOGGLED_CLIENT_CERTIFICATE)", self.client_certificate.as_deref()),
            ("--client-key (TOGGLED_CLIENT_KEY)", self.client_key.as_deref()),
        ]
    }

    /// Files of which each is right by itself, or a system that trusts nobody.
    fn unusable(&self, error: &dyn std::error::Error) -> String {
        let given: Vec<_> = self.files().iter().filter_map(|(setting, file)| file.and(Some(*setting))).collect();
        let what = if given.is_empty() { "without --ca-certificate".to_owned() } else { given.join(", ") };
        format!("TLS is not possible with what there is ({what}): {}", super::failure::cause(error))
    }
}

fn read(file: Result<Vec<u8>, tls::TlsError>) -> Result<Vec<u8>, Failure> {
    file.map_err(|error| Failure::usage(error.to_string()))
}

/// `HOST:PORT` alone is http on this machine, where nobody can listen in, and https elsewhere.
fn address(text: &str) -> Result<Uri, String> {
    let rule = || "must be http://HOST:PORT, https://HOST:PORT or HOST:PORT".to_owned();
    let given: Uri =
        if text.contains("://") { text.parse() } else { format!("none://{text}/").parse() }.map_err(|_| rule())?;
    let authority = given.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(rule)?;
    let scheme = match given.scheme_str() {
        Some(scheme @ ("http" | "https")) => scheme,
        Some("none") if !text.contains("://") && authority.port().is_some() => {
            if is_here(authority.host()) {
                "http"
            } else {
                "https"
            }
        }
        _ => return Err(rule()),
    };
    if !matches!(given.path(), "" | "/") || given.query().is_some() || authority.host().is_empty() {
        return Err(rule());
    }
    format!("{scheme}://{authority}").parse().map_err(|_| rule())
}

fn is_here(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_alone_is_plain_on_this_machine_only() {
        for (text, uri) in [
            ("127.0.0.1:50051", "http://127.0.0.1:50051/"),
            ("localhost:1", "http://localhost:1/"),
            ("[::1]:50051", "http://[::1]:50051/"),
            ("flags.example.com:443", "https://flags.example.com:443/"),
            ("10.0.0.1:50051", "https://10.0.0.1:50051/"),
            ("http://flags.example.com:80", "http://flags.example.com:80/"),
            ("https://localhost:50051/", "https://localhost:50051/"),
            ("https://flags.example.com", "https://flags.example.com/"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), uri, "{text}");
        }
        for bad in [
            "",
            "localhost",
            ":50051",
            "ftp://a:1",
            "none://a:1",
            "http://",
            "http://a:1/b",
            "http://u:p@a:1",
            "a:1?b",
            "a b:1",
            "a:port",
        ] {
            assert!(address(bad).unwrap_err().starts_with("must be http://HOST:PORT"), "{bad}");
        }
    }
}
