//! Parses the command line, the environment and the configuration file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};

use super::{Cli, EXIT_USAGE, print_error};
use crate::config::{self, ConfigFile};

/// The commands that call a server.
const CLIENT_COMMANDS: [&str; 5] = ["flag", "audit", "environment", "whoami", "health"];

/// The variable that must not be empty: without it, a command could be about another environment than was meant.
const ENVIRONMENT_VARIABLE: &str = "TOGGLED_ENVIRONMENT";

/// The options whose value comes from the configuration file, each with its `FILE:LINE`.
#[derive(Default)]
pub(super) struct FileOptions(Vec<(String, String)>);

impl FileOptions {
    /// Puts `FILE:LINE` before an error about an option of the file. Such errors begin with `--option`.
    pub fn locate(&self, message: String) -> String {
        let option = message.strip_prefix("--").and_then(|rest| rest.split([' ', ':']).next());
        match self.0.iter().find(|(name, _)| Some(name.as_str()) == option) {
            Some((_, location)) => format!("{location}: {message}"),
            None => message,
        }
    }
}

/// Parses the arguments. Prints usage errors and help, and returns the exit code for them.
pub(super) fn parse(arguments: Vec<OsString>) -> Result<(Cli, FileOptions), ExitCode> {
    let arguments = with_default_command(arguments);
    let all = super::command();
    let command =
        CLIENT_COMMANDS.into_iter().fold(all.clone(), |all, name| all.mut_subcommand(name, ignore_empty_variables));
    let mut matches =
        command.clone().try_get_matches_from(&arguments).map_err(|error| report_usage_error(&error, &arguments))?;
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    config::check_names(&all, names).map_err(|message| usage(&message))?;
    let mut from_file = FileOptions::default();
    if let Some((path, serve)) = config_path(innermost(&matches)).zip(command.find_subcommand("serve")) {
        let file = ConfigFile::read(&path, serve).map_err(|error| usage(&error.to_string()))?;
        matches = file
            .apply(command.clone())
            .try_get_matches_from(&arguments)
            .map_err(|error| report_usage_error(&error, &arguments))?;
        from_file = options_from_file(&file, innermost(&matches));
    }
    let cli = Cli::from_arg_matches_mut(&mut matches).map_err(|error| report_usage_error(&error, &arguments))?;
    Ok((cli, from_file))
}

/// The options of the command itself, below all its groups.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| innermost(inner))
}

/// The path of the configuration file, if the command takes one and it is set.
fn config_path(matches: &ArgMatches) -> Option<PathBuf> {
    matches.try_get_one::<PathBuf>(config::CONFIG_OPTION).ok().flatten().cloned()
}

/// The options whose value comes from the file. [`ConfigFile::apply`] makes the file's values defaults, so neither the command
/// line nor the environment has overridden an option that has its default.
fn options_from_file(file: &ConfigFile, matches: &ArgMatches) -> FileOptions {
    let ids = matches.ids().filter(|id| matches.value_source(id.as_str()) == Some(ValueSource::DefaultValue));
    let names = ids.map(|id| id.as_str().replace('_', "-"));
    FileOptions(names.filter_map(|name| file.location(&name).map(|location| (name, location))).collect())
}

/// Treats an empty environment variable as unset: the settings of a container can empty a variable, but not remove it.
fn ignore_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| {
        let variable = arg.get_env().filter(|name| *name != ENVIRONMENT_VARIABLE);
        variable.and_then(std::env::var_os).is_some_and(|value| value.is_empty())
    };
    let command = command.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&'static str>) } else { arg });
    command.mut_subcommands(ignore_empty_variables)
}

/// `toggled` and `toggled --listen ...` mean `toggled serve`.
fn with_default_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let first = arguments.get(1).and_then(|argument| argument.to_str());
    let global = ["-h", "--help", "-V", "--version"];
    if first.is_none_or(|first| first.starts_with('-') && !global.contains(&first)) && !arguments.is_empty() {
        arguments.insert(1, "serve".into());
    }
    arguments
}

/// Prints help as it is, and an error in one line.
fn report_usage_error(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing".to_owned(),
        _ => config::first_paragraph(error),
    };
    usage(&format!("{text}; see {} --help", command_path(arguments)))
}

fn usage(message: &str) -> ExitCode {
    print_error(message);
    ExitCode::from(EXIT_USAGE)
}

/// The command that the arguments name, up to the first unknown word: `toggled flag get`.
fn command_path(arguments: &[OsString]) -> String {
    let all = super::command();
    let (mut command, mut name) = (&all, all.get_name().to_owned());
    for argument in arguments.iter().skip(1) {
        let Some(next) = command.find_subcommand(argument) else { break };
        command = next;
        name = format!("{name} {}", next.get_name());
    }
    name
}
