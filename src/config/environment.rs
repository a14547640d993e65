//! The environment: the names of variables that exist, and the values of those that are no options.

use std::collections::BTreeSet;

use clap::Command;

use super::suggestion::hint;
use super::telemetry::STANDARD_VARIABLES;

const PREFIX: &str = "TOGGLED_";

/// The value of a standard variable. An empty one counts as unset, as OpenTelemetry demands.
pub fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.to_string_lossy().into_owned();
    Some(value).filter(|value| !value.is_empty())
}

/// Checks that every variable that begins with `TOGGLED_` is one that a command of the program reads. A mistyped name
/// would otherwise leave a setting at its default unnoticed.
///
/// # Errors
/// The unknown variable and the most similar one that exists.
pub fn check_names(program: &Command, names: impl IntoIterator<Item = String>) -> Result<(), String> {
    let mut known = BTreeSet::new();
    collect(program, &mut known);
    let unknown = |name: &String| name.starts_with(PREFIX) && !known.contains(name) && !is_from_kubernetes(name);
    let Some(unknown) = names.into_iter().filter(unknown).min() else { return Ok(()) };
    let standard = STANDARD_VARIABLES.iter().map(|(name, ..)| *name);
    let hint = hint(&unknown, known.iter().map(String::as_str).chain(standard), PREFIX);
    Err(format!("unknown environment variable {unknown}{hint}"))
}

fn collect(command: &Command, found: &mut BTreeSet<String>) {
    let names = command.get_arguments().filter_map(|option| option.get_env());
    found.extend(names.map(|name| name.to_string_lossy().into_owned()));
    command.get_subcommands().for_each(|inner| collect(inner, found));
}

/// Whether Kubernetes sets it in every pod beside a Service named `toggled` or `toggled-...`: for each Service it sets
/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`, `NAME_SERVICE_PORT_PORTNAME`, `NAME_PORT` and `NAME_PORT_50051_TCP...`.
fn is_from_kubernetes(name: &str) -> bool {
    let name = &name[PREFIX.len() - 1..];
    let is_port = |rest: &str| {
        rest.is_empty() || rest.strip_prefix('_').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.match_indices("_PORT").any(|(at, port)| is_port(&name[at + port.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn check(name: &str) -> Result<(), String> {
        let listen = Arg::new("listen").long("listen").env("TOGGLED_LISTEN");
        let token = Arg::new("token").long("token").env("TOGGLED_TOKEN");
        let inner = Command::new("flag").subcommand(Command::new("get").arg(token));
        let program = Command::new("toggled").subcommand(Command::new("serve").arg(listen)).subcommand(inner);
        check_names(&program, [name.to_owned()])
    }

    #[test]
    fn known_and_foreign_variables_pass() {
        for name in ["TOGGLED_LISTEN", "TOGGLED_TOKEN", "PATH", "TOGGLE", "TOGGLEDX_LISTEN"] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn unknown_variable_is_refused_with_the_nearest() {
        for (name, nearest) in [
            ("TOGGLED_LISTN", "TOGGLED_LISTEN"),
            ("TOGGLED_TOKENS", "TOGGLED_TOKEN"),
            ("TOGGLED_SENTRY_DSN", "SENTRY_DSN"),
        ] {
            let expected = format!("unknown environment variable {name}; did you mean {nearest}?");
            assert_eq!(check(name), Err(expected));
        }
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_ignored() {
        for name in [
            "TOGGLED_SERVICE_HOST",
            "TOGGLED_SERVICE_PORT",
            "TOGGLED_SERVICE_PORT_GRPC",
            "TOGGLED_PORT",
            "TOGGLED_PORT_50051_TCP",
            "TOGGLED_PORT_50051_TCP_ADDR",
            "TOGGLED_DB_SERVICE_HOST",
            "TOGGLED_DB_SERVICE_PORT_POSTGRES",
            "TOGGLED_DB_PORT",
            "TOGGLED_DB_PORT_5432_TCP_PROTO",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["TOGGLED_PORTS", "TOGGLED_SERVICE", "TOGGLED_PORT_NAME", "TOGGLED_METRICS_LISTENER"] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}
