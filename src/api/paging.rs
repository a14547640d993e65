//! Pages of what is read in the order of a key.

use std::sync::Arc;

use prost::Message;

use super::PAGE_BYTES;
use super::validate::Fields;
use crate::domain::page;
use crate::domain::text::Malformed;

const DEFAULT_SIZE: i32 = 100;
const LARGEST_SIZE: i32 = 1_000;

/// Which page is wanted.
pub(super) struct Paging<K> {
    /// At most so many.
    pub size: usize,
    /// It begins after this key.
    pub after: Option<K>,
    /// What its token is good for.
    scope: String,
}

impl<K> Paging<K> {
    /// From the two fields that every list has. A token is good for the same `scope` alone.
    pub fn parse(
        fields: &mut Fields,
        size: i32,
        token: &str,
        scope: String,
        key: fn(&str) -> Result<K, Malformed>,
    ) -> Option<Self> {
        let size = fields.between("page_size", 1, LARGEST_SIZE, if size == 0 { DEFAULT_SIZE } else { size });
        let after = Some(token).filter(|token| !token.is_empty()).and_then(|token| {
            let key = page::decode_key(&scope, token, key);
            key.map_or_else(|rule| fields.violate("page_token", rule.0), Some)
        });
        Some(Self { size: usize::try_from(size?).ok()?, after, scope })
    }

    /// How many objects tell the page and whether there is a next.
    pub fn wanted(&self) -> i64 {
        i64::try_from(self.size).unwrap_or(i64::MAX).saturating_add(1)
    }

    /// The page of `objects`, which begin after its key, and the token of the next.
    pub fn page<'a, T: 'a, M: Message + From<&'a Arc<T>>>(
        &self,
        objects: impl Iterator<Item = &'a Arc<T>>,
        key: impl Fn(&T) -> String,
    ) -> (Vec<M>, String) {
        let mut bytes = 0;
        let mut page = Vec::new();
        let mut last: Option<&Arc<T>> = None;
        for object in objects {
            if let Some(last) = last.filter(|_| page.len() == self.size || bytes > PAGE_BYTES) {
                return (page, page::encode_key(&self.scope, &key(last)));
            }
            let message = M::from(object);
            bytes += message.encoded_len();
            page.push(message);
            last = Some(object);
        }
        (page, String::new())
    }
}
