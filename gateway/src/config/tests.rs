//! Each mistake an operator can make, and what they are told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use flytrap_policy::Dialect;

use super::*;

/// A folder with everything that a configuration can name.
struct Ground(tempfile::TempDir);

const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

const LEAST: &str = r#"
state_dir = "state"
[chain]
urls = ["http://127.0.0.1:8545"]
deployment = "31337.json"
broker_id = 1
[broker]
address = "127.0.0.1:1884"
[gateway]
key_file = "gateway.key"
"#;

impl Ground {
    fn new() -> Self {
        let ground = Self(tempfile::tempdir().unwrap());
        let identity = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let another = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        ground.write("31337.json", "{}", 0o644);
        ground.write("gateway.key", KEY, 0o600);
        ground.write("password", "hunter2\n", 0o600);
        ground.write("certificate.pem", &identity.cert.pem(), 0o644);
        ground.write("key.pem", &identity.signing_key.serialize_pem(), 0o600);
        ground.write("another.pem", &another.signing_key.serialize_pem(), 0o600);
        ground.write("pseudonym.key", &format!("{}\n", "ab".repeat(32)), 0o600);
        ground.write("api.token", &format!("{}\n", "cd".repeat(32)), 0o600);
        ground
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn parse(&self, text: &str) -> Result<Config, Problems> {
        Config::parse(&self.0.path().join("flytrap.toml"), text)
    }

    /// The first message, with its place, after the file's path.
    fn told(&self, text: &str) -> String {
        let problems = self.parse(text).expect_err("this must not pass").to_string();
        let first = problems.lines().next().unwrap().to_owned();
        let file = self.0.path().join("flytrap.toml").display().to_string();
        first.strip_prefix(&file).expect("it names the file").to_owned()
    }
}

/// Asserts that `text` is refused with a message that begins with `place` and holds each of `words`.
#[track_caller]
fn refused(ground: &Ground, text: &str, place: &str, words: &[&str]) {
    let told = ground.told(text);
    assert!(told.starts_with(place), "wanted place {place} in: {told}");
    for word in words {
        assert!(told.contains(word), "wanted `{word}` in: {told}");
    }
}

#[test]
fn the_least_configuration_listens_on_this_machine_only_with_the_documented_defaults() {
    let config = Ground::new().parse(LEAST).unwrap();
    assert_eq!(config.listeners.len(), 1);
    let listener = &config.listeners[0];
    assert_eq!(listener.bind.to_string(), "127.0.0.1:1883");
    assert!(!listener.allow_tokens_without_tls && listener.tls.is_none());
    assert_eq!(config.health.bind.to_string(), "127.0.0.1:9100");
    assert_eq!((config.limits.failures, config.limits.connect_max_octets), (5, 16 * 1024));
    assert_eq!(config.limits.connect_deadline, Duration::from_secs(10));
    assert_eq!(config.chain.stale_after, Duration::from_secs(60));
    assert_eq!(config.chain.distrust_after, Duration::from_secs(600));
    assert_eq!(config.access, Options::default());
    let Authentication { contract_wallets, single_use_tokens } = config.authentication;
    assert!(!contract_wallets && !single_use_tokens && config.name.is_none());
    assert!(matches!(config.recording, Recording::On(_)));
}

#[test]
fn the_example_in_deploy_is_a_valid_configuration() {
    let example = include_str!("../../../deploy/flytrap.example.toml");
    let ground = Ground::new();
    let here = ground.0.path().display().to_string();
    let text = example.replace("/etc/flytrap", &here).replace("/var/lib/flytrap", &here);
    let config = ground.parse(&text).unwrap();
    assert_eq!(config.listeners.len(), 3, "one plain, one TLS, one WebSocket behind balancers");
    assert!(config.listeners.iter().any(|l| l.websocket.is_some() && l.proxy_protocol));
    assert!(config.listeners.iter().any(|listener| listener.tls.is_some()));
    assert!(matches!(config.broker.credentials, BrokerCredentials::Fixed { .. }));
    assert!(config.broker.addresses[0].tls.is_some());
    assert_eq!(config.access.dialect, Dialect::Plain);
    assert_eq!(config.name.as_deref(), Some("mqtt.example.org"));
    assert!(matches!(config.api.map(|api| api.access), Some(Access::Token(_))));
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let text = LEAST.replace("broker_id = 1", "broker_id = 1\nconfirmation = 3");
    refused(&Ground::new(), &text, ":7:1:", &["unknown field `confirmation`", "`confirmations`"]);
}

#[test]
fn an_empty_file_lacks_its_first_key() {
    refused(&Ground::new(), "", ":", &["missing field `state_dir`"]);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let told = Config::load(Path::new("/nowhere/flytrap.toml")).unwrap_err().to_string();
    assert!(told.starts_with("/nowhere/flytrap.toml: cannot read"), "{told}");
}

#[test]
fn values_that_cannot_be_are_refused_where_they_stand() {
    let ground = Ground::new();
    for (from, to, place, word) in [
        ("\"127.0.0.1:1884\"", "\"127.0.0.1\"", ":8:11:", "has no port"),
        ("\"127.0.0.1:1884\"", "\"127.0.0.1:0\"", ":8:11:", "has port 0"),
        ("broker_id = 1", "broker_id = 0", ":6:13:", "number of the broker"),
        ("broker_id = 1", "broker_id = \"x\"", ":6:13:", "number of the broker"),
        ("[\"http://127.0.0.1:8545\"]", "[\"ftp://node\"]", ":4:8:", "scheme `ftp`"),
        ("[\"http://127.0.0.1:8545\"]", "[]", ":4:8:", "`chain.urls` is empty"),
        ("broker_id = 1", "broker_id = 1\npoll = \"soon\"", ":7:8:", "`soon` is no duration"),
    ] {
        assert!(LEAST.contains(from));
        refused(&ground, &LEAST.replace(from, to), place, &[word]);
    }
}

#[test]
fn a_node_url_that_is_refused_is_not_repeated_with_its_access_key() {
    let text = LEAST.replace("http://127.0.0.1:8545", "ftp://node/v3/topsecret");
    assert!(!Ground::new().told(&text).contains("topsecret"));
}

#[test]
fn a_missing_deployments_file_says_how_to_get_one() {
    let text = LEAST.replace("31337.json", "1.json");
    refused(
        &Ground::new(),
        &text,
        ":5:14:",
        &["`chain.deployment`", "1.json", "deploy the contracts"],
    );
}

#[test]
fn plain_text_that_others_can_reach_needs_consent() {
    let ground = Ground::new();
    let listener = |bind: &str, consent: &str| {
        format!("{LEAST}\n[[listener]]\nname = \"mqtt\"\nbind = \"{bind}\"\n{consent}")
    };
    for bind in ["0.0.0.0:1883", "[::]:1883", "192.0.2.1:1883"] {
        let words = ["plain text", "[listener.tls]", "allow_tokens_without_tls"];
        refused(&ground, &listener(bind, ""), ":14:8:", &words);
        assert!(ground.parse(&listener(bind, "allow_tokens_without_tls = true")).is_ok());
    }
    for bind in ["127.0.0.1:1883", "[::1]:1883"] {
        assert!(ground.parse(&listener(bind, "")).is_ok(), "{bind}");
    }
}

#[test]
fn listeners_need_names_and_ports_of_their_own() {
    let ground = Ground::new();
    let two = |name: &str, bind: &str| {
        format!(
            "{LEAST}\n[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1883\"\n\
             [[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\n"
        )
    };
    refused(&ground, &two("a", "127.0.0.1:1884"), ":16:8:", &["two listeners are named `a`"]);
    refused(&ground, &two("b", "127.0.0.1:1883"), ":17:8:", &["two listeners bind 127.0.0.1:1883"]);
    refused(&ground, &two("b c", "127.0.0.1:1884"), ":16:8:", &["letters, digits"]);
    assert!(ground.parse(&two("b", "127.0.0.1:0")).is_ok());
}

#[test]
fn certificate_and_key_must_be_there_belong_together_and_be_kept() {
    let ground = Ground::new();
    let tls = |certificate: &str, key: &str| {
        format!(
            "{LEAST}\n[[listener]]\nname = \"mqtts\"\nbind = \"0.0.0.0:8883\"\n\
             [listener.tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n"
        )
    };
    assert!(ground.parse(&tls("certificate.pem", "key.pem")).unwrap().listeners[0].tls.is_some());
    refused(
        &ground,
        &tls("none.pem", "key.pem"),
        ":16:15:",
        &["listener.tls.certificate", "No such file"],
    );
    refused(
        &ground,
        &tls("certificate.pem", "none.pem"),
        ":17:7:",
        &["listener.tls.key", "No such file"],
    );
    refused(&ground, &tls("31337.json", "key.pem"), ":16:15:", &["no certificate in it"]);
    refused(
        &ground,
        &tls("certificate.pem", "certificate.pem"),
        ":17:7:",
        &["mode 0644", "chmod 600"],
    );
    refused(&ground, &tls("certificate.pem", "password"), ":17:7:", &["no usable private key"]);
    refused(
        &ground,
        &tls("certificate.pem", "another.pem"),
        ":17:7:",
        &["of that very certificate"],
    );
}

#[test]
fn every_further_file_of_a_listeners_tls_is_checked_in_its_own_place() {
    let ground = Ground::new();
    let tls = |more: &str| {
        format!(
            "{LEAST}\n[[listener]]\nname = \"mqtts\"\nbind = \"0.0.0.0:8883\"\n\
             [listener.tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n{more}"
        )
    };
    let also = |certificate: &str, key: &str| {
        tls(&format!("[[listener.tls.also]]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n"))
    };
    assert!(ground.parse(&also("certificate.pem", "key.pem")).is_ok());
    refused(&ground, &also("certificate.pem", "another.pem"), ":20:7:", &["very certificate"]);
    refused(&ground, &also("none.pem", "key.pem"), ":19:15:", &["none.pem", "No such file"]);
    let asks = |ca: &str| tls(&format!("client_ca = \"{ca}\"\n"));
    let config = ground.parse(&asks("certificate.pem")).unwrap();
    assert!(config.listeners[0].tls.as_ref().unwrap().asks_clients());
    refused(&ground, &asks("31337.json"), ":18:13:", &["client_ca", "no certificate in it"]);
}

#[test]
fn a_websocket_listener_has_a_path_and_origins_as_browsers_write_them() {
    let ground = Ground::new();
    let with = |lines: &str| {
        format!(
            "{LEAST}\n[[listener]]\nname = \"ws\"\nbind = \"127.0.0.1:0\"\n[listener.websocket]\n{lines}"
        )
    };
    let config = ground.parse(&with("")).unwrap();
    let websocket = config.listeners[0].websocket.as_ref().unwrap();
    assert_eq!((websocket.path.as_str(), websocket.allowed_origins.len()), ("/mqtt", 0));
    refused(&ground, &with("path = \"mqtt\""), ":16:8:", &["wanted a path such as"]);
    refused(&ground, &with("path = \"/mqtt?a\""), ":16:8:", &["wanted a path such as"]);
    let origins = |origin: &str| with(&format!("allowed_origins = [\"{origin}\"]"));
    for origin in ["https://app.example", "http://localhost:8080", "http://[::1]:8080"] {
        assert!(ground.parse(&origins(origin)).is_ok(), "{origin}");
    }
    for (origin, word) in [
        ("https://App.example/", "\"https://app.example\""),
        ("https://app.example:443", "\"https://app.example\""),
        ("app.example", "no origin"),
        ("*", "no origin"),
        ("data:x", "no origin"),
    ] {
        refused(&ground, &origins(origin), ":16:20:", &["allowed_origins", word]);
    }
}

#[test]
fn whose_word_is_taken_is_listed_and_never_everyone() {
    let ground = Ground::new();
    let with = |lines: &str| {
        format!("{LEAST}\n[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\n{lines}\n")
    };
    let required = "proxy_protocol = \"required\"";
    refused(&ground, &with(required), ":15:18:", &["nobody is believed", "trusted_peers"]);
    refused(&ground, &with("trusted_peers = [\"10.0.0.1\"]"), ":15:17:", &["has no effect"]);
    refused(&ground, &with("trusted_peers = [\"0.0.0.0/0\"]"), ":15:17:", &["is everyone"]);
    refused(&ground, &with("proxy_protocol = \"optional\""), ":15:18:", &["unknown variant"]);
    let both = with(&format!("{required}\ntrusted_peers = [\"10.0.0.0/8\", \"2001:db8::1\"]"));
    let config = ground.parse(&both).unwrap();
    let listener = &config.listeners[0];
    assert!(listener.speaks_for_others([10, 1, 2, 3].into()));
    assert!(!listener.speaks_for_others([11, 1, 2, 3].into()));
    let forwarded = with("trusted_peers = [\"10.0.0.1\"]\n[listener.websocket]");
    assert!(ground.parse(&forwarded).unwrap().listeners[0].speaks_for_others([10, 0, 0, 1].into()));
}

#[test]
fn recording_is_a_key_or_an_explicit_off() {
    let ground = Ground::new();
    let gateway = |lines: &str| LEAST.replace("key_file = \"gateway.key\"", lines);
    refused(&ground, &gateway(""), ":9:1:", &["no key", "record = \"off\""]);
    assert!(matches!(
        ground.parse(&gateway("record = \"off\"")).unwrap().recording,
        Recording::Off
    ));
    let both = gateway("record = \"off\"\nkey_file = \"gateway.key\"");
    refused(&ground, &both, ":9:1:", &["\"off\" and yet a key"]);
    let two = gateway("key_file = \"gateway.key\"\nkeystore = \"gateway.key\"");
    refused(&ground, &two, ":9:1:", &["more than one key"]);
    let alone = gateway("key_file = \"gateway.key\"\npassphrase_file = \"gateway.key\"");
    refused(&ground, &alone, ":9:1:", &["needs a `keystore`"]);
    refused(&ground, &gateway("key_file = \"none\""), ":10:12:", &["none", "No such file"]);
    ground.write("open.key", KEY, 0o640);
    refused(&ground, &gateway("key_file = \"open.key\""), ":10:12:", &["0640", "chmod 600"]);
}

#[test]
fn a_signer_elsewhere_is_named_with_its_address_where_nobody_can_listen() {
    let ground = Ground::new();
    let with = |url: &str| {
        let address = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
        let signer = format!("remote_signer = {{ url = \"{url}\", address = \"{address}\" }}");
        LEAST.replace("key_file = \"gateway.key\"", &signer)
    };
    for url in ["https://signer.example", "unix:/run/signer.sock", "http://127.0.0.1:9000"] {
        let recording = ground.parse(&with(url)).unwrap().recording;
        assert!(matches!(recording, Recording::On(GatewayKey::Known(_))), "{url}");
    }
    refused(&ground, &with("http://signer.example"), ":10:25:", &["no address for a signer"]);
    let named = with("https://signer.example").replace(" }", ", ca = \"none\" }");
    refused(&ground, &named, ":10", &["gateway.remote_signer.ca", "No such file"]);
}

#[test]
fn a_service_that_is_not_built_in_is_said_to_be_missing() {
    let ground = Ground::new();
    let kms =
        LEAST.replace("key_file = \"gateway.key\"", "aws_kms = { key_id = \"alias/gateway\" }");
    let parsed = ground.parse(&kms);
    if cfg!(feature = "aws-kms") {
        assert!(matches!(parsed.unwrap().recording, Recording::On(GatewayKey::AwsKms(_))));
    } else {
        refused(&ground, &kms, ":10:11:", &["--features aws-kms"]);
    }
}

#[test]
fn the_highest_fee_is_bounded_and_counts_in_wei() {
    let ground = Ground::new();
    let fee = |gwei: &str| format!("{LEAST}\n[audit]\nmax_fee_gwei = {gwei}\n");
    assert_eq!(ground.parse(&fee("3")).unwrap().audit.max_fee_wei, 3_000_000_000);
    assert!(ground.parse(&fee("1000000000")).is_ok());
    for wrong in ["0", "1000000001"] {
        refused(&ground, &fee(wrong), "", &["wanted 1 to 1000000000"]);
    }
}

#[test]
fn the_brokers_password_is_read_without_its_line_feed_and_never_printed() {
    let ground = Ground::new();
    let fixed = |file: &str| {
        format!(
            "{LEAST}\n[broker.credentials.fixed]\nuser_name = \"gw\"\npassword_file = \"{file}\"\n"
        )
    };
    let config = ground.parse(&fixed("password")).unwrap();
    let BrokerCredentials::Fixed { user_name, password } = &config.broker.credentials else {
        panic!("{:?}", config.broker.credentials)
    };
    assert_eq!((user_name.as_str(), password.expose().as_slice()), ("gw", &b"hunter2"[..]));
    let printed = format!("{config:?}");
    assert!(!printed.contains("hunter2") && !printed.contains(&KEY[2..]), "{printed}");
    ground.write("open", "x", 0o644);
    refused(&ground, &fixed("open"), ":14:17:", &["mode 0644", "chmod 600"]);
}

#[test]
fn the_broker_has_one_address_or_a_list_of_different_ones_each_with_its_own_name_for_tls() {
    let ground = Ground::new();
    let with = |value: &str| LEAST.replace("address = \"127.0.0.1:1884\"", value);
    let labels = |value: &str| -> Vec<String> {
        let config = ground.parse(&with(value)).unwrap();
        config.broker.addresses.iter().map(|broker| broker.address.to_string()).collect()
    };
    assert_eq!(labels("address = \"a:1\""), ["a:1"]);
    assert_eq!(labels("address = [\"a:1\"]"), ["a:1"]);
    assert_eq!(labels("addresses = [\"b:1\", \"a:1\", \"b:2\"]"), ["b:1", "a:1", "b:2"]);
    for (value, place, word) in [
        ("addresses = []", ":8:13:", "names no broker"),
        ("addresses = [\"a:1\", \"b:1\", \"a:1\"]", ":8:13:", "a:1 is named twice"),
        ("addresses = [\"a:1\", \"b\"]", ":8:13:", "has no port"),
        ("addresses = 1884", ":8:13:", "expected host:port"),
        ("address = \"a:1\"\naddresses = [\"b:1\"]", ":", "duplicate"),
        ("", ":", "missing field `address`"),
    ] {
        refused(&ground, &with(value), place, &[word]);
    }
    let tls =
        "addresses = [\"a.example:1\", \"b.example:1\"]\n[broker.tls]\nca = \"certificate.pem\"";
    let names = |config: &Config| -> Vec<String> {
        let tls = config.broker.addresses.iter().filter_map(|broker| broker.tls.as_ref());
        tls.map(|tls| tls.server_name.to_str().into_owned()).collect()
    };
    assert_eq!(names(&ground.parse(&with(tls)).unwrap()), ["a.example", "b.example"]);
    let named = format!("{tls}\nserver_name = \"cluster.example\"");
    assert_eq!(names(&ground.parse(&with(&named)).unwrap()), ["cluster.example"; 2]);
}

#[test]
fn the_dialect_is_that_of_a_broker_that_is_known() {
    let ground = Ground::new();
    let with = |value: &str| LEAST.replace("[broker]", &format!("[broker]\ndialect = {value}"));
    assert_eq!(ground.parse(LEAST).unwrap().access.dialect, Dialect::Plain);
    for (word, dialect) in [
        ("plain", Dialect::Plain),
        ("rabbitmq", Dialect::RabbitMq),
        ("activemq", Dialect::ActiveMq),
        ("nats", Dialect::Nats),
    ] {
        assert_eq!(ground.parse(&with(&format!("\"{word}\""))).unwrap().access.dialect, dialect);
    }
    refused(&ground, &with("\"amqp\""), ":8:11:", &["unknown variant `amqp`", "`rabbitmq`"]);
    let elsewhere = format!("{LEAST}\n[access]\ndialect = \"rabbitmq\"\n");
    refused(&ground, &elsewhere, ":", &["unknown field `dialect`"]);
}

#[test]
fn credentials_towards_the_broker_are_one_of_four_words() {
    let ground = Ground::new();
    let with =
        |value: &str| LEAST.replace("[gateway]", &format!("credentials = {value}\n[gateway]"));
    let of = |value: &str| ground.parse(&with(value)).unwrap().broker.credentials;
    assert!(matches!(of("\"none\""), BrokerCredentials::None));
    assert!(matches!(of("\"wallet\""), BrokerCredentials::Wallet));
    assert!(matches!(of("\"client\""), BrokerCredentials::Client));
    refused(&ground, &with("\"other\""), ":9:15:", &["unknown variant `other`"]);
}

#[test]
fn a_name_is_what_people_can_read_and_type() {
    let ground = Ground::new();
    let name = |text: &str| {
        LEAST.replace(
            "key_file = \"gateway.key\"",
            &format!("name = \"{text}\"\nkey_file = \"gateway.key\""),
        )
    };
    assert_eq!(
        ground.parse(&name("mqtt.example.org")).unwrap().name.as_deref(),
        Some("mqtt.example.org")
    );
    let too_long = "x".repeat(254);
    for wrong in ["", "two words", "é", "a\\u0000", &too_long] {
        refused(&ground, &name(wrong), ":10:8:", &["`gateway.name`", "host name"]);
    }
}

#[test]
fn ages_of_the_mirror_must_be_in_order() {
    let ground = Ground::new();
    let ages = |lines: &str| LEAST.replace("broker_id = 1", &format!("broker_id = 1\n{lines}"));
    let shorter = ages("stale_after = \"60s\"\ndistrust_after = \"59s\"");
    refused(&ground, &shorter, ":8:18:", &["shorter than `chain.stale_after`"]);
    assert!(ground.parse(&ages("stale_after = \"60s\"\ndistrust_after = \"60s\"")).is_ok());
    refused(&ground, &ages("stale_after = \"11m\""), ":7:15:", &["`chain.distrust_after`"]);
    refused(&ground, &ages("poll = \"2s\"\nstale_after = \"1s\""), ":8:15:", &["`chain.poll`"]);
}

#[test]
fn limits_are_kept_within_reason_in_pairs() {
    let ground = Ground::new();
    for (key, good, bad) in [
        ("connect_max_octets", "128", "127"),
        ("max_connections", "1", "0"),
        ("max_packet_octets", "268435460", "268435461"),
        ("failures", "1000", "1001"),
        ("ban", "\"1s\"", "\"999ms\""),
        ("ban", "\"29d\"", "\"30d\""),
    ] {
        let with = |value: &str| format!("{LEAST}\n[limits]\n{key} = {value}\n");
        assert!(ground.parse(&with(good)).is_ok(), "{key} = {good}");
        refused(&ground, &with(bad), ":13:", &[&format!("`limits.{key}` is"), "wanted"]);
    }
}

#[test]
fn country_databases_are_one_or_a_few_different_files() {
    let ground = Ground::new();
    let with = |lines: &str| format!("{LEAST}\n[countries]\n{lines}\n");
    let databases = |lines: &str| {
        let countries = ground.parse(&with(lines)).unwrap().countries;
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        countries.databases.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(databases(""), Vec::<String>::new());
    // That it is not there is said where it is read, and keeps no gateway from starting.
    assert_eq!(databases("database = \"geoip\""), ["geoip"]);
    let most: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    assert_eq!(databases(&format!("databases = {most:?}")), most);
    refused(&ground, &with("databases = [\"a\", \"./a\"]"), ":13:19:", &["named twice"]);
    let more: Vec<String> = (0..9).map(|n| n.to_string()).collect();
    refused(&ground, &with(&format!("databases = {more:?}")), ":13:54:", &["more than 8"]);
    refused(&ground, &with("file = \"a\""), ":13:1:", &["unknown field `file`"]);
}

#[test]
fn a_pseudonym_key_is_64_hexadecimal_digits_of_its_owner_only() {
    let ground = Ground::new();
    let with = |file: &str| format!("{LEAST}\n[audit]\npseudonym_key_file = \"{file}\"\n");
    let config = ground.parse(&with("pseudonym.key")).unwrap();
    let PseudonymKey::Given(key) = &config.audit.pseudonym_key else { panic!("not taken") };
    assert_eq!(key.expose(), &[0xab; 32]);
    refused(&ground, &with("password"), ":13:22:", &["64 hexadecimal digits"]);
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = format!(
        "{}\n[limits]\nmax_connections = 0\n",
        LEAST.replace("31337.json", "1.json").replace("gateway.key", "none")
    );
    let problems = Ground::new().parse(&text).unwrap_err();
    assert_eq!(problems.iter().count(), 3, "{problems}");
}

#[test]
fn audit_rules_are_read_with_all_that_they_can_say() {
    let ground = Ground::new();
    let with = format!("{LEAST}\n[audit]\nrules = \"rules.toml\"");
    let text = r#"
[[rule]]
name = "guessing"
on = ["subscribe-refused", "publish-refused"]
topics = ["hospital/w1", "0x0101010101010101010101010101010101010101010101010101010101010101"]
branches = ["plant"]
sensitive = true
wallets = ["0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc"]
not_countries = ["DE", "FR"]
more_than = 20
within = "1m"
then = ["record", "chain"]
ban = "1h"
"#;
    ground.write("rules.toml", text, 0o644);
    let file = ground.parse(&with).unwrap().audit.rules.unwrap();
    let [rule] = &file.rules[..] else { panic!("{file:?}") };
    assert_eq!(rule.topics[0].id, flytrap_policy::topic_id(U256::ONE, "hospital/w1"));
    assert_eq!(
        rule.to_string(),
        "more than 20 in 60 s by one key or origin of subscribe-refused, publish-refused on a sensitive topic governed by hospital/w1 or \
         0x0101010101010101010101010101010101010101010101010101010101010101 or plant/# by 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc \
         from elsewhere than DE, FR, or unknown is recorded, told to the chain, answered with a ban of 3600 s"
    );
}

#[test]
fn each_mistake_in_audit_rules_is_told_with_its_own_line() {
    let ground = Ground::new();
    let with = format!("{LEAST}\n[audit]\nrules = \"rules.toml\"");
    let told = |rest: &str, on: &str| {
        let text = format!("[[rule]]\nname = \"a\"\non = [{on}]\n{rest}");
        ground.write("rules.toml", &text, 0o644);
        ground.told(&with)
    };
    let refused = "\"publish-refused\"";
    let cases = [
        ("then = [\"record\"]\ncolour = 1", refused, "unknown field"),
        ("then = [\"shred\"]", refused, "rules.toml:4:"),
        ("then = []", refused, "`then` is empty"),
        ("then = [\"count\", \"record\"]", refused, "`then` has \"count\" beside others"),
        ("then = [\"record\"]", "", "`on` is empty"),
        ("then = [\"record\"]", "\"sneezed\"", "rules.toml:3:"),
        ("then = [\"chain\"]", "\"proof-failed\"", "no alert for `proof-failed`"),
        ("then = [\"chain\"]", "\"delivered\"", "no alert for `delivered`"),
        ("then = [\"record\"]\nban = \"1h\"", "\"delivered\"", "no doing of the client's"),
        ("then = [\"record\"]\nban = \"30d\"", refused, "`ban` is"),
        ("then = [\"record\"]\nmore_than = 3", refused, "`more_than` needs `within`"),
        ("then = [\"record\"]\nwithin = \"1m\"", refused, "`within` needs `more_than`"),
        ("then = [\"record\"]\nmore_than = 3\nwithin = \"2d\"", refused, "`within` is"),
        (
            "then = [\"record\"]\nmore_than = 3\nwithin = \"149s\"",
            "\"published\"",
            "wanted at least 150s",
        ),
        ("then = [\"record\"]\ntopics = [\"a/#\"]", refused, "rules.toml:5:11"),
        ("then = [\"record\"]\nbranches = [\"a/#\"]", refused, "`branches`"),
        ("then = [\"record\"]\ncountries = []", refused, "list of countries is empty"),
        ("then = [\"record\"]\ncountries = [\"de\"]", refused, "no country"),
        (
            "then = [\"record\"]\ncountries = [\"DE\"]\nnot_countries = [\"FR\"]",
            refused,
            "keep one of them",
        ),
        (
            "then = [\"record\"]\n[[rule]]\nname = \"a\"\non = [\"delivered\"]\nthen = [\"record\"]",
            refused,
            "two rules are named",
        ),
    ];
    for (rest, on, wanted) in cases {
        let told = told(rest, on);
        assert!(
            told.starts_with(":13:9: `audit.rules`: ") && told.contains(wanted),
            "{rest}: {told}"
        );
    }
    // Cut by a disk that was full, say.
    ground.write("rules.toml", "# rules of the site\n", 0o644);
    assert!(ground.told(&with).contains("no [[rule]]"), "{}", ground.told(&with));
    fs::remove_file(ground.0.path().join("rules.toml")).unwrap();
    assert!(ground.told(&with).contains("No such file"), "{}", ground.told(&with));
}

#[test]
fn the_api_is_off_unless_asked_for_and_public_only_on_purpose() {
    let ground = Ground::new();
    assert!(ground.parse(LEAST).unwrap().api.is_none());
    let with = |keys: &str| format!("{LEAST}\n[api]\n{keys}\n");
    let api = |keys: &str| ground.parse(&with(keys)).unwrap().api.unwrap();
    let open = api("access = \"all\"");
    assert!(matches!(open.access, Access::All) && open.bind.ip().is_loopback());
    assert!(open.to_string().contains("everybody sees every record"), "{open}");
    let Access::Token(hash) = api("access = \"token\"\ntoken_file = \"api.token\"").access else {
        panic!("not a token")
    };
    assert!(hash.is_of("cd".repeat(32).as_bytes()));
    assert!(matches!(api("access = \"aggregated\"").access, Access::Aggregated(None)));
    ground.write("short.token", "short\n", 0o600);
    ground.write("open.token", &"cd".repeat(32), 0o644);
    for (keys, word) in [
        ("", "missing field `access`"),
        ("access = \"some\"", "unknown variant `some`"),
        ("access = \"token\"", "and there is none"),
        ("access = \"all\"\ntoken_file = \"api.token\"", "everybody sees everything"),
        ("access = \"token\"\ntoken_file = \"short.token\"", "at least 32 visible"),
        ("access = \"token\"\ntoken_file = \"open.token\"", "chmod 600"),
        ("access = \"all\"\nhosts = [\"https://audit.example\"]", "is no host name"),
        ("access = \"all\"\nallowed_origins = [\"audit.example\"]", "is no origin"),
        ("access = \"all\"\nmost_queries = 0", "wanted 1 to 64"),
        ("access = \"all\"\nrequest_timeout = \"1h\"", "wanted 1s to"),
    ] {
        let told = ground.told(&with(keys));
        assert!(told.contains(word), "wanted `{word}` in: {told}");
    }
}
