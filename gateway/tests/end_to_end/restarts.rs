//! Node and gateway go and come back in any order, and what is allowed afterwards is what the chain says by then.

use eyre::{Result, ensure};
use flytrap_policy::Right;
use flytrap_site::{Fault, FaultProxy};
use toml::Value;

use crate::common::process::{Process, set};
use crate::common::raw::{Connect, Raw};
use crate::common::{PATIENCE, Stage, V311, http, run, until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    NodeGoes,
    NodeReturns,
    /// By SIGTERM: the mirror is written to the disk.
    Stop,
    /// By SIGKILL: nothing is.
    Kill,
    Start,
    /// One reader's right ends and the other's begins.
    Change,
    /// The last two blocks are replaced, and one comes on top.
    Reorganise,
}
use Step::{Change, Kill, NodeGoes, NodeReturns, Reorganise, Start, Stop};

/// Each ends with both at work, and every state is told by the chain alone.
const ORDERS: [&[Step]; 8] = [
    &[NodeGoes, Change, NodeReturns],
    &[Stop, Change, Start],
    &[Kill, Change, Start],
    &[NodeGoes, Change, Stop, Change, Change, NodeReturns, Start],
    &[NodeGoes, Kill, Change, Start, NodeReturns],
    &[Stop, NodeGoes, Change, Start, NodeReturns],
    &[Stop, Change, Reorganise, Start],
    &[Kill, NodeGoes, Change, Reorganise, Change, NodeReturns, Start],
];

#[test]
fn in_whatever_order_node_and_gateway_return_what_is_allowed_is_what_the_chain_says() -> Result<()>
{
    run(async {
        let mut stage = Stage::new().await?;
        // Only one process may use the key.
        stage.site.gateway_mut()?.child.kill();
        let proxy = FaultProxy::before(stage.site.chain.http()).await?;
        let readers = [&stage.site.wallets.reader, &stage.site.wallets.other_reader];
        let topic = stage.topic("again").await?;
        let url = proxy.http();
        let mut gateway = stage.spawn_gateway("again", |table| {
            set(table, "chain", "urls", Value::Array(vec![url.into()]));
            // What is kept on disk is so deep, and reorganised in full depth.
            set(table, "chain", "history", 4);
        })?;
        // Whose right it is.
        let mut holder = 0;
        stage.grant(&topic, readers[holder].address(), Right::Subscribe).await?;
        let mut from_snapshot = 0;
        for (number, order) in ORDERS.into_iter().enumerate() {
            for step in order {
                match step {
                    NodeGoes => proxy.set(Fault::Down).await?,
                    NodeReturns => proxy.set(Fault::None).await?,
                    Stop => {
                        gateway.child.terminate();
                        ensure!(gateway.child.wait(PATIENCE).await?.success(), "{order:?}");
                    }
                    Kill => gateway.child.kill(),
                    Start => {
                        gateway.child =
                            stage.launch(&format!("again-{number}"), &gateway.config)?;
                    }
                    Change => {
                        stage.revoke(&topic, readers[holder].address(), Right::Subscribe).await?;
                        holder = 1 - holder;
                        stage.grant(&topic, readers[holder].address(), Right::Subscribe).await?;
                    }
                    Reorganise => {
                        // Both transactions of the last change are in the blocks that are replaced.
                        stage.site.chain.reorganise(2).await?;
                        stage.site.chain.mine(1).await?;
                        holder = 1 - holder;
                    }
                }
            }
            let wanted = [0, 1].map(|reader| if reader == holder { 0 } else { 0x80 });
            let what = format!("{order:?}");
            from_snapshot += settles(&stage, &mut gateway, wanted, &what).await?;
            // So that the next snapshot is of a later block.
            stage.site.chain.mine(6).await?;
        }
        ensure!(from_snapshot >= 2, "{from_snapshot} starts went on from a snapshot");
        Ok(())
    })
}

/// Waits until the gateway is ready at the chain's head and answers as wanted. 1 if it has gone on from a snapshot, or else 0.
async fn settles(
    stage: &Stage,
    gateway: &mut Process,
    wanted: [u8; 2],
    what: &str,
) -> Result<usize> {
    let (mqtt, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
    let height = stage.site.chain.height().await?;
    until(&format!("readiness after {what}"), || async {
        let is_there = http::get(health, "/readyz").await?.0 == 200
            && http::metric(health, "flytrap_mirror_height").await? >= height as f64;
        Ok(is_there.then_some(()))
    })
    .await?;
    let mut codes = [0xFF; 2];
    for (code, key) in
        codes.iter_mut().zip([&stage.site.wallets.reader, &stage.site.wallets.other_reader])
    {
        let mut client = Raw::plain(V311, mqtt).await?;
        let login = stage.site.token(key, "again")?;
        assert_eq!(client.connect(&Connect::of(V311, &login)).await?, 0, "{what}");
        *code = client.subscribe(&[("again", 0)]).await?[0];
    }
    ensure!(codes == wanted, "after {what}: {codes:?}, wanted {wanted:?}");
    Ok(usize::from(http::metric(health, "flytrap_mirror_snapshot_height").await? > 0.0))
}
