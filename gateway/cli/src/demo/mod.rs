//! `flytrap demo`: a whole local site, and a told tour of it with the evidence for every claim.
//!
//! [`tour`] acts as each of the people would, through clients that others wrote ([`client`]), and asks the recorder and a
//! spy at the broker what really got there. [`narrator`] counts what was as told. Afterwards the site stays up with commands
//! to try, until Ctrl-C.

mod client;
mod narrator;
mod tour;

use std::process::ExitCode;

use eyre::{Result, WrapErr};
use flytrap_site::{BrokerKind, BrokerOptions, Deploy, Site, SiteOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::DemoArgs;
use crate::tell;
use client::Stock;
use narrator::Narrator;

/// Exit code after Ctrl-C in the middle of the tour, as shells have it.
const INTERRUPTED: u8 = 130;

/// `flytrap demo`
pub(crate) async fn demo(args: &DemoArgs) -> Result<ExitCode> {
    // From here on signals end this future instead of the program, so that everything is taken down.
    let mut interrupts = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .into_iter()
        .map(signal)
        .collect::<Result<Vec<_>, _>>()
        .wrap_err("signals cannot be watched")?;
    let [interrupt, terminate, hangup] = interrupts.as_mut_slice() else {
        return Ok(ExitCode::FAILURE);
    };
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    tokio::select! {
        result = show(args) => result,
        () = stopped => {
            tell::line("");
            tell::line("Ended; nothing was left behind.");
            Ok(if args.once { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
        }
    }
}

async fn show(args: &DemoArgs) -> Result<ExitCode> {
    tell::line(tell::strong("FlyTrap: a whole site on this machine"));
    let ports = args.port_base.map(|base| (base, base.saturating_add(1)));
    let options = SiteOptions {
        deploy: Deploy::Script,
        broker: BrokerOptions {
            kind: if args.npm { BrokerKind::Aedes } else { BrokerKind::Any },
            ..BrokerOptions::default()
        },
        ports,
        progress: |what| tell::line(tell::faint(&format!("   {what} …"))),
        ..SiteOptions::default()
    };
    let site = Site::start(options).await?;
    let stock = Stock::find(site.broker.speaks_mqtt5(), args.npm)?;
    let mut narrator = Narrator::default();
    let told = tour::tour(&site, &stock, &mut narrator).await;
    if let Err(error) = &told {
        narrator.failed("the tour could not go on", error);
    }
    let (claims, missing) = narrator.verdict();
    tell::line("");
    if missing.is_empty() {
        tell::line(tell::good(&format!("All {claims} claims held.")));
    } else {
        tell::line(tell::bad(&format!("{} of {claims} claims did not hold:", missing.len())));
        missing.iter().for_each(|claim| tell::line(format!("   {claim}")));
        if let Ok(gateway) = site.gateway() {
            eprintln!("{}", gateway.child.tail());
        }
    }
    if args.once {
        return Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    tour::stay(&site, &stock).await?;
    site.recorder()?.stop();
    // Only a signal ends it now.
    std::future::pending().await
}
