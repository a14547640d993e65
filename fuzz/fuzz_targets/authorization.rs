//! Parses random `authorization` headers and verifies them as JWTs. No input has a valid signature, so none may be accepted.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use toggled::auth::jwks::{Jwks, KeySource};
use toggled::auth::jwt::{SignOn, SignOnRules};
use toggled::auth::{bearer_token, hash_secret};
use toggled::domain::time::Timestamp;
use tokio::runtime::Runtime;

/// Public key of the first test vector of RFC 8032.
const KEYS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "alg": "EdDSA",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

struct Context {
    runtime: Runtime,
    sign_on: SignOn,
    _folder: TempDir,
}

impl Context {
    fn new() -> Self {
        let (runtime, folder) = (Runtime::new().expect("a runtime"), TempDir::new().expect("a folder"));
        let path = folder.path().join("keys.json");
        std::fs::write(&path, KEYS).expect("a file");
        let source = KeySource::parse(path.to_str().expect("a path")).expect("a source");
        let jwks = runtime.block_on(Jwks::open(source)).expect("keys");
        let rules = SignOnRules {
            issuer: "https://issuer.example".into(),
            audience: "toggled".to_owned(),
            permissions_claim: "permissions".to_owned(),
            groups: None,
            environment_claim: None,
        };
        Self { sign_on: SignOn::new(rules, Arc::new(jwks)), runtime, _folder: folder }
    }
}

fuzz_target!(|header: &[u8]| {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    let token = bearer_token(header);
    let scheme = header.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    let rest = header.get(7..).unwrap_or_default();
    assert_eq!(token.is_some(), scheme && rest.iter().any(|byte| !byte.is_ascii_whitespace()));
    let token = token.unwrap_or(header);
    let context = CONTEXT.get_or_init(Context::new);
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let verified = context.runtime.block_on(context.sign_on.verify(token, &hash_secret(token), now));
    assert!(verified.is_err(), "accepted a JWT without a valid signature");
});
