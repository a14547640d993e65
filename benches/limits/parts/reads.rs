//! Reads, compared with a bare tonic server that gives the same answers without checking credentials.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use toggled::api::pb::flagd::evaluation::v2::ResolveBooleanRequest;
use toggled::api::pb::flagd::evaluation::v2::service_client::ServiceClient;
use toggled::api::pb::{DESCRIPTORS, GetFeatureFlagResponse};

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::Rig;
use crate::rig::bare::Answers;
use crate::rig::callers::Callers;
use crate::rig::h2load::Calls;
use crate::rig::requests::{GET, read_request, token, with_token};
use crate::rig::server::Server;
use crate::rig::watchers::observe_change;

const RESOLVE: &str = "/flagd.evaluation.v2.Service/ResolveBoolean";

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, requests) = (rig.scale.rounds, rig.scale.reads);
    let served = rig.main_server().await?;
    let answers = answers(&served.callers).await?;
    let bare = Server::bare(&answers).await?;
    let bare_callers = Callers::connect(bare.address).await?;
    if bare_callers.flag_1().await? != answers.flag || value(&bare_callers).await? != answers.value {
        return Err("the answer of the bare server differs".into());
    }
    let calls = [
        ("GetFeatureFlag with a token", Calls::new(GET, &read_request(), &answers.flag, requests)?),
        ("flagd's ResolveBoolean with a token", Calls::new(RESOLVE, &value_request(), &answers.value, requests)?),
    ];
    let against = "a bare tonic server, same answer, no token checked";
    let mut rows = calls.map(|(name, calls)| (calls, Row::compared(name, against, "/s", Goal::AtLeast(0.85, 0.95))));
    for _ in 0..rounds {
        for (calls, row) in &mut rows {
            let measured = calls.load(served.server.address).await?;
            row.add(measured, calls.load(bare.address).await?);
        }
    }
    rows.into_iter().for_each(|(_, row)| report.add(row));
    let by_connect = Calls::json(GET, r#"{"key":"flag-1"}"#, json_length(&answers.flag)?, requests)?;
    let by_grpc = Calls::new(GET, &read_request(), &answers.flag, requests)?;
    let mut row = Row::compared("GetFeatureFlag as JSON by Connect", "the same by gRPC", "/s", Goal::Informational);
    for _ in 0..rounds {
        let measured = by_connect.load(served.server.address).await?;
        row.add(measured, by_grpc.load(served.server.address).await?);
    }
    report.add(row);
    Ok(())
}

/// The length of an answer in JSON.
fn json_length(answer: &GetFeatureFlagResponse) -> Result<usize> {
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let descriptor = pool.get_message_by_name("toggled.v1.GetFeatureFlagResponse").ok_or("no such message")?;
    let message = DynamicMessage::decode(descriptor, &*answer.encode_to_vec())?;
    Ok(serde_json::to_vec(&message)?.len())
}

/// The service's answers, for the bare server to repeat.
pub async fn answers(callers: &Callers) -> Result<Answers> {
    let change = observe_change(callers.address).await?;
    Ok(Answers { flag: callers.flag_1().await?, value: value(callers).await?, change })
}

type Value = toggled::api::pb::flagd::evaluation::v2::ResolveBooleanResponse;

async fn value(callers: &Callers) -> Result<Value> {
    let mut client = ServiceClient::new(callers.channel(0));
    Ok(client.resolve_boolean(with_token(value_request(), &token()?)).await?.into_inner())
}

fn value_request() -> ResolveBooleanRequest {
    ResolveBooleanRequest { flag_key: "flag-1".to_owned(), ..Default::default() }
}
