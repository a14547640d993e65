//! The builds of `toggled` that are measured.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::process::output;
use crate::Result;

/// A build of `toggled`. Builds of different ages know different settings.
#[derive(Clone)]
pub struct Program {
    path: PathBuf,
    /// Names of the environment variables that `serve` reads.
    settings: HashSet<String>,
}

impl Program {
    /// The build at this path. Reads its settings from its help.
    pub async fn open(path: &Path) -> Result<Self> {
        // Absolute, because servers run in folders of their own.
        let path = path.canonicalize().map_err(|error| format!("cannot find {}: {error}", path.display()))?;
        let mut command = Command::new(&path);
        command.args(["serve", "--help"]);
        let help =
            output(command).await.map_err(|error| format!("cannot run {} serve --help: {error}", path.display()))?;
        let is_part_of_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let words = help.split(|c| !is_part_of_name(c));
        let settings = words.filter(|word| word.starts_with("TOGGLED_")).map(str::to_owned).collect();
        Ok(Self { path, settings })
    }

    /// Runs the program with these arguments.
    pub fn command<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments);
        command
    }

    /// Starts a server with those of the settings that this build knows.
    pub fn serve(&self, settings: &[(&str, &str)]) -> Command {
        let mut command = self.command(["serve"]);
        command.envs(settings.iter().filter(|(name, _)| self.settings.contains(*name)).copied());
        command
    }
}
