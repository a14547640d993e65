//! One thing that was measured.

use crate::stats::median;

/// What a row is to reach.
#[derive(Clone, Copy)]
pub enum Goal {
    /// Not less than the first, and better the second.
    AtLeast(f64, f64),
    /// Not more than the first, and better the second.
    AtMost(f64, f64),
    /// Nothing: it is told.
    Told,
}

/// What was measured of one thing, in rounds: ours alone, or beside a limit.
pub struct Row {
    pub what: String,
    /// What the limit is; empty without one.
    pub against: String,
    unit: &'static str,
    goal: Goal,
    ours: Vec<f64>,
    limits: Vec<f64>,
}

impl Row {
    /// A row without a limit: what it comes to is the median of its rounds.
    pub fn alone(what: impl Into<String>, unit: &'static str, goal: Goal) -> Self {
        Self { what: what.into(), against: String::new(), unit, goal, ours: Vec::new(), limits: Vec::new() }
    }

    /// A row beside a limit: what it comes to is a ratio.
    pub fn beside(what: impl Into<String>, against: impl Into<String>, unit: &'static str, goal: Goal) -> Self {
        Self { against: against.into(), ..Self::alone(what, unit, goal) }
    }

    /// The same with one round.
    pub fn with(mut self, ours: f64) -> Self {
        self.ours.push(ours);
        self
    }

    /// Notes one round of a comparison, and tells of it.
    pub fn add(&mut self, ours: f64, limit: f64) {
        let round = self.ours.len() + 1;
        println!(
            "  {}, round {round}: {} to {}, {:.2}",
            self.what,
            self.number(ours),
            self.number(limit),
            ours / limit
        );
        self.ours.push(ours);
        self.limits.push(limit);
    }

    /// The median of ours.
    pub fn ours(&self) -> f64 {
        median(&self.ours)
    }

    /// The median of the limit.
    pub fn limit(&self) -> Option<f64> {
        (!self.limits.is_empty()).then(|| median(&self.limits))
    }

    /// What the goal is about. Of a comparison the median of the rounds' ratios, not the ratio of the medians: when the
    /// machine is slower for a while, both sides of a round are.
    pub fn value(&self) -> f64 {
        if self.limits.is_empty() {
            return self.ours();
        }
        median(&self.ratios().collect::<Vec<_>>())
    }

    /// The least of the rounds' ratios.
    pub fn least(&self) -> f64 {
        self.ratios().fold(f64::INFINITY, f64::min)
    }

    fn ratios(&self) -> impl Iterator<Item = f64> {
        self.ours.iter().zip(&self.limits).map(|(ours, limit)| ours / limit)
    }

    /// Whether anything was measured.
    pub fn has_rounds(&self) -> bool {
        !self.ours.is_empty()
    }

    /// Whether it is as it must be.
    pub fn is_enough(&self) -> bool {
        match self.goal {
            Goal::AtLeast(must, _) => self.value() >= must,
            Goal::AtMost(must, _) => self.value() <= must,
            Goal::Told => true,
        }
    }

    /// How much of its goal it reaches: at 1 it is as it must be, and above that it is better.
    pub fn reached(&self) -> Option<f64> {
        match self.goal {
            Goal::AtLeast(must, _) => Some(self.value() / must),
            Goal::AtMost(must, _) => Some(must / self.value()),
            Goal::Told => None,
        }
    }

    /// What it must be and what it should be, for the table.
    pub fn goals(&self) -> [String; 2] {
        let number = |goal: f64| if self.limits.is_empty() { self.number(goal) } else { format!("{goal}") };
        match self.goal {
            Goal::AtLeast(must, aim) => [format!(">= {}", number(must)), number(aim)],
            Goal::AtMost(must, aim) => [format!("<= {}", number(must)), number(aim)],
            Goal::Told => [String::new(), String::new()],
        }
    }

    /// A number in the row's unit, with as many digits as mean anything.
    pub fn number(&self, number: f64) -> String {
        let digits = if number >= 100.0 {
            0
        } else if number >= 10.0 {
            1
        } else {
            2
        };
        format!("{number:.digits$}{}", self.unit)
    }

    /// A line for who is waiting.
    pub fn told(&self) -> String {
        let ratio = self.limit().map(|_| format!(", {:.2} of the limit", self.value())).unwrap_or_default();
        format!("{}: {}{ratio}", self.what, self.number(self.ours()))
    }

    /// For programs: everything, round by round.
    pub fn to_json(&self) -> serde_json::Value {
        let (goal, must, aim) = match self.goal {
            Goal::AtLeast(must, aim) => (Some("at least"), Some(must), Some(aim)),
            Goal::AtMost(must, aim) => (Some("at most"), Some(must), Some(aim)),
            Goal::Told => (None, None, None),
        };
        serde_json::json!({
            "what": self.what, "against": self.against, "unit": self.unit.trim(), "ours": self.ours,
            "limit": self.limits, "value": self.value(), "goal": goal, "must": must, "aim": aim,
        })
    }
}
