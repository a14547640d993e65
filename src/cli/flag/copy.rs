//! `toggled flag copy`: makes the flags of one environment what they are in another. It creates and changes flags, and never removes
//! or archives any.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;

use super::change::ChangeOptions;
use super::import::{Confirmation, ImportPlan, ImportedFlag, Omission, PlanWords, Review};
use super::name::FlagName;
use crate::api::pb::{FeatureFlag, FeatureFlagStatus};
use crate::cli::remote::{ApiClient, environment_key};
use crate::cli::{EXIT_NOT_FOUND, Failure, progress};
use crate::domain::flag::Status;
use crate::domain::text::{Description, EnvironmentKey, FlagKey, Malformed, Name};

type FlagsByKey = BTreeMap<String, FeatureFlag>;

/// Arguments of `toggled flag copy`.
#[derive(Args)]
pub(super) struct CopyArgs {
    /// The flags' keys; by default all flags that are not archived
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// The environment to copy from, by its key
    #[arg(long, value_name = "ENVIRONMENT", value_parser = environment_key)]
    from: EnvironmentKey,
    /// The environment to copy to, by its key
    #[arg(long, value_name = "ENVIRONMENT", value_parser = environment_key)]
    to: EnvironmentKey,
    /// Do not ask for confirmation; required to make changes without a terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

impl CopyArgs {
    pub async fn run(self) -> Result<(), Failure> {
        if self.from == self.to {
            return Err(Failure::usage(format!("--from and --to are both {}; name two environments", self.from)));
        }
        let client = self.options.connection.connect().await?.waiting_for_rate_limits();
        let environments = client.environments(true).await?;
        let mut source = self.flags(&client, &self.from).await?;
        if let Some(key) = self.keys.iter().find(|key| !source.contains_key(*key)) {
            let message = format!("{} has no flag with the key {key}", self.from);
            return Err(Failure { code: EXIT_NOT_FOUND, message });
        }
        let mut target = self.flags(&client, &self.to).await?;
        let omissions = self.leave_out_archived(&mut source, &mut target);
        let wanted: Result<Vec<_>, _> = source.values().map(|flag| self.copied(flag)).collect();
        let wanted =
            wanted.map_err(|Malformed(rule)| Failure::usage(format!("{} has a flag that {rule}", self.from)))?;
        let target = target.into_values().map(|flag| (FlagName::of(&flag), flag)).collect();
        let plan = ImportPlan::new(&wanted, &target);
        let review = Review {
            client: &client,
            environments: &environments,
            options: &self.options,
            confirmation: Confirmation::new(self.yes, false),
            omissions: &omissions,
            words: &PlanWords { only_on_server: "only in the target, kept", omitted: "not copied" },
        };
        review.apply(&plan).await
    }

    /// The flags of an environment by key: those that are copied.
    async fn flags(&self, client: &ApiClient, environment: &EnvironmentKey) -> Result<FlagsByKey, Failure> {
        let spinner = progress::spinner(&format!("reading flags of {environment}"));
        let all = client.all_flags(Some(environment.to_string()), &spinner).await?;
        let keys: BTreeSet<_> = self.keys.iter().collect();
        let copied = all.flags.into_iter().filter(|flag| keys.is_empty() || keys.contains(&flag.key));
        Ok(copied.map(|flag| (flag.key.clone(), flag)).collect())
    }

    /// Removes the flags that are archived on either side from both, and reports those of the source: a copy neither archives nor
    /// unarchives.
    fn leave_out_archived(&self, source: &mut FlagsByKey, target: &mut FlagsByKey) -> Vec<Omission> {
        let mut archived = BTreeMap::new();
        for (environment, flags) in [(&self.to, &*target), (&self.from, &*source)] {
            let keys = flags.values().filter(|flag| flag.archived_at.is_some()).map(|flag| flag.key.clone());
            archived.extend(keys.map(|key| (key, environment)));
        }
        let of_source = archived.iter().filter(|(key, _)| source.contains_key(*key));
        let omissions = of_source.map(|(key, environment)| self.not_copied(key, environment)).collect();
        source.retain(|key, _| !archived.contains_key(key));
        target.retain(|key, _| !archived.contains_key(key));
        omissions
    }

    /// What the flag in the target should be. Whether it is archived there stays as it is.
    fn copied(&self, flag: &FeatureFlag) -> Result<ImportedFlag, Malformed> {
        let status = match flag.status() {
            FeatureFlagStatus::Enabled => Some(Status::Enabled),
            FeatureFlagStatus::Disabled => Some(Status::Disabled),
            FeatureFlagStatus::Unspecified => None,
        };
        Ok(ImportedFlag {
            environment: Some(self.to.to_string()),
            key: FlagKey::parse(&flag.key)?,
            name: Some(Name::parse(&flag.name)?),
            description: Some(Description::parse(&flag.description)?),
            status,
            archived: None,
        })
    }

    fn not_copied(&self, key: &str, archived_in: &EnvironmentKey) -> Omission {
        let unarchive = if *archived_in == self.to { "; unarchive it first" } else { "" };
        Omission::new(Some(self.to.as_str()), key, format!("archived in {archived_in}{unarchive}"))
    }
}
