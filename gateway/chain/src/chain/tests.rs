use alloy::primitives::{Address, keccak256};
use flytrap_policy::{Credential, CredentialKind, NamingPolicy, Offer, Principal, Right, Traits};
use proptest::prelude::*;

use super::*;

const ID: U256 = U256::from_limbs([1, 0, 0, 0]);
const OWNER: Address = Address::repeat_byte(1);
const READER: Address = Address::repeat_byte(2);

fn name_id() -> B256 {
    flytrap_policy::topic_id(ID, "plant")
}

fn created() -> Vec<Event> {
    vec![
        Event::BrokerCreated {
            broker_id: ID,
            owner: OWNER,
            policy: NamingPolicy::Open,
            name: "b".into(),
        },
        Event::TopicRegistered {
            broker_id: ID,
            topic_id: name_id(),
            owner: OWNER,
            epoch: 1,
            name: "plant".into(),
            traits: Traits::default(),
            publish_offer: Offer::default(),
            subscribe_offer: Offer::default(),
        },
    ]
}

fn granted(wallet: Address, until: u64) -> Event {
    Event::AccessGranted {
        broker_id: ID,
        topic_id: name_id(),
        wallet,
        right: Right::Subscribe,
        epoch: 1,
        until,
        by: OWNER,
        fee_wei: U256::ZERO,
        purpose: B256::ZERO,
        note: String::new(),
    }
}

fn banned(wallet: Address, until: u64) -> Event {
    Event::WalletBanned {
        broker_id: ID,
        wallet,
        by: OWNER,
        until,
        evidence: B256::ZERO,
        reason: String::new(),
    }
}

/// A block on top of another; `salt` tells siblings apart.
fn on(below: &Header, salt: u64, events: Vec<Event>) -> Block {
    let height = below.height + 1;
    let hash = keccak256([below.hash.as_slice(), &salt.to_be_bytes()].concat());
    let header = Header {
        height,
        hash,
        parent: below.hash,
        time: below.time + 1 + salt % 3,
        bloom: Bloom::ZERO,
        receipts: B256::ZERO,
    };
    Block { header, events }
}

fn base() -> Header {
    Header {
        height: 10,
        hash: B256::repeat_byte(0xaa),
        parent: B256::ZERO,
        time: 1_000,
        bloom: Bloom::ZERO,
        receipts: B256::ZERO,
    }
}

/// Blocks on top of the base, all with this salt; the first one creates broker and topic.
fn line(salt: u64, blocks: usize) -> Vec<Block> {
    let mut line: Vec<Block> = Vec::new();
    for at in 0..blocks {
        let below = line.last().map_or_else(base, |block| block.header);
        let events = if at == 0 { created() } else { Vec::new() };
        line.push(on(&below, salt, events));
    }
    line
}

fn grant_of(chain: &Chain, wallet: Address) -> Option<u64> {
    chain.registry().grant(name_id(), wallet, Right::Subscribe)
}

/// What the follower does for a head, with headers by number taken from `canonical`.
fn follow(chain: &mut Chain, canonical: &[Block]) -> Result<usize, Joined> {
    let head = canonical.last().map_or_else(base, |block| block.header);
    match chain.place(&head) {
        Place::Ahead => {}
        Place::Forgotten => return Err(Joined::TooDeep),
        Place::Tip | Place::Older => return Ok(0),
    }
    let by_number = |height: u64| {
        let at = usize::try_from(height - base().height).unwrap();
        at.checked_sub(1).map_or_else(base, |at| canonical[at].header)
    };
    let mut branch = Branch::new(head);
    let ancestor = loop {
        match chain.join(&branch) {
            Joined::At(ancestor) => break ancestor,
            Joined::Needs { from, to } => {
                assert!(from <= to && to - from < MAX_STEP && to < head.height);
                let before = branch.headers.len();
                branch.extend_down(chain, (from..=to).rev().map(by_number)).unwrap();
                assert!(branch.headers.len() > before, "no progress");
            }
            Joined::TooDeep => return Err(Joined::TooDeep),
        }
    };
    let first = usize::try_from(ancestor - base().height).unwrap();
    Ok(chain.adopt(ancestor, &canonical[first..]).unwrap())
}

#[test]
fn a_branch_of_three_blocks_takes_grant_and_revocation_back() {
    let mut chain = Chain::new(ID, &base(), 128);
    let mut old = line(1, 2);
    for event in [granted(READER, 5_000), banned(READER, 9_000)] {
        let below = old.last().unwrap().header;
        old.push(on(&below, 1, vec![event]));
    }
    old.push(on(&old.last().unwrap().header.clone(), 1, Vec::new()));
    assert_eq!(follow(&mut chain, &old), Ok(0));
    assert_eq!(grant_of(&chain, READER), Some(5_000));
    assert_eq!(chain.registry().wallet_bans(2_000), vec![(READER, 9_000)]);

    let mut new = old[..2].to_vec();
    for _ in 0..4 {
        let below = new.last().unwrap().header;
        new.push(on(&below, 2, Vec::new()));
    }
    assert_eq!(follow(&mut chain, &new), Ok(3));
    assert_eq!(grant_of(&chain, READER), None);
    assert_eq!(chain.registry().wallet_bans(2_000), vec![]);
    assert_eq!(chain.hash(), new.last().unwrap().header.hash);
}

#[test]
fn a_branch_may_leave_as_deep_as_is_remembered_and_no_deeper() {
    let (history, blocks) = (8, 20);
    for (depth, followed) in [(history, true), (history + 1, false)] {
        let mut chain = Chain::new(ID, &base(), history);
        let old = line(1, blocks);
        for to in 1..=blocks {
            follow(&mut chain, &old[..to]).unwrap();
        }
        let mut new = old[..blocks - depth].to_vec();
        while new.len() < blocks + 1 {
            let below = new.last().unwrap().header;
            new.push(on(&below, 2, Vec::new()));
        }
        assert_eq!(follow(&mut chain, &new).is_ok(), followed, "{depth}");
    }
}

#[test]
fn blocks_that_do_not_follow_each_other_change_nothing() {
    let mut chain = Chain::new(ID, &base(), 128);
    let good = line(1, 3);
    chain.adopt(10, &good).unwrap();
    let (hash, digest) = (chain.hash(), chain.registry().digest());
    let tip = good[2].header;
    let mut gap = on(&tip, 1, Vec::new());
    gap.header.height += 1;
    let mut stranger = on(&tip, 1, Vec::new());
    stranger.header.parent = B256::repeat_byte(9);
    let follower = on(&tip, 1, Vec::new());
    for (ancestor, branch) in
        [(13, vec![gap]), (13, vec![stranger]), (12, vec![follower]), (99, vec![])]
    {
        let refused = chain.adopt(ancestor, &branch);
        assert!(matches!(refused, Err(ChainError::NotNext { .. })), "{refused:?}");
    }
    // Also if only the last block of a branch is wrong.
    let fits = on(&tip, 1, vec![granted(READER, 5_000)]);
    let other = U256::from(2);
    let foreign = Event::NamingPolicySet { broker_id: other, policy: NamingPolicy::Open };
    let wrong = on(&fits.header, 1, vec![foreign]);
    let refused = chain.adopt(13, &[fits, wrong]);
    assert!(matches!(refused, Err(ChainError::Inconsistent { height: 15, .. })), "{refused:?}");
    assert_eq!((chain.hash(), chain.registry().digest()), (hash, digest));
    assert_eq!(grant_of(&chain, READER), None);
}

#[test]
fn headers_that_do_not_link_are_refused() {
    let chain = Chain::new(ID, &base(), 128);
    let (one, two) = (line(1, 5), line(2, 5));
    let mut branch = Branch::new(one[4].header);
    let refused = branch.extend_down(&chain, [two[3].header]);
    assert!(matches!(refused, Err(ChainError::NotNext { height: 14, .. })), "{refused:?}");
    let mut branch = Branch::new(one[4].header);
    assert!(branch.extend_down(&chain, one[..4].iter().rev().map(|block| block.header)).is_ok());
    assert_eq!(chain.join(&branch), Joined::At(10));
}

#[test]
fn an_older_block_of_the_same_chain_is_no_reorganisation() {
    let mut chain = Chain::new(ID, &base(), 3);
    let blocks = line(1, 6);
    for block in &blocks {
        chain.adopt(chain.height(), std::slice::from_ref(block)).unwrap();
    }
    assert_eq!(chain.place(&blocks[5].header), Place::Tip);
    assert_eq!(chain.place(&blocks[4].header), Place::Older);
    assert_eq!(chain.place(&blocks[2].header), Place::Older);
    assert_eq!(chain.place(&blocks[1].header), Place::Forgotten);
    assert_eq!(chain.place(&on(&blocks[3].header, 2, Vec::new()).header), Place::Ahead);
    assert_eq!(chain.place(&on(&blocks[5].header, 1, Vec::new()).header), Place::Ahead);
}

#[test]
fn what_is_granted_counts_as_settled_after_the_confirmations_and_not_before() {
    let mut chain = Chain::new(ID, &base(), 128);
    let mut blocks = line(1, 1);
    blocks.push(on(&blocks[0].header.clone(), 1, vec![granted(READER, 5_000)]));
    for confirmations in 0..3 {
        chain.rewind(10);
        chain.adopt(10, &blocks).unwrap();
        for depth in 0..4 {
            let (view, _) =
                chain.view(&chain.settled(confirmations).unwrap(), Options::default(), 1);
            let settled = view.settled.grant(name_id(), READER, Right::Subscribe);
            assert_eq!(settled.is_some(), depth >= confirmations, "{depth} of {confirmations}");
            assert!(view.head.grant(name_id(), READER, Right::Subscribe).is_some());
            let tip = Header { height: chain.height(), hash: chain.hash(), ..base() };
            chain.adopt(tip.height, &[on(&tip, 1, Vec::new())]).unwrap();
        }
    }
}

#[test]
fn the_mark_of_a_view_changes_with_the_state_and_only_then() {
    let mut chain = Chain::new(ID, &base(), 128);
    chain.adopt(10, &line(1, 2)).unwrap();
    let mark = |chain: &Chain| chain.view(&chain.settled(1).unwrap(), Options::default(), 1).1;
    let tip = |chain: &Chain| Header { height: chain.height(), hash: chain.hash(), ..base() };
    let next = on(&tip(&chain), 1, Vec::new());
    chain.adopt(12, &[next]).unwrap();
    let settled = mark(&chain);
    let empty = on(&tip(&chain), 1, Vec::new());
    chain.adopt(13, &[empty]).unwrap();
    assert_eq!(mark(&chain), settled);
    // An alert is an event, and no change of state.
    let alert = Event::Credited { payee: READER, amount_wei: U256::ONE };
    let alerted = on(&tip(&chain), 1, vec![alert]);
    chain.adopt(14, &[alerted]).unwrap();
    assert_eq!(mark(&chain), settled);
    let grant = on(&tip(&chain), 1, vec![granted(READER, 5_000)]);
    chain.adopt(15, &[grant]).unwrap();
    let fresh = mark(&chain);
    assert_ne!(fresh, settled);
    // One block later the same grant is settled, too.
    let empty = on(&tip(&chain), 1, Vec::new());
    chain.adopt(16, &[empty]).unwrap();
    assert_ne!(mark(&chain), fresh);
    // The same block again in another branch: the state is equal, yet nobody has to know that.
    chain.rewind(15);
    let again = on(&tip(&chain), 2, vec![granted(READER, 5_000)]);
    chain.adopt(15, &[again]).unwrap();
    assert_ne!(mark(&chain), fresh);
}

#[test]
fn a_view_tells_whom_the_way_from_the_one_before_it_concerned() {
    let who = |wallet| Principal {
        wallet,
        key: wallet,
        credential: Credential { kind: CredentialKind::Token, issued_at: 0, expires_at: u64::MAX },
        country: None,
    };
    let (reader, other) = (who(READER), who(Address::repeat_byte(0x55)));
    let mut chain = Chain::new(ID, &base(), 3);
    chain.adopt(10, &line(1, 2)).unwrap();
    let tip = |chain: &Chain| Header { height: chain.height(), hash: chain.hash(), ..base() };
    let grow = |chain: &mut Chain, events| {
        let next = on(&tip(chain), 1, events);
        chain.adopt(chain.height(), &[next]).unwrap();
        chain.view(&chain.settled(1).unwrap(), Options::default(), 1).1
    };
    let quiet = grow(&mut chain, Vec::new());
    let granted_at = grow(&mut chain, vec![granted(READER, 5_000)]);
    let concern = chain.concern(quiet, granted_at);
    assert!(concern.includes(&reader) && !concern.includes(&other));
    // One block later the grant settles, which concerns the same.
    let settled_at = grow(&mut chain, Vec::new());
    let concern = chain.concern(granted_at, settled_at);
    assert!(concern.includes(&reader) && !concern.includes(&other));
    let still = grow(&mut chain, Vec::new());
    assert_eq!(chain.concern(settled_at, still), Concern::NOBODY);
    // What was orphaned is no step on the way to what replaced it.
    let banned_at = grow(&mut chain, vec![banned(READER, 6_000)]);
    assert!(chain.rewind(chain.height() - 1));
    let again = grow(&mut chain, vec![banned(READER, 6_000)]);
    assert_eq!(chain.concern(banned_at, again), Concern::EVERYONE);
    assert!(!chain.concern(still, again).includes(&other));
    // And what is forgotten could have concerned anybody.
    for _ in 0..5 {
        grow(&mut chain, vec![banned(READER, 6_000)]);
    }
    let now = grow(&mut chain, Vec::new());
    assert_eq!(chain.concern(still, now), Concern::EVERYONE);
}

#[test]
fn what_settled_on_a_chain_that_is_gone_compares_with_nothing_on_the_next() {
    let mut chain = Chain::new(ID, &base(), 128);
    chain.adopt(10, &line(1, 2)).unwrap();
    let mark = |settled: &Settled| chain.view(settled, Options::default(), 1).1;
    let mut settled = chain.settled(0).unwrap();
    let now = mark(&settled);
    assert_eq!(chain.concern(now, now), Concern::NOBODY);
    // Both chains count from zero, so the numbers alone would be the same.
    settled.of_another_chain();
    assert_ne!(mark(&settled), now);
    assert_eq!(chain.concern(mark(&settled), now), Concern::EVERYONE);
}

#[test]
fn a_block_time_that_goes_back_does_not_turn_time_back() {
    let mut chain = Chain::new(ID, &base(), 128);
    let mut blocks = line(1, 2);
    blocks[1].header.time = 3;
    chain.adopt(10, &blocks).unwrap();
    let (view, _) = chain.view(&chain.settled(0).unwrap(), Options::default(), 1);
    assert_eq!(view.time, blocks[0].header.time);
}

#[test]
fn a_range_of_old_blocks_gives_the_state_of_block_by_block() {
    let mut by_block = Chain::new(ID, &base(), 128);
    let mut blocks = line(1, 3);
    let tip = blocks[2].header;
    blocks.push(on(&tip, 1, vec![granted(READER, 5_000), banned(READER, 6_000)]));
    by_block.adopt(10, &blocks).unwrap();
    let mut leaping = Chain::new(ID, &base(), 128);
    let events: Vec<(Stamp, Event)> = blocks
        .iter()
        .flat_map(|block| {
            let stamp = Stamp { height: block.header.height, time: block.header.time };
            block.events.iter().map(move |event| (stamp, event.clone()))
        })
        .collect();
    leaping.leap(&blocks[3].header, &events).unwrap();
    assert_eq!(leaping.registry().digest(), by_block.registry().digest());
    assert_eq!(leaping.hash(), by_block.hash());
    let refused = leaping.leap(&blocks[3].header, &[]);
    assert!(matches!(refused, Err(ChainError::NotNext { .. })), "{refused:?}");
}

fn happening() -> impl Strategy<Value = Event> {
    let wallet = (0u8..4).prop_map(Address::repeat_byte);
    (wallet, 1_000u64..2_000, 0u8..4).prop_map(|(wallet, until, kind)| match kind {
        0 => granted(wallet, until),
        1 => banned(wallet, until),
        2 => Event::WalletUnbanned { broker_id: ID, wallet, by: OWNER },
        _ => Event::WalletBlocked {
            broker_id: ID,
            topic_id: name_id(),
            wallet,
            by: OWNER,
            purpose: B256::ZERO,
            note: String::new(),
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// However often the chain forks, the state is that of a fresh replay of what is canonical in the end, or the follower
    /// knows that it has to build it again.
    #[test]
    fn after_any_forks_the_state_is_that_of_a_fresh_replay(
        history in 1usize..12,
        forks in prop::collection::vec(
            (0usize..10, prop::collection::vec(prop::collection::vec(happening(), 0..3), 1..8)), 1..20),
    ) {
        let mut chain = Chain::new(ID, &base(), history);
        let mut canonical = line(0, 1);
        follow(&mut chain, &canonical).unwrap();
        for (salt, (undone, blocks)) in forks.into_iter().enumerate() {
            canonical.truncate(canonical.len().saturating_sub(undone).max(1));
            for events in blocks {
                let below = canonical.last().unwrap().header;
                canonical.push(on(&below, u64::try_from(salt).unwrap() + 1, events));
            }
            if follow(&mut chain, &canonical).is_err() {
                prop_assert!(undone > 0, "the chain only grew");
                chain = Chain::new(ID, &base(), history);
                prop_assert!(chain.adopt(base().height, &canonical).is_ok());
            }
            prop_assert!(chain.heights().count() <= history + 1);
            let mut fresh = Registry::new(ID);
            for block in &canonical {
                let stamp = Stamp { height: block.header.height, time: block.header.time };
                for event in &block.events {
                    fresh.apply(event, stamp).unwrap();
                }
            }
            prop_assert_eq!(chain.registry().digest(), fresh.digest());
            prop_assert_eq!(chain.hash(), canonical.last().unwrap().header.hash);
        }
    }
}
