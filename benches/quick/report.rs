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
        println!("  round {}: {ours:>8.0} {limit:>8.0}", self.ours.len());
    }

    /// Whether the ratio is not under its minimum.
    pub fn is_enough(&self) -> bool {
        self.ratio() >= self.at_least
    }

    fn ratio(&self) -> f64 {
        median(&self.ours) / median(&self.limit)
    }
}

/// The medians of all rounds and their ratios.
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
