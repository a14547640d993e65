//! Validated strings: parsed once, at the edge.
//!
//! All are shared (`Arc<str>`), since each change copies its object. None contains U+0000, which PostgreSQL cannot
//! store.

mod address;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use address::{BOOTSTRAP_ACTOR, FIRST_ADMINISTRATOR, UNNAMED_SIGN_ON};

/// The rule that a text breaks, for the caller: "must be ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a text.
            ///
            /// # Errors
            /// [`Malformed`], with the rule that the text breaks.
            pub fn parse(text: &str) -> Result<Self, Malformed> {
                let parse: fn(&str) -> Result<Arc<str>, Malformed> = $parse;
                parse(text).map(Self)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, shared.
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(D::Error::custom)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(
    /// A flag's key: 1 to 128 characters, an ASCII letter or digit first, then those or `.`, `_`, `-`. Case-sensitive.
    FlagKey,
    |text| {
        let head = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        let tail = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if head && tail && text.len() <= 128 {
            Ok(text.into())
        } else {
            Err(Malformed("must be 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or digit"))
        }
    }
);

text!(
    /// An environment's key: 1 to 64 characters, an ASCII letter in lower case or a digit first, then those or `-`. So `-` alone is
    /// no key, and can stand for every environment.
    EnvironmentKey,
    |text| {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let head = text.bytes().next().is_some_and(is_plain);
        if head && text.bytes().all(|byte| is_plain(byte) || byte == b'-') && text.len() <= 64 {
            Ok(text.into())
        } else {
            Err(Malformed("must be 1 to 64 of a-z, 0-9 and '-', the first a letter or digit"))
        }
    }
);

text!(
    /// The name of a flag, environment or token: 1 to 255 characters.
    Name,
    |text| sized(text, 1, 255, "must be 1 to 255 characters, none of them U+0000")
);

text!(
    /// The description of a flag or environment: at most 2,000 characters.
    Description,
    |text| sized(text, 0, 2_000, "must be at most 2,000 characters, none of them U+0000")
);

text!(
    /// The reason for a change: 1 to 2,000 characters. A missing reason is `None`, never an empty text, since the hash
    /// of an entry cannot tell them apart.
    Reason,
    |text| sized(text, 1, 2_000, "must be at most 2,000 characters, none of them U+0000")
);

text!(
    /// The idempotency key of a request: 1 to 128 characters.
    RequestId,
    |text| sized(text, 1, 128, "must be 1 to 128 characters, none of them U+0000")
);

text!(
    /// A user's e-mail address: `name@host`, at most 254 characters. Letters beyond ASCII do not imitate an ASCII address, and
    /// it does not look like one of the service's own names. ASCII letters are converted to lower case.
    Email,
    |text| address::parse(text).map(Into::into)
);

impl EnvironmentKey {
    /// `default`, the key of the environment that the first start creates. A read that names no environment is about it.
    pub fn default_environment() -> &'static Self {
        static DEFAULT: LazyLock<EnvironmentKey> = LazyLock::new(|| EnvironmentKey("default".into()));
        &DEFAULT
    }

    /// Whether both are one text in memory.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Email {
    /// An address that was accepted before. The rules of [`Email::parse`] may be stricter since then, as Unicode's tables
    /// grow, and its user must stay readable.
    pub fn stored(text: &str) -> Self {
        Self(text.into())
    }
}

fn sized(text: &str, least: usize, most: usize, rule: &'static str) -> Result<Arc<str>, Malformed> {
    // Counting characters walks the text: a text that is too long in bytes is refused first.
    let fits = text.len() <= most * 4 && (least..=most).contains(&text.chars().count());
    if fits && !text.contains('\0') { Ok(shared(text)) } else { Err(Malformed(rule)) }
}

/// The text, shared. All empty texts are one, since most flags have no description.
fn shared(text: &str) -> Arc<str> {
    static EMPTY: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
    if text.is_empty() { Arc::clone(&EMPTY) } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn key_allows_letters_digits_and_three_marks() {
        for good in ["a", "7", "checkout", "Check.out_v-2", &"k".repeat(128)] {
            assert_eq!(FlagKey::parse(good).unwrap().as_str(), good);
        }
        let bad = ["", ".a", "_a", "-a", "a b", "a/b", "ä", "a\0", "'; DROP TABLE audit_logs; --", &"k".repeat(129)];
        for bad in bad {
            assert!(FlagKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn environment_key_allows_lower_case_digits_and_dash() {
        for good in ["a", "7", "production", "eu-1", "a--", &"k".repeat(64)] {
            assert_eq!(EnvironmentKey::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "-", "-a", "Staging", "a_b", "a.b", "a b", "ä", "a@b", "a\0", &"k".repeat(65)] {
            assert!(EnvironmentKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn length_limits_count_characters() {
        assert!(Name::parse(&"ä".repeat(255)).is_ok());
        assert!(Name::parse(&"ä".repeat(256)).is_err());
        assert!(Name::parse("").is_err());
        assert!(Description::parse("").is_ok());
        assert!(Reason::parse(&"🦀".repeat(2_000)).is_ok());
        assert!(Reason::parse(&"r".repeat(2_001)).is_err());
        assert!(RequestId::parse("").is_err());
        assert!(Reason::parse("nul\0nul").is_err());
    }

    #[test]
    fn email_is_lower_cased_and_not_reserved() {
        assert_eq!(Email::parse("Ann@Example.COM").unwrap().as_str(), "ann@example.com");
        for bad in ["", "ann", "@host", "ann@", "a@b@c", "a b@c", "a\u{a0}b@c", "CLI@host", "bootstrap@localhost"] {
            assert!(Email::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn key_parses_exactly_when_it_matches_pattern(text in "\\PC{0,140}") {
            let body = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            let pattern = text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(body)
                && text.len() <= 128;
            prop_assert_eq!(FlagKey::parse(&text).is_ok(), pattern);
        }
    }
}
