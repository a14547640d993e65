//! `toggled flag export`: all flags as they are at one revision.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use csv::WriterBuilder;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::api::pb::{FeatureFlag, FeatureFlagStatus};
use crate::cli::output::{self, Item};
use crate::cli::progress;
use crate::cli::remote::Caller;
use crate::cli::{Failure, file};

/// Arguments of `toggled flag export`.
#[derive(Args)]
pub(super) struct Export {
    /// The file to write, in place of the one that is there; standard output without it
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value = "ndjson")]
    format: Format,
    /// Archived flags as well
    #[arg(long)]
    archived: bool,
    #[command(flatten)]
    caller: Caller,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One JSON object a line, with all that there is of a flag
    Ndjson,
    /// The columns key, name, description, status, archived
    Csv,
    /// A flag definition file of flagd: keys and statuses; archived flags are DISABLED
    Flagd,
}

impl Export {
    pub async fn run(self) -> Result<(), Failure> {
        let remote = self.caller.connect().await?;
        let all = remote.all_flags(&progress::spinner("reading flags")).await?;
        let wanted = |flag: &&FeatureFlag| self.archived || flag.archived_at.is_none();
        let flags: Vec<_> = all.by_key.values().filter(wanted).collect();
        let bytes = self.format.write(&flags)?;
        match &self.output_file {
            None => output::file(&bytes)?,
            Some(path) => {
                file::replace(path, &bytes).map_err(|error| file::failed(&path.display().to_string(), &error))?
            }
        }
        output::note(&format!("{} flags at revision {} of log {}", flags.len(), all.revision, all.log_id));
        Ok(())
    }
}

impl Format {
    pub(super) fn write(self, flags: &[&FeatureFlag]) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Ndjson => {
                let lines: Result<Vec<_>, _> = flags.iter().map(|flag| output::json(&flag.json())).collect();
                Ok(lines?.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect())
            }
            Self::Csv => csv(flags),
            Self::Flagd => flagd(flags),
        }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    name: &'a str,
    description: &'a str,
    status: String,
    archived: bool,
}

fn csv(flags: &[&FeatureFlag]) -> Result<Vec<u8>, Failure> {
    let mut writer = WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    // With no flags there is a head all the same.
    writer.write_record(["key", "name", "description", "status", "archived"])?;
    for flag in flags {
        writer.serialize(Row {
            key: &flag.key,
            name: &flag.name,
            description: &flag.description,
            status: output::status(flag.status),
            archived: flag.archived_at.is_some(),
        })?;
    }
    Ok(writer.into_inner()?)
}

/// As the server itself tells flagd's providers, and archived flags beside: of a disabled flag, as of one that is not
/// there, they return what their caller gave as a default.
fn flagd(flags: &[&FeatureFlag]) -> Result<Vec<u8>, Failure> {
    let definition = |flag: &FeatureFlag| {
        let state = if flag.archived_at.is_some() { "DISABLED" } else { "ENABLED" };
        let variant = if flag.status() == FeatureFlagStatus::Enabled { "on" } else { "off" };
        json!({"state": state, "variants": {"on": true, "off": false}, "defaultVariant": variant})
    };
    let flags: Map<String, Value> = flags.iter().map(|flag| (flag.key.clone(), definition(flag))).collect();
    let file = json!({"$schema": "https://flagd.dev/schema/v0/flags.json", "flags": flags});
    let mut bytes = serde_json::to_vec_pretty(&file)?;
    bytes.push(b'\n');
    Ok(bytes)
}
