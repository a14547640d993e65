//! The arguments that select a flag.

use clap::Args;
use uuid::Uuid;

use crate::api::pb;
use crate::cli::parse_uuid;

/// A flag, by its key or its id.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(super) struct FlagSelector {
    /// The flag's key
    key: Option<String>,
    /// The flag's id, instead of the key
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    id: Option<Uuid>,
}

// Every request has a type of its own for the flag.
macro_rules! convert_into {
    ($($module:ident),* $(,)?) => {
        $(impl From<FlagSelector> for Option<pb::$module::Flag> {
            fn from(selector: FlagSelector) -> Self {
                let id = selector.id.map(|id| pb::$module::Flag::Id(id.to_string()));
                id.or(selector.key.map(pb::$module::Flag::Key))
            }
        })*
    };
}

convert_into!(
    toggle_feature_flag_request,
    enable_feature_flag_request,
    disable_feature_flag_request,
    update_feature_flag_request,
    archive_feature_flag_request,
    unarchive_feature_flag_request,
    get_feature_flag_request,
);

impl FlagSelector {
    pub fn by_key(key: String) -> Self {
        Self { key: Some(key), id: None }
    }

    pub fn by_id(id: Uuid) -> Self {
        Self { key: None, id: Some(id) }
    }
}
