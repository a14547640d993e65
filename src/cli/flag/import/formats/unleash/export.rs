//! The content of an Unleash export. There are two kinds: the older one of a whole instance (`/api/admin/state/export`),
//! and the newer one of an environment. In the first two versions of the older kind each flag has its own `enabled`.
//!
//! Each type names what decides about a flag's key, texts and status. All other fields are `unread`, and are reported.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::cli::flag::import::formats::document::{Entries, UnreadFields, list};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(super) struct Export {
    pub features: Vec<Feature>,
    #[serde(default, deserialize_with = "list")]
    pub feature_environments: Vec<FeatureEnvironment>,
    #[serde(default, deserialize_with = "list")]
    pub feature_strategies: Vec<Strategy>,
    #[serde(default, deserialize_with = "list")]
    pub feature_strategy_segments: Vec<StrategySegment>,
    #[serde(default, deserialize_with = "list")]
    pub dependencies: Vec<Dependencies>,
    #[serde(rename = "version")]
    _version: Option<IgnoredAny>,
    #[serde(flatten)]
    pub unread: UnreadFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(super) struct Feature {
    pub name: String,
    pub description: Option<String>,
    pub project: Option<String>,
    pub stale: Option<bool>,
    pub impression_data: Option<bool>,
    pub archived: Option<bool>,
    pub archived_at: Option<String>,
    /// The flags that it depends on. The newer export lists them in `Export::dependencies`.
    #[serde(default, deserialize_with = "list")]
    pub dependencies: Vec<Value>,
    // These two are here in the first two versions only.
    pub enabled: Option<bool>,
    #[serde(default, deserialize_with = "list")]
    pub strategies: Vec<Strategy>,
    #[serde(flatten)]
    pub unread: UnreadFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(super) struct FeatureEnvironment {
    pub feature_name: String,
    pub environment: String,
    pub enabled: bool,
    #[serde(default, deserialize_with = "list")]
    pub strategies: Vec<Strategy>,
    /// The flag's name once more.
    #[serde(rename = "name")]
    _name: Option<IgnoredAny>,
    #[serde(flatten)]
    pub unread: UnreadFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(super) struct Strategy {
    pub id: Option<String>,
    pub feature_name: Option<String>,
    pub environment: Option<String>,
    #[serde(alias = "strategyName")]
    pub name: String,
    pub parameters: Option<Entries<Value>>,
    pub disabled: Option<bool>,
    #[serde(default, deserialize_with = "list")]
    pub constraints: Vec<Value>,
    #[serde(default, deserialize_with = "list")]
    pub segments: Vec<Value>,
    #[serde(flatten)]
    pub unread: UnreadFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(super) struct StrategySegment {
    pub feature_strategy_id: String,
    pub segment_id: Value,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
pub(super) struct Dependencies {
    pub feature: String,
    #[serde(default, deserialize_with = "list")]
    pub dependencies: Vec<Value>,
    #[serde(flatten)]
    pub unread: UnreadFields,
}

impl Export {
    /// The environments that the export has statuses for.
    pub fn environments(&self) -> BTreeSet<&str> {
        self.feature_environments.iter().map(|it| it.environment.as_str()).collect()
    }
}

impl Strategy {
    pub fn is_disabled(&self) -> bool {
        self.disabled == Some(true)
    }

    /// Whether it turns the flag on for every user, if its segments listed elsewhere do not limit it.
    pub fn is_for_all(&self) -> bool {
        let all = match self.name.as_str() {
            "default" => true,
            "flexibleRollout" => self.parameter("rollout").is_some_and(is_hundred),
            _ => false,
        };
        all && self.constraints.is_empty() && self.segments.is_empty()
    }

    fn parameter(&self, name: &str) -> Option<&Value> {
        self.parameters.as_ref()?.get(name)
    }
}

/// Whether a rollout percentage is 100. It is a number, or a number in a string.
fn is_hundred(value: &Value) -> bool {
    value.as_str().map_or(value.as_f64(), |text| text.trim().parse().ok()) == Some(100.0)
}
