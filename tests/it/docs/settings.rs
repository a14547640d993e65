//! Generates the tables of settings from the command line's own help.

use clap::{Arg, Command};

use super::markdown::{cell, code, table};

const HEADS: [&str; 4] = ["flag", "environment", "default", "meaning"];

/// The settings of the server, and those of the other commands that have an environment variable.
pub fn tables() -> String {
    let program = toggled::cli::command();
    let serve: Vec<Arg> = settings(program.find_subcommand("serve").unwrap());
    let mut others = Vec::new();
    collect(&program, &mut others);
    let known = |setting: &Arg| serve.iter().any(|own| own.get_long() == setting.get_long());
    others.retain(|setting| setting.get_env().is_some() && !known(setting));

    let mut text = format!("\n{}\n", table(&HEADS, &rows(&serve)));
    if !others.is_empty() {
        text += "The commands that call a server take these:\n\n";
        text += &format!("{}\n", table(&HEADS, &rows(&others)));
    }
    text
}

fn settings(command: &Command) -> Vec<Arg> {
    let shown = command.get_arguments().filter(|setting| setting.get_long().is_some() && !setting.is_hide_set());
    shown.filter(|setting| !matches!(setting.get_long(), Some("help" | "version"))).cloned().collect()
}

/// Collects the settings of all subcommands, recursively and without duplicates.
fn collect(command: &Command, found: &mut Vec<Arg>) {
    for inner in command.get_subcommands() {
        for setting in settings(inner) {
            if found.iter().all(|other| other.get_long() != setting.get_long()) {
                found.push(setting);
            }
        }
        collect(inner, found);
    }
}

fn rows(settings: &[Arg]) -> Vec<Vec<String>> {
    settings.iter().map(row).collect()
}

fn row(setting: &Arg) -> Vec<String> {
    let value = setting.get_value_names().unwrap_or_default().join(" ");
    let takes = setting.get_action().takes_values();
    let flag = format!("--{}{}", setting.get_long().unwrap(), if takes { format!(" {value}") } else { String::new() });
    let environment = setting.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let defaults: Vec<_> = setting.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = if takes { defaults.join(" ") } else { "false".to_owned() };
    let help = setting.get_long_help().or(setting.get_help()).map(ToString::to_string).unwrap_or_default();
    vec![code(&flag), code(&environment), code(&default), cell(&help)]
}
