//! The configuration file: TOML whose keys are the long options of `serve`.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Args, Command};
use toml::{Spanned, Value};

use super::suggestion::hint;

/// The option that names the file.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Configuration file")]
pub struct ConfigPath {
    /// The configuration file (TOML). Its keys are the long options; the command line and the environment override it
    #[arg(long, value_name = "FILE", env = "TOGGLED_CONFIG")]
    pub config: Option<PathBuf>,
}

/// The id of `--config` in clap.
pub const CONFIG_OPTION: &str = "config";

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("--config (TOGGLED_CONFIG): cannot read {}: {source}; check the path and the permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is not valid TOML, or a key or value is wrong.
    #[error("{}:{line}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, with the key; without the value of a secret.
        problem: String,
    },
}

/// The values of a configuration file, checked.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

/// The values of one key, as command-line arguments.
#[derive(Debug)]
struct Entry {
    line: usize,
    values: Vec<String>,
}

impl ConfigFile {
    /// Reads a file for the options of this command. Each value passes the parser of its option.
    ///
    /// # Errors
    /// The first problem, with its file, line and key.
    pub fn read(path: &Path, serve: &Command) -> Result<Self, ConfigFileError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| ConfigFileError::Unreadable { path: path.to_owned(), source })?;
        let invalid = |(line, problem)| ConfigFileError::Invalid { path: path.to_owned(), line, problem };
        Ok(Self { path: path.to_owned(), entries: parse(&text, serve).map_err(invalid)? })
    }

    /// Makes the values the defaults of the command and its subcommands, so that the command line and the environment
    /// override them.
    #[must_use]
    pub fn apply(&self, command: Command) -> Command {
        let default = |option: Arg| match option.get_long().and_then(|name| self.entries.get(name)) {
            Some(entry) => option.default_values(&entry.values),
            None => option,
        };
        let takes_file = options(&command).any(|option| option.get_id() == CONFIG_OPTION);
        let command = if takes_file { command.mut_args(default) } else { command };
        command.mut_subcommands(|inner| self.apply(inner))
    }

    /// The place of a key, as `FILE:LINE`.
    pub fn location(&self, key: &str) -> Option<String> {
        self.entries.get(key).map(|entry| format!("{}:{}", self.path.display(), entry.line))
    }
}

/// The entries of a file, or the first problem and its line.
fn parse(text: &str, serve: &Command) -> Result<BTreeMap<String, Entry>, (usize, String)> {
    let line = |span: Range<usize>| 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
    let table: BTreeMap<Spanned<String>, Spanned<Value>> =
        toml::from_str(text).map_err(|error| (line(error.span().unwrap_or_default()), error.message().to_owned()))?;
    let mut pairs: Vec<_> = table.into_iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    let mut entries = BTreeMap::new();
    for (key, value) in pairs {
        let (line, key) = (line(key.span()), key.into_inner());
        let option = option(&key, serve).map_err(|problem| (line, problem))?;
        let values = strings(option, value.get_ref()).map_err(|kind| (line, format!("{key} must be {kind}")))?;
        check(option, &values).map_err(|problem| (line, problem))?;
        entries.insert(key, Entry { line, values });
    }
    Ok(entries)
}

fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|option| option.get_long().is_some())
}

/// The option that a key sets.
fn option<'a>(key: &str, serve: &'a Command) -> Result<&'a Arg, String> {
    let all = || options(serve).filter(|option| option.get_id() != CONFIG_OPTION && option.get_env().is_some());
    let found = all().find(|option| option.get_long() == Some(key));
    found.ok_or_else(|| format!("unknown key {key}{}", hint(key, all().filter_map(Arg::get_long), "")))
}

/// A value as command-line arguments. The error is the type that the option needs.
fn strings(option: &Arg, value: &Value) -> Result<Vec<String>, &'static str> {
    let is_integer = [TypeId::of::<i64>(), TypeId::of::<u32>(), TypeId::of::<usize>()]
        .iter()
        .any(|number| option.get_value_parser().type_id() == *number);
    match (option.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(value)) => Ok(vec![value.to_string()]),
        (ArgAction::SetTrue, _) => Err("true or false"),
        (ArgAction::Append, Value::Array(items)) => {
            let items = items.iter().map(|item| item.as_str().map(str::to_owned));
            items.collect::<Option<_>>().ok_or("an array of strings")
        }
        (ArgAction::Append, _) => Err("an array of strings"),
        (_, Value::Integer(value)) if is_integer => Ok(vec![value.to_string()]),
        (_, _) if is_integer => Err("an integer"),
        (_, Value::String(value)) => Ok(vec![value.clone()]),
        (_, _) => Err("a string"),
    }
}

/// Whether the option's own parser accepts the values.
fn check(option: &Arg, values: &[String]) -> Result<(), String> {
    let Some(name) = option.get_long().filter(|_| option.get_action().takes_values()) else { return Ok(()) };
    let alone = Command::new("file").no_binary_name(true).arg(option.clone().env(None::<&'static str>));
    let line = values.iter().map(|value| format!("--{name}={value}"));
    alone.try_get_matches_from(line).map(|_| ()).map_err(|error| first_paragraph(&error))
}

/// What clap says of a wrong value, in one line, without usage and advice.
pub fn first_paragraph(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let reworded = PARSER_ERRORS.iter().find_map(|(text, rule)| Some(line.strip_suffix(text)?.to_owned() + rule));
    reworded.unwrap_or_else(|| line.to_owned())
}

/// Errors of the standard library's parsers, and the rules that they stand for.
const PARSER_ERRORS: [(&str, &str); 4] = [
    ("invalid digit found in string", "must be a whole number"),
    ("cannot parse integer from empty string", "must be a whole number"),
    ("number too large to fit in target type", "must be a smaller number"),
    ("invalid socket address syntax", "must be IP:PORT, such as 127.0.0.1:50051"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServeOptions;
    use clap::FromArgMatches;

    fn serve() -> Command {
        ServeOptions::augment_args(Command::new("serve")).mut_args(|option| option.env("TEST_NOT_SET"))
    }

    fn read(text: &str) -> Result<ConfigFile, String> {
        let entries = parse(text, &serve()).map_err(|(line, problem)| format!("{line} {problem}"))?;
        Ok(ConfigFile { path: "toggled.toml".into(), entries })
    }

    #[test]
    fn values_of_all_kinds_reach_the_settings() {
        let file = read(
            "listen = \"127.0.0.1:1\"\nallow-plaintext = true\nmax-queue = 7\ndrain-delay = \"5s\"\n\
             oidc-group = [\"a=*\", \"b=*\"]\n",
        );
        let file = file.unwrap();
        assert_eq!((file.location("max-queue").as_deref(), file.location("log")), (Some("toggled.toml:3"), None));
        let mut matches = file.apply(serve()).get_matches_from(["serve", "--max-queue", "8"]);
        let settings = ServeOptions::from_arg_matches_mut(&mut matches).unwrap();
        assert_eq!(settings.listening.listen.to_string(), "127.0.0.1:1");
        assert_eq!(settings.limits.max_queue, 8, "the command line overrides the file");
        assert_eq!(settings.shutdown.drain_delay.as_secs(), 5);
        assert!(format!("{:?}", settings.sign_on).contains(r#"["a=*", "b=*"]"#));
    }

    #[test]
    fn wrong_key_or_value_is_refused_by_its_name() {
        for (text, problem) in [
            ("\nlistn = \"x\"", "2 unknown key listn; did you mean listen?"),
            ("database_url = \"x\"", "1 unknown key database_url; did you mean database-url?"),
            ("config = \"x\"", "1 unknown key config"),
            ("[tls]\nkey = \"x\"", "unknown key tls"),
            ("max-queue = \"7\"", "1 max-queue must be an integer"),
            ("max-queue = 0", "for '--max-queue <COUNT>'"),
            ("drain-delay = 5", "1 drain-delay must be a string"),
            ("allow-plaintext = \"yes\"", "1 allow-plaintext must be true or false"),
            ("oidc-group = \"a=*\"", "1 oidc-group must be an array of strings"),
            ("oidc-group = [1]", "1 oidc-group must be an array of strings"),
            ("log-format = \"xml\"", "--log-format"),
            ("listen = \"x\"\nlisten = \"y\"", "duplicate key"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let error = read("bootstrap-token = [\"the-secret\"]").unwrap_err();
        assert!(!error.contains("the-secret"), "{error}");
    }
}
