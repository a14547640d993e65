//! The limits of the server. Each refuses some work so that the rest is still served.

use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::duration::duration;
use super::fixed::FixedLimits;

fn count<T: TryFrom<u64> + Clone + Send + Sync + 'static>() -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(1..=1_000_000)
}

/// The limits of the server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// The number of open connections, 1 to 1000000; an idle one takes about 40 KiB, with TLS 60. The server closes further connections at
    /// once. While more than half of this number are open, one IP address gets at most a quarter of this number
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_CONNECTIONS", default_value_t = 2_000, value_parser = count::<usize>())]
    pub max_connections: usize,
    /// The number of open streams (watches, audit streams, health watches), 1 to 1000000. Callers without credentials get at
    /// most half of them. Further streams are refused with UNAVAILABLE
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_STREAMS", default_value_t = 10_000, value_parser = count::<usize>())]
    pub max_streams: usize,
    /// The number of open streams of one caller over all its connections, 1 to 1000000. Further streams are refused with
    /// RESOURCE_EXHAUSTED. Callers without credentials are counted by IP address. For them the limit applies only while more
    /// than a quarter of --max-streams (by default 2,500) are open without credentials
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_STREAMS_PER_CALLER", default_value_t = 2_000, value_parser = count::<usize>())]
    pub max_streams_per_caller: usize,
    /// The memory for unfinished requests and unread answers, in MiB, 16 to 1000000. Each call in progress takes 16 KiB of it. All
    /// callers without credentials together get at most a quarter, in which their open streams count as calls in progress. docs/configuration.md lists
    /// all shares. When this memory is used up, calls are refused with RESOURCE_EXHAUSTED. An open stream then waits for free
    /// memory before its next message; after 20 seconds of waiting it ends
    #[arg(long, value_name = "MIB", env = "TOGGLED_MAX_BUFFERED_MIB", default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(16..=1_000_000))]
    pub max_buffered_mib: usize,
    /// The size of a message that holds all flags, in MiB, 1 to 4095: flagd's FetchAllFlags, SyncFlags and ResolveAll, at about
    /// 100 bytes a flag. Larger ones are refused with RESOURCE_EXHAUSTED. Clients have limits of their own, often 4 MiB. One
    /// such message may take more than the memory for unread answers, and then delays other calls
    #[arg(long, value_name = "MIB", env = "TOGGLED_MAX_FLAG_SET_MIB", default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(1..=4_095))]
    pub max_flag_set_mib: usize,
    /// The number of changes that wait to be written, 1 to 1000000, besides a batch of up to 512. Further changes are refused
    /// with UNAVAILABLE
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_QUEUE", default_value_t = 8_192, value_parser = count::<usize>())]
    pub max_queue: usize,
    /// The number of changes a second by one caller on this server, 1 to 1000000; each item of a batch call counts, and
    /// ten flags created by one call count once. An idle caller may send this many at once, at least 1,000. Further changes
    /// are refused with RESOURCE_EXHAUSTED
    #[arg(long, value_name = "COUNT", env = "TOGGLED_MAX_CHANGES_PER_SECOND", default_value_t = 1_000, value_parser = count::<u32>())]
    pub max_changes_per_second: u32,
    /// The longest time for a call that is not a stream, 10ms to 24h; a shorter deadline of the client applies first. A
    /// change that is already being written is completed, and answered unless the client's deadline has passed
    #[arg(long, value_name = "DURATION", env = "TOGGLED_REQUEST_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,
    /// The limits that are no options.
    #[arg(skip)]
    pub fixed: FixedLimits,
}

impl Limits {
    /// The size of a message that holds all flags, in bytes.
    #[must_use]
    pub fn max_flag_set_bytes(&self) -> usize {
        self.max_flag_set_mib.saturating_mul(1 << 20)
    }
}

#[cfg(test)]
impl Limits {
    /// The limits without settings.
    pub fn defaults() -> Self {
        let command = Self::augment_args(clap::Command::new("toggled"));
        clap::FromArgMatches::from_arg_matches(&command.get_matches_from(["toggled"])).unwrap()
    }
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
    fn limit_outside_its_range_is_refused() {
        assert!(Line::try_parse_from(["toggled", "--max-streams", "1", "--max-queue", "1000000"]).is_ok());
        for bad in ["--max-connections=0", "--max-streams=x", "--max-queue=1000001", "--request-timeout=1ms"] {
            let error = Line::try_parse_from(["toggled", bad]).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(bad.split('=').next().unwrap()), "{error}");
        }
        let limits = Line::parse_from(["toggled"]).limits;
        assert!(limits.max_streams_per_caller < limits.max_streams, "one caller cannot take all streams");
    }
}
