//! What happened at a gateway, in a form that nobody can change unseen. Pure: no clock, no disk, no chain.
//!
//! A [`Record`] says who did what, when, why and from where. Each gateway numbers its records from 1 and chains each to the one
//! before ([`link`]). Once an interval it takes those that are new together as a [`Batch`] and puts the batch's root on chain with a sequence
//! number and the root before. Whoever has the [exported](export) records and an Ethereum node finds every record that was changed,
//! left out, added or moved.
//!
//! ```text
//! record -> encoding -> leaf -> link (chain of all records)
//!                         └--> top of the batch's tree -> root (with number of records, first number, link before) -> AuditLog
//! ```
//!
//! What is personal in a record is [sealed](seal) under a key of its subject; without the key the rest proves the same.

pub mod export;
mod hash;
mod record;
pub mod seal;
pub mod text;
mod tree;

pub use hash::{Batch, leaf, link};
pub use record::{Decision, Direction, Kind, MOST_PERSONAL, MOST_TEXT, Record, Undecodable};
pub use tree::{Blocks, Path, top};
