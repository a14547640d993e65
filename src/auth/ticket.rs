//! Tickets for streams of events. A browser's `EventSource` sends no headers, so the address of its stream holds a ticket instead.
//!
//! A ticket names the caller's credential and an environment, under a MAC. Its key is stored in the database, so that every server can check
//! what another one issued; the tickets themselves are stored nowhere. A ticket is valid only while its credential is, and opens nothing
//! but the stream of events: it reads no flag.

use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::jwks::KeyFingerprint;
use crate::domain::access::{Credential, Identity, Permission, Permissions, Scope, ScopedPermission};
use crate::domain::text::{Email, EnvironmentKey};
use crate::domain::time::Timestamp;

/// The size of the key, in bytes.
pub const KEY_BYTES: usize = 32;

/// A ticket of one period expires at the end of the next one, in seconds. So it is the same text for all of a period, on every server.
const PERIOD_SECONDS: i64 = 24 * 60 * 60;

/// What the MAC covers before the text: it is for tickets of this form alone.
const CONTEXT: &[u8] = b"toggled event ticket 1\0";

/// The longest ticket, in bytes. Names of accounts at an issuer may be long, and proxies cut addresses.
const MAX_BYTES: usize = 2_048;

/// The address of every caller in a ticket. Addresses of people do not belong into addresses of streams, which proxies log. A ticket makes no
/// change, so nothing records this one.
const NO_EMAIL: &str = "ticket@toggled.invalid";

/// The key of all tickets.
pub struct TicketKey(hmac::Key);

/// The key, once it was read from the database.
pub type SharedTicketKey = Arc<OnceLock<TicketKey>>;

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The caller's credential.
    pub credential: Credential,
    /// The key that signed their single sign-on token, if they used one: the token is valid only while the issuer keeps it.
    pub signing_key: Option<KeyFingerprint>,
    /// The environment of the stream.
    pub environment: EnvironmentKey,
}

/// Why a ticket is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketRejection {
    /// It is no ticket of this service, or was altered.
    Forged,
    /// It has expired.
    Expired,
}

/// The text that the MAC covers.
#[derive(Serialize, Deserialize)]
struct Content {
    of: NamedCredential,
    environment: EnvironmentKey,
    /// In seconds.
    expires_at: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NamedCredential {
    Token(Uuid),
    SignOn {
        issuer: Arc<str>,
        subject: Arc<str>,
        /// Whether the token permits to view flags everywhere, or only in this environment. What else it permits is left out.
        everywhere: bool,
        /// In microseconds, as all times of credentials.
        expires_at: i64,
        key: KeyFingerprint,
    },
    Certificate {
        user_id: Uuid,
        expires_at: i64,
    },
}

impl TicketKey {
    /// The key with this secret.
    pub fn new(secret: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The ticket as a text for an address: the same one for some hours. `None` if it would be too long, or if a single sign-on has no
    /// signing key.
    pub fn seal(&self, ticket: &Ticket, now: Timestamp) -> Option<String> {
        let period = now.micros().div_euclid(1_000_000 * PERIOD_SECONDS);
        let content = Content {
            of: NamedCredential::of(ticket)?,
            environment: ticket.environment.clone(),
            expires_at: (period + 2) * PERIOD_SECONDS,
        };
        let content = serde_json::to_vec(&content).ok()?;
        let mac = hmac::sign(&self.0, &covered(&content));
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(content), URL_SAFE_NO_PAD.encode(mac));
        (text.len() <= MAX_BYTES).then_some(text)
    }

    /// What a ticket says. Its credential may have ended since.
    ///
    /// # Errors
    /// Why the ticket is refused.
    pub fn open(&self, text: &str, now: Timestamp) -> Result<Ticket, TicketRejection> {
        let decoded = || {
            let (content, mac) = text.split_once('.').filter(|_| text.len() <= MAX_BYTES)?;
            let (content, mac) = (URL_SAFE_NO_PAD.decode(content).ok()?, URL_SAFE_NO_PAD.decode(mac).ok()?);
            hmac::verify(&self.0, &covered(&content), &mac).ok()?;
            serde_json::from_slice::<Content>(&content).ok()
        };
        let Content { of, environment, expires_at } = decoded().ok_or(TicketRejection::Forged)?;
        if now.micros().div_euclid(1_000_000) >= expires_at {
            return Err(TicketRejection::Expired);
        }
        let (credential, signing_key) = of.credential(&environment).ok_or(TicketRejection::Forged)?;
        Ok(Ticket { credential, signing_key, environment })
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey(..)")
    }
}

fn covered(content: &[u8]) -> Vec<u8> {
    [CONTEXT, content].concat()
}

impl NamedCredential {
    fn of(ticket: &Ticket) -> Option<Self> {
        Some(match &ticket.credential {
            Credential::Token(id) => Self::Token(*id),
            Credential::SignOn(identity) => Self::SignOn {
                issuer: Arc::clone(&identity.issuer),
                subject: Arc::clone(&identity.subject),
                everywhere: identity.permissions.covers(Permission::ViewFeatureFlags, Scope::Everywhere),
                expires_at: identity.expires_at.micros(),
                key: ticket.signing_key.clone()?,
            },
            Credential::Certificate { user_id, expires_at } => {
                Self::Certificate { user_id: *user_id, expires_at: expires_at.micros() }
            }
        })
    }

    fn credential(self, environment: &EnvironmentKey) -> Option<(Credential, Option<KeyFingerprint>)> {
        Some(match self {
            Self::Token(id) => (Credential::Token(id), None),
            Self::SignOn { issuer, subject, everywhere, expires_at, key } => {
                let view = Permission::ViewFeatureFlags;
                let permissions: Permissions = match everywhere {
                    true => [view].into_iter().collect(),
                    false => ScopedPermission::in_environment(view, environment.clone()).ok().into_iter().collect(),
                };
                let email = Email::parse(NO_EMAIL).ok()?;
                let expires_at = Timestamp::from_micros(expires_at);
                let identity = Identity { issuer, subject, email, permissions, environment: None, expires_at };
                (Credential::SignOn(Arc::new(identity)), Some(key))
            }
            Self::Certificate { user_id, expires_at } => {
                (Credential::Certificate { user_id, expires_at: Timestamp::from_micros(expires_at) }, None)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_800_000_123_456_789;

    fn now() -> Timestamp {
        Timestamp::from_micros(NOW)
    }

    fn key(byte: u8) -> TicketKey {
        TicketKey::new(&[byte; KEY_BYTES])
    }

    fn environment() -> EnvironmentKey {
        EnvironmentKey::parse("staging").unwrap()
    }

    fn of_token() -> Ticket {
        Ticket { credential: Credential::Token(Uuid::from_u128(7)), signing_key: None, environment: environment() }
    }

    fn of_sign_on(permissions: &[&str], subject: &str) -> Ticket {
        let identity = Identity {
            issuer: "https://issuer.example.com".into(),
            subject: subject.into(),
            email: Email::parse(NO_EMAIL).unwrap(),
            permissions: permissions.iter().map(|name| ScopedPermission::parse(name).unwrap()).collect(),
            environment: None,
            expires_at: now().plus_seconds(600),
        };
        let signing_key = Some(KeyFingerprint::of(b"k", b"public"));
        Ticket { credential: Credential::SignOn(Arc::new(identity)), signing_key, environment: environment() }
    }

    #[test]
    fn ticket_says_what_was_sealed() {
        let certificate = Credential::Certificate { user_id: Uuid::from_u128(9), expires_at: now().plus_seconds(60) };
        for ticket in [
            of_token(),
            Ticket { credential: certificate, ..of_token() },
            of_sign_on(&["view_feature_flags"], "ann"),
            of_sign_on(&["view_feature_flags@staging"], "ann"),
        ] {
            let text = key(1).seal(&ticket, now()).unwrap();
            assert_eq!(key(1).open(&text, now()), Ok(ticket), "{text}");
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{text}");
        }
    }

    #[test]
    fn ticket_permits_only_to_view_its_environment() {
        let all = ["view_feature_flags@staging", "view_feature_flags@eu", "toggle_feature_flags", "manage_access"];
        let text = key(1).seal(&of_sign_on(&all, "ann"), now()).unwrap();
        assert_eq!(key(1).open(&text, now()), Ok(of_sign_on(&["view_feature_flags@staging"], "ann")));
    }

    #[test]
    fn long_ticket_is_not_issued() {
        assert_eq!(key(1).seal(&of_sign_on(&["view_feature_flags"], &"s".repeat(2_000)), now()), None);
        let unsigned = Ticket { signing_key: None, ..of_sign_on(&["view_feature_flags"], "ann") };
        assert_eq!(key(1).seal(&unsigned, now()), None);
    }

    #[test]
    fn ticket_stays_the_same_for_a_period_and_expires() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let seal = |seconds| key(1).seal(&of_token(), at(seconds)).unwrap();
        let begin = 20_000 * PERIOD_SECONDS;
        let text = seal(begin);
        assert_eq!(text, seal(begin + PERIOD_SECONDS - 1));
        assert_ne!(text, seal(begin + PERIOD_SECONDS));
        let open = |seconds| key(1).open(&text, at(seconds));
        assert_eq!(open(begin + 2 * PERIOD_SECONDS - 1), Ok(of_token()));
        assert_eq!(open(begin + 2 * PERIOD_SECONDS), Err(TicketRejection::Expired));
    }

    #[test]
    fn altered_ticket_is_forged() {
        let text = key(1).seal(&of_token(), now()).unwrap();
        let forged = Err(TicketRejection::Forged);
        assert_eq!(key(2).open(&text, now()), forged, "another key");
        let (content, mac) = text.split_once('.').unwrap();
        let other =
            key(1).seal(&Ticket { environment: EnvironmentKey::default_environment().clone(), ..of_token() }, now());
        let (other, _) = other.as_deref().and_then(|other| other.split_once('.')).unwrap();
        let texts = [
            String::new(),
            ".".to_owned(),
            content.to_owned(),
            format!("{content}."),
            format!(".{mac}"),
            format!("{other}.{mac}"),
            format!("{content}.{}", &mac[..22]),
            format!("{text}A"),
            format!("{text}={}", "x".repeat(MAX_BYTES)),
        ];
        for text in texts {
            assert_eq!(key(1).open(&text, now()), forged, "{text}");
        }
        // A MAC of the same key over anything else.
        let mac = hmac::sign(&key(1).0, &URL_SAFE_NO_PAD.decode(content).unwrap());
        assert_eq!(key(1).open(&format!("{content}.{}", URL_SAFE_NO_PAD.encode(mac)), now()), forged);
    }

    proptest! {
        #[test]
        fn any_text_is_refused(text in ".{0,200}", flipped in any::<prop::sample::Index>()) {
            prop_assert_eq!(key(1).open(&text, now()), Err(TicketRejection::Forged));
            let mut sealed = key(1).seal(&of_token(), now()).unwrap().into_bytes();
            let position = flipped.index(sealed.len());
            sealed[position] = if sealed[position] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(sealed).unwrap();
            // The last digits of base64 may have unused bits.
            let opened = key(1).open(&altered, now());
            prop_assert_eq!(opened, Err(TicketRejection::Forged));
        }
    }
}
