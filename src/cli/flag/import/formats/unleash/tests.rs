use serde_json::{Value, json};

use super::*;

fn read(file: Value, environment: Option<&str>) -> ImportedFlags {
    parse(&file.to_string(), &options(environment)).unwrap()
}

fn errors(file: &Value, environment: Option<&str>) -> ParseErrors {
    parse(&file.to_string(), &options(environment)).unwrap_err()
}

fn options(environment: Option<&str>) -> ParseOptions {
    ParseOptions { from_environment: environment.map(str::to_owned), ..ParseOptions::default() }
}

/// The report, as the preview shows it.
fn report(imported: &ImportedFlags) -> Vec<String> {
    imported.omissions.iter().map(|omission| format!("{}: {omission}", omission.subject)).collect()
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
        let last = report(&imported).pop().unwrap();
        assert!(last.starts_with("a: on for some users only ("), "{given}: {last}");
    }
    let both = with_strategies(json!([{"name": "default"}, {"name": "userWithId", "parameters": {"userIds": "7"}}]));
    assert_eq!(both.flags[0].status, Some(Status::Enabled));
    assert_eq!(
        report(&both),
        [
            r#"the file: featureStrategies[].name: 1, such as "userWithId" of a"#,
            r#"the file: featureStrategies[].parameters: 1, such as {"userIds":"7"} of a"#,
        ]
    );
}

#[test]
fn disabled_strategy_is_reported_and_ignored() {
    let beside = with_strategies(json!([{"name": "default"}, {"name": "userWithId", "disabled": true}]));
    assert_eq!(beside.flags[0].status, Some(Status::Enabled));
    assert_eq!(
        report(&beside),
        [
            "the file: featureStrategies[].disabled: 1, such as true of a",
            r#"the file: featureStrategies[].name: 1, such as "userWithId" of a"#,
        ]
    );
    let alone = with_strategies(json!([{"name": "default", "disabled": true}]));
    assert_eq!(alone.flags[0].status, None);
    assert_eq!(report(&alone).pop().unwrap(), "a: all strategies disabled (default): status not imported");
}

#[test]
fn flag_with_a_release_plan_keeps_status() {
    let file = |fields: Value, of_environment: Value| {
        let mut file = json!({
            "features": [{"name": "a"}, {"name": "b"}, {"name": "off"}],
            "featureEnvironments": [
                {"featureName": "a", "environment": "e", "enabled": true},
                {"featureName": "b", "environment": "e", "enabled": true},
                {"featureName": "off", "environment": "e", "enabled": false},
            ],
        });
        file.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        file["featureEnvironments"][0].as_object_mut().unwrap().extend(of_environment.as_object().unwrap().clone());
        read(file, None)
    };
    let milestones = json!([{"name": "first", "strategies": [{"name": "flexibleRollout"}]}]);
    let plan = |flag: &str, environment: &str| json!({"featureName": flag, "environment": environment, "milestones": milestones});
    for (fields, of_environment) in [
        (json!({"releasePlans": [plan("a", "e"), plan("off", "e"), plan("b", "other")]}), json!({})),
        (json!({"milestones": [{"feature": "a"}]}), json!({})),
        (json!({}), json!({"milestones": milestones})),
        (json!({}), json!({"releasePlans": [{"name": "p"}]})),
    ] {
        let imported = file(fields, of_environment);
        let statuses: Vec<_> = imported.flags.iter().map(|flag| flag.status).collect();
        assert_eq!(statuses, [None, Some(Status::Enabled), Some(Status::Disabled)]);
        let report = report(&imported);
        assert_eq!(report.last().unwrap(), "a: a release plan decides who gets it: status not imported", "{report:?}");
        assert!(report[0].contains("releasePlans") || report[0].contains("milestones"), "{report:?}");
    }
}

#[test]
fn flag_that_depends_on_another_keeps_status() {
    let file = |dependencies: Value| {
        json!({
            "features": [{"name": "child"}, {"name": "parent"}],
            "featureEnvironments": [
                {"featureName": "child", "environment": "e", "enabled": true},
                {"featureName": "parent", "environment": "e", "enabled": false},
            ],
            "dependencies": [{"feature": "child", "dependencies": dependencies}],
        })
    };
    for dependency in [
        json!({"feature": "parent", "enabled": true}),
        json!({"feature": "parent", "enabled": false}),
        json!({"feature": "parent", "variants": ["red"]}),
    ] {
        let imported = read(file(json!([dependency])), None);
        let statuses: Vec<_> = imported.flags.iter().map(|flag| flag.status).collect();
        assert_eq!(statuses, [None, Some(Status::Disabled)], "{dependency}");
        assert_eq!(
            report(&imported),
            [
                format!("the file: dependencies[]: 1, such as {dependency} of child"),
                "child: depends on parent: status not imported".to_owned(),
            ]
        );
    }
    assert_eq!(read(file(json!([])), None).flags[0].status, Some(Status::Enabled));
    let inside = json!({"features": [{"name": "a", "enabled": true, "dependencies": ["b", {"feature": "c"}]}]});
    assert_eq!(report(&read(inside, None)).pop().unwrap(), "a: depends on b, c: status not imported");
}

#[test]
fn flag_that_is_off_is_off_whatever_it_depends_on() {
    let file = json!({
        "features": [{"name": "a"}],
        "featureEnvironments": [{"featureName": "a", "environment": "e", "enabled": false}],
        "featureStrategies": [{"name": "userWithId", "featureName": "a"}],
        "dependencies": [{"feature": "a", "dependencies": [{"feature": "b"}]}],
    });
    let imported = read(file, None);
    assert_eq!(imported.flags[0].status, Some(Status::Disabled));
    assert_eq!(report(&imported).len(), 2, "the dependency and the strategy: {:?}", imported.omissions);
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
    assert!(report(&imported).contains(&r#"the file: segments[]: 1, such as {"id":1,"name":"some"}"#.to_owned()));
    assert!(report(&imported).contains(&"the file: featureStrategySegments[].segmentId: 1, such as 1".to_owned()));
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

fn several_environments() -> Value {
    json!({
        "features": [{"name": "a", "type": "release"}, {"name": "b"}],
        "featureEnvironments": [
            {"featureName": "a", "environment": "Production", "enabled": false},
            {"featureName": "a", "environment": "development", "enabled": true},
            {"featureName": "b", "environment": "development", "enabled": true},
        ],
        "featureStrategies": [
            {"name": "default", "featureName": "a", "environment": "staging"},
            {"name": "default", "featureName": "a", "environment": "development", "title": "all"},
            {"name": "default", "featureName": "a", "environment": "Production", "title": "all"},
        ],
    })
}

/// Each flag's environment, key and status.
fn statuses(imported: &ImportedFlags) -> Vec<(&str, &str, Option<Status>)> {
    let flags = imported.flags.iter();
    flags.map(|flag| (flag.environment.as_deref().unwrap_or_default(), flag.key.as_str(), flag.status)).collect()
}

#[test]
fn several_environments_are_read_whole() {
    let imported = read(several_environments(), None);
    let (on, off) = (Some(Status::Enabled), Some(Status::Disabled));
    let expected =
        [("production", "a", off), ("production", "b", None), ("development", "a", on), ("development", "b", on)];
    assert_eq!(statuses(&imported), expected);
    assert_eq!(
        report(&imported),
        [
            r#"the file: featureStrategies[] of other environments: 1, such as "staging" of a"#,
            r#"the file: featureStrategies[].title: 2, such as "all" of a"#,
            r#"the file: features[].type: 1, such as "release" of a"#,
            "b: no status in Production: status not imported",
        ]
    );
    assert_eq!(imported.omissions[3].environment.as_deref(), Some("production"));
}

#[test]
fn one_of_several_environments_is_read() {
    let missing = errors(&several_environments(), Some("staging"));
    assert!(missing.len() == 1 && missing[0].contains("the file has Production, development"), "{missing:?}");
    let development = read(several_environments(), Some("development"));
    assert!(development.flags.iter().all(|flag| flag.status == Some(Status::Enabled)));
    assert_eq!(
        report(&development)[..2],
        [
            r#"the file: featureEnvironments[] of other environments: 1, such as "Production" of a"#,
            r#"the file: featureStrategies[] of other environments: 2, such as "staging" of a"#,
        ]
    );
    let into = |target: &str| {
        let options = ParseOptions { target: Some(target.to_owned()), ..ParseOptions::default() };
        parse(&several_environments().to_string(), &options)
    };
    let production = into("production").unwrap();
    assert_eq!(statuses(&production), [("production", "a", Some(Status::Disabled)), ("production", "b", None)]);
    assert!(into("elsewhere").unwrap_err()[0].contains("has those of Production, development"));
}

#[test]
fn environments_that_would_have_one_key_are_an_error() {
    let file = |names: [&str; 2]| {
        let statuses = names.map(|name| json!({"featureName": "a", "environment": name, "enabled": true}));
        json!({"features": [{"name": "a"}], "featureEnvironments": statuses})
    };
    for (names, expected) in [(["A b", "a-b"], "would both be a-b"), (["a", "\u{65b0}"], "no key can be made of")] {
        let errors = errors(&file(names), None);
        assert!(errors.len() == 1 && errors[0].contains(expected), "{errors:?}");
    }
}

#[test]
fn every_other_field_is_reported_once_with_an_example() {
    let feature =
        |name: &str| json!({"name": name, "type": "release", "project": "shop", "stale": true, "nameless": null});
    let file = json!({
        "features": [feature("a"), feature("b"), {"name": "c", "project": "default", "stale": false, "impressionData": true}],
        "featureEnvironments": [
            {"featureName": "a", "environment": "e", "enabled": true, "name": "a", "variants": [{"name": "red"}]},
            {"featureName": "b", "environment": "e", "enabled": false, "safeguards": [{"id": "s"}]},
            {"featureName": "c", "environment": "e", "enabled": true},
            {"featureName": "gone", "environment": "e", "enabled": true},
        ],
        "featureStrategies": [
            {"name": "default", "featureName": "a", "title": "everyone", "variants": [{"name": "blue"}], "sortOrder": 0},
            {"name": "default"},
        ],
        "featureTags": [{"featureName": "a", "tagType": "simple", "tagValue": "x"}, {"featureName": "b", "tagValue": "x"}],
        "contextFields": [{"name": "country", "description": "where the user lives, as two letters of ISO 3166"}],
        "links": [{"feature": "a", "links": [{"url": "https://example.com"}]}],
        "tagTypes": [{"name": "simple"}],
        "segments": [],
        "newest": {"x": 1},
    });
    let imported = read(file, None);
    let statuses: Vec<_> = imported.flags.iter().map(|flag| flag.status).collect();
    assert_eq!(statuses, [Some(Status::Enabled), Some(Status::Disabled), Some(Status::Enabled)]);
    let expected = [
        r#"contextFields[]: 1, such as {"description":"where the user lives, as two letters of I..."#,
        r#"featureEnvironments[] of flags that the file lacks: 1, such as "gone""#,
        r#"featureEnvironments[].safeguards: 1, such as [{"id":"s"}] of b"#,
        r#"featureEnvironments[].variants: 1, such as [{"name":"red"}] of a"#,
        r#"featureStrategies[] of flags that the file lacks: 1, such as "none""#,
        r#"featureStrategies[].sortOrder: 1, such as 0 of a"#,
        r#"featureStrategies[].title: 1, such as "everyone" of a"#,
        r#"featureStrategies[].variants: 1, such as [{"name":"blue"}] of a"#,
        r#"featureTags[]: 2, such as {"featureName":"a","tagType":"simple","tagValue":"x"}"#,
        "features[].impressionData: 1, such as true of c",
        r#"features[].project: 2, such as "shop" of a"#,
        "features[].stale: 2, such as true of a",
        r#"features[].type: 2, such as "release" of a"#,
        r#"links[]: 1, such as {"feature":"a","links":[{"url":"https://example.com"}]}"#,
        r#"newest: 1, such as {"x":1}"#,
        r#"tagTypes[]: 1, such as {"name":"simple"}"#,
    ];
    assert_eq!(report(&imported), expected.map(|line| format!("the file: {line}")));
}

#[test]
fn contradictions_are_errors() {
    let status = |enabled: bool| json!({"featureName": "a", "environment": "e", "enabled": enabled});
    let features = json!([{"name": "a", "archived": false, "archivedAt": "2026-01-01T00:00:00Z"}]);
    for (file, expected) in [
        (
            json!({"features": [{"name": "a"}], "featureEnvironments": [status(true), status(false)]}),
            "featureEnvironments[1]: a second status",
        ),
        (json!({"features": features}), "features[0]: archived is false, but archivedAt is set"),
    ] {
        let errors = errors(&file, None);
        assert!(errors.len() == 1 && errors[0].starts_with(expected), "{errors:?}");
    }
}

#[test]
fn name_that_is_no_key_is_an_error() {
    let file = json!({"features": [{"name": "a~b", "enabled": true}, {"name": "c", "enabled": true}, {"name": "c"}]});
    let errors = errors(&file, None);
    assert!(errors[0].starts_with("features[0]: key must") && errors[1].contains("first at features[1]"), "{errors:?}");
    assert_eq!(errors.len(), 2);
}

#[test]
fn yaml_is_read_like_json() {
    let text = "version: 4\nfeatures:\n  - {name: a, description: 7, stale: no}\nfeatureEnvironments:\n  - featureName: a\n    \
                environment: e\n    enabled: true\n";
    assert!(
        parse(text, &options(None)).unwrap_err()[0].contains("line 3"),
        "YAML 1.1's words for true and false are refused"
    );
    let imported = parse(&text.replace("no}", "true}"), &options(None)).unwrap();
    assert_eq!(imported.flags[0].status, Some(Status::Enabled));
    assert_eq!(imported.flags[0].description.as_ref().unwrap().as_str(), "7");
    assert_eq!(report(&imported), ["the file: features[].stale: 1, such as true of a"]);
}
