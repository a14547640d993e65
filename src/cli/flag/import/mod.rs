//! `toggled flag import`: changes flags to what a file says. A file in any of the `formats` is parsed into `imported` flags;
//! their difference from the server is the `plan`, which is shown as a `preview` and then `apply`-ed.

mod apply;
mod formats;
mod imported;
mod plan;
mod preview;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use apply::PlanRunner;
use clap::Args;
use formats::{FormatChoice, ParseOptions};
use imported::{ImportedFlags, ParseErrors};

use super::change::ChangeOptions;
use super::name::FlagName;
use crate::api::pb::{Environment, FeatureFlag};
use crate::cli::remote::{ApiClient, EnvironmentOption};
use crate::cli::{
    EXIT_CONFLICT, EXIT_FAILURE, EXIT_NOT_FOUND, EXIT_UNAVAILABLE, Failure, file, output, print_error, progress,
};
use crate::domain::state::EnvironmentScope;
use crate::visible::is_blank;

pub(super) use imported::{ImportedFlag, Omission};
pub(super) use plan::ImportPlan;
pub(super) use preview::PlanWords;

/// The largest file: 64 MiB, all of which is held in memory.
const MAX_FILE_SIZE: u64 = 64 * 1024 * 1024;

/// How many of a file's errors are shown. A file with more has most likely the same error on every line.
const SHOWN_ERRORS: usize = 20;

/// How many environments a question names.
const MAX_NAMED_ENVIRONMENTS: usize = 5;

/// Arguments of `toggled flag import`.
#[derive(Args)]
#[command(mut_arg("environment", |arg| arg.help("The environment that all flags go into, by its key. Default: those that the file \
names; else the token's own, or the server's only one")))]
pub(super) struct ImportArgs {
    /// The file, of at most 64 MiB; - for standard input
    file: PathBuf,
    /// The format of the file
    #[arg(long, value_parser = formats::format_parser(), default_value = formats::AUTO)]
    format: FormatChoice,
    #[command(flatten)]
    environment: EnvironmentOption,
    #[command(flatten)]
    parsing: ParseOptions,
    /// Do not ask for confirmation; required to make changes without a terminal, or with a file from standard input
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

impl ImportArgs {
    pub async fn run(mut self) -> Result<(), Failure> {
        if let Some(EnvironmentScope::One(environment)) = self.environment.named() {
            self.parsing.target = Some(environment.to_string());
        }
        let mut imported = self.read()?;
        let client = self.options.connection.connect().await?.waiting_for_rate_limits();
        let environments = client.environments(true).await?;
        let targets = self.assign_environments(&client, &environments, &mut imported).await?;
        let mut on_server = BTreeMap::new();
        for target in targets {
            on_server.extend(flags_of(&client, target).await?);
        }
        let plan = ImportPlan::new(&imported.flags, &on_server);
        let review = Review {
            client: &client,
            environments: &environments,
            options: &self.options,
            confirmation: Confirmation::new(self.yes, self.is_stdin()),
            omissions: &imported.omissions,
            words: &PlanWords { only_on_server: "only on the server, kept", omitted: "not imported" },
        };
        review.apply(&plan).await
    }

    /// Gives each flag its environment, and returns all of them. An environment that does not exist for the caller is an error: an import
    /// makes none.
    async fn assign_environments(
        &self,
        client: &ApiClient,
        known: &[Environment],
        imported: &mut ImportedFlags,
    ) -> Result<BTreeSet<Option<String>>, Failure> {
        let mut unnamed: Vec<_> = imported.flags.iter_mut().filter(|flag| flag.environment.is_none()).collect();
        if !unnamed.is_empty() && self.environment.named() == Some(&EnvironmentScope::All) {
            return Err(self.refused("it does not name the environments of its flags; name one with --environment"));
        }
        if !unnamed.is_empty() {
            let environment = client.environment_to_change(None).await?;
            unnamed.iter_mut().for_each(|flag| flag.environment.clone_from(&environment));
        }
        let targets: BTreeSet<_> = imported.flags.iter().map(|flag| flag.environment.clone()).collect();
        let mut seen = HashSet::new();
        if let Some(twice) = imported.flags.iter().map(ImportedFlag::full_name).find(|name| !seen.insert(name.clone()))
        {
            return Err(self.refused(format!("the flag {twice} is there twice; nothing was imported")));
        }
        let known: BTreeSet<_> = known.iter().map(|known| &known.key).collect();
        let missing: Vec<_> = targets.iter().flatten().filter(|target| !known.contains(target)).cloned().collect();
        if missing.is_empty() {
            return Ok(targets);
        }
        Err(self.without_environments(&missing))
    }

    /// Prints which environments are missing, and the commands that create them.
    fn without_environments(&self, missing: &[String]) -> Failure {
        let (environments, them) = if missing.len() == 1 { ("environment", "it") } else { ("environments", "them") };
        print_error(&format!(
            "{}: the server has no {environments} {}, or you hold no permission there; create {them}, or choose another \
             environment with --environment; nothing was imported",
            self.name(),
            missing.join(", ")
        ));
        missing.iter().for_each(|key| output::print_note(&format!("toggled environment create {key}")));
        Failure { code: EXIT_NOT_FOUND, message: String::new() }
    }

    /// The file's name in messages.
    fn name(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.file.display().to_string() }
    }

    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    /// Reads and parses the file. A file with any error is refused.
    fn read(&self) -> Result<ImportedFlags, Failure> {
        let bytes = if self.is_stdin() {
            read_limited(io::stdin().lock())
        } else {
            File::open(&self.file).and_then(read_limited)
        };
        let bytes = bytes.map_err(|error| self.refused(file::describe(&error)))?;
        if bytes.len() as u64 > MAX_FILE_SIZE {
            return Err(self.refused("it is larger than 64 MiB; split it"));
        }
        let text = str::from_utf8(&bytes).map_err(|error| self.refused(format!("not UTF-8: {error}")))?;
        formats::parse(text, self.format, &self.parsing).map_err(|errors| self.report(&errors))
    }

    /// Prints a file's errors. The last line is the failure.
    fn report(&self, errors: &ParseErrors) -> Failure {
        if let [error] = &errors[..] {
            return self.refused(format!("{error}; nothing was imported"));
        }
        for error in errors.iter().take(SHOWN_ERRORS) {
            print_error(&format!("{}: {error}", self.name()));
        }
        let shown = if errors.len() > SHOWN_ERRORS { format!(", {SHOWN_ERRORS} shown") } else { String::new() };
        self.refused(format!("{} errors{shown}; nothing was imported", errors.len()))
    }

    fn refused(&self, rule: impl std::fmt::Display) -> Failure {
        Failure::usage(format!("{}: {rule}", self.name()))
    }
}

/// All flags of an environment by name.
async fn flags_of(
    client: &ApiClient,
    environment: Option<String>,
) -> Result<impl Iterator<Item = (FlagName, FeatureFlag)>, Failure> {
    let activity =
        environment.as_ref().map_or_else(|| "reading flags".to_owned(), |key| format!("reading flags of {key}"));
    let all = client.all_flags(environment.clone(), &progress::spinner(&activity)).await?;
    let named = move |flag: FeatureFlag| {
        let name = FlagName { environment: environment.clone(), key: flag.key.clone() };
        (name, flag)
    };
    Ok(all.flags.into_iter().map(named))
}

/// Whether changes are confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// By --yes.
    Given,
    /// A person at a terminal can be asked.
    Askable,
    /// Nobody can be asked.
    Impossible,
}

impl Confirmation {
    /// By `yes`, or by a person, if this process has a terminal whose input is not a file to read.
    pub fn new(yes: bool, reads_standard_input: bool) -> Self {
        let has_terminal = || io::stdin().is_terminal() && io::stderr().is_terminal();
        match yes {
            true => Self::Given,
            false if !reads_standard_input && has_terminal() => Self::Askable,
            false => Self::Impossible,
        }
    }
}

/// Shows a plan and applies it.
pub(super) struct Review<'a> {
    pub client: &'a ApiClient,
    /// All that the caller may see.
    pub environments: &'a [Environment],
    pub options: &'a ChangeOptions,
    pub confirmation: Confirmation,
    pub omissions: &'a [Omission],
    pub words: &'a PlanWords,
}

impl Review<'_> {
    pub async fn apply(&self, plan: &ImportPlan) -> Result<(), Failure> {
        let Self { client, options, .. } = self;
        let omissions: Vec<_> = self.omissions.iter().chain(&plan.omissions).collect();
        preview::print_plan(options, plan, &omissions, self.words)?;
        self.check_environments(plan)?;
        if options.dry_run {
            return Ok(());
        }
        let steps = plan.step_count();
        if steps > 0 {
            self.confirm(plan)?;
        }
        let bar = progress::bar(steps as u64, "changes");
        let mut runner = PlanRunner::new(client, &options.reason, &bar);
        let applied = runner.apply(&plan.changes).await;
        let done = runner.done;
        bar.finish_and_clear();
        applied.map_err(|Failure { code, message }| {
            // Anything else would fail again.
            let may_succeed = [EXIT_CONFLICT, EXIT_UNAVAILABLE].contains(&code);
            let advice = if may_succeed { "; repeat the command to make the others" } else { "" };
            Failure { code, message: format!("{message} ({done} of {steps} changes were made{advice})") }
        })?;
        preview::print_outcome(options.output, done)
    }

    fn confirm(&self, plan: &ImportPlan) -> Result<(), Failure> {
        match self.confirmation {
            Confirmation::Given => Ok(()),
            Confirmation::Askable if output::confirm(&question(plan))? => Ok(()),
            Confirmation::Askable => Err(Failure { code: EXIT_FAILURE, message: "nothing was changed".to_owned() }),
            Confirmation::Impossible => Err(Failure::usage(
                "nobody can be asked to confirm the changes: add --yes to make them; nothing was changed",
            )),
        }
    }

    /// Refuses a plan that the server would refuse after some of its changes are made: with a change in an archived environment, or
    /// without a reason where an environment requires one. A preview needs no reason, and says that the changes do.
    fn check_environments(&self, plan: &ImportPlan) -> Result<(), Failure> {
        let (changed, affected) = (plan.environments(), plan.affected_environments());
        let keys = |is_one: &dyn Fn(&Environment) -> bool| {
            let found = self.environments.iter().filter(|environment| is_one(environment));
            found.map(|environment| environment.key.as_str()).collect::<Vec<_>>()
        };
        let archived = keys(&|one| one.archived_at.is_some() && changed.contains(one.key.as_str()));
        if let [first, ..] = archived[..] {
            let are = if archived.len() == 1 { "is" } else { "are" };
            let message = format!(
                "{} {are} archived: run toggled environment unarchive {first} first; nothing was changed",
                archived.join(", ")
            );
            return Err(Failure { code: EXIT_CONFLICT, message });
        }
        let strict = keys(&|one| one.require_reason && affected.contains(one.key.as_str()));
        if strict.is_empty() || !is_blank(&self.options.reason) {
            return Ok(());
        }
        let require = if strict.len() == 1 { "requires" } else { "require" };
        let message = format!("{} {require} a reason: add --reason TEXT", strict.join(", "));
        match self.options.dry_run {
            true => output::print_note(&message),
            false => return Err(Failure::usage(format!("{message}; nothing was changed"))),
        }
        Ok(())
    }
}

/// The question before a plan is applied. It names the environments, of which many are counted instead.
fn question(plan: &ImportPlan) -> String {
    let environments = plan.environments();
    let target = match environments.len() {
        0 => String::new(),
        1..=MAX_NAMED_ENVIRONMENTS => format!(" in {}", environments.into_iter().collect::<Vec<_>>().join(", ")),
        many => format!(" in {many} environments"),
    };
    match plan.step_count() {
        1 => format!("Make this change{target}?"),
        steps => format!("Make these {steps} changes{target}?"),
    }
}

/// Reads at most one byte more than the limit, by which a larger file is recognized.
fn read_limited(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::builder::TypedValueParser;
    use proptest::prelude::*;

    use super::*;
    use crate::api::pb::{FeatureFlag, FeatureFlagStatus};
    use crate::cli::flag::export;
    use crate::cli::output::CsvCells;

    /// Any text that a flag may have; every other character is one that a format must escape.
    fn text(min_length: usize) -> impl Strategy<Value = String> {
        let character = prop_oneof![
            prop::sample::select(vec!['"', '\'', '=', '-', '\t', ',', '\n', '\r', '\\', ' ', '\u{feff}']),
            any::<char>()
        ];
        let character = character.prop_filter("no U+0000", |c| *c != '\0');
        prop::collection::vec(character, min_length..20).prop_map(String::from_iter)
    }

    fn flags() -> impl Strategy<Value = BTreeMap<String, FeatureFlag>> {
        let flag = (text(1), text(0), any::<bool>(), any::<bool>()).prop_map(|(name, description, on, archived)| {
            FeatureFlag {
                id: "i".to_owned(),
                environment: "default".to_owned(),
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
        fn exported_flags_are_imported_unchanged(existing in flags()) {
            let (ndjson, csv) = (export::ExportFormat::Ndjson, export::ExportFormat::Csv);
            for (format, name, raw_cells) in [(ndjson, "ndjson", false), (csv, "csv", false), (csv, "csv", true)] {
                let options = ParseOptions { raw_cells, ..ParseOptions::default() };
                let cells = CsvCells::new(raw_cells);
                let bytes = format.write(&existing.values().collect::<Vec<_>>(), cells).ok().unwrap();
                let given = formats::format_parser().parse_ref(&clap::Command::new("test"), None, name.as_ref()).unwrap();
                // The format of an empty file cannot be detected.
                for choice in [given, FormatChoice::Detect].into_iter().take(if bytes.is_empty() { 1 } else { 2 }) {
                    let imported = formats::parse(str::from_utf8(&bytes).unwrap(), choice, &options).unwrap();
                    prop_assert!(imported.omissions.is_empty(), "{:?}", imported.omissions);
                    prop_assert_eq!(imported.flags.len(), existing.len());
                    for (flag, existing) in imported.flags.iter().zip(existing.values()) {
                        prop_assert_eq!(flag.environment.as_ref(), Some(&existing.environment));
                        prop_assert_eq!(flag.key.as_str(), &existing.key);
                        prop_assert_eq!(flag.name.as_ref().unwrap().as_str(), &existing.name);
                        prop_assert_eq!(flag.description.as_ref().unwrap().as_str(), &existing.description);
                        prop_assert_eq!(FeatureFlagStatus::from(flag.status.unwrap()), existing.status());
                        prop_assert_eq!(flag.archived, Some(existing.archived_at.is_some()));
                    }
                }
            }
        }
    }
}
