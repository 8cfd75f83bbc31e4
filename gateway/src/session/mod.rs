//! One session between a client and the broker.
//!
//! `handshake` turns the client's CONNECT into a principal (by `proof`), and the broker's CONNACK into the client's; from then on `run` moves
//! octets and [`Machine`] decides about each packet. A client may prove itself again meanwhile (`renewal`). The machine is pure: what it knows of time and of the chain it is told.

mod alias;
mod alike;
mod consent;
mod deliveries;
mod downlink;
mod end;
mod handshake;
mod lane;
mod leases;
mod machine;
mod pace;
mod packet_ids;
mod proof;
mod pump;
mod renewal;
mod run;
mod seldom;
mod tally;
#[cfg(test)]
mod tests;
mod uplink;

pub use end::End;
pub use lane::Lane;
pub use machine::{Clock, Machine, Note, Terms, Used};
pub use pace::{Pace, Rates, WalletUse};
pub use renewal::Step;
pub use run::run;
pub use tally::Tally;
