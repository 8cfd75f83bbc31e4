//! What recording costs.

use eyre::Result;
use flytrap_bench::rig::{Case, Way};
use flytrap_policy::{Right, Traits};

use crate::onchain::{CLOSED, FAR, Scribe};
use crate::suite::stage::{Stage, gateway};

/// Counted and nothing else.
const COUNT: &str =
    "[[rule]]\nname = \"only count\"\non = [\"published\", \"delivered\"]\nthen = [\"count\"]\n";

pub(super) async fn play(stage: &mut Stage) -> Result<()> {
    let (site, sink) = (&stage.site, stage.rig.sink);
    let (scribe, owner) = (Scribe(site), site.wallets.topic_owner.address());
    let traits = Traits { retain: false, sensitive: true, own_branch: false };
    scribe.done(&scribe.register(owner, "sensitive", traits, CLOSED, CLOSED)).await?;
    let wallet = site.wallets.publisher.address();
    let grant = scribe.grant(owner, "sensitive", wallet, Right::Publish, FAR);
    let height = scribe.done(&grant).await?;
    let rules = site.dir().join("only-count.toml");
    std::fs::write(&rules, COUNT)?;
    let off = format!("audit.rules = \"{}\"\n", rules.display());
    let [one, other] = &site.wallets.spare;
    let sides = [
        ("recorded", gateway(site, "recorded", one, sink, "").await?),
        ("only counted", gateway(site, "only-counted", other, sink, &off).await?),
    ];
    for (_, gateway) in &sides {
        gateway.until_height(height, std::time::Duration::from_secs(20)).await?;
    }
    let mut clients = stage.clients("recording", 10)?;
    for (number, client) in clients.iter_mut().enumerate() {
        client.topic = format!("sensitive/hall{number}/temperature");
    }
    let each = stage.messages(5_000.0);
    for (name, qos) in [("64 B, QoS 0, batches", 0), ("64 B, QoS 1, batches", 1)] {
        let case = Case { qos, ..Case::SMALL };
        for turn in stage.turns(sides.len()) {
            let (side, gateway) = &sides[turn];
            let (to, pid) = (Way::plain(gateway.listener("mqtt")?), gateway.child.id());
            let round = stage.rig.round(&to, Some(pid), case, &clients, each)?;
            stage.put(name, side, ("CPU per message", "ns"), round.cpu_ns);
        }
    }
    Ok(())
}
