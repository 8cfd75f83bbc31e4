//! How the broker reads names. Some makers carry MQTT over a messaging system of their own, whose names are written otherwise: what
//! they translate, two MQTT names share, and a right to the one would be a right to the other.

use serde::{Deserialize, Serialize};

/// How the broker behind the gateway reads topic names and filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Octet by octet, as the standard has it.
    #[default]
    Plain,
    /// RabbitMQ routes by AMQP 0-9-1 keys: `.` is `/` to it, and `*` is `+`.
    RabbitMq,
    /// Apache ActiveMQ names JMS destinations: besides, `>` is `#`, and `,` joins several names in one.
    ActiveMq,
    /// NATS routes by subjects: `.`, `*` and `>` mean something, and a space ends one.
    Nats,
}

impl Dialect {
    /// The characters that mean to this broker what another character means in MQTT.
    #[must_use]
    pub const fn taken(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::RabbitMq => ".*",
            Self::ActiveMq => ".*>,",
            Self::Nats => ".*> ",
        }
    }

    /// The first character of a name or filter that the broker would take for another.
    #[must_use]
    #[inline]
    pub fn clash(self, name: &str) -> Option<char> {
        let taken = self.taken();
        if taken.is_empty() {
            return None;
        }
        name.chars().find(|character| taken.contains(*character))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_clashes_by_its_first_character_that_the_broker_takes_for_another() {
        for (dialect, name, clash) in [
            (Dialect::Plain, "a.b*c>d,e f/+/#", None),
            (Dialect::RabbitMq, "a/b>c,d e/+/#", None),
            (Dialect::RabbitMq, "a/b.c*", Some('.')),
            (Dialect::RabbitMq, "a/*.b", Some('*')),
            (Dialect::ActiveMq, "a b/+/#", None),
            (Dialect::ActiveMq, "a,b", Some(',')),
            (Dialect::ActiveMq, "a/>", Some('>')),
            (Dialect::Nats, "a,b/+/#", None),
            (Dialect::Nats, "a b", Some(' ')),
            (Dialect::Nats, "é.a", Some('.')),
            (Dialect::Nats, "", None),
        ] {
            assert_eq!(dialect.clash(name), clash, "{dialect:?} {name:?}");
        }
    }
}
