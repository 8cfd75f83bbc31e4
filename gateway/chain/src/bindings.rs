//! The contracts as Rust types, generated from `abi/`. Enums are plain integers of eight bits.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; documented in src-sol/interfaces"
)]

// The market's interface drags in names of the topics' one, so each contract has a module of its own.
mod broker {
    alloy::sol!(
        #[sol(extra_derives(Debug, PartialEq, Eq))]
        IBrokerRegistry,
        "../../abi/IBrokerRegistry.json"
    );
}
mod topic {
    alloy::sol!(
        #[sol(extra_derives(Debug, PartialEq, Eq))]
        ITopicRegistry,
        "../../abi/ITopicRegistry.json"
    );
}
mod market {
    alloy::sol!(
        #[sol(extra_derives(Debug, PartialEq, Eq))]
        IAccessMarket,
        "../../abi/IAccessMarket.json"
    );
}
mod device {
    alloy::sol!(
        #[sol(extra_derives(Debug, PartialEq, Eq))]
        IDeviceRegistry,
        "../../abi/IDeviceRegistry.json"
    );
}
mod audit {
    alloy::sol!(
        #[sol(extra_derives(Debug, PartialEq, Eq))]
        IAuditLog,
        "../../abi/IAuditLog.json"
    );
}

pub use audit::IAuditLog;
pub use broker::IBrokerRegistry;
pub use device::IDeviceRegistry;
pub use market::IAccessMarket;
pub use topic::ITopicRegistry;

/// The interfaces as they are in `abi/`, for whoever decodes by name.
pub(crate) const ABI: [(&str, &str); 5] = [
    ("IBrokerRegistry", include_str!("../../../abi/IBrokerRegistry.json")),
    ("ITopicRegistry", include_str!("../../../abi/ITopicRegistry.json")),
    ("IAccessMarket", include_str!("../../../abi/IAccessMarket.json")),
    ("IDeviceRegistry", include_str!("../../../abi/IDeviceRegistry.json")),
    ("IAuditLog", include_str!("../../../abi/IAuditLog.json")),
];
