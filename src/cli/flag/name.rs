//! How commands on several environments name a flag.

use std::fmt;

use crate::api::pb::FeatureFlag;

/// A flag's environment and key. Without an environment, the server decides which one is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FlagName {
    pub environment: Option<String>,
    pub key: String,
}

impl FlagName {
    pub fn of(flag: &FeatureFlag) -> Self {
        Self { environment: Some(flag.environment.clone()), key: flag.key.clone() }
    }
}

impl fmt::Display for FlagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.environment {
            Some(environment) => write!(f, "{environment}/{}", self.key),
            None => f.write_str(&self.key),
        }
    }
}
