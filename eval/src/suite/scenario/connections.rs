//! Connections that come and go: logins at the sink, logins at a real broker, and clients that publish once.

use eyre::{Result, ensure};
use flytrap_bench::process::cpu_time;
use flytrap_bench::proxies::{self, Place};
use flytrap_bench::rig::{Client, Order, Way};

use crate::suite::stage::{OURS, Stage, Target, spent};

const AT_ONCE: usize = 32;

pub(super) async fn logins(stage: &mut Stage) -> Result<()> {
    let clients = stage.clients("login", stage.plan.of(2_000))?;
    for (case, tls) in [("plain", None), ("TLS", Some(stage.ca()))] {
        let targets = stage.sink.targets(tls.as_deref())?;
        for turn in stage.turns(targets.len()) {
            storm(stage, case, &targets[turn], &clients, AT_ONCE, false)?;
        }
    }
    Ok(())
}

pub(super) async fn once(stage: &mut Stage) -> Result<()> {
    let targets = stage.broker.targets(None)?;
    let most = if stage.plan.full { 10_000 } else { stage.plan.clients(1_000) };
    for count in [10, 100, 1_000, 10_000].into_iter().filter(|count| *count <= most) {
        let clients = stage.clients("once", count)?;
        let case = format!("{count} clients");
        for turn in stage.turns(targets.len()) {
            storm(stage, &case, &targets[turn], &clients, 64, true)?;
        }
    }
    Ok(())
}

fn storm(
    stage: &mut Stage,
    case: &str,
    target: &Target,
    clients: &[Client],
    at_once: usize,
    publish: bool,
) -> Result<()> {
    let order =
        Order::Storm { to: target.way.clone(), clients: clients.to_vec(), at_once, publish };
    let (times, cpu) = spent(target.pid, || stage.rig.times(&order))?;
    ensure!(times.micros.len() == clients.len(), "not every client came through");
    let count = clients.len() as f64;
    stage.put_times(case, target.name, &times);
    stage.put(case, target.name, ("rate", "clients/s"), count / times.seconds);
    if target.pid.is_some() {
        stage.put(case, target.name, ("CPU per client", "µs"), cpu.as_secs_f64() * 1e6 / count);
    }
    Ok(())
}

/// Gateway and broker together, and the broker alone with a password file: what a site pays for a login.
pub(super) async fn passwords(stage: &mut Stage) -> Result<()> {
    let users: Vec<(String, String)> =
        (0..10).map(|user| (format!("user{user}"), format!("a password of user {user}"))).collect();
    let (dir, identity) = (stage.folder()?, stage.identity.clone());
    let place = Place { pinning: &stage.pinning, dir: &dir, identity: &identity };
    let guarded = proxies::mosquitto(place, &users, None)?;
    let ours = stage.clients("login", stage.plan.of(2_000))?;
    let mut theirs = ours.clone();
    for (client, (user_name, password)) in theirs.iter_mut().zip(users.iter().cycle()) {
        (client.user_name, client.password) = (user_name.clone(), password.clone());
    }
    let gateway = &stage.broker.gateway;
    let through = Way::plain(gateway.listener("mqtt")?);
    let sides = [
        (OURS, through, Vec::from([gateway.child.id(), stage.mosquitto.pid()]), ours),
        ("Mosquitto", Way::plain(guarded.plain), Vec::from([guarded.pid()]), theirs),
    ];
    for turn in stage.turns(sides.len()) {
        let (name, to, pids, clients) = &sides[turn];
        let spent =
            || pids.iter().map(|pid| Ok(cpu_time(*pid)?.as_secs_f64())).sum::<Result<f64>>();
        let (to, clients, before) = (to.clone(), clients.clone(), spent()?);
        let count = clients.len() as f64;
        let storm = Order::Storm { to, clients, at_once: AT_ONCE, publish: false };
        let times = stage.rig.times(&storm)?;
        let cpu = spent()? - before;
        stage.put("10 users", name, ("CPU per login", "µs"), cpu * 1e6 / count);
        stage.put("10 users", name, ("rate", "clients/s"), count / times.seconds);
    }
    Ok(())
}
