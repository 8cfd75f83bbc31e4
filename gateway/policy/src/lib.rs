//! Who may do what: principals, the registry, decisions, bans and alert rules.
//!
//! Pure: no socket, no clock, no randomness. Time is an argument, so a test can replay any history.
//!
//! [`Event`]s of the chain, in their order, make a [`Registry`]; a [`View`] holds the newest one and the newest that
//! has settled. A client proves itself by [`credential::authenticate`], which gives a [`Principal`]. Whatever it asks
//! for, the view answers with a [`Permit`] or a [`Denial`]: restrictions count from the newest state, permissions from
//! the settled one. A [`Lease`] gives the same permit again for the next equal packet, in two nanoseconds and without
//! a look-up. [`BanLedger`] counts what failed before a proof, and [`AlertFolder`] what was refused after one; [`Rules`] say what
//! becomes of both in the record and on chain.
//!
//! All ends are half-open, seconds of Unix time: something holds while `now < until`.

mod alert;
mod concern;
mod conduct;
mod country;
pub mod credential;
mod denial;
mod dialect;
mod event;
mod hidden;
mod origin;
mod permit;
mod rate;
mod registry;
mod rules;
mod view;

pub use alert::{Alert, AlertFolder, FoldLimit};
pub use concern::Concern;
pub use conduct::{ConductLedger, ConductLimit, Offence};
pub use country::{Countries, Country, CountryMode, CountryRule};
pub use denial::Denial;
pub use dialect::Dialect;
pub use event::{AlertKind, Event, NamingPolicy, Offer, OfferMode, Right, Stamp, Traits};
pub use hidden::{NameEntry, NameRefusal, NameRequest, NameWish, Names};
pub use origin::{BanLedger, BanLimit, Origin};
pub use permit::{Basis, FilterPermit, Lease, Permit, Reach};
pub use rate::{Bucket, Rate, SharedBucket};
pub use registry::{
    Device, Hidden, Inconsistent, Registry, STORE_VERSION, Topic, hidden_topic_id, is_topic_name,
    name_commitment, topic_id,
};
pub use rules::{Excess, Facts, HappeningKind, NamedTopic, Rule, Rules, Then, TopicFacts, Whence};
pub use view::{
    Action, Credential, CredentialKind, Options, Principal, Ungoverned, View, Wildcards,
};
