//! Escapes hidden characters in text of callers, servers and files before it is printed: those that are invisible, control a
//! terminal, or reorder the text around them become escapes such as `\u{202e}`.
//!
//! Everything that is printed for people goes through here. Files keep their exact content.

use std::borrow::Cow;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_security::skeleton;

/// A wide space. Japanese text has it where other text has U+0020.
const IDEOGRAPHIC_SPACE: char = '\u{3000}';

/// Looks blank, although Unicode counts it among the visible symbols.
const BRAILLE_BLANK: char = '\u{2800}';

/// Whether a character does not show as what it is: it controls a terminal or the direction of text, has no width, looks like a
/// common space, or has no meaning in Unicode.
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    match c.general_category() {
        GeneralCategory::Control
        | GeneralCategory::Format
        | GeneralCategory::LineSeparator
        | GeneralCategory::ParagraphSeparator
        | GeneralCategory::PrivateUse
        | GeneralCategory::Surrogate
        | GeneralCategory::Unassigned => true,
        GeneralCategory::SpaceSeparator => c != IDEOGRAPHIC_SPACE,
        _ => c == BRAILLE_BLANK || is_default_ignorable(c),
    }
}

/// Whether nothing of the text shows.
pub fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || is_hidden(c))
}

/// Whether Unicode lets a program show nothing for the character (`Default_Ignorable_Code_Point`), such as a variation selector.
/// The skeleton of UTS #39 drops exactly these.
fn is_default_ignorable(c: char) -> bool {
    skeleton(c.encode_utf8(&mut [0; 4])).next().is_none()
}

/// The text with every hidden character escaped, in one line: `\n`, `\u{1b}`, `\u{200b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if is_printable_ascii(text) {
        return Cow::Borrowed(text);
    }
    escape(text, is_hidden, |c, shown| shown.extend(c.escape_default()))
}

/// The same JSON value, with every hidden character escaped. In valid JSON they occur only within strings.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    if is_printable_ascii(json) {
        return Cow::Borrowed(json);
    }
    escape(json, is_hidden, |c, shown| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            shown.push_str(&format!("\\u{unit:04x}"));
        }
    })
}

/// A quick check before that of each character: printable ASCII, as nearly all texts are, hides nothing.
fn is_printable_ascii(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// The text, with each character that `is_escaped` accepts replaced by what `write` appends for it.
pub fn escape(text: &str, is_escaped: impl Fn(char) -> bool, write: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let Some(first) = text.find(&is_escaped) else { return Cow::Borrowed(text) };
    let (plain, rest) = text.split_at(first);
    let mut shown = String::with_capacity(text.len() + 16);
    shown.push_str(plain);
    for c in rest.chars() {
        if is_escaped(c) { write(c, &mut shown) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn printable_text_is_shown_unchanged() {
        for text in
            ["", "New checkout", "Neue Kasse ✓", "新しい　名前", "cafe\u{301}", "👍🏽 1 €", "привет", "שלום", "C:\\new"]
        {
            assert_eq!(visible(text), text);
        }
    }

    #[test]
    fn hidden_characters_are_escaped() {
        for (text, shown) in [
            ("a\u{1b}[31m\n\tb\u{9b}", r"a\u{1b}[31m\n\tb\u{9b}"),
            ("a\u{202e}b\u{2066}\u{200f}", r"a\u{202e}b\u{2066}\u{200f}"),
            ("zero\u{200b}\u{200d}\u{feff}\u{2060}\u{ad}width", r"zero\u{200b}\u{200d}\u{feff}\u{2060}\u{ad}width"),
            (
                "tag\u{e0061} selector\u{fe0f}\u{e0100} joiner\u{34f}",
                r"tag\u{e0061} selector\u{fe0f}\u{e0100} joiner\u{34f}",
            ),
            ("filler\u{115f}\u{3164}\u{ffa0}\u{2800}", r"filler\u{115f}\u{3164}\u{ffa0}\u{2800}"),
            ("a\u{a0}b\u{2009}c\u{2028}", r"a\u{a0}b\u{2009}c\u{2028}"),
            ("private\u{e000} none\u{378}\u{ffff}", r"private\u{e000} none\u{378}\u{ffff}"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }

    /// Every code point, by the classes of another library.
    #[test]
    fn all_classes_that_hide_are_hidden() {
        let class = |pattern: &str| match regex_syntax::parse(pattern).unwrap().into_kind() {
            regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => class,
            other => panic!("{other:?}"),
        };
        let classes = class(r"[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\p{Bidi_Control}]");
        let hiding = classes.iter().flat_map(|range| range.start()..=range.end());
        for c in hiding.filter(|c| !c.is_ascii()) {
            assert!(is_hidden(c), "{c:?}");
        }
        let letters = class(r"[[\p{L}\p{N}\p{P}\p{S}]--\p{Default_Ignorable_Code_Point}]");
        for c in letters.iter().flat_map(|range| range.start()..=range.end()).filter(|c| *c != BRAILLE_BLANK) {
            assert!(!is_hidden(c), "{c:?}");
        }
    }

    proptest! {
        #[test]
        fn shown_text_hides_nothing(text in any::<String>()) {
            let shown = visible(&text);
            prop_assert!(!shown.contains(is_hidden), "{:?}", shown);
            prop_assert_eq!(matches!(shown, Cow::Borrowed(_)), !text.contains(is_hidden));
        }

        #[test]
        fn shown_json_has_the_same_value(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let shown = visible_json(&json);
            prop_assert!(!shown.contains(is_hidden), "{:?}", shown);
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}
