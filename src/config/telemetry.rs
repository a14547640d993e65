//! The settings of what the people who run a server are told.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use crate::telemetry::{Settings, errors, logs, traces};

/// What is told, and where. All of it is off but the log.
#[derive(Clone, Args)]
pub struct Telemetry {
    /// What log lines look like: words, JSON (an object a line), or words on a terminal and JSON elsewhere
    #[arg(long, value_name = "FORMAT", env = "TOGGLED_LOG_FORMAT", default_value = "auto")]
    log_format: LogFormat,
    /// The address to serve metrics and health on, over HTTP (/metrics, /livez, /readyz); none without it
    #[arg(long, value_name = "ADDRESS", env = "TOGGLED_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,
    /// Where to send traces, by OpenTelemetry's protocol over gRPC: http://collector:4317; nowhere without it
    #[arg(long, value_name = "URL", env = "TOGGLED_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// How many of the traces that begin here are sent: 0 for none to 1 for all. One that a caller has begun is sent if the
    /// caller sends theirs
    #[arg(long, value_name = "RATIO", env = "TOGGLED_TRACE_RATIO", default_value = "1", value_parser = ratio)]
    trace_ratio: f64,
    /// Where to send panics and internal errors, as a DSN of Sentry's; they are told without anything of a caller
    // Not parsed here: an error would repeat it.
    #[arg(long, value_name = "DSN", env = "TOGGLED_SENTRY_DSN", hide_env_values = true)]
    sentry_dsn: Option<String>,
    /// What this server is called there: production, if it is not called anything
    #[arg(long, value_name = "NAME", env = "TOGGLED_SENTRY_ENVIRONMENT")]
    sentry_environment: Option<String>,
}

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Words on a terminal, JSON elsewhere.
    Auto,
    /// Words.
    Human,
    /// JSON.
    Json,
}

impl Telemetry {
    /// The same as it is meant, with what is logged.
    ///
    /// # Errors
    /// A line for a person.
    pub fn parse(&self, filter: &str) -> Result<Settings, String> {
        let format = match self.log_format {
            LogFormat::Auto => logs::Format::of_the_reader(),
            LogFormat::Human => logs::Format::Human,
            LogFormat::Json => logs::Format::Json,
        };
        let traces = self.otlp_endpoint.as_deref().map(|endpoint| traces::Collector::new(endpoint, self.trace_ratio));
        let traces = traces.transpose().map_err(|rule| format!("--otlp-endpoint (TOGGLED_OTLP_ENDPOINT) {rule}"))?;
        let errors = self.sentry_dsn.as_deref().map(|dsn| errors::Collector::new(dsn, self.sentry_environment.clone()));
        let errors = errors.transpose().map_err(|rule| format!("--sentry-dsn (TOGGLED_SENTRY_DSN) {rule}"))?;
        if errors.is_none() && self.sentry_environment.is_some() {
            return Err(
                "--sentry-environment (TOGGLED_SENTRY_ENVIRONMENT) needs --sentry-dsn (TOGGLED_SENTRY_DSN)".into()
            );
        }
        Ok(Settings { filter: filter.to_owned(), format, traces, errors })
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        telemetry: Telemetry,
    }

    fn parse(line: &[&str]) -> Result<Settings, String> {
        let line = Line::try_parse_from([&["toggled"], line].concat()).map_err(|error| error.to_string())?;
        line.telemetry.parse("info")
    }

    #[test]
    fn nothing_is_collected_unless_somebody_is_named_who_does() {
        let settings = parse(&[]).unwrap();
        assert!(settings.traces.is_none() && settings.errors.is_none());
        let settings = parse(&["--otlp-endpoint", "http://a:4317", "--trace-ratio", "0.5"]).unwrap();
        assert_eq!(settings.traces, Some(traces::Collector::new("http://a:4317", 0.5).unwrap()));
    }

    #[test]
    fn a_wrong_collector_is_told_by_the_name_of_the_setting() {
        let wrong = [
            ("--otlp-endpoint", "collector:4317"),
            ("--trace-ratio", "1.1"),
            ("--trace-ratio", "-0.1"),
            ("--trace-ratio", "NaN"),
            ("--log-format", "xml"),
            ("--sentry-dsn", "https://secret@host"),
            ("--sentry-environment", "alone"),
        ];
        for (setting, value) in wrong {
            let error = parse(&[&format!("{setting}={value}")]).err().unwrap();
            assert!(error.contains(setting) && !error.contains("secret"), "{error}");
        }
    }
}
