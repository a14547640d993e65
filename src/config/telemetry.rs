//! The settings of telemetry: our options for logs and metrics, and the standard variables of OpenTelemetry and Sentry.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use super::listening::listen_address;
use crate::telemetry::{TelemetrySettings, errors, logs, traces};

const SDK_DISABLED: &str = "OTEL_SDK_DISABLED";
const TRACES_EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const SENTRY_DSN: &str = "SENTRY_DSN";
const SENTRY_ENVIRONMENT: &str = "SENTRY_ENVIRONMENT";
const SENTRY_RELEASE: &str = "SENTRY_RELEASE";

/// The standard variables: name, default and meaning. Those that are not read here are read by OpenTelemetry's SDK.
pub const STANDARD_VARIABLES: [(&str, &str, &str); 14] = [
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        "The OpenTelemetry collector that traces are sent to, like http://collector:4317; without it, none are sent",
    ),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "", "The same for traces alone; overrides OTEL_EXPORTER_OTLP_ENDPOINT"),
    (
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "grpc",
        "The protocol to the collector; only grpc is supported. OTEL_EXPORTER_OTLP_TRACES_PROTOCOL overrides it",
    ),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "",
        "Headers of requests to the collector, like api-key=secret,tenant=a. OTEL_EXPORTER_OTLP_TRACES_HEADERS overrides it",
    ),
    (
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "10000",
        "How long the collector may take for a batch, in milliseconds. OTEL_EXPORTER_OTLP_TRACES_TIMEOUT overrides it",
    ),
    (
        SAMPLER,
        "parentbased_always_on",
        "Which traces are sent: always_on, always_off, traceidratio, or one of these with the prefix parentbased_, which keeps \
         the decision of a caller that sends a traceparent",
    ),
    (SAMPLER_ARG, "1.0", "The share of traces that traceidratio sends, 0 to 1"),
    ("OTEL_SERVICE_NAME", "toggled", "The service.name of traces. OTEL_RESOURCE_ATTRIBUTES adds further attributes"),
    (TRACES_EXPORTER, "otlp", "otlp, or none to turn traces off"),
    (SDK_DISABLED, "false", "Set it to true to turn traces off"),
    (
        "OTEL_BSP_SCHEDULE_DELAY",
        "5000",
        "The longest time between two batches of spans, in milliseconds. The other OTEL_BSP_ variables work as well",
    ),
    (
        SENTRY_DSN,
        "",
        "The DSN of the Sentry project that panics and internal errors are sent to, without data of callers; without it, \
         none are sent",
    ),
    (SENTRY_ENVIRONMENT, "production", "The environment of events at Sentry"),
    (SENTRY_RELEASE, concat!("toggled@", env!("CARGO_PKG_VERSION")), "The release of events at Sentry"),
];

/// Logs and metrics.
#[derive(Clone, Args)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryOptions {
    /// The format of log lines: human for text, json for one object a line, auto for text on a terminal and JSON elsewhere
    #[arg(long, value_name = "FORMAT", env = "TOGGLED_LOG_FORMAT", default_value = "auto")]
    log_format: LogFormatOption,
    /// The address of /metrics (Prometheus), /livez and /readyz, over plain HTTP, in the forms of --listen. Without it, they are not
    /// served
    #[arg(long, value_name = "ADDRESS", env = "TOGGLED_METRICS_LISTEN", value_parser = listen_address)]
    pub metrics_listen: Option<SocketAddr>,
}

/// The value of `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormatOption {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Human,
    /// JSON.
    Json,
}

impl TelemetryOptions {
    /// The settings of telemetry, with the filter of the log and the standard variables.
    ///
    /// # Errors
    /// The variable and the rule that it breaks, in one line.
    pub fn parse(&self, filter: &str, variable: impl Fn(&str) -> Option<String>) -> Result<TelemetrySettings, String> {
        let format = match self.log_format {
            LogFormatOption::Auto => logs::LogFormat::auto(),
            LogFormatOption::Human => logs::LogFormat::Human,
            LogFormatOption::Json => logs::LogFormat::Json,
        };
        Ok(TelemetrySettings {
            filter: filter.to_owned(),
            format,
            traces: traces(&variable)?,
            errors: errors(&variable)?,
        })
    }
}

/// The first of these variables that is set, and its value.
fn first(names: [&'static str; 2], variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, variable(name)?)))
}

fn traces(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<traces::TraceCollector>, String> {
    let is_disabled = variable(SDK_DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let is_off = match variable(TRACES_EXPORTER).as_deref() {
        None | Some("otlp") => false,
        Some("none") => true,
        Some(other) => return Err(format!("{TRACES_EXPORTER} must be otlp or none, and is '{other}'")),
    };
    let Some((name, endpoint)) = first(ENDPOINTS, variable).filter(|_| !is_disabled && !is_off) else {
        return Ok(None);
    };
    if let Some((name, protocol)) = first(PROTOCOLS, variable).filter(|(_, protocol)| protocol != "grpc") {
        return Err(format!("{name} must be grpc, the only supported protocol, and is '{protocol}'"));
    }
    let collector = traces::TraceCollector::new(&endpoint, sampling(variable)?);
    collector.map(Some).map_err(|rule| format!("{name} {rule}"))
}

fn sampling(variable: &impl Fn(&str) -> Option<String>) -> Result<traces::Sampling, String> {
    let name = variable(SAMPLER).unwrap_or_else(|| "parentbased_always_on".to_owned());
    let (follows_parent, sampler) = match name.strip_prefix("parentbased_") {
        Some(root) => (true, root),
        None => (false, name.as_str()),
    };
    let ratio = match sampler {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => match variable(SAMPLER_ARG) {
            Some(text) => ratio(&text).ok_or_else(|| format!("{SAMPLER_ARG} must be a number from 0 to 1"))?,
            None => 1.0,
        },
        _ => {
            return Err(format!(
                "{SAMPLER} must be always_on, always_off or traceidratio, or one of them with the prefix parentbased_, and is \
                 '{name}'"
            ));
        }
    };
    Ok(traces::Sampling { follows_parent, ratio })
}

fn ratio(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
}

fn errors(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<errors::ErrorCollector>, String> {
    let Some(dsn) = variable(SENTRY_DSN) else { return Ok(None) };
    let collector = errors::ErrorCollector::new(&dsn, variable(SENTRY_ENVIRONMENT), variable(SENTRY_RELEASE));
    collector.map(Some).map_err(|rule| format!("{SENTRY_DSN} {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::traces::Sampling;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        telemetry: TelemetryOptions,
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317");

    fn parse(variables: &[(&str, &str)]) -> Result<TelemetrySettings, String> {
        let line = Line::parse_from(["toggled"]);
        let found = |name: &str| variables.iter().find(|(known, _)| *known == name);
        line.telemetry.parse("info", |name| found(name).map(|(_, value)| (*value).to_owned()))
    }

    fn collector(endpoint: &str, follows_parent: bool, ratio: f64) -> Option<traces::TraceCollector> {
        Some(traces::TraceCollector::new(endpoint, Sampling { follows_parent, ratio }).unwrap())
    }

    #[test]
    fn nothing_is_sent_without_an_endpoint_and_a_dsn() {
        let settings = parse(&[("OTEL_TRACES_SAMPLER", "always_on"), ("SENTRY_ENVIRONMENT", "stage")]).unwrap();
        assert!(settings.traces.is_none() && settings.errors.is_none());
        assert_eq!(parse(&[ENDPOINT]).unwrap().traces, collector("http://a:4317", true, 1.0));
        assert!(parse(&[("SENTRY_DSN", "https://key@sentry.example.com/1")]).unwrap().errors.is_some());
        for off in [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(parse(&[ENDPOINT, off]).unwrap().traces, None);
        }
    }

    #[test]
    fn variable_of_traces_overrides_the_general_one() {
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://b:4317");
        assert_eq!(parse(&[ENDPOINT, traces]).unwrap().traces, collector("https://b:4317", true, 1.0));
        let protocols = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")];
        assert!(parse(&[&[ENDPOINT], &protocols[..]].concat()).is_ok());
    }

    #[test]
    fn sampler_is_one_of_the_standard_ones() {
        for (name, argument, follows_parent, ratio) in [
            ("always_on", None, false, 1.0),
            ("always_off", None, false, 0.0),
            ("traceidratio", Some("0.25"), false, 0.25),
            ("traceidratio", None, false, 1.0),
            ("parentbased_always_on", Some("0.5"), true, 1.0),
            ("parentbased_always_off", None, true, 0.0),
            ("parentbased_traceidratio", Some("0"), true, 0.0),
        ] {
            let mut variables = vec![ENDPOINT, (SAMPLER, name)];
            variables.extend(argument.map(|argument| (SAMPLER_ARG, argument)));
            let expected = collector("http://a:4317", follows_parent, ratio);
            assert_eq!(parse(&variables).unwrap().traces, expected, "{name} {argument:?}");
        }
    }

    #[test]
    fn error_names_invalid_variable_without_secret() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.1"),
            ("OTEL_TRACES_SAMPLER_ARG", "-0.1"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
            ("SENTRY_DSN", "https://secret@host"),
        ] {
            let error = parse(&[(name, value), ENDPOINT, (SAMPLER, "traceidratio")]).err().unwrap();
            assert!(error.starts_with(name) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn log_format_must_be_known() {
        let error = Line::try_parse_from(["toggled", "--log-format", "xml"]).err().unwrap();
        assert!(error.to_string().contains("--log-format"), "{error}");
    }
}
