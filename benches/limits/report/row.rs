//! One measurement.

use crate::stats::median;

/// The goal of a row.
#[derive(Clone, Copy)]
pub enum Goal {
    /// At least the first value; the second is the aim.
    AtLeast(f64, f64),
    /// At most the first value; the second is the aim.
    AtMost(f64, f64),
    /// No goal: the row is only reported.
    Informational,
}

/// Measurements in rounds, with or without a limit to compare with.
pub struct Row {
    pub name: String,
    /// Describes the limit. Empty without one.
    pub against: String,
    unit: &'static str,
    goal: Goal,
    measured: Vec<f64>,
    limits: Vec<f64>,
}

impl Row {
    /// A row without a limit. Its value is the median of the rounds.
    pub fn single(name: impl Into<String>, unit: &'static str, goal: Goal) -> Self {
        Self { name: name.into(), against: String::new(), unit, goal, measured: Vec::new(), limits: Vec::new() }
    }

    /// A row with a limit. Its value is the median ratio of measurement and limit.
    pub fn compared(name: impl Into<String>, against: impl Into<String>, unit: &'static str, goal: Goal) -> Self {
        Self { against: against.into(), ..Self::single(name, unit, goal) }
    }

    /// Adds a round without a limit.
    pub fn with(mut self, measured: f64) -> Self {
        self.measure(measured);
        self
    }

    /// The same, in place.
    pub fn measure(&mut self, measured: f64) {
        self.measured.push(measured);
    }

    /// Adds a round of a comparison and prints it.
    pub fn add(&mut self, measured: f64, limit: f64) {
        let round = self.measured.len() + 1;
        println!(
            "  {}, round {round}: {} vs. {}, ratio {:.3}",
            self.name,
            self.number(measured),
            self.number(limit),
            measured / limit
        );
        self.measured.push(measured);
        self.limits.push(limit);
    }

    /// The median measurement.
    pub fn median(&self) -> f64 {
        median(&self.measured)
    }

    /// The median of the limit, if there is one.
    pub fn limit(&self) -> Option<f64> {
        (!self.limits.is_empty()).then(|| median(&self.limits))
    }

    /// The value that the goal applies to. For a comparison, this is the median of the ratios and not the ratio of the
    /// medians: when the machine is slow for a while, both sides of a round are slow.
    pub fn value(&self) -> f64 {
        if self.limits.is_empty() {
            return self.median();
        }
        median(&self.ratios().collect::<Vec<_>>())
    }

    /// The least ratio of the rounds.
    pub fn least(&self) -> f64 {
        self.ratios().fold(f64::INFINITY, f64::min)
    }

    fn ratios(&self) -> impl Iterator<Item = f64> {
        self.measured.iter().zip(&self.limits).map(|(measured, limit)| measured / limit)
    }

    /// Whether anything was measured.
    pub fn has_rounds(&self) -> bool {
        !self.measured.is_empty()
    }

    /// Whether the goal is met.
    pub fn meets_goal(&self) -> bool {
        match self.goal {
            Goal::AtLeast(must, _) => self.value() >= must,
            Goal::AtMost(must, _) => self.value() <= must,
            Goal::Informational => true,
        }
    }

    /// Share of the goal that is reached. At 1 or more, the goal is met.
    pub fn goal_share(&self) -> Option<f64> {
        match self.goal {
            Goal::AtLeast(must, _) => Some(self.value() / must),
            Goal::AtMost(must, _) => Some(must / self.value()),
            Goal::Informational => None,
        }
    }

    /// The required value and the aim, for the table.
    pub fn goals(&self) -> [String; 2] {
        let number = |goal: f64| if self.limits.is_empty() { self.number(goal) } else { format!("{goal}") };
        match self.goal {
            Goal::AtLeast(must, aim) => [format!(">= {}", number(must)), number(aim)],
            Goal::AtMost(must, aim) => [format!("<= {}", number(must)), number(aim)],
            Goal::Informational => [String::new(), String::new()],
        }
    }

    /// Formats a number with the row's unit and about three digits.
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

    /// One line with the result.
    pub fn summary(&self) -> String {
        let ratio =
            self.limit().map(|_| format!(", ratio {:.3}, least {:.3}", self.value(), self.least())).unwrap_or_default();
        format!("{}: {}{ratio}", self.name, self.number(self.median()))
    }

    /// All rounds, as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let (goal, must, aim) = match self.goal {
            Goal::AtLeast(must, aim) => (Some("at least"), Some(must), Some(aim)),
            Goal::AtMost(must, aim) => (Some("at most"), Some(must), Some(aim)),
            Goal::Informational => (None, None, None),
        };
        serde_json::json!({
            "what": self.name, "against": self.against, "unit": self.unit.trim(), "ours": self.measured,
            "limit": self.limits, "value": self.value(), "goal": goal, "must": must, "aim": aim,
        })
    }
}
