//! `toggled flag import`: what a file says of flags, made so on the server.

mod apply;
mod call;
mod formats;
mod imported;
mod plan;
mod preview;

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use apply::Import as Applying;
use clap::Args;
use formats::Format;
use imported::Contents;
use plan::Difference;

use super::change::Manner;
use crate::cli::{EXIT_FAILURE, Failure, complain, output, progress};

/// The largest file: 64 MiB, all of which is held in memory.
const LARGEST: u64 = 64 * 1024 * 1024;

/// So many faults are shown; whoever has more of them has made the same one again and again.
const SHOWN_FAULTS: usize = 20;

/// Arguments of `toggled flag import`.
#[derive(Args)]
pub(super) struct Import {
    /// The file, of at most 64 MiB; - for standard input
    file: PathBuf,
    /// What the file is
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
    /// Which of the environments of an Unleash export counts
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// Do not ask before anything is changed; only who sits at a terminal is asked at all
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    manner: Manner,
}

impl Import {
    pub async fn run(self) -> Result<(), Failure> {
        let contents = self.contents()?;
        let remote = self.manner.caller.connect().await?.patient();
        let there = remote.all_flags(&progress::spinner("reading flags")).await?;
        let difference = Difference::new(&contents.flags, &there.by_key);
        let lost: Vec<_> = contents.lost.iter().chain(&difference.lost).collect();
        preview::difference(&self.manner, &difference, &lost)?;
        if self.manner.dry_run {
            return Ok(());
        }
        let steps: usize = difference.changes.iter().map(|change| change.steps.len()).sum();
        if steps > 0 && self.is_watched() && !output::ask(&format!("Make these {steps} changes?"))? {
            return Err(Failure { code: EXIT_FAILURE, line: "nothing was changed".to_owned() });
        }
        let bar = progress::bar(steps as u64, "changes");
        let mut import = Applying::new(&remote, &self.manner.reason, &bar);
        let applied = import.apply(&difference.changes).await;
        let done = import.done;
        bar.finish_and_clear();
        applied.map_err(|Failure { code, line }| Failure {
            code,
            line: format!("{line} ({done} of {steps} changes are made; the same import again makes the others)"),
        })?;
        preview::outcome(self.manner.output, done)
    }

    fn name(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.file.display().to_string() }
    }

    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    /// Whether there is somebody who can be asked.
    fn is_watched(&self) -> bool {
        !self.yes && !self.is_stdin() && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// What the file says. With any fault, all of them are told, and nothing of it is good.
    fn contents(&self) -> Result<Contents, Failure> {
        let name = self.name();
        let wrong = |rule: String| Failure::usage(format!("{name}: {rule}"));
        let bytes = if self.is_stdin() { read(io::stdin().lock()) } else { File::open(&self.file).and_then(read) };
        let bytes = bytes.map_err(|error| wrong(error.to_string()))?;
        if bytes.len() as u64 > LARGEST {
            return Err(wrong("it is larger than 64 MiB".to_owned()));
        }
        let text = str::from_utf8(&bytes).map_err(|error| wrong(format!("it is not UTF-8: {error}")))?;
        let contents = formats::parse(text, self.format, self.environment.as_deref());
        match &contents.faults[..] {
            [] => Ok(contents),
            [fault] => Err(wrong(format!("{fault}; nothing was imported"))),
            faults => {
                faults.iter().take(SHOWN_FAULTS).for_each(|fault| complain(&format!("{name}: {fault}")));
                let more = faults.len().saturating_sub(SHOWN_FAULTS);
                let more = if more > 0 { format!("and {more} more; ") } else { String::new() };
                Err(wrong(format!("{more}{} faults; nothing was imported", faults.len())))
            }
        }
    }
}

/// One byte more than there may be tells that there are too many.
fn read(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::api::pb::{FeatureFlag, FeatureFlagStatus};
    use crate::cli::flag::export;

    /// Any text that a flag may have, and more often than not one that needs care.
    fn text(least: usize) -> impl Strategy<Value = String> {
        let character =
            prop_oneof![prop::sample::select(vec!['"', ',', '\n', '\r', '\\', ' ', '\u{feff}']), any::<char>()];
        let character = character.prop_filter("none may be U+0000", |c| *c != '\0');
        prop::collection::vec(character, least..20).prop_map(String::from_iter)
    }

    fn flags() -> impl Strategy<Value = BTreeMap<String, FeatureFlag>> {
        let flag = (text(1), text(0), any::<bool>(), any::<bool>()).prop_map(|(name, description, on, archived)| {
            FeatureFlag {
                id: "i".to_owned(),
                name,
                description,
                status: if on { FeatureFlagStatus::Enabled } else { FeatureFlagStatus::Disabled }.into(),
                archived_at: archived.then(Default::default),
                ..Default::default()
            }
        });
        let keyed = |(key, flag): (String, FeatureFlag)| (key.clone(), FeatureFlag { key, ..flag });
        let flags = prop::collection::btree_map("[A-Za-z0-9][A-Za-z0-9._-]{0,5}", flag, 0..5);
        flags.prop_map(move |flags| flags.into_iter().map(keyed).collect())
    }

    proptest! {
        #[test]
        fn what_is_exported_is_imported_as_it_was(there in flags()) {
            for (written, read) in [(export::Format::Ndjson, Format::Ndjson), (export::Format::Csv, Format::Csv)] {
                let bytes = written.write(&there.values().collect::<Vec<_>>()).ok().unwrap();
                // An empty file may be anything.
                for format in [read, Format::Auto].into_iter().take(if bytes.is_empty() { 1 } else { 2 }) {
                    let contents = formats::parse(str::from_utf8(&bytes).unwrap(), format, None);
                    prop_assert_eq!((&contents.faults, &contents.lost), (&Vec::new(), &Vec::new()));
                    prop_assert_eq!(contents.flags.len(), there.len());
                    for (flag, there) in contents.flags.iter().zip(there.values()) {
                        prop_assert_eq!(flag.key.as_str(), &there.key);
                        prop_assert_eq!(flag.name.as_ref().unwrap().as_str(), &there.name);
                        prop_assert_eq!(flag.description.as_ref().unwrap().as_str(), &there.description);
                        prop_assert_eq!(FeatureFlagStatus::from(flag.status.unwrap()), there.status());
                        prop_assert_eq!(flag.archived, Some(there.archived_at.is_some()));
                    }
                }
            }
        }
    }
}
