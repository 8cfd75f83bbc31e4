//! From what one device does and what one thing costs to what so many devices need. `docs/scale.md` explains each line.

use std::fmt::Write as _;

use eyre::{Result, WrapErr as _, eyre};
use flytrap_site::project_root;
use serde::Deserialize;
use serde_json::Value;

const DAY: f64 = 86_400.0;
const GIB: f64 = 1_073_741_824.0;

/// What one thing costs, as measured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Figures {
    /// Where the figures are from, for the reader of the file.
    #[serde(rename = "from")]
    _from: String,
    /// One message of QoS 1 that comes alone, with its delivery to one reader, µs of CPU.
    message_cpu_us: f64,
    /// TLS handshake and signature, µs of CPU.
    login_cpu_us: f64,
    /// A session by TLS that says nothing, octets.
    session_octets: f64,
    /// A grant or a device key in the mirror, octets.
    grant_octets: f64,
    /// Logs that become state in a second.
    logs_per_second: f64,
    /// A record in the store, octets, and its µs of CPU.
    record_octets: f64,
    record_cpu_us: f64,
    /// Requests of a gateway at its node in a second.
    node_requests_per_second: f64,
    /// Gas of a transaction.
    #[serde(skip)]
    gas: Gas,
}

/// Of transactions, from what the contracts' tests keep.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Gas {
    buy_again: f64,
    authorize: f64,
    anchor: f64,
}

impl Figures {
    pub(super) fn kept() -> Result<Self> {
        let root = project_root()?;
        let read =
            |file: &str| std::fs::read_to_string(root.join(file)).wrap_err_with(|| file.to_owned());
        let mut figures: Self = serde_json::from_str(&read("eval/figures.json")?)?;
        let gas: Value = serde_json::from_str(&read("test-sol/gas/transaction.json")?)?;
        let of = |name: &str| {
            let gas = gas[name].as_str().and_then(|gas| gas.parse().ok());
            gas.ok_or_else(|| eyre!("test-sol/gas/transaction.json has no `{name}`"))
        };
        figures.gas = Gas {
            buy_again: of("buy again")?,
            authorize: of("authorize a device key")?,
            anchor: of("anchor 1,000,000 records")?,
        };
        Ok(figures)
    }
}

/// What devices do, as assumed. Each is a line of `docs/scale.md`.
mod habits {
    pub(super) const SECONDS_BETWEEN_MESSAGES: f64 = 60.0;
    pub(super) const LOGINS_A_DAY: f64 = 1.0;
    pub(super) const DEVICES_OF_A_WALLET: f64 = 100.0;
    pub(super) const GRANTS_OF_A_WALLET: f64 = 2.0;
    pub(super) const DAYS_OF_A_GRANT: f64 = 30.0;
    pub(super) const DAYS_OF_A_DEVICE_KEY: f64 = 365.0;
    /// Share of the devices whose topic is sensitive: each message of theirs is in a record, once as published and once as delivered.
    pub(super) const SENSITIVE: f64 = 0.01;
    pub(super) const SECONDS_BETWEEN_ANCHORS: f64 = 600.0;
}

/// What there is to be used, as assumed.
mod means {
    /// Of one gateway's machine, and how much of it is to be used.
    pub(super) const CORES: f64 = 4.0;
    pub(super) const MEMORY_GIB: f64 = 16.0;
    pub(super) const USED: f64 = 0.5;
    /// Ports towards one address of a broker.
    pub(super) const SESSIONS: f64 = 28_000.0;
    /// Gas that a chain has in a second: 45 million in 12 s, and a large rollup.
    pub(super) const MAINNET_GAS: f64 = 45e6 / 12.0;
    pub(super) const ROLLUP_GAS: f64 = 20e6;
    /// Ether for a unit of gas: 2 and 0.01 gwei.
    pub(super) const MAINNET_ETHER: f64 = 2e-9;
    pub(super) const ROLLUP_ETHER: f64 = 1e-11;
    /// Records in a second that one store takes, in transactions of 256.
    pub(super) const RECORDS: f64 = 22_056.0;
}

/// What so many devices need.
#[derive(Clone, Debug, PartialEq)]
struct Needs {
    devices: f64,
    messages: f64,
    cores: f64,
    sessions_gib: f64,
    gateways: f64,
    mirror_gib: f64,
    replay_seconds: f64,
    records: f64,
    store_gib_a_day: f64,
    node_requests: f64,
    gas_a_day: f64,
}

impl Needs {
    fn of(figures: &Figures, devices: u64) -> Self {
        let devices = devices as f64;
        let wallets = (devices / habits::DEVICES_OF_A_WALLET).ceil();
        let grants = wallets * habits::GRANTS_OF_A_WALLET;
        let messages = devices / habits::SECONDS_BETWEEN_MESSAGES;
        let records = messages * habits::SENSITIVE * 2.0;
        let micros = messages * figures.message_cpu_us
            + devices * habits::LOGINS_A_DAY / DAY * figures.login_cpu_us
            + records * figures.record_cpu_us;
        let cores = micros / 1e6;
        let sessions_gib = devices * figures.session_octets / GIB;
        // Every gateway has all rights of its broker; only sessions and messages are shared out.
        let mirror_gib = (grants + devices) * figures.grant_octets / GIB;
        let left_gib = (means::MEMORY_GIB * means::USED - mirror_gib).max(1.0);
        let gateways = [
            cores / (means::CORES * means::USED),
            devices / means::SESSIONS,
            sessions_gib / left_gib,
            records / means::RECORDS,
        ];
        // One more, so that one may fail.
        let gateways = gateways.into_iter().fold(0.0, f64::max).ceil() + 1.0;
        let gas_a_day = grants / habits::DAYS_OF_A_GRANT * figures.gas.buy_again
            + devices / habits::DAYS_OF_A_DEVICE_KEY * figures.gas.authorize
            + gateways * DAY / habits::SECONDS_BETWEEN_ANCHORS * figures.gas.anchor;
        Self {
            devices,
            messages,
            cores,
            sessions_gib,
            gateways,
            mirror_gib,
            replay_seconds: (grants + devices) / figures.logs_per_second,
            records,
            store_gib_a_day: records * DAY * figures.record_octets / GIB,
            node_requests: gateways * figures.node_requests_per_second,
            gas_a_day,
        }
    }

    fn share_of(&self, gas_in_a_second: f64) -> f64 {
        self.gas_a_day / DAY / gas_in_a_second
    }

    /// What cannot be had by more gateways, with the share of it that is needed: the largest is what breaks first.
    fn tightest(&self) -> (&'static str, f64) {
        [
            ("gas of mainnet", self.share_of(means::MAINNET_GAS)),
            ("gas of a rollup", self.share_of(means::ROLLUP_GAS)),
            ("memory for the mirror", self.mirror_gib / (means::MEMORY_GIB * means::USED)),
        ]
        .into_iter()
        .fold(("", f64::MIN), |most, of| if of.1 > most.1 { of } else { most })
    }
}

/// Line title, and what stands in it.
type Line = (&'static str, fn(&Needs) -> String);

const LINES: [Line; 15] = [
    ("messages a second", |of| number(of.messages)),
    ("cores busy in gateways", |of| number(of.cores)),
    ("memory of sessions, GiB", |of| number(of.sessions_gib)),
    ("gateways of 4 cores and 16 GiB, half used, one to spare", |of| number(of.gateways)),
    ("mirror in each gateway, GiB", |of| number(of.mirror_gib)),
    ("a new gateway reads all logs in, s", |of| number(of.replay_seconds)),
    ("records a second", |of| number(of.records)),
    ("stores grow a day, GiB", |of| number(of.store_gib_a_day)),
    ("requests a second at nodes", |of| number(of.node_requests)),
    ("gas a day, millions", |of| number(of.gas_a_day / 1e6)),
    ("... of what mainnet has, %", |of| number(of.share_of(means::MAINNET_GAS) * 100.0)),
    ("... ether a day on mainnet", |of| number(of.gas_a_day * means::MAINNET_ETHER)),
    ("... of what a rollup has, %", |of| number(of.share_of(means::ROLLUP_GAS) * 100.0)),
    ("... ether a day on a rollup", |of| number(of.gas_a_day * means::ROLLUP_ETHER)),
    ("tightest, and how much of it is needed", |of| {
        let (what, share) = of.tightest();
        format!("{what}: {} %", number(share * 100.0))
    }),
];

/// The table, as Markdown.
pub(super) fn table(figures: &Figures, devices: &[u64]) -> String {
    let needs: Vec<Needs> = devices.iter().map(|devices| Needs::of(figures, *devices)).collect();
    let mut out = String::from("| devices |");
    for of in &needs {
        let _ = write!(out, " {} |", number(of.devices));
    }
    let _ = writeln!(out, "\n|---|{}", "---|".repeat(needs.len()));
    for (title, cell) in LINES {
        let cells: Vec<String> = needs.iter().map(cell).collect();
        let _ = writeln!(out, "| {title} | {} |", cells.join(" | "));
    }
    out
}

/// Two digits that say something: the assumptions bear no more.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the exponent of a number that is no power of ten's power"
    )]
    let digits = value.abs().log10().floor() as i32;
    let unit = 10_f64.powi(digits - 1);
    let rounded = (value / unit).round() * unit;
    if digits < 1 {
        let places = usize::try_from(1 - digits).unwrap_or(1);
        return format!("{rounded:.places$}");
    }
    let text = format!("{rounded:.0}");
    let mut out = String::new();
    for (at, digit) in text.chars().enumerate() {
        if at > 0 && (text.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            _from: String::new(),
            message_cpu_us: 40.0,
            login_cpu_us: 864.0,
            session_octets: 10_000.0,
            grant_octets: 100.0,
            logs_per_second: 1_000.0,
            record_octets: 1_000.0,
            record_cpu_us: 50.0,
            node_requests_per_second: 7.0,
            gas: Gas { buy_again: 90_000.0, authorize: 36_500.0, anchor: 40_000.0 },
        }
    }

    fn close(value: f64, wanted: f64) -> bool {
        (value / wanted - 1.0).abs() < 1e-9
    }

    /// Worked out by hand: 60,000 devices, 1,000 messages and 20 records a second, 600 wallets, 1,200 grants.
    #[test]
    fn needs_follow_from_habits_and_figures() {
        let of = Needs::of(&figures(), 60_000);
        assert!(close(of.messages, 1_000.0) && close(of.records, 20.0), "{of:?}");
        // 40 ms for messages, 0.6 ms for logins, 1 ms for records.
        assert!(close(of.cores, 0.0416), "{of:?}");
        assert!(close(of.mirror_gib * GIB, 6_120_000.0), "{of:?}");
        // Ports decide: 60,000 of 28,000 each are three, and one more.
        assert!(close(of.gateways, 4.0) && close(of.node_requests, 28.0), "{of:?}");
        assert!(close(of.replay_seconds, 61.2), "{of:?}");
        // 40 purchases a day, 60,000/365 keys, 144 anchors of four gateways.
        assert!(close(of.gas_a_day, 3_600_000.0 + 6_000_000.0 + 23_040_000.0), "{of:?}");
    }

    #[test]
    fn what_breaks_first_is_what_more_gateways_do_not_help() {
        let of = Needs::of(&figures(), 1_000_000_000);
        let (what, share) = of.tightest();
        assert!(what == "memory for the mirror" && share > 1.0, "{what} {share}");
        assert!(of.share_of(means::MAINNET_GAS) > of.share_of(means::ROLLUP_GAS));
    }

    #[test]
    fn numbers_have_two_digits() {
        for (value, text) in [
            (0.0, "0"),
            (16.67, "17"),
            (1_234_567.0, "1,200,000"),
            (0.0123, "0.012"),
            (1.04, "1.0"),
            (99.6, "100"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    /// The page must not tell other numbers than the program computes.
    #[test]
    fn the_table_in_the_documentation_is_what_the_kept_figures_give() {
        let page = std::fs::read_to_string(project_root().expect("a root").join("docs/scale.md"))
            .expect("a page");
        let table = table(&Figures::kept().expect("figures"), &[1_000, 1_000_000, 1_000_000_000]);
        assert!(
            page.contains(&table),
            "docs/scale.md wants this table (flytrap-eval scale prints it):\n{table}"
        );
    }
}
