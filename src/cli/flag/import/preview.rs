//! The difference, for people and for scripts.

use console::Style;
use serde::Serialize;

use super::imported::Lost;
use super::plan::{Difference, Edit, Edits, New, Step};
use crate::cli::Failure;
use crate::cli::flag::change::Manner;
use crate::cli::output::{self, Format, Item, Output};
use crate::cli::table::Cell;
use crate::domain::flag::Status;

/// Texts may be long; so much of one is shown in a column.
const SHOWN: usize = 60;

/// One line of a difference.
enum Line<'a> {
    Step(&'a str, &'a Step),
    Lost(&'a Lost),
}

#[derive(Serialize)]
struct Shape<'a> {
    change: &'static str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Text<'a> {
    New(&'a str),
    Edit { old: &'a str, new: &'a str },
}

impl<'a> From<&'a Edit> for Text<'a> {
    fn from(edit: &'a Edit) -> Self {
        Self::Edit { old: &edit.old, new: &edit.new }
    }
}

impl Item<3> for Line<'_> {
    const HEAD: [&'static str; 3] = ["CHANGE", "KEY", "WHAT"];

    fn row(&self) -> [Cell; 3] {
        match self {
            Self::Step(key, step) => [Cell::new(name(step), style(step)), Cell::from(*key), Cell::from(words(step))],
            Self::Lost(lost) => {
                [Cell::new("not carried", Style::new().dim()), (&*lost.of).into(), (&*lost.what).into()]
            }
        }
    }

    fn json(&self) -> impl Serialize {
        match self {
            Self::Lost(lost) => Shape { what: Some(&lost.what), ..shape("not_carried", &lost.of) },
            Self::Step(key, step) => match step {
                Step::Create(New { name: called, description, status }) => Shape {
                    name: Some(Text::New(called)),
                    description: Some(Text::New(description)),
                    status: Some(status.as_str()),
                    ..shape(name(step), key)
                },
                Step::Update(Edits { name: called, description }) => Shape {
                    name: called.as_ref().map(Text::from),
                    description: description.as_ref().map(Text::from),
                    ..shape(name(step), key)
                },
                Step::Unarchive | Step::Set(_) | Step::Archive => shape(name(step), key),
            },
        }
    }
}

fn shape<'a>(change: &'static str, key: &'a str) -> Shape<'a> {
    Shape { change, key, name: None, description: None, status: None, what: None }
}

fn name(step: &Step) -> &'static str {
    match step {
        Step::Create(_) => "create",
        Step::Unarchive => "unarchive",
        Step::Update(_) => "update",
        Step::Set(Status::Enabled) => "enable",
        Step::Set(Status::Disabled) => "disable",
        Step::Archive => "archive",
    }
}

fn style(step: &Step) -> Style {
    match step {
        Step::Create(_) | Step::Set(Status::Enabled) => Style::new().green(),
        Step::Set(Status::Disabled) => Style::new().yellow(),
        Step::Unarchive | Step::Update(_) => Style::new(),
        Step::Archive => Style::new().dim(),
    }
}

fn words(step: &Step) -> String {
    let edit = |field: &str, edit: &Option<Edit>| {
        edit.as_ref().map(|edit| format!("{field} {:?} -> {:?}", short(&edit.old), short(&edit.new)))
    };
    match step {
        Step::Create(New { name, status, .. }) => format!("{}, {:?}", status.as_str(), short(name)),
        Step::Update(Edits { name, description }) => {
            let edits = [edit("name", name), edit("description", description)];
            edits.into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
        Step::Unarchive | Step::Set(_) | Step::Archive => String::new(),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// What comes after the last line.
#[derive(Serialize)]
struct End {
    summary: Counts,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// How many of each.
#[derive(Serialize, Default)]
struct Counts {
    create: usize,
    update: usize,
    enable: usize,
    disable: usize,
    archive: usize,
    unarchive: usize,
    unchanged: usize,
    only_on_server: usize,
    not_carried: usize,
}

impl Counts {
    fn new(difference: &Difference, lost: usize) -> Self {
        let mut counts = Self {
            unchanged: difference.unchanged,
            only_on_server: difference.only_there,
            not_carried: lost,
            ..Self::default()
        };
        for step in difference.changes.iter().flat_map(|change| &change.steps) {
            *match step {
                Step::Create(_) => &mut counts.create,
                Step::Unarchive => &mut counts.unarchive,
                Step::Update(_) => &mut counts.update,
                Step::Set(Status::Enabled) => &mut counts.enable,
                Step::Set(Status::Disabled) => &mut counts.disable,
                Step::Archive => &mut counts.archive,
            } += 1;
        }
        counts
    }

    fn words(&self) -> String {
        let all = [
            (self.create, "to create"),
            (self.update, "to update"),
            (self.enable, "to enable"),
            (self.disable, "to disable"),
            (self.archive, "to archive"),
            (self.unarchive, "to unarchive"),
            (self.unchanged, "unchanged"),
            (self.only_on_server, "only on the server, left alone"),
            (self.not_carried, "not carried"),
        ];
        let said: Vec<_> = all.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if said.is_empty() { "no flags here or there".to_owned() } else { said.join(", ") }
    }
}

/// All that is to be done, and what cannot be; at the end how many of each.
pub(super) fn difference(manner: &Manner, difference: &Difference, lost: &[&Lost]) -> Result<(), Failure> {
    let output = manner.output;
    let steps = difference.changes.iter().flat_map(|change| change.steps.iter().map(|s| Line::Step(&change.key, s)));
    let lines: Vec<_> = steps.chain(lost.iter().copied().map(Line::Lost)).collect();
    if !lines.is_empty() {
        output.all(&lines)?;
    }
    let counts = Counts::new(difference, lost.len());
    match output.output {
        Format::Json => output::line(&output::json(&End { summary: counts, dry_run: manner.dry_run })?),
        Format::Table => output::line(&counts.words()),
    }
}

/// What became of it.
pub(super) fn outcome(output: Output, changes: usize) -> Result<(), Failure> {
    match output.output {
        Format::Json => output::line(&serde_json::to_string(&serde_json::json!({ "changed": changes }))?),
        Format::Table if changes == 0 => output::line("nothing to do"),
        Format::Table => output::line(&format!("{changes} changes made")),
    }
}
