//! What a caller may read: an environment that they may not read is refused as one that does not exist.

use super::*;

on_both_databases! {
    async fn reader_of_one_environment_reads_no_other(backend: Backend) {
        let mut world = World::new(backend, &[]).await;
        let token = world.admin.new_user("staging@example.com", &["view_feature_flags@staging", "toggle_feature_flags@default"]).await;
        // Answers that are shared between callers are made for another one first.
        world.reader("").await.flags("", "staging").await.unwrap();
        world.reader("production").await.flags("", "staging").await.unwrap();
        let reader = async |selector: &str| Reader::new(&world.server, Some(&token), selector).await;
        let of_staging = Ok(flags([("shared", true), ("staging", false)]));
        assert_eq!(reader("staging").await.flags("", "default").await, of_staging);
        assert_eq!(reader("").await.flags("staging", "").await, of_staging);
        for environment in ["default", "production", "unknown"] {
            assert_eq!(reader(environment).await.flags("", "shared").await, Err(denied(environment)));
            assert_eq!(reader("").await.flags(environment, "").await, Err(denied(environment)));
            let tag = world.reader(environment).await.ofrep_bulk(None).await.header("etag");
            for tag in [&*tag, "*"] {
                assert_eq!(reader(environment).await.ofrep_bulk(Some(tag)).await.refusal(), denied(environment));
            }
        }
        assert_eq!(reader("").await.flags("", "shared").await, Err(denied("default")), "none is selected");
    }

    async fn streams_end_when_permission_is_taken_away(backend: Backend) {
        let mut world = World::new(backend, &[]).await;
        for held in ["view_feature_flags@staging", "view_feature_flags"] {
            let email = format!("{}@example.com", held.replace('@', "-"));
            let token = world.admin.new_user(&email, &[held]).await;
            let mut reader = Reader::new(&world.server, Some(&token), "staging").await;
            let mut sync = reader.sync("").await.unwrap();
            assert_eq!(configured(&next(&mut sync).await.unwrap().flag_configuration), flags([("shared", true), ("staging", false)]));
            let mut v1 = reader.v1.event_stream(v1::EventStreamRequest {}).await.unwrap().into_inner();
            let mut v2 = reader.v2.event_stream(v2::EventStreamRequest {}).await.unwrap().into_inner();
            for _ in 0..2 {
                next(&mut v1).await.unwrap();
                next(&mut v2).await.unwrap();
            }
            let users = world.admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
            let id = users.into_iter().find(|user| user.email == email).unwrap().id;
            let permissions = vec!["view_feature_flags@default".to_owned()];
            let request = UpdateUserRequest { id, permissions, ..Default::default() };
            world.admin.access.update_user(request).await.unwrap();
            // No message comes before the end: an empty set would make the client forget the values that it has.
            assert_eq!(next(&mut sync).await.map(|message| message.flag_configuration).map_err(refusal), Err(denied("staging")));
            assert_eq!(next(&mut v1).await.map_err(refusal).unwrap_err(), denied("staging"));
            assert_eq!(next(&mut v2).await.map_err(refusal).unwrap_err(), denied("staging"));
            assert_eq!(reader.flags("", "shared").await, Err(denied("staging")));
        }
    }

    async fn unknown_environment_is_empty_until_it_appears(backend: Backend) {
        let mut world = World::new(backend, &[]).await;
        let token = world.admin.new_user("viewer@example.com", &["view_feature_flags"]).await;
        let mut reader = Reader::new(&world.server, Some(&token), "later").await;
        assert_eq!(reader.flags("", "shared").await, Ok(flags([])));
        let mut sync = reader.sync("").await.unwrap();
        let mut events = reader.v2.event_stream(v2::EventStreamRequest {}).await.unwrap().into_inner();
        assert_eq!(configured(&next(&mut sync).await.unwrap().flag_configuration), flags([]));
        for kind in ["provider_ready", "configuration_change"] {
            assert_eq!(next(&mut events).await.unwrap().r#type, kind);
        }
        world.admin.new_environment("later").await;
        for on in [false, true] {
            if on {
                world.flip("later", "shared").await;
            } else {
                world.admin.create_in("later", "shared").await;
            }
            assert_eq!(configured(&next(&mut sync).await.unwrap().flag_configuration), flags([("shared", on)]));
            assert_eq!(next(&mut events).await.unwrap().r#type, "configuration_change");
            assert_eq!(reader.flags("", "staging").await, Ok(flags([("shared", on)])));
        }
    }
}
