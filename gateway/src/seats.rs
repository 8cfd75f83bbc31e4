//! How many connections there are, in all and by origin.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flytrap_policy::Origin;

/// How many connections there are, in all and by origin.
#[derive(Debug, Clone)]
pub struct Seats {
    taken: Arc<Mutex<Taken>>,
    most: usize,
    most_per_origin: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Never holds a zero, so it is at most as long as `all`.
    by_origin: HashMap<Origin, usize>,
}

/// Room for one connection, and once its origin is known also in the origin's share. Dropping it makes the room free.
#[derive(Debug)]
pub struct Seat {
    origin: Option<Origin>,
    seats: Seats,
}

impl Seats {
    /// Room for `most` connections, of each origin `most_per_origin`.
    pub fn new(most: usize, most_per_origin: usize) -> Self {
        Self { taken: Arc::default(), most, most_per_origin }
    }

    /// Takes one for a connection whose origin is yet to be told.
    ///
    /// # Errors
    /// The word for metrics, if there is none.
    pub fn take(&self) -> Result<Seat, &'static str> {
        let mut taken = self.lock();
        if taken.all >= self.most {
            return Err("full");
        }
        taken.all += 1;
        Ok(Seat { origin: None, seats: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Counts it as one of `origin` from now on.
    ///
    /// # Errors
    /// The word for metrics, if the origin has its share already.
    pub fn assign(&mut self, origin: Origin) -> Result<(), &'static str> {
        let mut taken = self.seats.lock();
        if taken.by_origin.get(&origin).is_some_and(|n| *n >= self.seats.most_per_origin) {
            return Err("origin_full");
        }
        *taken.by_origin.entry(origin).or_default() += 1;
        if let Some(before) = self.origin.replace(origin) {
            taken.leave(before);
        }
        Ok(())
    }
}

impl Taken {
    fn leave(&mut self, origin: Origin) {
        if let Some(n) = self.by_origin.get_mut(&origin) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.by_origin.remove(&origin);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(origin) = self.origin {
            taken.leave(origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(last: u8) -> Origin {
        Origin::from(std::net::IpAddr::from([192, 0, 2, last]))
    }

    fn take(seats: &Seats, last: u8) -> Result<Seat, &'static str> {
        let mut seat = seats.take()?;
        seat.assign(origin(last))?;
        Ok(seat)
    }

    #[test]
    fn seats_are_bounded_in_all_and_by_origin_and_come_back() {
        let seats = Seats::new(3, 2);
        let first = take(&seats, 1).unwrap();
        let _second = take(&seats, 1).unwrap();
        assert_eq!(take(&seats, 1).unwrap_err(), "origin_full");
        let _third = take(&seats, 2).unwrap();
        assert_eq!(take(&seats, 3).unwrap_err(), "full");
        drop(first);
        let _again = take(&seats, 1).unwrap();
        assert_eq!(take(&seats, 3).unwrap_err(), "full");
    }

    #[test]
    fn a_connection_whose_origin_is_not_known_yet_counts_in_all_only() {
        let seats = Seats::new(3, 1);
        let mut unknown: Vec<_> = (0..3).map(|_| seats.take().unwrap()).collect();
        assert_eq!(seats.take().unwrap_err(), "full");
        unknown[0].assign(origin(1)).unwrap();
        assert_eq!(unknown[1].assign(origin(1)).unwrap_err(), "origin_full");
        unknown[1].assign(origin(2)).unwrap();
        drop(unknown);
        assert!(take(&seats, 1).is_ok());
    }

    #[test]
    fn an_origin_without_connections_is_not_remembered() {
        let seats = Seats::new(10, 2);
        drop(take(&seats, 1).unwrap());
        let mut moved = take(&seats, 1).unwrap();
        moved.assign(origin(2)).unwrap();
        assert_eq!(seats.lock().by_origin.len(), 1);
        drop(moved);
        assert!(seats.lock().by_origin.is_empty());
    }
}
