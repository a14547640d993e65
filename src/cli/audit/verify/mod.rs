//! `toggled audit verify`: whether the log is what it says, by nothing but the hashes that are recomputed here.

mod blocks;
mod checkpoints;
mod database;
mod file;
mod report;
mod server;

use std::path::PathBuf;

use checkpoints::{Given, Plan};
use clap::Args;

use crate::checkpoint::VerifierKey;
use crate::cli::Failure;
use crate::cli::output::Output;
use crate::cli::remote::Caller;

/// Arguments of `toggled audit verify`.
#[derive(Args)]
pub(super) struct Verify {
    /// Read the database itself, without a server, and compare the flags, users and tokens with the log too:
    /// sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE
    // No setting: what is there for a server must not keep anybody from asking that server.
    #[arg(long, value_name = "URL", conflicts_with = "file")]
    database: Option<String>,
    /// Read a file that `audit export` wrote as NDJSON, without filters; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Begin behind a checkpoint that was kept: a file with a signed one, or REVISION:HASH
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<String>,
    /// End with a checkpoint that was kept, and verify that the log has it
    #[arg(long, value_name = "CHECKPOINT")]
    until: Option<String>,
    /// A key that checkpoints are signed with, given and stored ones: name+key_id+base64; may be repeated. Without it,
    /// signatures of given ones are not verified, and stored ones are by the keys that the log itself names
    #[arg(long, value_name = "VKEY", value_parser = VerifierKey::parse)]
    public_key: Vec<VerifierKey>,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    output: Output,
}

impl Verify {
    pub async fn run(self) -> Result<(), Failure> {
        let given = |setting, text: Option<String>| text.map(|text| Given::read(setting, &text)).transpose();
        let plan = Plan::new(given("--since", self.since)?, given("--until", self.until)?, self.public_key)?;
        let report = match (self.database, self.file) {
            (Some(url), _) => database::verify(&plan, &url).await?,
            (None, Some(path)) => file::verify(&plan, &path)?,
            (None, None) => server::verify(&plan, &self.caller.connect().await?).await?,
        };
        report.tell(self.output)
    }
}
