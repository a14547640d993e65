//! A page token is refused, or it is one of ours, which says the same when it is written again.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use toggled::api::paging::{LogCursor, decode_key, encode_key, scope_digest};
use toggled::domain::text::FlagKey;

fuzz_target!(|input: (&str, &str, &[u8])| {
    let (scope, anything, fields) = input;
    // What nobody has guessed the beginning of, and what somebody has.
    let guessed = URL_SAFE_NO_PAD.encode([&scope_digest(scope)[..], fields].concat());
    for token in [anything, &guessed] {
        if let Ok(cursor) = LogCursor::decode(scope, token) {
            assert_eq!(cursor.encode(scope), token);
            assert!(cursor.as_of >= 0 && cursor.before >= 1 && cursor.page >= 2, "{cursor:?}");
        }
        if let Ok(key) = decode_key(scope, token, FlagKey::parse) {
            assert_eq!(encode_key(scope, key.as_str()), token);
        }
    }
});
