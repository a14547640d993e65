use serde_json::{Value, json};

use super::*;
use crate::cli::flag::import::imported::Omission;

fn read(file: Value, environment: Option<&str>) -> ImportedFlags {
    parse(&file.to_string(), environment).unwrap()
}

fn errors(file: &Value, environment: Option<&str>) -> ParseErrors {
    parse(&file.to_string(), environment).unwrap_err()
}

/// One flag that is on in one environment, with these strategies.
fn with_strategies(mut strategies: Value) -> ImportedFlags {
    for strategy in strategies.as_array_mut().unwrap() {
        strategy["featureName"] = "a".into();
    }
    let file = json!({
        "features": [{"name": "a"}],
        "featureStrategies": strategies,
        "featureEnvironments": [{"featureName": "a", "environment": "production", "enabled": true}],
    });
    read(file, None)
}

#[test]
fn flag_on_for_all_users_is_enabled() {
    for given in [
        json!([]),
        json!([{"name": "default"}]),
        json!([{"strategyName": "default", "parameters": {}, "constraints": [], "environment": "production"}]),
        json!([{"name": "flexibleRollout", "parameters": {"rollout": "100", "stickiness": "default"}}]),
        json!([{"name": "flexibleRollout", "parameters": {"rollout": 100}, "segments": null}]),
        json!([{"name": "userWithId", "environment": "development"}]),
    ] {
        let imported = with_strategies(given.clone());
        assert_eq!(imported.omissions, [], "{given}");
        assert_eq!(imported.flags[0].status, Some(Status::Enabled), "{given}");
    }
}

#[test]
fn flag_on_for_some_users_keeps_status() {
    for given in [
        json!([{"name": "userWithId", "parameters": {"userIds": "7"}}]),
        json!([{"name": "flexibleRollout", "parameters": {"rollout": "99"}}]),
        json!([{"name": "flexibleRollout"}]),
        json!([{"name": "default", "constraints": [{"contextName": "country"}]}]),
        json!([{"name": "default", "segments": [1]}]),
    ] {
        let imported = with_strategies(given.clone());
        assert_eq!(imported.flags[0].status, None, "{given}");
        assert!(imported.omissions[0].what.contains("on for some users only"), "{given}: {:?}", imported.omissions);
    }
    let both = with_strategies(json!([{"name": "default"}, {"name": "userWithId"}]));
    assert_eq!(
        (both.flags[0].status, both.omissions[0].what.as_str()),
        (Some(Status::Enabled), "strategies: userWithId")
    );
}

#[test]
fn disabled_strategy_is_reported_and_ignored() {
    let beside = with_strategies(json!([{"name": "default"}, {"name": "userWithId", "disabled": true}]));
    assert_eq!(
        (beside.flags[0].status, beside.omissions[0].what.as_str()),
        (Some(Status::Enabled), "disabled strategies: userWithId")
    );
    let alone = with_strategies(json!([{"name": "default", "disabled": true}]));
    assert_eq!(alone.flags[0].status, None);
    assert!(alone.omissions[0].what.contains("all strategies disabled (default)"), "{:?}", alone.omissions);
}

#[test]
fn segment_of_older_export_limits_strategy() {
    let file = json!({
        "version": 4,
        "features": [{"name": "a"}],
        "featureStrategies": [{"id": "s", "featureName": "a", "environment": "default", "strategyName": "default"}],
        "featureEnvironments": [{"featureName": "a", "environment": "default", "enabled": true}],
        "segments": [{"id": 1, "name": "some"}],
        "featureStrategySegments": [{"featureStrategyId": "s", "segmentId": 1}],
    });
    let imported = read(file, None);
    assert_eq!(imported.flags[0].status, None);
    assert_eq!(imported.omissions[0], Omission::of_file("segments: 1"));
}

#[test]
fn first_versions_have_no_environments() {
    let file = json!({
        "version": 1,
        "features": [
            {"name": "a", "description": "A", "enabled": true, "strategies": [{"name": "default"}]},
            {"name": "b", "description": null, "enabled": false, "strategies": [{"name": "userWithId"}], "archived": true},
        ],
        "strategies": [],
    });
    let imported = read(file.clone(), None);
    let [a, b] = &imported.flags[..] else { panic!("{:?}", imported.flags) };
    assert_eq!((a.status, a.archived, a.description.as_ref().unwrap().as_str()), (Some(Status::Enabled), None, "A"));
    assert_eq!((b.status, b.archived, b.description.as_ref()), (Some(Status::Disabled), Some(true), None));
    assert!(errors(&file, Some("default"))[0].contains("no environments"));
}

#[test]
fn several_environments_need_a_selection() {
    let file = json!({
        "features": [{"name": "a"}, {"name": "b"}],
        "featureEnvironments": [
            {"featureName": "a", "environment": "production", "enabled": false},
            {"featureName": "a", "environment": "development", "enabled": true},
            {"featureName": "b", "environment": "development", "enabled": true},
        ],
    });
    for (asked, expected) in
        [(None, "--environment: development, production"), (Some("staging"), "the export has development, production")]
    {
        let errors = errors(&file, asked);
        assert!(errors.len() == 1 && errors[0].contains(expected), "{errors:?}");
    }
    let development = read(file.clone(), Some("development"));
    assert!(
        development.omissions.is_empty() && development.flags.iter().all(|flag| flag.status == Some(Status::Enabled))
    );
    let production = read(file, Some("production"));
    let statuses: Vec<_> = production.flags.iter().map(|flag| flag.status).collect();
    assert_eq!(statuses, [Some(Status::Disabled), None]);
    assert!(production.omissions[0].subject == "b" && production.omissions[0].what.contains("in production"));
}

#[test]
fn everything_else_of_a_flag_is_reported() {
    let file = json!({
        "features": [{"name": "a", "type": "release", "project": "shop", "stale": true, "impressionData": true}],
        "featureEnvironments": [{"featureName": "a", "environment": "e", "enabled": true, "variants": [{"name": "red"}]}],
        "featureStrategies": [{"name": "default", "featureName": "a", "variants": [{"name": "blue"}]}],
        "featureTags": [{"featureName": "a", "tagType": "simple", "tagValue": "x"}],
        "dependencies": [{"feature": "a", "dependencies": [{"feature": "b", "enabled": true}]}],
        "contextFields": [{"name": "country"}],
    });
    let imported = read(file, None);
    assert_eq!(
        imported.omissions,
        [
            Omission::of_file("context fields: 1"),
            Omission::new(
                "a",
                "variants: 2; tags: 1; dependencies on other flags: 1; stale; impression data; type release; \
             project shop",
            ),
        ]
    );
}

#[test]
fn name_that_is_no_key_is_an_error() {
    let file = json!({"features": [{"name": "a~b", "enabled": true}, {"name": "c", "enabled": true}, {"name": "c"}]});
    let errors = errors(&file, None);
    assert!(errors[0].starts_with("features[0]: key must") && errors[1].contains("first at features[1]"), "{errors:?}");
    assert_eq!(errors.len(), 2);
}
