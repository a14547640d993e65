//! The URL of a PostgreSQL database. It is read strictly: with a parameter that was ignored, the server would connect
//! elsewhere, or without TLS. No message quotes a value that may be a secret.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::{Host, Url};

/// The operator decides which of several hosts is the primary. A server that picked one itself could pick one that has been
/// voted out.
const ONE_HOST: &str = "names several hosts; name one address that leads to the primary, wherever it moves: a name, a \
                        virtual address, or a proxy";

const ENCODE: &str = "in a user name or a password, write it percent-encoded";

/// Each parameter, and its other spellings. sqlx ignores all others with a warning that shows their values.
const PARAMETERS: [(&str, &[&str]); 13] = [
    ("host", &[]),
    ("hostaddr", &[]),
    ("port", &[]),
    ("user", &[]),
    ("password", &[]),
    ("dbname", &[]),
    ("sslmode", &["ssl-mode"]),
    ("sslrootcert", &["ssl-root-cert", "ssl-ca"]),
    ("sslcert", &["ssl-cert"]),
    ("sslkey", &["ssl-key"]),
    ("application_name", &[]),
    ("statement-cache-capacity", &[]),
    (OPTIONS, &[]),
];

const OPTIONS: &str = "options";

/// Files that a parameter names, or a variable that libpq reads as well.
const FILES: [(&str, &str); 3] = [("sslrootcert", "PGSSLROOTCERT"), ("sslcert", "PGSSLCERT"), ("sslkey", "PGSSLKEY")];

/// A parsed URL.
pub(super) struct DatabaseUrl {
    /// How to connect. Nothing in it makes sqlx send a startup parameter that PgBouncer refuses.
    pub options: PgConnectOptions,
    /// The operator's settings of each session (`options=-c search_path=flags`), by name.
    pub settings: Vec<(String, String)>,
}

/// Parses a URL.
///
/// # Errors
/// A line for an operator, when the URL cannot be used.
pub(super) fn parse(url: &str) -> Result<DatabaseUrl, String> {
    check_characters(url)?;
    let url = with_host(url);
    let mut url = Url::parse(&url).map_err(|problem| {
        format!("is not a URL: {problem}; if the user name or the password has one of / ? # [ ] @ :, percent-encode it")
    })?;
    let parameters = parameters(&url)?;
    let value = |name: &str| parameters.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
    check_values(&value)?;
    let settings = settings(&url)?;
    // They are set after connecting instead, because PgBouncer refuses them in the startup message.
    let kept: Vec<_> = url.query_pairs().filter(|(name, _)| !is_option(name)).map(into_owned).collect();
    url.query_pairs_mut().clear().extend_pairs(&kept);
    if let Some(Host::Ipv6(address)) = url.host()
        && value("host").or(value("hostaddr")).is_none()
    {
        // sqlx would keep the brackets, and look up a host of that name.
        url.query_pairs_mut().append_pair("host", &address.to_string());
    }
    let options = PgConnectOptions::from_url(&url).map_err(|problem| problem.to_string())?;
    let options = check_host(options)?;
    let options = check_tls(options, &value)?;
    check_names(&url, &options, &value)?;
    let options = if value("application_name").is_some() { options } else { options.application_name("toggled") };
    // PgBouncer refuses it, and nothing here is a floating point number. A slow statement would be logged with its whole
    // text at every call.
    let options = options.extra_float_digits(None).disable_statement_logging();
    Ok(DatabaseUrl { options, settings })
}

/// Gives a URL of the form `postgres://USER:PASSWORD@/DATABASE?host=FOLDER` a host, which the parameter overrides. The `url`
/// crate, and so sqlx, takes none without.
fn with_host(url: &str) -> Cow<'_, str> {
    let (authority, _, query) = parts(url);
    let is_hostless = authority.ends_with('@') || authority.rsplit_once('@').is_some_and(|(_, at)| at.starts_with(':'));
    let names_host = query.split('&').any(|pair| pair.starts_with("host=") || pair.starts_with("hostaddr="));
    match url.split_once(authority) {
        Some((before, after)) if is_hostless && names_host => {
            let (user, port) = authority.rsplit_once('@').unwrap_or((authority, ""));
            format!("{before}{user}@localhost{port}{after}").into()
        }
        _ => url.into(),
    }
}

/// Refuses a URL without a user, whom sqlx would guess, and one whose certificate sqlx would compare with the wrong name.
fn check_names<'a>(
    url: &Url,
    options: &PgConnectOptions,
    value: &impl Fn(&str) -> Option<&'a str>,
) -> Result<(), String> {
    if url.username().is_empty() && parameter_or_variable(value, "user", "PGUSER").is_none() {
        return Err("names no user; write postgres://USER@HOST/DATABASE, or set PGUSER".to_owned());
    }
    let has_name = value("host").is_some() || matches!(url.host(), Some(Host::Domain(_)));
    if has_name && value("hostaddr").is_some() && matches!(options.get_ssl_mode(), PgSslMode::VerifyFull) {
        return Err(
            "has hostaddr with sslmode=verify-full, which would compare the certificate with that address instead of \
                    the host's name; leave hostaddr out"
                .to_owned(),
        );
    }
    Ok(())
}

fn into_owned((name, value): (impl Into<String>, impl Into<String>)) -> (String, String) {
    (name.into(), value.into())
}

/// Refuses characters that end the user name or the password early. The rest of a password would be taken for a host, a port or a
/// database, and logged as such.
fn check_characters(url: &str) -> Result<(), String> {
    if url.contains('#') {
        return Err(format!("has a raw #; {ENCODE} (%23)"));
    }
    let (authority, path, query) = parts(url);
    let mut names = query.split('&').filter_map(|pair| pair.split('=').next());
    if path.contains('@') || names.any(|name| name.contains('@')) {
        return Err(format!("has a raw / or ? before the last @; {ENCODE} (%2F, %3F)"));
    }
    // sqlx would report several hosts as a wrong port. A password may contain a comma.
    if authority.rsplit('@').next().is_some_and(|hosts| hosts.contains(',')) {
        return Err(ONE_HOST.to_owned());
    }
    Ok(())
}

/// The parts of a URL that name user and hosts, the database, and the parameters.
fn parts(url: &str) -> (&str, &str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    (authority, path, query)
}

/// Whether sqlx adds a parameter to the options of the startup message.
fn is_option(name: &str) -> bool {
    name == OPTIONS || name.starts_with("options[")
}

/// The parameters by their first spelling.
fn parameters(url: &Url) -> Result<Vec<(&'static str, String)>, String> {
    let mut found = Vec::new();
    for (name, value) in url.query_pairs() {
        let known = PARAMETERS.iter().find(|(first, others)| *first == name || others.contains(&&*name));
        match known {
            Some((first, _)) => found.push((*first, value.into_owned())),
            None if is_option(&name) => {}
            None => return Err(unknown_parameter(url, &name)),
        }
    }
    Ok(found)
}

fn unknown_parameter(url: &Url, name: &str) -> String {
    // An @ here, and none before the host: what looks like a parameter is the rest of a password.
    if url.username().is_empty() && url.query().is_some_and(|query| query.contains('@')) {
        return format!("has an unknown parameter; if it is a part of the password: {ENCODE} (? is %3F)");
    }
    let known: Vec<_> = PARAMETERS.iter().map(|(first, _)| *first).collect();
    format!("has an unknown parameter, {name}; the parameters are {}", known.join(", "))
}

/// The value of a parameter, or else of the environment variable that libpq and sqlx read. With the name of its source, for messages.
fn parameter_or_variable<'a>(
    value: &impl Fn(&str) -> Option<&'a str>,
    name: &str,
    variable: &str,
) -> Option<(String, String)> {
    let from_environment = || Some((std::env::var(variable).ok()?, format!("{variable} (in the environment)")));
    value(name).map(|text| (text.to_owned(), name.to_owned())).or_else(from_environment)
}

/// Checks values here that sqlx would quote in its error, or ignore in a variable.
fn check_values<'a>(value: &impl Fn(&str) -> Option<&'a str>) -> Result<(), String> {
    if let Some((mode, from)) = parameter_or_variable(value, "sslmode", "PGSSLMODE")
        && PgSslMode::from_str(&mode).is_err()
    {
        return Err(format!("has a wrong {from}: it must be disable, prefer, require, verify-ca or verify-full"));
    }
    if let Some((port, from)) = parameter_or_variable(value, "port", "PGPORT")
        && port.parse::<u16>().is_err()
    {
        return Err(format!("has a wrong {from}: it must be a port"));
    }
    if value("hostaddr").is_some_and(|address| address.parse::<IpAddr>().is_err()) {
        return Err("has a wrong hostaddr: it must be an IP address".to_owned());
    }
    if value("statement-cache-capacity").is_some_and(|capacity| capacity.parse::<usize>().is_err()) {
        return Err("has a wrong statement-cache-capacity: it must be a number".to_owned());
    }
    FILES.iter().try_for_each(|(name, variable)| check_file(value, name, variable))
}

/// Checks that a certificate or key can be read. sqlx would take a missing file for an outage.
fn check_file<'a>(value: &impl Fn(&str) -> Option<&'a str>, name: &str, variable: &str) -> Result<(), String> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let Some((path, from)) = parameter_or_variable(value, name, variable) else { return Ok(()) };
    if path.trim_start().as_bytes().starts_with(BEGIN) {
        // A variable may hold the text itself. A parameter may not: sqlx would take it for a path, and log it.
        return if value(name).is_none() { Ok(()) } else { Err(format!("must name a file as {name}")) };
    }
    let text = std::fs::read(&path).map_err(|problem| format!("names {from} {path}: {problem}"))?;
    if text.windows(BEGIN.len()).any(|window| window == BEGIN) {
        return Ok(());
    }
    Err(format!("names {from} {path}: the file has no certificate or key in PEM"))
}

/// The settings in `options`: `-c name=value`, `-cname=value` or `--name=value`, with a backslash before a space in a value;
/// or `options[name]=value`.
fn settings(url: &Url) -> Result<Vec<(String, String)>, String> {
    let mut settings = Vec::new();
    for (parameter, text) in url.query_pairs().filter(|(name, _)| is_option(name)) {
        if parameter != OPTIONS {
            let name = parameter.strip_prefix("options[").and_then(|rest| rest.strip_suffix(']'));
            settings.push((name.ok_or("has an options[NAME] without its ]")?.to_owned(), text.into_owned()));
            continue;
        }
        let mut words = words(&text).into_iter();
        while let Some(word) = words.next() {
            let setting = match word.as_str() {
                "-c" => words.next(),
                word => word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).map(str::to_owned),
            };
            let setting = setting.as_deref().and_then(|setting| setting.split_once('='));
            let (name, value) = setting.ok_or("has options that are not of the form -c NAME=VALUE")?;
            settings.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    Ok(settings)
}

/// Words as PostgreSQL splits options: at spaces, except after a backslash.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut is_in_word, mut characters) = (Vec::new(), false, text.chars());
    while let Some(character) = characters.next() {
        if character.is_ascii_whitespace() {
            is_in_word = false;
            continue;
        }
        if !std::mem::replace(&mut is_in_word, true) {
            words.push(String::new());
        }
        let character = if character == '\\' { characters.next() } else { Some(character) };
        if let Some(word) = words.last_mut() {
            word.extend(character);
        }
    }
    words
}

fn check_host(options: PgConnectOptions) -> Result<PgConnectOptions, String> {
    let host = options.get_host();
    if host.contains(',') {
        return Err(ONE_HOST.to_owned());
    }
    if options.get_socket().is_some() || host.starts_with('/') {
        return Ok(options);
    }
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = inner.and_then(|inner| inner.parse::<Ipv6Addr>().ok()) {
        return Ok(options.host(&address.to_string()));
    }
    if host.contains(|c: char| "[]%".contains(c) || c.is_whitespace()) {
        return Err(format!("names the host {host}, which is neither a name nor an address"));
    }
    Ok(options)
}

/// With `sslmode=require` and a root certificate, verifies the server's certificate, as libpq does and sqlx does not. Refuses a
/// weaker mode with an `sslrootcert`, which would be ignored.
fn check_tls<'a>(
    options: PgConnectOptions,
    value: &impl Fn(&str) -> Option<&'a str>,
) -> Result<PgConnectOptions, String> {
    let has_root = value("sslrootcert").is_some() || std::env::var_os("PGSSLROOTCERT").is_some();
    match options.get_ssl_mode() {
        PgSslMode::Require if has_root => Ok(options.ssl_mode(PgSslMode::VerifyCa)),
        PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer if value("sslrootcert").is_some() => {
            Err("names an sslrootcert, which is not used without sslmode=verify-full (or verify-ca, or require)"
                .to_owned())
        }
        _ => Ok(options),
    }
}
