//! The tables of settings, from the program's description of its own command line.

use clap::{Arg, Command};
use toggled::config::STANDARD_VARIABLES;

use super::markdown::{cell, code, table};

const HEADS: [&str; 4] = ["option", "environment", "default", "meaning"];

/// The most options that `serve` may have. Fold one that nobody would change into a constant before you raise this.
const MAX_OPTIONS: usize = 35;

/// The options of the server by heading, the standard variables, and the options of the other commands that can be set in
/// the environment.
pub fn tables() -> String {
    let program = toggled::cli::command();
    let serve = options(program.find_subcommand("serve").unwrap());
    let mut others = Vec::new();
    collect(&program, &mut others);
    let is_of_serve = |option: &Arg| serve.iter().any(|own| own.get_long() == option.get_long());
    others.retain(|option| option.get_env().is_some() && !is_of_serve(option));

    let mut text = String::new();
    for heading in headings(&serve) {
        let group: Vec<_> = serve.iter().filter(|option| option.get_help_heading() == Some(heading)).cloned().collect();
        text += &format!("\n**{heading}**\n\n{}", table(&HEADS, &rows(&group)));
    }
    let standard = STANDARD_VARIABLES.map(|(name, default, meaning)| vec![code(name), code(default), cell(meaning)]);
    text += "\nTraces and errors are configured with the standard variables of OpenTelemetry and Sentry, in the environment \
             only:\n\n";
    text += &table(&["environment", "default", "meaning"], &standard);
    text += "\nThe commands that call a server take these:\n\n";
    text += &format!("{}\n", table(&HEADS, &rows(&others)));
    text
}

fn options(command: &Command) -> Vec<Arg> {
    let shown = command.get_arguments().filter(|option| option.get_long().is_some() && !option.is_hide_set());
    shown.filter(|option| !matches!(option.get_long(), Some("help" | "version"))).cloned().collect()
}

/// Each heading once, in the order of `serve --help`.
fn headings(options: &[Arg]) -> Vec<&str> {
    let mut headings = Vec::new();
    for heading in options.iter().filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    headings
}

/// The options of a command's subcommands and theirs, each once.
fn collect(command: &Command, found: &mut Vec<Arg>) {
    for inner in command.get_subcommands() {
        for option in options(inner) {
            if found.iter().all(|other| other.get_long() != option.get_long()) {
                found.push(option);
            }
        }
        collect(inner, found);
    }
}

fn rows(options: &[Arg]) -> Vec<Vec<String>> {
    options.iter().map(row).collect()
}

fn row(option: &Arg) -> Vec<String> {
    let value = option.get_value_names().unwrap_or_default().join(" ");
    let takes = option.get_action().takes_values();
    let flag = format!("--{}{}", option.get_long().unwrap(), if takes { format!(" {value}") } else { String::new() });
    let environment = option.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let defaults: Vec<_> = option.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = if takes { defaults.join(" ") } else { "false".to_owned() };
    let help = option.get_long_help().or(option.get_help()).map(ToString::to_string).unwrap_or_default();
    vec![code(&flag), code(&environment), code(&default), cell(&help)]
}

#[test]
fn serve_has_few_options_and_each_has_a_heading() {
    let program = toggled::cli::command();
    let serve = options(program.find_subcommand("serve").unwrap());
    assert!((20..=MAX_OPTIONS).contains(&serve.len()), "{} options", serve.len());
    for option in &serve {
        let name = option.get_long().unwrap();
        assert!(option.get_help_heading().is_some(), "--{name} has no heading");
        let environment = option.get_env().map(|name| name.to_string_lossy().into_owned());
        assert_eq!(environment, Some(format!("TOGGLED_{}", name.replace('-', "_").to_uppercase())));
    }
    let of_all = ["Listening", "Database", "Single sign-on", "Limits", "Telemetry", "Checkpoints", "Shutdown"];
    let headings = headings(&serve);
    assert!(of_all.iter().all(|heading| headings.contains(heading)), "{headings:?}");
}
