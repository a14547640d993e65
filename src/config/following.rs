//! The settings of how a server keeps up with other replicas.

use std::time::Duration;

use clap::Args;

use super::duration::duration;

/// How it keeps up.
#[derive(Debug, Clone, Copy, Args)]
pub struct Following {
    /// How often to look at the log for what other servers have appended: 250ms, 1s; 10ms to 24h. PostgreSQL says so by
    /// itself, most of the time; this is how long a flip elsewhere can stay unseen when it does not
    #[arg(long, value_name = "DURATION", env = "TOGGLED_POLL_INTERVAL", default_value = "250ms", value_parser = duration)]
    pub poll_interval: Duration,
    /// How old the flags in memory may become while the database does not answer: 10s, 1m; up to 24h, and at least twice
    /// --poll-interval. Past it the server reports itself unhealthy and refuses all but the reading of flags
    #[arg(long, value_name = "DURATION", env = "TOGGLED_MAX_STALENESS", default_value = "10s", value_parser = duration)]
    pub max_staleness: Duration,
}

impl Following {
    /// The same, if a server can be fresh with it.
    ///
    /// # Errors
    /// A line for a person.
    pub fn checked(self) -> Result<Self, String> {
        if self.max_staleness < self.poll_interval * 2 {
            return Err("--max-staleness (TOGGLED_MAX_STALENESS) must be at least twice --poll-interval \
                        (TOGGLED_POLL_INTERVAL): between two looks at the log nobody knows how old the flags are"
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
        following: Following,
    }

    fn parse(more: &[&str]) -> Result<(Duration, Duration), String> {
        let line = Line::try_parse_from([&["toggled"], more].concat()).map_err(|error| error.to_string())?;
        let following = line.following.checked()?;
        Ok((following.poll_interval, following.max_staleness))
    }

    #[test]
    fn times_are_written_as_people_write_them() {
        assert_eq!(parse(&[]), Ok((Duration::from_millis(250), Duration::from_secs(10))));
        let both = parse(&["--poll-interval", "1s", "--max-staleness", "2m"]);
        assert_eq!(both, Ok((Duration::from_secs(1), Duration::from_secs(120))));
        for bad in ["", "5", "-1s", "0s", "1ms", "25h", "soon"] {
            let error = parse(&[&format!("--max-staleness={bad}")]).unwrap_err();
            assert!(error.contains("--max-staleness"), "{error}");
        }
    }

    #[test]
    fn a_server_that_could_never_be_fresh_is_refused() {
        assert!(parse(&["--poll-interval", "1s", "--max-staleness", "2s"]).is_ok());
        let error = parse(&["--poll-interval", "1s", "--max-staleness", "1999ms"]).unwrap_err();
        assert!(error.contains("--max-staleness") && error.contains("--poll-interval"), "{error}");
    }
}
