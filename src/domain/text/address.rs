//! The rules of e-mail addresses. An address identifies a person in the audit log. So one with letters beyond ASCII must not
//! look like an ASCII address, and none may look like one of the service's own names.
//!
//! Only `A` to `Z` are converted to lower case. ASCII follows RFC 5322's dot-atom before the `@`, and RFC 1123's host names after
//! it; quoted names and address literals are not accepted. Everything beyond ASCII follows UTS #39, Unicode's rules for
//! identifiers, by the tables of `unicode-security`.

use unicode_normalization::char::is_combining_mark;
use unicode_normalization::is_nfc;
use unicode_security::{GeneralSecurityProfile, MixedScript, skeleton};

use super::Malformed;

/// The e-mail address of the first administrator.
pub const FIRST_ADMINISTRATOR: &str = "admin@localhost";

/// The name in the audit log of a server that creates the first administrator.
pub const BOOTSTRAP_ACTOR: &str = "bootstrap@localhost";

/// The name in the audit log of a single sign-on caller who has no user, and whose token has the address of another user.
pub const UNNAMED_SIGN_ON: &str = "sign-on@localhost";

/// What stands before the `@` in the service's names in the audit log: of its offline commands, its first start, and
/// [`UNNAMED_SIGN_ON`].
const RESERVED_NAMES: [&str; 3] = ["cli", "bootstrap", "sign-on"];

/// The longest address, in characters.
const MAX_CHARACTERS: usize = 254;

/// The longest part of a host between two dots, in characters.
const MAX_LABEL: usize = 63;

/// The ASCII characters before the `@`, beside letters, digits and dots.
const NAME_MARKS: &str = "!#$%&'*+-/=?^_`{|}~";

const SHAPE: Malformed = Malformed("must be an e-mail address (name@host) of at most 254 characters, without spaces");
const NAME: Malformed =
    Malformed("must have only letters, digits and !#$%&'*+-/=?^_`{|}~ before the @, and single dots between them");
const HOST: Malformed = Malformed(
    "must have a host name after the @: parts of 1 to 63 letters, digits and inner hyphens, with single dots between them and \
     none at the end",
);
const MARKS: Malformed = Malformed(
    "must not have a combining mark (an accent) without a letter before it, nor a combining dot above (U+0307), which is \
     invisible above an i",
);
const RESERVED: Malformed = Malformed(
    "must not begin with 'cli@', 'bootstrap@' or 'sign-on@', or look as if it did (as 'c1i@' does): the service keeps these for its own \
     entries",
);
const LIKE_ADMINISTRATOR: Malformed = Malformed("must not look like 'admin@localhost'");
const CHARACTERS: Malformed = Malformed(
    "must not have invisible, decomposed or compatibility characters: beyond ASCII, use only letters, marks and digits that \
     Unicode recommends for identifiers (UTS #39), in normal form C; type the address anew, with accented letters as one character",
);
const MIXED_SCRIPTS: Malformed = Malformed(
    "must not mix scripts, such as Latin and Cyrillic letters, in the name (before the @) or in one part of the host \
     (between two dots)",
);
const LIKE_ASCII: Malformed = Malformed(
    "must not have a name (before the @) or a part of the host (between two dots) in which each non-ASCII letter looks like an \
     ASCII character, as in a Cyrillic word that reads like a Latin one",
);

/// Checks an address, and converts its ASCII letters to lower case.
pub(super) fn parse(text: &str) -> Result<String, Malformed> {
    // Counting characters walks the text: a text that is too long in bytes is refused first.
    if text.len() > MAX_CHARACTERS * 4 || text.chars().count() > MAX_CHARACTERS {
        return Err(SHAPE);
    }
    let address = text.to_ascii_lowercase();
    let Some((name, host)) = address.split_once('@') else { return Err(SHAPE) };
    if name.is_empty() || host.is_empty() || host.contains('@') || address.contains(char::is_whitespace) {
        return Err(SHAPE);
    }
    if !address.chars().all(is_recommended) || !is_nfc(&address) {
        return Err(CHARACTERS);
    }
    if !name.split('.').all(|part| is_part(part, NAME_MARKS)) {
        return Err(NAME);
    }
    if !host.split('.').all(is_host_part) {
        return Err(HOST);
    }
    if has_hidden_mark(&address) {
        return Err(MARKS);
    }
    for part in host.split('.').chain([name]).filter(|part| !part.is_ascii()) {
        if !part.is_single_script() {
            return Err(MIXED_SCRIPTS);
        }
        if part.chars().filter(|c| !c.is_ascii()).all(is_like_ascii) {
            return Err(LIKE_ASCII);
        }
    }
    if RESERVED_NAMES.iter().any(|reserved| look_alike(name, reserved)) {
        return Err(RESERVED);
    }
    if look_alike(&address, FIRST_ADMINISTRATOR) && address != FIRST_ADMINISTRATOR {
        return Err(LIKE_ADMINISTRATOR);
    }
    Ok(address)
}

/// Whether a character is printable ASCII, or recommended for identifiers. Control, format, default-ignorable, private,
/// unassigned and compatibility characters are not.
fn is_recommended(c: char) -> bool {
    c.is_ascii_graphic() || (!c.is_ascii() && c.identifier_allowed())
}

/// Whether what stands between two dots is not empty, and holds of ASCII only letters, digits and `marks`.
fn is_part(part: &str, marks: &str) -> bool {
    !part.is_empty() && part.chars().all(|c| !c.is_ascii() || c.is_ascii_alphanumeric() || marks.contains(c))
}

fn is_host_part(part: &str) -> bool {
    is_part(part, "-") && !part.starts_with('-') && !part.ends_with('-') && part.chars().count() <= MAX_LABEL
}

/// Whether a combining mark may print like nothing: over a character that is no letter, or as the dot that `i` and `j` have
/// already. In normal form C, no other letter of a living language needs that dot as a character of its own.
fn has_hidden_mark(address: &str) -> bool {
    let mut previous = None;
    address.chars().any(|c| {
        let base = previous.replace(c);
        c == '\u{307}'
            || (is_combining_mark(c) && !base.is_some_and(|base| base.is_alphabetic() || is_combining_mark(base)))
    })
}

/// Whether a character looks like one in ASCII. `æ` looks like two, and is not mistaken for them.
fn is_like_ascii(c: char) -> bool {
    let text = c.to_string();
    let mut like = skeleton(&text);
    like.next().is_some_and(|c| c.is_ascii()) && like.next().is_none()
}

/// Whether two texts print alike: `c1i` and `cli`, for example.
fn look_alike(one: &str, other: &str) -> bool {
    skeleton(one).eq(skeleton(other))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::visible::is_hidden;

    #[test]
    fn address_may_be_of_any_script() {
        for good in [
            "ann@example.com",
            "o'neill+a_b.c=d/1@x-y.example",
            "jörg.müller@bücher.example",
            "søren@æble.dk",
            "иван@пример.рф",
            "иван@example.com",
            "почта.иван-2@mail.пример.com",
            "用户@例子.广告",
            "すずきタロウ鈴木@例え.jp",
            "김철수@예시.kr",
            "उदाहरण@उदाहरण.भारत",
            "νίκος@παράδειγμα.ελ",
            "דוגמה@example.co.il",
            "مثال@example.com",
            "admin@localhost",
            "client@example.com",
            "bootstrap-admin@example.com",
        ] {
            assert_eq!(parse(good).as_deref(), Ok(good));
        }
        assert_eq!(parse("Ann.ÄPFEL@Example.COM").as_deref(), Ok("ann.Äpfel@example.com"), "only ASCII is folded");
    }

    #[test]
    fn addresses_that_look_like_others_are_refused() {
        for (bad, rule) in [
            ("\u{212a}im@example.com", CHARACTERS),   // the Kelvin sign
            ("\u{ff41}nn@example.com", CHARACTERS),   // fullwidth
            ("a\u{200b}nn@example.com", CHARACTERS),  // zero-width space
            ("a\u{200d}nn@example.com", CHARACTERS),  // zero-width joiner
            ("ann\u{ad}@example.com", CHARACTERS),    // soft hyphen
            ("ann@\u{202e}moc.elpmaxe", CHARACTERS),  // right-to-left override
            ("ann\u{fe0f}@example.com", CHARACTERS),  // variation selector
            ("ann\u{3164}@example.com", CHARACTERS),  // Hangul filler
            ("ann\u{34f}@example.com", CHARACTERS),   // combining grapheme joiner
            ("ann\u{e0061}@example.com", CHARACTERS), // tag
            ("ann\u{1b}@example.com", CHARACTERS),    // escape
            ("ann\0@example.com", CHARACTERS),
            ("ann\u{85}@example.com", SHAPE),        // next line
            ("ann\u{e000}@example.com", CHARACTERS), // private use
            ("ann😀@example.com", CHARACTERS),
            ("jo\u{308}rg@example.com", CHARACTERS), // decomposed
            ("аnn@example.com", MIXED_SCRIPTS),      // Cyrillic а
            ("ann@exаmple.com", MIXED_SCRIPTS),
            ("аdmin@localhost", MIXED_SCRIPTS),
            ("bοοtstrap@localhost", MIXED_SCRIPTS), // Greek ο
            ("оса@example.com", LIKE_ASCII),        // wholly Cyrillic
            ("ann@сос.com", LIKE_ASCII),
            ("сӏі@host", LIKE_ASCII),
            ("clı@host", LIKE_ASCII), // dotless ı, which is Latin
            ("admın@localhost", LIKE_ASCII),
            ("cli@host", RESERVED),
            ("CLI@anywhere", RESERVED),
            ("c1i@host", RESERVED),
            ("c|i@host", RESERVED),
            ("bootstrap@localhost", RESERVED),
            ("sign-on@localhost", RESERVED),
            ("adrnin@localhost", LIKE_ADMINISTRATOR),
            ("admin@1ocalhost", LIKE_ADMINISTRATOR),
        ] {
            assert_eq!(parse(bad), Err(rule), "{bad:?}");
        }
    }

    #[test]
    fn combining_mark_that_hides_is_refused() {
        for bad in [
            "admi\u{307}n@localhost", // the dot of i, twice
            "cli\u{307}@host",
            "si\u{307}gn-on@localhost",
            "ann@exampl\u{456}\u{307}.com",
            "i\u{323}\u{307}@example.com",
            "\u{301}admin@localhost", // over nothing
            "ann@\u{301}example.com",
            "ann.\u{301}b@example.com",
            "sign-\u{335}on@localhost", // a stroke over a hyphen
            "ann1\u{301}@example.com",
        ] {
            assert!(matches!(parse(bad), Err(MARKS | CHARACTERS | MIXED_SCRIPTS)), "{bad:?}: {:?}", parse(bad));
        }
        assert_eq!(parse("admi\u{307}n@localhost"), Err(MARKS));
        assert_eq!(parse("\u{301}admin@localhost"), Err(MARKS));
    }

    #[test]
    fn ascii_parts_follow_dot_atom_and_host_names() {
        for bad in
            [".ann@b.c", "ann.@b.c", "a..b@b.c", "<a@b.c>", "\"a\"@b.c", "a,b@b.c", "a:b@b.c", "a(b)@b.c", "cli.@host"]
        {
            assert_eq!(parse(bad), Err(NAME), "{bad:?}");
        }
        for bad in [
            "admin@localhost.",
            "admin@localhost..",
            "a@.b.c",
            "a@b..c",
            "a@b.c>",
            "a@-b.c",
            "a@b-.c",
            "a@b_c.d",
            "a@[127.0.0.1]",
            "a@b:25",
            "a@b/c",
            &format!("a@{}.c", "b".repeat(64)),
        ] {
            assert_eq!(parse(bad), Err(HOST), "{bad:?}");
        }
        for good in
            ["!#$%&'*+-/=?^_`{|}~@b.c", "a@1.2.3.4", &format!("a@{}.c", "b".repeat(63)), "a@xn--bcher-kva.example"]
        {
            assert_eq!(parse(good).as_deref(), Ok(good));
        }
    }

    #[test]
    fn length_counts_characters() {
        let host = "@example.com";
        let longest = |c: &str| c.repeat(MAX_CHARACTERS - host.len()) + host;
        assert!(parse(&longest("a")).is_ok() && parse(&longest("é")).is_ok());
        assert_eq!(parse(&(longest("a") + "m")), Err(SHAPE));
        assert_eq!(parse(&(longest("é") + "m")), Err(SHAPE));
    }

    proptest! {
        /// Any character between two letters: what is accepted is visible, and does not print as ASCII unless it is. A letter like
        /// `æ`, which looks like two, is distinct.
        #[test]
        fn accepted_character_is_visible_and_distinct(c in any::<char>()) {
            if let Ok(address) = parse(&format!("a{c}n@example.com")) {
                prop_assert!(!address.contains(is_hidden), "{address:?}");
                let is_distinct = skeleton(&c.to_string()).count() > 1 || !skeleton(&address).all(|c| c.is_ascii());
                prop_assert!(c.is_ascii() || is_distinct, "{address:?}");
                let again = parse(&address);
                prop_assert_eq!(again.as_deref(), Ok(&*address), "parsing an address again changes nothing");
            }
        }
    }

    /// Every character of Unicode that looks like a letter of the name, in each place and in all places.
    #[test]
    fn names_of_the_service_have_no_twins() {
        let mut like: HashMap<String, Vec<char>> = HashMap::new();
        // Any other character is refused wherever it stands.
        for c in ('\0'..=char::MAX).filter(|c| is_recommended(*c) && !c.is_ascii_uppercase()) {
            like.entry(skeleton(c.encode_utf8(&mut [0; 4])).collect()).or_default().push(c);
        }
        let twins = |letter: char| &like[&skeleton(&letter.to_string()).collect::<String>()];
        assert!(!like.contains_key(""), "a recommended character is visible");
        for name in RESERVED_NAMES.into_iter().chain(["admin"]) {
            let letters: Vec<char> = name.chars().collect();
            let most = letters.iter().map(|letter| twins(*letter).len()).max().unwrap();
            assert!(most > 3, "{name} has look-alikes");
            let replaced = |at: usize, by: char| {
                letters.iter().enumerate().map(|(place, c)| if place == at { by } else { *c }).collect::<String>()
            };
            let one = letters.iter().enumerate().flat_map(|(at, c)| twins(*c).iter().map(move |by| replaced(at, *by)));
            let all = (0..most).map(|n| letters.iter().map(|c| twins(*c)[n % twins(*c).len()]).collect());
            for twin in one.chain(all).filter(|twin| twin != "admin") {
                assert!(parse(&format!("{twin}@localhost")).is_err(), "{twin:?}");
            }
        }
    }
}
