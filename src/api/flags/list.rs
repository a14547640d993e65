//! ListFeatureFlags: which flags, of the state as it is or of one that was.

use super::past::AsOf;
use crate::api::paging::Paging;
use crate::api::pb;
use crate::api::validate::Fields;
use crate::domain::Revision;
use crate::domain::error::Error;
use crate::domain::flag::{Flag, Status};
use crate::domain::state::State;
use crate::domain::text::{FlagKey, Malformed};

/// ListFeatureFlags, parsed.
pub(super) struct List {
    pub paging: Paging<Place>,
    pub prefix: String,
    status: Option<Status>,
    include_archived: bool,
    pub min_revision: Option<Revision>,
    /// Absent for the present.
    pub as_of: Option<AsOf>,
}

/// Where a page ended.
pub(super) struct Place {
    /// At which flag.
    pub key: FlagKey,
    /// All pages of a past state are of this revision, however it was asked for.
    anchor: Option<Revision>,
}

impl Place {
    /// `checkout`, or `42 checkout` for a past state.
    fn parse(text: &str) -> Result<Self, Malformed> {
        let Some((anchor, key)) = text.split_once(' ') else {
            return Ok(Self { key: FlagKey::parse(text)?, anchor: None });
        };
        let anchor = anchor.parse().map_err(|_| Malformed("must begin with a revision"))?;
        Ok(Self { key: FlagKey::parse(key)?, anchor: Some(anchor) })
    }

    pub fn text(anchor: Revision, key: &FlagKey) -> String {
        format!("{anchor} {key}")
    }
}

impl List {
    pub fn parse(request: pb::ListFeatureFlagsRequest) -> Result<Self, Error> {
        let mut fields = Fields::default();
        let status = fields.status("status", request.status);
        if request.key_prefix.len() > 128 {
            fields.violate::<()>("key_prefix", "must be at most 128 characters");
        }
        let min_revision = fields.at_least("min_revision", 0, request.min_revision);
        let as_of = AsOf::parse(&mut fields, request.as_of_revision, request.as_of_time, min_revision);
        let scope = match as_of {
            None => format!("flags {} {} {}", request.status, request.include_archived, request.key_prefix),
            Some(as_of) => {
                format!("past {as_of:?} {} {} {}", request.status, request.include_archived, request.key_prefix)
            }
        };
        let paging = Paging::parse(&mut fields, request.page_size, &request.page_token, scope, Place::parse);
        let (prefix, include_archived) = (request.key_prefix, request.include_archived);
        let list = paging.map(|paging| {
            let anchor = paging.after.as_ref().and_then(|place| place.anchor);
            let as_of = anchor.map(AsOf::Revision).or(as_of);
            Self { paging, prefix, status, include_archived, min_revision, as_of }
        });
        fields.finish(list)
    }

    /// Whether a flag is to be listed.
    pub fn passes(&self, flag: &Flag) -> bool {
        self.status.is_none_or(|status| flag.status == status) && (self.include_archived || flag.archived_at.is_none())
    }

    /// The flag that the page begins after.
    pub fn after(&self) -> Option<&FlagKey> {
        self.paging.after.as_ref().map(|place| &place.key)
    }

    /// The page of the present.
    pub fn page(&self, state: &State) -> pb::ListFeatureFlagsResponse {
        let passing = state.flags(&self.prefix, self.after()).filter(|flag| self.passes(flag));
        let (feature_flags, next_page_token) = self.paging.page(passing, |flag| flag.key.to_string());
        pb::ListFeatureFlagsResponse { feature_flags, next_page_token, revision: state.head().revision }
    }
}
