//! Makes the changes, each on condition that the flag is still what it was compared as.

use std::collections::HashMap;

use futures::future::join_all;
use indicatif::ProgressBar;

use super::call::To;
use super::plan::{Change, Step};
use crate::api::pb::*;
use crate::cli::Failure;
use crate::cli::remote::{Remote, request_id};
use crate::domain::Revision;
use crate::domain::flag::Status;

/// So many single changes are under way at once.
const AT_ONCE: usize = 16;

/// So many flags are set at once: all that the server takes in one request.
const BATCH: usize = 1_000;

/// An import under way.
pub(super) struct Import<'a> {
    remote: &'a Remote,
    reason: &'a str,
    bar: &'a ProgressBar,
    /// The revisions that the flags are at.
    revisions: HashMap<&'a str, Revision>,
    /// How many steps are done.
    pub done: usize,
}

impl<'a> Import<'a> {
    pub fn new(remote: &'a Remote, reason: &'a str, bar: &'a ProgressBar) -> Self {
        Self { remote, reason, bar, revisions: HashMap::new(), done: 0 }
    }

    /// Makes all changes, one kind after the other, so that flips can go together. It ends at the first that fails, when
    /// those that are under way with it are over.
    pub async fn apply(&mut self, changes: &'a [Change]) -> Result<(), Failure> {
        self.revisions = changes.iter().filter_map(|change| Some((change.key.as_str(), change.revision?))).collect();
        let new = steps(changes, |step| if let Step::Create(new) = step { Some(new) } else { None });
        self.singly(&new, async |to, new| to.create(new).await).await?;
        let unarchived = steps(changes, |step| (*step == Step::Unarchive).then_some(()));
        self.singly(&unarchived, async |to, ()| to.unarchive().await).await?;
        let edits = steps(changes, |step| if let Step::Update(edits) = step { Some(edits) } else { None });
        self.singly(&edits, async |to, edits| to.update(edits).await).await?;
        self.set(&steps(changes, |step| if let Step::Set(status) = step { Some(*status) } else { None })).await?;
        let archived = steps(changes, |step| (*step == Step::Archive).then_some(()));
        self.singly(&archived, async |to, ()| to.archive().await).await
    }

    async fn singly<T: Copy>(
        &mut self,
        steps: &[(&'a str, T)],
        call: impl AsyncFn(To<'_>, T) -> Result<Option<FeatureFlag>, Failure>,
    ) -> Result<(), Failure> {
        let mut left = steps;
        while !left.is_empty() {
            // Once the server has sent any away, those that are made together only stand in each other's way.
            let at_once = if self.remote.is_limited() { 1 } else { AT_ONCE };
            let (some, rest) = left.split_at(at_once.min(left.len()));
            left = rest;
            let calls = some.iter().map(|(key, what)| {
                let revision = self.revisions.get(key).copied();
                call(To { remote: self.remote, key, revision, reason: self.reason }, *what)
            });
            let mut first = Ok(());
            for ((key, _), outcome) in some.iter().zip(join_all(calls).await) {
                match outcome {
                    Ok(flag) => self.is_done(key, flag.unwrap_or_default().revision),
                    Err(failure) => first = first.and(Err(about(key, failure))),
                }
            }
            first?;
        }
        Ok(())
    }

    async fn set(&mut self, steps: &[(&'a str, Status)]) -> Result<(), Failure> {
        for some in steps.chunks(BATCH) {
            let item = |(key, status): &(&str, Status)| BatchSetItem {
                flag: Some(batch_set_item::Flag::Key((*key).to_owned())),
                status: FeatureFlagStatus::from(*status).into(),
                expected_revision: self.revisions.get(key).copied(),
            };
            let request = BatchSetFeatureFlagsRequest {
                items: some.iter().map(item).collect(),
                reason: self.reason.to_owned(),
                request_id: request_id(),
                validate_only: false,
            };
            let call =
                self.remote.retrying(request, async |to, request| to.toggle.batch_set_feature_flags(request).await);
            let answer = call.await.map_err(|failure| match some {
                [(key, _)] => about(key, failure),
                _ => about(&format!("{} flags to turn on or off together", some.len()), failure),
            })?;
            for ((key, _), result) in some.iter().zip(answer.results) {
                self.is_done(key, result.revision);
            }
        }
        Ok(())
    }

    fn is_done(&mut self, key: &'a str, revision: Revision) {
        self.revisions.insert(key, revision);
        self.done += 1;
        self.bar.inc(1);
    }
}

/// What is to be done of one kind, with the key of the flag.
fn steps<'a, T>(changes: &'a [Change], kind: fn(&'a Step) -> Option<T>) -> Vec<(&'a str, T)> {
    let all = changes.iter().flat_map(|change| change.steps.iter().map(|step| (change.key.as_str(), step)));
    all.filter_map(|(key, step)| Some((key, kind(step)?))).collect()
}

fn about(what: &str, failure: Failure) -> Failure {
    Failure { code: failure.code, line: format!("{what}: {}", failure.line) }
}
