//! A flag key is accepted if and only if it has the documented form. It is stored unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toggled::domain::text::FlagKey;

fn is_valid(text: &str) -> bool {
    let first = text.chars().next().is_some_and(|first| first.is_ascii_alphanumeric());
    first && text.len() <= 128 && text.chars().all(|one| one.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&one))
}

fuzz_target!(|text: &str| {
    let parsed = FlagKey::parse(text);
    assert_eq!(parsed.is_ok(), is_valid(text), "{text:?}");
    if let Ok(key) = parsed {
        assert_eq!(key.as_str(), text);
    }
});
