//! The parts of the benchmark, in the order of the table.

mod compare;
mod deep_pages;
mod environments;
mod fanout;
mod filters;
mod flips;
mod lists;
mod load;
mod many_flags;
mod reads;
mod replicas;
mod sizes;
mod streams;
mod verify;
mod watchers;

use crate::Result;
use crate::report::Report;
use crate::rig::Rig;

/// The parts that measure this build, by name.
pub const NAMES: [&str; 14] = [
    "flips",
    "reads",
    "fanout",
    "watchers",
    "replicas",
    "streams",
    "lists",
    "pages",
    "filters",
    "load",
    "sizes",
    "flags",
    "environments",
    "verify",
];

/// The part that compares this build with others.
pub const COMPARE: &str = "compare";

/// Measures one part.
pub async fn measure(name: &str, rig: &mut Rig, report: &mut Report) -> Result<()> {
    println!("\n{name}");
    match name {
        COMPARE => compare::measure(rig, report).await,
        "flips" => flips::measure(rig, report).await,
        "reads" => reads::measure(rig, report).await,
        "fanout" => fanout::measure(rig, report).await,
        "watchers" => watchers::measure(rig, report).await,
        "replicas" => replicas::measure(rig, report).await,
        "streams" => streams::measure(rig, report).await,
        "lists" => lists::measure(rig, report).await,
        "pages" => deep_pages::measure(rig, report).await,
        "filters" => filters::measure(rig, report).await,
        "load" => load::measure(rig, report).await,
        "sizes" => sizes::measure(rig, report).await,
        "flags" => many_flags::measure(rig, report).await,
        "environments" => environments::measure(rig, report).await,
        "verify" => verify::measure(rig, report).await,
        _ => Err(format!("unknown part {name:?}").into()),
    }
}
