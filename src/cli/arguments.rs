//! From the command line, the environment and the configuration file to a command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::{Cli, EXIT_USAGE, complain};
use crate::config::{self, ConfigFile};

/// The commands that are clients of a server.
const CLIENTS: [&str; 4] = ["flag", "audit", "whoami", "health"];

/// The options that were set in the configuration file and nowhere else, each with its place there.
#[derive(Default)]
pub(super) struct FromFile(Vec<(String, String)>);

impl FromFile {
    /// Adds its place in the file to an error about an option: errors begin with `--option`.
    pub fn locate(&self, line: String) -> String {
        let option = line.strip_prefix("--").and_then(|rest| rest.split([' ', ':']).next());
        match self.0.iter().find(|(name, _)| Some(name.as_str()) == option) {
            Some((_, place)) => format!("{place}: {line}"),
            None => line,
        }
    }
}

/// Parses the arguments. On a usage error, and for help, it prints what there is to say and returns the exit status.
pub(super) fn parse(arguments: Vec<OsString>) -> Result<(Cli, FromFile), ExitCode> {
    let arguments = with_default(arguments);
    let all = Cli::command();
    let command = CLIENTS.into_iter().fold(all.clone(), |all, name| all.mut_subcommand(name, without_empty));
    let mut matches = command.clone().try_get_matches_from(&arguments).map_err(|error| refuse(&error, &arguments))?;
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    config::check_names(&all, names).map_err(|line| usage(&line))?;
    let mut from_file = FromFile::default();
    if let Some((path, serve)) = config_path(innermost(&matches)).zip(command.find_subcommand("serve")) {
        let file = ConfigFile::read(&path, serve).map_err(|error| usage(&error.to_string()))?;
        matches =
            file.apply(command.clone()).try_get_matches_from(&arguments).map_err(|error| refuse(&error, &arguments))?;
        from_file = taken_from(&file, innermost(&matches));
    }
    let cli = Cli::from_arg_matches_mut(&mut matches).map_err(|error| refuse(&error, &arguments))?;
    Ok((cli, from_file))
}

/// The options of the command itself, below all its groups.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| innermost(inner))
}

/// The configuration file that the command is given, if it takes one.
fn config_path(matches: &ArgMatches) -> Option<PathBuf> {
    matches.try_get_one::<PathBuf>(config::CONFIG).ok().flatten().cloned()
}

fn taken_from(file: &ConfigFile, matches: &ArgMatches) -> FromFile {
    let ids = matches.ids().filter(|id| matches.value_source(id.as_str()) == Some(ValueSource::DefaultValue));
    let names = ids.map(|id| id.as_str().replace('_', "-"));
    FromFile(names.filter_map(|name| file.place(&name).map(|place| (name, place))).collect())
}

/// Treats an empty environment variable as unset: a container's settings offer no other way to remove one.
fn without_empty(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&'static str>) } else { arg });
    command.mut_subcommands(without_empty)
}

/// `toggled` and `toggled --listen ...` mean `toggled serve`.
fn with_default(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let first = arguments.get(1).and_then(|argument| argument.to_str());
    let general = ["-h", "--help", "-V", "--version"];
    if first.is_none_or(|first| first.starts_with('-') && !general.contains(&first)) && !arguments.is_empty() {
        arguments.insert(1, "serve".into());
    }
    arguments
}

/// Prints help as it is, and an error in one line.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing".to_owned(),
        _ => config::first_paragraph(error),
    };
    usage(&format!("{text}; see {} --help", named(arguments)))
}

fn usage(line: &str) -> ExitCode {
    complain(line);
    ExitCode::from(EXIT_USAGE)
}

/// The command that the arguments name, as far as it exists: `toggled flag get`.
fn named(arguments: &[OsString]) -> String {
    let all = Cli::command();
    let (mut command, mut name) = (&all, all.get_name().to_owned());
    for argument in arguments.iter().skip(1) {
        let Some(next) = command.find_subcommand(argument) else { break };
        command = next;
        name = format!("{name} {}", next.get_name());
    }
    name
}
