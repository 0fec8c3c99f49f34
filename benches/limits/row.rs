//! A row of the table: a figure, its spread, and the goal.

use benches::Result;
use serde_json::{Value, json};
use std::path::Path;

/// Which side of the goal is good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// One figure.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    goal: Goal,
    least: f64,
    median: f64,
    most: f64,
    rounds: usize,
}

impl Row {
    /// `values` has one figure for each round.
    pub(crate) fn new(name: &str, unit: &'static str, goal: Goal, mut values: Vec<f64>) -> Result<Self> {
        values.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (values.first(), values.last()) else {
            return Err(format!("{name}: nothing was measured"));
        };
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Ok(Self { name: name.to_owned(), unit, goal, least: *least, median, most: *most, rounds: values.len() })
    }

    fn is_reached(&self) -> bool {
        match self.goal {
            Goal::AtMost(goal) => self.median <= goal,
            Goal::AtLeast(goal) => self.median >= goal,
        }
    }

    pub(crate) fn print(&self, as_json: bool) {
        let (sign, goal) = match self.goal {
            Goal::AtMost(goal) => ("≤", goal),
            Goal::AtLeast(goal) => ("≥", goal),
        };
        if as_json {
            let record = json!({
                "v": 1, "type": "limit", "name": self.name, "unit": self.unit, "median": self.median,
                "least": self.least, "most": self.most, "rounds": self.rounds, "goal": goal,
                "at_most": matches!(self.goal, Goal::AtMost(_)), "reached": self.is_reached(),
            });
            return println!("{record}");
        }
        println!(
            "| {} | {sign} {} | {} ({} - {}) | {} | {} |",
            self.name,
            short(goal),
            short(self.median),
            short(self.least),
            short(self.most),
            self.unit,
            if self.is_reached() { "reached" } else { "missed" }
        );
    }

    /// Whether the figure is at least as good as the worst of an earlier run. A row that wasn't there is no worse.
    pub(crate) fn is_no_worse(&self, before: &[Value]) -> bool {
        let Some(old) = before.iter().find(|old| old["name"] == self.name.as_str()) else { return true };
        let worse = match self.goal {
            Goal::AtMost(_) => old["most"].as_f64().is_some_and(|most| self.median > most),
            Goal::AtLeast(_) => old["least"].as_f64().is_some_and(|least| self.median < least),
        };
        if worse {
            eprintln!("worse than before: {}: {} now, {} then", self.name, short(self.median), old["median"]);
        }
        !worse
    }
}

fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

pub(crate) fn print_head() {
    println!("| what | goal | median (least - most) | unit | |");
    println!("|---|---|---|---|---|");
}

/// The rows of an earlier run.
pub(crate) fn read(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).map_err(|error| format!("{}: {error}", path.display())))
        .collect()
}
