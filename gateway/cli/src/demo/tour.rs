//! The tour: every chapter acts, then asks those who must know, and nobody is taken at his word.

use std::time::{Duration, Instant};

use alloy::primitives::B256;
use eyre::{Result, WrapErr, bail, eyre};
use flytrap_chain::wallet::Reason;
use flytrap_chain::{Done, Wallet};
use flytrap_policy::{AlertKind, Event, Offer, OfferMode, Right, Traits};
use flytrap_site::{Device, Login, Recorder, Site, Spy, unix_now};
use rand::TryRngCore;

use super::client::{self, Run, Stock, Way};
use super::narrator::Narrator;
use crate::args::{Basis, Why};
use crate::audit::{self, Names, Question, Told};
use crate::units::{ether, offer_text, utc};
use crate::{context, explain, tell};

const TOPIC: &str = "farm/north";
const NAME: &str = "farm/north/soil";
/// How long anything may take that is sure to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// From the block that revokes to the last delivery, at most.
const REVOKED_WITHIN: Duration = Duration::from_millis(250);
/// Where the attacker of the tour sits: another loopback address, so that nobody else is banned with him.
const ATTACKER: &str = "127.0.0.66";

/// Everybody on the tour.
struct Cast<'a> {
    site: &'a Site,
    stock: &'a Stock,
    spy: Spy,
    recorder: &'a Recorder,
    plain: Way<'a>,
    tls: Way<'a>,
    owner: Wallet,
    owner_login: Login,
    topic: B256,
}

/// Tells the whole tour. An error means that it could not go on; claims that did not hold are in the narrator.
pub(super) async fn tour(site: &Site, stock: &Stock, narrator: &mut Narrator) -> Result<()> {
    introduce(site)?;
    let mut cast = Cast::gather(site, stock).await?;
    tell::line(format!("   clients    {}", cast.stock.describe()));
    cast.register(narrator).await?;
    cast.refuse_the_stranger(narrator).await?;
    let mut reader = cast.sell(narrator).await?;
    let device = cast.publish_by_device(narrator, &mut reader).await?;
    cast.revoke(narrator, &mut reader, &device).await?;
    cast.ban(narrator).await?;
    cast.audit(narrator).await
}

fn introduce(site: &Site) -> Result<()> {
    let gateway = site.gateway()?;
    tell::line(format!(
        "   chain      anvil at {}, chain {}, contracts deployed by forge",
        site.chain.http(),
        site.deployment.chain_id
    ));
    tell::line(format!(
        "   broker     {}, which only the gateway should reach",
        site.broker.describe()
    ));
    if !site.broker.speaks_mqtt5() {
        tell::line(
            "              (not Mosquitto: this one comes with the npm packages and speaks MQTT 3.1.1)",
        );
    }
    tell::line(format!(
        "   gateway    mqtt {}, mqtts {}",
        gateway.listener("mqtt")?,
        gateway.listener("mqtts")?
    ));
    tell::line(
        "   witnesses  a recorder between gateway and broker, and a spy subscribed to # directly at the broker",
    );
    Ok(())
}

impl<'a> Cast<'a> {
    async fn gather(site: &'a Site, stock: &'a Stock) -> Result<Self> {
        let owner_key = &site.wallets.topic_owner;
        Ok(Self {
            site,
            stock,
            spy: site.spy("#").await?,
            recorder: site.recorder()?,
            plain: Way { to: site.mqtt()?, ca: None, from: None },
            tls: Way { to: site.mqtts()?, ca: Some(site.ca_file()), from: None },
            owner: site.wallet(owner_key).await?,
            owner_login: site.token(owner_key, "owner")?,
            topic: flytrap_policy::topic_id(site.broker_id, TOPIC),
        })
    }

    /// Waits until the gateway knows what a transaction changed. Returns how long after the block that was.
    async fn known(&self, done: &Done) -> Result<Duration> {
        self.site.gateway()?.until_height(done.height, PATIENCE).await
    }

    /// Publishes, and waits until the spy at the broker has heard it.
    async fn publish(&self, way: Way<'_>, login: &Login, payload: &str) -> Result<Run> {
        let run = self.stock.publish(self.site, way, login, NAME, payload).await?;
        let heard = self.spy.until(PATIENCE, |publish| publish.payload == payload.as_bytes()).await;
        heard.wrap_err_with(|| {
            format!("`{payload}` never got to the broker; the client saw {:?}", run.events())
        })?;
        Ok(run)
    }

    /// Subscribes, and makes sure that it was let in.
    async fn subscribe(&self, login: &Login, filter: &str) -> Result<Run> {
        let run = self.stock.subscribe(self.site, self.plain, login, filter).await?;
        if run.suback().is_none_or(|code| code >= 0x80) {
            bail!(
                "the subscription to `{filter}` was not let in; the client saw {:?}",
                run.events()
            );
        }
        Ok(run)
    }

    fn broker_got(&self, payload: &str) -> bool {
        let payload = payload.as_bytes();
        let heard = self.spy.heard().iter().any(|publish| publish.payload == payload);
        heard || self.recorder.saw_octets(payload)
    }

    async fn register(&mut self, narrator: &mut Narrator) -> Result<()> {
        narrator.chapter("The owner registers a topic and sets its price");
        let price =
            Offer { mode: OfferMode::Priced, period: 86_400, price_wei: 10_000_000_000_000_000 };
        narrator.command(&format!(
            "flytrap topic register {TOPIC} --publish closed --subscribe 0.01ether/1d"
        ));
        let (id, sent) = self
            .owner
            .register_topic(self.site.broker_id, TOPIC, Traits::default(), Offer::default(), price)
            .await?;
        narrator.evidence(
            id == self.topic,
            &format!("registered: publish closed, subscribe {}; {}", offer_text(&price), at(&sent)),
        );
        self.known(&sent).await?;
        let run = self.publish(self.plain, &self.owner_login, "the owner may").await?;
        narrator.evidence(
            run.puback() == Some(0) && self.recorder.saw_publish(NAME),
            &format!("the owner publishes to {NAME}: PUBACK 0x00, and recorder and spy saw it arrive at the broker"),
        );
        Ok(())
    }

    async fn refuse_the_stranger(&self, narrator: &mut Narrator) -> Result<()> {
        narrator.chapter("A stranger proves who he is, and is refused all the same");
        let key = &self.site.wallets.stranger;
        let login = self.site.token(key, "stranger")?;
        let refused = if self.stock.hears_reasons() { 0x87 } else { 0x80 };
        for filter in ["farm/north/#", "#"] {
            narrator.command(&format!(
                "mosquitto_sub -i stranger -u {} -P … -t '{filter}'",
                key.address()
            ));
            let run = self.stock.subscribe(self.site, self.plain, &login, filter).await?;
            let codes = (run.connack(), run.suback());
            narrator.evidence(
                codes == (Some(0), Some(refused)),
                &format!("CONNACK {}, SUBACK {}", hex(codes.0), hex(codes.1)),
            );
        }
        narrator.command(&format!(
            "mosquitto_pub -i stranger -u {} -P … -t {NAME} -m 'false reading'",
            key.address()
        ));
        let run = self.stock.publish(self.site, self.plain, &login, NAME, "false reading").await?;
        if self.stock.hears_reasons() {
            narrator.evidence(
                run.puback() == Some(0x87),
                &format!("PUBACK {} not authorized", hex(run.puback())),
            );
        } else {
            narrator.say(
                "MQTT 3.1.1 has no answer for a refused PUBLISH: it is acknowledged and dropped",
            );
        }
        // Whatever had been let through would be at the broker before this.
        self.publish(self.plain, &self.owner_login, "after the stranger").await?;
        let subscribed = self.recorder.subscribed();
        let strange =
            subscribed.iter().any(|(filter, _)| filter == "#" || filter == "farm/north/#");
        narrator.evidence(
            !strange,
            &format!(
                "the broker was sent none of his SUBSCRIBEs (it was sent {} in all)",
                subscribed.len()
            ),
        );
        narrator.evidence(
            !self.broker_got("false reading"),
            "the broker was sent none of his message, while one of the owner's after it arrived",
        );
        let wallet = self.site.wallet(key).await?;
        let state = context::state(&wallet, self.site.broker_id, &[key.address()], None).await?;
        let answer =
            explain::explain(&state, key.address(), None, Right::Subscribe, "farm/north/#", false);
        narrator.command(&format!("flytrap can {} subscribe 'farm/north/#'", key.address()));
        narrator.evidence(
            !answer.allowed && answer.rule == "no-grant",
            &format!("no: {}; {}", answer.because, answer.advice.unwrap_or_default()),
        );
        Ok(())
    }

    async fn sell(&self, narrator: &mut Narrator) -> Result<Run> {
        narrator.chapter("A reader buys, and receives at once");
        let key = &self.site.wallets.reader;
        let wallet = self.site.wallet(key).await?;
        let quote = wallet.quote(self.topic, Right::Subscribe, 1).await?;
        let before = wallet.balance(self.owner.address()).await?;
        narrator.command(&format!(
            "flytrap access buy subscribe {TOPIC} --max-price 0.01ether --basis contract"
        ));
        let reason = reason(Basis::Contract, "", "");
        let limit = Some(quote.cost_wei());
        let (until, sent) =
            wallet.buy(self.topic, Right::Subscribe, key.address(), 1, limit, &reason).await?;
        self.known(&sent).await?;
        let granted = wallet.granted_until(self.topic, key.address(), Right::Subscribe).await?;
        narrator.evidence(
            granted == until && until > unix_now(),
            &format!("bought until {} for {}; {}", utc(until), ether(quote.cost_wei()), at(&sent)),
        );
        let earned = wallet.balance(self.owner.address()).await?.saturating_sub(before);
        narrator.evidence(
            earned == quote.price_wei && !earned.is_zero(),
            &format!("the owner's wallet has {} more, paid by the same transaction", ether(earned)),
        );
        let login = self.site.token(key, "reader")?;
        let mut run = self.subscribe(&login, "farm/north/#").await?;
        narrator.evidence(
            self.recorder.saw_subscribe("farm/north/#"),
            &format!("SUBACK {}, and now the broker got the SUBSCRIBE", hex(run.suback())),
        );
        self.publish(self.plain, &self.owner_login, "moisture 21 %").await?;
        let received =
            run.until("the message", PATIENCE, |event| event.is_message("moisture 21 %")).await;
        narrator.evidence(
            received.is_ok(),
            &format!("the reader received \"moisture 21 %\" on {NAME}"),
        );
        Ok(run)
    }

    async fn publish_by_device(&self, narrator: &mut Narrator, reader: &mut Run) -> Result<Device> {
        narrator.chapter("A sensor publishes with a device key, by TLS, with a stock client");
        let key = &self.site.wallets.publisher;
        let publisher = self.site.wallet(key).await?;
        let until = unix_now() + 86_400;
        narrator.command(&format!("flytrap access grant {} publish {TOPIC} --life 1d --basis contract --purpose measurement", key.address()));
        let granted = self
            .owner
            .grant(
                self.topic,
                key.address(),
                Right::Publish,
                until,
                &reason(Basis::Contract, "measurement", "soil sensors"),
            )
            .await?;
        narrator.evidence(
            self.owner.granted_until(self.topic, key.address(), Right::Publish).await? == until,
            &format!(
                "the owner lets the publisher's wallet publish until {}; {}",
                utc(until),
                at(&granted)
            ),
        );
        let mut seed = [0; 20];
        rand::rngs::OsRng.try_fill_bytes(&mut seed).wrap_err("the system gives no randomness")?;
        let device = Device::from_seed(&seed, "sensor-7")?;
        narrator.command("flytrap device add --life 1d");
        let authorized = publisher.authorize_device_key(&device.key, until).await?;
        self.known(&authorized).await?;
        narrator.evidence(
            publisher.wallet_of(device.address()).await? == key.address(),
            &format!("device key {} acts for the publisher; {}", device.address(), at(&authorized)),
        );
        narrator.command(&format!(
            "mosquitto_pub --cafile ca.pem -p {} -i sensor-7 -u {} -P <27 characters> -t {NAME} -m 'moisture 22 %'",
            self.tls.to.port(),
            device.address()
        ));
        let run = self.publish(self.tls, &device.login, "moisture 22 %").await?;
        narrator.evidence(
            run.puback() == Some(0),
            &format!("CONNACK {}, PUBACK {}", hex(run.connack()), hex(run.puback())),
        );
        let received =
            reader.until("the message", PATIENCE, |event| event.is_message("moisture 22 %")).await;
        narrator.evidence(received.is_ok(), "the reader received \"moisture 22 %\"");
        let prefix = format!("{:x}-sensor-7", key.address());
        let connect =
            self.recorder.connects().into_iter().find(|connect| connect.client_id == prefix);
        narrator.evidence(
            connect.is_some(),
            &format!("the broker knows the session as {prefix}, so no wallet can take another's"),
        );
        narrator.evidence(
            !self.recorder.saw_octets(device.login.password.as_bytes()),
            "the device's password never went to the broker",
        );
        Ok(device)
    }

    async fn revoke(
        &self,
        narrator: &mut Narrator,
        reader: &mut Run,
        device: &Device,
    ) -> Result<()> {
        narrator.chapter("The owner revokes, and the very next message is withheld");
        // Somebody who may read, on the same path: what he gets, the reader would have got.
        let mut control = self
            .subscribe(&self.site.token(&self.site.wallets.topic_owner, "control")?, NAME)
            .await?;
        let whose = self.site.wallets.reader.address();
        narrator.command(&format!(
            "flytrap access revoke {whose} subscribe {TOPIC} --note 'harvest over'"
        ));
        let sent = self
            .owner
            .revoke(self.topic, whose, Right::Subscribe, &reason(Basis::None, "", "harvest over"))
            .await?;
        let known = self.known(&sent).await?;
        let before = reader.messages().len();
        self.publish(self.tls, &device.login, "moisture 23 %").await?;
        control.until("the message", PATIENCE, |event| event.is_message("moisture 23 %")).await?;
        // The control subscriber has it; another moment for what must not come.
        tokio::time::sleep(REVOKED_WITHIN).await;
        let refund = self.events(&sent).into_iter().find_map(|event| match event {
            Event::AccessRevoked { refund_wei, .. } => Some(refund_wei),
            _ => None,
        });
        narrator.evidence(
            refund.is_some_and(|refund| !refund.is_zero()),
            &format!(
                "revoked, {} went back for the unused time; {}",
                ether(refund.unwrap_or_default()),
                at(&sent)
            ),
        );
        narrator.evidence(
            known <= REVOKED_WITHIN,
            &format!(
                "the gateway knew {} ms after the transaction was in its block",
                known.as_millis()
            ),
        );
        narrator.evidence(
            self.broker_got("moisture 23 %"),
            "then the sensor published \"moisture 23 %\": the broker and another subscriber got it",
        );
        narrator.evidence(
            reader.messages().len() == before
                && !reader.messages().iter().any(|message| message == "moisture 23 %"),
            &format!(
                "the reader did not get it: {} messages, {before} before",
                reader.messages().len()
            ),
        );
        let unsubscribed = self
            .recorder
            .until(PATIENCE, |tape| tape.saw_unsubscribe("farm/north/#"))
            .await
            .is_ok();
        narrator.evidence(unsubscribed, "the gateway unsubscribed it at the broker");
        if self.stock.hears_reasons() {
            let told = reader
                .until("DISCONNECT", PATIENCE, |event| *event == client::Event::Disconnect(0x87))
                .await;
            narrator.evidence(told.is_ok(), "its client was told: DISCONNECT 0x87, not authorized");
        }
        Ok(())
    }

    async fn ban(&self, narrator: &mut Narrator) -> Result<()> {
        narrator.chapter("Six bad proofs ban an origin, for every gateway of the broker");
        let from = cfg!(target_os = "linux").then_some(ATTACKER);
        let way = Way { from, ..self.plain };
        // A real token, for another client id: the signature is good and says something else.
        let stolen = self.site.token(&self.site.wallets.publisher, "somebody-else")?;
        let mut codes = Vec::new();
        for attempt in 1..=6 {
            let login = Login { client_id: format!("guess-{attempt}"), ..stolen.clone() };
            codes.push(self.stock.publish(self.site, way, &login, NAME, "guess").await?.connack());
        }
        let refused = if self.stock.hears_reasons() { 0x86 } else { 4 };
        narrator.evidence(
            codes[..5].iter().all(|code| *code == Some(refused))
                && codes[5].is_none_or(|code| code != 0),
            &format!(
                "six CONNECTs with a proof for another client id, answered {}",
                codes.iter().map(|code| hex(*code)).collect::<Vec<_>>().join(", ")
            ),
        );
        let honest = self.site.token(&self.site.wallets.publisher, "honest")?;
        let seventh =
            self.stock.publish(self.site, way, &honest, NAME, "from behind the ban").await?;
        narrator.evidence(
            seventh.puback().is_none() && !self.broker_got("from behind the ban"),
            &format!(
                "the seventh, with a good proof and at once, was not even read (CONNACK {})",
                hex(seventh.connack())
            ),
        );
        if from.is_some() {
            let elsewhere =
                self.publish(self.plain, &self.owner_login, "from another address").await;
            narrator.evidence(elsewhere.is_ok(), "a client at another address is served as before");
        }
        let banned = |told: &Told| match &told.entry.event {
            Event::OriginBanned { origin, by, until, .. } => Some((*origin, *by, *until)),
            _ => None,
        };
        let gateway = self.site.wallets.gateway.address();
        match self.until_recorded(|told| banned(told).filter(|(_, by, _)| *by == gateway)).await {
            Ok((told, (origin, _, until))) => {
                narrator.evidence(
                    true,
                    &format!(
                        "on chain: origin {origin} is banned until {}; {}",
                        utc(until),
                        tx(&told)
                    ),
                );
                let address = from.unwrap_or("127.0.0.1");
                let bare = !origin.to_string().contains(&alloy::hex::encode(address))
                    && !format!("{:?}", told.entry.event).contains(address);
                narrator.evidence(bare, "the chain has a keyed pseudonym, not the address");
            }
            Err(error) => narrator.failed("the ban is on chain", &error),
        }
        Ok(())
    }

    async fn audit(&self, narrator: &mut Narrator) -> Result<()> {
        narrator.chapter("The auditor, who has no key, reads the story from the chain");
        narrator.command("flytrap audit broker");
        let stranger = self.site.wallets.stranger.address();
        let reported = async |wanted: AlertKind| {
            self.until_recorded(|told| match &told.entry.event {
                Event::AlertRaised { kind, wallet, .. } => {
                    (*kind == wanted && *wallet == stranger).then_some(())
                }
                _ => None,
            })
            .await
        };
        let (subscribe, publish) = tokio::join!(
            reported(AlertKind::SubscribeRefused),
            reported(AlertKind::PublishRefused)
        );
        let story = self.story().await?;
        for told in &story {
            for line in audit::line(told).lines() {
                tell::line(format!("   {line}"));
            }
        }
        let has = |fits: fn(&Event) -> bool| story.iter().any(|told| fits(&told.entry.event));
        let registered = has(|event| matches!(event, Event::TopicRegistered { .. }));
        narrator.evidence(registered, "the story has the registration");
        let bought = has(|event| matches!(event, Event::AccessBought { .. }));
        narrator.evidence(bought, "the story has the purchase");
        let granted = has(|event| matches!(event, Event::AccessGranted { .. }));
        narrator.evidence(granted, "the story has the grant");
        let revoked = has(|event| matches!(event, Event::AccessRevoked { .. }));
        narrator.evidence(revoked, "the story has the revocation");
        let banned = has(|event| matches!(event, Event::OriginBanned { .. }));
        narrator.evidence(banned, "the story has the ban");
        for (what, report) in [("SUBSCRIBE", subscribe), ("PUBLISH", publish)] {
            match report {
                Ok((told, ())) => narrator
                    .evidence(true, &format!("the story has the stranger's {what}; {}", tx(&told))),
                Err(error) => {
                    narrator.failed(&format!("the story has the stranger's {what}"), &error)
                }
            }
        }
        Ok(())
    }

    fn events(&self, done: &Done) -> Vec<Event> {
        done.events(&self.site.deployment)
    }

    async fn story(&self) -> Result<Vec<Told>> {
        let mut names = Names::default();
        for (role, key) in self.site.wallets.roles() {
            names.wallets.insert(key.address(), role.replace('-', " "));
        }
        let question = Question { broker_id: self.site.broker_id, ..Question::default() };
        audit::story(&self.owner, &question, &mut names).await
    }

    /// Waits until the chain has recorded something.
    async fn until_recorded<T>(&self, fits: impl Fn(&Told) -> Option<T>) -> Result<(Told, T)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for told in self.story().await? {
                if let Some(found) = fits(&told) {
                    return Ok((told, found));
                }
            }
            if Instant::now() > deadline {
                return Err(eyre!("the chain did not record it within {PATIENCE:?}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Prints commands to try, with logins that work.
pub(super) async fn stay(site: &Site, stock: &Stock) -> Result<()> {
    let topic = flytrap_policy::topic_id(site.broker_id, TOPIC);
    let reader = site.wallet(&site.wallets.other_reader).await?;
    reader.buy(topic, Right::Subscribe, reader.address(), 1, None, &Reason::default()).await?;
    let plain = Way { to: site.mqtt()?, ca: None, from: None };
    let tls = Way { ca: Some(site.ca_file()), to: site.mqtts()?, from: None };
    let day = |key, id: &str| flytrap_site::token(key, &site.place(), id, 86_400);
    tell::line("");
    tell::line(tell::strong("The site stays up until Ctrl-C. Try, each in a terminal of its own:"));
    let show = |what: &str, command: &str| {
        tell::line("");
        tell::line(tell::faint(&format!("# {what}")));
        tell::line(command);
    };
    let login = day(&site.wallets.other_reader, "reader-2")?;
    show(
        "receive, as a reader who has bought a day",
        &stock.shown("mosquitto_sub", plain, &login, "farm/north/#", " -v"),
    );
    let login = day(&site.wallets.topic_owner, "owner-2")?;
    show(
        "publish, as the owner, by TLS",
        &stock.shown("mosquitto_pub", tls, &login, NAME, " -m 'moisture 24 %'"),
    );
    let login = day(&site.wallets.stranger, "stranger-2")?;
    show(
        "be refused, as a stranger",
        &stock.shown("mosquitto_sub", plain, &login, "farm/north/#", " -d"),
    );
    let flytrap = format!(
        "{} --rpc {} --deployment {} --broker {}",
        std::env::current_exe()
            .map_or_else(|_| "flytrap".to_owned(), |exe| exe.display().to_string()),
        site.chain.http(),
        site.deployment_file.display(),
        site.broker_id
    );
    let owner = site.key_file("topic-owner");
    let reader = reader.address();
    show(
        "revoke the reader, and watch him receive no more",
        &format!(
            "{flytrap} --key-file {} access revoke {reader} subscribe {TOPIC}",
            owner.display()
        ),
    );
    show("ask why", &format!("{flytrap} can {reader} subscribe 'farm/north/#'"));
    show("read the story", &format!("{flytrap} audit topic {TOPIC}"));
    Ok(())
}

fn reason(basis: Basis, code: &str, note: &str) -> Reason {
    let why = Why { basis, purpose: code.into(), note: note.into() };
    Reason { purpose: why.purpose(), note: why.note }
}

fn at(done: &Done) -> String {
    format!("transaction {} in block {}", done.tx, done.height)
}

fn tx(told: &Told) -> String {
    format!("transaction {} in block {}", told.entry.tx, told.entry.height)
}

fn hex(code: Option<u8>) -> String {
    code.map_or_else(|| "none".to_owned(), |code| format!("0x{code:02X}"))
}
