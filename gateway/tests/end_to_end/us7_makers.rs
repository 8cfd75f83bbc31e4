//! ACCEPTANCE US7: two gateways before brokers of different makers, and nothing between them but the chain.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use crate::common::process::{Process, set};
use crate::common::raw::{self, Connect, Publish, Raw};
use crate::common::relay::Relay;
use crate::common::{BOUND, PATIENCE, PUBLIC, RETAIN, Right, Stage, V311, http, run, until};
use eyre::{Result, ensure};
use flytrap_site::{Broker, BrokerKind, Gateway, Login, Recorder, SiteOptions};
use toml::Value;

/// Where the one who is banned comes from.
const BANNED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
/// The key that makes the pseudonyms of origins the same at all gateways of a broker on chain; and a ban that no proof beats, to see it.
const SHARED: &str = "[audit]\npseudonym_key_file = \"{key}\"\n[limits]\nproof_beats_ban = false";

/// Two gateways: the site's own with Mosquitto, and `second` with aedes, each with a recorder before its broker.
struct Network {
    stage: Stage,
    second: Gateway,
    recorder: Recorder,
    _broker: Broker,
    overrides: String,
}

impl Network {
    async fn new() -> Result<Self> {
        let stage = Stage::with(SiteOptions { gateway: false, ..SiteOptions::default() }).await?;
        let key = stage.site.dir().join("pseudonyms.key");
        std::fs::write(&key, "5e".repeat(32))?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        let overrides = SHARED.replace("{key}", &key.display().to_string());
        let owner = stage.site.wallet(&stage.site.wallets.broker_owner).await?;
        let reporter = stage.site.wallets.other_gateway.address();
        owner.set_gateway(stage.site.broker_id, reporter, "mqtts://second.example").await?;
        let broker = stage.site.start_broker(BrokerKind::Aedes).await?;
        let recorder = Recorder::start(broker.address()).await?;
        let at = format!("{overrides}\n[broker]\naddress = \"{}\"", recorder.address());
        let key = &stage.site.wallets.other_gateway;
        let second = stage.site.start_gateway("second", key, &at).await?;
        crate::common::watch_log(stage.site.dir().join("second.log"))?;
        Ok(Self { stage, second, recorder, _broker: broker, overrides })
    }

    /// The first gateway, started with whatever is in its state directory.
    async fn first(&self) -> Result<Gateway> {
        let site = &self.stage.site;
        let gateway = site.start_gateway("first", &site.wallets.gateway, &self.overrides).await?;
        crate::common::watch_log(site.dir().join("first.log"))?;
        Ok(gateway)
    }
}

async fn session(gateway: SocketAddr, login: &Login) -> Result<Raw> {
    let mut client = Raw::plain(V311, gateway).await?;
    let code = client.connect(&Connect::of(V311, login)).await?;
    ensure!(code == 0, "{} was refused with {code:#04x}", login.client_id);
    Ok(client)
}

/// One message through a gateway, from `publisher` to `reader`.
async fn carries(publisher: &mut Raw, reader: &mut Raw, payload: &str) -> Result<()> {
    publisher.publish_whole(&Publish::new("farm/ph", payload.as_bytes()).qos(1, 5)).await?;
    assert_eq!(reader.delivery().await?.payload, payload.as_bytes());
    Ok(())
}

async fn height(gateway: &Gateway, height: u64) -> Result<()> {
    gateway.until_height(height, PATIENCE).await.map(drop)
}

#[test]
fn one_transaction_opens_and_closes_brokers_of_two_makers_and_a_ban_at_one_holds_at_the_other()
-> Result<()> {
    run(async {
        let network = Network::new().await?;
        let (stage, second) = (&network.stage, &network.second);
        let wallets = &stage.site.wallets;
        let mut first = network.first().await?;
        let farm = stage.topic("farm").await?;
        stage.grant(&farm, wallets.publisher.address(), Right::Publish).await?;
        stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
        let granted = stage.grant(&farm, wallets.reader.address(), Right::Subscribe).await?;
        for gateway in [&first, second] {
            height(gateway, granted.height).await?;
        }
        let (at_first, at_second) = (first.listener("mqtt")?, second.listener("mqtt")?);

        // One grant opens both.
        let mut publishers = Vec::new();
        let mut readers = Vec::new();
        for gateway in [at_first, at_second] {
            let mut reader = session(gateway, &stage.reader("reader")?).await?;
            assert_eq!(reader.subscribe(&[("farm/#", 1)]).await?, [1]);
            let mut publisher = session(gateway, &stage.publisher("publisher")?).await?;
            carries(&mut publisher, &mut reader, "both").await?;
            readers.push(reader);
            publishers.push(publisher);
        }

        // Six failures at the first gateway; the second refuses within a recording interval of the ban being on chain.
        let good = Connect::of(V311, &stage.stranger("stranger")?);
        assert_eq!(raw::attempt(V311, BANNED, at_second, &good).await?, Some(0), "not banned yet");
        for _ in 0..6 {
            let wrong = Connect::of(V311, &stage.wrong_proof("stranger")?);
            raw::attempt(V311, BANNED, at_first, &wrong).await?;
        }
        let banned = Instant::now();
        let refused = || async {
            Ok(raw::attempt(V311, BANNED, at_second, &good).await?.is_none().then_some(()))
        };
        until("the second gateway to refuse", refused).await?;
        ensure!(banned.elapsed().as_secs() < 5, "with an interval of 1 s: {:?}", banned.elapsed());
        // Others are none the worse for it.
        carries(&mut publishers[1], &mut readers[1], "after the ban").await?;

        // The first gateway dies; the reader goes to the second with the credential it has, and goes on.
        first.child.kill();
        ensure!(readers[0].ended(PATIENCE).await?.is_empty(), "a killed gateway says nothing");
        let mut moved = session(at_second, &stage.reader("reader")?).await?;
        assert_eq!(moved.subscribe(&[("farm/#", 1)]).await?, [1]);
        carries(&mut publishers[1], &mut moved, "moved").await?;

        // With an empty disk and no node to be had it refuses everyone; with the node it is as if nothing had been.
        std::fs::remove_dir_all(stage.site.dir().join("first-state"))?;
        let relay = Relay::start(([127, 0, 0, 1], stage.site.chain.port()).into(), false).await?;
        let mut table: toml::Table = std::fs::read_to_string(&first.config)?.parse()?;
        let url = format!("http://{}", relay.address());
        set(&mut table, "chain", "urls", Value::Array(vec![url.into()]));
        std::fs::create_dir_all(stage.site.dir().join("first-state"))?;
        let config = stage.site.dir().join("again.toml");
        std::fs::write(&config, toml::to_string(&table)?)?;
        let mut again = Process {
            child: stage.launch("again", &config)?,
            config,
            state: stage.site.dir().join("first-state"),
        };
        let (at_again, health) = (again.listener("mqtt").await?, again.health().await?);
        let connect = Connect::of(V311, &stage.reader("reader-again")?);
        assert_eq!(Raw::plain(V311, at_again).await?.connect(&connect).await?, 3, "too early");
        relay.open();
        let ready = || async { Ok((http::get(health, "/readyz").await?.0 == 200).then_some(())) };
        until("the first gateway to have caught up", ready).await?;
        let mut returned = session(at_again, &stage.reader("reader-again")?).await?;
        assert_eq!(returned.subscribe(&[("farm/#", 1)]).await?, [1]);
        let mut publisher = session(at_again, &stage.publisher("publisher")?).await?;
        carries(&mut publisher, &mut returned, "returned").await?;
        assert_eq!(raw::attempt(V311, BANNED, at_again, &good).await?, None, "the ban is kept");

        // One revocation, seen through the chain alone, ends both.
        let revoked = stage.revoke(&farm, wallets.reader.address(), Right::Subscribe).await?;
        tokio::time::sleep_until((revoked.seen + BOUND).into()).await;
        let recorders = [stage.site.recorder()?, &network.recorder];
        for (gateway, recorder) in [at_again, at_second].into_iter().zip(recorders) {
            recorder.until(PATIENCE, |seen| seen.saw_unsubscribe("farm/#")).await?;
            let mut publisher = session(gateway, &stage.publisher("late")?).await?;
            publisher.publish_whole(&Publish::new("farm/ph", b"too late").qos(1, 7)).await?;
            let mut again = session(gateway, &stage.reader("late-reader")?).await?;
            assert_eq!(again.subscribe(&[("farm/#", 1)]).await?, [0x80]);
        }
        for mut reader in [returned, moved] {
            // It has nothing left, so its session ends, and no message comes before that.
            assert_eq!(reader.ended(PATIENCE).await?, []);
        }
        Ok(())
    })
}
