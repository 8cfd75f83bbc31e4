//! rumqttc, the client library of Rust, as its users use it.

use crate::common::{PATIENCE, Stage, run};
use eyre::{Result, WrapErr, bail, ensure};
use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet as Packet5, PubAckReason, SubscribeReasonCode};
use rumqttc::{Event, MqttOptions, Packet, QoS, SubscribeFilter, SubscribeReasonCode as Code};
use tokio::time::timeout;

#[test]
fn rumqttc_of_3_1_1_publishes_and_receives_and_is_refused() -> Result<()> {
    run(async {
        let stage = Stage::open_and_closed().await?;
        let (login, address) = (stage.stranger("rumqttc")?, stage.site.mqtt()?);
        let mut options =
            MqttOptions::new(&login.client_id, address.ip().to_string(), address.port());
        options.set_credentials(&login.user_name, &login.password);
        let (client, mut events) = rumqttc::AsyncClient::new(options, 20);
        let filter = |name: &str, qos| SubscribeFilter::new(name.into(), qos);
        let filters =
            [filter("open/rust/#", QoS::ExactlyOnce), filter("closed/rust", QoS::AtLeastOnce)];
        client.subscribe_many(filters).await?;
        // Refused, and for this version acknowledged all the same.
        client.publish("closed/rust", QoS::AtLeastOnce, false, "no").await?;
        for (qos, name) in
            [(QoS::AtMostOnce, "0"), (QoS::AtLeastOnce, "1"), (QoS::ExactlyOnce, "2")]
        {
            client.publish(format!("open/rust/{name}"), qos, false, name).await?;
        }
        let (mut codes, mut messages, mut acknowledged) = (Vec::new(), Vec::new(), 0);
        while messages.len() < 3 || acknowledged < 3 || codes.len() < 2 {
            match timeout(PATIENCE, events.poll()).await.wrap_err("nothing came")?? {
                Event::Incoming(Packet::SubAck(suback)) => codes.extend(suback.return_codes),
                Event::Incoming(Packet::Publish(publish)) => {
                    messages.push((publish.topic, publish.payload.to_vec(), publish.qos as u8));
                }
                Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => acknowledged += 1,
                Event::Incoming(Packet::Disconnect) => bail!("hung up"),
                _ => {}
            }
        }
        messages.sort();
        let wanted =
            [0_u8, 1, 2].map(|qos| (format!("open/rust/{qos}"), qos.to_string().into_bytes(), qos));
        ensure!(messages == wanted, "{messages:?}");
        ensure!(codes == [Code::Success(QoS::ExactlyOnce), Code::Failure], "{codes:?}");
        Ok(())
    })
}

#[test]
fn rumqttc_of_5_is_told_what_it_may_not() -> Result<()> {
    run(async {
        let stage = Stage::open_and_closed().await?;
        let (login, address) = (stage.stranger("rumqttc5")?, stage.site.mqtt()?);
        let mut options = rumqttc::v5::MqttOptions::new(
            &login.client_id,
            address.ip().to_string(),
            address.port(),
        );
        options.set_credentials(&login.user_name, &login.password);
        let (client, mut events) = rumqttc::v5::AsyncClient::new(options, 20);
        let filters = [
            Filter::new("open/rust/#", QoS5::ExactlyOnce),
            Filter::new("closed/rust", QoS5::AtLeastOnce),
        ];
        client.subscribe_many(filters).await?;
        client.publish("closed/rust", QoS5::AtLeastOnce, false, "no").await?;
        for (qos, name) in
            [(QoS5::AtMostOnce, "0"), (QoS5::AtLeastOnce, "1"), (QoS5::ExactlyOnce, "2")]
        {
            client.publish(format!("open/rust/{name}"), qos, false, name).await?;
        }
        let (mut codes, mut messages, mut reasons, mut completed) =
            (Vec::new(), Vec::new(), Vec::new(), 0);
        while messages.len() < 3 || reasons.len() < 2 || completed < 1 || codes.len() < 2 {
            let event = timeout(PATIENCE, events.poll()).await.wrap_err("nothing came")??;
            let rumqttc::v5::Event::Incoming(packet) = event else { continue };
            match packet {
                Packet5::SubAck(suback) => codes.extend(suback.return_codes),
                Packet5::Publish(publish) => {
                    messages.push((
                        publish.topic.to_vec(),
                        publish.payload.to_vec(),
                        publish.qos as u8,
                    ));
                }
                Packet5::PubAck(ack) => reasons.push(ack.reason),
                Packet5::PubComp(_) => completed += 1,
                Packet5::Disconnect(said) => bail!("{said:?}"),
                _ => {}
            }
        }
        messages.sort();
        let wanted = [0_u8, 1, 2].map(|qos| {
            (format!("open/rust/{qos}").into_bytes(), qos.to_string().into_bytes(), qos)
        });
        ensure!(messages == wanted, "{messages:?}");
        ensure!(reasons == [PubAckReason::NotAuthorized, PubAckReason::Success], "{reasons:?}");
        let granted = SubscribeReasonCode::Success(QoS5::ExactlyOnce);
        ensure!(codes == [granted, SubscribeReasonCode::NotAuthorized], "{codes:?}");
        Ok(())
    })
}
