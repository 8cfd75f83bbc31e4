//! What must be reached, row by row, and whether it was.

use flytrap_bench::spread::Spread;
use serde_json::Value;

use super::book::{Book, Page};
use super::stage::{DIRECT, OURS, THEIRS};

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    pub(crate) target: Bound,
    pub(crate) stretch: Bound,
    pub(crate) unit: &'static str,
    of: Of,
}

/// What may be reached at most or at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

use Bound::{AtLeast, AtMost};

impl Bound {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            AtMost(most) => value <= most,
            AtLeast(least) => value >= least,
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            AtMost(most) => format!("≤ {most}"),
            AtLeast(least) => format!("≥ {least}"),
        }
    }
}

/// Where the value comes from.
#[derive(Clone, Copy, Debug)]
enum Of {
    /// Of two targets, round by round.
    Ratio(Place, &'static str, &'static str),
    /// What the first has more than the second, round by round.
    Added(Place, &'static str, &'static str),
    /// Of one target; of several cases that begin so, the first.
    Value(Place, &'static str),
    /// What `make bench-path` kept: the least favourable of the cases of this part.
    Path(&'static str, &'static str),
    /// What `make bench-mirror` kept among most grants.
    Mirror(&'static str),
    /// The same beside what it kept among fewest.
    MirrorGrowth(&'static str),
}

#[derive(Clone, Copy, Debug)]
struct Place {
    scenario: &'static str,
    case: &'static str,
    metric: &'static str,
}

const fn at(scenario: &'static str, case: &'static str, metric: &'static str) -> Place {
    Place { scenario, case, metric }
}

const fn ratio(place: Place) -> Of {
    Of::Ratio(place, OURS, THEIRS)
}

const fn goal(
    what: &'static str,
    target: Bound,
    stretch: Bound,
    unit: &'static str,
    of: Of,
) -> Goal {
    Goal { what, target, stretch, unit, of }
}

/// What a row came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reached {
    pub(crate) value: f64,
    /// Of the rounds, where there are some.
    pub(crate) spread: Option<Spread>,
}

const CPU: &str = "CPU per message";

/// All rows.
pub(crate) const ALL: &[Goal] = &[
    goal(
        "64 B, QoS 0, many to many, plain: CPU per message / HAProxy",
        AtMost(1.3),
        AtMost(1.0),
        "",
        ratio(at("throughput", "64 B, QoS 0, batches", CPU)),
    ),
    goal(
        "64 B, QoS 1, many to many, plain: CPU per message / HAProxy",
        AtMost(1.3),
        AtMost(1.0),
        "",
        ratio(at("throughput", "64 B, QoS 1, batches", CPU)),
    ),
    goal(
        "64 B, QoS 0: throughput / HAProxy",
        AtLeast(0.85),
        AtLeast(1.0),
        "",
        ratio(at("throughput", "64 B, QoS 0, batches", "throughput")),
    ),
    goal(
        "64 B, QoS 1: throughput / HAProxy",
        AtLeast(0.85),
        AtLeast(1.0),
        "",
        ratio(at("throughput", "64 B, QoS 1, batches", "throughput")),
    ),
    goal(
        "1 KiB, plain: CPU per message / HAProxy",
        AtMost(0.85),
        AtMost(0.7),
        "",
        ratio(at("throughput", "1 KiB, QoS 0, batches", CPU)),
    ),
    goal(
        "unbatched, 2,000 messages a second: CPU per message / HAProxy",
        AtMost(1.1),
        AtMost(0.95),
        "",
        ratio(at("throughput", "64 B, QoS 0, 2,000 a second one by one", CPU)),
    ),
    goal(
        "TLS, 64 B: CPU per message / HAProxy with TLS",
        AtMost(0.9),
        AtMost(0.75),
        "",
        ratio(at("throughput-tls", "64 B, QoS 0, batches", CPU)),
    ),
    goal(
        "TLS, 1 KiB: CPU per message / HAProxy with TLS",
        AtMost(0.7),
        AtMost(0.55),
        "",
        ratio(at("throughput-tls", "1 KiB, QoS 0, batches", CPU)),
    ),
    goal(
        "PUBLISH QoS 1 round trip, p50 / HAProxy",
        AtMost(1.05),
        AtMost(0.9),
        "",
        ratio(at("trips", "PUBLISH QoS 1", "p50")),
    ),
    goal(
        "PINGREQ round trip, p50 / HAProxy",
        AtMost(1.05),
        AtMost(0.9),
        "",
        ratio(at("trips", "PINGREQ", "p50")),
    ),
    goal(
        "CONNECT to CONNACK with signature, p50 added over HAProxy",
        AtMost(100.0),
        AtMost(60.0),
        "µs",
        Of::Added(at("trips", "CONNECT with signature", "p50"), OURS, THEIRS),
    ),
    goal(
        "TLS login with signature / HAProxy with TLS and no login: CPU",
        AtMost(0.75),
        AtMost(0.6),
        "",
        ratio(at("logins", "TLS", "CPU per client")),
    ),
    goal(
        "TLS login with signature / HAProxy with TLS and no login: connects a second",
        AtLeast(1.25),
        AtLeast(1.5),
        "",
        ratio(at("logins", "TLS", "rate")),
    ),
    goal(
        "plain login with signature / HAProxy and no login: CPU",
        AtMost(2.2),
        AtMost(1.8),
        "",
        ratio(at("logins", "plain", "CPU per client")),
    ),
    goal(
        "plain login with signature / HAProxy and no login: connects a second",
        AtLeast(0.6),
        AtLeast(0.75),
        "",
        ratio(at("logins", "plain", "rate")),
    ),
    goal(
        "gateway and broker CPU per login / Mosquitto with its own password file, 10 users",
        AtMost(1.4),
        AtMost(1.0),
        "",
        Of::Ratio(at("passwords", "10 users", "CPU per login"), OURS, "Mosquitto"),
    ),
    goal(
        "resident bytes per idle session, plain",
        AtMost(5_000.0),
        AtMost(3_700.0),
        "B",
        Of::Value(at("idle", "plain", "resident per session"), OURS),
    ),
    goal(
        "resident bytes per idle session, TLS",
        AtMost(14_000.0),
        AtMost(11_300.0),
        "B",
        Of::Value(at("idle", "TLS", "resident per session"), OURS),
    ),
    goal(
        "instructions per forwarded 64 B PUBLISH in user space (callgrind), steady state",
        AtMost(1_200.0),
        AtMost(600.0),
        "",
        Of::Path("instructions", "10 at a time"),
    ),
    goal(
        "allocations per forwarded PUBLISH, steady state",
        AtMost(0.0),
        AtMost(0.0),
        "",
        Of::Path("allocations", ""),
    ),
    goal(
        "decision without a lease, most grants / fewest (10^7 / 10^2)",
        AtMost(2.0),
        AtMost(2.0),
        "",
        Of::MirrorGrowth("decision_ns"),
    ),
    goal(
        "decision without a lease among most grants, 1,000 sessions in turn",
        AtMost(200.0),
        AtMost(100.0),
        "ns",
        Of::Mirror("decision_ns"),
    ),
    goal(
        "decision of a session about a name that it used before, among most grants",
        AtMost(200.0),
        AtMost(100.0),
        "ns",
        Of::Mirror("leased_ns"),
    ),
    goal(
        "first decision about a name among most grants, 200,000 sessions in turn",
        AtMost(1_000.0),
        AtMost(500.0),
        "ns",
        Of::Mirror("cold_ns"),
    ),
    goal(
        "publish CPU with many grants / with 10",
        AtMost(1.1),
        AtMost(1.02),
        "",
        Of::Ratio(at("grants", "publish", CPU), "many grants", "10 grants"),
    ),
    goal(
        "connect CPU with many grants / with 10",
        AtMost(1.1),
        AtMost(1.02),
        "",
        Of::Ratio(at("grants", "connect", "CPU per client"), "many grants", "10 grants"),
    ),
    goal(
        "worst PINGREQ round trip while grants change",
        AtMost(20.0),
        AtMost(5.0),
        "ms",
        Of::Value(at("changes", "grants change", "most"), OURS),
    ),
    goal(
        "throughput with many grants of one wallet / Mosquitto's own list with as many entries",
        AtLeast(300.0),
        AtLeast(800.0),
        "",
        Of::Ratio(at("grants", "access list", "throughput"), OURS, "Mosquitto"),
    ),
    goal(
        "fan-out: CPU per delivery / HAProxy",
        AtMost(1.35),
        AtMost(1.1),
        "",
        ratio(at("many", "1 to ", "CPU per delivery")),
    ),
    goal(
        "session CONNECT, SUBSCRIBE, 10 x PUBLISH, DISCONNECT: p99 added over direct",
        AtMost(20.0),
        AtMost(2.0),
        "ms",
        Of::Added(at("trips", "session", "p99"), OURS, DIRECT),
    ),
    goal(
        "recording on against only counting, QoS 0: CPU per message",
        AtMost(1.1),
        AtMost(1.03),
        "",
        Of::Ratio(at("recording", "64 B, QoS 0, batches", CPU), "recorded", "only counted"),
    ),
    goal(
        "recording on against only counting, QoS 1: CPU per message",
        AtMost(1.1),
        AtMost(1.03),
        "",
        Of::Ratio(at("recording", "64 B, QoS 1, batches", CPU), "recorded", "only counted"),
    ),
];

impl Goal {
    /// What was measured, if it was.
    pub(crate) fn reached(
        &self,
        book: &Book,
        path: Option<&Value>,
        mirror: Option<&Value>,
    ) -> Option<Reached> {
        let beside = |place: Place, targets, compare: fn(f64, f64) -> f64| {
            let case = place.case(book)?;
            book.beside(
                Page { scenario: place.scenario, case: &case },
                place.metric,
                targets,
                compare,
            )
        };
        let spread = match self.of {
            Of::Ratio(place, ours, theirs) => {
                beside(place, (ours, theirs), |ours, theirs| ours / theirs)
            }
            Of::Added(place, ours, theirs) => {
                beside(place, (ours, theirs), |ours, theirs| ours - theirs)
            }
            Of::Value(place, target) => {
                let case = place.case(book)?;
                let page = Page { scenario: place.scenario, case: &case };
                book.find(page, target, place.metric)?.spread()
            }
            Of::Path(metric, case) => return from_path(path?, metric, case),
            Of::Mirror(metric) => return from_mirror(mirror?, metric, |_, most| most),
            Of::MirrorGrowth(metric) => {
                return from_mirror(mirror?, metric, |fewest, most| most / fewest);
            }
        }?;
        // Distributions are written down in µs.
        let scale = if self.unit == "ms" { 1e-3 } else { 1.0 };
        let [median, least, most] =
            [spread.median, spread.least, spread.most].map(|value| value * scale);
        Some(Reached { value: median, spread: Some(Spread { median, least, most }) })
    }
}

impl Place {
    /// The case of exactly this name; else the largest, thus last, of those that have it at an end: `1 to 1000`, `1000 sessions, TLS`.
    fn case(self, book: &Book) -> Option<String> {
        let cases = book.distinct(self.scenario, |series| &series.case);
        if cases.contains(&self.case) {
            return Some(self.case.to_owned());
        }
        let is = |case: &&&str| case.ends_with(self.case) || case.starts_with(self.case);
        cases.iter().rev().find(is).map(|case| (*case).to_owned())
    }
}

/// The worst of the whole gateway's cases: what holds for it holds for all.
fn from_path(path: &Value, metric: &str, case: &str) -> Option<Reached> {
    let cases = path.get("whole")?.as_array()?.iter();
    let values = cases.filter(|of| of["case"].as_str().is_some_and(|name| name.ends_with(case)));
    let value = values.filter_map(|of| of[metric].as_f64()).max_by(f64::total_cmp)?;
    // What the process does besides in the meantime is counted with it; less than one in a thousand messages is none.
    let value = if metric == "allocations" && value < 1e-3 { 0.0 } else { value };
    Some(Reached { value, spread: None })
}

fn from_mirror(mirror: &Value, metric: &str, of: fn(f64, f64) -> f64) -> Option<Reached> {
    let sizes = mirror.get("sizes")?.as_array()?;
    let [fewest, most] = [sizes.first()?, sizes.last()?].map(|size| size[metric].as_f64());
    Some(Reached { value: of(fewest?, most?), spread: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn book() -> Book {
        let mut book = Book::default();
        let mut put = |scenario, case, target, metric, values: &[f64]| {
            for value in values {
                book.put(Page { scenario, case }, target, (metric, ""), *value);
            }
        };
        put(
            "idle",
            "100 sessions, plain",
            OURS,
            "resident per session",
            &[4_000.0, 5_000.0, 4_900.0],
        );
        put("trips", "session", OURS, "p99", &[9_000.0, 3_000.0]);
        put("trips", "session", DIRECT, "p99", &[2_000.0, 1_000.0]);
        put("many", "1 to 10", OURS, "CPU per delivery", &[5.0]);
        put("many", "1 to 10", THEIRS, "CPU per delivery", &[1.0]);
        put("many", "1 to 100", OURS, "CPU per delivery", &[3.0]);
        put("many", "1 to 100", THEIRS, "CPU per delivery", &[2.0]);
        book
    }

    fn row(what: &str) -> Reached {
        let path = json!({"whole": [
            {"case": "a", "allocations": 0.0002}, {"case": "b, 10 at a time", "instructions": 900.0},
            {"case": "c, 10 at a time", "instructions": 1_300.0}, {"case": "c, one at a time", "instructions": 9_000.0},
        ]});
        let mirror = json!({"sizes": [
            {"leased_ns": 3.0, "decision_ns": 100.0, "cold_ns": 300.0},
            {"leased_ns": 4.0, "decision_ns": 170.0, "cold_ns": 700.0},
        ]});
        let goal = ALL.iter().find(|goal| goal.what.starts_with(what)).expect("a row");
        goal.reached(&book(), Some(&path), Some(&mirror)).expect("a value")
    }

    #[test]
    fn rows_find_their_values() {
        for (what, value) in [
            ("resident bytes per idle session, plain", 4_900.0),
            ("session CONNECT", 4.5),
            ("fan-out", 1.5),
            ("instructions", 1_300.0),
            ("allocations", 0.0),
            ("decision without a lease, most grants /", 1.7),
            ("decision without a lease among", 170.0),
            ("decision of a session about", 4.0),
            ("first decision", 700.0),
        ] {
            assert!((row(what).value - value).abs() < 1e-9, "{what}: {:?}", row(what));
        }
        let spread = row("session CONNECT").spread.expect("rounds");
        assert_eq!((spread.least, spread.most), (2.0, 7.0));
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        for goal in ALL {
            assert_eq!(goal.reached(&Book::default(), None, None), None, "{}", goal.what);
        }
    }

    #[test]
    fn a_bound_includes_itself() {
        assert!(AtMost(1.3).holds(1.3) && !AtMost(1.3).holds(1.31));
        assert!(AtLeast(0.85).holds(0.85) && !AtLeast(0.85).holds(0.84));
        assert!(!AtMost(1.3).holds(f64::NAN) && !AtLeast(1.3).holds(f64::NAN));
    }

    /// No row may be easier to stretch than to reach.
    #[test]
    fn stretching_is_never_easier_than_reaching() {
        for goal in ALL {
            match (goal.target, goal.stretch) {
                (AtMost(target), AtMost(stretch)) => assert!(stretch <= target, "{}", goal.what),
                (AtLeast(target), AtLeast(stretch)) => assert!(stretch >= target, "{}", goal.what),
                _ => panic!("{}: at most and at least", goal.what),
            }
        }
    }
}
