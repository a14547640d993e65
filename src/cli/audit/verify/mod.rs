//! `toggled audit verify`: recomputes every hash of the log, from a server, a database or a file.

mod database;
mod file;
mod given;
mod report;
mod server;

use std::path::PathBuf;

use clap::Args;

use crate::checkpoint::VerifierKey;
use crate::cli::Failure;
use crate::cli::output::OutputOptions;
use crate::cli::remote::ConnectionOptions;

/// Arguments of `toggled audit verify`.
#[derive(Args)]
pub(super) struct VerifyArgs {
    /// Read this database without a server, and compare the flags, environments, users and tokens with the log too:
    /// sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE
    // Not read from the environment: a variable set for the server must not change what is verified.
    #[arg(long, visible_alias = "database-url", value_name = "URL", conflicts_with = "file")]
    database: Option<String>,
    /// Read an NDJSON file that audit export wrote without filters; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Verify only entries after this checkpoint: a file with a signed one, or REVISION:HASH
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<String>,
    /// Verify only entries up to this checkpoint, and that the log matches it
    #[arg(long, value_name = "CHECKPOINT")]
    until: Option<String>,
    /// A verifier key, name+key_id+base64, as audit checkpoint --output json shows it; repeat the option for several. One of
    /// the keys must have signed each signed checkpoint of --since and --until, and each checkpoint that is stored with the
    /// log. Without --public-key, the signatures of --since and --until are not verified, and stored checkpoints are verified
    /// with the keys that the log lists
    #[arg(long, value_name = "VERIFIER_KEY", value_parser = VerifierKey::parse)]
    public_key: Vec<VerifierKey>,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl VerifyArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let read = |setting, text: Option<String>| text.map(|text| given::read(setting, &text)).transpose();
        let bounds = given::bounds(read("--since", self.since)?, read("--until", self.until)?, self.public_key)?;
        let is_file = self.file.is_some();
        let report = match (self.database, self.file) {
            (Some(url), _) => database::verify(&bounds, &url).await?,
            (None, Some(path)) => file::verify(&bounds, &path)?,
            (None, None) => server::verify(&bounds, &self.connection.connect().await?).await?,
        };
        report::print(&report, is_file, self.output)
    }
}
