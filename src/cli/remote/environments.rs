//! The environments of a server, as the caller sees them.

use super::ApiClient;
use crate::api::pb::{Environment, ListEnvironmentsRequest, WhoAmIRequest};
use crate::cli::Failure;

/// The largest page that the server sends.
const PAGE_SIZE: i32 = 1_000;

impl ApiClient {
    /// The environments in which the caller holds any permission, sorted by key.
    pub async fn environments(&self, include_archived: bool) -> Result<Vec<Environment>, Failure> {
        let mut request = ListEnvironmentsRequest { page_size: PAGE_SIZE, include_archived, ..Default::default() };
        let mut environments = Vec::new();
        loop {
            let page = request.clone();
            let page =
                self.call(page, async |clients, page| clients.environments.list_environments(page).await).await?;
            environments.extend(page.environments);
            request.page_token = page.next_page_token;
            request.min_revision = Some(page.revision);
            if request.page_token.is_empty() {
                return Ok(environments);
            }
        }
    }

    /// The credential's own environment, if it has one.
    pub async fn own_environment(&self) -> Result<Option<String>, Failure> {
        let me = self.call(WhoAmIRequest {}, async |clients, request| clients.access.who_am_i(request).await).await?;
        Ok(me.environment)
    }

    /// The environment that a comparison and the changes after it are about: the named one, that of the credential, or the only one.
    /// With several, a change must name one: an unset variable would otherwise change production.
    pub async fn environment_to_change(&self, named: Option<String>) -> Result<Option<String>, Failure> {
        if named.is_some() {
            return Ok(named);
        }
        let own = self.own_environment().await?;
        if own.is_some() {
            return Ok(own);
        }
        let mut keys: Vec<_> = self.environments(true).await?.into_iter().map(|environment| environment.key).collect();
        if keys.len() > 1 {
            let keys = keys.join(", ");
            return Err(Failure::usage(format!(
                "there are several environments: name one of them with --environment (-e, TOGGLED_ENVIRONMENT): {keys}"
            )));
        }
        Ok(keys.pop())
    }
}
