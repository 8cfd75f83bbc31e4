//! What contracts revert with, as sentences.

use std::{collections::HashMap, sync::LazyLock};

use alloy::{
    dyn_abi::{DynSolValue, JsonAbiExt},
    json_abi::{Error, JsonAbi},
    primitives::Bytes,
    sol_types::{Panic, Revert, SolError},
};

use crate::bindings::ABI;

/// A revert, read by the interfaces in `abi/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reverted {
    /// Name of the error, `Error` for a plain message, `Panic` for a fault of the contract, `Unknown` for anything else.
    pub name: String,
    /// Its fields by name.
    pub fields: Vec<(String, String)>,
    /// What to do about it, where there is something to say.
    pub advice: Option<&'static str>,
}

impl std::fmt::Display for Reverted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the contract refused with {}", self.name)?;
        for (at, (name, value)) in self.fields.iter().enumerate() {
            let before = if at == 0 { ": " } else { ", " };
            if name.is_empty() {
                write!(f, "{before}{value}")?;
            } else {
                write!(f, "{before}{name} {value}")?;
            }
        }
        if let Some(advice) = self.advice {
            write!(f, ": {advice}")?;
        }
        Ok(())
    }
}

static ERRORS: LazyLock<HashMap<[u8; 4], Error>> = LazyLock::new(|| {
    let mut errors = HashMap::new();
    for (_, abi) in ABI {
        let abi: JsonAbi =
            serde_json::from_str(abi).expect("abi/ was parsed when this crate was compiled");
        for error in abi.errors() {
            errors.entry(error.selector().0).or_insert_with(|| error.clone());
        }
    }
    errors
});

impl Reverted {
    /// Reads what a contract reverted with.
    #[must_use]
    pub fn read(data: &Bytes) -> Self {
        if let Some(known) = known(data) {
            return known;
        }
        let plain = |name: &str, text: String| Self {
            name: name.to_owned(),
            fields: vec![(String::new(), text)],
            advice: None,
        };
        if let Ok(revert) = Revert::abi_decode(data) {
            return plain("Error", quoted(&revert.reason));
        }
        if let Ok(panic) = Panic::abi_decode(data) {
            return plain("Panic", format!("code {:#x}", panic.code));
        }
        if data.is_empty() {
            return plain("Unknown", "no reason given".to_owned());
        }
        let shown = &data[..data.len().min(68)];
        plain("Unknown", format!("0x{}", alloy::hex::encode(shown)))
    }

    /// Is it one of these errors?
    #[must_use]
    pub fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }
}

fn known(data: &[u8]) -> Option<Reverted> {
    let (selector, fields) = data.split_first_chunk::<4>()?;
    let error = ERRORS.get(selector)?;
    let values = error.abi_decode_input(fields).ok()?;
    let names = error.inputs.iter().map(|input| input.name.clone());
    Some(Reverted {
        name: error.name.clone(),
        fields: names.zip(values.iter().map(shown)).collect(),
        advice: advice(&error.name),
    })
}

fn shown(value: &DynSolValue) -> String {
    match value {
        DynSolValue::Address(address) => address.to_string(),
        DynSolValue::Bool(truth) => truth.to_string(),
        DynSolValue::Uint(number, _) => number.to_string(),
        DynSolValue::FixedBytes(word, size) => {
            format!("0x{}", alloy::hex::encode(&word[..(*size).min(32)]))
        }
        DynSolValue::String(text) => quoted(text),
        other => format!("{other:?}"),
    }
}

/// Text from the chain in one line, whatever is in it.
fn quoted(text: &str) -> String {
    let text: String = text.chars().take(300).collect();
    format!("{text:?}")
}

fn advice(name: &str) -> Option<&'static str> {
    Some(match name {
        "WrongPayment" | "PriceAboveMaximum" | "OfferChanged" => {
            "the terms have changed, ask for the price again"
        }
        "OfferNotPriced" => "it is not for sale, ask the owner for a grant",
        "NotGateway" | "NotBrokerOwnerOrGateway" => {
            "register this key as a gateway of the broker with `flytrap broker set-gateway`"
        }
        "NameNotYours" => {
            "the name is below a topic of someone else, or the broker's naming policy forbids it"
        }
        "DeviceTaken" => "the device key must be revoked by the wallet it acts for, or expire",
        "DeviceDidNotConsent" => {
            "the consent must be signed by the device key, for this wallet on this chain"
        }
        "RefundTooSmall" => {
            "ending a paid grant pays back its unused part, send at least that much"
        }
        "UnknownTopic" => "register it first, or correct the name",
        "UnknownBroker" => "create it first, or correct its number",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256, U256};

    use super::*;
    use crate::bindings::{IAccessMarket, IBrokerRegistry, ITopicRegistry};

    #[test]
    fn a_custom_error_is_named_with_its_fields() {
        let error = ITopicRegistry::NotTopicOwner {
            topicId: B256::repeat_byte(1),
            caller: Address::with_last_byte(2),
        };
        let read = Reverted::read(&error.abi_encode().into());
        assert_eq!(
            read.to_string(),
            format!(
                "the contract refused with NotTopicOwner: topicId {}, caller {}",
                B256::repeat_byte(1),
                Address::with_last_byte(2)
            )
        );
    }

    #[test]
    fn an_error_that_can_be_helped_says_how() {
        let error = IAccessMarket::WrongPayment { sentWei: U256::from(1), costWei: U256::from(2) };
        let read = Reverted::read(&error.abi_encode().into()).to_string();
        assert!(read.contains("sentWei 1, costWei 2: the terms have changed"), "{read}");
    }

    #[test]
    fn plain_messages_panics_and_nonsense_are_told_in_one_line() {
        let plain = Revert { reason: "no\nway".to_owned() };
        assert_eq!(
            Reverted::read(&plain.abi_encode().into()).to_string(),
            "the contract refused with Error: \"no\\nway\""
        );
        let panic = Panic { code: U256::from(0x11) };
        assert!(Reverted::read(&panic.abi_encode().into()).to_string().contains("code 0x11"));
        for octets in [&[][..], &[1, 2], &[0xff; 500]] {
            let read = Reverted::read(&octets.to_vec().into());
            assert_eq!(read.name, "Unknown");
            assert!(read.to_string().len() < 200);
        }
        let torn = &IBrokerRegistry::UnknownBroker { brokerId: U256::ONE }.abi_encode()[..20];
        assert_eq!(Reverted::read(&torn.to_vec().into()).name, "Unknown");
    }
}
