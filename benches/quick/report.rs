//! What was measured, side by side.

/// Ours and the limit of one thing, measured in turns.
pub struct Comparison {
    what: String,
    limit_is: String,
    at_least: f64,
    ours: Vec<f64>,
    limit: Vec<f64>,
}

impl Comparison {
    pub fn new(what: String, limit_is: String, at_least: f64) -> Self {
        println!("\n{what}: ours, then {limit_is}");
        Self { what, limit_is, at_least, ours: Vec::new(), limit: Vec::new() }
    }

    /// Notes one round, and tells of it.
    pub fn add(&mut self, ours: f64, limit: f64) {
        self.ours.push(ours);
        self.limit.push(limit);
        println!("  round {}: {ours:>8.0} {limit:>8.0} {:>6.2}", self.ours.len(), ours / limit);
    }

    /// Whether the ratio is not under its minimum.
    pub fn is_enough(&self) -> bool {
        self.ratio() >= self.at_least
    }

    /// The median of the rounds' ratios, not the ratio of the medians: when the machine is slower for a while, both
    /// sides of a round are.
    fn ratio(&self) -> f64 {
        let ratios: Vec<f64> = self.ours.iter().zip(&self.limit).map(|(ours, limit)| ours / limit).collect();
        median(&ratios)
    }
}

/// The medians of all rounds.
pub fn table(comparisons: &[&Comparison]) {
    println!("\n{:<32}{:>9}{:>9}{:>8}{:>10}", "medians", "ours", "limit", "ratio", "at least");
    for c in comparisons {
        let missed = if c.is_enough() { "" } else { "  MISSED" };
        let (ours, limit) = (median(&c.ours), median(&c.limit));
        println!("{:<32}{ours:>9.0}{limit:>9.0}{:>8.2}{:>10.2}{missed}", c.what, c.ratio(), c.at_least);
    }
    for c in comparisons {
        println!("limit of {}: {}", c.what, c.limit_is);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}
