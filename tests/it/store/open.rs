//! Opening a database, and errors when it is missing.

use toggled::domain::state::{Head, State};
use toggled::store::{AppendOutcome, EntryQuery, Order, Store, StoreError, open};
use uuid::Uuid;

use super::raw::Raw;
use super::world::*;
use crate::support::{Backend, Database, on_both_databases, with_timeout};

#[test]
fn url_without_database_is_refused_in_one_line() {
    for url in [
        "",
        "toggled.db",
        "mysql://localhost/x",
        "sqlite://",
        "sqlite::memory:",
        "sqlite://x?mode=memory",
        "postgres://h:x/",
    ] {
        let problem = open(url).err().unwrap_or_else(|| panic!("{url:?} is accepted"));
        assert!(!problem.is_empty() && !problem.contains('\n'), "{url:?}: {problem:?}");
    }
}

/// libpq accepts several hosts; sqlx would take them for the name of one.
#[tokio::test]
async fn url_with_several_hosts_is_refused() {
    for url in [
        "postgres://one,two/flags",
        "postgresql://ann:hush@one:5432,two:5433/flags?target_session_attrs=read-write",
        "postgres:///flags?user=ann&host=one,two",
        "postgres:///flags?user=ann&host=10.0.0.1%2C10.0.0.2",
    ] {
        let problem = open(url).err().unwrap_or_else(|| panic!("{url} is accepted"));
        assert!(problem.contains("one address that leads to the primary"), "{url}: {problem}");
    }
    for url in ["postgres://ann:hu,sh@one/flags", "postgres://ann@one/fl,ags", "postgres://one/flags?user=a,nn"] {
        assert!(open(url).is_ok(), "{url}");
    }
}

/// What is ignored would connect elsewhere or without TLS, and no message may show a part of a password.
#[tokio::test]
async fn wrong_url_is_refused_without_its_values() {
    let folder = tempfile::TempDir::new().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let no_pem = format!("postgres://h/x?sslmode=verify-ca&sslrootcert={}", empty.display());
    for (url, expected) in [
        ("postgres://h/x?schema=hush", "parameter, schema;"),
        ("postgres://h/x?ssl=hush", "parameter, ssl;"),
        ("postgres://h/x?passwd=hush", "parameter, passwd;"),
        ("postgres://h/x?sslpassword=hush", "parameter, sslpassword;"),
        ("postgres://h/x?sslmode=hush", "wrong sslmode"),
        ("postgres://h/x?port=hush", "wrong port"),
        ("postgres://h/x?hostaddr=hush", "wrong hostaddr"),
        ("postgres://h/x?sslmode=verify-ca&sslrootcert=/nowhere/ca.pem", "sslrootcert /nowhere/ca.pem: No such file"),
        ("postgres://h/x?sslcert=/nowhere/c.pem", "sslcert /nowhere/c.pem: No such file"),
        ("postgres://h/x?sslkey=/nowhere/c.key", "sslkey /nowhere/c.key: No such file"),
        ("postgres://h/x?sslkey=-----BEGIN%20PRIVATE%20KEY-----hush", "must name a file as sslkey"),
        ("postgres://h/x?sslrootcert=/etc/hostname", "sslrootcert"),
        (&no_pem, "empty.pem: the file has no certificate"),
        ("postgres://u:hu#sh@h/x", "%23"),
        ("postgres://u:hu/sh@h/x", "%2F"),
        ("postgres://u:12/hush@h/x", "%2F"),
        ("postgres://u:12?hush@h/x", "%3F"),
        ("postgres://u:12?hush=hush@h/x", "%3F"),
        ("postgres://u:hush@[::1/x", "IPv6"),
        ("postgres://h/x?host=[::z]", "neither a name nor an address"),
        ("postgres://h/x?options=hush", "-c NAME=VALUE"),
        ("postgres://h/x?options=-c%20hush", "-c NAME=VALUE"),
        ("postgres://h/x", "names no user"),
        ("postgres://u:hush@h/x?hostaddr=127.0.0.1&sslmode=verify-full", "hostaddr"),
        ("sqlite:///tmp", "/tmp, which is a folder"),
        ("sqlite://x?vfs=hush", "vfs"),
        ("sqlite://x?mode=hush", "mode"),
        ("sqlite:///nowhere/at/all/x.db", "/nowhere/at/all: No such file"),
        ("sqlite:///etc/hostname/x.db", "/etc/hostname"),
    ] {
        let problem = open(url).err().unwrap_or_else(|| panic!("{url} is accepted"));
        assert!(problem.contains(expected) && !problem.contains("hush"), "{url}: {problem}");
    }
    for url in [
        "postgres://ann%40corp:hush@h/x?sslmode=require",
        "postgres://h/x?user=ann@corp&password=hu@sh",
        "postgres:///x?host=/var/run/postgresql&port=5433&user=ann",
        "postgres://ann:hush@/x?host=/var/run/postgresql&port=5433",
        "postgres://ann@h/x?hostaddr=127.0.0.1",
        "postgres://ann@h/x?options=-c%20search_path=a%20--statement-timeout=1s%20-cjit=off&options[work_mem]=8MB",
        "sqlite://x?mode=rwc",
    ] {
        assert_eq!(open(url).err(), None, "{url}");
    }
}

#[tokio::test]
async fn description_omits_the_password() {
    for (url, description) in [
        ("postgres://ann:hush@[::1]/flags", "postgres://[::1]:5432/flags"),
        ("postgres://ann@h/flags?host=[::1]", "postgres://[::1]:5432/flags"),
        ("postgres:///flags?host=/run/pg&user=ann&password=hush", "postgres:///flags?host=/run/pg&port=5432"),
        ("postgres://ann:hush@/flags?host=/run/pg", "postgres:///flags?host=/run/pg&port=5432"),
    ] {
        assert_eq!(open(url).unwrap().describe(), description);
    }
    let postgres = open("postgres://ann:hush@db.example:5433/flags?application_name=x").unwrap();
    assert_eq!(postgres.describe(), "postgres://db.example:5433/flags");
    assert_eq!(postgres.folder(), None);
    let sqlite = open("sqlite:///var/lib/flags.db").unwrap();
    assert_eq!(sqlite.describe(), "sqlite:///var/lib/flags.db");
    assert_eq!(sqlite.folder().unwrap().to_str(), Some("/var/lib"));
}

/// Asserts that every read fails with the expected error.
pub async fn every_read_fails(store: &dyn Store, expected: fn(&StoreError) -> bool) {
    let filter = toggled::domain::filter::Filter::default();
    let range = toggled::domain::filter::Range { first: 1, last: 10 };
    let period = toggled::domain::filter::Period { from: Some(Default::default()), to: None };
    let known = Head { revision: 1, ..*State::empty(Uuid::nil()).head() };
    let query = EntryQuery { filter: filter.clone(), range, order: Order::NewestFirst, offset: 0, limit: 10 };
    let key = (Uuid::nil(), toggled::domain::text::RequestId::parse("r").unwrap());
    let results = [
        ("load", store.load().await.map(drop)),
        ("head", store.head().await.map(drop)),
        ("follow", store.follow(&known).await.map(drop)),
        ("requests", store.requests(&[key]).await.map(drop)),
        ("delete_expired_requests", store.delete_expired_requests(Default::default()).await.map(drop)),
        ("entry", store.entry(Uuid::nil()).await.map(drop)),
        ("entry_at", store.entry_at(1).await.map(drop)),
        ("entries", store.entries(&query).await.map(drop)),
        ("count", store.count(&filter, range).await.map(drop)),
        ("first_since", store.first_since(Default::default()).await.map(drop)),
        ("last_until", store.last_until(Default::default()).await.map(drop)),
        ("range", store.range(period, range).await.map(drop)),
        ("explain", store.explain(&query).await.map(drop)),
    ];
    for (method, result) in results {
        let error = result.expect_err(method);
        assert!(expected(&error), "{method}: {error:?}");
    }
}

on_both_databases! {
    async fn read_without_schema_is_an_error(backend: Backend) {
        let database = Database::new(backend).await;
        let store = open(&database.url).unwrap();
        // To PostgreSQL, a table without rights on its schema is missing too: an outage.
        every_read_fails(&*store, |error| matches!(error, StoreError::Refused(_) | StoreError::Inaccessible(_))).await;
        let mut world = World::empty(backend).await;
        let step = world.decide(&[service(create_environment("default")), service(create("a"))]);
        let outcome = store.writer().append(&step).await;
        assert!(matches!(outcome, Ok(AppendOutcome::Refused(_)) | Err(StoreError::Inaccessible(_))), "{outcome:?}");
    }

    /// The error says where the value is, so that an operator can repair it.
    async fn invalid_value_is_named_with_its_row(backend: Backend) {
        let mut world = World::new(backend).await;
        let id = world.token(1).id;
        world.raw.run(&format!("UPDATE api_tokens SET name = '' WHERE id = {}", world.raw.id(id))).await;
        let problem = world.store.load().await.unwrap_err();
        let StoreError::Corrupt { table, column, row, .. } = &problem else { panic!("{problem:?}") };
        assert_eq!((*table, *column, row.as_str()), ("api_tokens", "name", id.to_string().as_str()));

        let unknown = match world.raw {
            Raw::Sqlite(_) => r#"UPDATE users SET permissions = '["rule_the_world"]'"#,
            Raw::Postgres(_) => "UPDATE users SET permissions = '{rule_the_world}'",
        };
        world.raw.run(unknown).await;
        let problem = world.store.load().await.unwrap_err().to_string();
        assert!(problem.contains("permissions") && problem.contains("rule_the_world"), "{problem}");
    }
}

/// Nothing listens on the port, because this test has bound it.
#[tokio::test]
async fn silent_server_is_unavailable() {
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = taken.local_addr().unwrap().port();
    let store = open(&format!("postgres://postgres@127.0.0.1:{port}/x")).unwrap();
    let unavailable = |error: &StoreError| matches!(error, StoreError::Unavailable(_));
    let head = with_timeout("an answer", store.head()).await.unwrap_err();
    assert!(unavailable(&head), "{head:?}");
    let mut world = World::empty(Backend::Sqlite).await;
    let step = world.decide(&[service(create_environment("default")), service(create("a"))]);
    let mut writer = store.writer();
    let append = with_timeout("an answer", writer.append(&step)).await.unwrap_err();
    assert!(unavailable(&append), "nothing was written: {append:?}");
    let hold = with_timeout("an answer", writer.lock_head()).await.unwrap_err();
    assert!(unavailable(&hold), "{hold:?}");
}
