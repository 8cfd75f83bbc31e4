//! Where attacks happen: a site with an owner's topics, honest wallets with grants, and EVE, who has none.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use eyre::{Result, bail, ensure};
use flytrap_chain::keys::Key;
use flytrap_policy::Right;
use flytrap_site::raw::{self, Connect, PINGREQ, Publish, Raw, Version};
use flytrap_site::{Gateway, Login, Site, SiteOptions, Spy};
use tokio::sync::Mutex;

use super::Side;
use crate::onchain::{CLOSED, FAR, PUBLIC, RETAIN, Scribe};

/// The honest pair's topic.
pub(crate) const CANARY: &str = "canary/heart";
/// What EVE wants to read and write.
pub(crate) const SECRET: &str = "secret/x";
/// Anyone with a proof may.
pub(crate) const OPEN: &str = "open";

pub(crate) struct Arena {
    pub(crate) site: Site,
    /// A gateway that challenges, and takes each token once.
    pub(crate) strict: Mutex<Gateway>,
    pub(crate) spy: Spy,
    /// How long attacks of group D last.
    pub(crate) seconds: u64,
    next: AtomicU32,
}

impl Arena {
    pub(crate) async fn new(is_recorded: bool, seconds: u64) -> Result<Self> {
        let site = Site::start(SiteOptions {
            recorder: is_recorded,
            broker: crate::quiet_broker(),
            progress: |step| eprintln!("  {step}"),
            gateway_config: "[audit]\ninterval = \"1s\"\n[broker]\nprobe_interval = \"1h\"".into(),
            ..SiteOptions::default()
        })
        .await?;
        let scribe = Scribe(&site);
        let of = &site.wallets;
        let (owner, publisher) = (of.topic_owner.address(), of.publisher.address());
        scribe.done(&scribe.register(owner, "secret", RETAIN, CLOSED, CLOSED)).await?;
        scribe.done(&scribe.register(owner, "canary", RETAIN, CLOSED, CLOSED)).await?;
        scribe.done(&scribe.register(owner, OPEN, RETAIN, PUBLIC, PUBLIC)).await?;
        let reader = of.reader.address();
        for (topic, wallet, right) in [
            ("secret", publisher, Right::Publish),
            ("secret", reader, Right::Subscribe),
            ("canary", of.other_reader.address(), Right::Subscribe),
        ] {
            scribe.done(&scribe.grant(owner, topic, wallet, right, FAR)).await?;
        }
        let change = scribe.grant(owner, "canary", of.other_reader.address(), Right::Publish, FAR);
        let height = scribe.done(&change).await?;
        site.gateway()?.until_height(height, Duration::from_secs(20)).await?;
        let strict = site
            .start_gateway(
                "strict",
                &of.other_gateway,
                "[gateway]\nname = \"gateway.test\"\n[authentication]\nsingle_use_tokens = true",
            )
            .await?;
        let spy = site.spy("#").await?;
        Ok(Self { site, strict: Mutex::new(strict), spy, seconds, next: AtomicU32::new(1) })
    }

    pub(crate) fn scribe(&self) -> Scribe<'_> {
        Scribe(&self.site)
    }

    /// A number that no one else has.
    pub(crate) fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A payload that no one else has.
    pub(crate) fn mark(&self) -> Vec<u8> {
        format!("<mark-{}>", self.number()).into_bytes()
    }

    /// A name below `top` that no one else has.
    pub(crate) fn fresh(&self, top: &str) -> String {
        format!("{top}{}", self.number())
    }

    /// An address of this machine that no one has used yet: bans are by origin.
    pub(crate) fn origin(&self) -> IpAddr {
        let [_, high, mid, low] = self.number().to_be_bytes();
        Ipv4Addr::new(127, high.saturating_add(1), mid, low.max(1)).into()
    }

    pub(crate) fn address(&self, side: Side) -> Result<SocketAddr> {
        match side {
            Side::Plain => Ok(self.site.broker.address()),
            Side::FlyTrap => self.site.mqtt(),
        }
    }

    pub(crate) fn pid(&self, side: Side) -> u32 {
        match side {
            Side::Plain => self.site.broker.child.id(),
            Side::FlyTrap => self.site.gateway().map_or(0, |gateway| gateway.child.id()),
        }
    }

    pub(crate) fn canary(&self, side: Side) -> Result<(SocketAddr, [Connect; 2])> {
        let number = self.number();
        let connect = |role: &str| -> Result<Connect> {
            let key = &self.site.wallets.other_reader;
            self.connect(side, key, &format!("canary-{role}-{number}"))
        };
        Ok((self.address(side)?, [connect("pub")?, connect("sub")?]))
    }

    /// A connection from an address of its own, nothing sent yet.
    pub(crate) async fn dial(&self, side: Side, version: Version) -> Result<Raw> {
        Raw::plain_from(version, self.origin(), self.address(side)?).await
    }

    /// The CONNECT of someone who may: by a token, or at the broker as it takes anyone.
    pub(crate) fn connect(&self, side: Side, key: &Key, client_id: &str) -> Result<Connect> {
        match side {
            Side::Plain => Ok(Connect { client_id: client_id.into(), ..Connect::anonymous() }),
            Side::FlyTrap => Ok(Connect::of(Version::V5, &self.token(key, client_id)?)),
        }
    }

    pub(crate) fn token(&self, key: &Key, client_id: &str) -> Result<Login> {
        self.site.token(key, client_id)
    }

    /// A session of this key.
    pub(crate) async fn session(&self, side: Side, version: Version, key: &Key) -> Result<Raw> {
        let id = self.fresh("s");
        let connect = self.connect(side, key, &id)?;
        self.session_of(side, version, &connect).await
    }

    pub(crate) async fn session_of(
        &self,
        side: Side,
        version: Version,
        connect: &Connect,
    ) -> Result<Raw> {
        let mut client = self.dial(side, version).await?;
        let code = client.connect(connect).await?;
        ensure!(code == 0, "{} was refused with {code:#04x}", connect.client_id);
        Ok(client)
    }

    /// EVE, with a proof of her own and no grant.
    pub(crate) async fn eve(&self, side: Side, version: Version) -> Result<Raw> {
        self.session(side, version, &self.site.wallets.stranger).await
    }

    /// A client at the broker itself.
    pub(crate) async fn direct(&self) -> Result<Raw> {
        let mut client = Raw::plain(Version::V5, self.site.broker.address()).await?;
        let id = self.fresh("direct");
        let code = client.connect(&Connect { client_id: id, ..Connect::anonymous() }).await?;
        ensure!(code == 0, "the broker refused with {code:#04x}");
        Ok(client)
    }

    /// Publishes at the broker itself, and waits until it has it.
    pub(crate) async fn put(&self, topic: &str, payload: &[u8], retain: bool) -> Result<()> {
        let mut client = self.direct().await?;
        let publish = Publish::new(topic, payload).qos(1, 1);
        client.publish_whole(&Publish { retain, ..publish }).await
    }

    /// Has the broker passed on this payload? What was sent to it before has been by now.
    pub(crate) async fn heard(&self, mark: &[u8]) -> Result<bool> {
        let fence = self.fresh("fence/");
        self.put(&fence, b"", false).await?;
        self.spy.until(Duration::from_secs(10), |publish| publish.topic == fence).await?;
        Ok(self.spy.heard().iter().any(|publish| publish.payload.ends_with(mark)))
    }

    /// Everything that the client sent has been worked off: it answered PINGREQ or closed. What came before.
    pub(crate) async fn drain(&self, client: &mut Raw) -> Result<Vec<Vec<u8>>> {
        let mut got = Vec::new();
        // A connection that is closed takes no PINGREQ, and what it said last is still there to be read.
        let _ = client.send(PINGREQ).await;
        let deadline = Instant::now() + Duration::from_secs(3);
        while let Ok(Some(octets)) =
            client.next(deadline.saturating_duration_since(Instant::now())).await
        {
            if octets[0] == 0xd0 {
                break;
            }
            got.push(octets);
        }
        Ok(got)
    }

    /// Tries to write to a topic, whatever it is told.
    pub(crate) async fn writes(&self, client: &mut Raw, topic: &str) -> Result<bool> {
        let mark = self.mark();
        for qos in 0..3_u8 {
            let id = u16::from(qos) + 10;
            if client.publish(&Publish::new(topic, &mark).qos(qos, id)).await.is_err() {
                break;
            }
            if qos == 2 {
                let _ = client.send(raw::acknowledge(0x62, id)).await;
            }
        }
        self.drain(client).await?;
        self.heard(&mark).await
    }

    /// Tries to read from a topic by a filter, whatever it is told.
    pub(crate) async fn reads(&self, client: &mut Raw, filter: &str, topic: &str) -> Result<bool> {
        let subscribe = raw::subscribe(client.version, 77, &[(filter, 1)]);
        let _ = client.send(subscribe).await;
        let mut got = self.drain(client).await?;
        let mark = self.mark();
        self.put(topic, &mark, false).await?;
        got.extend(self.drain(client).await?);
        Ok(contains(&got, &mark))
    }

    /// Both.
    pub(crate) async fn breach(&self, client: &mut Raw) -> Result<bool> {
        Ok(self.writes(client, SECRET).await? || self.reads(client, SECRET, SECRET).await?)
    }

    /// Waits until the gateways know of a block.
    pub(crate) async fn known(&self, height: u64) -> Result<()> {
        let patience = Duration::from_secs(20);
        self.site.gateway()?.until_height(height, patience).await?;
        self.strict.lock().await.until_height(height, patience).await.map(drop)
    }

    /// How long after `ended` a new honest client got through a whole exchange; `None` if not within `patience`.
    pub(crate) async fn honest_again(
        &self,
        side: Side,
        ended: Instant,
        patience: Duration,
    ) -> Option<Duration> {
        while ended.elapsed() < patience {
            let exchange = async {
                let key = &self.site.wallets.publisher;
                let mut client = self.session(side, Version::V5, key).await?;
                client.publish_whole(&Publish::new(SECRET, b"honest").qos(1, 1)).await
            };
            let left = patience.saturating_sub(ended.elapsed());
            if let Ok(Ok(())) = tokio::time::timeout(left, exchange).await {
                return Some(ended.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// Are node, broker and gateway still what they were, and is EVE not banned for what she did?
    pub(crate) async fn is_well(&self) -> bool {
        let Ok(gateway) = self.site.gateway() else { return false };
        let Ok((200, _)) = gateway.ask("healthz").await else { return false };
        !gateway.child.log().contains("panicked at")
            && self.direct().await.is_ok()
            && self.eve(Side::FlyTrap, Version::V5).await.is_ok()
    }

    /// How long the gateways' logs are.
    pub(crate) fn logged(&self) -> usize {
        self.site.gateway().map_or(0, |gateway| gateway.child.log().len())
    }

    /// The last reason that the log gives for an end or a refusal, of what was written since it was so long.
    fn last_reason(&self, since: usize) -> String {
        let log = self.site.gateway().map(|gateway| gateway.child.log()).unwrap_or_default();
        let reason = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let why = line.get("end").or_else(|| line.get("why"))?.as_str()?.to_owned();
            let is_usual = why.starts_with("the client") || why == "closed" || why == "lost";
            (!is_usual).then(|| format!("log: {why}"))
        };
        log.get(since..).unwrap_or_default().lines().rev().find_map(reason).unwrap_or_default()
    }

    /// The gateways' counters.
    pub(crate) async fn recorded(&self) -> BTreeMap<String, f64> {
        let mut all = BTreeMap::new();
        let Ok(gateway) = self.site.gateway() else { return all };
        let mut texts = vec![gateway.ask("metrics").await];
        texts.push(self.strict.lock().await.ask("metrics").await);
        for (_, text) in texts.into_iter().flatten() {
            for line in text.lines().filter(|line| line.starts_with("flytrap_")) {
                if let Some((series, value)) = line.rsplit_once(' ') {
                    *all.entry(series.to_owned()).or_default() +=
                        value.parse::<f64>().unwrap_or(0.0);
                }
            }
        }
        all
    }

    /// What of the counters that tell of refusals moved since, the most first; else the last reason in the log.
    pub(crate) async fn told_since(&self, before: &BTreeMap<String, f64>, logged: usize) -> String {
        // Sessions tell their counts when they next do something.
        let mut moved = Vec::new();
        for _ in 0..6 {
            let now = self.recorded().await;
            moved = now
                .iter()
                .filter(|(series, _)| is_refusal(series))
                .map(|(series, value)| {
                    (value - before.get(series).copied().unwrap_or(0.0), short(series))
                })
                .filter(|(by, _)| *by > 0.0)
                .collect();
            if !moved.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if moved.is_empty() {
            return self.last_reason(logged);
        }
        moved.sort_by(|one, two| two.0.total_cmp(&one.0));
        let words: Vec<String> =
            moved.iter().take(2).map(|(by, series)| format!("{series} +{by}")).collect();
        words.join(", ")
    }

    pub(crate) fn eve_address(&self) -> Address {
        self.site.wallets.stranger.address()
    }

    pub(crate) fn owner(&self) -> Address {
        self.site.wallets.topic_owner.address()
    }

    /// Makes a topic on which nobody has a right but its owner.
    pub(crate) async fn topic(&self, name: &str) -> Result<()> {
        let scribe = self.scribe();
        let change = scribe.register(self.owner(), name, RETAIN, CLOSED, CLOSED);
        self.known(scribe.done(&change).await?).await
    }

    /// The owner gives a right.
    pub(crate) async fn give(&self, name: &str, wallet: Address, right: Right) -> Result<()> {
        let scribe = self.scribe();
        let change = scribe.grant(self.owner(), name, wallet, right, FAR);
        self.known(scribe.done(&change).await?).await
    }

    /// The owner takes a right; both gateways know.
    pub(crate) async fn take(&self, name: &str, wallet: Address, right: Right) -> Result<()> {
        let scribe = self.scribe();
        let change = scribe.revoke(self.owner(), name, wallet, right);
        self.known(scribe.done(&change).await?).await
    }

    /// Refuses to go on without a recorder.
    pub(crate) fn octets_at_broker(&self) -> Result<Vec<u8>> {
        match self.site.recorder() {
            Ok(recorder) => Ok(recorder.octets_from_gateway()),
            Err(_) => bail!("this row needs a recorder"),
        }
    }
}

fn is_refusal(series: &str) -> bool {
    let counts = [
        "authentications",
        "authorizations",
        "connections_dropped",
        "publishes",
        "bans_",
        "broker_dials",
        "sessions_ended",
        "limit",
        "rate",
        "excess",
        "faults",
    ];
    let good = [
        "client-left",
        "client-lost",
        "accepted",
        "\"allowed\"",
        "\"forwarded\"",
        "\"ok\"",
        "_created",
    ];
    counts.iter().any(|name| series.contains(name))
        && !good.iter().any(|word| series.contains(word))
}

/// `flytrap_publishes_total{direction="to_broker",outcome="refused"}` as `publishes to_broker refused`.
fn short(series: &str) -> String {
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let name = name.trim_start_matches("flytrap_").trim_end_matches("_total");
    let values = labels.split('"').skip(1).step_by(2).collect::<Vec<_>>().join(" ");
    format!("{name} {values}").trim().to_owned()
}

/// Whether one of the packets has these octets in it.
pub(crate) fn contains(packets: &[Vec<u8>], wanted: &[u8]) -> bool {
    packets.iter().any(|packet| packet.windows(wanted.len()).any(|window| window == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_told_by_its_name_and_its_labels() {
        let series = r#"flytrap_publishes_total{direction="to_broker",outcome="refused"}"#;
        assert_eq!(short(series), "publishes to_broker refused");
        assert!(is_refusal(series));
        assert!(!is_refusal(r#"flytrap_authentications_total{method="token",outcome="accepted"}"#));
    }
}
