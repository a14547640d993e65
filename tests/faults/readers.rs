//! Stream readers. A stream that breaks is resumed by its cursor; together the messages must show every change once, in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use toggled::api::pb::*;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::load::{KEY_PREFIX, RetryingClient, TIMEOUT, is_retryable};
use crate::support::Client;

/// The delay before a stream is reopened.
const REOPEN_DELAY: Duration = Duration::from_millis(20);

/// What a reader has received.
pub enum Observed {
    /// The flags of all environments by id, at each revision to which the stream was caught up.
    Flags(Vec<(i64, BTreeMap<String, FeatureFlag>)>),
    /// All entries.
    Entries(Vec<AuditLog>),
}

/// A task that reads a stream and reopens it when it breaks.
pub struct Reader {
    reached: watch::Receiver<i64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Observed>,
}

/// Starts a watcher and a follower of the log on each address.
pub fn start(addresses: &[SocketAddr]) -> Vec<Reader> {
    let each = (0..addresses.len()).flat_map(|turn| [(turn, true), (turn, false)]);
    let start = |(turn, watches)| {
        let ((reach, reached), (stop, stopped)) = (watch::channel(0), watch::channel(false));
        let caller = RetryingClient::new(addresses, turn);
        let task = if watches {
            tokio::spawn(until(stopped, caller, Watcher::default(), reach))
        } else {
            tokio::spawn(until(stopped, caller, Follower::default(), reach))
        };
        Reader { reached, stop, task }
    };
    each.map(start).collect()
}

/// Waits until all readers have reached a revision, stops them, and returns what they received.
pub async fn finish(readers: Vec<Reader>, end: i64) -> Vec<Observed> {
    let mut seen = Vec::new();
    for mut reader in readers {
        let there = async { reader.reached.wait_for(|reached| *reached >= end).await.is_ok() };
        // A reader that panicked has printed its message.
        let there = timeout(TIMEOUT, there).await.unwrap_or(false);
        assert!(there, "a stream did not reach revision {end} in {TIMEOUT:?}");
        reader.stop.send_replace(true);
        seen.push(reader.task.await.expect("no reader panics"));
    }
    seen
}

/// A stream that can be resumed.
trait Stream: Send + Sync {
    type Message: Send;

    fn open(&self, client: Client) -> impl Future<Output = Result<tonic::Streaming<Self::Message>, Status>> + Send;

    /// Records a message, and returns the revision that it reaches.
    fn take(&mut self, message: Self::Message) -> i64;

    fn observed(self) -> Observed;
}

async fn until<S: Stream>(
    mut stop: watch::Receiver<bool>,
    mut caller: RetryingClient,
    mut stream: S,
    reach: watch::Sender<i64>,
) -> Observed {
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return stream.observed(),
            broken = read(&mut caller, &mut stream, &reach) => assert!(is_retryable(&broken), "a stream: {broken:?}"),
        }
        caller.next();
        sleep(REOPEN_DELAY).await;
    }
}

async fn read<S: Stream>(caller: &mut RetryingClient, stream: &mut S, reach: &watch::Sender<i64>) -> Status {
    let mut messages = match stream.open(caller.client()).await {
        Ok(messages) => messages,
        Err(status) => return status,
    };
    loop {
        match messages.message().await {
            Ok(Some(message)) => reach.send_replace(stream.take(message)),
            Ok(None) => panic!("an endless stream ended without an error"),
            Err(status) => return status,
        };
    }
}

/// Watches the flags.
#[derive(Default)]
struct Watcher {
    flags: BTreeMap<String, FeatureFlag>,
    history: Vec<(i64, BTreeMap<String, FeatureFlag>)>,
    cursor: Option<(i64, String, Vec<u8>)>,
}

impl Stream for Watcher {
    type Message = WatchFeatureFlagsResponse;

    async fn open(&self, mut client: Client) -> Result<tonic::Streaming<Self::Message>, Status> {
        let mut request = WatchFeatureFlagsRequest { environment: Some("-".to_owned()), ..Default::default() };
        if let Some((revision, log_id, hash)) = &self.cursor {
            (request.after_revision, request.log_id, request.after_hash) =
                (Some(*revision), Some(log_id.clone()), hash.clone());
        }
        Ok(client.toggle.watch_feature_flags(request).await?.into_inner())
    }

    fn take(&mut self, message: Self::Message) -> i64 {
        let behind = self.cursor.as_ref().map_or(0, |cursor| cursor.0);
        for flag in message.feature_flags.into_iter().filter(|flag| flag.key.starts_with(KEY_PREFIX)) {
            assert!(behind < flag.revision && flag.revision <= message.revision, "a change was delivered twice");
            self.flags.insert(flag.id.clone(), flag);
        }
        assert!(message.revision >= behind, "a stream went back to an earlier revision");
        if message.caught_up {
            self.history.push((message.revision, self.flags.clone()));
        }
        self.cursor = Some((message.revision, message.log_id, message.hash));
        message.revision
    }

    fn observed(self) -> Observed {
        Observed::Flags(self.history)
    }
}

/// Follows the audit log.
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

    fn observed(self) -> Observed {
        Observed::Entries(self.entries)
    }
}
