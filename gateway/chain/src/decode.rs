//! Logs into events. Nothing is skipped: a log of ours that cannot be read is an error of its own.

use alloy::{
    primitives::{Address, B256, Log, LogData},
    sol_types::{SolEvent, TopicList as _},
};
use flytrap_policy::{
    AlertKind, Country, CountryMode, Event, NamingPolicy, Offer, OfferMode, Right, Traits,
};

use crate::{
    Deployment,
    bindings::{
        IAccessMarket as Market, IAuditLog as Audit, IBrokerRegistry as Broker,
        IDeviceRegistry as Device, ITopicRegistry as Topic,
    },
};

/// Why a log is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Anyone can emit an event that looks like ours.
    #[error("log of {address}, which is none of the deployed contracts: the node answers wrongly")]
    WrongAddress {
        /// Who emitted it.
        address: Address,
    },
    /// No event of the contract at that address.
    #[error(
        "log of `{contract}` {address} with the unknown first topic {topic0:?}: is the deployment file of this version?"
    )]
    UnknownEvent {
        /// The field of the deployment.
        contract: &'static str,
        /// The contract.
        address: Address,
        /// What the event calls itself.
        topic0: Option<B256>,
    },
    /// The right contract and event, but topics or data are not what the interface says.
    #[error("{event} of {address} cannot be decoded: {detail}")]
    Undecodable {
        /// The event.
        event: &'static str,
        /// The contract.
        address: Address,
        /// Where it stopped making sense.
        detail: String,
    },
}

/// Decodes one log of the deployed contracts. `None` is an event that nobody here needs; at present there is none.
///
/// # Errors
/// [`DecodeError`] if another contract emitted it, or its topics or data are not those of the interface. Text that is
/// free for anyone to choose (names of brokers, URIs, reasons, notes) may hold any octets, since the contracts do not look
/// at it, and an error would let its author stop every gateway: octets that are no UTF-8 become U+FFFD. A topic's name is
/// checked by the contract and must be text.
pub fn decode(log: &Log, deployment: &Deployment) -> Result<Option<Event>, DecodeError> {
    let address = log.address;
    let topic0 = log.topics().first().copied();
    let (contract, decoded) = if address == deployment.broker_registry {
        ("brokerRegistry", of_broker_registry(log, topic0))
    } else if address == deployment.topic_registry {
        ("topicRegistry", of_topic_registry(log, topic0))
    } else if address == deployment.access_market {
        ("accessMarket", of_market(log, topic0))
    } else if address == deployment.device_registry {
        ("deviceRegistry", of_device_registry(log, topic0))
    } else if address == deployment.audit_log {
        ("auditLog", of_audit_log(log, topic0))
    } else {
        return Err(DecodeError::WrongAddress { address });
    };
    match decoded {
        Some(result) => result.map(Some),
        None => Err(DecodeError::UnknownEvent { contract, address, topic0 }),
    }
}

type Decoded = Option<Result<Event, DecodeError>>;

fn undecodable<E: SolEvent>(log: &Log, detail: impl ToString) -> DecodeError {
    let event = E::SIGNATURE.split('(').next().unwrap_or(E::SIGNATURE);
    DecodeError::Undecodable { event, address: log.address, detail: detail.to_string() }
}

/// Exactly what the interface says, or an error.
fn strict<E: SolEvent>(log: &Log) -> Result<E, DecodeError> {
    E::decode_log_data_validate(&log.data).map_err(|error| undecodable::<E>(log, error))
}

/// As [`strict`], except that the text may hold any octets.
fn with_free_text<E: SolEvent>(log: &Log, text: impl Fn(&E) -> &str) -> Result<E, DecodeError> {
    let refused = match E::decode_log_data_validate(&log.data) {
        Ok(event) => return Ok(event),
        Err(error) => error,
    };
    let lossy = E::decode_log_data(&log.data).map_err(|error| undecodable::<E>(log, error))?;
    // Only the text may have been the reason: everything before it must be what it encodes to.
    let again: LogData = lossy.encode_log_data();
    let fixed = fixed_part::<E>(&log.data);
    if !text(&lossy).contains(char::REPLACEMENT_CHARACTER)
        || again.topics() != log.data.topics()
        || fixed_part::<E>(&again) != fixed
    {
        return Err(undecodable::<E>(log, refused));
    }
    Ok(lossy)
}

/// The words before the text, which comes last in every event that has one.
fn fixed_part<E: SolEvent>(data: &LogData) -> &[u8] {
    let fields = E::SIGNATURE.matches(',').count() + 1;
    let fixed = fields + 1 - E::TopicList::COUNT;
    &data.data[..(fixed * 32).min(data.data.len())]
}

fn of_broker_registry(log: &Log, topic0: Option<B256>) -> Decoded {
    Some(match topic0? {
        Broker::BrokerCreated::SIGNATURE_HASH => {
            with_free_text::<Broker::BrokerCreated>(log, |e| &e.name).and_then(|e| {
                Ok(Event::BrokerCreated {
                    broker_id: e.brokerId,
                    owner: e.owner,
                    policy: naming_policy(e.policy)
                        .ok_or_else(|| undecodable::<Broker::BrokerCreated>(log, "policy"))?,
                    name: e.name,
                })
            })
        }
        Broker::BrokerOwnershipOffered::SIGNATURE_HASH => {
            strict::<Broker::BrokerOwnershipOffered>(log).map(|e| Event::BrokerOwnershipOffered {
                broker_id: e.brokerId,
                owner: e.owner,
                candidate: e.candidate,
            })
        }
        Broker::BrokerOwnershipTransferred::SIGNATURE_HASH => strict::<
            Broker::BrokerOwnershipTransferred,
        >(log)
        .map(|e| Event::BrokerOwnershipTransferred {
            broker_id: e.brokerId,
            previous_owner: e.previousOwner,
            new_owner: e.newOwner,
        }),
        Broker::NamingPolicySet::SIGNATURE_HASH => {
            strict::<Broker::NamingPolicySet>(log).and_then(|e| {
                Ok(Event::NamingPolicySet {
                    broker_id: e.brokerId,
                    policy: naming_policy(e.policy)
                        .ok_or_else(|| undecodable::<Broker::NamingPolicySet>(log, "policy"))?,
                })
            })
        }
        Broker::RegistrarSet::SIGNATURE_HASH => {
            strict::<Broker::RegistrarSet>(log).map(|e| Event::RegistrarSet {
                broker_id: e.brokerId,
                registrar: e.registrar,
                allowed: e.allowed,
            })
        }
        Broker::GatewaySet::SIGNATURE_HASH => with_free_text::<Broker::GatewaySet>(log, |e| &e.uri)
            .map(|e| Event::GatewaySet { broker_id: e.brokerId, gateway: e.gateway, uri: e.uri }),
        Broker::GatewayRemoved::SIGNATURE_HASH => strict::<Broker::GatewayRemoved>(log)
            .map(|e| Event::GatewayRemoved { broker_id: e.brokerId, gateway: e.gateway }),
        Broker::PublishFeeSet::SIGNATURE_HASH => {
            strict::<Broker::PublishFeeSet>(log).map(|e| Event::PublishFeeSet {
                broker_id: e.brokerId,
                wei_per_day: e.weiPerDay.to(),
                effective_from: e.effectiveFrom,
            })
        }
        Broker::SaleFeeSet::SIGNATURE_HASH => {
            strict::<Broker::SaleFeeSet>(log).map(|e| Event::SaleFeeSet {
                broker_id: e.brokerId,
                basis_points: e.basisPoints.to(),
                effective_from: e.effectiveFrom,
            })
        }
        Broker::WalletBanned::SIGNATURE_HASH => with_free_text::<Broker::WalletBanned>(log, |e| {
            &e.reason
        })
        .map(|e| Event::WalletBanned {
            broker_id: e.brokerId,
            wallet: e.wallet,
            by: e.by,
            until: e.until,
            evidence: e.evidence,
            reason: e.reason,
        }),
        Broker::WalletUnbanned::SIGNATURE_HASH => strict::<Broker::WalletUnbanned>(log)
            .map(|e| Event::WalletUnbanned { broker_id: e.brokerId, wallet: e.wallet, by: e.by }),
        Broker::OriginBanned::SIGNATURE_HASH => with_free_text::<Broker::OriginBanned>(log, |e| {
            &e.reason
        })
        .map(|e| Event::OriginBanned {
            broker_id: e.brokerId,
            origin: e.origin,
            by: e.by,
            until: e.until,
            evidence: e.evidence,
            reason: e.reason,
        }),
        Broker::OriginUnbanned::SIGNATURE_HASH => strict::<Broker::OriginUnbanned>(log)
            .map(|e| Event::OriginUnbanned { broker_id: e.brokerId, origin: e.origin, by: e.by }),
        _ => return None,
    })
}

fn of_topic_registry(log: &Log, topic0: Option<B256>) -> Decoded {
    Some(match topic0? {
        Topic::TopicRegistered::SIGNATURE_HASH => {
            strict::<Topic::TopicRegistered>(log).and_then(|e| {
                let refused = || undecodable::<Topic::TopicRegistered>(log, "offer mode");
                Ok(Event::TopicRegistered {
                    broker_id: e.brokerId,
                    topic_id: e.topicId,
                    owner: e.owner,
                    epoch: e.epoch,
                    name: e.name,
                    traits: traits(&e.traits),
                    publish_offer: offer(&e.publishOffer).ok_or_else(refused)?,
                    subscribe_offer: offer(&e.subscribeOffer).ok_or_else(refused)?,
                })
            })
        }
        Topic::HiddenTopicRegistered::SIGNATURE_HASH => strict::<Topic::HiddenTopicRegistered>(log)
            .and_then(|e| {
                let refused = || undecodable::<Topic::HiddenTopicRegistered>(log, "offer mode");
                Ok(Event::HiddenTopicRegistered {
                    broker_id: e.brokerId,
                    topic_id: e.topicId,
                    owner: e.owner,
                    epoch: e.epoch,
                    parent_id: e.parentId,
                    commitment: e.commitment,
                    traits: traits(&e.traits),
                    publish_offer: offer(&e.publishOffer).ok_or_else(refused)?,
                    subscribe_offer: offer(&e.subscribeOffer).ok_or_else(refused)?,
                })
            }),
        Topic::CountriesSet::SIGNATURE_HASH => strict::<Topic::CountriesSet>(log).and_then(|e| {
            let refused = || undecodable::<Topic::CountriesSet>(log, "country mode or code");
            let codes: Option<Vec<_>> = e.codes.iter().map(|code| Country::new(code.0)).collect();
            let (mode, codes) = country_mode(e.mode).zip(codes).ok_or_else(refused)?;
            // A rule that names nothing would be none, or refuse everybody: the contract takes neither.
            if (mode == CountryMode::Any) != codes.is_empty() {
                return Err(refused());
            }
            Ok(Event::CountriesSet { broker_id: e.brokerId, topic_id: e.topicId, mode, codes })
        }),
        Topic::TraitsSet::SIGNATURE_HASH => {
            strict::<Topic::TraitsSet>(log).map(|e| Event::TraitsSet {
                broker_id: e.brokerId,
                topic_id: e.topicId,
                traits: traits(&e.traits),
            })
        }
        Topic::OfferSet::SIGNATURE_HASH => strict::<Topic::OfferSet>(log).and_then(|e| {
            let refused = || undecodable::<Topic::OfferSet>(log, "right or offer mode");
            Ok(Event::OfferSet {
                broker_id: e.brokerId,
                topic_id: e.topicId,
                right: right(e.right).ok_or_else(refused)?,
                offer: offer(&e.offer).ok_or_else(refused)?,
            })
        }),
        Topic::ManagerSet::SIGNATURE_HASH => {
            strict::<Topic::ManagerSet>(log).map(|e| Event::ManagerSet {
                broker_id: e.brokerId,
                topic_id: e.topicId,
                manager: e.manager,
                allowed: e.allowed,
            })
        }
        Topic::TopicOwnershipOffered::SIGNATURE_HASH => strict::<Topic::TopicOwnershipOffered>(log)
            .map(|e| Event::TopicOwnershipOffered {
                broker_id: e.brokerId,
                topic_id: e.topicId,
                candidate: e.candidate,
                owner: e.owner,
            }),
        Topic::TopicOwnershipTransferred::SIGNATURE_HASH => strict::<
            Topic::TopicOwnershipTransferred,
        >(log)
        .map(|e| Event::TopicOwnershipTransferred {
            broker_id: e.brokerId,
            topic_id: e.topicId,
            new_owner: e.newOwner,
            previous_owner: e.previousOwner,
        }),
        Topic::TopicDeleted::SIGNATURE_HASH => {
            strict::<Topic::TopicDeleted>(log).map(|e| Event::TopicDeleted {
                broker_id: e.brokerId,
                topic_id: e.topicId,
                owner: e.owner,
                epoch: e.epoch,
            })
        }
        _ => return None,
    })
}

fn of_market(log: &Log, topic0: Option<B256>) -> Decoded {
    Some(match topic0? {
        Market::AccessGranted::SIGNATURE_HASH => {
            with_free_text::<Market::AccessGranted>(log, |e| &e.note).and_then(|e| {
                Ok(Event::AccessGranted {
                    broker_id: e.brokerId,
                    topic_id: e.topicId,
                    wallet: e.wallet,
                    right: right(e.right)
                        .ok_or_else(|| undecodable::<Market::AccessGranted>(log, "right"))?,
                    epoch: e.epoch,
                    until: e.until,
                    by: e.by,
                    fee_wei: e.feeWei,
                    purpose: e.purpose,
                    note: e.note,
                })
            })
        }
        Market::AccessBought::SIGNATURE_HASH => {
            with_free_text::<Market::AccessBought>(log, |e| &e.note).and_then(|e| {
                Ok(Event::AccessBought {
                    broker_id: e.brokerId,
                    topic_id: e.topicId,
                    wallet: e.wallet,
                    right: right(e.right)
                        .ok_or_else(|| undecodable::<Market::AccessBought>(log, "right"))?,
                    epoch: e.epoch,
                    until: e.until,
                    payer: e.payer,
                    price_wei: e.priceWei,
                    sale_fee_wei: e.saleFeeWei,
                    publish_fee_wei: e.publishFeeWei,
                    purpose: e.purpose,
                    note: e.note,
                })
            })
        }
        Market::AccessRevoked::SIGNATURE_HASH => {
            with_free_text::<Market::AccessRevoked>(log, |e| &e.note).and_then(|e| {
                Ok(Event::AccessRevoked {
                    broker_id: e.brokerId,
                    topic_id: e.topicId,
                    wallet: e.wallet,
                    right: right(e.right)
                        .ok_or_else(|| undecodable::<Market::AccessRevoked>(log, "right"))?,
                    epoch: e.epoch,
                    was: e.was,
                    refund_wei: e.refundWei,
                    by: e.by,
                    purpose: e.purpose,
                    note: e.note,
                })
            })
        }
        Market::WalletBlocked::SIGNATURE_HASH => {
            with_free_text::<Market::WalletBlocked>(log, |e| &e.note).map(|e| {
                Event::WalletBlocked {
                    broker_id: e.brokerId,
                    topic_id: e.topicId,
                    wallet: e.wallet,
                    by: e.by,
                    purpose: e.purpose,
                    note: e.note,
                }
            })
        }
        Market::WalletUnblocked::SIGNATURE_HASH => {
            strict::<Market::WalletUnblocked>(log).map(|e| Event::WalletUnblocked {
                broker_id: e.brokerId,
                topic_id: e.topicId,
                wallet: e.wallet,
                by: e.by,
            })
        }
        Market::Credited::SIGNATURE_HASH => strict::<Market::Credited>(log)
            .map(|e| Event::Credited { payee: e.payee, amount_wei: e.amountWei }),
        Market::PayoutSet::SIGNATURE_HASH => strict::<Market::PayoutSet>(log)
            .map(|e| Event::PayoutSet { payee: e.payee, to: e.to, is_pull: e.isPull }),
        Market::Withdrawn::SIGNATURE_HASH => strict::<Market::Withdrawn>(log)
            .map(|e| Event::Withdrawn { payee: e.payee, to: e.to, amount_wei: e.amountWei }),
        _ => return None,
    })
}

fn of_device_registry(log: &Log, topic0: Option<B256>) -> Decoded {
    Some(match topic0? {
        Device::DeviceAuthorized::SIGNATURE_HASH => {
            strict::<Device::DeviceAuthorized>(log).map(|e| Event::DeviceAuthorized {
                wallet: e.wallet,
                device: e.device,
                until: e.until,
                generation: e.generation,
            })
        }
        Device::DeviceRevoked::SIGNATURE_HASH => strict::<Device::DeviceRevoked>(log)
            .map(|e| Event::DeviceRevoked { wallet: e.wallet, device: e.device }),
        Device::AllDevicesRevoked::SIGNATURE_HASH => strict::<Device::AllDevicesRevoked>(log)
            .map(|e| Event::AllDevicesRevoked { wallet: e.wallet, generation: e.generation }),
        Device::TokensInvalidated::SIGNATURE_HASH => strict::<Device::TokensInvalidated>(log)
            .map(|e| Event::TokensInvalidated { wallet: e.wallet, before: e.before }),
        Device::NonceUsed::SIGNATURE_HASH => strict::<Device::NonceUsed>(log)
            .map(|e| Event::NonceUsed { wallet: e.wallet, nonce: e.nonce }),
        _ => return None,
    })
}

fn of_audit_log(log: &Log, topic0: Option<B256>) -> Decoded {
    Some(match topic0? {
        Audit::AlertRaised::SIGNATURE_HASH => strict::<Audit::AlertRaised>(log).and_then(|e| {
            Ok(Event::AlertRaised {
                broker_id: e.brokerId,
                topic_id: e.topicId,
                wallet: e.wallet,
                gateway: e.gateway,
                kind: alert_kind(e.kind)
                    .ok_or_else(|| undecodable::<Audit::AlertRaised>(log, "kind"))?,
                count: e.count,
                first_at: e.firstAt,
                last_at: e.lastAt,
                evidence: e.evidence,
            })
        }),
        Audit::Anchored::SIGNATURE_HASH => {
            strict::<Audit::Anchored>(log).map(|e| Event::Anchored {
                broker_id: e.brokerId,
                gateway: e.gateway,
                sequence: e.sequence,
                root: e.root,
                previous: e.previous,
                count: e.count,
            })
        }
        _ => return None,
    })
}

const fn naming_policy(number: u8) -> Option<NamingPolicy> {
    Some(match number {
        0 => NamingPolicy::OwnBranch,
        1 => NamingPolicy::Curated,
        2 => NamingPolicy::Open,
        _ => return None,
    })
}

const fn right(number: u8) -> Option<Right> {
    Some(match number {
        0 => Right::Publish,
        1 => Right::Subscribe,
        _ => return None,
    })
}

const fn country_mode(number: u8) -> Option<CountryMode> {
    Some(match number {
        0 => CountryMode::Any,
        1 => CountryMode::Only,
        2 => CountryMode::Except,
        _ => return None,
    })
}

const fn alert_kind(number: u8) -> Option<AlertKind> {
    Some(match number {
        0 => AlertKind::PublishRefused,
        1 => AlertKind::SubscribeRefused,
        2 => AlertKind::WillRefused,
        3 => AlertKind::DeliveryWithheld,
        4 => AlertKind::SessionEnded,
        _ => return None,
    })
}

fn offer(offer: &Topic::Offer) -> Option<Offer> {
    let mode = match offer.mode {
        0 => OfferMode::Closed,
        1 => OfferMode::Priced,
        2 => OfferMode::Public,
        _ => return None,
    };
    Some(Offer { mode, period: offer.period, price_wei: offer.priceWei })
}

const fn traits(traits: &Topic::Traits) -> Traits {
    Traits { retain: traits.retain, sensitive: traits.sensitive, own_branch: traits.ownBranch }
}

#[cfg(test)]
mod tests;
