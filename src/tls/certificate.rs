//! What a client's certificate says.

use std::fmt;
use std::io;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::domain::time::Timestamp;

/// What a client's certificate says of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whom it was issued to: its alternative names. A URI is the one that holds a colon, as in `spiffe://...`, an e-mail
    /// address the one that holds an `@` and no colon; the others are DNS names.
    pub names: Vec<String>,
    /// When it expires. The connection may last longer.
    pub expires_at: Timestamp,
}

impl ClientCertificate {
    /// Reads a certificate whose issuer has been checked.
    pub(super) fn read(certificate: &[u8]) -> io::Result<Self> {
        let unreadable = |e: &dyn fmt::Display| io::Error::other(format!("the client's certificate: {e}"));
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|e| unreadable(&e))?;
        let alternative = certificate.subject_alternative_name().map_err(|e| unreadable(&e))?;
        let general = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let seconds = certificate.validity().not_after.timestamp();
        Ok(Self {
            names: general.filter_map(plain).map(str::to_owned).collect(),
            expires_at: Timestamp::from_micros(seconds.saturating_mul(1_000_000)),
        })
    }
}

/// An alternative name as text. One that could be taken for a name of another kind, or be read as something else than it
/// is, is left out.
fn plain<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    let (text, right) = match *name {
        GeneralName::URI(text) => (text, text.contains(':')),
        GeneralName::RFC822Name(text) => (text, text.contains('@') && !text.contains(':')),
        GeneralName::DNSName(text) => (text, !text.contains(['@', ':'])),
        _ => return None,
    };
    (right && !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then_some(text)
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
    fn a_certificate_may_have_no_names() {
        assert_eq!(ClientCertificate::read(&certificate(Vec::new())).unwrap().names, Vec::<String>::new());
    }

    #[test]
    fn a_name_does_not_pass_for_one_of_another_kind() {
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
    fn what_is_no_certificate_is_an_error() {
        assert!(ClientCertificate::read(b"").is_err());
        assert!(ClientCertificate::read(&certificate(Vec::new())[..100]).is_err());
    }
}
