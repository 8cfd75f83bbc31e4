use super::HappeningKind::*;
use super::*;

fn wallet(n: u8) -> Address {
    Address::repeat_byte(n)
}

fn facts(happening: HappeningKind) -> Facts<'static> {
    let topic =
        TopicFacts { id: B256::repeat_byte(1), name: Some("hospital/w1"), is_sensitive: true };
    Facts {
        happening,
        topic: Some(topic),
        who: Some((wallet(1), wallet(2))),
        origin: B256::repeat_byte(9),
        country: Country::new(*b"DE"),
        count: 1,
        at: 100,
    }
}

fn rule(on: &[HappeningKind]) -> Rule {
    Rule::on("mine", on, Then { ban: Some(Duration::from_secs(60)), ..Then::default() })
}

fn named(id: B256) -> NamedTopic {
    NamedTopic { id, written: "t".to_owned() }
}

fn decides(rule: &Rule, facts: &Facts<'_>) -> bool {
    let mut rules = Rules::new(vec![rule.clone()]);
    rules.judge(facts).is_some_and(|decided| decided == rule)
}

#[test]
fn without_a_file_all_is_as_the_built_in_rules_say() {
    let mut rules = Rules::default();
    let plain = TopicFacts { is_sensitive: false, ..facts(Published).topic.unwrap() };
    let mut cases = 0;
    for happening in HappeningKind::ALL {
        for topic in [None, Some(plain), facts(Published).topic] {
            let then = rules.judge(&Facts { topic, ..facts(happening) }).unwrap().then;
            let is_sensitive = topic.is_some_and(|topic| topic.is_sensitive);
            assert_eq!(then.record, is_sensitive || !happening.is_access(), "{happening:?}");
            assert_eq!(then.chain, happening.is_alert(), "{happening:?}");
            assert_eq!(then.ban, None);
            cases += 1;
        }
    }
    assert_eq!(cases, 24);
    assert!(!rules.want_plain_accesses());
    assert_eq!(rules.warnings(), Vec::<String>::new());
}

#[test]
fn every_condition_must_hold() {
    let base = facts(PublishRefused);
    let of = rule(&[PublishRefused]);
    let (other_topic, other_wallet) = (named(B256::repeat_byte(7)), wallet(7));
    let set = |code: &[u8; 2]| Country::new(*code).into_iter().collect::<Countries>();
    let cases = [
        (rule(&[PublishRefused]), true),
        (rule(&[SubscribeRefused, Published]), false),
        (
            Rule { topics: vec![other_topic.clone(), named(B256::repeat_byte(1))], ..of.clone() },
            true,
        ),
        (Rule { topics: vec![other_topic.clone()], ..of.clone() }, false),
        (Rule { branches: vec!["hospital".into()], ..of.clone() }, true),
        (Rule { branches: vec!["hospital/w1".into()], ..of.clone() }, true),
        (Rule { branches: vec!["hospital/w".into()], ..of.clone() }, false),
        (Rule { branches: vec!["hospital/w1/hr".into()], ..of.clone() }, false),
        (
            Rule {
                topics: vec![other_topic.clone()],
                branches: vec!["hospital".into()],
                ..of.clone()
            },
            true,
        ),
        (Rule { sensitive: Some(true), ..of.clone() }, true),
        (Rule { sensitive: Some(false), ..of.clone() }, false),
        (Rule { wallets: vec![wallet(1)], ..of.clone() }, true),
        (Rule { wallets: vec![wallet(2)], ..of.clone() }, true),
        (Rule { wallets: vec![other_wallet], ..of.clone() }, false),
        (Rule { countries: Some(Whence::In(set(b"DE"))), ..of.clone() }, true),
        (Rule { countries: Some(Whence::In(set(b"FR"))), ..of.clone() }, false),
        (Rule { countries: Some(Whence::NotIn(set(b"DE"))), ..of.clone() }, false),
        (Rule { countries: Some(Whence::NotIn(set(b"FR"))), ..of.clone() }, true),
    ];
    for (rule, wanted) in &cases {
        assert_eq!(decides(rule, &base), *wanted, "{rule}");
    }
    let nowhere = Facts { country: None, topic: None, who: None, ..base };
    let wanted =
        [(14, false), (15, false), (16, true), (2, false), (4, false), (10, true), (11, false)];
    for (case, wanted) in wanted {
        assert_eq!(decides(&cases[case].0, &nowhere), wanted, "{}", cases[case].0);
    }
}

#[test]
fn a_hidden_topic_is_found_by_its_id_and_in_no_branch() {
    let topic = TopicFacts { name: None, ..facts(Published).topic.unwrap() };
    let hidden = Facts { topic: Some(topic), ..facts(PublishRefused) };
    let of = rule(&[PublishRefused]);
    assert!(decides(&Rule { topics: vec![named(topic.id)], ..of.clone() }, &hidden));
    assert!(!decides(&Rule { branches: vec!["hospital".into()], ..of }, &hidden));
}

#[test]
fn the_first_rule_that_matches_decides_and_one_of_too_many_only_when_there_are() {
    let excess = Excess { more_than: 2, within: 60 };
    let many = Rule { excess: Some(excess), ..rule(&[SubscribeRefused]) };
    let mut rules = Rules::new(vec![many.clone(), rule(&[PublishRefused])]);
    let mut decided = |facts: &Facts<'_>| rules.judge(facts).unwrap().name.clone();
    assert_eq!(decided(&Facts { count: 2, ..facts(SubscribeRefused) }), "refusals");
    let other = Facts { who: Some((wallet(1), wallet(3))), ..facts(SubscribeRefused) };
    assert_eq!(decided(&other), "refusals", "another key of the same wallet");
    assert_eq!(decided(&facts(SubscribeRefused)), "mine");
    assert_eq!(decided(&facts(WillRefused)), "refusals");
    // Where nobody has proved anything, by origin.
    let mut rules = Rules::new(vec![Rule { excess: Some(excess), ..rule(&[ProofFailed]) }]);
    for (origin, wanted) in [(1, "failed proofs"), (2, "failed proofs"), (1, "mine")] {
        let failed =
            Facts { who: None, origin: B256::repeat_byte(origin), count: 2, ..facts(ProofFailed) };
        assert_eq!(rules.judge(&failed).unwrap().name, wanted);
    }
}

#[test]
fn whoever_keeps_sensitive_accesses_out_of_the_record_is_told() {
    let hides = Rule::on("quiet", &[Delivered], Then::default());
    let cases = [
        (hides.clone(), 1),
        (Rule { sensitive: Some(true), ..hides.clone() }, 1),
        (Rule { sensitive: Some(false), ..hides.clone() }, 0),
        (Rule { then: Then { record: true, ..Then::default() }, ..hides.clone() }, 0),
        (Rule { on: vec![PublishRefused], ..hides }, 0),
    ];
    for (rule, wanted) in cases {
        assert_eq!(Rules::new(vec![rule.clone()]).warnings().len(), wanted, "{rule}");
    }
}

#[test]
fn plain_accesses_are_asked_for_only_by_rules_that_do_something_with_them() {
    let record = Then { record: true, ..Then::default() };
    let wants = |rule| Rules::new(vec![rule]).want_plain_accesses();
    assert!(wants(Rule::on("all", &[Published], record)));
    assert!(!wants(Rule::on("none", &[Published], Then::default())));
    assert!(!wants(Rule { sensitive: Some(true), ..Rule::on("s", &[Published], record) }));
    assert!(!wants(Rule::on("refused", &[PublishRefused], record)));
}

#[test]
fn each_rule_is_a_sentence() {
    let said = |rule: &Rule| rule.to_string();
    let [sensitive, telemetry, refusals, _] = Rules::built_in();
    assert_eq!(said(&sensitive), "each published, delivered on a sensitive topic is recorded");
    assert_eq!(said(&telemetry), "each published, delivered is only counted");
    assert!(said(&refusals).ends_with("session-ended is recorded, told to the chain"));
    let all = Rule {
        branches: vec!["hospital".into()],
        wallets: vec![wallet(1)],
        countries: Country::new(*b"DE")
            .map(|country| Whence::NotIn([country].into_iter().collect())),
        excess: Some(Excess { more_than: 20, within: 60 }),
        ..rule(&[SubscribeRefused])
    };
    assert_eq!(
        said(&all),
        "more than 20 in 60 s by one key or origin of subscribe-refused governed by hospital/# by \
         0x0101010101010101010101010101010101010101 from elsewhere than DE, or unknown is answered with a ban of 60 s, otherwise only counted"
    );
}
