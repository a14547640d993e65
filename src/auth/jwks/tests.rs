use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::auth::issuer::Issuer;
use crate::auth::signing::{Key, encoded, jwks};

use jsonwebtoken::Algorithm;

fn parsed(document: &Value) -> Result<KeySet, KeysError> {
    KeySet::parse(document.to_string().as_bytes())
}

/// A key with one field changed, or removed where the value is null.
fn changed(key: &Key, field: &str, value: Value) -> Value {
    let mut jwk = key.jwk();
    if value.is_null() {
        jwk.as_object_mut().unwrap().remove(field);
    } else {
        jwk[field] = value;
    }
    json!({"keys": [jwk]})
}

/// Keys in a file that can be changed.
struct File {
    path: std::path::PathBuf,
    _folder: TempDir,
}

impl File {
    fn new(keys: &Value) -> Self {
        let folder = TempDir::new().unwrap();
        let file = Self { path: folder.path().join("keys.json"), _folder: folder };
        file.write(keys);
        file
    }

    fn write(&self, keys: &Value) {
        std::fs::write(&self.path, keys.to_string()).unwrap();
    }

    async fn open(&self) -> Result<Arc<Jwks>, KeysError> {
        Jwks::open(KeySource::File(self.path.clone())).await.map(Arc::new)
    }
}

#[test]
fn keys_that_can_be_used_are_found_by_name_and_algorithm() {
    let [rsa, ec, ed] = [Key::rsa("r"), Key::p256("e"), Key::ed25519("d")];
    let keys = parsed(&jwks([&rsa, &ec, &ed])).unwrap();
    for (id, algorithm) in [("r", Algorithm::RS256), ("e", Algorithm::ES256), ("d", Algorithm::EdDSA)] {
        assert!(keys.find(Some(id), algorithm).is_ok());
        assert!(keys.find(None, algorithm).is_ok(), "the only one of its kind");
    }
    assert_eq!(keys.find(Some("r"), Algorithm::ES256), Err(NoKey::Algorithm));
    assert_eq!(keys.find(Some("x"), Algorithm::ES256), Err(NoKey::Unknown));
    assert_eq!(KeySet::default().find(Some("x"), Algorithm::ES256), Err(NoKey::Unread));
    let keys = parsed(&jwks([&ec, &Key::p256("other")])).unwrap();
    assert_eq!(keys.find(None, Algorithm::ES256), Err(NoKey::Ambiguous));
    assert_eq!(keys.find(None, Algorithm::RS256), Err(NoKey::Unknown));
    let twice = parsed(&jwks([&ec, &Key::p256("e")])).unwrap();
    assert_eq!(twice.find(Some("e"), Algorithm::ES256), Err(NoKey::Ambiguous));
}

#[test]
fn a_key_for_something_else_is_passed_over() {
    let [rsa, ec, ed] = [Key::rsa("r"), Key::p256("e"), Key::ed25519("d")];
    for key in [&rsa, &ec, &ed] {
        for (field, value) in [
            ("use", json!("enc")),
            ("alg", json!("HS256")),
            ("alg", json!("RS512")),
            ("alg", json!("none")),
            ("alg", json!(7)),
            ("kty", json!("oct")),
            ("kty", json!("new")),
            ("kty", Value::Null),
            ("key_ops", json!(["encrypt"])),
            ("kid", json!(1)),
        ] {
            assert_eq!(parsed(&changed(key, field, value.clone())), Err(KeysError::NoKey), "{field} {value}");
        }
        for (field, value) in
            [("use", Value::Null), ("alg", Value::Null), ("kid", Value::Null), ("key_ops", json!(["verify"]))]
        {
            assert!(parsed(&changed(key, field, value.clone())).is_ok(), "{field} {value}");
        }
    }
    let bad = [
        changed(&ec, "crv", json!("P-384")),
        changed(&ec, "x", json!(encoded(&[1; 31]))),
        changed(&ec, "y", json!("no base64!")),
        changed(&ec, "y", Value::Null),
        changed(&ed, "crv", json!("X25519")),
        changed(&ed, "x", json!(encoded(&[1; 33]))),
        changed(&rsa, "n", json!("")),
        changed(&rsa, "e", json!("AA")),
        changed(&rsa, "e", Value::Null),
        json!({"keys": [{"kty": "oct", "k": encoded(&[7; 32]), "alg": "HS256"}]}),
        json!({"keys": []}),
        json!({"keys": ["x", 1, null, {}]}),
    ];
    for bad in bad {
        assert_eq!(parsed(&bad), Err(KeysError::NoKey), "{bad}");
        let mut beside = bad;
        beside["keys"].as_array_mut().unwrap().push(ec.jwk());
        assert_eq!(parsed(&beside).unwrap().len(), 1);
    }
    for bad in [json!({}), json!([]), json!({"keys": {}}), json!(null)] {
        assert!(matches!(parsed(&bad), Err(KeysError::Document(_))), "{bad}");
    }
    assert!(matches!(KeySet::parse(b"<html>"), Err(KeysError::Document(_))));
}

#[test]
fn an_rsa_key_has_2048_bits_or_more() {
    let rsa = Key::rsa("r");
    let n = rsa.public();
    assert!(parsed(&changed(&rsa, "n", json!(encoded(&n)))).is_ok());
    assert!(
        parsed(&changed(&rsa, "n", json!(encoded(&[&[0], &*n].concat())))).is_ok(),
        "a leading zero counts nothing"
    );
    let mut shorter = n.clone();
    shorter[0] = 0x7f;
    assert_eq!(parsed(&changed(&rsa, "n", json!(encoded(&shorter)))), Err(KeysError::NoKey));
    shorter[0] = 0;
    assert_eq!(parsed(&changed(&rsa, "n", json!(encoded(&shorter)))), Err(KeysError::NoKey));
}

#[tokio::test]
async fn a_file_must_be_readable_at_the_start_and_an_address_need_not_answer() {
    let file = File::new(&json!({"keys": []}));
    assert_eq!(file.open().await.err(), Some(KeysError::NoKey));
    std::fs::write(&file.path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert_eq!(file.open().await.err(), Some(KeysError::TooLarge));
    std::fs::remove_file(&file.path).unwrap();
    assert!(matches!(file.open().await.err(), Some(KeysError::Unreadable(_))));
    let nobody = KeySource::parse("https://127.0.0.1:9/keys").unwrap();
    assert_eq!(Jwks::open(nobody).await.map(|jwks| jwks.current().len()), Ok(0));
}

#[tokio::test(start_paused = true)]
async fn keys_are_read_again_every_five_minutes_and_after_a_failure_every_half() {
    let file = File::new(&jwks([&Key::p256("old")]));
    let jwks_of_file = file.open().await.unwrap();
    let fresh = Arc::clone(&jwks_of_file);
    let task = tokio::spawn(async move { fresh.keep_fresh().await });
    let mut changes = jwks_of_file.current.subscribe();
    let old = jwks_of_file.current();
    let began = Instant::now();

    file.write(&jwks([&Key::p256("new")]));
    changes.changed().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 300);
    assert!(!jwks_of_file.is_current(&old));

    // An outage keeps the keys, and is over within half a minute of its end.
    let new = jwks_of_file.current();
    std::fs::write(&file.path, "the issuer is down").unwrap();
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert!(jwks_of_file.is_current(&new) && jwks_of_file.failing.load(Ordering::Relaxed));
    let over = Instant::now();
    file.write(&jwks([&Key::p256("newest")]));
    changes.changed().await.unwrap();
    assert!(over.elapsed() <= RETRY, "{:?}", over.elapsed());

    // The same keys again are no change.
    let newest = jwks_of_file.current();
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert!(jwks_of_file.is_current(&newest));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn strangers_make_us_read_the_keys_every_five_seconds_at_the_most() {
    let file = File::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let first = keys.current();
    file.write(&jwks([&Key::p256("b")]));
    keys.look_again(&first).await;
    let second = keys.current();
    assert!(!Arc::ptr_eq(&first, &second));

    file.write(&jwks([&Key::p256("c")]));
    keys.look_again(&second).await;
    assert!(keys.is_current(&second), "too soon");
    tokio::time::advance(PAUSE).await;
    keys.look_again(&first).await;
    assert!(keys.is_current(&second), "what is there is newer than what was seen");
    keys.look_again(&second).await;
    assert!(!keys.is_current(&second));
}

#[tokio::test]
async fn many_strangers_at_once_wait_for_one_reading() {
    let issuer = Issuer::start().await;
    let root = reqwest::Certificate::from_pem(issuer.ca_pem().as_bytes()).unwrap();
    let source = KeySource::parse(&issuer.url("/keys")).unwrap();
    let reader = Reader::with(source.clone(), source::client().tls_certs_only([root]).no_proxy()).unwrap();
    let keys = Arc::new(Jwks::new(source, reader));
    let none = keys.current();

    // One who asks first and goes away takes nothing from the others.
    let gone = tokio::time::timeout(Duration::ZERO, keys.look_again(&none)).await;
    assert!(gone.is_err());
    tokio::time::timeout(Duration::from_secs(60), issuer.served(1)).await.unwrap();
    let strangers: Vec<_> = (0..50)
        .map(|_| {
            let (keys, none) = (Arc::clone(&keys), Arc::clone(&none));
            tokio::spawn(async move {
                keys.look_again(&none).await;
                keys.current().len()
            })
        })
        .collect();
    for stranger in strangers {
        assert_eq!(stranger.await.unwrap(), 1);
    }
    issuer.stop().await;
    issuer.start_again().await;
    assert!(keys.refresh().await);
    assert_eq!(issuer.times_served(), 2, "once for them all, and once for us");
}
