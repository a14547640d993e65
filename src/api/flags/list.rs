//! ListFeatureFlags: pages of the present state or of a past one.

use std::sync::Arc;

use tonic::Status;

use crate::api::paging::PageRequest;
use crate::api::pb;
use crate::api::reader::{AsOf, StateReader};
use crate::api::validate::RequestValidator;
use crate::domain::Revision;
use crate::domain::error::Error;
use crate::domain::flag::{Flag, Status as FlagStatus};
use crate::domain::state::{EnvironmentScope, Head, State};
use crate::domain::text::{EnvironmentKey, FlagKey, Malformed};

/// The most flags that one query asks the database about.
const MAX_QUERY_SIZE: usize = 1_000;

/// ListFeatureFlags, parsed.
pub(super) struct FlagList {
    paging: PageRequest<PagePosition>,
    /// The environments that the request names, or else the caller's own.
    pub environments: Option<EnvironmentScope>,
    prefix: String,
    status: Option<FlagStatus>,
    include_archived: bool,
    pub min_revision: Option<Revision>,
    /// `None` means the present.
    pub as_of: Option<AsOf>,
}

/// Where a page ended.
struct PagePosition {
    /// The last flag on it.
    environment: EnvironmentKey,
    key: FlagKey,
    /// The revision of a past state. All pages show the same one, even if the request named a time.
    revision: Option<Revision>,
}

impl PagePosition {
    /// Parses `default checkout`, or `42 default checkout` for a past state.
    fn parse(text: &str) -> Result<Self, Malformed> {
        let parts: Vec<_> = text.split(' ').collect();
        let (revision, environment, key) = match *parts {
            [environment, key] => (None, environment, key),
            [revision, environment, key] => {
                let revision = revision.parse().map_err(|_| Malformed("must begin with a revision"))?;
                (Some(revision), environment, key)
            }
            _ => return Err(Malformed("must name an environment and a flag")),
        };
        Ok(Self { environment: EnvironmentKey::parse(environment)?, key: FlagKey::parse(key)?, revision })
    }
}

/// A flag's place in the list.
type FlagPosition<'a> = (&'a EnvironmentKey, &'a FlagKey);

impl FlagList {
    pub fn parse(request: pb::ListFeatureFlagsRequest, own: Option<&EnvironmentKey>) -> Result<Self, Error> {
        let mut validator = RequestValidator::default();
        let environments = validator.environments(request.environment.as_deref(), own);
        let status = validator.status("status", request.status);
        if request.key_prefix.len() > 128 {
            validator.reject::<()>("key_prefix", "must be at most 128 characters");
        }
        let min_revision = validator.at_least("min_revision", 0, request.min_revision);
        let as_of = AsOf::parse(&mut validator, request.as_of_revision, request.as_of_time, min_revision);
        let scope = format!(
            "flags {environments:?} {as_of:?} {} {} {}",
            request.status, request.include_archived, request.key_prefix
        );
        let paging =
            PageRequest::parse(&mut validator, request.page_size, &request.page_token, scope, PagePosition::parse);
        let (prefix, include_archived) = (request.key_prefix, request.include_archived);
        let list = paging.map(|paging| {
            let revision = paging.after.as_ref().and_then(|position| position.revision);
            let as_of = revision.map(AsOf::Revision).or(as_of);
            Self { paging, environments, prefix, status, include_archived, min_revision, as_of }
        });
        validator.finish(list)
    }

    fn matches(&self, flag: &Flag) -> bool {
        self.status.is_none_or(|status| flag.status == status) && (self.include_archived || flag.archived_at.is_none())
    }

    /// The flag that the page begins after.
    fn after(&self) -> Option<FlagPosition<'_>> {
        self.paging.after.as_ref().map(|position| (&position.environment, &position.key))
    }

    /// A page of the present state: flags of `scope`.
    pub fn page(&self, state: &State, scope: &EnvironmentScope) -> pb::ListFeatureFlagsResponse {
        let matching = state.flags(scope, &self.prefix, self.after()).filter(|flag| self.matches(flag));
        let position = |flag: &Flag| format!("{} {}", flag.environment, flag.key);
        let (feature_flags, next_page_token) = self.paging.page(matching, position);
        pb::ListFeatureFlagsResponse { feature_flags, next_page_token, revision: state.head().revision }
    }

    /// A page of the state at a past revision.
    pub async fn page_as_of(
        &self,
        reader: &StateReader,
        scope: &EnvironmentScope,
        revision: Revision,
    ) -> Result<pb::ListFeatureFlagsResponse, Status> {
        // One more flag than the page holds tells whether there is a next page.
        let (wanted, mut after) = (self.paging.size + 1, None::<Arc<Flag>>);
        let (mut found, mut query_size) = (Vec::new(), wanted.min(MAX_QUERY_SIZE));
        loop {
            let (flags, known) = reader.read(|state| -> (Vec<_>, Head) {
                let after = after.as_ref().map(|flag| (&flag.environment, &flag.key)).or(self.after());
                let flags = state.flags(scope, &self.prefix, after).take(query_size).cloned().collect();
                (flags, *state.head())
            })?;
            let is_last = flags.len() < query_size;
            after = flags.last().cloned();
            let past = reader.flags_as_of(flags, &known, revision).await?;
            found.extend(past.into_iter().filter(|past| self.matches(&past.flag)));
            if is_last || found.len() >= wanted {
                break;
            }
            query_size = MAX_QUERY_SIZE;
        }
        let position =
            |past: &crate::domain::history::PastFlag| format!("{revision} {} {}", past.flag.environment, past.flag.key);
        let (feature_flags, next_page_token) = self.paging.page(found.iter(), position);
        Ok(pb::ListFeatureFlagsResponse { feature_flags, next_page_token, revision })
    }
}
