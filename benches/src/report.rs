//! What a bench prints: one line a goal.

use anyhow::Result;
use serde_json::{Value, json};

use crate::goal::{Bound, Goal, Source, Unit, Verdict};
use crate::samples::{Measured, Samples};

/// How busy the machine is: what to think of the numbers.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Of the last minute; none where nobody counts.
    minute: Option<f64>,
}

impl Load {
    pub(crate) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            minute: text.split(' ').next().and_then(|word| word.parse().ok()),
        }
    }

    fn text(&self) -> String {
        self.minute.map_or("unknown".to_owned(), |load| format!("{load:.2}"))
    }
}

pub(crate) struct Report {
    bench: &'static str,
    rows: Vec<Row>,
    load: (Load, Load),
}

struct Row {
    goal: Goal,
    measured: Measured,
    verdict: Verdict,
    /// Measured over the limit.
    of_limit: Option<f64>,
}

impl Report {
    pub(crate) fn new(bench: &'static str, goals: &[Goal], samples: &Samples, before: Load) -> Result<Self> {
        let row = |goal: &Goal| -> Result<Row> {
            let measured = samples.measured(goal.source)?;
            let of_limit = match goal.limit {
                Some(limit) => Some(measured.median / samples.measured(Source::Median(limit.series))?.median),
                None => None,
            };
            Ok(Row {
                goal: *goal,
                measured,
                verdict: goal.bound.judge(measured.median),
                of_limit,
            })
        };
        Ok(Self {
            bench,
            rows: goals.iter().map(row).collect::<Result<_>>()?,
            load: (before, Load::now()),
        })
    }

    /// Whether nothing is missed.
    pub(crate) fn met(&self) -> bool {
        self.rows.iter().all(|row| row.verdict != Verdict::Missed)
    }

    pub(crate) fn text(&self) -> String {
        let heads = [self.bench, "measured", "goal", "", "spread", "runs", "limit"];
        let mut table = vec![heads.map(str::to_owned)];
        table.extend(self.rows.iter().map(Row::cells));
        let mut text = columns(&table);
        text.push_str(&format!(
            "{} processors, load {} before and {} after\n",
            processors(),
            self.load.0.text(),
            self.load.1.text()
        ));
        text
    }

    /// One object on one line.
    pub(crate) fn json(&self) -> Value {
        json!({
            "bench": self.bench,
            "processors": processors(),
            "load": [self.load.0.minute, self.load.1.minute],
            "goals": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }
}

impl Row {
    fn cells(&self) -> [String; 7] {
        let Measured {
            median,
            least,
            most,
            runs,
        } = self.measured;
        let unit = self.goal.unit;
        let limit = match (self.goal.limit, self.of_limit) {
            (Some(limit), Some(times)) => format!("{} {}", Unit::Times.text(times), limit.what),
            _ => String::new(),
        };
        [
            format!("  {}", self.goal.name),
            unit.text(median),
            self.goal.bound.text(unit),
            self.verdict.word().to_owned(),
            format!("{} … {}", unit.text(least), unit.text(most)),
            runs.to_string(),
            limit,
        ]
    }

    fn json(&self) -> Value {
        let bound = match self.goal.bound {
            Bound::AtMost(most) => json!({ "at_most": most }),
            Bound::AtLeast(least) => json!({ "at_least": least }),
            Bound::Told => Value::Null,
        };
        let limit = self.goal.limit.zip(self.of_limit);
        json!({
            "name": self.goal.name,
            "unit": self.goal.unit.name(),
            "measured": self.measured.median,
            "least": self.measured.least,
            "most": self.measured.most,
            "runs": self.measured.runs,
            "goal": bound,
            "verdict": (self.verdict != Verdict::Told).then(|| self.verdict.word()),
            "limit": limit.map(|(limit, times)| json!({ "what": limit.what, "times": times })),
        })
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Cells below each other, two blanks between columns, none at the end of a line.
fn columns<const N: usize>(table: &[[String; N]]) -> String {
    let width = |n: usize| table.iter().map(|row| row[n].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in table {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::goal::Limit;

    const GOALS: [Goal; 2] = [
        Goal {
            name: "planning",
            unit: Unit::Seconds,
            bound: Bound::AtMost(200e-6),
            source: Source::Median("plan"),
            limit: Some(Limit {
                what: "of hashing",
                series: "hash",
            }),
        },
        Goal {
            name: "against peer",
            unit: Unit::Times,
            bound: Bound::AtLeast(1000.0),
            source: Source::Ratio("peer", "plan"),
            limit: None,
        },
    ];

    fn report(peer: f64) -> Report {
        let mut samples = Samples::default();
        for (series, value) in [("plan", 20e-6), ("plan", 24e-6), ("hash", 11e-6), ("peer", peer)] {
            samples.add(series, value);
        }
        Report::new("image", &GOALS, &samples, Load { minute: Some(0.5) }).unwrap()
    }

    #[test]
    fn one_line_a_goal() {
        let report = report(0.044);
        assert!(report.met());
        let text = report.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(
            lines[1],
            "  planning      22 µs     ≤ 200 µs  met  20 µs … 24 µs  2     2× of hashing"
        );
        assert_eq!(lines[2], "  against peer  2000×     ≥ 1000×   met  2200× … 2200×  1");
        assert!(lines[3].contains("load 0.50 before"), "{text}");
    }

    #[test]
    fn one_miss_is_enough() {
        let report = report(0.0044);
        assert!(!report.met());
        let json = report.json();
        assert_eq!(json["goals"][0]["verdict"], "met");
        assert_eq!(json["goals"][1]["verdict"], "missed");
        assert_eq!(json["goals"][1]["goal"]["at_least"], 1000.0);
        assert_eq!(json["goals"][0]["unit"], "s");
    }

    #[test]
    fn a_goal_without_samples_is_an_error() {
        let samples = Samples::default();
        assert!(Report::new("image", &GOALS, &samples, Load::now()).is_err());
    }
}
