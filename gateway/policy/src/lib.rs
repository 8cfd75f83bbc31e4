//! Who may do what: principals, the registry, decisions, bans and alert rules.
//!
//! Pure: no socket, no clock, no randomness. Time is an argument, so a test can replay any history.

mod alert;
pub mod credential;
mod denial;
mod event;
mod origin;
mod permit;
mod registry;
mod view;

pub use alert::{Alert, AlertFolder, FoldLimit};
pub use denial::Denial;
pub use event::{AlertKind, Event, NamingPolicy, Offer, OfferMode, Right, Stamp, Traits};
pub use origin::{BanLedger, BanLimit, Origin};
pub use permit::{Basis, FilterPermit, Lease, Permit, Reach};
pub use registry::{Device, Inconsistent, Registry, Topic, topic_id};
pub use view::{
    Action, Credential, CredentialKind, Options, Principal, Ungoverned, View, Wildcards,
};
