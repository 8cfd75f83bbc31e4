//! The contracts' events, from `abi/`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; documented in src-sol/interfaces"
)]

mod broker {
    alloy::sol!(IBrokerRegistry, "../../abi/IBrokerRegistry.json");
}
mod topic {
    alloy::sol!(ITopicRegistry, "../../abi/ITopicRegistry.json");
}
mod market {
    alloy::sol!(IAccessMarket, "../../abi/IAccessMarket.json");
}
mod device {
    alloy::sol!(IDeviceRegistry, "../../abi/IDeviceRegistry.json");
}

pub use broker::IBrokerRegistry::IBrokerRegistryEvents;
pub use device::IDeviceRegistry::IDeviceRegistryEvents;
pub use market::IAccessMarket::IAccessMarketEvents;
pub use topic::ITopicRegistry::ITopicRegistryEvents;

// The tests make events themselves.
#[cfg(test)]
pub use {
    device::IDeviceRegistry as device_events, market::IAccessMarket as market_events,
    topic::ITopicRegistry as topic_events,
};
