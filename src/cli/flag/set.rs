//! `toggled flag enable` and `disable`. Several flags are set in one transaction.

use std::collections::HashSet;

use clap::Args;
use uuid::Uuid;

use super::change::{ChangeOptions, RevisionCondition, SingleChangeOptions, change_flag, make_change};
use super::selector::FlagSelector;
use crate::api::pb::*;
use crate::cli::output::SetResult;
use crate::cli::remote::SingleEnvironmentOption;
use crate::cli::{Failure, parse_uuid};

/// Arguments of `toggled flag enable` and `disable`.
#[derive(Args)]
#[command(mut_arg("expected_revision", |arg| arg.help("Make the change only if the flag is at this revision, so that no other change is \
overwritten; not for several flags")))]
pub(super) struct SetArgs {
    #[command(flatten)]
    flags: SelectedFlags,
    #[command(flatten)]
    environment: SingleEnvironmentOption,
    #[command(flatten)]
    condition: RevisionCondition,
    #[command(flatten)]
    options: SingleChangeOptions,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct SelectedFlags {
    /// The flags' keys, at most 1,000
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// The flag's id, instead of keys
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    id: Option<Uuid>,
}

impl SetArgs {
    pub async fn enable(self) -> Result<(), Failure> {
        let Some(flag) = self.single() else { return self.set_several(FeatureFlagStatus::Enabled).await };
        change_flag!(
            self.options,
            enable_feature_flag,
            EnableFeatureFlagRequest {
                flag: flag.into(),
                expected_revision: self.condition.expected_revision,
                environment: self.environment.text(),
            }
        )
    }

    pub async fn disable(self) -> Result<(), Failure> {
        let Some(flag) = self.single() else { return self.set_several(FeatureFlagStatus::Disabled).await };
        change_flag!(
            self.options,
            disable_feature_flag,
            DisableFeatureFlagRequest {
                flag: flag.into(),
                expected_revision: self.condition.expected_revision,
                environment: self.environment.text(),
            }
        )
    }

    /// The flag, if there is only one.
    fn single(&self) -> Option<FlagSelector> {
        match (self.flags.id, &*self.flags.keys) {
            (Some(id), _) => Some(FlagSelector::by_id(id)),
            (None, [key]) => Some(FlagSelector::by_key(key.clone())),
            (None, _) => None,
        }
    }

    async fn set_several(self, status: FeatureFlagStatus) -> Result<(), Failure> {
        if self.condition.expected_revision.is_some() {
            return Err(Failure::usage(
                "--expected-revision applies to a single flag; set several flags without it, or one by one",
            ));
        }
        let mut seen = HashSet::new();
        if let Some(duplicate) = self.flags.keys.iter().find(|key| !seen.insert(*key)) {
            return Err(Failure::usage(format!("the key {duplicate} is given twice; name each flag once")));
        }
        let item = |key| BatchSetItem {
            flag: Some(batch_set_item::Flag::Key(key)),
            status: status.into(),
            expected_revision: None,
            environment: self.environment.text(),
        };
        let items = self.flags.keys.into_iter().map(item).collect();
        let answer = make_change!(&self.options, toggle.batch_set_feature_flags, BatchSetFeatureFlagsRequest { items });
        let ChangeOptions { output, dry_run, .. } = self.options.change;
        output.print_all(&answer.results.into_iter().map(|result| SetResult { result, dry_run }).collect::<Vec<_>>())
    }
}
