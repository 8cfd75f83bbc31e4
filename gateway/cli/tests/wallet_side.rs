//! What a person does at the command line, against real contracts on a real node.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use flytrap_site::{Site, SiteOptions};
use serde_json::Value;

struct Person<'a> {
    site: &'a Site,
    role: &'a str,
}

impl Person<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flytrap"));
        command.env_clear().current_dir(self.site.dir());
        command.arg("--rpc").arg(self.site.chain.http().as_str());
        command.arg("--deployment").arg(&self.site.deployment_file);
        command.arg("--broker").arg(self.site.broker_id.to_string());
        command.env("FLYTRAP_KEY_FILE", self.site.key_file(self.role));
        command.args(words);
        command
    }

    fn tries(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the program")
    }

    /// Runs it with --json and returns what it answers.
    fn does(&self, words: &[&str]) -> Value {
        let output = self.tries(&[&["--json"], words].concat());
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words:?}: {} {out} {err}", output.status);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?}: {error}: {out}"))
    }

    /// Runs it and returns what it tells people.
    fn hears(&self, words: &[&str]) -> String {
        let output = self.tries(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs it, expects it to fail, and returns why.
    fn is_refused(&self, words: &[&str]) -> String {
        let output = self.tries(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

async fn site() -> Site {
    let options = SiteOptions { gateway: false, recorder: false, ..SiteOptions::default() };
    Site::start(options).await.expect("a site")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_registered_sold_and_revoked_and_every_step_is_audited() {
    let site = site().await;
    let owner = Person { site: &site, role: "topic-owner" };
    let reader = Person { site: &site, role: "reader" };
    let whose = site.wallets.reader.address().to_string();

    let registered = owner.does(&["topic", "register", "farm/n1", "--subscribe", "0.01ether/1d"]);
    assert_eq!(registered["name"], "farm/n1");
    assert!(owner.hears(&["topic", "list"]).contains("0.01 ether/1d"));

    let answer = reader.tries(&["can", &whose, "subscribe", "farm/n1/ph"]);
    assert_eq!(answer.status.code(), Some(3), "{}", text(&answer.stderr));
    assert!(
        text(&answer.stdout).contains("1d of access costs 0.01 ether"),
        "{}",
        text(&answer.stdout)
    );

    let low = [
        "access",
        "buy",
        "subscribe",
        "farm/n1",
        "--periods",
        "2",
        "--max-price",
        "0.01ether",
        "--yes",
    ];
    assert!(reader.is_refused(&low).contains("cost 0.02 ether, --max-price is 0.01 ether"));
    let unasked = ["access", "buy", "subscribe", "farm/n1"];
    assert!(reader.is_refused(&unasked).contains("--yes"));
    let bought = reader.does(&["access", "buy", "subscribe", "farm/n1", "--periods", "2", "--yes"]);
    assert_eq!(bought["paidWei"], "20000000000000000");
    assert!(
        reader.hears(&["can", &whose.to_lowercase(), "subscribe", "farm/n1/#"]).starts_with("yes")
    );
    assert!(reader.hears(&["access", "show", &whose, "farm/n1"]).contains("subscribe  until"));

    let revoke = [
        "access",
        "revoke",
        &whose,
        "subscribe",
        "farm/n1",
        "--basis",
        "contract",
        "--note",
        "season over",
    ];
    let revoked = owner.does(&revoke);
    assert_ne!(revoked["refundWei"], "0");
    assert_eq!(reader.tries(&["can", &whose, "subscribe", "farm/n1"]).status.code(), Some(3));

    let story = owner.does(&["audit", "topic", "farm/n1"]);
    let events: Vec<&str> = story
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row["event"]["event"].as_str())
        .collect();
    assert_eq!(events, ["TopicRegistered", "AccessBought", "AccessRevoked"]);
    assert_eq!(story[2]["why"], "contract, \"season over\"");
    assert_eq!(story[2]["tx"], revoked["tx"]);
    // The same rows for every spelling of the wallet, and none of the later ones if they are cut off.
    let upper = format!("0x{}", whose[2..].to_uppercase());
    let by_wallet = |spelling: &str| owner.does(&["audit", "wallet", spelling]);
    assert_eq!(by_wallet(&upper), by_wallet(&whose.to_lowercase()));
    assert_eq!(by_wallet(&whose).as_array().map(Vec::len), Some(2));
    let until = format!("block:{}", bought["block"]);
    assert_eq!(
        owner.does(&["audit", "topic", "farm/n1", "--to", &until]).as_array().map(Vec::len),
        Some(2)
    );

    owner.does(&["topic", "delete", "farm/n1"]);
    assert!(owner.is_refused(&["topic", "show", "farm/n1"]).contains("not registered"));
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_grant_block_and_reprice_and_strangers_may_not() {
    let site = site().await;
    let owner = Person { site: &site, role: "topic-owner" };
    let stranger = Person { site: &site, role: "stranger" };
    let publisher = site.wallets.publisher.address().to_string();
    owner.does(&["topic", "register", "farm", "--publish", "free/1h", "--retain"]);
    let error = stranger.is_refused(&["topic", "register", "farm/n1"]);
    assert!(error.contains("NameNotYours"), "{error}");
    let error =
        stranger.is_refused(&["access", "grant", &publisher, "publish", "farm", "--life", "1d"]);
    assert!(error.contains("NotTopicOwnerOrManager"), "{error}");
    let manager = Person { site: &site, role: "other-reader" };
    let whom = site.wallets.other_reader.address().to_string();
    owner.does(&["topic", "set-manager", "farm", &whom]);
    manager.does(&["topic", "register", "farm/managed"]);
    owner.does(&["topic", "remove-manager", "farm", &whom]);
    assert!(manager.is_refused(&["topic", "register", "farm/other"]).contains("NameNotYours"));
    assert!(owner.is_refused(&["access", "withdraw"]).contains("NoCredit"));

    owner.does(&[
        "access",
        "grant",
        &publisher,
        "publish",
        "farm",
        "--life",
        "1d",
        "--purpose",
        "care",
    ]);
    let can = |more: &[&str]| {
        let words = [&["--json", "can", &publisher, "publish", "farm/n1"], more].concat();
        serde_json::from_slice::<Value>(&stranger.tries(&words).stdout).expect("JSON")
    };
    assert_eq!(can(&["--retain"])["allowed"], true);
    owner.does(&["topic", "set-traits", "farm", "--sensitive"]);
    assert_eq!(can(&["--retain"])["rule"], "retain-not-allowed");
    assert_eq!(can(&[])["allowed"], true);
    owner.does(&["access", "block", &publisher, "farm"]);
    assert_eq!(can(&[])["rule"], "blocked");
    owner.does(&["access", "unblock", &publisher, "farm"]);
    assert_eq!(can(&[])["allowed"], true);
    owner.does(&["topic", "set-offer", "farm", "subscribe", "public"]);
    let shown = owner.does(&["topic", "show", "farm"]);
    assert_eq!(
        (&shown["subscribeOffer"]["mode"], &shown["traits"]["sensitive"]),
        (&"public".into(), &true.into())
    );
    assert_eq!(shown["grants"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn countries_are_named_by_their_codes_and_shown_and_refuse_whose_country_is_not_known() {
    let site = site().await;
    let owner = Person { site: &site, role: "topic-owner" };
    owner.does(&["topic", "register", "farm"]);
    let rule = owner.does(&["topic", "countries", "farm", "--only", "GB,EEA"]);
    assert_eq!(rule["codes"].as_array().map(Vec::len), Some(31));
    let shown = owner.does(&["topic", "show", "farm"]);
    assert_eq!(shown["countries"]["mode"], "only");
    owner.does(&["topic", "countries", "farm", "--except", "us"]);
    let told = owner.hears(&["topic", "show", "farm"]);
    assert!(told.contains("all except US"), "{told}");
    let whose = site.wallets.topic_owner.address().to_string();
    let answer = owner.tries(&["can", &whose, "publish", "farm"]);
    assert_eq!(answer.status.code(), Some(3));
    assert!(text(&answer.stdout).contains("all except US"), "{}", text(&answer.stdout));
    owner.does(&["topic", "countries", "farm", "--any"]);
    assert!(owner.hears(&["can", &whose, "publish", "farm"]).starts_with("yes"));
    let unknown = owner.tries(&["topic", "countries", "farm", "--only", "UK"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("`UK` is no country"), "{}", text(&unknown.stderr));
    let story = owner.hears(&["audit", "topic", "farm"]);
    assert!(story.contains("used from: all except US"), "{story}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_topic_is_registered_with_a_salt_that_is_told_once_and_granted_by_its_id() {
    let site = site().await;
    let owner = Person { site: &site, role: "topic-owner" };
    owner.does(&["topic", "register", "ward"]);
    let hidden = owner.does(&["topic", "hide", "ward", "ward/jane", "--sensitive"]);
    let (id, salt) = (hidden["topicId"].as_str().expect("an id"), hidden["salt"].as_str());
    let salt: alloy::primitives::B256 = salt.and_then(|salt| salt.parse().ok()).expect("a salt");
    let packed = [salt.as_slice(), b"ward/jane"].concat();
    let commitment = alloy::primitives::keccak256(packed);
    assert_eq!(hidden["commitment"], commitment.to_string());
    assert!(
        owner.is_refused(&["topic", "hide", "ward", "wards/x"]).contains("is not below `ward`")
    );
    assert!(owner.is_refused(&["topic", "hide", "ward", "ward/+"]).contains("is no topic name"));
    owner.does(&["topic", "hide", id, "ward/jane/pulse"]);

    let shown = owner.does(&["topic", "show", id]);
    assert_eq!((&shown["name"], &shown["hidden"]["below"]), (&"".into(), &"ward".into()));
    assert_eq!(shown["traits"]["sensitive"], true);
    let reader = site.wallets.reader.address().to_string();
    owner.does(&["access", "grant", &reader, "subscribe", id, "--life", "1d"]);
    assert!(owner.hears(&["access", "show", &reader, id]).contains("subscribe  until"));
    let listed = owner.hears(&["topic", "list"]);
    assert!(listed.contains(&format!("{id} (hidden below ward)")), "{listed}");
    let story = owner.hears(&["audit", "broker"]);
    assert!(story.contains("registered hidden topic") && !story.contains("jane"), "{story}");
    let whose = site.wallets.topic_owner.address().to_string();
    let answer = owner.tries(&["--json", "can", &whose, "publish", "ward/john"]);
    assert!(text(&answer.stdout).contains("\"rule\":\"hidden-name\""), "{}", text(&answer.stdout));
    assert!(owner.hears(&["can", &whose, "publish", "ward"]).starts_with("yes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rights_are_given_bought_and_taken_at_once_and_who_is_paid_chooses_how() {
    let site = site().await;
    let owner = Person { site: &site, role: "topic-owner" };
    let reader = Person { site: &site, role: "reader" };
    owner.does(&["topic", "register", "a", "--subscribe", "0.01ether/1d"]);
    owner.does(&["topic", "register", "b", "--subscribe", "0.03ether/1d"]);
    let [one, other] =
        [&site.wallets.reader, &site.wallets.other_reader].map(|key| key.address().to_string());
    let both = format!("{one},{other}");
    owner.does(&["access", "grant", &both, "publish", "a", "b", "--life", "1d"]);
    let grants = |name| owner.does(&["topic", "show", name])["grants"].as_array().map(Vec::len);
    assert_eq!((grants("a"), grants("b")), (Some(2), Some(2)));

    let till = site.wallets.stranger.address().to_string();
    owner.does(&["payout", "to", &till]);
    let shown = owner.does(&["payout", "show"]);
    assert_eq!((&shown["to"], &shown["pull"]), (&till.to_lowercase().into(), &false.into()));
    owner.does(&["payout", "pull"]);
    let low = ["access", "buy", "subscribe", "a", "b", "--for", &both, "--max-price", "0.07ether"];
    assert!(reader.is_refused(&low).contains("cost 0.08 ether, --max-price is 0.07 ether"));
    let bought = reader.does(&["access", "buy", "subscribe", "a", "b", "--for", &both, "--yes"]);
    assert_eq!(bought["paidWei"], "80000000000000000");
    assert_eq!(owner.does(&["payout", "show"])["creditWei"], "80000000000000000");
    assert!(owner.hears(&["payout", "show"]).contains("kept until it is withdrawn"));
    owner.does(&["access", "withdraw"]);
    assert_eq!(owner.does(&["payout", "show"])["creditWei"], "0");

    let revoked = owner.does(&["access", "revoke", &both, "subscribe", "a"]);
    assert_ne!(revoked["refundWei"], "0");
    let blocked = owner.does(&["access", "block", &one, "b"]);
    assert_ne!(blocked["refundWei"], "0");
    assert!(reader.hears(&["access", "show", &one, "b"]).contains("blocked by the owner"));
}

#[tokio::test(flavor = "multi_thread")]
async fn device_keys_act_for_their_wallet_until_they_are_revoked() {
    let site = site().await;
    let person = Person { site: &site, role: "publisher" };
    let wallet = site.wallet(&site.wallets.publisher).await.expect("a wallet");
    let made = person.does(&["device", "add", "--life", "30d"]);
    let device = made["userName"].as_str().expect("a user name").to_owned();
    assert_eq!(made["password"].as_str().map(str::len), Some(27));
    let key = device.parse().expect("an address");
    assert_eq!(wallet.wallet_of(key).await.expect("an answer"), wallet.address());
    let told = text(&person.tries(&["can", &device, "publish", "x"]).stdout);
    assert!(told.contains("is a device key of"), "{told}");
    assert_eq!(person.does(&["device", "list"])[0]["acts"], true);
    person.does(&["device", "revoke", &device]);
    assert!(wallet.wallet_of(key).await.expect("an answer").is_zero());
    assert_eq!(person.does(&["device", "list"])[0]["acts"], false);

    let own = site.key_file("other-reader");
    person.does(&[
        "device",
        "authorize",
        "--device-key-file",
        &own.display().to_string(),
        "--life",
        "1h",
    ]);
    let keys = ["gateway", "other-gateway"].map(|role| site.key_file(role).display().to_string());
    let [first, second] = &keys;
    let several = ["device", "authorize", "--device-key-file", first, "--device-key-file", second];
    let made = person.does(&[&several[..], &["--life", "1h"]].concat());
    let made: Vec<&str> =
        made["devices"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(made.len(), 2);
    person.does(&["device", "revoke", made[0], made[1]]);
    for key in made {
        let key = key.parse().expect("an address");
        assert!(wallet.wallet_of(key).await.expect("an answer").is_zero());
    }
    person.does(&["device", "revoke-all"]);
    let other = site.wallets.other_reader.address();
    assert!(wallet.wallet_of(other).await.expect("an answer").is_zero());
}

/// US9: what is pasted into a stock client's configuration logs the device in.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_added_with_settings_that_a_stock_client_logs_in_with() {
    let site = Site::start(SiteOptions::default()).await.expect("a site");
    let person = Person { site: &site, role: "publisher" };
    person.does(&["topic", "register", "farm/n1"]);
    let server = format!("mqtts://localhost:{}", site.mqtts().expect("a listener").port());
    let ca = site.ca_file().display().to_string();
    let add = |format: &str| {
        let words = [
            "device",
            "add",
            "--life",
            "1d",
            "--server",
            &server,
            "--ca-file",
            &ca,
            "--client-id",
            "n1",
            "--topic",
            "farm/n1",
            "--format",
            format,
        ];
        person.hears(&words)
    };
    let home = site.dir().join("home");
    std::fs::create_dir_all(&home).expect("a folder");
    std::fs::write(home.join("mosquitto_pub"), add("mosquitto")).expect("a file");
    site.gateway()
        .expect("a gateway")
        .until_height(
            site.chain.height().await.expect("a height"),
            std::time::Duration::from_secs(20),
        )
        .await
        .expect("a mirror");
    let spy = site.spy("farm/#").await.expect("a spy");
    let program = flytrap_site::on_path("mosquitto_pub").expect("mosquitto_pub");
    let mut command = Command::new(program);
    command.env("XDG_CONFIG_HOME", &home).args(["-q", "1", "-m", "22 %"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a task");
    let output = output.expect("the program");
    assert!(output.status.success(), "{}", text(&output.stderr));
    spy.until(std::time::Duration::from_secs(20), |heard| heard.payload == b"22 %")
        .await
        .expect("the message");

    for format in
        ["text", "env", "qr", "homeassistant", "zigbee2mqtt", "tasmota", "esphome", "telegraf"]
    {
        assert!(add(format).len() > 100, "{format}");
    }
    let json: Value = serde_json::from_str(&add("json")).expect("JSON");
    assert_eq!((json["clientId"].as_str(), json["tls"].as_bool()), (Some("n1"), Some(true)));
    // Nothing is on chain if the settings cannot be made.
    let before = person.does(&["device", "list"]).as_array().map(Vec::len);
    let wrong = ["device", "add", "--life", "1d", "--format", "esphome", "--ca-file", "/nowhere"];
    assert!(person.is_refused(&wrong).contains("/nowhere"));
    assert_eq!(person.does(&["device", "list"]).as_array().map(Vec::len), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_are_added_listed_and_lifted() {
    let site = site().await;
    let owner = Person { site: &site, role: "broker-owner" };
    let whom = site.wallets.stranger.address().to_string();
    let origin = format!("0x{}", "ab".repeat(32));
    owner.does(&["ban", "add", &whom, "--life", "1h", "--reason", "flood"]);
    owner.does(&["ban", "add", &origin, "--life", "1h"]);
    let listed = owner.does(&["ban", "list"]);
    assert_eq!(
        (&listed[0]["wallet"], &listed[1]["origin"]),
        (&whom.to_lowercase().into(), &origin.as_str().into())
    );
    let answer = owner.tries(&["--json", "can", &whom, "publish", "x"]);
    assert!(text(&answer.stdout).contains("\"rule\":\"banned\""), "{}", text(&answer.stdout));
    owner.does(&["ban", "lift", &whom]);
    owner.does(&["ban", "lift", &origin]);
    assert_eq!(owner.does(&["ban", "list"]).as_array().map(Vec::len), Some(0));
    let stranger = Person { site: &site, role: "stranger" };
    let error = stranger.is_refused(&["ban", "add", &whom, "--life", "1h"]);
    assert!(error.contains("NotBrokerOwnerOrGateway"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_without_the_chain_and_says_until_when_it_counts() {
    let site = site().await;
    let person = Person { site: &site, role: "reader" };
    let token = person.does(&["token", "make", "--client-id", "dev1", "--life", "30d"]);
    assert_eq!(token["password"].as_str().map(str::len), Some(99));
    assert_eq!(token["userName"], site.wallets.reader.address().to_string());
    let life =
        token["expiresAt"].as_u64().zip(token["issuedAt"].as_u64()).map(|(end, start)| end - start);
    assert_eq!(life, Some(30 * 86_400));
    let contract = site.wallets.spare[0].address().to_string();
    let words = ["token", "make", "--client-id", "dev1", "--contract-wallet", &contract];
    let of_contract = person.does(&words);
    assert_eq!(of_contract["userName"], contract);
    assert_ne!(of_contract["password"], token["password"], "another digest was signed");
    person.does(&["token", "invalidate"]);
    let wallet = site.wallet(&site.wallets.reader).await.expect("a wallet");
    assert!(wallet.tokens_valid_from(wallet.address()).await.expect("an answer") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_created_shown_and_changed() {
    let site = site().await;
    let person = Person { site: &site, role: "publisher" };
    let created = person.does(&["broker", "create", "--name", "Mill", "--policy", "curated"]);
    let id = created["brokerId"].as_str().expect("an id");
    let key = site.wallets.other_gateway.address().to_string();
    let with = |words: &[&str]| person.does(&[&["--broker", id], words].concat());
    with(&["broker", "set-gateway", &key, "mqtts://mill:8883"]);
    with(&["broker", "set-policy", "open"]);
    let shown = with(&["broker", "show"]);
    assert_eq!((&shown["name"], &shown["policy"]), (&"Mill".into(), &"open".into()));
    assert_eq!(shown["gateways"][0]["uri"], "mqtts://mill:8883");
    let farmer = site.wallets.topic_owner.address().to_string();
    with(&["broker", "set-policy", "curated"]);
    let owner = Person { site: &site, role: "topic-owner" };
    let register = ["--broker", id, "topic", "register", "mill/flour"];
    assert!(owner.is_refused(&register).contains("NameNotYours"));
    with(&["broker", "set-registrar", &farmer]);
    owner.does(&register);
    with(&["broker", "remove-registrar", &farmer]);
    assert!(
        owner
            .is_refused(&["--broker", id, "topic", "register", "mill/bran"])
            .contains("NameNotYours")
    );
    with(&["broker", "remove-gateway", &key]);
    assert_eq!(with(&["broker", "show"])["gateways"].as_array().map(Vec::len), Some(0));
    let output = person.hears(&[
        "--broker",
        id,
        "broker",
        "set-fee",
        "--publish-per-day",
        "0.001ether",
        "--sale",
        "2.5%",
    ]);
    assert!(output.contains("0.001 ether a day") && output.contains("2.5%"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_thing_and_what_to_do() {
    let site = site().await;
    let person = Person { site: &site, role: "reader" };
    let run = |mut command: Command| {
        let output = command.output().expect("the program");
        assert!(!output.status.success());
        text(&output.stderr)
    };
    let mut keyless = person.command(&["topic", "register", "a"]);
    keyless.env_remove("FLYTRAP_KEY_FILE");
    assert!(run(keyless).contains("--key-file"));
    let mut exposed = person.command(&["topic", "register", "a"]);
    let file = site.dir().join("exposed.key");
    std::fs::copy(site.key_file("reader"), &file).expect("a copy");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&file, open).expect("a mode");
    exposed.env("FLYTRAP_KEY_FILE", &file);
    assert!(run(exposed).contains("chmod 600"));
    let missing = person.command(&["topic", "list", "--deployment", "nowhere.json"]);
    assert!(run(missing).contains("nowhere.json"));
    let unknown = person.command(&["--broker", "77", "topic", "list"]);
    assert!(run(unknown).contains("broker 77 does not exist"));
    let elsewhere = person.command(&["topic", "list", "--rpc", "http://127.0.0.1:1"]);
    assert!(run(elsewhere).contains("127.0.0.1:1"));
    let mut usual = Command::new(env!("CARGO_BIN_EXE_flytrap"));
    usual.env_clear().current_dir(site.dir()).args([
        "topic",
        "list",
        "--rpc",
        site.chain.http().as_str(),
    ]);
    assert!(run(usual).contains("deployments/31337.json"));
}

/// W75: what an auditor does with a gateway's file, and with one that was changed on the way.
#[tokio::test(flavor = "multi_thread")]
async fn exported_records_pass_and_a_changed_a_cut_and_a_foreign_file_do_not() {
    let site = Site::start(SiteOptions::default()).await.expect("a site");
    let gateway = site.gateway().expect("a gateway");
    // The very program that runs there.
    let program = format!("/proc/{}/exe", gateway.child.id());
    let program = std::fs::read_link(program).expect("its program");
    let file = site.dir().join("records.jsonl");
    let deadline = Instant::now() + Duration::from_secs(20);
    // The first record says that it started; it is exported once its anchor is on chain.
    let whole = loop {
        let mut export = Command::new(&program);
        export.arg("export").arg("--config").arg(&gateway.config).arg("--out").arg(&file);
        let done = export.output().expect("the program");
        assert!(done.status.success(), "{}", text(&done.stderr));
        let written = std::fs::read_to_string(&file).expect("the file");
        if written.contains("\"started\"") {
            break written;
        }
        assert!(Instant::now() < deadline, "no anchor: {written}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };

    let auditor = Person { site: &site, role: "stranger" };
    let file = file.to_str().expect("a path");
    let told = auditor.hears(&["audit", "verify", file, "--show"]);
    assert!(told.starts_with("PASS") && told.contains("started 1 x"), "{told}");
    let checked = auditor.does(&["audit", "verify", file]);
    assert_eq!((&checked["verified"], &checked["first"]), (&Value::from(true), &Value::from(1)));
    let tx = checked["anchors"][0]["tx"].as_str().expect("a transaction").to_owned();
    assert!(told.contains(&tx), "{told}");

    let spoilt = site.dir().join("spoilt.jsonl");
    let spoil = |content: String| std::fs::write(&spoilt, content).expect("written");
    let spoilt = spoilt.to_str().expect("a path");
    let fails = |why: &str| {
        let output = auditor.tries(&["audit", "verify", spoilt]);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{out}{err}");
        assert!(out.starts_with("FAIL") && out.contains(why), "wanted {why}: {out}{err}");
    };
    spoil(whole.replacen("\"count\":1,\"octets\"", "\"count\":2,\"octets\"", 1));
    fails("record 1 was changed");
    let lines: Vec<&str> = whole.lines().collect();
    spoil(lines[..lines.len() - 1].join("\n"));
    fails("the file was cut");
    spoil([&lines[..2], &lines[3..]].concat().join("\n"));
    fails("records 1 to 1 are missing");
    let refused = auditor.is_refused(&["--broker", "2", "audit", "verify", file]);
    assert!(refused.contains("the file is about broker 1"), "{refused}");
}
