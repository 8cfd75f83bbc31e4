//! One page with everything: no scripts, nothing from elsewhere, charts as inline SVG.

mod chart;
mod html;

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use eyre::Result;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::book::{Book, Page};
use super::goals;
use super::scenario::{self, Scenario};
use super::soak::Soak;
use super::stage::{OURS, Plan, THEIRS};
use super::{Kept, Played};
use html::{Cells, Html, number, spread};

const STYLE: &str = include_str!("style.css");

/// What the page is made of.
#[derive(Debug)]
pub(crate) struct Report {
    pub(super) plan: Plan,
    pub(super) facts: Vec<(String, String)>,
    pub(super) versions: Vec<(String, String)>,
    pub(super) missing: Vec<String>,
    pub(super) command: String,
    pub(super) played: Vec<Played>,
    pub(super) book: Book,
    pub(super) soak: Option<Soak>,
    pub(super) kept: Kept,
    pub(super) took: Duration,
}

impl Report {
    /// How many rows were reached, for the terminal.
    pub(super) fn summary(&self) -> String {
        let mut lines = vec![String::new()];
        let (mut reached, mut measured) = (0, 0);
        for goal in goals::ALL {
            let found =
                goal.reached(&self.book, self.kept.path.as_ref(), self.kept.mirror.as_ref());
            let Some(found) = found else { continue };
            measured += 1;
            let holds = goal.target.holds(found.value);
            reached += usize::from(holds);
            lines.push(format!(
                "  {:<11} {:>12} {:<2} (wanted {}, stretch {})  {}",
                if holds { "reached" } else { "NOT reached" },
                number(found.value),
                goal.unit,
                goal.target.text(),
                goal.stretch.text(),
                goal.what
            ));
        }
        lines.push(format!(
            "{reached} of {measured} measured rows reached, {} not measured; {} rounds, {:.0} s in all",
            goals::ALL.len() - measured,
            self.plan.rounds,
            self.took.as_secs_f64()
        ));
        lines.join("\n")
    }

    /// The page.
    pub(super) fn page(&self) -> Result<String> {
        let mut page = Html::default();
        // The only style that a browser may use is this very one.
        let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE));
        page.raw(&format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{hash}'\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>FlyTrap, measured</title>\n<style>{STYLE}</style></head><body>\n"
        ));
        page.element("h1", "FlyTrap, measured");
        self.head(&mut page);
        self.goals(&mut page);
        for played in &self.played {
            if let Some(scenario) = scenario::ALL.iter().find(|of| of.name == played.name) {
                self.scenario(&mut page, scenario, played)?;
            }
        }
        self.soak(&mut page)?;
        self.gas(&mut page)?;
        self.attacks(&mut page);
        self.forensics(&mut page);
        page.raw("</body></html>\n");
        Ok(page.done())
    }

    fn head(&self, page: &mut Html) {
        page.element(
            "p",
            &format!(
                "Each figure is the median of {} rounds of about {} s with the least and the most in brackets; the targets took turns, \
                 and ratios are of the same round. CPU time is user and system time of the process, as the kernel accounts for it. \
                 All took {:.0} s.",
                self.plan.rounds,
                self.plan.seconds,
                self.took.as_secs_f64()
            ),
        );
        let mut table = Cells::new(&["machine", ""]);
        for (name, value) in self.facts.iter().chain(&self.versions) {
            table.row(&[name, value]);
        }
        table.row(&["command", &self.command]);
        page.table(&table);
        for missing in &self.missing {
            page.marked("missing", missing);
        }
    }

    fn goals(&self, page: &mut Html) {
        page.element("h2", "Must reach");
        let mut table = Cells::new(&["", "target", "stretch", "measured", "reached"]);
        for goal in goals::ALL {
            let found =
                goal.reached(&self.book, self.kept.path.as_ref(), self.kept.mirror.as_ref());
            let (measured, reached) = match found {
                None => ("not measured".to_owned(), "—"),
                Some(found) => {
                    let text = found.spread.map_or_else(|| number(found.value), |of| spread(&of));
                    let holds = |bound: goals::Bound| bound.holds(found.value);
                    let word = match (holds(goal.target), holds(goal.stretch)) {
                        (true, true) => "yes, and stretch",
                        (true, false) => "yes",
                        _ => "no",
                    };
                    (format!("{text} {}", goal.unit), word)
                }
            };
            table.row(&[goal.what, &goal.target.text(), &goal.stretch.text(), &measured, reached]);
        }
        page.table(&table);
        page.element(
            "p",
            "Instructions and allocations are those that make bench-path kept last, decisions those of make bench-mirror, on whatever \
             machine they ran.",
        );
    }

    fn scenario(&self, page: &mut Html, scenario: &Scenario, played: &Played) -> Result<()> {
        page.element("h2", scenario.title);
        page.element("p", scenario.how);
        page.element(
            "p",
            &format!("make eval ARGS=\"--only {}\" ({:.0} s)", scenario.name, played.seconds),
        );
        if let Some(why) = &played.failure {
            page.marked("failed", &format!("Failed: {why}"));
        }
        let book = &self.book;
        let targets = book.distinct(scenario.name, |series| &series.target);
        if targets.is_empty() {
            return Ok(());
        }
        let has_ratio = targets.contains(&OURS) && targets.contains(&THEIRS);
        let mut head = vec!["case", ""];
        head.extend(&targets);
        if has_ratio {
            head.push("FlyTrap / HAProxy");
        }
        let mut table = Cells::new(&head);
        for case in book.distinct(scenario.name, |series| &series.case) {
            let page = Page { scenario: scenario.name, case };
            for metric in book.distinct(scenario.name, |series| &series.metric) {
                let found: Vec<_> =
                    targets.iter().map(|target| book.find(page, target, metric)).collect();
                let Some(unit) = found.iter().flatten().next().map(|series| series.unit.as_str())
                else {
                    continue;
                };
                let mut row = vec![case.to_owned(), format!("{metric}, {unit}")];
                row.extend(found.iter().map(|of| {
                    of.and_then(|of| of.spread()).map_or("—".to_owned(), |of| spread(&of))
                }));
                if has_ratio {
                    let ratio =
                        book.beside(page, metric, (OURS, THEIRS), |ours, theirs| ours / theirs);
                    row.push(ratio.map_or("—".to_owned(), |of| spread(&of)));
                }
                table.row(&row);
            }
        }
        for svg in chart::of(book, scenario.name)? {
            page.raw(&svg);
        }
        page.table(&table);
        Ok(())
    }

    fn soak(&self, page: &mut Html) -> Result<()> {
        page.element("h2", "Soak");
        let Some(soak) = &self.soak else {
            page.marked("missing", "Not part of this run: make eval ARGS=\"--soak 1h\".");
            return Ok(());
        };
        let looks = &soak.looks;
        let (Some(first), Some(last)) = (looks.first(), looks.last()) else { return Ok(()) };
        page.element(
            "p",
            &format!(
                "{} messages of QoS 1 through the gateway and a real broker in {:.0} s, each of which arrived. Resident memory: {} kB after the \
                 first step, {} kB after the last, {} kB at most; descriptors: {}, {}, {} at most; latest message: {:.1} ms.",
                soak.messages,
                last.seconds,
                first.resident_octets / 1_024,
                last.resident_octets / 1_024,
                looks.iter().map(|look| look.resident_octets).max().unwrap_or(0) / 1_024,
                first.descriptors,
                last.descriptors,
                looks.iter().map(|look| look.descriptors).max().unwrap_or(0),
                looks.iter().map(|look| look.worst_micros).fold(0.0, f64::max) / 1e3,
            ),
        );
        page.raw(&chart::soak(soak)?);
        Ok(())
    }

    fn gas(&self, page: &mut Html) -> Result<()> {
        page.element("h2", "Gas");
        let Some([execution, transaction]) = &self.kept.gas else {
            page.marked("missing", "test-sol/gas is missing: make gas writes it.");
            return Ok(());
        };
        page.element("p", "As make gas measured it last; the tests fail if it is not so any more.");
        let gas =
            |of: &Value, name: &str| of[name].as_str().and_then(|text| text.parse::<f64>().ok());
        let mut table = Cells::new(&["call", "execution", "transaction"]);
        let mut bars = Vec::new();
        for name in execution.as_object().into_iter().flatten().map(|(name, _)| name) {
            let cell = |of| gas(of, name).map_or("—".to_owned(), number);
            table.row(&[name.clone(), cell(execution), cell(transaction)]);
            bars.extend(gas(transaction, name).map(|value| (name.clone(), value)));
        }
        page.raw(&chart::bars("gas of a transaction", "gas", &bars)?);
        page.table(&table);
        Ok(())
    }

    fn attacks(&self, page: &mut Html) {
        page.element("h2", "Attacks");
        let Some(rows) = self.kept.attack.as_ref().and_then(Value::as_array) else {
            page.marked("missing", "target/eval/attack.json is missing: make attack writes it.");
            return;
        };
        page.element("p", "As make attack kept it last: what the attacks of the list achieve at a plain broker and through the gateway.");
        page.table(&html::of_objects(rows));
    }

    fn forensics(&self, page: &mut Html) {
        page.element("h2", "Forensics");
        let Some(kept) = &self.kept.forensics else {
            page.marked(
                "missing",
                "target/eval/forensics.json is missing: make forensics writes it.",
            );
            return;
        };
        page.element("p", "As make forensics kept it last: a breach hidden among records, and what an auditor's commands found.");
        page.table(&html::of_objects(std::slice::from_ref(kept)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Report {
        let mut book = Book::default();
        for (target, values) in [(OURS, [2.0, 4.0]), (THEIRS, [1.0, 1.0])] {
            for value in values {
                let page = Page { scenario: "throughput", case: "64 B, QoS 0, batches" };
                book.put(page, target, ("CPU per message", "ns"), value);
            }
        }
        Report {
            plan: Plan { rounds: 2, seconds: 0.5, smaller: 1, full: false },
            facts: vec![("CPU".into(), "<script>".into())],
            versions: vec![("Mosquitto".into(), "2".into())],
            missing: vec!["nginx is not measured: missing".into()],
            command: "make eval".into(),
            played: vec![
                Played { name: "throughput", seconds: 1.0, failure: None },
                Played { name: "trips", seconds: 1.0, failure: Some("9 of 10 arrived".into()) },
            ],
            book,
            soak: None,
            kept: Kept::default(),
            took: Duration::from_secs(2),
        }
    }

    #[test]
    fn every_figure_has_its_spread_its_unit_and_its_ratio() {
        let page = report().page().expect("a page");
        assert!(page.contains("<td>CPU per message, ns</td><td>3 (2 to 4)</td><td>1 (1 to 1)</td><td>3 (2 to 4)</td>"), "{page}");
        assert!(page.contains("<svg"));
    }

    #[test]
    fn rows_say_whether_they_were_reached_and_what_was_not_measured() {
        let page = report().page().expect("a page");
        let row = "<td>64 B, QoS 0, many to many, plain: CPU per message / HAProxy</td><td>≤ 1.3</td><td>≤ 1</td><td>3 (2 to 4) </td><td>no</td>";
        assert!(page.contains(row), "{page}");
        assert!(page.contains("<td>not measured</td><td>—</td>"));
    }

    #[test]
    fn failures_and_missing_parts_are_told() {
        let page = report().page().expect("a page");
        for told in [
            "Failed: 9 of 10 arrived",
            "nginx is not measured",
            "attack.json is missing",
            "forensics.json is missing",
            "test-sol/gas is missing",
        ] {
            assert!(page.contains(told), "{told}");
        }
    }

    #[test]
    fn kept_results_become_tables() {
        let mut report = report();
        report.kept.gas = Some([json!({"buy": "74789"}), json!({"buy": "98485"})]);
        report.kept.attack = Some(json!([{"id": "A01", "plain": true, "flytrap": false}]));
        let page = report.page().expect("a page");
        assert!(page.contains("<td>buy</td><td>74,789</td><td>98,485</td>"), "{page}");
        assert!(page.contains("<td>A01</td>"), "{page}");
    }

    /// No script, nothing loaded, no style but the one whose hash the policy has; text stays text.
    #[test]
    fn a_strict_browser_shows_it() {
        let page = report().page().expect("a page");
        assert!(page.contains("&lt;script&gt;"));
        for never in ["<script", "<img", "<link", "style=", "http://", "https://", "javascript:"] {
            let found = page.replace("http://www.w3.org/2000/svg", "").contains(never);
            assert!(!found, "{never}");
        }
    }
}
