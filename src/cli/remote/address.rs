//! The server's address, and the TLS settings for it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http::Uri;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::plain::OtherProtocol;
use crate::cli::Failure;
use crate::tls;

/// How long a connection with an open call may be silent before a ping is sent.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// How long the answer to a ping may take before the connection counts as lost.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Options for the server's address and TLS.
#[derive(Args)]
pub(in crate::cli) struct ServerAddress {
    /// The server's address: http://HOST:PORT, https://HOST:PORT, or HOST:PORT, which means http for this machine and
    /// https for any other
    #[arg(long, value_name = "ADDRESS", env = "TOGGLED_ADDR", default_value = "127.0.0.1:50051", value_parser = parse_address)]
    addr: Uri,
    /// The CA certificates to verify the server with (PEM); by default those of the system
    #[arg(long, value_name = "FILE", env = "TOGGLED_CA_CERTIFICATE")]
    ca_certificate: Option<PathBuf>,
    /// The client certificate, for a server that demands one (PEM)
    #[arg(long, value_name = "FILE", env = "TOGGLED_CLIENT_CERTIFICATE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// The key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", env = "TOGGLED_CLIENT_KEY", requires = "client_certificate")]
    client_key: Option<PathBuf>,
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.addr.to_string().trim_end_matches('/'))
    }
}

impl ServerAddress {
    /// A channel to the server, which connects with its first call. Without TLS, it records if the server speaks another protocol.
    pub(super) async fn channel(
        &self,
        connect_timeout: Duration,
        other_protocol: &OtherProtocol,
    ) -> Result<Channel, Failure> {
        let endpoint = Endpoint::from(self.addr.clone())
            .user_agent(concat!("toggled/", env!("CARGO_PKG_VERSION")))?
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        if self.is_tls() {
            let tls = self.tls_config().await?.timeout(connect_timeout);
            let endpoint = endpoint.connect_timeout(connect_timeout).tls_config(tls);
            return Ok(endpoint.map_err(|error| Failure::usage(self.tls_error(&error)))?.connect_lazy());
        }
        if let Some((setting, _)) = self.tls_files().into_iter().find(|(_, file)| file.is_some()) {
            // A caller who gives a certificate expects TLS: without it the token would be sent in plain text.
            return Err(Failure::usage(format!("{setting} needs https, but --addr (TOGGLED_ADDR) is {self}")));
        }
        Ok(endpoint.connect_with_connector_lazy(other_protocol.connector(connect_timeout)))
    }

    /// What to try if the server closes every connection. A TLS error on its side looks like this from here.
    pub fn connection_lost_hint(&self) -> &'static str {
        if !self.is_tls() {
            "; if the server uses TLS, use https:// instead of http://"
        } else if self.client_certificate.is_none() {
            "; if the server demands a client certificate, pass --client-certificate and --client-key"
        } else {
            ""
        }
    }

    fn is_tls(&self) -> bool {
        self.addr.scheme_str() == Some("https")
    }

    async fn tls_config(&self) -> Result<ClientTlsConfig, Failure> {
        let mut config = ClientTlsConfig::new();
        config = match &self.ca_certificate {
            Some(path) => config.ca_certificate(Certificate::from_pem(usable(tls::read_certificates(path).await)?)),
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = self.client_certificate.as_deref().zip(self.client_key.as_deref()) {
            let (certificate, key) = (tls::read_certificates(certificate).await, tls::read_private_key(key).await);
            config = config.identity(Identity::from_pem(usable(certificate)?, usable(key)?));
        }
        Ok(config)
    }

    fn tls_files(&self) -> [(&'static str, Option<&Path>); 3] {
        [
            ("--ca-certificate (TOGGLED_CA_CERTIFICATE)", self.ca_certificate.as_deref()),
            ("--client-certificate (TOGGLED_CLIENT_CERTIFICATE)", self.client_certificate.as_deref()),
            ("--client-key (TOGGLED_CLIENT_KEY)", self.client_key.as_deref()),
        ]
    }

    /// The message if TLS cannot be set up although each file is valid by itself (a key does not match its certificate, for example), or
    /// if the system has no CA certificates.
    fn tls_error(&self, error: &dyn std::error::Error) -> String {
        let given: Vec<_> = self.tls_files().iter().filter_map(|(setting, file)| file.and(Some(*setting))).collect();
        let settings = if given.is_empty() { "without --ca-certificate".to_owned() } else { given.join(", ") };
        format!("cannot set up TLS ({settings}): {}", super::failure::root_cause(error))
    }
}

/// The content of a file. A file that cannot be used is a usage error.
fn usable(file: Result<Vec<u8>, tls::TlsError>) -> Result<Vec<u8>, Failure> {
    file.map_err(|error| Failure::usage(error.to_string()))
}

/// Parses an address. `HOST:PORT` means http for this machine, where the connection cannot be intercepted, and https for
/// any other.
fn parse_address(text: &str) -> Result<Uri, String> {
    let invalid = || "must be http://HOST:PORT, https://HOST:PORT or HOST:PORT".to_owned();
    let given: Uri =
        if text.contains("://") { text.parse() } else { format!("none://{text}/").parse() }.map_err(|_| invalid())?;
    let authority = given.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(invalid)?;
    let scheme =
        match given.scheme_str() {
            Some(scheme @ ("http" | "https")) => scheme,
            Some("none") if !text.contains("://") && authority.port().is_some() => {
                if is_this_machine(authority.host()) { "http" } else { "https" }
            }
            _ => return Err(invalid()),
        };
    if !matches!(given.path(), "" | "/") || given.query().is_some() || authority.host().is_empty() {
        return Err(invalid());
    }
    format!("{scheme}://{authority}").parse().map_err(|_| invalid())
}

fn is_this_machine(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_without_scheme_is_plain_on_loopback() {
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
            assert_eq!(parse_address(text).unwrap().to_string(), uri, "{text}");
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
            assert!(parse_address(bad).unwrap_err().starts_with("must be http://HOST:PORT"), "{bad}");
        }
    }
}
