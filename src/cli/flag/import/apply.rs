//! Applies a plan. Every change requires that its flag still has the revision at which it was compared.

use std::collections::HashMap;

use futures::future::join_all;
use indicatif::ProgressBar;
use prost_types::FieldMask;

use super::plan::{ChangeStep, FlagChange, FlagContent, TextEdit, TextEdits};
use crate::api::pb::*;
use crate::cli::Failure;
use crate::cli::flag::change::change_request;
use crate::cli::flag::selector::FlagSelector;
use crate::cli::remote::ApiClient;
use crate::domain::Revision;
use crate::domain::flag::Status;

/// How many calls are in progress at once, as long as the server does not limit them.
const CONCURRENT_CALLS: usize = 16;

/// How many flags are set in one call: the most that the server accepts.
const BATCH_SIZE: usize = 1_000;

/// Makes the calls that apply a plan to a server.
pub(super) struct PlanRunner<'a> {
    client: &'a ApiClient,
    reason: &'a str,
    progress: &'a ProgressBar,
    /// The current revision of each flag.
    revisions: HashMap<&'a str, Revision>,
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
        self.revisions = changes.iter().filter_map(|change| Some((change.key.as_str(), change.revision?))).collect();
        let (client, reason) = (self.client, self.reason);
        let created = steps(changes, |step| if let ChangeStep::Create(content) = step { Some(content) } else { None });
        self.call_each(&created, async |key, _, content| create(client, key, content, reason).await).await?;
        let unarchived = steps(changes, |step| (*step == ChangeStep::Unarchive).then_some(()));
        self.call_each(&unarchived, async |key, revision, ()| unarchive(client, key, revision, reason).await).await?;
        let updated = steps(changes, |step| if let ChangeStep::Update(edits) = step { Some(edits) } else { None });
        self.call_each(&updated, async |key, revision, edits| update(client, key, revision, edits, reason).await)
            .await?;
        let set = steps(changes, |step| if let ChangeStep::SetStatus(status) = step { Some(*status) } else { None });
        self.set_statuses(&set).await?;
        let archived = steps(changes, |step| (*step == ChangeStep::Archive).then_some(()));
        self.call_each(&archived, async |key, revision, ()| archive(client, key, revision, reason).await).await
    }

    /// Makes a call for each step. `call` takes the flag's key, the revision that it must have, and the step.
    async fn call_each<T: Copy>(
        &mut self,
        steps: &[(&'a str, T)],
        call: impl AsyncFn(&str, Option<Revision>, T) -> Result<Option<FeatureFlag>, Failure>,
    ) -> Result<(), Failure> {
        let mut remaining = steps;
        while !remaining.is_empty() {
            // Once the server has limited the rate of changes, concurrent calls only delay each other.
            let concurrent = if self.client.is_rate_limited() { 1 } else { CONCURRENT_CALLS };
            let (current, rest) = remaining.split_at(concurrent.min(remaining.len()));
            remaining = rest;
            let calls = current.iter().map(|(key, step)| call(key, self.revisions.get(key).copied(), *step));
            let mut result = Ok(());
            for ((key, _), outcome) in current.iter().zip(join_all(calls).await) {
                match outcome {
                    Ok(flag) => self.record(key, flag.unwrap_or_default().revision),
                    Err(failure) => result = result.and(Err(with_subject(key, failure))),
                }
            }
            result?;
        }
        Ok(())
    }

    async fn set_statuses(&mut self, steps: &[(&'a str, Status)]) -> Result<(), Failure> {
        for batch in steps.chunks(BATCH_SIZE) {
            let item = |(key, status): &(&str, Status)| BatchSetItem {
                flag: Some(batch_set_item::Flag::Key((*key).to_owned())),
                status: FeatureFlagStatus::from(*status).into(),
                expected_revision: self.revisions.get(key).copied(),
                environment: None,
            };
            let request =
                change_request!(self.reason, BatchSetFeatureFlagsRequest { items: batch.iter().map(item).collect() });
            let call = self
                .client
                .call(request, async |clients, request| clients.toggle.batch_set_feature_flags(request).await);
            let answer = call.await.map_err(|failure| match batch {
                [(key, _)] => with_subject(key, failure),
                _ => with_subject(&format!("setting {} flags in one call", batch.len()), failure),
            })?;
            for ((key, _), result) in batch.iter().zip(answer.results) {
                self.record(key, result.revision);
            }
        }
        Ok(())
    }

    /// Records a step that has succeeded, and the revision that it has given the flag.
    fn record(&mut self, key: &'a str, revision: Revision) {
        self.revisions.insert(key, revision);
        self.done += 1;
        self.progress.inc(1);
    }
}

async fn create(
    client: &ApiClient,
    key: &str,
    content: &FlagContent,
    reason: &str,
) -> Result<Option<FeatureFlag>, Failure> {
    let request = change_request!(
        reason,
        CreateFeatureFlagRequest {
            key: key.to_owned(),
            name: content.name.clone(),
            description: content.description.clone(),
            status: FeatureFlagStatus::from(content.status).into(),
        }
    );
    let call = client.call(request, async |clients, request| clients.toggle.create_feature_flag(request).await);
    Ok(call.await?.feature_flag)
}

async fn update(
    client: &ApiClient,
    key: &str,
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
            flag: FlagSelector::by_key(key.to_owned()).into(),
            name: new_text(&edits.name),
            description: new_text(&edits.description),
            update_mask: Some(FieldMask { paths }),
            expected_revision: revision,
        }
    );
    let call = client.call(request, async |clients, request| clients.toggle.update_feature_flag(request).await);
    Ok(call.await?.feature_flag)
}

async fn archive(
    client: &ApiClient,
    key: &str,
    revision: Option<Revision>,
    reason: &str,
) -> Result<Option<FeatureFlag>, Failure> {
    let flag = FlagSelector::by_key(key.to_owned()).into();
    let request = change_request!(reason, ArchiveFeatureFlagRequest { flag, expected_revision: revision });
    let call = client.call(request, async |clients, request| clients.toggle.archive_feature_flag(request).await);
    Ok(call.await?.feature_flag)
}

async fn unarchive(
    client: &ApiClient,
    key: &str,
    revision: Option<Revision>,
    reason: &str,
) -> Result<Option<FeatureFlag>, Failure> {
    let flag = FlagSelector::by_key(key.to_owned()).into();
    let request = change_request!(reason, UnarchiveFeatureFlagRequest { flag, expected_revision: revision });
    let call = client.call(request, async |clients, request| clients.toggle.unarchive_feature_flag(request).await);
    Ok(call.await?.feature_flag)
}

/// All steps of one kind, each with the key of its flag.
fn steps<'a, T>(changes: &'a [FlagChange], kind: fn(&'a ChangeStep) -> Option<T>) -> Vec<(&'a str, T)> {
    let all = changes.iter().flat_map(|change| change.steps.iter().map(|step| (change.key.as_str(), step)));
    all.filter_map(|(key, step)| Some((key, kind(step)?))).collect()
}

/// The failure of a step, which says which flag it was about.
fn with_subject(subject: &str, failure: Failure) -> Failure {
    Failure { code: failure.code, message: format!("{subject}: {}", failure.message) }
}
