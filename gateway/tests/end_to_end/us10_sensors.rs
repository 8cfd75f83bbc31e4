//! ACCEPTANCE US10: 150 sensors in parallel through TLS, two subscribers, nothing lost, at `QoS` 2 nothing twice.
//!
//! Ten of them are mosquitto_pub, the others raw clients; all have device keys of one wallet. One subscriber is mosquitto_sub.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::common::raw::{Connect, Got, Publish, Raw, acknowledge};
use crate::common::stock::{self, Subscriber};
use crate::common::{
    FAR, PATIENCE, PUBLIC, RETAIN, Right, Stage, V5, V311, Version, Way, device_of, run,
};
use eyre::{Result, bail, ensure};
use flytrap_site::{BrokerOptions, Device, SiteOptions};
use tokio::sync::{Mutex, OnceCell};

const SENSORS: u16 = 150;
const STOCK: u16 = 10;
const MESSAGES: u16 = 20;

static STAGE: OnceCell<(Stage, Vec<Device>)> = OnceCell::const_new();

async fn stage() -> Result<&'static (Stage, Vec<Device>)> {
    STAGE
        .get_or_try_init(|| async {
            // Mosquitto itself would drop what waits for a subscriber beyond a thousand.
            let broker = BrokerOptions {
                mosquitto_config: "max_queued_messages 100000\n".into(),
                ..BrokerOptions::default()
            };
            let stage = Stage::with(SiteOptions { broker, ..SiteOptions::default() }).await?;
            let (wallet, reader) =
                (stage.site.wallets.publisher.address(), stage.site.wallets.reader.address());
            let topic = stage.topic("sensors").await?;
            stage.grant(&topic, wallet, Right::Publish).await?;
            stage.grant(&topic, reader, Right::Subscribe).await?;
            stage.topic_with("elsewhere", RETAIN, PUBLIC, PUBLIC).await?;
            let devices: Vec<Device> = (0..SENSORS)
                .map(|n| device_of(n, &format!("sensor-{n}")))
                .collect::<Result<_>>()?;
            for device in &devices {
                stage.authorize_device(wallet, device, FAR).await?;
            }
            stage.caught_up().await?;
            Ok((stage, devices))
        })
        .await
}

fn message(sensor: u16, number: u16) -> String {
    format!("{sensor}-{number}")
}

/// Publishes all messages of one sensor, several in flight, and waits for every acknowledgement.
async fn send_all(mut client: Raw, sensor: u16, qos: u8) -> Result<Raw> {
    let topic = format!("sensors/{sensor}");
    for number in 1..=MESSAGES {
        client
            .publish(&Publish::new(&topic, message(sensor, number).as_bytes()).qos(qos, number))
            .await?;
    }
    let mut open = usize::from(MESSAGES);
    while open > 0 {
        match client.get().await? {
            Got::Ack { kind: 4, code: 0, .. } | Got::Ack { kind: 7, code: 0, .. } => open -= 1,
            Got::Ack { kind: 5, id, code: 0, .. } => client.send(acknowledge(0x62, id)).await?,
            other => bail!("sensor {sensor}: {other:?}"),
        }
    }
    Ok(client)
}

/// Counts what a raw subscriber gets, by payload, until as many as wanted are there and, at `QoS` 2, released.
async fn collect(mut reader: Raw, wanted: usize) -> Result<HashMap<Vec<u8>, u32>> {
    let mut heard: HashMap<Vec<u8>, u32> = HashMap::new();
    let (mut messages, mut open) = (0, 0);
    while messages < wanted || open > 0 {
        match reader.get().await? {
            Got::Publish(delivery) => {
                let answer = if delivery.qos == 2 { 0x50 } else { 0x40 };
                open += usize::from(delivery.qos == 2);
                reader.send(acknowledge(answer, delivery.id)).await?;
                *heard.entry(delivery.payload).or_default() += 1;
                messages += 1;
            }
            Got::Ack { kind: 6, id, .. } => {
                reader.send(acknowledge(0x70, id)).await?;
                open -= 1;
            }
            other => bail!("{other:?}"),
        }
    }
    // Whatever would come twice comes before the answer to a ping that was sent after everything was released.
    let late = reader.ping().await?;
    ensure!(late.is_empty(), "after everything was delivered: {late:?}");
    Ok(heard)
}

/// What `mosquitto_sub` prints, until the marker or its own end.
async fn collect_stock(mut reader: Subscriber) -> Result<HashMap<Vec<u8>, u32>> {
    let mut heard: HashMap<Vec<u8>, u32> = HashMap::new();
    while let Some(line) = reader.next_within(PATIENCE).await? {
        let payload = line.rsplit('|').next().unwrap_or_default();
        if payload == "end" {
            break;
        }
        *heard.entry(payload.as_bytes().to_vec()).or_default() += 1;
    }
    Ok(heard)
}

/// The sensors are the same in both runs, and no client can be connected twice.
static ONE_RUN: Mutex<()> = Mutex::const_new(());

async fn all_sensors(qos: u8, version: Version) -> Result<()> {
    let _run = ONE_RUN.lock().await;
    let (stage, devices) = stage().await?;
    let way = Way::tls(version);
    let wanted = usize::from(SENSORS) * usize::from(MESSAGES);
    let mut reader = stage.session(way, &stage.reader(&format!("collector-{qos}"))?).await?;
    assert_eq!(reader.subscribe(&[("sensors/#", qos)]).await?, [qos]);
    // At QoS 1 in both runs: at QoS 2 this mosquitto_sub gives up on a burst, directly at Mosquitto as well.
    let login = stage.reader(&format!("stock-{qos}"))?;
    let target = stage.target(true)?;
    let stock = Subscriber::start(&target, version, Some(&login), &["sensors/#"], 1, &[])?;
    stage.subscribed(&login.client_id).await?;
    let stock = tokio::spawn(collect_stock(stock));
    let reader = tokio::spawn(collect(reader, wanted));

    let began = Instant::now();
    let (raw, stock_ones) = devices.split_at(usize::from(SENSORS - STOCK));
    let stock_tasks = stock_ones.iter().zip(SENSORS - STOCK..).map(|(device, sensor)| {
        let (target, login) = (stage.target(true), device.login.clone());
        tokio::spawn(async move {
            let lines: String =
                (1..=MESSAGES).map(|number| message(sensor, number) + "\n").collect();
            let said = stock::publish_lines(
                &target?,
                version,
                &login,
                &format!("sensors/{sensor}"),
                qos,
                lines,
            )
            .await?;
            ensure!(
                said.code == 0 && said.err.is_empty(),
                "mosquitto_pub as sensor {sensor}: {said:?}"
            );
            Ok(())
        })
    });
    let stock_tasks: Vec<_> = stock_tasks.collect();
    let sessions: Vec<_> = raw
        .iter()
        .map(|device| {
            let login = device.login.clone();
            tokio::spawn(async move { stage.session_of(way, &Connect::of(version, &login)).await })
        })
        .collect();
    let mut clients = Vec::new();
    for session in sessions {
        clients.push(session.await??);
    }
    eprintln!("QoS {qos}: {} sessions in {:?}", clients.len(), began.elapsed());
    // All at once in a test build on whatever machine this is; a release build on an idle one takes well under a second.
    ensure!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let (_, open) = stage.site.recorder()?.connections();
    ensure!(
        open >= usize::from(SENSORS - STOCK) + 2,
        "only {open} sessions are open at the broker"
    );

    let published = Instant::now();
    let senders: Vec<_> = clients
        .into_iter()
        .zip(0..)
        .map(|(client, sensor)| tokio::spawn(send_all(client, sensor, qos)))
        .collect();
    let mut open = Vec::new();
    for sender in senders {
        open.push(sender.await??);
    }
    for task in stock_tasks {
        task.await??;
    }
    eprintln!("QoS {qos}: {wanted} messages acknowledged in {:?}", published.elapsed());
    let raw = tokio::time::timeout(PATIENCE, reader).await???;
    let end = Publish::new("sensors/end", b"end").qos(1, 1);
    stage.direct(V311, "").await?.publish_whole(&end).await?;
    let stock = tokio::time::timeout(PATIENCE, stock).await???;
    for (who, heard) in [("the raw one", raw), ("mosquitto_sub", stock)] {
        let missing = (0..SENSORS)
            .flat_map(|sensor| (1..=MESSAGES).map(move |number| message(sensor, number)));
        let missing: Vec<_> =
            missing.filter(|message| !heard.contains_key(message.as_bytes())).collect();
        ensure!(
            missing.is_empty(),
            "{who}: {} of {wanted} lost, such as {:?}",
            missing.len(),
            missing.first()
        );
        assert_eq!(heard.len(), wanted, "something came that nobody sent");
        let twice = heard.values().filter(|count| **count > 1).count();
        ensure!(twice == 0, "QoS {qos}: {twice} messages came more than once");
    }
    Ok(())
}

#[test]
fn of_150_sensors_through_tls_nothing_is_lost_at_qos_1() -> Result<()> {
    run(all_sensors(1, V311))
}

#[test]
fn of_150_sensors_through_tls_nothing_is_lost_or_doubled_at_qos_2() -> Result<()> {
    run(all_sensors(2, V5))
}
