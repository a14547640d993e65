//! How much of everything is measured.

use std::time::Duration;

/// How many flags there are, `flag-1` and on. The scripts of pgbench know it too.
pub const FLAGS: usize = 1_000;

/// How long, how often, and on how much.
pub struct Scale {
    /// Both sides of a comparison take so many turns.
    pub rounds: usize,
    /// How long a turn of changes counts, after half a second that does not, or half of this if that is less.
    pub turn: Duration,
    /// How long pgbench is tried with each number of clients, and how often.
    pub trial: Duration,
    pub trials: usize,
    /// Requests of a turn of reads.
    pub reads: usize,
    /// Calls of a turn whose median counts.
    pub calls: usize,
    /// Rounds of a comparison of builds, the measured time of each turn of flips, and the requests of each turn of reads.
    pub compared_rounds: usize,
    pub compared_length: Duration,
    pub compared_reads: usize,
    /// Entries of the large log on PostgreSQL, and of that on SQLite.
    pub entries: i64,
    pub sqlite_entries: i64,
    /// Entries of the small log.
    pub few_entries: i64,
    /// Entries that are streamed in a turn: the last of the log.
    pub streamed: i64,
    /// The far page of a list, 100 entries each.
    pub far_page: i32,
    /// Flags where there are many.
    pub many_flags: usize,
    /// Flips of a turn that are waited for by watchers.
    pub watched_flips: usize,
    /// How long there is load.
    pub load: Duration,
    /// Entries of the exported logs that are verified.
    pub verified: [u64; 2],
    /// Whether the results are kept.
    pub is_written_down: bool,
}

/// Where there is less than 15 minutes.
pub const FULL: Scale = Scale {
    rounds: 5,
    turn: Duration::from_secs(2),
    trial: Duration::from_secs(1),
    trials: 2,
    reads: 80_000,
    calls: 300,
    compared_rounds: 15,
    compared_length: Duration::from_secs(2),
    compared_reads: 80_000,
    entries: 5_000_000,
    sqlite_entries: 1_000_000,
    few_entries: 10_000,
    streamed: 1_000_000,
    far_page: 50_000,
    many_flags: 100_000,
    watched_flips: 200,
    load: Duration::from_secs(60),
    verified: [200_000, 1_000_000],
    is_written_down: true,
};

/// Where there are two.
pub const QUICK: Scale = Scale {
    rounds: 5,
    turn: Duration::from_millis(400),
    trial: Duration::from_secs(1),
    trials: 1,
    reads: 20_000,
    calls: 50,
    compared_rounds: 9,
    compared_length: Duration::from_secs(1),
    compared_reads: 40_000,
    entries: 60_000,
    sqlite_entries: 50_000,
    few_entries: 5_000,
    streamed: 25_000,
    far_page: 500,
    many_flags: 10_000,
    watched_flips: 30,
    load: Duration::from_secs(3),
    verified: [30_000, 100_000],
    is_written_down: false,
};
