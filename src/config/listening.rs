//! The settings of the address that the server listens on, and of TLS there.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use http::HeaderValue;
use url::Url;

use crate::domain::text::Email;
use crate::tls::TlsFiles;

/// Where the server listens, and how connections are protected.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenerOptions {
    /// The address of the gRPC and OFREP services: IP:PORT, PORT or localhost:PORT for this machine alone, :PORT for all IPv4
    /// addresses. Port 0 takes a free port; the address is printed at start
    #[arg(long, value_name = "ADDRESS", env = "TOGGLED_LISTEN", default_value = "127.0.0.1:50051", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// The server's certificate chain (PEM). With it, the server speaks TLS only. The files of --tls-certificate, --tls-key
    /// and --client-ca are read again when they change
    #[arg(long, value_name = "FILE", env = "TOGGLED_TLS_CERTIFICATE")]
    tls_certificate: Option<PathBuf>,
    /// The private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", env = "TOGGLED_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// CA certificates for client certificates (PEM). With it, every client must present a certificate that one of these CAs
    /// has issued
    #[arg(long, value_name = "FILE", env = "TOGGLED_CLIENT_CA")]
    client_ca: Option<PathBuf>,
    /// Authenticate a client as this user if its certificate has this subject alternative name (SAN: a URI, DNS name
    /// or e-mail address) and the call has no token. Repeat it, or separate several by semicolons
    #[arg(long, value_name = "NAME=EMAIL", env = "TOGGLED_CLIENT_CERTIFICATE_USER", value_delimiter = ';')]
    client_certificate_user: Vec<String>,
    /// Let pages of this origin, such as https://flags.example.com, call this server from a browser (CORS), by Connect, gRPC-Web and
    /// OFREP. They need a token like any caller. Repeat it, or separate several by semicolons
    #[arg(long, value_name = "ORIGIN", env = "TOGGLED_CORS_ORIGIN", value_delimiter = ';', value_parser = origin)]
    pub cors_origin: Vec<HeaderValue>,
    /// Allow listening without TLS on an address that is not a loopback address. The network can then read tokens
    #[arg(long, env = "TOGGLED_ALLOW_PLAINTEXT", value_parser = BoolishValueParser::new())]
    allow_plaintext: bool,
}

impl ListenerOptions {
    /// The files of TLS; `None` for plaintext.
    ///
    /// # Errors
    /// The option that is missing, in one line.
    pub fn tls_files(&self) -> Result<Option<TlsFiles>, String> {
        let Self { listen, tls_certificate, tls_key, client_ca, client_certificate_user, allow_plaintext, .. } =
            self.clone();
        if client_ca.is_none() && !client_certificate_user.is_empty() {
            return Err("--client-certificate-user (TOGGLED_CLIENT_CERTIFICATE_USER) needs --client-ca".into());
        }
        match (tls_certificate, tls_key) {
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key, client_ca })),
            (Some(_), None) => {
                Err("--tls-certificate (TOGGLED_TLS_CERTIFICATE) needs --tls-key (TOGGLED_TLS_KEY)".into())
            }
            (None, Some(_)) => {
                Err("--tls-key (TOGGLED_TLS_KEY) needs --tls-certificate (TOGGLED_TLS_CERTIFICATE)".into())
            }
            (None, None) if client_ca.is_some() => {
                Err("--client-ca (TOGGLED_CLIENT_CA) needs --tls-certificate and --tls-key".into())
            }
            (None, None) if allow_plaintext || listen.ip().to_canonical().is_loopback() => Ok(None),
            (None, None) => Err(format!(
                "--listen (TOGGLED_LISTEN) {listen} without TLS would send tokens in the clear: give --tls-certificate \
                 and --tls-key, or --allow-plaintext (TOGGLED_ALLOW_PLAINTEXT=true)"
            )),
        }
    }

    /// The users of client certificates, by an alternative name of the certificate.
    ///
    /// # Errors
    /// The rule that the option breaks, in one line.
    pub fn certificate_users(&self) -> Result<HashMap<String, Email>, String> {
        let mut users = HashMap::new();
        // A list in the environment may end in a semicolon.
        for setting in self.client_certificate_user.iter().filter(|setting| !setting.trim().is_empty()) {
            let named = |rule: String| format!("--client-certificate-user (TOGGLED_CLIENT_CERTIFICATE_USER) {rule}");
            let (name, email) = certificate_user(setting).map_err(named)?;
            if users.insert(name.clone(), email.clone()).is_some_and(|other| other != email) {
                return Err(named(format!("maps {name} to two users")));
            }
        }
        Ok(users)
    }
}

/// An address to listen on. A name is not resolved, except `localhost`: which addresses a name has may change.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    const RULE: &str = "must be IP:PORT such as 127.0.0.1:50051, or PORT, :PORT or localhost:PORT";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = match text.rsplit_once(':') {
        None => (Ipv4Addr::LOCALHOST, text),
        Some(("", port)) => (Ipv4Addr::UNSPECIFIED, port),
        Some((host, port)) if host.eq_ignore_ascii_case("localhost") => (Ipv4Addr::LOCALHOST, port),
        Some(_) => return Err(RULE.to_owned()),
    };
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_number).ok_or(RULE)?;
    Ok(SocketAddr::from((host, port)))
}

/// An origin as browsers write it.
fn origin(text: &str) -> Result<HeaderValue, String> {
    const RULE: &str =
        "must be an origin: http:// or https://, a host, and the port unless it is the scheme's own, without a path";
    let written = Url::parse(text.trim()).map_err(|_| RULE)?.origin().ascii_serialization();
    HeaderValue::try_from(text.trim()).ok().filter(|_| written == text.trim()).ok_or_else(|| RULE.to_owned())
}

fn certificate_user(text: &str) -> Result<(String, Email), String> {
    // The last `=` splits: a URI may hold others.
    let (name, email) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or("must be NAME=EMAIL")?;
    let email = Email::parse(email.trim()).map_err(|rule| format!("the address {rule}"))?;
    Ok((name.trim().to_owned(), email))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on_have_short_forms() {
        for (text, address) in [
            ("127.0.0.1:50051", "127.0.0.1:50051"),
            ("[::1]:0", "[::1]:0"),
            ("50051", "127.0.0.1:50051"),
            ("localhost:50051", "127.0.0.1:50051"),
            (":50051", "0.0.0.0:50051"),
        ] {
            assert_eq!(listen_address(text), Ok(address.parse().unwrap()), "{text}");
        }
        for text in
            ["", ":", "127.0.0.1", "::1", "example.com:50051", "65536", "+1", "localhost:+1", "localhost", "a:1"]
        {
            assert!(listen_address(text).is_err(), "{text}");
        }
    }
}
