//! Single sign-on: settings, users, tokens, and outages of the issuer.

mod request_owner;
mod settings;
mod tokens;
mod users;

use std::time::{SystemTime, UNIX_EPOCH};

use toggled::api::pb::*;
use tonic::Status;

use crate::support::{Database, Issuer, Server, with_timeout};

/// A server that accepts tokens of this issuer.
async fn start(issuer: &Issuer, database: &Database, more: &[(&str, &str)]) -> Server {
    let settings: Vec<_> = issuer.settings().into_iter().chain(more.iter().copied()).collect();
    let mut server = Server::launch(&database.url, &settings).await;
    server.ready().await;
    with_timeout("the keys to be fetched", issuer.wait_for_key_requests(1)).await;
    // The keys are used only some time after they were fetched.
    let token = issuer.token(&issuer.claims("nobody@example.com", &[]));
    server.client(Some(&token)).await.wait_until_authenticated().await;
    server
}

async fn who_am_i(server: &Server, token: &str) -> Result<WhoAmIResponse, Status> {
    server.client(Some(token)).await.access.who_am_i(WhoAmIRequest {}).await.map(tonic::Response::into_inner)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
