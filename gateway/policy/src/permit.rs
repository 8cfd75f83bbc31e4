//! Proofs of a permission, and the lease that renews one without a look-up.

use alloy_primitives::B256;

use crate::Right;

/// On what a permit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Basis {
    /// The wallet owns the governing topic.
    Owner,
    /// The right is offered to any authenticated wallet.
    Public,
    /// The wallet was granted the right, or bought it.
    Grant,
    /// No topic governs the name, and the site passes such names.
    Ungoverned,
}

impl Basis {
    /// One word for records and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Public => "public",
            Self::Grant => "grant",
            Self::Ungoverned => "ungoverned",
        }
    }
}

/// What a permit says. Kept apart so that a permit itself cannot be copied and a lease can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) right: Right,
    pub(crate) basis: Basis,
    pub(crate) retain: bool,
    pub(crate) sensitive: bool,
    /// How many of the name's first octets are a hidden name.
    pub(crate) veiled: u16,
    pub(crate) topic: Option<(B256, u64)>,
    pub(crate) until: u64,
    pub(crate) height: u64,
}

/// Proof that the view allowed one action. Only [`View::authorize`](crate::View::authorize) makes one, and a
/// [`Lease`] of one renews it; whoever forwards a packet takes it by value, and with it those of the same moment that differ from it in the payload alone.
#[must_use = "a permit that is dropped forwards nothing"]
#[derive(Debug, PartialEq, Eq)]
pub struct Permit(pub(crate) Terms);

impl Permit {
    /// What was allowed.
    #[must_use]
    pub const fn right(&self) -> Right {
        self.0.right
    }

    /// On what it stands.
    #[must_use]
    pub const fn basis(&self) -> Basis {
        self.0.basis
    }

    /// The governing topic, `None` if none governs.
    #[must_use]
    pub const fn topic_id(&self) -> Option<B256> {
        match self.0.topic {
            Some((id, _)) => Some(id),
            None => None,
        }
    }

    /// Epoch of the governing topic, for the record of why.
    #[must_use]
    pub const fn epoch(&self) -> Option<u64> {
        match self.0.topic {
            Some((_, epoch)) => Some(epoch),
            None => None,
        }
    }

    /// Is the governing topic marked as personal data?
    #[must_use]
    pub const fn is_sensitive(&self) -> bool {
        self.0.sensitive
    }

    /// How many octets the name begins with that must be written down nowhere: the hidden name of the governing topic,
    /// 0 where that is not hidden.
    #[must_use]
    pub fn veiled(&self) -> usize {
        self.0.veiled.into()
    }

    /// The second from which it would be refused, by the end of the grant or of the proof, if nothing changes on
    /// chain before; [`u64::MAX`] if never.
    #[must_use]
    pub const fn until(&self) -> u64 {
        self.0.until
    }

    /// Height of the newest block that the answer was read at.
    #[must_use]
    pub const fn height(&self) -> u64 {
        self.0.height
    }
}

/// The last permit of one session in one direction, and what it was for, so that the next equal packet needs no
/// look-up.
///
/// It holds for one [`Principal`](crate::Principal) and one kind of action: keep one for what the client publishes
/// and another for what is delivered to it, and drop both when the session's principal changes.
#[derive(Debug, Default)]
pub struct Lease {
    held: Option<Held>,
    /// Octets of the topic name. Its capacity is kept, so a session that alternates between names does not allocate.
    name: Vec<u8>,
}

#[derive(Debug)]
struct Held {
    version: u64,
    terms: Terms,
}

impl Lease {
    /// A lease of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { held: None, name: Vec::new() }
    }

    /// Remembers a permit that was given for this name by a view of this version.
    pub fn keep(&mut self, permit: &Permit, version: u64, name: &[u8]) {
        self.name.clear();
        self.name.extend_from_slice(name);
        self.held = Some(Held { version, terms: permit.0 });
    }

    /// Forgets what is held; the next packet is judged anew.
    pub fn forget(&mut self) {
        self.held = None;
    }

    /// The same permit again, if the view is still of the same version, the permit has not ended, and the packet is
    /// for the same name; `retain` is the packet's flag, and always false for what is delivered.
    #[inline]
    pub fn permit(&self, version: u64, now: u64, name: &[u8], retain: bool) -> Option<Permit> {
        let held = self.held.as_ref()?;
        let holds = held.version == version
            && now < held.terms.until
            && (!retain || held.terms.retain)
            && self.name == name;
        holds.then_some(Permit(held.terms))
    }
}

/// How far a permitted filter reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// No wildcards: exactly the names (or the one name) that were judged.
    Exact,
    /// Wildcards, and every name it can match may be read.
    Covered,
    /// Wildcards, and only some of the names it can match may be read: what is delivered differs from what the
    /// broker sends.
    Narrowed,
}

/// Proof that a filter may be subscribed to. Each delivery is judged by itself all the same.
#[must_use = "a permit that is dropped subscribes nothing"]
#[derive(Debug, PartialEq, Eq)]
pub struct FilterPermit {
    pub(crate) reach: Reach,
    pub(crate) topic_id: Option<B256>,
    pub(crate) until: u64,
    pub(crate) height: u64,
}

impl FilterPermit {
    /// How far it reaches.
    #[must_use]
    pub const fn reach(&self) -> Reach {
        self.reach
    }

    /// The topic that governs the filter's part before the first wildcard, if one does.
    #[must_use]
    pub const fn topic_id(&self) -> Option<B256> {
        self.topic_id
    }

    /// The second at which the filter must be judged again if nothing has changed before; [`u64::MAX`] if never.
    #[must_use]
    pub const fn until(&self) -> u64 {
        self.until
    }

    /// Height of the newest block that the answer was read at.
    #[must_use]
    pub const fn height(&self) -> u64 {
        self.height
    }
}
