//! `toggled completions`: what a shell needs to complete commands and their arguments.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, output};

/// Arguments of `toggled completions`.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// For which shell
    shell: Shell,
}

pub(super) fn run(settings: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(settings.shell, &mut Cli::command(), "toggled", &mut script);
    output::line(String::from_utf8(script)?.trim_end())
}
