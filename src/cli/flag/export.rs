//! `toggled flag export`: all flags at one revision.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use csv::WriterBuilder;
use serde_json::{Map, Value, json};

use crate::api::pb::{FeatureFlag, FeatureFlagStatus};
use crate::cli::output::{self, CellOptions, CsvCells, Printable};
use crate::cli::progress;
use crate::cli::remote::{ApiClient, ConnectionOptions, EnvironmentOption};
use crate::cli::{Failure, file};
use crate::domain::state::EnvironmentScope;
use crate::domain::text::EnvironmentKey;

/// Arguments of `toggled flag export`.
#[derive(Args)]
pub(super) struct ExportArgs {
    /// The file to write; an existing file is replaced; by default standard output
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// The format of the file
    #[arg(long, value_enum, default_value = "ndjson")]
    format: ExportFormat,
    /// Include archived flags
    #[arg(long)]
    archived: bool,
    #[command(flatten)]
    environment: EnvironmentOption,
    #[command(flatten)]
    cells: CellOptions,
    #[command(flatten)]
    connection: ConnectionOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportFormat {
    /// One JSON object a line, with all fields of a flag
    Ndjson,
    /// The columns key, environment, name, description, status, archived
    Csv,
    /// A flag definition file of flagd: keys and statuses; archived flags are DISABLED
    Flagd,
}

impl ExportArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let cells = self.cells.cells(self.format == ExportFormat::Csv)?;
        if self.format == ExportFormat::Flagd && self.environment.named() == Some(&EnvironmentScope::All) {
            return Err(Failure::usage("a file of flagd holds one environment; name it with --environment"));
        }
        let client = self.connection.connect().await?;
        let left_out = match self.environment.named() {
            None => LeftOut::read(&client).await?,
            Some(_) => None,
        };
        let all = client.all_flags(self.environment.text(), &progress::spinner("reading flags")).await?;
        let is_included = |flag: &&FeatureFlag| self.archived || flag.archived_at.is_none();
        let flags: Vec<_> = all.flags.iter().filter(is_included).collect();
        let bytes = self.format.write(&flags, cells)?;
        match &self.output_file {
            None => output::print_bytes(&bytes)?,
            Some(path) => file::replace_file(path, &bytes)
                .map_err(|error| file::io_failure(&path.display().to_string(), &error))?,
        }
        let count = if flags.len() == 1 { "1 flag".to_owned() } else { format!("{} flags", flags.len()) };
        let position = format!("at revision {} of log {}", all.revision, all.log_id);
        output::print_note(&match left_out {
            None => format!("{count} {position}"),
            Some(LeftOut { exported, others: 1 }) => {
                format!("{count} of {exported} {position}; 1 other environment is not exported: -e - exports all")
            }
            Some(LeftOut { exported, others }) => {
                format!(
                    "{count} of {exported} {position}; {others} other environments are not exported: -e - exports all"
                )
            }
        });
        Ok(())
    }
}

/// The environments that an export leaves out because none was named.
struct LeftOut {
    /// The environment that is read where none is named.
    exported: String,
    /// How many others the caller may see.
    others: usize,
}

impl LeftOut {
    /// `None` if there are no others.
    async fn read(client: &ApiClient) -> Result<Option<Self>, Failure> {
        let exported = client.own_environment().await?;
        let exported = exported.unwrap_or_else(|| EnvironmentKey::default_environment().to_string());
        let all = client.environments(true).await?;
        let others = all.iter().filter(|environment| environment.key != exported).count();
        Ok((others > 0).then_some(Self { exported, others }))
    }
}

impl ExportFormat {
    pub(super) fn write(self, flags: &[&FeatureFlag], cells: CsvCells) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Ndjson => {
                let lines: Result<Vec<_>, _> = flags.iter().map(|flag| output::to_json(&flag.json())).collect();
                Ok(lines?.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect())
            }
            Self::Csv => csv(flags, cells),
            Self::Flagd => flagd(flags),
        }
    }
}

fn csv(flags: &[&FeatureFlag], cells: CsvCells) -> Result<Vec<u8>, Failure> {
    let mut writer = WriterBuilder::new().from_writer(Vec::new());
    writer.write_record(["key", "environment", "name", "description", "status", "archived"])?;
    for flag in flags {
        let (status, archived) = (output::status(flag.status), flag.archived_at.is_some().to_string());
        let row = [&flag.key, &flag.environment, &flag.name, &flag.description, &status, &archived];
        writer.write_record(row.map(|text| cells.write(text).into_owned()))?;
    }
    Ok(writer.into_inner()?)
}

/// The definitions that the server sends to flagd's providers, and the archived flags: for a DISABLED flag, as for a missing
/// one, a provider returns the default that its caller has passed.
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
