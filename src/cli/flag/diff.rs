//! `toggled flag diff`: what differs between the flags of two environments. It ends like `diff`: 0 if they are equal, 1 if they
//! differ.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Serialize;

use crate::api::pb::FeatureFlag;
use crate::cli::output::{self, OutputFormat, OutputOptions};
use crate::cli::remote::{ConnectionOptions, environment_key};
use crate::cli::table::Cell;
use crate::cli::{EXIT_FAILURE, EXIT_NOT_FOUND, Failure, progress};
use crate::domain::text::EnvironmentKey;

/// Arguments of `toggled flag diff`.
#[derive(Args)]
pub(super) struct DiffArgs {
    /// The two environments, by their keys
    #[arg(
        long,
        short,
        required = true,
        num_args = 2,
        value_names = ["ENVIRONMENT", "OTHER"],
        value_parser = environment_key
    )]
    environment: Vec<EnvironmentKey>,
    /// Only the flags with these keys; by default all flags
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl DiffArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let [one, other] = &self.environment[..] else {
            return Err(Failure::usage("--environment takes two environments: -e staging production"));
        };
        if one == other {
            return Err(Failure::usage(format!("{one} is named twice; name two environments")));
        }
        let client = self.connection.connect().await?;
        let mut sides = Vec::new();
        for environment in [one, other] {
            let spinner = progress::spinner(&format!("reading flags of {environment}"));
            let all = client.all_flags(Some(environment.to_string()), &spinner).await?;
            sides.push(all.flags.into_iter().map(|flag| (flag.key.clone(), flag)).collect());
        }
        let environments = [one.as_str(), other.as_str()];
        let comparison = Comparison { environments, keys: self.keys, sides };
        let differences = comparison.differences()?;
        comparison.print(self.output, &differences)?;
        match differences.is_empty() {
            true => Ok(()),
            false => Err(Failure { code: EXIT_FAILURE, message: String::new() }),
        }
    }
}

struct Comparison<'a> {
    environments: [&'a str; 2],
    keys: Vec<String>,
    /// The flags of each environment, by key.
    sides: Vec<BTreeMap<String, FeatureFlag>>,
}

/// A key whose flags differ.
struct Difference<'a> {
    key: &'a str,
    flags: [Option<&'a FeatureFlag>; 2],
    /// The fields that differ, by their names in JSON. A flag that one environment lacks has no fields there.
    fields: Vec<&'static str>,
}

#[derive(Serialize)]
struct DifferenceJson<'a> {
    key: &'a str,
    differs: &'a [&'static str],
    environments: BTreeMap<&'a str, Option<FlagJson<'a>>>,
}

#[derive(Serialize)]
struct FlagJson<'a> {
    status: String,
    name: &'a str,
    description: &'a str,
    archived: bool,
    revision: i64,
}

impl Comparison<'_> {
    fn differences(&self) -> Result<Vec<Difference<'_>>, Failure> {
        let all: BTreeSet<_> = self.sides.iter().flat_map(|side| side.keys().map(String::as_str)).collect();
        let [one, other] = self.environments;
        if let Some(key) = self.keys.iter().find(|key| !all.contains(key.as_str())) {
            let message = format!("neither {one} nor {other} has a flag with the key {key}");
            return Err(Failure { code: EXIT_NOT_FOUND, message });
        }
        let wanted: BTreeSet<_> = self.keys.iter().map(String::as_str).collect();
        let compared = all.into_iter().filter(|key| wanted.is_empty() || wanted.contains(key));
        Ok(compared.filter_map(|key| self.difference(key)).collect())
    }

    fn difference<'a>(&'a self, key: &'a str) -> Option<Difference<'a>> {
        let of = |side: usize| self.sides.get(side).and_then(|side| side.get(key));
        let flags = [of(0), of(1)];
        let fields = match flags {
            [Some(one), Some(other)] => fields(one).into_iter().zip(fields(other)).filter_map(different).collect(),
            _ => vec!["flag"],
        };
        (!fields.is_empty()).then_some(Difference { key, flags, fields })
    }

    fn print(&self, options: OutputOptions, differences: &[Difference<'_>]) -> Result<(), Failure> {
        if options.format == OutputFormat::Json {
            return differences
                .iter()
                .try_for_each(|difference| output::print_line(&output::to_json(&self.json(difference))?));
        }
        if differences.is_empty() {
            return output::print_line("no differences");
        }
        let header = ["KEY", "FIELD"].into_iter().chain(self.environments).map(str::to_owned);
        let rows = differences.iter().flat_map(|difference| {
            difference.fields.iter().map(|field| {
                let cells = difference.flags.map(|flag| Cell::from(shown(field, flag)));
                ([Cell::from(difference.key), Cell::from(*field)].into_iter().chain(cells).collect(), ())
            })
        });
        options.print_rows(header, rows)
    }

    fn json<'a>(&'a self, difference: &'a Difference<'a>) -> DifferenceJson<'a> {
        let flag_json = |flag: &'a FeatureFlag| FlagJson {
            status: output::status(flag.status),
            name: &flag.name,
            description: &flag.description,
            archived: flag.archived_at.is_some(),
            revision: flag.revision,
        };
        let flags = difference.flags.map(|flag| flag.map(flag_json));
        let environments = self.environments.into_iter().zip(flags).collect();
        DifferenceJson { key: difference.key, differs: &difference.fields, environments }
    }
}

/// The fields that are compared.
fn fields(flag: &FeatureFlag) -> [(&'static str, String); 4] {
    [
        ("status", output::status(flag.status)),
        ("name", flag.name.clone()),
        ("description", flag.description.clone()),
        ("archived", flag.archived_at.is_some().to_string()),
    ]
}

fn different((one, other): ((&'static str, String), (&'static str, String))) -> Option<&'static str> {
    (one.1 != other.1).then_some(one.0)
}

/// A field's value in the table; texts are quoted.
fn shown(field: &str, flag: Option<&FeatureFlag>) -> String {
    let Some(flag) = flag else { return "absent".to_owned() };
    match fields(flag).into_iter().find(|(name, _)| *name == field) {
        Some(("name" | "description", text)) => format!("{text:?}"),
        Some((_, text)) => text,
        // The whole flag, which the other environment lacks.
        None if flag.archived_at.is_some() => "archived".to_owned(),
        None => output::status(flag.status),
    }
}
