//! All limits of the server, for the handbook.

use super::{Bytes, Count, Fixed, Milliseconds};
use super::{
    CALL_SLOTS, CONNECTIONS, HANDSHAKE_TIME, HANDSHAKES, LINGER_SIZE, LINGER_TIME, Limit, LimitName,
    NETWORK_CONNECTIONS, OFREP_BODY, OFREP_TIME, STALL_TIME, UNFINISHED_HEADS, millis, reason_name,
};
use crate::api::codec::MAX_FIELDS;
use crate::api::connection;
use crate::api::openfeature::ofrep::{BODY_LIMIT, BODY_TIMEOUT};
use crate::api::protocol::connect::{MAX_DEPTH, MAX_VALUES};
use crate::config::{CONNECTION_WINDOW, FixedLimits, Limits, STREAM_WINDOW};

/// One limit: its value and what it counts, what sets it, and what happens to the excess.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRow {
    /// `2000 open streams of one caller`.
    pub limit: String,
    /// `--max-streams-per-caller`.
    pub set_by: String,
    /// `STREAM_LIMIT`, or what happens if nothing is answered.
    pub effect: String,
}

/// Names all limits, with these values. Every setting is unpacked here, so that a new one does not compile until it is listed.
#[must_use]
pub fn list(limits: &Limits) -> Vec<LimitRow> {
    let Limits {
        max_connections,
        max_streams,
        max_streams_per_caller,
        max_buffered_mib,
        max_flag_set_mib: _,
        max_queue,
        max_changes_per_second,
        request_timeout,
        fixed,
    } = limits;
    let buffered = max_buffered_mib.saturating_mul(1 << 20);
    let timeout = millis(*request_timeout);
    let refusing = [
        (Limit::Streams, *max_streams),
        (Limit::UnauthenticatedStreams, max_streams / 2),
        (Limit::CallerStreams, *max_streams_per_caller),
        (Limit::ServerBytes, buffered),
        (Limit::CallerBytes, buffered / 4),
        (Limit::ConnectionBytes, buffered / 8),
        (Limit::UnauthenticatedBytes, buffered / 4),
        (Limit::UnauthenticatedStreamBytes, buffered / 16 * 3),
        (Limit::NetworkBytes, buffered / 16),
        (Limit::Queue, *max_queue),
        (Limit::ChangeRate, usize::try_from(*max_changes_per_second).unwrap_or(usize::MAX)),
        (Limit::CallTime, timeout),
        (Limit::ChangeStart, timeout),
        (Limit::UnreadTime, millis(fixed.unread_timeout)),
        (Limit::RequestSize, fixed.max_request_bytes),
        (Limit::MessageFields, MAX_FIELDS),
        (Limit::JsonValues, MAX_VALUES),
        (Limit::JsonDepth, MAX_DEPTH),
        (Limit::ResponseSize, fixed.max_response_bytes),
        (Limit::FlagSetSize, limits.max_flag_set_bytes()),
    ];
    let refusing = refusing.map(|(limit, value)| {
        let (_, reason) = limit.code_and_reason();
        row(limit.name(), value, &format!("`{}`", reason_name(reason)))
    });
    let closing = "the connection is not accepted (`CONNECTION_LIMIT`)";
    let connections =
        [row(CONNECTIONS, *max_connections, closing), row(NETWORK_CONNECTIONS, max_connections / 4, closing)];
    let heads = row(UNFINISHED_HEADS, buffered / 8, "the connection that waits longest is closed (`BUFFER_LIMIT`)");
    let slots = row(CALL_SLOTS, buffered / 8, "the oldest connection is closed, an idle one first (`BUFFER_LIMIT`)");
    refusing.into_iter().chain(connections).chain([heads, slots]).chain(fixed_rows(fixed)).collect()
}

/// The limits that nothing sets. Those of messages are among the others.
fn fixed_rows(limits: &FixedLimits) -> Vec<LimitRow> {
    let FixedLimits {
        max_calls_per_connection,
        max_request_bytes: _,
        max_public_request_bytes,
        max_flagd_request_bytes,
        max_response_bytes: _,
        max_header_bytes,
        keepalive_interval,
        keepalive_timeout,
        unread_timeout: _,
        reset_timeout,
        handshake_timeout,
        max_handshakes,
        max_pending_resets,
        max_error_resets,
    } = limits;
    let fixed = |unit, counted| LimitName::new(unit, counted, Fixed);
    let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    let too_large = "`MESSAGE_TOO_LARGE`";
    vec![
        row(fixed(Bytes, "for a request of health and reflection"), *max_public_request_bytes, too_large),
        row(fixed(Bytes, "for a request of flagd's services"), *max_flagd_request_bytes, too_large),
        row(OFREP_BODY, BODY_LIMIT, "HTTP 413"),
        row(OFREP_TIME, millis(BODY_TIMEOUT), "HTTP 408"),
        row(LINGER_SIZE, connection::LINGER_BYTES, "the connection is closed"),
        row(LINGER_TIME, millis(connection::LINGER_TIME), "the connection is closed"),
        row(fixed(Bytes, "for the headers of a request"), size(*max_header_bytes), "HTTP 431"),
        row(fixed(Count, "calls in progress of one connection"), size(*max_calls_per_connection), "the client waits"),
        row(fixed(Bytes, "of a request that were not read yet"), size(STREAM_WINDOW), "the client waits"),
        row(fixed(Bytes, "of a connection that were not read yet"), size(CONNECTION_WINDOW), "the client waits"),
        row(HANDSHAKES, *max_handshakes, "the oldest is closed"),
        row(HANDSHAKE_TIME, millis(*handshake_timeout), "the connection is closed"),
        row(STALL_TIME, millis(*keepalive_interval + *keepalive_timeout), "the connection is closed"),
        row(
            fixed(Milliseconds, "for reading the rest of a stream that has ended"),
            millis(*reset_timeout),
            "the stream is reset",
        ),
        row(fixed(Count, "calls cancelled before they began"), *max_pending_resets, "the connection is closed"),
        row(fixed(Count, "calls reset for protocol errors"), *max_error_resets, "the connection is closed"),
    ]
}

fn row(name: LimitName, value: usize, effect: &str) -> LimitRow {
    let named = name.with(value);
    LimitRow { limit: named.quantity(), set_by: name.setting.to_string(), effect: effect.to_owned() }
}
