//! What users see: every test starts a whole site (node, contracts, broker, gateway) and looks at it from outside, one file per subject.
//!
//! It is one program since each program would link everything once more; `script/test` runs each subject in a process of its own, so that
//! a site ends with its subject.

mod common;

mod abuse;
mod api;
mod bad_config;
mod bans;
mod brokers;
mod challenge;
mod conformance;
mod connecting;
mod contract_wallets;
mod countries;
mod direct_vs_gateway;
mod faults;
mod hidden_names;
mod keys;
mod kill_loop;
mod limits;
mod makers;
mod no_rpc_on_path;
mod no_trace;
mod node_away;
mod node_faults;
mod packets;
mod postgres;
mod presenting;
mod privacy;
mod proxy_protocol;
mod reauthentication;
mod record;
mod record_disk;
mod record_waiting;
mod records_move;
mod reload;
mod restarts;
mod revocation;
mod rules;
mod rust_client;
mod single_use;
mod small_client;
mod terms;
mod transports;
mod upstreams;
mod us10_sensors;
mod us3_restrict;
mod us4_purchase;
mod us7_makers;
mod us8_failures;
mod websocket;
