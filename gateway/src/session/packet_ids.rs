//! Packet identifiers that the gateway answers for, and the order in which a client's publishes are answered.

use std::collections::VecDeque;
use std::num::NonZeroU16;

/// A set of packet identifiers. Takes no memory until the first is put in, 8 KiB then, for ever bounded.
#[derive(Default)]
pub(crate) struct PacketIds {
    bits: Option<Box<[u64; 1024]>>,
}

impl PacketIds {
    /// Puts `id` in.
    pub(crate) fn insert(&mut self, id: NonZeroU16) {
        let bits = self.bits.get_or_insert_with(|| Box::new([0; 1024]));
        bits[usize::from(id.get() >> 6)] |= 1 << (id.get() & 63);
    }

    /// Takes `id` out; says whether it was in.
    pub(crate) fn remove(&mut self, id: NonZeroU16) -> bool {
        let Some(bits) = &mut self.bits else { return false };
        let (word, bit) = (&mut bits[usize::from(id.get() >> 6)], 1 << (id.get() & 63));
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }
}

/// What the client still waits for, oldest first.
struct Awaited {
    id: NonZeroU16,
    /// `None`: the broker will answer. `Some`: the gateway's own answer, kept until it is its turn.
    own: Option<Box<[u8]>>,
}

/// Keeps the answers to QoS 1 and 2 publishes in the order of the publishes [MQTT-4.6.0-2], [MQTT-4.6.0-3], although some
/// come from the broker and some from the gateway.
///
/// Bounded by `MOST_AWAITED`, more than the identifiers there are: a client that goes past it reuses identifiers in flight.
#[derive(Default)]
pub(crate) struct AnswerOrder {
    awaited: VecDeque<Awaited>,
    /// Own answers among them.
    own: usize,
}

/// More publishes unanswered than there are packet identifiers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyUnanswered;

const MOST_AWAITED: usize = 65_535;
/// Own answers that may wait behind one of the broker's; each takes some 200 octets at most.
const MOST_OWN: usize = 4_096;

impl AnswerOrder {
    /// What is under way, perhaps several times.
    pub(crate) fn ids(&self) -> impl Iterator<Item = NonZeroU16> {
        self.awaited.iter().map(|awaited| awaited.id)
    }

    /// A publish goes to the broker, which will answer it.
    pub(crate) fn forwarded(&mut self, id: NonZeroU16) -> Result<(), TooManyUnanswered> {
        self.push(Awaited { id, own: None })
    }

    /// Publishes that the client waits for an answer to.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.awaited.len()
    }

    /// A publish was refused: `answer` goes to the client at once if nothing older waits, else when its turn comes.
    pub(crate) fn refused(
        &mut self,
        id: NonZeroU16,
        answer: &[u8],
        to_client: &mut Vec<u8>,
    ) -> Result<(), TooManyUnanswered> {
        if self.awaited.is_empty() {
            to_client.extend_from_slice(answer);
            return Ok(());
        }
        if self.own >= MOST_OWN {
            return Err(TooManyUnanswered);
        }
        self.own += 1;
        self.push(Awaited { id, own: Some(answer.into()) })
    }

    fn push(&mut self, awaited: Awaited) -> Result<(), TooManyUnanswered> {
        if self.awaited.len() >= MOST_AWAITED {
            return Err(TooManyUnanswered);
        }
        self.awaited.push_back(awaited);
        Ok(())
    }

    /// The broker answered `id`; call before forwarding its answer. Returns whether own answers wait right behind it, to be
    /// taken by [`AnswerOrder::release`] once the broker's answer is forwarded.
    #[inline]
    pub(crate) fn answered(&mut self, id: NonZeroU16) -> bool {
        // The first one in nearly every case: brokers answer in order.
        if let Some(at) = self.awaited.iter().position(|a| a.id == id && a.own.is_none()) {
            self.awaited.remove(at);
        }
        self.awaited.front().is_some_and(|next| next.own.is_some())
    }

    /// Appends the own answers whose turn has come.
    pub(crate) fn release(&mut self, to_client: &mut Vec<u8>) {
        while let Some(answer) = self.awaited.front().and_then(|next| next.own.as_deref()) {
            to_client.extend_from_slice(answer);
            self.awaited.pop_front();
            self.own -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> NonZeroU16 {
        NonZeroU16::new(n).unwrap()
    }

    #[test]
    fn an_identifier_is_in_the_set_until_it_is_taken_out() {
        let mut ids = PacketIds::default();
        assert!(!ids.remove(id(0xFFFE)));
        ids.insert(id(0xFFFE));
        assert!(!ids.remove(id(0xFFFF)));
        assert!(ids.remove(id(0xFFFE)));
        assert!(!ids.remove(id(0xFFFE)));
    }

    #[test]
    fn own_answers_wait_for_older_ones_of_the_broker() {
        let (mut order, mut out) = (AnswerOrder::default(), Vec::new());
        order.forwarded(id(1)).unwrap();
        order.refused(id(2), b"two", &mut out).unwrap();
        order.refused(id(3), b"three", &mut out).unwrap();
        order.forwarded(id(4)).unwrap();
        order.refused(id(5), b"five", &mut out).unwrap();
        assert_eq!(out, b"", "the first publish is not answered yet");
        assert!(order.answered(id(1)));
        order.release(&mut out);
        assert_eq!(out, b"twothree");
        assert!(order.answered(id(4)));
        order.release(&mut out);
        assert_eq!(out, b"twothreefive");
    }

    #[test]
    fn own_answers_go_at_once_when_nothing_waits() {
        let (mut order, mut out) = (AnswerOrder::default(), Vec::new());
        order.refused(id(7), b"seven", &mut out).unwrap();
        assert_eq!(out, b"seven");
        order.forwarded(id(8)).unwrap();
        assert!(!order.answered(id(8)));
    }

    #[test]
    fn own_answers_that_wait_are_bounded() {
        let (mut order, mut out) = (AnswerOrder::default(), Vec::new());
        order.forwarded(id(1)).unwrap();
        for _ in 0..4_096 {
            order.refused(id(2), b"no", &mut out).unwrap();
        }
        assert_eq!(order.refused(id(2), b"no", &mut out), Err(TooManyUnanswered));
        assert!(order.answered(id(1)));
        order.release(&mut out);
        order.forwarded(id(1)).unwrap();
        assert_eq!(order.refused(id(2), b"no", &mut out), Ok(()), "there is room again");
    }

    #[test]
    fn publishes_unanswered_are_bounded() {
        let mut order = AnswerOrder::default();
        for _ in 0..65_535 {
            order.forwarded(id(1)).unwrap();
        }
        assert_eq!(order.forwarded(id(1)), Err(TooManyUnanswered));
    }
}
