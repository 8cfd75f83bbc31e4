//! The gateway: an MQTT broker's doorkeeper that follows the contracts.
//!
//! A connection comes in through [`listener`], is unwrapped and passes the [`door`] in [`arrival`], and becomes a [`session`], which
//! decides about each packet from the [`mirror`] and moves octets between client and broker ([`upstream`], chosen by [`upstreams`]). The
//! mirror says what the chain follower sees, and with it the [`hidden_names`] that owners told; what sessions have to tell the chain they leave in the [`outbox`]. Where tokens count
//! once, those that did are in [`used_tokens`]; where contract wallets are taken, they are asked at the [`wallet_desk`]. What a
//! client does after its proof is held against it by [`conduct`]; who is banned, by whatever, stands in [`bans`]. Where a
//! client is, [`countries`] says. [`server`] starts and stops
//! it all, [`health`] says how it is, and the [`api`] shows what was recorded to whom the operator likes.

pub mod api;
pub mod arrival;
pub mod audit;
pub mod bans;
pub mod check;
pub mod conduct;
pub mod config;
pub mod control;
pub mod countries;
pub mod door;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod health;
pub mod hidden_names;
pub mod kept_rows;
pub mod listener;
pub mod log_budget;
pub mod metrics;
pub mod mirror;
mod numbers;
pub mod outbox;
pub mod probe;
pub mod proxy;
pub mod seats;
pub mod server;
pub mod session;
pub mod shared;
pub mod tls;
pub mod upstream;
pub mod upstreams;
pub mod used_tokens;
pub mod wallet_desk;
pub mod websocket;
