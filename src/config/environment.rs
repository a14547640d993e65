//! The values of the variables that are no options.

/// The value of a standard variable. An empty one counts as unset, as OpenTelemetry demands.
pub fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.to_string_lossy().into_owned();
    Some(value).filter(|value| !value.is_empty())
}
