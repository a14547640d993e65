//! The size of a run.

use std::time::Duration;

/// Number of flags, `flag-1` and up. The pgbench scripts contain it too.
pub const FLAGS: usize = 1_000;

/// How long, how often and on how much data a run measures.
pub struct Scale {
    /// Rounds of a comparison. Each side has one turn per round.
    pub rounds: usize,
    /// Measured time of a turn of flips, after a warm-up of half a second or half of this, whichever is less.
    pub turn: Duration,
    /// Duration and number of trials of pgbench with each number of clients.
    pub trial: Duration,
    pub trials: usize,
    /// Requests in a turn of reads.
    pub reads: usize,
    /// Calls in a turn of list calls.
    pub calls: usize,
    /// Rounds of a comparison of builds by flips, and the measured time of each turn.
    pub compared_rounds: usize,
    pub compared_length: Duration,
    /// The same by reads, and the requests of each turn. There are many short rounds: other machines on the same host change the rate by
    /// a quarter from second to second.
    pub compared_read_rounds: usize,
    pub compared_reads: usize,
    /// Entries of the long log on PostgreSQL, and of that on SQLite.
    pub entries: i64,
    pub sqlite_entries: i64,
    /// Entries of the short log.
    pub few_entries: i64,
    /// Entries streamed in a turn: the last ones of the log.
    pub streamed: i64,
    /// Number of the far page of a list, with 100 entries per page.
    pub far_page: i32,
    /// Flags of the server with many flags, and how long they are flipped before the measured flips.
    pub many_flags: usize,
    pub many_flags_warm_up: Duration,
    /// Flags of the server with many environments, and of the one with as many flags in one.
    pub spread_flags: usize,
    /// Flips in a turn with watchers.
    pub watched_flips: usize,
    /// Numbers of watchers beside a load of flips. The last one is also measured idle, with lone flips, and without readers.
    pub watchers: [usize; 3],
    /// Lone flips in a turn with that many watchers.
    pub lone_flips: usize,
    /// Duration of the sustained load.
    pub load: Duration,
    /// Entries of the two exported logs that are verified.
    pub verified: [u64; 2],
    /// Whether results are written to docs/benchmarks.
    pub writes_results: bool,
}

/// Less than 15 minutes.
pub const FULL: Scale = Scale {
    rounds: 5,
    turn: Duration::from_secs(2),
    trial: Duration::from_secs(1),
    trials: 2,
    reads: 80_000,
    calls: 300,
    compared_rounds: 15,
    compared_length: Duration::from_secs(2),
    compared_read_rounds: 51,
    compared_reads: 40_000,
    entries: 5_000_000,
    sqlite_entries: 1_000_000,
    few_entries: 10_000,
    streamed: 1_000_000,
    far_page: 50_000,
    many_flags: 1_000_000,
    many_flags_warm_up: Duration::from_secs(10),
    spread_flags: 100_000,
    watched_flips: 100,
    watchers: [100, 1_000, 10_000],
    lone_flips: 20,
    load: Duration::from_secs(60),
    verified: [200_000, 1_000_000],
    writes_results: true,
};

/// About two minutes.
pub const QUICK: Scale = Scale {
    rounds: 5,
    turn: Duration::from_millis(400),
    trial: Duration::from_secs(1),
    trials: 1,
    reads: 20_000,
    calls: 50,
    compared_rounds: 9,
    compared_length: Duration::from_secs(1),
    compared_read_rounds: 31,
    compared_reads: 20_000,
    entries: 60_000,
    sqlite_entries: 50_000,
    few_entries: 5_000,
    streamed: 25_000,
    far_page: 500,
    many_flags: 50_000,
    many_flags_warm_up: Duration::from_secs(1),
    spread_flags: 20_000,
    watched_flips: 30,
    watchers: [20, 200, 2_000],
    lone_flips: 10,
    load: Duration::from_secs(3),
    verified: [30_000, 100_000],
    writes_results: false,
};
