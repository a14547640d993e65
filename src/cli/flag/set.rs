//! `toggled flag enable` and `disable`: one flag or several. Several are set all together or not at all.

use std::collections::HashSet;

use clap::Args;
use uuid::Uuid;

use super::change::{Condition, Manner, change, change_request};
use super::named::Named;
use crate::api::pb::*;
use crate::cli::Failure;
use crate::cli::output::WasSet;

/// Arguments of `toggled flag enable` and `disable`.
#[derive(Args)]
pub(super) struct Set {
    /// The flags' keys, at most 1,000
    #[arg(value_name = "KEY", required_unless_present = "id", conflicts_with = "id")]
    keys: Vec<String>,
    /// A flag's id, instead of keys
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
    #[command(flatten)]
    condition: Condition,
    #[command(flatten)]
    manner: Manner,
}

impl Set {
    pub async fn enable(self) -> Result<(), Failure> {
        let Some(named) = self.one() else { return self.several(FeatureFlagStatus::Enabled).await };
        change!(
            self.manner,
            enable_feature_flag,
            EnableFeatureFlagRequest { flag: named.into(), expected_revision: self.condition.expected_revision }
        )
    }

    pub async fn disable(self) -> Result<(), Failure> {
        let Some(named) = self.one() else { return self.several(FeatureFlagStatus::Disabled).await };
        change!(
            self.manner,
            disable_feature_flag,
            DisableFeatureFlagRequest { flag: named.into(), expected_revision: self.condition.expected_revision }
        )
    }

    fn one(&self) -> Option<Named> {
        match (self.id, &*self.keys) {
            (Some(id), _) => Some(Named::by_id(id)),
            (None, [key]) => Some(Named::by_key(key.clone())),
            (None, _) => None,
        }
    }

    async fn several(self, status: FeatureFlagStatus) -> Result<(), Failure> {
        if self.condition.expected_revision.is_some() {
            return Err(Failure::usage("--expected-revision is for one flag: each has a revision of its own"));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.keys.iter().find(|key| !seen.insert(*key)) {
            return Err(Failure::usage(format!("the key {twice} is given twice")));
        }
        let item = |key| BatchSetItem {
            flag: Some(batch_set_item::Flag::Key(key)),
            status: status.into(),
            expected_revision: None,
        };
        let remote = self.manner.caller.connect().await?;
        let items = self.keys.into_iter().map(item).collect();
        let request = change_request!(self.manner.reason, self.manner.dry_run, BatchSetFeatureFlagsRequest { items });
        let answer = remote
            .retrying(request, async |clients, request| clients.toggle.batch_set_feature_flags(request).await)
            .await?;
        let dry_run = self.manner.dry_run;
        self.manner.output.all(&answer.results.into_iter().map(|result| WasSet { result, dry_run }).collect::<Vec<_>>())
    }
}
