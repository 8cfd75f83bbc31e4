//! Round trips of one client, each at its scheduled time. One that has to wait for the one before counts the waiting, so that a proxy
//! that stops for a moment cannot hide behind the questions that nobody asked meanwhile.

use std::time::Instant;

use eyre::{Result, ensure};
use flytrap_mqtt::QoS;

use super::metronome::Metronome;
use super::wire::{Connection, put};
use super::{Answer, Client, Trip, Way};
use crate::packets;

/// Octets of each payload.
const PAYLOAD: usize = 64;

pub(super) async fn run(
    to: &Way,
    client: &Client,
    trip: Trip,
    count: u32,
    per_second: f64,
) -> Result<Answer> {
    let publish = packets::publishes(&client.topic, QoS::AtLeastOnce, PAYLOAD, 1);
    // Nothing is ever published there, so that only answers come.
    let quiet = format!("{}/quiet", client.topic);
    let mut kept = match trip {
        Trip::Connect | Trip::Session => None,
        _ => Some(Connection::login(to, client).await?),
    };
    if let Some(connection) = &mut kept {
        once(connection, trip, &quiet, &publish).await?;
    }
    let mut metronome = Metronome::start(count.into(), per_second);
    let mut nanoseconds = Vec::new();
    let began = Instant::now();
    while let Some(due) = metronome.next().await {
        match &mut kept {
            Some(connection) => once(connection, trip, &quiet, &publish).await?,
            None => {
                let mut connection = Connection::login(to, client).await?;
                if trip == Trip::Session {
                    connection.subscribe(&quiet, 1).await?;
                    for _ in 0..10 {
                        connection.publish(&publish).await?;
                    }
                    connection.leave().await?;
                }
            }
        }
        nanoseconds.push(u64::try_from(due.elapsed().as_nanos())?);
    }
    ensure!(nanoseconds.len() == usize::try_from(count)?, "not every round trip came back");
    Ok(Answer::Times { nanoseconds, seconds: began.elapsed().as_secs_f64() })
}

async fn once(connection: &mut Connection, trip: Trip, quiet: &str, publish: &[u8]) -> Result<()> {
    match trip {
        Trip::Subscribe => connection.subscribe(quiet, 1).await,
        Trip::Publish => connection.publish(publish).await,
        _ => {
            put(&mut connection.writer, &[0xC0, 0]).await?;
            let answer = connection.inbox.packet().await?;
            ensure!(answer == [0xD0, 0], "no PINGRESP: {answer:02x?}");
            Ok(())
        }
    }
}
