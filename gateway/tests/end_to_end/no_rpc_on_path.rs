//! W47: no packet causes a request to the node. Counted twice: by the gateway's own metric and by a relay before the node.

use std::time::{Duration, Instant};

use crate::common::process::{Process, set};
use crate::common::raw::{Connect, Got, Publish, Raw};
use crate::common::relay::Relay;
use crate::common::{CLOSED, PUBLIC, RETAIN, Stage, V5, V311, http, run, until};
use eyre::{Result, bail, ensure};
use toml::Value;

/// Looks at the chain per second, at most.
const POLLS_PER_SECOND: f64 = 5.0;

async fn start(stage: &Stage) -> Result<(Relay, Process)> {
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.topic_with("closed", RETAIN, CLOSED, CLOSED).await?;
    let relay = Relay::start(([127, 0, 0, 1], stage.site.chain.port()).into(), true).await?;
    let url = format!("http://{}", relay.address());
    let mut gateway = stage.spawn_gateway("counted", |table| {
        set(table, "chain", "urls", Value::Array(vec![url.into()]));
        set(table, "chain", "poll", "200ms");
        set(table, "audit", "interval", "1s");
    })?;
    let health = gateway.health().await?;
    until("readiness", || async {
        Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
    })
    .await?;
    Ok((relay, gateway))
}

/// Requests by the gateway's own count and by the relay's, and when.
async fn counted(relay: &Relay, gateway: &mut Process) -> Result<(f64, f64, Instant)> {
    let own = http::metric(gateway.health().await?, "flytrap_rpc_requests_total").await?;
    Ok((own, relay.requests() as f64, Instant::now()))
}

#[test]
fn ten_thousand_publishes_and_deliveries_cause_no_request_beyond_the_timers() -> Result<()> {
    run(async {
        let mut stage = Stage::new().await?;
        let (relay, mut gateway) = start(&stage).await?;
        // The site's own gateway looks at the chain as well, but not through the relay; it is not needed.
        stage.site.gateway_mut()?.child.kill();
        let mqtt = gateway.listener("mqtt").await?;

        let before = counted(&relay, &mut gateway).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let idle = counted(&relay, &mut gateway).await?;
        let rate = (idle.1 - before.1) / idle.2.duration_since(before.2).as_secs_f64();
        ensure!(rate > 0.5, "the relay counts nothing: {rate} requests a second");
        ensure!(rate <= POLLS_PER_SECOND * 2.0, "{rate} requests a second while idle");

        let mut reader = Raw::plain(V5, mqtt).await?;
        assert_eq!(reader.connect(&Connect::of(V5, &stage.reader("many")?)).await?, 0);
        assert_eq!(reader.subscribe(&[("open/#", 0)]).await?, [0]);
        let mut publisher = Raw::plain(V311, mqtt).await?;
        assert_eq!(publisher.connect(&Connect::of(V311, &stage.stranger("sender")?)).await?, 0);
        let begun = counted(&relay, &mut gateway).await?;
        let reading = tokio::spawn(async move {
            for _ in 0..10_000 {
                reader.delivery().await?;
            }
            Ok::<_, eyre::Report>(reader)
        });
        for batch in 0..100_u16 {
            // Many names, so that no look-up is saved by the one before.
            let octets: Vec<u8> = (1..=100)
                .flat_map(|n| {
                    Publish::new(&format!("open/{batch}/{n}"), b"x").qos(1, n).octets(V311)
                })
                .collect();
            publisher.send(octets).await?;
            for _ in 0..100 {
                let Got::Ack { kind: 4, .. } = publisher.get().await? else { bail!("no PUBACK") };
            }
        }
        let _reader = reading.await??;
        let ended = counted(&relay, &mut gateway).await?;
        let seconds = ended.2.duration_since(begun.2).as_secs_f64();
        let allowed = (seconds * rate).ceil() + 6.0;
        eprintln!(
            "10,000 messages in {seconds:.1} s; {} requests by the relay, {} by the metric; idle: {rate:.1} a second",
            ended.1 - begun.1,
            ended.0 - begun.0
        );
        ensure!(
            ended.1 - begun.1 <= allowed,
            "{} requests in {seconds} s, wanted at most {allowed}",
            ended.1 - begun.1
        );
        ensure!(ended.0 - begun.0 <= allowed, "the metric says {} requests", ended.0 - begun.0);
        // Sessions, proofs and refusals ask nothing either.
        let begun = counted(&relay, &mut gateway).await?;
        for n in 0..100 {
            let mut client = Raw::plain(V5, mqtt).await?;
            assert_eq!(
                client.connect(&Connect::of(V5, &stage.stranger(&format!("session-{n}"))?)).await?,
                0
            );
        }
        let ended = counted(&relay, &mut gateway).await?;
        let allowed = (ended.2.duration_since(begun.2).as_secs_f64() * rate).ceil() + 6.0;
        ensure!(
            ended.1 - begun.1 <= allowed,
            "100 sessions: {} requests, wanted at most {allowed}",
            ended.1 - begun.1
        );
        Ok(())
    })
}

/// W48: whatever is refused, however often, costs one transaction an interval at most.
#[test]
fn ten_thousand_refusals_cost_at_most_one_transaction_an_interval() -> Result<()> {
    run(async {
        // Whoever goes on like this is banned long before, see `bans.rs`; what it would cost until then is asked here.
        let mut stage = Stage::configured("[conduct]\nrefusals = 0").await?;
        let (_relay, mut gateway) = start(&stage).await?;
        stage.site.gateway_mut()?.child.kill();
        let mqtt = gateway.listener("mqtt").await?;
        let before = stage.site.chain.height().await?;
        let began = Instant::now();
        let mut client = Raw::plain(V5, mqtt).await?;
        assert_eq!(client.connect(&Connect::of(V5, &stage.stranger("refused")?)).await?, 0);
        for batch in 0..100_u16 {
            let octets: Vec<u8> = (1..=100)
                .flat_map(|n| {
                    Publish::new(&format!("closed/{batch}/{n}"), b"x").qos(1, n).octets(V5)
                })
                .collect();
            client.send(octets).await?;
            for _ in 0..100 {
                let Got::Ack { code: 0x87, .. } = client.get().await? else { bail!("not refused") };
            }
        }
        let signature =
            "AlertRaised(uint256,bytes32,address,address,uint8,uint32,uint64,uint64,bytes32)";
        let told = until("10,000 refusals on chain", || async {
            let mut sum = 0_u64;
            for log in stage.logs(signature).await? {
                let alert: flytrap_chain::bindings::IAuditLog::AlertRaised = log.read()?;
                sum += u64::from(alert.count);
            }
            Ok((sum >= 10_000).then_some(sum))
        })
        .await?;
        assert_eq!(told, 10_000, "each refusal is counted once");
        // A block for each transaction.
        let transactions = stage.site.chain.height().await? - before;
        let intervals = began.elapsed().as_secs() + 2;
        eprintln!("10,000 refusals in {:?}: {transactions} transactions", began.elapsed());
        ensure!(transactions <= intervals, "{transactions} transactions in {intervals} intervals");
        Ok(())
    })
}
