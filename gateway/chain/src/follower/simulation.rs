//! The whole follower against made-up nodes, in made-up time: random chains, forks and faults, each schedule by its seed.
//!
//! `make simulate-chain N=1000` runs as many schedules; `SEED=n` runs that one again. After every schedule the faults end, and the
//! state must be that of a fresh replay of the canonical logs. During it every view that is published must be the state after a
//! block that there was, and permissions must lie as many blocks below.

mod nodes;
mod world;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use flytrap_policy::View;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{ChainHealth, Dialer, Follower, FollowerConfig, pace::Pauses, proof::Proof};
use nodes::{Fault, SimulatedNode};
use world::{World, deployment};

/// Blocks that can be undone, and the deepest reorganisation that must not need more than that.
const HISTORY: usize = 64;
/// Everything must be well again so long after the last fault. Rests and pauses are shorter.
const HEALED_WITHIN: Duration = Duration::from_secs(120);

/// How one schedule is to be.
#[derive(Debug, Clone, Copy)]
struct Site {
    nodes: usize,
    confirmations: u64,
    quorum: bool,
    prove_history: bool,
    snapshot: bool,
}

impl Site {
    fn random(random: &mut StdRng) -> Self {
        let nodes = random.random_range(1..=3);
        Self {
            nodes,
            confirmations: [0, 0, 1, 3, 12][random.random_range(0..5)],
            quorum: nodes > 1 && random.random_bool(0.4),
            prove_history: random.random_bool(0.5),
            snapshot: random.random_bool(0.3),
        }
    }
}

/// What was published wrongly, in words.
type Wrong = Arc<Mutex<Vec<String>>>;

struct Run {
    world: Arc<Mutex<World>>,
    nodes: Vec<Arc<SimulatedNode>>,
    site: Site,
    wrong: Wrong,
    health: Arc<ChainHealth>,
    last: Arc<Mutex<Option<Arc<View>>>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), super::FollowError>>,
    config: FollowerConfig,
}

impl Run {
    fn new(site: Site, random: &mut StdRng, place: &std::path::Path) -> Self {
        let world = Arc::new(Mutex::new(World::new(random.random())));
        let nodes: Vec<_> = (0..site.nodes)
            .map(|_| Arc::new(SimulatedNode::new(world.clone(), random.random())))
            .collect();
        let urls = (0..site.nodes).map(|n| Url::parse(&format!("sim://node{n}:1")).unwrap());
        let mut config = FollowerConfig::new(urls.collect(), deployment(), world::BROKER);
        config.confirmations = site.confirmations;
        config.quorum = site.quorum;
        config.proof = Proof::Receipts;
        config.prove_history = site.prove_history;
        config.history = HISTORY;
        config.snapshot =
            site.snapshot.then(|| (place.join("mirror.snapshot"), Duration::from_secs(5)));
        let (wrong, last) = (Wrong::default(), Arc::default());
        let (health, stop, task) =
            start(&config, &nodes, &world, site, (&wrong, &last), random.random());
        Self { world, nodes, site, wrong, health, last, stop, task, config }
    }

    /// What is wrong at the first contact ends a follower, and not what comes later: nodes are well until then.
    async fn ready(&self) {
        for node in &self.nodes {
            node.heal();
        }
        while self.last.lock().unwrap().is_none() {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The gateway is restarted.
    async fn restart(&mut self, random: &mut StdRng) {
        self.stop.cancel();
        (&mut self.task).await.unwrap().unwrap();
        *self.last.lock().unwrap() = None;
        let told = (&self.wrong, &self.last);
        (self.health, self.stop, self.task) =
            start(&self.config, &self.nodes, &self.world, self.site, told, random.random());
        self.ready().await;
    }

    async fn settle(&self) -> Result<(), String> {
        for node in &self.nodes {
            node.heal();
        }
        // A chain that goes on shows which of two equally long branches it is.
        self.world.lock().unwrap().extend(1);
        let began = Instant::now();
        loop {
            let wanted = self.world.lock().unwrap().wanted(self.site.confirmations);
            let found = self.last.lock().unwrap().clone();
            let is_right = found.as_ref().is_some_and(|view| {
                (view.height, view.head.digest(), view.settled.digest()) == wanted
            });
            if is_right && self.health.age() < Duration::from_secs(5) {
                return Ok(());
            }
            if began.elapsed() > HEALED_WITHIN {
                let found =
                    found.map(|view| (view.height, view.head.digest(), view.settled.digest()));
                return Err(format!(
                    "wanted {wanted:?}, found {found:?}, age {:?}, last error {:?}",
                    self.health.age(),
                    self.health.last_error()
                ));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

type Started =
    (Arc<ChainHealth>, CancellationToken, tokio::task::JoinHandle<Result<(), super::FollowError>>);

fn start(
    config: &FollowerConfig,
    nodes: &[Arc<SimulatedNode>],
    world: &Arc<Mutex<World>>,
    site: Site,
    (wrong, last): (&Wrong, &Arc<Mutex<Option<Arc<View>>>>),
    seed: u64,
) -> Started {
    let (world, wrong, last) = (world.clone(), wrong.clone(), last.clone());
    let publish = move |view: Arc<View>| {
        if let Err(what) = world.lock().unwrap().judge(&view, site.confirmations, site.quorum) {
            wrong.lock().unwrap().push(what);
        }
        let before = last.lock().unwrap().replace(view.clone());
        if before.is_some_and(|before| before.version > view.version) {
            wrong.lock().unwrap().push(format!("version went back to {}", view.version));
        }
    };
    let nodes = nodes.to_vec();
    let dialer = Dialer::Simulated(Arc::new(move |url| {
        let at: usize = url.host_str().unwrap().trim_start_matches("node").parse().unwrap();
        nodes[at].clone()
    }));
    let health = Arc::new(ChainHealth::of(&config.urls));
    let pauses = Pauses::seeded(seed);
    let follower =
        Follower::made(config.clone(), Arc::new(publish), health.clone(), dialer, pauses);
    let stop = CancellationToken::new();
    (health, stop.clone(), tokio::spawn(follower.run(stop)))
}

/// One schedule; the error says what went wrong.
async fn schedule(seed: u64) -> Result<Site, String> {
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::random(&mut random);
    let place = tempfile::tempdir().unwrap();
    let mut run = Run::new(site, &mut random, place.path());
    run.ready().await;
    for _ in 0..random.random_range(10..60) {
        sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        match random.random_range(0..20) {
            0..9 => run.world.lock().unwrap().extend(random.random_range(1..4)),
            // Shallow ones are frequent, one in eight is deeper than what can be undone.
            9 => {
                let deepest = [2, 2, 4, 4, 16, 64, 64, 80][random.random_range(0..8)];
                let depth = random.random_range(1..=deepest);
                run.world.lock().unwrap().reorganise(depth);
            }
            // Again, within what was just replaced.
            10 => {
                let (first, second) = (random.random_range(2..12), random.random_range(1..12));
                let mut world = run.world.lock().unwrap();
                world.reorganise(first);
                world.reorganise(second);
            }
            11 if site.snapshot => run.restart(&mut random).await,
            _ => {
                let node = &run.nodes[random.random_range(0..site.nodes)];
                node.set(Fault::random(&mut random, &site));
            }
        }
    }
    let settled = run.settle().await;
    let wrong = run.wrong.lock().unwrap().clone();
    run.stop.cancel();
    (&mut run.task).await.unwrap().map_err(|error| format!("it gave up: {error}"))?;
    settled.map_err(|what| format!("{site:?}: {what}"))?;
    match wrong.first() {
        None => Ok(site),
        Some(first) => Err(format!("{site:?}: {} wrong views, the first: {first}", wrong.len())),
    }
}

/// A node that claims more and more blocks would be followed until nothing is known any more.
#[tokio::test(start_paused = true)]
async fn a_node_whose_chain_has_no_end_is_left_for_another_and_what_it_told_is_forgotten() {
    let site =
        Site { nodes: 2, confirmations: 1, quorum: false, prove_history: false, snapshot: false };
    let (mut random, place) = (StdRng::seed_from_u64(7), tempfile::tempdir().unwrap());
    let run = Run::new(site, &mut random, place.path());
    run.ready().await;
    run.nodes[0].set(Fault::Endless);
    run.world.lock().unwrap().extend(3);
    sleep(super::look::PATIENCE + HEALED_WITHIN).await;
    let wanted = run.world.lock().unwrap().wanted(site.confirmations);
    let found = run.last.lock().unwrap().clone().unwrap();
    assert_eq!((found.height, found.head.digest(), found.settled.digest()), wanted);
    assert!(run.health.age() < Duration::from_secs(5), "{:?}", run.health.last_error());
    assert!(run.health.nodes()[1].is_in_use());
    assert_eq!(run.wrong.lock().unwrap().first(), None);
}

/// Each answer is bounded; all that lies between two heads is not, if it has to be held until the last of it is there.
#[tokio::test(start_paused = true)]
async fn what_is_there_of_a_long_way_to_the_head_is_taken_in_before_the_rest_comes() {
    let site =
        Site { nodes: 1, confirmations: 1, quorum: false, prove_history: false, snapshot: false };
    let (mut random, place) = (StdRng::seed_from_u64(7), tempfile::tempdir().unwrap());
    let run = Run::new(site, &mut random, place.path());
    run.ready().await;
    let before = run.last.lock().unwrap().clone().unwrap();
    run.nodes[0].set(Fault::HeadersOnly(10));
    run.world.lock().unwrap().extend(50);
    sleep(HEALED_WITHIN).await;
    let now = run.last.lock().unwrap().clone().unwrap();
    assert_eq!(now.version, before.version, "a part of the way is published");
    let answered = run.nodes[0].answered();
    let times = |blocks: std::ops::Range<u64>| -> Vec<usize> {
        let range = answered.range(before.height + blocks.start..before.height + blocks.end);
        range.map(|(_, times)| *times).collect()
    };
    let (first, rest) = (times(1..33), times(33..41));
    assert!(first.len() > 9 && first.iter().all(|times| *times == 1), "{first:?}");
    assert!(rest.iter().any(|times| *times > 1), "it was not asked again: {rest:?}");
    run.settle().await.unwrap();
    assert_eq!(run.wrong.lock().unwrap().first(), None);
}

fn simulate(seed: u64) -> Result<Site, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(schedule(seed))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn after_any_schedule_of_faults_the_state_is_that_of_a_fresh_replay() {
    if let Some(seed) = number("SEED") {
        println!("schedule {seed}: {:?}", simulate(seed).unwrap());
        return;
    }
    let schedules = number("SCHEDULES").unwrap_or(40);
    // Other schedules each time, unless told where to begin.
    let first = number("FIRST_SEED").unwrap_or_else(rand::random::<u64>);
    let (mut failed, mut with_quorum) = (Vec::new(), 0);
    for seed in (0..schedules).map(|n| first.wrapping_add(n)) {
        match simulate(seed) {
            Ok(site) => with_quorum += u64::from(site.quorum),
            Err(what) => failed.push(format!("SEED={seed}: {what}")),
        }
    }
    println!("{schedules} schedules from seed {first}, {with_quorum} with a quorum of two");
    assert!(schedules < 20 || with_quorum > 0);
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}
