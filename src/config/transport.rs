//! The settings of what connections are protected by.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::domain::text::Email;
use crate::tls::Files;

/// How connections are protected.
#[derive(Debug, Clone, Args)]
pub struct Transport {
    /// The server's certificate (PEM), followed by those that vouch for it; with it, only TLS is spoken. This file
    /// and the next two are read again when they change
    #[arg(long, value_name = "FILE", env = "TOGGLED_TLS_CERTIFICATE")]
    tls_certificate: Option<PathBuf>,
    /// The key of the certificate (PEM)
    #[arg(long, value_name = "FILE", env = "TOGGLED_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// The certificates of those who may vouch for clients (PEM); every client must then show a certificate of theirs
    #[arg(long, value_name = "FILE", env = "TOGGLED_CLIENT_CA")]
    client_ca: Option<PathBuf>,
    /// Take a client whose certificate has this alternative name (URI, DNS name or e-mail address) for this user, unless it
    /// sends a token; repeat it, or separate several in the environment by semicolons
    #[arg(long, value_name = "NAME=EMAIL", env = "TOGGLED_CLIENT_CERTIFICATE_USER", value_delimiter = ';')]
    client_certificate_user: Vec<String>,
    /// Listen without TLS on an address that is not a loopback one, where tokens can be read on the way
    #[arg(long, env = "TOGGLED_ALLOW_PLAINTEXT", value_parser = BoolishValueParser::new())]
    allow_plaintext: bool,
}

impl Transport {
    /// The files that TLS needs, if it is to be spoken.
    ///
    /// # Errors
    /// A line for a person: something is missing.
    pub fn tls(&self, listen: SocketAddr) -> Result<Option<Files>, String> {
        let Transport { tls_certificate, tls_key, client_ca, client_certificate_user, allow_plaintext } = self.clone();
        if client_ca.is_none() && !client_certificate_user.is_empty() {
            return Err("--client-certificate-user (TOGGLED_CLIENT_CERTIFICATE_USER) needs --client-ca".into());
        }
        match (tls_certificate, tls_key) {
            (Some(certificate), Some(key)) => Ok(Some(Files { certificate, key, client_ca })),
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
                "--listen (TOGGLED_LISTEN) {} without TLS would show tokens to everybody on the way: give \
                 --tls-certificate and --tls-key, or --allow-plaintext (TOGGLED_ALLOW_PLAINTEXT=true)",
                listen
            )),
        }
    }

    /// Whom clients are taken for, by an alternative name of their certificate.
    ///
    /// # Errors
    /// A line for a person.
    pub fn certificate_users(&self) -> Result<HashMap<String, Email>, String> {
        let mut users = HashMap::new();
        // A list in the environment may end in its separator.
        for setting in self.client_certificate_user.iter().filter(|setting| !setting.trim().is_empty()) {
            let named = |rule: String| format!("--client-certificate-user (TOGGLED_CLIENT_CERTIFICATE_USER) {rule}");
            let (name, email) = certificate_user(setting).map_err(named)?;
            if users.insert(name.clone(), email.clone()).is_some_and(|other| other != email) {
                return Err(named(format!("gives {name} to two users")));
            }
        }
        Ok(users)
    }
}

fn certificate_user(text: &str) -> Result<(String, Email), String> {
    // The last one: a URI may hold others.
    let (name, email) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or("must be NAME=EMAIL")?;
    let email = Email::parse(email.trim()).map_err(|rule| format!("the address {rule}"))?;
    Ok((name.trim().to_owned(), email))
}
