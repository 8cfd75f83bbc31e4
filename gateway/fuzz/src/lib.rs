//! Second readings: written from the standards once more, as plainly as can be, to hold the gateway's own against.

pub mod naive;
pub mod reencode;
