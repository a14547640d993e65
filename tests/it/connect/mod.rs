//! The Connect protocol and gRPC-Web: every service over plain HTTP.

mod cors;
mod early_answers;
mod get;
mod limits;
mod streams;
mod unary;

use toggled::api::pb::*;

use crate::support::web::Web;
use crate::support::{Backend, Client, Database, Server};

const TOGGLE: &str = "/toggled.v1.ToggleService/ToggleFeatureFlag";
const GET: &str = "/toggled.v1.ToggleService/GetFeatureFlag";
const LIST: &str = "/toggled.v1.ToggleService/ListFeatureFlags";
const WATCH: &str = "/toggled.v1.ToggleService/WatchFeatureFlags";

/// A server with the disabled flag `a`, and its clients over HTTP/1.1 and HTTP/2.
async fn start() -> (Database, Server, Client, [Web; 2]) {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let web = Web::both(server.address);
    (database, server, admin, web)
}

async fn is_enabled(admin: &mut Client, key: &str) -> bool {
    admin.get(key).await.status() == FeatureFlagStatus::Enabled
}
