//! Prints a plan, and the outcome of applying it, as a table or as JSON.

use std::borrow::Cow;

use console::{Style, truncate_str};
use serde::Serialize;

use super::imported::Omission;
use super::plan::{ChangeStep, FlagContent, ImportPlan, TextEdit, TextEdits};
use crate::cli::Failure;
use crate::cli::flag::change::ChangeOptions;
use crate::cli::flag::name::FlagName;
use crate::cli::output::{self, OutputFormat, OutputOptions, Printable};
use crate::cli::table::Cell;
use crate::domain::flag::Status;

/// The width of a name or description in columns; a longer one is cut, and ends in `...`.
const MAX_TEXT_WIDTH: usize = 60;

/// The words of a preview that depend on the command.
pub(in crate::cli::flag) struct PlanWords {
    /// What is said of flags that are not among the wanted ones.
    pub only_on_server: &'static str,
    /// What is said of an omission.
    pub omitted: &'static str,
}

/// One line of the preview.
enum PlanLine<'a> {
    Step(&'a FlagName, &'a ChangeStep),
    Omitted(&'a Omission, &'a PlanWords),
}

#[derive(Serialize)]
struct PlanLineJson<'a> {
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a str>,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<TextJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<TextJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TextJson<'a> {
    New(&'a str),
    Edit { old: &'a str, new: &'a str },
}

impl<'a> From<&'a TextEdit> for TextJson<'a> {
    fn from(edit: &'a TextEdit) -> Self {
        Self::Edit { old: &edit.old, new: &edit.new }
    }
}

impl Printable<4> for PlanLine<'_> {
    const HEADER: [&'static str; 4] = ["CHANGE", "ENVIRONMENT", "KEY", "WHAT"];

    fn row(&self) -> [Cell; 4] {
        match self {
            Self::Step(name, step) => [
                Cell::new(step_name(step), step_style(step)),
                Cell::from(name.environment.as_deref().unwrap_or_default()),
                Cell::from(&*name.key),
                Cell::from(step_details(step)),
            ],
            Self::Omitted(omission, words) => [
                Cell::new(words.omitted, Style::new().dim()),
                Cell::from(omission.environment.as_deref().unwrap_or_default()),
                (&*omission.subject).into(),
                omission.to_string().into(),
            ],
        }
    }

    fn json(&self) -> impl Serialize {
        match self {
            Self::Omitted(omission, _) => {
                let occurrences = omission.occurrences.as_ref();
                PlanLineJson {
                    what: Some(&omission.what),
                    count: occurrences.map(|occurrences| occurrences.count),
                    example: occurrences.map(|occurrences| &*occurrences.example),
                    ..empty_line("not_carried", omission.environment.as_deref(), &omission.subject)
                }
            }
            Self::Step(name, step) => match step {
                ChangeStep::Create(FlagContent { name: new_name, description, status }) => PlanLineJson {
                    name: Some(TextJson::New(new_name)),
                    description: Some(TextJson::New(description)),
                    status: Some(status.as_str()),
                    ..empty_line(step_name(step), name.environment.as_deref(), &name.key)
                },
                ChangeStep::Update(TextEdits { name: new_name, description }) => PlanLineJson {
                    name: new_name.as_ref().map(TextJson::from),
                    description: description.as_ref().map(TextJson::from),
                    ..empty_line(step_name(step), name.environment.as_deref(), &name.key)
                },
                ChangeStep::Unarchive | ChangeStep::SetStatus(_) | ChangeStep::Archive => {
                    empty_line(step_name(step), name.environment.as_deref(), &name.key)
                }
            },
        }
    }
}

fn empty_line<'a>(change: &'static str, environment: Option<&'a str>, key: &'a str) -> PlanLineJson<'a> {
    PlanLineJson {
        change,
        environment,
        key,
        name: None,
        description: None,
        status: None,
        what: None,
        count: None,
        example: None,
    }
}

fn step_name(step: &ChangeStep) -> &'static str {
    match step {
        ChangeStep::Create(_) => "create",
        ChangeStep::Unarchive => "unarchive",
        ChangeStep::Update(_) => "update",
        ChangeStep::SetStatus(Status::Enabled) => "enable",
        ChangeStep::SetStatus(Status::Disabled) => "disable",
        ChangeStep::Archive => "archive",
    }
}

fn step_style(step: &ChangeStep) -> Style {
    match step {
        ChangeStep::Create(_) | ChangeStep::SetStatus(Status::Enabled) => Style::new().green(),
        ChangeStep::SetStatus(Status::Disabled) => Style::new().yellow(),
        ChangeStep::Unarchive | ChangeStep::Update(_) => Style::new(),
        ChangeStep::Archive => Style::new().dim(),
    }
}

fn step_details(step: &ChangeStep) -> String {
    let edit = |field: &str, edit: &Option<TextEdit>| {
        edit.as_ref().map(|edit| format!("{field} {:?} -> {:?}", shortened(&edit.old), shortened(&edit.new)))
    };
    match step {
        ChangeStep::Create(FlagContent { name, status, .. }) => format!("{}, {:?}", status.as_str(), shortened(name)),
        ChangeStep::Update(TextEdits { name, description }) => {
            let edits = [edit("name", name), edit("description", description)];
            edits.into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
        ChangeStep::Unarchive | ChangeStep::SetStatus(_) | ChangeStep::Archive => String::new(),
    }
}

fn shortened(text: &str) -> Cow<'_, str> {
    truncate_str(text, MAX_TEXT_WIDTH, "...")
}

/// The last JSON object of the preview.
#[derive(Serialize)]
struct PlanSummary {
    summary: PlanCounts,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// The number of steps of each kind, of flags that need none, and of omissions.
#[derive(Serialize, Default)]
struct PlanCounts {
    create: usize,
    update: usize,
    enable: usize,
    disable: usize,
    archive: usize,
    unarchive: usize,
    unchanged: usize,
    only_on_server: usize,
    /// The JSON name is older than the word `omission`, and scripts rely on it.
    #[serde(rename = "not_carried")]
    omitted: usize,
}

impl PlanCounts {
    fn new(plan: &ImportPlan, omissions: usize) -> Self {
        let mut counts = Self {
            unchanged: plan.unchanged,
            only_on_server: plan.only_on_server,
            omitted: omissions,
            ..Self::default()
        };
        for step in plan.changes.iter().flat_map(|change| &change.steps) {
            *match step {
                ChangeStep::Create(_) => &mut counts.create,
                ChangeStep::Unarchive => &mut counts.unarchive,
                ChangeStep::Update(_) => &mut counts.update,
                ChangeStep::SetStatus(Status::Enabled) => &mut counts.enable,
                ChangeStep::SetStatus(Status::Disabled) => &mut counts.disable,
                ChangeStep::Archive => &mut counts.archive,
            } += 1;
        }
        counts
    }

    fn in_words(&self, words: &PlanWords) -> String {
        let all = [
            (self.create, "to create"),
            (self.update, "to update"),
            (self.enable, "to enable"),
            (self.disable, "to disable"),
            (self.archive, "to archive"),
            (self.unarchive, "to unarchive"),
            (self.unchanged, "unchanged"),
            (self.only_on_server, words.only_on_server),
            (self.omitted, words.omitted),
        ];
        let parts: Vec<_> = all.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if parts.is_empty() { "no flags".to_owned() } else { parts.join(", ") }
    }
}

/// Prints the steps of a plan, what is omitted, and how many there are of each.
pub(super) fn print_plan(
    options: &ChangeOptions,
    plan: &ImportPlan,
    omissions: &[&Omission],
    words: &PlanWords,
) -> Result<(), Failure> {
    let output = options.output;
    let steps = plan.changes.iter().flat_map(|change| change.steps.iter().map(|s| PlanLine::Step(&change.name, s)));
    let lines: Vec<_> = steps.chain(omissions.iter().map(|omission| PlanLine::Omitted(omission, words))).collect();
    if !lines.is_empty() {
        output.print_all(&lines)?;
    }
    let counts = PlanCounts::new(plan, omissions.len());
    match output.format {
        OutputFormat::Json => {
            output::print_line(&output::to_json(&PlanSummary { summary: counts, dry_run: options.dry_run })?)
        }
        OutputFormat::Table => output::print_line(&counts.in_words(words)),
    }
}

/// Prints how many changes were made.
pub(super) fn print_outcome(output: OutputOptions, changes: usize) -> Result<(), Failure> {
    match output.format {
        OutputFormat::Json => output::print_line(&serde_json::to_string(&serde_json::json!({ "changed": changes }))?),
        OutputFormat::Table if changes == 0 => output::print_line("nothing to do"),
        OutputFormat::Table if changes == 1 => output::print_line("1 change made"),
        OutputFormat::Table => output::print_line(&format!("{changes} changes made")),
    }
}
