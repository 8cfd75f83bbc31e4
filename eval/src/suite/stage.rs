//! Where scenarios play: one chain, one rig, and in front of the sink and of a real Mosquitto each the same row of targets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use eyre::Result;
use flytrap_bench::ground;
use flytrap_bench::process::{Pinning, cpu_time};
use flytrap_bench::proxies::{self, Listening, Place};
use flytrap_bench::rig::{Client, Order, Rig, Times, Way};
use flytrap_bench::spread::{quantile, whole};
use flytrap_chain::keys::Key;
use flytrap_site::{Gateway, Identity, Site};

use super::book::{Book, Page};

/// The gateway.
pub(crate) const OURS: &str = "FlyTrap";
/// What ratios are of.
pub(crate) const THEIRS: &str = "HAProxy";
/// No proxy at all.
pub(crate) const DIRECT: &str = "direct";

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Rounds of each target and case.
    pub rounds: u32,
    /// About how long each round lasts.
    pub seconds: f64,
    /// What the largest numbers of clients and grants are divided by.
    pub smaller: u32,
    /// Also what takes long for little.
    pub full: bool,
}

impl Plan {
    /// What of a number is done: all of it, or as much less as the plan says.
    pub(crate) fn of(&self, full: u32) -> usize {
        (full / self.smaller).max(1) as usize
    }

    /// How many clients: as many as are named also in the short form, where their number is what is asked about.
    pub(crate) fn clients(&self, named: u32) -> usize {
        (named.saturating_mul(4) / self.smaller).clamp(1, named) as usize
    }
}

/// One of those that are measured side by side.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    /// Whose CPU time counts; of the broker itself none.
    pub(crate) pid: Option<u32>,
}

/// Targets in front of one broker.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) broker: SocketAddr,
    pub(crate) gateway: Gateway,
    haproxy: Option<Listening>,
    nginx: Option<Listening>,
}

impl Row {
    /// The targets by TLS or not. The broker itself is one by TCP only: what ends TLS is a proxy here.
    pub(crate) fn targets(&self, tls: Option<&Path>) -> Result<Vec<Target>> {
        let way = |plain: SocketAddr, secured: SocketAddr| match tls {
            None => Way::plain(plain),
            Some(ca) => Way { address: secured, ca: Some(ca.to_owned()) },
        };
        let mut targets = Vec::new();
        if tls.is_none() {
            targets.push(Target { name: DIRECT, way: Way::plain(self.broker), pid: None });
        }
        let ours = way(self.gateway.listener("mqtt")?, self.gateway.listener("mqtts")?);
        targets.push(Target { name: OURS, way: ours, pid: Some(self.gateway.child.id()) });
        for (name, proxy) in [(THEIRS, &self.haproxy), ("nginx", &self.nginx)] {
            if let Some(proxy) = proxy {
                let way = way(proxy.plain, proxy.tls);
                targets.push(Target { name, way, pid: Some(proxy.pid()) });
            }
        }
        Ok(targets)
    }
}

/// Everything that a scenario needs.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) plan: Plan,
    pub(crate) book: Book,
    pub(crate) rig: Rig,
    pub(crate) site: Site,
    pub(crate) sink: Row,
    pub(crate) broker: Row,
    pub(crate) mosquitto: Listening,
    pub(crate) pinning: Pinning,
    pub(crate) identity: Identity,
    pub(crate) start: PathBuf,
    dir: tempfile::TempDir,
    /// What is not there to be measured, and why.
    pub(crate) missing: Vec<String>,
    /// Names and versions of what is.
    pub(crate) versions: Vec<(String, String)>,
    folders: u32,
    scenario: &'static str,
}

impl Stage {
    /// Starts all of it.
    pub(super) async fn set(plan: Plan, patience: Duration, lossy: bool) -> Result<Self> {
        let pinning = Pinning::find();
        let dir = tempfile::tempdir()?;
        let start = dir.path().join("gateway-pinned");
        pinning.script(&flytrap_site::gateway_program()?, &start)?;
        let mut rig = Rig::start(&std::env::current_exe()?, &pinning, patience)?;
        if lossy {
            rig.tell(&Order::Lose)?;
        }
        let site = ground::site(&start).await?;
        let identity = site.authority.identify("proxy")?;
        let owner = site.wallet(&site.wallets.broker_owner).await?;
        let second = &site.wallets.other_gateway;
        for key in [second, &site.wallets.spare[0], &site.wallets.spare[1]] {
            owner.set_gateway(site.broker_id, key.address(), "mqtts://localhost").await?;
        }
        let place = dir.path().join("mosquitto");
        std::fs::create_dir(&place)?;
        let place = Place { pinning: &pinning, dir: &place, identity: &identity };
        let mosquitto = proxies::mosquitto(place, &[], None)?;
        let mut versions = vec![
            ("FlyTrap".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("Mosquitto".to_owned(), mosquitto.version.clone()),
        ];
        let mut missing = Vec::new();
        let mut row = Vec::new();
        let rows = [("sink", &site.wallets.gateway, rig.sink), ("broker", second, mosquitto.plain)];
        for (name, key, broker) in rows {
            let gateway = gateway(&site, name, key, broker, "").await?;
            let mut proxy =
                |program: &str, start: fn(Place<'_>, SocketAddr) -> Result<Listening>| {
                    let place = dir.path().join(format!("{program}-{name}"));
                    std::fs::create_dir(&place)?;
                    let place = Place { pinning: &pinning, dir: &place, identity: &identity };
                    match start(place, broker) {
                        Ok(proxy) => {
                            let version = (program.to_owned(), proxy.version.clone());
                            if !versions.contains(&version) {
                                versions.push(version);
                            }
                            Ok::<_, eyre::Report>(Some(proxy))
                        }
                        Err(error) => {
                            let why = format!("{program} is not measured: {error:#}");
                            if !missing.contains(&why) {
                                missing.push(why);
                            }
                            Ok(None)
                        }
                    }
                };
            let haproxy = proxy("HAProxy", proxies::haproxy)?;
            let nginx = proxy("nginx", proxies::nginx)?;
            row.push(Row { broker, gateway, haproxy, nginx });
        }
        let [sink, broker] = <[Row; 2]>::try_from(row).map_err(|_| eyre::eyre!("two rows"))?;
        Ok(Self {
            plan,
            book: Book::default(),
            rig,
            site,
            sink,
            broker,
            mosquitto,
            pinning,
            identity,
            start,
            dir,
            missing,
            versions,
            folders: 0,
            scenario: "",
        })
    }

    /// Which scenario plays now.
    pub(super) fn enter(&mut self, scenario: &'static str) {
        self.scenario = scenario;
    }

    /// The root that certificates lead to.
    pub(crate) fn ca(&self) -> PathBuf {
        self.site.ca_file().to_owned()
    }

    /// Writes down a value of this round.
    pub(crate) fn put(&mut self, case: &str, target: &str, metric: (&str, &str), value: f64) {
        self.book.put(Page { scenario: self.scenario, case }, target, metric, value);
    }

    /// Writes down what a distribution is told by.
    pub(crate) fn put_times(&mut self, case: &str, target: &str, times: &Times) {
        for (name, share) in QUANTILES {
            self.put(case, target, (name, "µs"), quantile(&times.micros, share));
        }
    }

    /// For each round, all of so many targets, each round with another one first.
    pub(crate) fn turns(&self, targets: usize) -> Vec<usize> {
        turns(self.plan.rounds, targets)
    }

    /// Messages in a round at this rate.
    pub(crate) fn messages(&self, per_second: f64) -> u64 {
        whole(per_second * self.plan.seconds)
    }

    /// A place for one more process, with a folder of its own.
    pub(crate) fn folder(&mut self) -> Result<PathBuf> {
        self.folders += 1;
        let dir = self.dir.path().join(format!("more-{}", self.folders));
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Clients with valid tokens.
    pub(crate) fn clients(&self, role: &str, count: usize) -> Result<Vec<Client>> {
        ground::clients(&self.site, role, count)
    }

    /// One client, with this topic.
    pub(crate) fn client(&self, id: &str, topic: &str) -> Result<Client> {
        let login = self.site.token(&self.site.wallets.publisher, id)?;
        let (user_name, password) = (login.user_name, login.password);
        Ok(Client { client_id: id.into(), user_name, password, topic: topic.into() })
    }
}

/// What a distribution is told by.
pub(crate) const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)];

/// Starts a gateway as the stage's own are.
pub(crate) async fn gateway(
    site: &Site,
    name: &str,
    key: &Key,
    broker: SocketAddr,
    more: &str,
) -> Result<Gateway> {
    // Following the chain costs the same whatever is measured; four times a second is often enough to see changes.
    let more = format!("chain.poll = \"250ms\"\n{more}");
    ground::gateway(site, (name, key), broker, &more).await
}

/// What a target's process spends while something is done.
pub(crate) fn spent<T>(pid: Option<u32>, act: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let before = pid.map(cpu_time).transpose()?.unwrap_or_default();
    let done = act()?;
    let after = pid.map(cpu_time).transpose()?.unwrap_or_default();
    Ok((done, after.saturating_sub(before)))
}

fn turns(rounds: u32, targets: usize) -> Vec<usize> {
    (0..rounds as usize)
        .flat_map(|round| (0..targets).map(move |turn| (round + turn) % targets))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_target_once_and_another_one_first() {
        assert_eq!(turns(3, 3), [0, 1, 2, 1, 2, 0, 2, 0, 1]);
        assert_eq!(turns(2, 1), [0, 0]);
    }

    #[test]
    fn a_smaller_plan_does_less_but_something() {
        let plan = Plan { rounds: 1, seconds: 1.0, smaller: 10, full: false };
        assert_eq!((plan.of(1_000), plan.of(5)), (100, 1));
        assert_eq!((plan.clients(1_000), plan.clients(2)), (400, 1));
        let short = Plan { smaller: 4, ..plan };
        assert_eq!((short.of(1_000), short.clients(1_000)), (250, 1_000));
    }
}
