//! Scenarios that judge the whole system from outside, with real parts and nothing that a user could not do.
//!
//! [`shadow`] plays random traffic and random changes on chain, and lets a second opinion judge every packet that the broker saw and every
//! message that a client got. [`attack`] does what THREATS lists, against a plain broker and through the gateway, beside an honest pair whose
//! loss and latency are measured. [`revocations`] measures how long a right outlives the block that ends it. [`forensics`] hides a breach
//! among a day's records and finds it with the commands of an auditor. [`suite`] measures what all of it costs, beside what others
//! do without looking. [`scale`] says from that what larger numbers of devices need.
//!
//! Each prints a table, writes its raw results to `target/eval/`, and says no when a bound is broken.

pub mod attack;
pub mod forensics;
mod onchain;
mod process;
pub mod revocations;
pub mod scale;
pub mod shadow;
pub mod suite;
mod table;

/// Mosquitto as an operator would run it: without a line in its log for each packet, which costs it more than the packet.
fn quiet_broker() -> flytrap_site::BrokerOptions {
    flytrap_site::BrokerOptions {
        mosquitto_config: "log_type none\nlog_type information\n".into(),
        ..flytrap_site::BrokerOptions::default()
    }
}

/// Makes aws-lc-rs the provider of TLS in this process. Call first.
pub fn install_provider() {
    // It fails if there is one already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
