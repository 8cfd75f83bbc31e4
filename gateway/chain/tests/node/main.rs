//! The crate against a real node: anvil from the npm packages, with the contracts of this repository.
//!
//! A missing node or compiler is a failure, never a reason to skip.
#![allow(clippy::unwrap_used, reason = "what is not as wanted fails the test")]

mod away;
mod follow;
mod history;
mod lie;
mod prove;
mod refuse;
mod reorganise;
mod restart;
mod signers;
mod site;
mod submit;
mod submitting;
mod trouble;
mod wallet;
