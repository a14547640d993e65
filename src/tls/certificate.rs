//! Reads client certificates.

use std::fmt;
use std::io;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::domain::time::Timestamp;

/// The names and the expiry in a client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject alternative names. A name with a colon is a URI, such as `spiffe://...`. A name with an `@` and no colon is
    /// an email address. All others are DNS names.
    pub names: Vec<String>,
    /// When the certificate expires. The connection can last longer.
    pub expires_at: Timestamp,
}

impl ClientCertificate {
    /// Reads a certificate in DER. The handshake must have verified its issuer.
    pub(super) fn read(certificate: &[u8]) -> io::Result<Self> {
        let unreadable = |e: &dyn fmt::Display| io::Error::other(format!("cannot read the client's certificate: {e}"));
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|e| unreadable(&e))?;
        let alternative = certificate.subject_alternative_name().map_err(|e| unreadable(&e))?;
        let general = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let seconds = certificate.validity().not_after.timestamp();
        Ok(Self {
            names: general.filter_map(unambiguous_name).map(str::to_owned).collect(),
            expires_at: Timestamp::from_micros(seconds.saturating_mul(1_000_000)),
        })
    }
}

/// An alternative name as text. Returns `None` for names that could be mistaken for another kind or another name.
fn unambiguous_name<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    let (text, kind_is_clear) = match *name {
        GeneralName::URI(text) => (text, text.contains(':')),
        GeneralName::RFC822Name(text) => (text, text.contains('@') && !text.contains(':')),
        GeneralName::DNSName(text) => (text, !text.contains(['@', ':'])),
        _ => return None,
    };
    (kind_is_clear && !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        params.not_after = date_time_ymd(2031, 2, 3);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_expiry_are_read() {
        let read = ClientCertificate::read(&certificate(vec![
            SanType::URI("spiffe://example.com/checkout".try_into().unwrap()),
            SanType::DnsName("checkout.example.com".try_into().unwrap()),
            SanType::Rfc822Name("ann@example.com".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ]));
        let read = read.unwrap();
        assert_eq!(read.names, ["spiffe://example.com/checkout", "checkout.example.com", "ann@example.com"]);
        assert_eq!(read.expires_at.to_string(), "2031-02-03T00:00:00Z");
    }

    #[test]
    fn certificate_without_names_is_accepted() {
        assert_eq!(ClientCertificate::read(&certificate(Vec::new())).unwrap().names, Vec::<String>::new());
    }

    #[test]
    fn ambiguous_name_is_left_out() {
        let read = ClientCertificate::read(&certificate(vec![
            SanType::DnsName("spiffe://example.com/admin".try_into().unwrap()),
            SanType::DnsName("admin@example.com".try_into().unwrap()),
            SanType::Rfc822Name("spiffe://example.com/@admin".try_into().unwrap()),
            SanType::Rfc822Name("example.com".try_into().unwrap()),
            SanType::URI("admin@example.com".try_into().unwrap()),
            SanType::DnsName("two words".try_into().unwrap()),
            SanType::DnsName("".try_into().unwrap()),
        ]));
        assert_eq!(read.unwrap().names, Vec::<String>::new());
    }

    #[test]
    fn invalid_certificate_is_an_error() {
        assert!(ClientCertificate::read(b"").is_err());
        assert!(ClientCertificate::read(&certificate(Vec::new())[..100]).is_err());
    }
}
