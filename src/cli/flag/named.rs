//! Which flag a command is about.

use clap::Args;
use uuid::Uuid;

use crate::api::pb;

/// A flag, by key or by id.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Named {
    /// The flag's key
    key: Option<String>,
    /// The flag's id, instead of its key
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
}

// Each request has a type of its own for it.
macro_rules! named {
    ($($module:ident),* $(,)?) => {
        $(impl From<Named> for Option<pb::$module::Flag> {
            fn from(named: Named) -> Self {
                let id = named.id.map(|id| pb::$module::Flag::Id(id.to_string()));
                id.or(named.key.map(pb::$module::Flag::Key))
            }
        })*
    };
}

named!(
    toggle_feature_flag_request,
    enable_feature_flag_request,
    disable_feature_flag_request,
    update_feature_flag_request,
    archive_feature_flag_request,
    unarchive_feature_flag_request,
    get_feature_flag_request,
);

impl Named {
    /// The flag with this key.
    pub fn by_key(key: String) -> Self {
        Self { key: Some(key), id: None }
    }

    /// The flag with this id.
    pub fn by_id(id: Uuid) -> Self {
        Self { key: None, id: Some(id) }
    }
}
