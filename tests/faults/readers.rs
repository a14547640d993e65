//! Those who follow: streams that break and are resumed by their cursors must have shown everything, once, in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use toggled::api::pb::*;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::load::{Caller, PATIENCE, PREFIX, may_pass};
use crate::support::Client;

/// How long to wait before a stream is opened again.
const PAUSE: Duration = Duration::from_millis(20);

/// What a reader has seen.
pub enum Seen {
    /// The flags at each revision that a stream came up to, by their keys.
    Flags(Vec<(i64, BTreeMap<String, FeatureFlag>)>),
    /// The entries of the log, all that came.
    Entries(Vec<AuditLog>),
}

/// A stream, and whoever opens it again.
pub struct Reader {
    reached: watch::Receiver<i64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Seen>,
}

/// A watcher and a reader of the log by way of each address.
pub fn start(addresses: &[SocketAddr]) -> Vec<Reader> {
    let each = (0..addresses.len()).flat_map(|turn| [(turn, true), (turn, false)]);
    let start = |(turn, watches)| {
        let ((reach, reached), (stop, stopped)) = (watch::channel(0), watch::channel(false));
        let caller = Caller::new(addresses, turn);
        let task = if watches {
            tokio::spawn(until(stopped, caller, Watcher::default(), reach))
        } else {
            tokio::spawn(until(stopped, caller, Follower::default(), reach))
        };
        Reader { reached, stop, task }
    };
    each.map(start).collect()
}

/// Waits until all have seen the log up to this revision; what they have seen.
pub async fn finish(readers: Vec<Reader>, end: i64) -> Vec<Seen> {
    let mut seen = Vec::new();
    for mut reader in readers {
        let there = async { reader.reached.wait_for(|reached| *reached >= end).await.is_ok() };
        // One that failed has said why.
        let there = timeout(PATIENCE, there).await.unwrap_or(false);
        assert!(there, "a stream did not reach revision {end} in {PATIENCE:?}");
        reader.stop.send_replace(true);
        seen.push(reader.task.await.expect("a reader failed"));
    }
    seen
}

/// A stream that can be resumed.
trait Stream: Send + Sync {
    type Message: Send;

    fn open(&self, client: Client) -> impl Future<Output = Result<tonic::Streaming<Self::Message>, Status>> + Send;

    /// Takes a message; where that has brought it.
    fn take(&mut self, message: Self::Message) -> i64;

    fn seen(self) -> Seen;
}

async fn until<S: Stream>(
    mut stop: watch::Receiver<bool>,
    mut caller: Caller,
    mut stream: S,
    reach: watch::Sender<i64>,
) -> Seen {
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return stream.seen(),
            broken = read(&mut caller, &mut stream, &reach) => assert!(may_pass(&broken), "a stream: {broken:?}"),
        }
        caller.next();
        sleep(PAUSE).await;
    }
}

async fn read<S: Stream>(caller: &mut Caller, stream: &mut S, reach: &watch::Sender<i64>) -> Status {
    let mut messages = match stream.open(caller.client()).await {
        Ok(messages) => messages,
        Err(status) => return status,
    };
    loop {
        match messages.message().await {
            Ok(Some(message)) => reach.send_replace(stream.take(message)),
            Ok(None) => panic!("a stream without an end has ended as if it were complete"),
            Err(status) => return status,
        };
    }
}

/// Flags, as they change.
#[derive(Default)]
struct Watcher {
    flags: BTreeMap<String, FeatureFlag>,
    history: Vec<(i64, BTreeMap<String, FeatureFlag>)>,
    cursor: Option<(i64, String, Vec<u8>)>,
}

impl Stream for Watcher {
    type Message = WatchFeatureFlagsResponse;

    async fn open(&self, mut client: Client) -> Result<tonic::Streaming<Self::Message>, Status> {
        let mut request = WatchFeatureFlagsRequest::default();
        if let Some((revision, log_id, hash)) = &self.cursor {
            (request.after_revision, request.log_id, request.after_hash) =
                (Some(*revision), Some(log_id.clone()), hash.clone());
        }
        Ok(client.toggle.watch_feature_flags(request).await?.into_inner())
    }

    fn take(&mut self, message: Self::Message) -> i64 {
        let behind = self.cursor.as_ref().map_or(0, |cursor| cursor.0);
        for flag in message.feature_flags.into_iter().filter(|flag| flag.key.starts_with(PREFIX)) {
            assert!(behind < flag.revision && flag.revision <= message.revision, "a change was shown again");
            self.flags.insert(flag.key.clone(), flag);
        }
        assert!(message.revision >= behind, "a stream ran backwards");
        if message.caught_up {
            self.history.push((message.revision, self.flags.clone()));
        }
        self.cursor = Some((message.revision, message.log_id, message.hash));
        message.revision
    }

    fn seen(self) -> Seen {
        Seen::Flags(self.history)
    }
}

/// The log, as it grows.
#[derive(Default)]
struct Follower {
    entries: Vec<AuditLog>,
    cursor: Option<(i64, String, Vec<u8>)>,
}

impl Stream for Follower {
    type Message = StreamAuditLogsResponse;

    async fn open(&self, mut client: Client) -> Result<tonic::Streaming<Self::Message>, Status> {
        let mut request = StreamAuditLogsRequest { follow: true, ..Default::default() };
        if let Some((revision, log_id, hash)) = self.cursor.clone() {
            (request.after_revision, request.log_id, request.after_hash) = (Some(revision), Some(log_id), Some(hash));
        }
        Ok(client.audit.stream_audit_logs(request).await?.into_inner())
    }

    fn take(&mut self, message: Self::Message) -> i64 {
        self.entries.extend(message.items);
        self.cursor = Some((message.through_revision, message.log_id, message.through_hash));
        message.through_revision
    }

    fn seen(self) -> Seen {
        Seen::Entries(self.entries)
    }
}
