//! The content of an Unleash export. There are two kinds: the older one of a whole instance (`/api/admin/state/export`),
//! and the newer one of an environment. In the first two versions of the older kind each flag has its own `enabled`.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Export {
    pub features: Vec<Feature>,
    #[serde(default, deserialize_with = "list")]
    pub feature_environments: Vec<FeatureEnvironment>,
    #[serde(default, deserialize_with = "list")]
    pub feature_strategies: Vec<Strategy>,
    #[serde(default, deserialize_with = "list")]
    pub feature_strategy_segments: Vec<StrategySegment>,
    #[serde(default, deserialize_with = "list")]
    pub feature_tags: Vec<Tag>,
    #[serde(default, deserialize_with = "list")]
    pub dependencies: Vec<Dependencies>,
    #[serde(default, deserialize_with = "list")]
    pub segments: Vec<Value>,
    #[serde(default, deserialize_with = "list")]
    pub strategies: Vec<Value>,
    #[serde(default, deserialize_with = "list")]
    pub context_fields: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Feature {
    pub name: String,
    pub description: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub project: Option<String>,
    pub stale: Option<bool>,
    pub impression_data: Option<bool>,
    pub archived: Option<bool>,
    pub archived_at: Option<String>,
    // These three are here in the first two versions only.
    pub enabled: Option<bool>,
    #[serde(default, deserialize_with = "list")]
    pub strategies: Vec<Strategy>,
    #[serde(default, deserialize_with = "list")]
    pub variants: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FeatureEnvironment {
    pub feature_name: String,
    pub environment: String,
    pub enabled: bool,
    #[serde(default, deserialize_with = "list")]
    pub variants: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Strategy {
    pub id: Option<String>,
    pub feature_name: Option<String>,
    pub environment: Option<String>,
    #[serde(alias = "strategyName")]
    pub name: String,
    pub parameters: Option<Map<String, Value>>,
    pub disabled: Option<bool>,
    #[serde(default, deserialize_with = "list")]
    pub constraints: Vec<Value>,
    #[serde(default, deserialize_with = "list")]
    pub segments: Vec<Value>,
    #[serde(default, deserialize_with = "list")]
    pub variants: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StrategySegment {
    pub feature_strategy_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tag {
    pub feature_name: String,
}

#[derive(Deserialize)]
pub(super) struct Dependencies {
    pub feature: String,
    #[serde(default, deserialize_with = "list")]
    pub dependencies: Vec<Value>,
}

/// Reads null as an empty list.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Export {
    /// The environments that the export has statuses for.
    pub fn environments(&self) -> BTreeSet<&str> {
        self.feature_environments.iter().map(|it| it.environment.as_str()).collect()
    }
}

impl Strategy {
    /// Whether it turns the flag on for every user, if its segments listed elsewhere do not limit it.
    pub fn is_for_all(&self) -> bool {
        let all = match self.name.as_str() {
            "default" => true,
            "flexibleRollout" => self.parameters.as_ref().and_then(|all| all.get("rollout")).is_some_and(is_hundred),
            _ => false,
        };
        all && self.constraints.is_empty() && self.segments.is_empty()
    }
}

/// Whether a rollout percentage is 100. It is a number, or a number in a string.
fn is_hundred(value: &Value) -> bool {
    value.as_str().map_or(value.as_f64(), |text| text.trim().parse().ok()) == Some(100.0)
}
