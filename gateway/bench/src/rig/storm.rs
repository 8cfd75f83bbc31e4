//! Many connections: coming and going as fast as they are let in, or staying.

use std::time::Instant;

use eyre::{Result, WrapErr as _};
use flytrap_mqtt::QoS;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::wire::Connection;
use super::{Answer, Client, Way};
use crate::packets;

/// Connections that are opened at a time where only their number matters.
const AT_ONCE: usize = 64;

/// Each client connects, publishes one message of QoS 1 if it is to, and leaves. The times are those from the dial to the last answer.
pub(super) async fn run(
    to: &Way,
    clients: Vec<Client>,
    at_once: usize,
    publish: bool,
) -> Result<Answer> {
    let began = Instant::now();
    let nanoseconds: Vec<u64> = stream::iter(clients)
        .map(|client| async move {
            let dialled = Instant::now();
            let come = Connection::login(to, &client).await;
            let mut connection = come.wrap_err_with(|| client.client_id.clone())?;
            if publish {
                connection
                    .publish(&packets::publishes(&client.topic, QoS::AtLeastOnce, 64, 1))
                    .await?;
            }
            let took = dialled.elapsed();
            connection.leave().await?;
            Ok::<_, eyre::Report>(u64::try_from(took.as_nanos())?)
        })
        .buffer_unordered(at_once)
        .try_collect()
        .await?;
    Ok(Answer::Times { nanoseconds, seconds: began.elapsed().as_secs_f64() })
}

/// Connections that stay.
pub(super) async fn hold(to: &Way, clients: Vec<Client>) -> Result<Vec<Connection>> {
    let connect = |client: Client| async move {
        Connection::login(to, &client).await.wrap_err(client.client_id)
    };
    stream::iter(clients).map(connect).buffer_unordered(AT_ONCE).try_collect().await
}
