//! Applies a plan. Every change requires that its flag still has the revision at which it was compared.

use std::collections::HashMap;
use std::fmt::Display;

use futures::future::join_all;
use indicatif::ProgressBar;
use prost_types::FieldMask;

use super::plan::{ChangeStep, FlagChange, TextEdit, TextEdits};
use crate::api::pb::*;
use crate::cli::Failure;
use crate::cli::flag::change::change_request;
use crate::cli::flag::name::FlagName;
use crate::cli::flag::selector::FlagSelector;
use crate::cli::remote::ApiClient;
use crate::domain::Revision;
use crate::domain::flag::Status;

/// How many calls are in progress at once, as long as the server does not limit them.
const CONCURRENT_CALLS: usize = 16;

/// How many flags are created or set in one call: the most that the server accepts.
const BATCH_SIZE: usize = 1_000;

/// How long the flags that are created in one call may be, encoded: half of what the server accepts.
const MAX_BATCH_BYTES: usize = 2 << 20;

/// The most that a flag takes besides its texts: the key of its environment, tags and lengths.
const ITEM_BYTES: usize = 128;

/// Makes the calls that apply a plan to a server.
pub(super) struct PlanRunner<'a> {
    client: &'a ApiClient,
    reason: &'a str,
    progress: &'a ProgressBar,
    /// The current revision of each flag.
    revisions: HashMap<&'a FlagName, Revision>,
    /// How many steps have succeeded.
    pub done: usize,
}

impl<'a> PlanRunner<'a> {
    pub fn new(client: &'a ApiClient, reason: &'a str, progress: &'a ProgressBar) -> Self {
        Self { client, reason, progress, revisions: HashMap::new(), done: 0 }
    }

    /// Applies all changes, one kind of step after the other, so that flips can be batched. After an error no further
    /// calls are made; those in progress are completed.
    pub async fn apply(&mut self, changes: &'a [FlagChange]) -> Result<(), Failure> {
        self.revisions = changes.iter().filter_map(|change| Some((&change.name, change.revision?))).collect();
        let (client, reason) = (self.client, self.reason);
        let created = steps(changes, |step| if let ChangeStep::Create(content) = step { Some(content) } else { None });
        let items = created.iter().map(|(name, content)| BatchCreateItem {
            key: name.key.clone(),
            name: content.name.clone(),
            description: content.description.clone(),
            status: FeatureFlagStatus::from(content.status).into(),
            environment: name.environment.clone(),
        });
        let names: Vec<_> = created.iter().map(|(name, _)| *name).collect();
        self.create(&names, items.collect()).await?;
        let unarchived = steps(changes, |step| (*step == ChangeStep::Unarchive).then_some(()));
        self.call_each(&unarchived, async |name, revision, ()| unarchive(client, name, revision, reason).await).await?;
        let updated = steps(changes, |step| if let ChangeStep::Update(edits) = step { Some(edits) } else { None });
        self.call_each(&updated, async |name, revision, edits| update(client, name, revision, edits, reason).await)
            .await?;
        let set = steps(changes, |step| if let ChangeStep::SetStatus(status) = step { Some(*status) } else { None });
        self.set_statuses(&set).await?;
        let archived = steps(changes, |step| (*step == ChangeStep::Archive).then_some(()));
        self.call_each(&archived, async |name, revision, ()| archive(client, name, revision, reason).await).await
    }

    /// Makes a call for each step. `call` takes the flag's name, the revision that it must have, and the step.
    async fn call_each<T: Copy>(
        &mut self,
        steps: &[(&'a FlagName, T)],
        call: impl AsyncFn(&FlagName, Option<Revision>, T) -> Result<Option<FeatureFlag>, Failure>,
    ) -> Result<(), Failure> {
        let mut remaining = steps;
        while !remaining.is_empty() {
            // Once the server has limited the rate of changes, concurrent calls only delay each other.
            let concurrent = if self.client.is_rate_limited() { 1 } else { CONCURRENT_CALLS };
            let (current, rest) = remaining.split_at(concurrent.min(remaining.len()));
            remaining = rest;
            let calls = current.iter().map(|(name, step)| call(name, self.revisions.get(name).copied(), *step));
            let mut result = Ok(());
            for ((name, _), outcome) in current.iter().zip(join_all(calls).await) {
                match outcome {
                    Ok(flag) => self.record(name, flag.unwrap_or_default().revision),
                    Err(failure) => result = result.and(Err(with_subject(name, failure))),
                }
            }
            result?;
        }
        Ok(())
    }

    /// Creates flags, as many in one call as it can hold.
    async fn create(&mut self, mut names: &[&'a FlagName], mut items: Vec<BatchCreateItem>) -> Result<(), Failure> {
        while !items.is_empty() {
            let rest = items.split_off(batch_length(&items));
            let batch = std::mem::replace(&mut items, rest);
            let (created, remaining) = names.split_at(batch.len().min(names.len()));
            names = remaining;
            let request = change_request!(self.reason, BatchCreateFeatureFlagsRequest { items: batch });
            let call = self
                .client
                .call(request, async |clients, request| clients.toggle.batch_create_feature_flags(request).await);
            let answer = call.await.map_err(|failure| match created {
                [name] => with_subject(name, failure),
                _ => with_subject(format_args!("creating {} flags in one call", created.len()), failure),
            })?;
            for (name, result) in created.iter().zip(answer.results) {
                self.record(name, result.revision);
            }
        }
        Ok(())
    }

    async fn set_statuses(&mut self, steps: &[(&'a FlagName, Status)]) -> Result<(), Failure> {
        for batch in steps.chunks(BATCH_SIZE) {
            let item = |(name, status): &(&FlagName, Status)| BatchSetItem {
                flag: Some(batch_set_item::Flag::Key(name.key.clone())),
                status: FeatureFlagStatus::from(*status).into(),
                expected_revision: self.revisions.get(name).copied(),
                environment: name.environment.clone(),
            };
            let request =
                change_request!(self.reason, BatchSetFeatureFlagsRequest { items: batch.iter().map(item).collect() });
            let call = self
                .client
                .call(request, async |clients, request| clients.toggle.batch_set_feature_flags(request).await);
            let answer = call.await.map_err(|failure| match batch {
                [(name, _)] => with_subject(name, failure),
                _ => with_subject(format_args!("setting {} flags in one call", batch.len()), failure),
            })?;
            for ((name, _), result) in batch.iter().zip(answer.results) {
                self.record(name, result.revision);
            }
        }
        Ok(())
    }

    /// Records a step that has succeeded, and the revision that it has given the flag.
    fn record(&mut self, name: &'a FlagName, revision: Revision) {
        self.revisions.insert(name, revision);
        self.done += 1;
        self.progress.inc(1);
    }
}

/// How many of these flags fit into one call, at least one.
fn batch_length(items: &[BatchCreateItem]) -> usize {
    let mut bytes = 0;
    let fitting = items.iter().take(BATCH_SIZE).take_while(|item| {
        bytes += ITEM_BYTES + item.key.len() + item.name.len() + item.description.len();
        bytes <= MAX_BATCH_BYTES
    });
    fitting.count().max(1)
}

async fn update(
    client: &ApiClient,
    name: &FlagName,
    revision: Option<Revision>,
    edits: &TextEdits,
    reason: &str,
) -> Result<Option<FeatureFlag>, Failure> {
    let edited = [("name", &edits.name), ("description", &edits.description)];
    let paths = edited.iter().filter(|(_, edit)| edit.is_some()).map(|(field, _)| (*field).to_owned()).collect();
    let new_text = |edit: &Option<TextEdit>| edit.as_ref().map(|edit| edit.new.clone()).unwrap_or_default();
    let request = change_request!(
        reason,
        UpdateFeatureFlagRequest {
            flag: FlagSelector::by_key(name.key.clone()).into(),
            name: new_text(&edits.name),
            description: new_text(&edits.description),
            update_mask: Some(FieldMask { paths }),
            expected_revision: revision,
            environment: name.environment.clone(),
        }
    );
    let call = client.call(request, async |clients, request| clients.toggle.update_feature_flag(request).await);
    Ok(call.await?.feature_flag)
}

async fn archive(
    client: &ApiClient,
    name: &FlagName,
    revision: Option<Revision>,
    reason: &str,
) -> Result<Option<FeatureFlag>, Failure> {
    let (flag, environment) = (FlagSelector::by_key(name.key.clone()).into(), name.environment.clone());
    let request = change_request!(reason, ArchiveFeatureFlagRequest { flag, expected_revision: revision, environment });
    let call = client.call(request, async |clients, request| clients.toggle.archive_feature_flag(request).await);
    Ok(call.await?.feature_flag)
}

async fn unarchive(
    client: &ApiClient,
    name: &FlagName,
    revision: Option<Revision>,
    reason: &str,
) -> Result<Option<FeatureFlag>, Failure> {
    let (flag, environment) = (FlagSelector::by_key(name.key.clone()).into(), name.environment.clone());
    let request =
        change_request!(reason, UnarchiveFeatureFlagRequest { flag, expected_revision: revision, environment });
    let call = client.call(request, async |clients, request| clients.toggle.unarchive_feature_flag(request).await);
    Ok(call.await?.feature_flag)
}

/// All steps of one kind, each with the name of its flag.
fn steps<'a, T>(changes: &'a [FlagChange], kind: fn(&'a ChangeStep) -> Option<T>) -> Vec<(&'a FlagName, T)> {
    let all = changes.iter().flat_map(|change| change.steps.iter().map(|step| (&change.name, step)));
    all.filter_map(|(name, step)| Some((name, kind(step)?))).collect()
}

/// The failure of a step, which says which flag it was about.
fn with_subject(subject: impl Display, failure: Failure) -> Failure {
    Failure { code: failure.code, message: format!("{subject}: {}", failure.message) }
}
