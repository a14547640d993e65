use serde_json::{Value, json};

use super::*;

fn read(file: Value, environment: Option<&str>) -> Contents {
    parse(&file.to_string(), environment)
}

/// One flag in one environment, on, with these strategies.
fn strategies(strategies: Value) -> Contents {
    let mut strategies = strategies;
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
fn a_flag_that_is_on_for_everybody_is_on() {
    for given in [
        json!([]),
        json!([{"name": "default"}]),
        json!([{"strategyName": "default", "parameters": {}, "constraints": [], "environment": "production"}]),
        json!([{"name": "flexibleRollout", "parameters": {"rollout": "100", "stickiness": "default"}}]),
        json!([{"name": "flexibleRollout", "parameters": {"rollout": 100}, "segments": null}]),
        json!([{"name": "userWithId", "environment": "development"}]),
    ] {
        let contents = strategies(given.clone());
        assert_eq!((contents.lost, contents.faults), (Vec::new(), Vec::new()), "{given}");
        assert_eq!(contents.flags[0].status, Some(Status::Enabled), "{given}");
    }
}

#[test]
fn a_flag_that_is_on_for_some_is_left_as_it_is() {
    for given in [
        json!([{"name": "userWithId", "parameters": {"userIds": "7"}}]),
        json!([{"name": "flexibleRollout", "parameters": {"rollout": "99"}}]),
        json!([{"name": "flexibleRollout"}]),
        json!([{"name": "default", "constraints": [{"contextName": "country"}]}]),
        json!([{"name": "default", "segments": [1]}]),
    ] {
        let contents = strategies(given.clone());
        assert_eq!(contents.flags[0].status, None, "{given}");
        assert!(contents.lost[0].what.contains("on for some only"), "{given}: {:?}", contents.lost);
    }
    let both = strategies(json!([{"name": "default"}, {"name": "userWithId"}]));
    assert_eq!((both.flags[0].status, both.lost[0].what.as_str()), (Some(Status::Enabled), "strategies: userWithId"));
}

#[test]
fn strategies_that_are_disabled_are_told_and_say_nothing_of_who_has_the_flag() {
    let beside = strategies(json!([{"name": "default"}, {"name": "userWithId", "disabled": true}]));
    assert_eq!(
        (beside.flags[0].status, beside.lost[0].what.as_str()),
        (Some(Status::Enabled), "disabled strategies: userWithId")
    );
    let alone = strategies(json!([{"name": "default", "disabled": true}]));
    assert_eq!(alone.flags[0].status, None);
    assert!(alone.lost[0].what.contains("all its strategies are disabled (default)"), "{:?}", alone.lost);
}

#[test]
fn segments_of_the_older_export_stand_apart() {
    let file = json!({
        "version": 4,
        "features": [{"name": "a"}],
        "featureStrategies": [{"id": "s", "featureName": "a", "environment": "default", "strategyName": "default"}],
        "featureEnvironments": [{"featureName": "a", "environment": "default", "enabled": true}],
        "segments": [{"id": 1, "name": "some"}],
        "featureStrategySegments": [{"featureStrategyId": "s", "segmentId": 1}],
    });
    let contents = read(file, None);
    assert_eq!(contents.flags[0].status, None);
    assert_eq!(contents.lost[0], Lost::new("the file", "segments: 1"));
}

#[test]
fn the_first_versions_have_no_environments() {
    let file = json!({
        "version": 1,
        "features": [
            {"name": "a", "description": "A", "enabled": true, "strategies": [{"name": "default"}]},
            {"name": "b", "description": null, "enabled": false, "strategies": [{"name": "userWithId"}], "archived": true},
        ],
        "strategies": [],
    });
    let contents = read(file.clone(), None);
    assert_eq!(contents.faults, Vec::<String>::new());
    let [a, b] = &contents.flags[..] else { panic!("{:?}", contents.flags) };
    assert_eq!((a.status, a.archived, a.description.as_ref().unwrap().as_str()), (Some(Status::Enabled), None, "A"));
    assert_eq!((b.status, b.archived, b.description.as_ref()), (Some(Status::Disabled), Some(true), None));
    assert!(read(file, Some("default")).faults[0].contains("no environments"));
}

#[test]
fn of_several_environments_one_is_picked() {
    let file = json!({
        "features": [{"name": "a"}, {"name": "b"}],
        "featureEnvironments": [
            {"featureName": "a", "environment": "production", "enabled": false},
            {"featureName": "a", "environment": "development", "enabled": true},
            {"featureName": "b", "environment": "development", "enabled": true},
        ],
    });
    for (asked, expected) in
        [(None, "out of development, production"), (Some("staging"), "only development, production")]
    {
        let faults = read(file.clone(), asked).faults;
        assert!(faults.len() == 1 && faults[0].contains(expected), "{faults:?}");
    }
    let development = read(file.clone(), Some("development"));
    assert!(development.lost.is_empty() && development.flags.iter().all(|flag| flag.status == Some(Status::Enabled)));
    let production = read(file, Some("production"));
    let told: Vec<_> = production.flags.iter().map(|flag| flag.status).collect();
    assert_eq!(told, [Some(Status::Disabled), None]);
    assert!(production.lost[0].of == "b" && production.lost[0].what.contains("in production"));
}

#[test]
fn all_else_that_it_says_of_a_flag_is_told() {
    let file = json!({
        "features": [{"name": "a", "type": "release", "project": "shop", "stale": true, "impressionData": true}],
        "featureEnvironments": [{"featureName": "a", "environment": "e", "enabled": true, "variants": [{"name": "red"}]}],
        "featureStrategies": [{"name": "default", "featureName": "a", "variants": [{"name": "blue"}]}],
        "featureTags": [{"featureName": "a", "tagType": "simple", "tagValue": "x"}],
        "dependencies": [{"feature": "a", "dependencies": [{"feature": "b", "enabled": true}]}],
        "contextFields": [{"name": "country"}],
    });
    let contents = read(file, None);
    assert_eq!(
        contents.lost,
        [
            Lost::new("the file", "context fields: 1"),
            Lost::new(
                "a",
                "variants: 2; tags: 1; dependencies on other flags: 1; that it is stale; impression data; its type, release; \
             its project, shop",
            ),
        ]
    );
}

#[test]
fn names_that_no_key_can_be_are_faults() {
    let file = json!({"features": [{"name": "a~b", "enabled": true}, {"name": "c", "enabled": true}, {"name": "c"}]});
    let faults = read(file, None).faults;
    assert!(
        faults[0].starts_with("features[0]: key must") && faults[1].contains("at features[1] already"),
        "{faults:?}"
    );
    assert_eq!(faults.len(), 2);
}
