//! A second opinion on who may do what: the access rules of FlyTrap computed from the contracts' events alone.
//!
//! Written from the contracts' interfaces and from what the documents promise, naively, and without a line of the gateway: it has its own
//! bindings, its own decoder, its own idea of names and filters. What the gateway decides wrongly is not wrong here in the same way.
//!
//! [`Acl`] is the state after one block. [`Timeline`] keeps the last of them with the moments between which each could be seen, and says
//! whether something was allowed in any or in every state that may have been in force at a moment.

mod acl;
mod events;
mod filter;
mod timeline;

pub use acl::{Acl, Contracts, No, Who};
pub use timeline::Timeline;

/// One of the two rights of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// To publish.
    Publish,
    /// To receive.
    Subscribe,
}
