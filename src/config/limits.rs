//! The settings of how much is too much.

use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::duration::duration;

/// From one to as many as anybody could mean.
fn count<T: TryFrom<u64> + Clone + Send + Sync + 'static>() -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(1..=1_000_000)
}

/// Bytes, from a kibibyte to a gibibyte.
fn bytes<T: TryFrom<u64> + Clone + Send + Sync + 'static>() -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(1_024..=1_073_741_824)
}

/// How much is too much: past each of these, somebody is turned away, so that all others are still served.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Connections that are open at once; more are closed at once
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_CONNECTIONS", default_value_t = 10_000, value_parser = count::<usize>())]
    pub max_connections: usize,
    /// Calls under way on one connection; clients that know of it wait with more
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_CALLS_PER_CONNECTION", default_value_t = 1_024, value_parser = count::<u32>())]
    pub max_calls_per_connection: u32,
    /// Streams that are open at once (watches, log followers, health watches), half of them those of callers without
    /// credentials at the most; more are refused with UNAVAILABLE
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_STREAMS", default_value_t = 10_000, value_parser = count::<usize>())]
    pub max_streams: usize,
    /// Streams that one caller may have open, on all connections together; of callers without credentials it is those of one
    /// address. More are refused with RESOURCE_EXHAUSTED
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_STREAMS_PER_CALLER", default_value_t = 2_000, value_parser = count::<usize>())]
    pub max_streams_per_caller: usize,
    /// Changes that wait to be written, besides 512 that may have been taken up; more are refused with UNAVAILABLE
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_QUEUE", default_value_t = 8_192, value_parser = count::<usize>())]
    pub max_queue: usize,
    /// Changes a second by one caller, on this server, where a batch counts once an item. 1,000 at once, or as many as this
    /// if it is more, are let through after a rest; beyond it they are refused with RESOURCE_EXHAUSTED
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_CHANGES_PER_SECOND", default_value_t = 1_000, value_parser = count::<u32>())]
    pub max_changes_per_second: u32,
    /// How long a call may take that is not a stream, also if its client would wait longer. A change that is being written
    /// by then is finished and answered
    #[arg(long, value_name = "DURATION", env = "TOGGLED_REQUEST_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,
    /// The largest message that is taken, in bytes
    #[arg(long, value_name = "BYTES", env = "TOGGLED_MAX_REQUEST_BYTES", default_value_t = 4 << 20, value_parser = bytes::<usize>())]
    pub max_request_bytes: usize,
    /// The largest message that is sent, in bytes; clients expect no more than 4 MiB by default
    #[arg(long, value_name = "BYTES", env = "TOGGLED_MAX_RESPONSE_BYTES", default_value_t = 4 << 20, value_parser = bytes::<usize>())]
    pub max_response_bytes: usize,
    /// The largest message that tells all flags at once to clients of flagd, in bytes: 100,000 flags take about 10 MB
    #[arg(long, value_name = "BYTES", env = "TOGGLED_MAX_FLAGD_BYTES", default_value_t = 64 << 20, value_parser = bytes::<usize>())]
    pub max_flagd_bytes: usize,
    /// The headers of a request over HTTP/2, in bytes: a token of the single sign-on may take half of it. Over HTTP/1.1 it is
    /// 100 headers and about 400 KiB, which cannot be set
    #[arg(long, value_name = "BYTES", env = "TOGGLED_MAX_HEADER_BYTES", default_value_t = 32 << 10, value_parser = bytes::<u32>())]
    pub max_header_bytes: u32,
    /// After how long without a word an HTTP/2 connection is asked whether it is still there
    #[arg(long, value_name = "DURATION", env = "TOGGLED_KEEPALIVE_INTERVAL", default_value = "30s", value_parser = duration)]
    pub keepalive_interval: Duration,
    /// How long it may take to say so
    #[arg(long, value_name = "DURATION", env = "TOGGLED_KEEPALIVE_TIMEOUT", default_value = "20s", value_parser = duration)]
    pub keepalive_timeout: Duration,
    /// How long a client may take for its TLS handshake, and after it for its first words
    #[arg(long, value_name = "DURATION", env = "TOGGLED_HANDSHAKE_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub handshake_timeout: Duration,
    /// TLS handshakes under way; past it the oldest gives way to the newest
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_HANDSHAKES", default_value_t = 256, value_parser = count::<usize>())]
    pub max_handshakes: usize,
    /// Calls that a client may cancel before they were taken up; past it the connection ends (rapid reset, CVE-2023-44487)
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_PENDING_RESETS", default_value_t = 20, value_parser = count::<usize>())]
    pub max_pending_resets: usize,
    /// Calls that are ended for a client's errors; past it the connection ends (RUSTSEC-2024-0003)
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_ERROR_RESETS", default_value_t = 1_024, value_parser = count::<usize>())]
    pub max_error_resets: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        limits: Limits,
    }

    #[test]
    fn nothing_can_be_set_to_none_or_to_more_than_makes_sense() {
        assert!(Line::try_parse_from(["toggled", "--max-streams", "1", "--max-request-bytes", "1024"]).is_ok());
        for bad in ["--max-connections=0", "--max-streams=x", "--max-queue=1000001", "--max-request-bytes=1023"] {
            let error = Line::try_parse_from(["toggled", bad]).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(bad.split('=').next().unwrap()), "{error}");
        }
        let limits = Line::parse_from(["toggled"]).limits;
        assert!(limits.max_streams_per_caller < limits.max_streams, "one caller cannot keep out all others");
    }
}
