//! A page token is refused, or it decodes to a cursor that encodes to the same token.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use toggled::api::paging::{LogCursor, decode_key, encode_key, scope_digest};
use toggled::domain::text::FlagKey;

fuzz_target!(|input: (&str, &str, &[u8])| {
    let (scope, random_token, fields) = input;
    // Random tokens almost never have the right digest, so one token gets it.
    let with_digest = URL_SAFE_NO_PAD.encode([&scope_digest(scope)[..], fields].concat());
    for token in [random_token, &with_digest] {
        if let Ok(cursor) = LogCursor::decode(scope, token) {
            assert_eq!(cursor.encode(scope), token);
            assert!(cursor.as_of >= 0 && cursor.before >= 1 && cursor.page >= 2, "{cursor:?}");
        }
        if let Ok(key) = decode_key(scope, token, FlagKey::parse) {
            assert_eq!(encode_key(scope, key.as_str()), token);
        }
    }
});
