//! How far each QoS 2 delivery is, on the client's side [MQTT-4.3.3-8] to [MQTT-4.3.3-13].

use std::collections::HashMap;
use std::num::NonZeroU16;

use flytrap_mqtt::kind;

/// Where a QoS 2 delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The client never saw it: the gateway answers in its stead.
    Withheld,
    /// The client has it and owes a PUBREC, or has sent one.
    Sent,
    /// The client has the PUBREL and owes a PUBCOMP.
    Released,
}

/// The client answered a delivery with a packet that does not answer it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WrongAnswer;

/// QoS 2 deliveries under way, by packet identifier and so never more than there are of those. Takes memory only for what is under way.
///
/// Of an identifier that is not here nothing is said: a session that outlived its connection has exchanges that began before.
#[derive(Debug, Default)]
pub(crate) struct Deliveries(HashMap<NonZeroU16, Stage>);

impl Deliveries {
    /// A QoS 2 delivery goes to the client; one that was withheld before is the client's to finish from here on.
    pub(crate) fn sent(&mut self, id: NonZeroU16) {
        self.0.insert(id, Stage::Sent);
    }

    /// A QoS 2 delivery is kept from the client.
    pub(crate) fn withheld(&mut self, id: NonZeroU16) {
        self.0.insert(id, Stage::Withheld);
    }

    /// A QoS 1 delivery goes to the client: the broker has given up what had this identifier.
    #[inline]
    pub(crate) fn replaced(&mut self, id: NonZeroU16) {
        if !self.0.is_empty() {
            self.0.remove(&id);
        }
    }

    /// The broker released a delivery; says whether it was withheld, so that the client must not hear of it and the exchange is over.
    pub(crate) fn released(&mut self, id: NonZeroU16) -> bool {
        match self.0.get_mut(&id) {
            Some(Stage::Withheld) => {
                self.0.remove(&id);
                true
            }
            Some(stage) => {
                *stage = Stage::Released;
                false
            }
            None => false,
        }
    }

    /// The client sent a packet of type `kind` about `id`; `is_failure` by its reason code.
    #[inline]
    pub(crate) fn answered(
        &mut self,
        kind: u8,
        id: NonZeroU16,
        is_failure: bool,
    ) -> Result<(), WrongAnswer> {
        if self.0.is_empty() {
            return Ok(());
        }
        match (self.0.get(&id), kind) {
            (None | Some(Stage::Withheld), _) => {}
            (Some(Stage::Sent), kind::PUBREC) if is_failure => {
                self.0.remove(&id);
            }
            (Some(_), kind::PUBREC) => {}
            (Some(Stage::Released), kind::PUBCOMP) => {
                self.0.remove(&id);
            }
            (Some(Stage::Sent | Stage::Released), _) => return Err(WrongAnswer),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> NonZeroU16 {
        NonZeroU16::new(n).expect("not 0")
    }

    #[test]
    fn a_delivery_is_answered_with_pubrec_and_pubcomp_and_nothing_else() {
        let mut deliveries = Deliveries::default();
        deliveries.sent(id(1));
        assert_eq!(deliveries.answered(kind::PUBACK, id(1), false), Err(WrongAnswer));
        assert_eq!(deliveries.answered(kind::PUBCOMP, id(1), false), Err(WrongAnswer));
        assert_eq!(deliveries.answered(kind::PUBREC, id(1), false), Ok(()));
        assert!(!deliveries.released(id(1)));
        assert_eq!(deliveries.answered(kind::PUBREC, id(1), false), Ok(()), "sent again");
        assert_eq!(deliveries.answered(kind::PUBACK, id(1), false), Err(WrongAnswer));
        assert_eq!(deliveries.answered(kind::PUBCOMP, id(1), false), Ok(()));
        assert_eq!(deliveries.answered(kind::PUBACK, id(1), false), Ok(()), "it is over");
    }

    #[test]
    fn a_failure_ends_the_exchange_and_the_identifier_is_free() {
        let mut deliveries = Deliveries::default();
        deliveries.sent(id(1));
        assert_eq!(deliveries.answered(kind::PUBREC, id(1), true), Ok(()));
        assert_eq!(deliveries.answered(kind::PUBACK, id(1), false), Ok(()));
        deliveries.sent(id(1));
        deliveries.replaced(id(1));
        assert_eq!(deliveries.answered(kind::PUBACK, id(1), false), Ok(()));
    }

    #[test]
    fn what_was_withheld_is_released_without_the_client_until_it_is_sent() {
        let mut deliveries = Deliveries::default();
        deliveries.withheld(id(1));
        assert!(deliveries.released(id(1)));
        assert!(!deliveries.released(id(1)), "once");
        deliveries.withheld(id(1));
        deliveries.sent(id(1));
        assert!(!deliveries.released(id(1)));
        assert_eq!(deliveries.answered(kind::PUBCOMP, id(1), false), Ok(()));
    }
}
