//! `flytrap-gateway bans`: the side of the person who asks.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use eyre::{Result, bail};
use flytrap_gateway::bans::Subject;
use flytrap_gateway::config::Span;
use flytrap_gateway::control::{Answer, Listed, Request, ask};

/// What is to be done about bans.
#[derive(Debug, Subcommand)]
pub(crate) enum BansCommand {
    /// List the bans in force, here and on chain.
    List {
        /// JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Ban a wallet, a device key, an address or a network. Ends its open sessions at once.
    Add {
        /// A wallet (0x and 40 digits), an address, or a network such as 192.0.2.0/24.
        subject: Subject,
        /// How long, such as 30m, 12h or 7d; at most 29d.
        #[arg(long = "for", value_name = "TIME", default_value = "1h")]
        time: Span,
        /// Why. Public for ever if it goes on chain: name nobody.
        #[arg(long, default_value = "banned by an operator")]
        reason: String,
        /// JSON.
        #[arg(long)]
        json: bool,
    },
    /// End a ban.
    Lift {
        /// As it was added or is listed.
        subject: Subject,
        /// JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Asks the gateway on `state_dir`, and tells what it says.
pub(crate) async fn act(state_dir: &Path, command: BansCommand) -> Result<()> {
    let (request, json) = match command {
        BansCommand::List { json } => return list(state_dir, json).await,
        BansCommand::Add { subject, time, reason, json } => {
            let seconds = time.0.as_secs();
            (Request::Add { subject, seconds, reason }, json)
        }
        BansCommand::Lift { subject, json } => (Request::Lift { subject }, json),
    };
    let answer = ask(state_dir, &request).await?;
    if json {
        println!("{}", serde_json::to_string(&answer)?);
        return Ok(());
    }
    match answer {
        Answer::Added { until, ended, chain } => {
            let left = until.saturating_sub(unix_now());
            println!(
                "Banned for {}; open sessions ended: {ended}.\n{}",
                told(left),
                capital(&chain)
            );
        }
        Answer::Lifted { here, chain } => {
            let word = if here { "Lifted here." } else { "This gateway had no ban of its own." };
            println!("{word}\n{}", capital(&chain));
        }
        other => bail!("the gateway answered something else: {other:?}"),
    }
    Ok(())
}

async fn list(state_dir: &Path, json: bool) -> Result<()> {
    let (mut after, mut rows) = (None, Vec::new());
    loop {
        let request = Request::List { after };
        let Answer::Bans { bans, more } = ask(state_dir, &request).await? else {
            bail!("the gateway answered something else than bans");
        };
        after = bans.last().map(|listed| listed.subject);
        for listed in &bans {
            if json {
                println!("{}", serde_json::to_string(listed)?);
            } else {
                rows.push(row(listed));
            }
        }
        if !more || after.is_none() {
            break;
        }
    }
    if json {
        return Ok(());
    }
    if rows.is_empty() {
        println!("Nobody is banned.");
        return Ok(());
    }
    let head = ["BANNED", "ENDS IN", "BY", "ON CHAIN", "REASON", "EVIDENCE"].map(str::to_owned);
    rows.insert(0, head);
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(widths.iter().chain([&0]));
        let line: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", line.join("  ").trim_end());
    }
    Ok(())
}

fn row(listed: &Listed) -> [String; 6] {
    let left = told(listed.until.saturating_sub(unix_now()));
    let on_chain = if listed.on_chain { "yes" } else { "no" };
    let (by, reason, evidence) = match &listed.known {
        Some(known) => {
            let by = format!("{:?}", known.by).to_lowercase();
            (by, printable(&known.reason), printable(&known.evidence))
        }
        None => ("chain".to_owned(), String::new(), String::new()),
    };
    [listed.subject.to_string(), left, by, on_chain.to_owned(), reason, evidence]
}

/// Nothing that moves the cursor, whoever wrote it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

fn told(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds.div_ceil(60)),
        7_200..172_800 => format!("{}h", seconds.div_ceil(3_600)),
        _ => format!("{}d", seconds.div_ceil(86_400)),
    }
}

fn capital(sentence: &str) -> String {
    let mut characters = sentence.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), characters.as_str())
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
