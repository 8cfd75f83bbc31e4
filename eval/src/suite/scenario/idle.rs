//! What a session costs that says nothing.

use std::time::Duration;

use eyre::Result;
use flytrap_bench::process::most_connections;
use flytrap_bench::proxies::{self, Place};
use flytrap_bench::rig::{Order, Way};

use crate::process::resident;
use crate::suite::stage::{OURS, Stage, THEIRS, gateway};

/// Sessions before the first look, so that what is needed once is there.
const FIRST: usize = 100;
/// Buffers and memory of connections that have just come are given back in this time.
const QUIET: Duration = Duration::from_secs(2);

pub(super) async fn play(stage: &mut Stage) -> Result<()> {
    // Of fewer, what a process needs once would be most of it.
    let most = stage.plan.clients(1_000);
    // Both ends of each are in one process, which a bound on descriptors may not allow for as many.
    let bound = usize::try_from(most_connections())? - 2 * FIRST;
    let counts = if stage.plan.full { vec![most, bound.min(10_000)] } else { vec![most] };
    for count in counts {
        for tls in [false, true] {
            let case = format!("{count} sessions, {}", if tls { "TLS" } else { "plain" });
            for round in 0..stage.plan.rounds.min(3) {
                for target in [OURS, THEIRS, "nginx"] {
                    let name = format!("idle-{count}-{tls}-{round}");
                    if let Some(octets) = session(stage, target, &name, tls, count).await? {
                        stage.put(&case, target, ("resident per session", "B"), octets);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Octets for each session of a process that has just been started; `None` if there is no such program.
async fn session(
    stage: &mut Stage,
    target: &str,
    name: &str,
    tls: bool,
    count: usize,
) -> Result<Option<f64>> {
    let sink = stage.rig.sink;
    let (dir, identity) = (stage.folder()?, stage.identity.clone());
    let place = Place { pinning: &stage.pinning, dir: &dir, identity: &identity };
    let (plain, secured, pid, _running) = if target == OURS {
        let key = &stage.site.wallets.other_gateway;
        let gateway = gateway(&stage.site, name, key, sink, "").await?;
        let (plain, secured) = (gateway.listener("mqtt")?, gateway.listener("mqtts")?);
        (plain, secured, gateway.child.id(), (Some(gateway), None))
    } else {
        let start = if target == THEIRS { proxies::haproxy } else { proxies::nginx };
        if flytrap_site::on_path(&target.to_lowercase()).is_none() {
            return Ok(None);
        }
        let proxy = start(place, sink)?;
        (proxy.plain, proxy.tls, proxy.pid(), (None, Some(proxy)))
    };
    let to = if tls { Way { address: secured, ca: Some(stage.ca()) } } else { Way::plain(plain) };
    let mut clients = stage.clients(name, FIRST + count)?;
    let rest = clients.split_off(FIRST);
    stage.rig.tell(&Order::Hold { to: to.clone(), clients })?;
    tokio::time::sleep(QUIET / 4).await;
    let before = resident(pid);
    stage.rig.tell(&Order::Hold { to, clients: rest })?;
    tokio::time::sleep(QUIET).await;
    let grown = resident(pid).saturating_sub(before);
    stage.rig.tell(&Order::Close)?;
    Ok(Some(grown as f64 / count as f64))
}
