//! What was measured: for each scenario, case, target and metric one value of each round.

use std::fmt::Write as _;

use flytrap_bench::spread::Spread;
use serde::{Deserialize, Serialize};

/// One metric of one target in one case, round by round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Name in the table of scenarios.
    pub scenario: String,
    /// Such as `64 B, QoS 1`.
    pub case: String,
    /// Such as `FlyTrap`.
    pub target: String,
    /// Such as `p99`.
    pub metric: String,
    /// Such as `µs`.
    pub unit: String,
    /// One value of each round, in their order.
    pub rounds: Vec<f64>,
}

impl Series {
    /// Median and ends. `None` without rounds.
    #[must_use]
    pub fn spread(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().copied())
    }
}

/// All series, in the order in which they were begun.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Book {
    /// See there.
    pub series: Vec<Series>,
}

/// Where a value belongs, but for target and metric.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// As in [`Series`].
    pub scenario: &'a str,
    /// As in [`Series`].
    pub case: &'a str,
}

impl Book {
    /// Adds the value of the next round.
    pub fn put(&mut self, page: Page<'_>, target: &str, metric: (&str, &str), value: f64) {
        let (name, unit) = metric;
        let found = self.series.iter_mut().find(|series| {
            series.scenario == page.scenario
                && series.case == page.case
                && series.target == target
                && series.metric == name
        });
        match found {
            Some(series) => series.rounds.push(value),
            None => self.series.push(Series {
                scenario: page.scenario.into(),
                case: page.case.into(),
                target: target.into(),
                metric: name.into(),
                unit: unit.into(),
                rounds: vec![value],
            }),
        }
    }

    /// One series.
    #[must_use]
    pub fn find(&self, page: Page<'_>, target: &str, metric: &str) -> Option<&Series> {
        self.series.iter().find(|series| {
            series.scenario == page.scenario
                && series.case == page.case
                && series.target == target
                && series.metric == metric
        })
    }

    /// One target beside another, round by round, since what slows a round slows both.
    #[must_use]
    pub fn beside(
        &self,
        page: Page<'_>,
        metric: &str,
        (ours, theirs): (&str, &str),
        compare: fn(f64, f64) -> f64,
    ) -> Option<Spread> {
        let (ours, theirs) = (self.find(page, ours, metric)?, self.find(page, theirs, metric)?);
        Spread::of(
            ours.rounds.iter().zip(&theirs.rounds).map(|(ours, theirs)| compare(*ours, *theirs)),
        )
    }

    /// Of one scenario: the values of a field, each once, in their order.
    #[must_use]
    pub fn distinct<'a>(
        &'a self,
        scenario: &str,
        field: fn(&'a Series) -> &'a str,
    ) -> Vec<&'a str> {
        let mut found: Vec<&str> = Vec::new();
        for series in self.series.iter().filter(|series| series.scenario == scenario) {
            if !found.contains(&field(series)) {
                found.push(field(series));
            }
        }
        found
    }

    /// A line for each value.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut out = String::from("scenario,case,target,metric,unit,round,value\n");
        for Series { scenario, case, target, metric, unit, rounds } in &self.series {
            for (round, value) in rounds.iter().enumerate() {
                let fields = [scenario, case, target, metric, unit].map(|field| quoted(field));
                let _ = writeln!(out, "{},{},{value}", fields.join(","), round + 1);
            }
        }
        out
    }
}

/// A field of CSV (RFC 4180).
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page<'_> = Page { scenario: "s", case: "16 B, \"QoS\" 1" };

    fn book() -> Book {
        let mut book = Book::default();
        for (ours, theirs) in [(3.0, 1.0), (8.0, 4.0), (50.0, 50.0)] {
            book.put(PAGE, "FlyTrap", ("CPU", "ns"), ours);
            book.put(PAGE, "HAProxy", ("CPU", "ns"), theirs);
        }
        book
    }

    /// The median of the ratios (2) is not the ratio of the medians (8 / 4), nor of the means.
    #[test]
    fn targets_are_compared_round_by_round() {
        let book = book();
        let ratio = book.beside(PAGE, "CPU", ("FlyTrap", "HAProxy"), |a, b| a / b);
        assert_eq!(ratio, Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        let added = book.beside(PAGE, "CPU", ("FlyTrap", "HAProxy"), |a, b| a - b);
        assert_eq!(added, Some(Spread { median: 2.0, least: 0.0, most: 4.0 }));
        assert_eq!(book.beside(PAGE, "CPU", ("FlyTrap", "nginx"), |a, b| a / b), None);
    }

    #[test]
    fn the_csv_has_a_line_for_each_value_and_quotes_what_needs_it() {
        let text = book().csv();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[1], "s,\"16 B, \"\"QoS\"\" 1\",FlyTrap,CPU,ns,1,3");
        assert_eq!(lines[6], "s,\"16 B, \"\"QoS\"\" 1\",HAProxy,CPU,ns,3,50");
    }
}
