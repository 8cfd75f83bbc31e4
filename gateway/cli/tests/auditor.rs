//! What an auditor finds out at the command line with a node, the exported files and nothing else (US1, US2, FR7).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use flytrap_chain::keys::Key;
use flytrap_site::raw::{Connect, Publish, Raw, Version};
use flytrap_site::{Site, SiteOptions};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "hospital/w1/hr";

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// A day at a ward: who is let in, who comes, who is refused, whose right ends.
struct Ward {
    site: Site,
    records: PathBuf,
    /// A second in which both readers read, and one after the second reader's right had ended.
    both: u64,
    after: u64,
}

impl Ward {
    async fn new() -> Self {
        let options = SiteOptions {
            recorder: false,
            gateway_config: "[audit]\ninterval = \"1s\"".to_owned(),
            ..SiteOptions::default()
        };
        let site = Site::start(options).await.expect("a site");
        let mut ward = Self { records: site.dir().join("records.jsonl"), site, both: 0, after: 0 };
        ward.does("topic-owner", &["topic", "register", TOPIC, "--sensitive"]);
        let of = &ward.site.wallets;
        for (key, right, basis, purpose) in [
            (&of.reader, "subscribe", "contract", "care"),
            (&of.other_reader, "subscribe", "consent", "research"),
            (&of.publisher, "publish", "contract", "measurement"),
            (&of.spare[0], "subscribe", "none", ""),
        ] {
            let whom = key.address().to_string();
            let grant = ["access", "grant", &whom, right, TOPIC, "--life", "1d", "--basis", basis];
            ward.does("topic-owner", &[&grant[..], &["--purpose", purpose]].concat());
        }
        ward.caught_up().await;
        let mut reader = ward.session(&ward.site.wallets.reader, "monitor").await;
        assert_eq!(reader.subscribe(&[("hospital/w1/hr/#", 0)]).await.expect("a SUBACK"), [0]);
        let mut publisher = ward.session(&ward.site.wallets.publisher, "belt").await;
        publish(&mut publisher, 5).await;
        let mut second = ward.session(&ward.site.wallets.other_reader, "study").await;
        assert_eq!(second.subscribe(&[("hospital/w1/hr/7", 0)]).await.expect("a SUBACK"), [0]);
        ward.both = flytrap_site::unix_now();
        publish(&mut publisher, 5).await;
        for _ in 0..5 {
            second.delivery().await.expect("a delivery");
        }
        let mut stranger = ward.session(&ward.site.wallets.stranger, "curious").await;
        assert_eq!(stranger.subscribe(&[(TOPIC, 0)]).await.expect("a SUBACK"), [0x80]);
        let whom = ward.site.wallets.other_reader.address().to_string();
        // A second of its own for each side of the end, so that seconds can be asked about.
        wait_past(ward.both).await;
        let revoke = ["access", "revoke", &whom, "subscribe", TOPIC, "--note", "study over"];
        ward.does("topic-owner", &revoke);
        ward.caught_up().await;
        wait_past(ward.site.chain.time().await.expect("a time")).await;
        ward.after = flytrap_site::unix_now();
        publish(&mut publisher, 5).await;
        for _ in 0..15 {
            reader.delivery().await.expect("a delivery");
        }
        ward.export().await;
        ward
    }

    async fn caught_up(&self) {
        let height = self.site.chain.height().await.expect("a height");
        self.site
            .gateway()
            .expect("a gateway")
            .until_height(height, PATIENCE)
            .await
            .expect("a mirror");
    }

    async fn session(&self, key: &Key, client_id: &str) -> Raw {
        let login = self.site.token(key, client_id).expect("a token");
        let address = self.site.mqtt().expect("a listener");
        let mut client = Raw::plain(Version::V311, address).await.expect("a connection");
        let connect = Connect::of(Version::V311, &login);
        assert_eq!(client.connect(&connect).await.expect("a CONNACK"), 0);
        client
    }

    /// Exports until everything that was done is anchored.
    async fn export(&self) {
        let gateway = self.site.gateway().expect("a gateway");
        let program = std::fs::read_link(format!("/proc/{}/exe", gateway.child.id()));
        let program = program.expect("the very program that runs there");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut export = Command::new(&program);
            export
                .arg("export")
                .arg("--config")
                .arg(&gateway.config)
                .arg("--out")
                .arg(&self.records);
            let done = export.output().expect("the program");
            assert!(done.status.success(), "{}", text(&done.stderr));
            let written = std::fs::read_to_string(&self.records).expect("the file");
            let sum = |kind: &str| -> u64 {
                let records = written.lines().filter(|line| line.contains(&format!("\"{kind}\"")));
                let count = |line| {
                    serde_json::from_str::<Value>(line).ok()?["record"]["record"]["count"].as_u64()
                };
                records.filter_map(count).sum()
            };
            if sum("delivered") == 20 && sum("published") == 15 && sum("subscribe-refused") == 1 {
                return;
            }
            assert!(Instant::now() < deadline, "not all is anchored: {written}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flytrap"));
        command.env_clear().current_dir(self.site.dir());
        command.arg("--rpc").arg(self.site.chain.http().as_str());
        command.arg("--deployment").arg(&self.site.deployment_file);
        command.arg("--broker").arg(self.site.broker_id.to_string()).args(words);
        command
    }

    fn does(&self, role: &str, words: &[&str]) {
        let mut command = self.command(words);
        let done = command.env("FLYTRAP_KEY_FILE", self.site.key_file(role)).output();
        let done = done.expect("the program");
        assert!(done.status.success(), "{words:?}: {}", text(&done.stderr));
    }

    /// The auditor has no key.
    fn asks(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the program")
    }

    fn hears(&self, words: &[&str]) -> String {
        let output = self.asks(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, words: &[&str]) -> Value {
        let out = self.hears(&[&["--json"], words].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?}: {error}: {out}"))
    }

    fn file(&self) -> &str {
        self.records.to_str().expect("a path")
    }
}

async fn publish(client: &mut Raw, many: u16) {
    for n in 1..=many {
        let publish = Publish::new("hospital/w1/hr/7", b"61").qos(1, n);
        client.publish_whole(&publish).await.expect("acknowledged");
    }
}

async fn wait_past(second: u64) {
    while flytrap_site::unix_now() <= second {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lower(key: &Key) -> String {
    key.address().to_string().to_lowercase()
}

/// Sum of the counts of a kind in an answer, by wallet.
fn count(rows: &Value, kind: &str, wallet: &str) -> u64 {
    let rows = rows.as_array().into_iter().flatten().map(|row| &row["record"]);
    let of = rows.filter(|record| record["kind"] == kind && record["wallet"] == wallet);
    of.filter_map(|record| record["count"].as_u64()).sum()
}

fn wallets(rows: &Value) -> Vec<&str> {
    let mut all: Vec<&str> =
        rows.as_array().into_iter().flatten().filter_map(|row| row["wallet"].as_str()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_learns_who_did_what_when_and_why_and_who_could_have() {
    let ward = Ward::new().await;
    let of = &ward.site.wallets;
    let (reader, second, publisher) =
        (lower(&of.reader), lower(&of.other_reader), lower(&of.publisher));
    let stranger = lower(&of.stranger);

    // US1: one time line of chain and records, with the grant beside each access.
    let story = ward.json(&["audit", "topic", TOPIC, "--records", ward.file()]);
    assert_eq!(count(&story, "published", &publisher), 15);
    assert_eq!(count(&story, "delivered", &reader), 15);
    assert_eq!(count(&story, "delivered", &second), 5);
    assert_eq!(count(&story, "subscribe-refused", &stranger), 1);
    let rows = story.as_array().expect("rows");
    assert_eq!(rows[0]["event"]["event"], "TopicRegistered", "the chain's part is there too");
    assert!(rows.is_sorted_by_key(|row| row["time"].as_u64()), "{story}");
    let grants: Vec<(&Value, &Value)> = rows
        .iter()
        .filter(|row| row["event"]["event"] == "AccessGranted")
        .map(|row| (&row["event"]["wallet"], &row["tx"]))
        .collect();
    let mut accesses = 0;
    for row in rows.iter().filter(|row| row["decision"] == "allowed") {
        let (_, tx) =
            grants.iter().find(|(wallet, _)| **wallet == row["record"]["wallet"]).expect("a grant");
        assert_eq!(row["ground"]["tx"], **tx, "{row}");
        assert_eq!((&row["verified"], &row["record"]["rule"]), (&true.into(), &"grant".into()));
        let purpose = row["ground"]["purpose"].as_str().expect("a purpose");
        assert!(["care", "research", "measurement"].contains(&purpose), "{row}");
        accesses += 1;
    }
    assert!(accesses >= 4, "{story}");
    let told =
        ward.hears(&["audit", "topic", TOPIC, "--records", ward.file(), "--decision", "allowed"]);
    assert!(told.contains("contract, care") && !told.contains("no-grant"), "{told}");

    // The same rows for any spelling, by wallet, and the filters.
    let bare = &reader[2..];
    let upper = format!("0x{}", bare.to_uppercase());
    let by_wallet =
        |spelling: &str| ward.json(&["audit", "wallet", spelling, "--records", ward.file()]);
    assert_eq!(by_wallet(bare), by_wallet(&upper));
    assert_eq!(count(&by_wallet(bare), "delivered", &reader), 15);
    let ask = |more: &[&str]| {
        ward.json(&[&["audit", "ask", "--topic", TOPIC, "--records", ward.file()], more].concat())
    };
    let refused = ask(&["--decision", "refused", "--who", &stranger]);
    // The alert on chain says the same.
    let records = refused.as_array().into_iter().flatten().filter(|row| row["record"].is_object());
    assert_eq!((records.count(), count(&refused, "subscribe-refused", &stranger)), (1, 1));
    assert_eq!(ask(&["--country", "GB"]), Value::Array(Vec::new()));
    assert_eq!(count(&ask(&["--country", "unknown"]), "delivered", &reader), 15);
    assert_eq!(
        count(&ask(&["--device", &second, "--decision", "allowed"]), "delivered", &second),
        5
    );
    let later = ward.after.to_string();
    assert_eq!(count(&ask(&["--from", &later]), "delivered", &second), 0);
    let sums = ask(&["--sum", "--decision", "allowed"]);
    let sum = sums.as_array().into_iter().flatten().find(|sum| sum["wallet"] == publisher.as_str());
    assert_eq!(
        sum.map(|sum| (&sum["count"], &sum["octets"])),
        Some((&15.into(), &30.into())),
        "{sums}"
    );
    let csv = ward.hears(&["audit", "topic", TOPIC, "--records", ward.file(), "--csv"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines.len() > rows.len(), "{csv}");
    assert!(lines[0].starts_with("from,to,block,source,transaction,record,decision,wallet"));

    // US2: one second with both readers, and one after the second's right had ended.
    let at = |second: u64| {
        ward.json(&[
            "audit",
            "at",
            TOPIC,
            &second.to_string(),
            "--records",
            ward.file(),
            "--within",
            "10s",
        ])
    };
    let then = at(ward.both);
    let (owner, idle) = (lower(&of.topic_owner), lower(&of.spare[0]));
    let mut all = vec![&*reader, &*second, &*publisher, &*owner, &*idle];
    all.sort_unstable();
    assert_eq!(wallets(&then["entitled"]), all, "{then}");
    assert_eq!(then["wasEntitled"], Value::Array(Vec::new()));
    let mut active = vec![&*reader, &*second, &*publisher];
    active.sort_unstable();
    assert_eq!(wallets(&then["used"]), active, "{then}");
    // Within ten seconds the second reader's session was ended as well.
    assert!(wallets(&then["refused"]).contains(&&*stranger), "{then}");
    let mut never = vec![&*owner, &*idle];
    never.sort_unstable();
    assert_eq!(wallets(&then["neverUsed"]), never, "{then}");
    let after = at(ward.after);
    assert_eq!(wallets(&after["wasEntitled"]), [&*second]);
    assert_eq!(after["wasEntitled"][0]["but"], "ended");
    assert_eq!(after["wasEntitled"][0]["since"]["why"], "\"study over\"");
    assert!(!wallets(&after["entitled"]).contains(&&*second));
    let told = ward.hears(&[
        "audit",
        "at",
        TOPIC,
        &format!("block:{}", then["block"]),
        "--records",
        ward.file(),
    ]);
    assert!(told.contains("Could, and never did") && told.contains(" UTC, as of block"), "{told}");

    // The gateways' decision then and now.
    let can = |second: u64| {
        let words = [
            "--json",
            "can",
            bare,
            "subscribe",
            TOPIC,
            "--at",
            &second.to_string(),
            "--from",
            "GB",
        ];
        serde_json::from_slice::<Value>(&ward.asks(&words).stdout).expect("JSON")
    };
    assert_eq!(
        (&can(ward.both)["allowed"], &can(ward.both)["country"]),
        (&true.into(), &"GB".into())
    );
    let of_second = ["--json", "can", &second, "subscribe", TOPIC, "--at"];
    let told = |second: u64| {
        let second = second.to_string();
        let words = [&of_second[..], &[&second]].concat();
        serde_json::from_slice::<Value>(&ward.asks(&words).stdout).expect("JSON")["rule"].clone()
    };
    assert_eq!((told(ward.both), told(ward.after)), ("allowed".into(), "grant-ended".into()));
    assert!(
        ward.hears(&["audit", "roaming", "--records", ward.file()]).starts_with("No key was used")
    );

    what_does_not_verify_is_refused_or_marked(&ward, &reader);
}

fn what_does_not_verify_is_refused_or_marked(ward: &Ward, reader: &str) {
    let whole = std::fs::read_to_string(&ward.records).expect("the file");
    let wallet = format!("\"wallet\":\"{reader}\"");
    let line = whole.lines().find(|line| line.contains(&wallet) && line.contains("\"delivered\""));
    let line = line.expect("a delivery");
    let index =
        serde_json::from_str::<Value>(line).expect("JSON")["record"]["record"]["index"].clone();
    let octets = line.find("\"octets\":").expect("octets") + 9;
    let changed = format!("{}9{}", &line[..octets], &line[octets..]);
    let spoilt = ward.site.dir().join("spoilt.jsonl");
    std::fs::write(&spoilt, whole.replace(line, &changed)).expect("written");
    let spoilt = spoilt.to_str().expect("a path");
    let ask = |file: &str, more: &[&str]| {
        ward.asks(&[&["audit", "topic", TOPIC, "--records", file], more].concat())
    };
    let refused = ask(spoilt, &[]);
    assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(1), String::new()));
    let said = text(&refused.stderr);
    assert!(
        said.contains("FAIL") && said.contains(&format!("record {index} was changed")),
        "{said}"
    );
    let marked = ask(spoilt, &["--unverified"]);
    let (out, err) = (text(&marked.stdout), text(&marked.stderr));
    assert!(marked.status.success() && err.contains("UNVERIFIED"), "{err}");
    assert_eq!(out.matches("UNVERIFIED").count(), out.matches(" of gateway 0x").count(), "{out}");

    // The same file twice counts once; and of what is in no file it is said.
    let sum = |files: &[&str]| {
        let words = [&["--json", "audit", "wallet", reader, "--sum", "--records"], files].concat();
        let done = ward.asks(&words);
        let sums: Value = serde_json::from_slice(&done.stdout).expect("JSON");
        (sums[0]["count"].clone(), text(&done.stderr))
    };
    assert_eq!(sum(&[ward.file(), ward.file()]).0, 15);
    let lines: Vec<&str> = whole.lines().collect();
    let short = ward.site.dir().join("short.jsonl");
    let end = r#"{"end":{"batches":0,"records":0}}"#;
    std::fs::write(&short, format!("{}\n{end}\n", lines[0])).expect("written");
    let (_, said) = sum(&[path(&short)]);
    assert!(said.contains("not in these files: intervals 1 to"), "{said}");
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path")
}
