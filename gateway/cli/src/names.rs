//! `flytrap topic disclose` and `forget-name`: what the owner of a hidden topic asks of gateways, each by itself.

use std::net::IpAddr;
use std::time::Duration;

use alloy::primitives::{B256, hex};
use alloy::transports::http::reqwest::{self, Client, Response, header::CONTENT_TYPE};
use eyre::{Result, WrapErr, bail, eyre};
use flytrap_policy::credential::name_request_digest;
use flytrap_policy::{NameRequest, NameWish, name_commitment};
use serde_json::{Value, json};
use url::{Host, Url};

use crate::args::Global;
use crate::tell::{self, safe};

/// Seconds for which a request counts: time enough for every gateway.
const LIFE: u64 = 600;
/// How long one gateway may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Octets of the longest answer.
const LONGEST_ANSWER: usize = 64 * 1_024;

/// Reads where a gateway has its API. The name goes there, so nobody in between may read along.
pub(crate) fn api_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{error}: wanted https://HOST[:PORT]"))?;
    let is_here = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here => Ok(url),
        "http" => Err("the name would go over the network for everybody to read: use https, or a tunnel to this machine".to_owned()),
        other => Err(format!("`{other}`: wanted https, or http to this machine")),
    }
}

/// Tells these gateways the name of a hidden topic, or has them forget it where `told` is none.
pub(crate) async fn ask(
    global: &Global,
    topic_id: B256,
    told: Option<(B256, &str)>,
    gateways: &[Url],
) -> Result<()> {
    let key = global.key()?;
    let (site, state) =
        (global.site().await?, global.state(&global.contracts().await?, &[]).await?);
    let topic = state.topic(&topic_id.to_string())?;
    let Some(hidden) = &topic.hidden else {
        bail!("the name of topic {topic_id} is on chain: everybody reads it there");
    };
    if topic.owner != key.address() {
        bail!("topic {topic_id} belongs to {}, the key is that of {}", topic.owner, key.address());
    }
    if let Some((salt, name)) = told
        && name_commitment(salt, name) != hidden.commitment
    {
        bail!(
            "topic {topic_id} was not hidden with this salt and this name: see what `flytrap topic hide` printed"
        );
    }
    let now = state.now();
    let request = NameRequest {
        owner: topic.owner,
        topic_id,
        epoch: topic.epoch,
        issued_at: now,
        expires_at: now + LIFE,
        wish: told.map_or(NameWish::Erase, |(salt, name)| NameWish::Disclose { salt, name }),
    };
    let signature = key.sign(&name_request_digest(&site, &request));
    let mut body = json!({
        "owner": request.owner, "epoch": request.epoch, "issuedAt": request.issued_at, "expiresAt": request.expires_at,
        "signature": hex::encode_prefixed(signature),
    });
    let mut path = format!("v1/topics/{topic_id}/name");
    match told {
        Some((salt, name)) => (body["salt"], body["name"]) = (json!(salt), json!(name)),
        None => path.push_str("/erase"),
    }
    let client = Client::builder()
        .timeout(PATIENCE)
        // Whoever else it leads to was not named.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .wrap_err("no HTTP client")?;
    let (mut answers, mut failed) = (Vec::new(), 0);
    for gateway in gateways {
        let answer = tell_one(&client, gateway, &path, &body).await;
        failed += usize::from(answer.is_err());
        answers.push((gateway, answer));
    }
    report(global, topic_id, told.is_some(), &answers);
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} of {} gateways did not do it: ask them again", gateways.len()),
    }
}

/// Whether it changed anything.
async fn tell_one(client: &Client, gateway: &Url, path: &str, body: &Value) -> Result<bool> {
    let mut base = gateway.clone();
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    let sent = client
        .post(base.join(path)?)
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string())
        .send()
        .await
        .map_err(|error| eyre!(error.without_url()))
        .wrap_err("it cannot be reached")?;
    let status = sent.status();
    let text = read(sent).await.wrap_err("its answer cannot be read")?;
    let answer: Value = serde_json::from_slice(&text).unwrap_or_default();
    match answer["changed"].as_bool() {
        Some(changed) if status.is_success() => Ok(changed),
        _ => {
            let why = ["detail", "title"].into_iter().find_map(|field| answer[field].as_str());
            bail!("{status}: {}", safe(why.unwrap_or("this is not the API of a gateway")))
        }
    }
}

async fn read(mut answer: Response) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| eyre!(error.without_url()))? {
        text.extend_from_slice(&part);
        if text.len() > LONGEST_ANSWER {
            bail!("it is longer than {LONGEST_ANSWER} octets");
        }
    }
    Ok(text)
}

fn report(global: &Global, topic_id: B256, is_told: bool, answers: &[(&Url, Result<bool>)]) {
    if global.json {
        let gateways: Vec<Value> = answers
            .iter()
            .map(|(gateway, answer)| match answer {
                Ok(changed) => json!({ "gateway": gateway, "known": is_told, "changed": changed }),
                Err(why) => json!({ "gateway": gateway, "error": format!("{why:#}") }),
            })
            .collect();
        tell::line(json!({ "topicId": topic_id, "gateways": gateways }).to_string());
        return;
    }
    let rows: Vec<_> = answers
        .iter()
        .map(|(gateway, answer)| {
            let told = match (answer, is_told) {
                (Ok(true), true) => "knows the name now".to_owned(),
                (Ok(false), true) => "had been told already".to_owned(),
                (Ok(true), false) => "has forgotten the name".to_owned(),
                (Ok(false), false) => "had forgotten it already".to_owned(),
                (Err(why), _) => tell::bad(&format!("{why:#}")),
            };
            vec![safe(gateway.as_str()), told]
        })
        .collect();
    tell::table(&rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_over_tls_or_stays_on_this_machine() {
        for good in [
            "https://gateway.example",
            "https://192.0.2.1:9180/api",
            "http://127.0.0.1:9180",
            "http://[::1]:9180",
            "http://localhost:9180/",
        ] {
            assert!(api_url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://gateway.example",
            "http://192.0.2.1",
            "http://localhost.example",
            "ftp://127.0.0.1",
            "gateway.example",
        ] {
            assert!(api_url(bad).is_err(), "{bad}");
        }
    }
}
