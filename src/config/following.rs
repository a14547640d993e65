//! The settings of how a replica follows the log.

use std::time::Duration;

use clap::Args;

use super::duration::duration;

/// How a replica follows what other replicas append to the log.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Database")]
pub struct FollowerOptions {
    /// How often the server polls the log for changes by other replicas, 10ms to 24h. PostgreSQL also notifies at once; the
    /// interval bounds how long a change stays unseen when a notification is lost
    #[arg(long, value_name = "DURATION", env = "TOGGLED_POLL_INTERVAL", default_value = "250ms", value_parser = duration)]
    pub poll_interval: Duration,
    /// How long after the last successful poll the server counts as fresh, up to 24h and at least twice --poll-interval. A
    /// stale server reports itself unhealthy and serves only reads of flags
    #[arg(long, value_name = "DURATION", env = "TOGGLED_MAX_STALENESS", default_value = "10s", value_parser = duration)]
    pub max_staleness: Duration,
}

impl FollowerOptions {
    /// Checks the two durations against each other.
    ///
    /// # Errors
    /// The rule that they break, in one line.
    pub fn checked(self) -> Result<Self, String> {
        if self.max_staleness < self.poll_interval * 2 {
            return Err("--max-staleness (TOGGLED_MAX_STALENESS) must be at least twice --poll-interval \
                        (TOGGLED_POLL_INTERVAL); otherwise the server would be stale between two polls"
                .to_owned());
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        following: FollowerOptions,
    }

    fn parse(more: &[&str]) -> Result<(Duration, Duration), String> {
        let line = Line::try_parse_from([&["toggled"], more].concat()).map_err(|error| error.to_string())?;
        let following = line.following.checked()?;
        Ok((following.poll_interval, following.max_staleness))
    }

    #[test]
    fn durations_are_parsed() {
        assert_eq!(parse(&[]), Ok((Duration::from_millis(250), Duration::from_secs(10))));
        let both = parse(&["--poll-interval", "1s", "--max-staleness", "2m"]);
        assert_eq!(both, Ok((Duration::from_secs(1), Duration::from_secs(120))));
        for bad in ["", "5", "-1s", "0s", "1ms", "25h", "soon"] {
            let error = parse(&[&format!("--max-staleness={bad}")]).unwrap_err();
            assert!(error.contains("--max-staleness"), "{error}");
        }
    }

    #[test]
    fn staleness_below_two_polls_is_refused() {
        assert!(parse(&["--poll-interval", "1s", "--max-staleness", "2s"]).is_ok());
        let error = parse(&["--poll-interval", "1s", "--max-staleness", "1999ms"]).unwrap_err();
        assert!(error.contains("--max-staleness") && error.contains("--poll-interval"), "{error}");
    }
}
