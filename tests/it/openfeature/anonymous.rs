//! Reads without credentials: only of the environments that the setting names.

use super::*;

const OPEN: (&str, &str) = ("TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS", "staging,default,later");

on_both_databases! {
    async fn anonymous_callers_read_open_environments_only(backend: Backend) {
        let mut world = World::new(backend, &[OPEN]).await;
        let anonymous = async |selector: &str| Reader::new(&world.server, None, selector).await;
        // What is shared between callers is made for the administrator first.
        for environment in ["default", "staging", "production"] {
            world.reader(environment).await.flags("", "x").await.unwrap();
        }
        let of_default = flags([("default", false), ("shared", false)]);
        let of_staging = flags([("shared", true), ("staging", false)]);
        for (selector, expected) in [("", &of_staging), ("staging", &of_staging), ("flagSetId=default", &of_default)] {
            assert_eq!(grpc_flags(&mut anonymous(selector).await).await.as_ref(), Ok(expected), "{selector}");
            assert_eq!(anonymous("").await.flags(if selector.is_empty() { "staging" } else { selector }, "").await.as_ref(), Ok(expected));
        }
        // It is open, and does not exist yet.
        assert_eq!(grpc_flags(&mut anonymous("later").await).await, Ok(flags([])));
        for environment in ["production", "unknown"] {
            let refused = Err((Code::Unauthenticated, "a valid bearer token is required: authorization: Bearer TOKEN".to_owned()));
            assert_eq!(grpc_flags(&mut anonymous(environment).await).await, refused, "{environment}");
            assert_eq!(anonymous("").await.flags(environment, "").await, refused, "{environment}");
        }
        assert_eq!(anonymous("staging").await.ofrep_bulk(None).await.status(), 401);

        // A caller with a token reads what the token allows.
        let token = world.admin.new_user("production@example.com", &["view_feature_flags@production"]).await;
        let reader = async |selector: &str| Reader::new(&world.server, Some(&token), selector).await;
        assert_eq!(reader("production").await.flags("", "shared").await, Ok(flags([("production", false)])));
        for environment in ["default", "staging", "later"] {
            assert_eq!(reader(environment).await.flags("", "shared").await, Err(denied(environment)));
        }
        assert_eq!(reader("").await.flags("", "shared").await, Err(denied("default")), "not the first that is open");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_streams_follow_open_environments() {
    let mut world = World::new(Backend::Sqlite, &[OPEN]).await;
    let mut anonymous = Reader::new(&world.server, None, "").await;
    let mut sync = anonymous.sync("").await.unwrap();
    let mut events = anonymous.v1.event_stream(v1::EventStreamRequest {}).await.unwrap().into_inner();
    for _ in 0..2 {
        next(&mut events).await.unwrap();
    }
    assert_eq!(
        configured(&next(&mut sync).await.unwrap().flag_configuration),
        flags([("shared", true), ("staging", false)])
    );
    world.flip("default", "shared").await;
    world.flip("production", "production").await;
    world.flip("staging", "shared").await;
    assert_eq!(
        configured(&next(&mut sync).await.unwrap().flag_configuration),
        flags([("shared", false), ("staging", false)])
    );
    assert_eq!(next(&mut events).await.unwrap().data.unwrap().fields.len(), 1);
}

/// The flags by flagd's services alone, which all agree.
async fn grpc_flags(reader: &mut Reader) -> Flags {
    let fetched = reader.sync.fetch_all_flags(sync::FetchAllFlagsRequest::default()).await;
    let flags = fetched.map(|answer| configured(&answer.into_inner().flag_configuration)).map_err(refusal);
    let all = reader.v1.resolve_all(v1::ResolveAllRequest::default()).await;
    let value = |flag: v1::AnyFlag| flag.value == Some(v1::any_flag::Value::BoolValue(true));
    let resolved = all.map(|all| all.into_inner().flags.into_iter().map(|(key, flag)| (key, value(flag))).collect());
    assert_eq!(resolved.map_err(refusal), flags, "ResolveAll");
    for key in ["default", "staging", "production", "shared"] {
        let request = v2::ResolveBooleanRequest { flag_key: key.to_owned(), context: Vec::new() };
        let found = match reader.v2.resolve_boolean(request).await {
            Err(status) if status.code() == Code::NotFound => Ok(None),
            found => found.map(|answer| answer.into_inner().value).map_err(refusal),
        };
        assert_eq!(found, flags.as_ref().map(|flags| flags.get(key).copied()).map_err(Clone::clone), "{key}");
    }
    flags
}
