//! The limits: what each counts, and what sets it. Every refusal by a limit names it, with its value and setting.
//!
//! [`Limit`] holds the limits that refuse a call. [`list`] names them, and all limits that act in another way.

mod list;

use std::fmt;
use std::time::Duration;

use tonic::Code;

use super::codes::reason_name;
use super::details::RETRY_DELAY;
use crate::api::pb::ErrorReason;

pub use list::{LimitRow, list};

/// What sets a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    /// This option, with this value.
    Option(&'static str),
    /// A part of this option's value.
    Part(&'static str, &'static str),
    /// Nothing.
    Fixed,
}

/// How a limit's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Count,
    Bytes,
    Milliseconds,
}

/// The name of a limit: what it counts, and what sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) struct LimitName {
    counted: &'static str,
    unit: Unit,
    setting: Setting,
}

impl LimitName {
    const fn new(unit: Unit, counted: &'static str, setting: Setting) -> Self {
        Self { counted, unit, setting }
    }

    /// The limit with its value, as messages name it.
    pub fn with(self, value: usize) -> NamedLimit {
        NamedLimit { name: self, value: number(value) }
    }
}

/// A limit and its value: `limit: 2000 open streams of one caller, set by --max-streams-per-caller`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) struct NamedLimit {
    name: LimitName,
    value: u64,
}

impl NamedLimit {
    /// `2000 open streams of one caller`.
    fn quantity(self) -> String {
        let Self { name: LimitName { counted, unit, .. }, value } = self;
        match unit {
            Unit::Count => format!("{value} {counted}"),
            Unit::Bytes if value >= 1 << 20 && value % (1 << 20) == 0 => format!("{} MiB {counted}", value >> 20),
            Unit::Bytes => format!("{value} bytes {counted}"),
            Unit::Milliseconds if value % 1_000 == 0 => format!("{} s {counted}", value / 1_000),
            Unit::Milliseconds => format!("{value} ms {counted}"),
        }
    }
}

impl fmt::Display for NamedLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit: {}, {}", self.quantity(), self.name.setting)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(option) => write!(f, "set by {option}"),
            Self::Part(part, option) => write!(f, "{part} {option}"),
            Self::Fixed => f.write_str("fixed"),
        }
    }
}

impl Setting {
    fn option(self) -> Option<&'static str> {
        match self {
            Self::Option(option) | Self::Part(_, option) => Some(option),
            Self::Fixed => None,
        }
    }
}

use Setting::{Fixed, Option as Set, Part};
use Unit::{Bytes, Count, Milliseconds};

macro_rules! limits {
    ($($(#[$doc:meta])* $limit:ident { $unit:ident, $counted:literal, $setting:expr; $code:ident, $reason:ident, $refusal:literal })*) => {
        /// A limit that refuses a call or ends a stream. Each has its words, so that a new one cannot lack them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Limit { $($(#[$doc])* $limit,)* }

        impl Limit {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$limit,)*];

            /// What the limit counts, and what sets it.
            fn name(self) -> LimitName {
                match self { $(Self::$limit => LimitName::new($unit, $counted, $setting),)* }
            }

            /// What was refused, and what the caller can do.
            fn refusal(self) -> &'static str {
                match self { $(Self::$limit => $refusal,)* }
            }

            pub(super) fn code_and_reason(self) -> (Code, ErrorReason) {
                match self { $(Self::$limit => (Code::$code, ErrorReason::$reason),)* }
            }
        }
    };
}

limits! {
    /// The open streams of the server.
    Streams {
        Count, "open streams", Set("--max-streams");
        Unavailable, StreamLimit, "this server has too many streams open; retry, perhaps on another replica"
    }
    /// The open streams of all unauthenticated callers.
    UnauthenticatedStreams {
        Count, "open streams of callers without credentials", Part("half of", "--max-streams");
        Unavailable, StreamLimit, "this server has too many streams open; retry, perhaps on another replica"
    }
    /// The open streams of one caller, or of one network of unauthenticated callers.
    CallerStreams {
        Count, "open streams of one caller", Set("--max-streams-per-caller");
        ResourceExhausted, StreamLimit, "you have too many streams open; close some, or share one"
    }
    /// The buffered bytes of a connection, while memory is scarce.
    ConnectionBytes {
        Bytes, "for one connection while memory is scarce", Part("an eighth of", "--max-buffered-mib");
        ResourceExhausted, BufferLimit,
        "this connection has too many unread answers or unfinished requests; read and finish them first"
    }
    /// The buffered bytes of one authenticated caller, while memory is scarce.
    CallerBytes {
        Bytes, "for one caller while memory is scarce", Part("a quarter of", "--max-buffered-mib");
        ResourceExhausted, BufferLimit,
        "you have too many unread answers or unfinished requests; read and finish them first, then retry"
    }
    /// The buffered bytes of one network of unauthenticated callers, while their memory is scarce.
    NetworkBytes {
        Bytes, "for one address without credentials while memory is scarce", Part("a sixteenth of", "--max-buffered-mib");
        ResourceExhausted, BufferLimit,
        "you have too many unread answers or unfinished requests; read and finish them first, then retry"
    }
    /// The buffered bytes of all unauthenticated callers.
    UnauthenticatedBytes {
        Bytes, "for callers without credentials", Part("a quarter of", "--max-buffered-mib");
        ResourceExhausted, BufferLimit,
        "this server has too many unread answers and unfinished requests; retry, perhaps on another replica"
    }
    /// The buffered bytes of all unauthenticated callers, when one opens a stream.
    UnauthenticatedStreamBytes {
        Bytes, "for streams of callers without credentials", Part("three sixteenths of", "--max-buffered-mib");
        ResourceExhausted, BufferLimit,
        "this server has too many streams of callers without credentials open; retry, perhaps on another replica"
    }
    /// The buffered bytes of the server.
    ServerBytes {
        Bytes, "for unread answers and unfinished requests", Set("--max-buffered-mib");
        ResourceExhausted, BufferLimit,
        "this server has too many unread answers and unfinished requests; retry, perhaps on another replica"
    }
    /// The changes that wait for the committer.
    Queue {
        Count, "waiting changes", Set("--max-queue");
        Unavailable, QueueFull, "too many changes are waiting; nothing was written; retry"
    }
    /// The changes of one caller.
    ChangeRate {
        Count, "changes a second by one caller", Set("--max-changes-per-second");
        ResourceExhausted, RateLimited, "you make too many changes; nothing was written; retry later"
    }
    /// The time of a call, and of a message of a stream of requests.
    CallTime {
        Milliseconds, "for a call", Set("--request-timeout");
        DeadlineExceeded, DeadlineExceeded, "the call exceeded the server's time limit before the answer was complete; no change was made"
    }
    /// The time until a change begins.
    ChangeStart {
        Milliseconds, "for a call", Set("--request-timeout");
        DeadlineExceeded, DeadlineBeforeStart, "the call exceeded the server's time limit before the change began; nothing was written"
    }
    /// The time in which the client of a watch reads nothing, although there is something to read.
    UnreadTime {
        Milliseconds, "without reading a watch", Fixed;
        ResourceExhausted, BufferLimit, "you have not read this stream; open it again, and read it all the time"
    }
    /// The size of a request, before and after decompression.
    RequestSize {
        Bytes, "for a request of this service", Fixed;
        ResourceExhausted, MessageTooLarge, "message too large: split the request"
    }
    /// The fields of a message, and of the messages in it.
    MessageFields {
        Count, "fields of a message", Fixed;
        ResourceExhausted, MessageTooLarge, "message with too many fields: split the request"
    }
    /// The values of a request in JSON.
    JsonValues {
        Count, "values in JSON", Fixed;
        ResourceExhausted, MessageTooLarge, "JSON with too many values: split the request"
    }
    /// The objects and lists around a value in JSON.
    JsonDepth {
        Count, "levels of objects and lists in JSON", Fixed;
        ResourceExhausted, MessageTooLarge, "JSON is nested too deeply"
    }
    /// The size of a response.
    ResponseSize {
        Bytes, "for a response", Fixed;
        ResourceExhausted, MessageTooLarge, "message too large: ask for smaller pages"
    }
    /// The size of a response with all flags.
    FlagSetSize {
        Bytes, "for all flags in one message", Set("--max-flag-set-mib");
        ResourceExhausted, MessageTooLarge, "message too large: archive flags that nobody reads, or raise the limit"
    }
}

/// A limit that was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitReached {
    /// The limit.
    pub limit: Limit,
    /// Its value, in its unit.
    pub value: u64,
    /// The size that is too large, where it is known.
    pub found: Option<u64>,
    /// How long until the call would pass, where it is known.
    pub wait: Option<Duration>,
}

impl LimitReached {
    /// A size limit that was reached, by tonic's message. It names the size, where that is known, and then the limit.
    pub(super) fn of_size(limit: Limit, message: &str) -> Self {
        let numbers = message.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
        let (found, value) = match *numbers.collect::<Vec<u64>>() {
            [found, value] => (Some(found), value),
            [value] => (None, value),
            _ => (None, 0),
        };
        Self { limit, value, found, wait: None }
    }

    /// When to retry, if that may help.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let passes = match self.limit.code_and_reason() {
            (Code::Unavailable, _) | (_, ErrorReason::BufferLimit) => Some(RETRY_DELAY),
            _ => None,
        };
        self.wait.or(passes)
    }

    /// The metadata of its ErrorInfo.
    pub(super) fn metadata(&self) -> impl Iterator<Item = (&'static str, String)> {
        let named = self.named();
        let setting = named.name.setting.option().map(|option| ("setting", option.to_owned()));
        [("limit", named.quantity())].into_iter().chain(setting)
    }

    fn named(&self) -> NamedLimit {
        NamedLimit { name: self.limit.name(), value: self.value }
    }
}

impl Limit {
    /// The limit was reached at this value.
    pub(in crate::api) fn reached(self, value: usize) -> LimitReached {
        let value = number(value);
        LimitReached { limit: self, value, found: None, wait: None }
    }
}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.limit.refusal())?;
        if let Some(found) = self.found {
            write!(f, "{found} bytes; ")?;
        }
        write!(f, "{})", self.named())
    }
}

fn number(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// A time in whole milliseconds.
pub(in crate::api) fn millis(time: Duration) -> usize {
    usize::try_from(time.as_millis()).unwrap_or(usize::MAX)
}

/// The open connections of the server. Further ones are closed.
pub(in crate::api) const CONNECTIONS: LimitName = LimitName::new(Count, "open connections", Set("--max-connections"));

/// The open connections of one network, while connections are scarce.
pub(in crate::api) const NETWORK_CONNECTIONS: LimitName = LimitName::new(
    Count,
    "open connections of one IP address while most are open",
    Part("a quarter of", "--max-connections"),
);

/// The bytes of slots for calls: of clients without credentials. Those of callers are more, by a slot for each of `--max-streams`.
pub(in crate::api) const CALL_SLOTS: LimitName = LimitName::new(
    Bytes,
    "for what connections keep of calls that were in progress at once",
    Part("an eighth of", "--max-buffered-mib"),
);

/// The bytes of unfinished heads of requests, header blocks and frames: of callers, and as many of clients without credentials.
pub(in crate::api) const UNFINISHED_HEADS: LimitName = LimitName::new(
    Bytes,
    "for heads of requests that have not arrived completely",
    Part("an eighth of", "--max-buffered-mib"),
);

/// The TLS handshakes in progress.
pub(in crate::api) const HANDSHAKES: LimitName = LimitName::new(Count, "TLS handshakes in progress", Fixed);

/// The time of a handshake, and of the first bytes of HTTP.
pub(in crate::api) const HANDSHAKE_TIME: LimitName =
    LimitName::new(Milliseconds, "for the TLS handshake, and then for the first bytes of HTTP", Fixed);

/// The time in which a client reads nothing.
pub(in crate::api) const STALL_TIME: LimitName =
    LimitName::new(Milliseconds, "without reading what was sent, or without an answer to a ping", Fixed);

/// The size of a body of OFREP.
pub(in crate::api) const OFREP_BODY: LimitName = LimitName::new(Bytes, "for a body of OFREP", Fixed);

/// What is read and dropped of a request over HTTP/1.1 that was answered before.
pub(in crate::api) const LINGER_SIZE: LimitName =
    LimitName::new(Bytes, "that are dropped of a request over HTTP/1.1 after its answer", Fixed);

/// The time of that.
pub(in crate::api) const LINGER_TIME: LimitName =
    LimitName::new(Milliseconds, "for dropping the rest of a request over HTTP/1.1 after its answer", Fixed);

/// The time in which a body of OFREP arrives.
pub(in crate::api) const OFREP_TIME: LimitName = LimitName::new(Milliseconds, "for a body of OFREP to arrive", Fixed);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    #[test]
    fn every_limit_has_its_words_and_its_row() {
        let rows = list(&Limits::defaults());
        for limit in Limit::ALL {
            let reached = limit.reached(1 << 20);
            let message = reached.to_string();
            let metadata: Vec<_> = reached.metadata().collect();
            assert!(metadata.iter().all(|(_, text)| message.contains(text)), "{message}");
            let name = limit.name();
            assert_eq!(metadata.len(), if name.setting == Fixed { 1 } else { 2 }, "{message}");
            assert!(rows.iter().any(|row| row.limit.ends_with(name.counted)), "{limit:?} is not listed");
            assert!(message.ends_with(&format!("{})", name.setting)) && message.len() < 300, "{message}");
        }
    }

    #[test]
    fn size_limit_is_read_from_the_message_of_tonic() {
        let of = |message| LimitReached::of_size(Limit::RequestSize, message).to_string();
        let found = of("Error, decoded message length too large: found 5032 bytes, the limit is: 4194304 bytes");
        assert_eq!(
            found,
            "message too large: split the request (5032 bytes; limit: 4 MiB for a request of this service, fixed)"
        );
        let unknown = of("Error decompressing: size limit, of 4096 bytes, exceeded while decompressing message");
        assert_eq!(
            unknown,
            "message too large: split the request (limit: 4096 bytes for a request of this service, fixed)"
        );
    }
}
