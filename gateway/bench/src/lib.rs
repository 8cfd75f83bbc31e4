//! What measuring a gateway needs, for `make bench-path` and `make eval`: a [`rig`] of load and sink, the [`proxies`] it is compared
//! with, the [`ground`] it stands on, where processes run and what they cost ([`process`]), the [`spread`] of rounds,
//! and where results are kept ([`keep`]).

pub mod ground;
pub mod keep;
pub mod packets;
pub mod process;
pub mod proxies;
pub mod rig;
pub mod spread;
