//! Where the contracts are: `deployments/<chain id>.json`, as `script/Deploy.s.sol` writes it.

use std::{
    io,
    path::{Path, PathBuf},
};

use alloy::primitives::Address;
use serde::{Deserialize, Serialize};

/// One deployment of the contracts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// The chain they are on.
    pub chain_id: u64,
    /// The first block that may hold a log of theirs.
    pub block: u64,
    /// `IBrokerRegistry`.
    pub broker_registry: Address,
    /// `ITopicRegistry`, which the market has deployed.
    pub topic_registry: Address,
    /// `IAccessMarket`.
    pub access_market: Address,
    /// `IDeviceRegistry`.
    pub device_registry: Address,
    /// `IAuditLog`.
    pub audit_log: Address,
}

/// Why a deployment file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// It cannot be read.
    #[error("deployment file {path}: {source}: deploy with `make deploy`, or correct the path", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "deployment file {path}: {source}; wanted {{\"chainId\", \"block\", \"brokerRegistry\", \"topicRegistry\", \
         \"accessMarket\", \"deviceRegistry\", \"auditLog\"}}: deploy again, or correct the file", path = .path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it stopped making sense.
        source: serde_json::Error,
    },
    /// The upper and lower case of an address says that it was mistyped (EIP-55).
    #[error(
        "deployment file {path}: `{field}` is {found}, whose checksum is wrong (these digits would be written {wanted}): a digit \
         may be mistyped; take the file as the deploy script wrote it", path = .path.display()
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What stands there.
        found: String,
        /// The same digits with their checksum.
        wanted: Address,
    },
    /// Two contracts at one address, or one at zero.
    #[error(
        "deployment file {path}: `{field}` is {address}, which is zero or the address of another contract: deploy again, \
         or correct the file", path = .path.display()
    )]
    WrongAddress {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What stands there.
        address: Address,
    },
}

impl Deployment {
    /// Reads a deployment file.
    ///
    /// # Errors
    /// [`DeploymentError`] if it cannot be read, is no such file, or has an address with a wrong checksum or twice.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, DeploymentError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| DeploymentError::Unreadable { path: path.into(), source })?;
        let deployment: Self = serde_json::from_str(&text)
            .map_err(|source| DeploymentError::Malformed { path: path.into(), source })?;
        let addresses = deployment.addresses();
        let written: serde_json::Value = serde_json::from_str(&text)
            .map_err(|source| DeploymentError::Malformed { path: path.into(), source })?;
        for (field, address) in addresses {
            let found = written[field].as_str().unwrap_or_default();
            if is_mixed_case(found) && Address::parse_checksummed(found, None).is_err() {
                let (path, found) = (path.into(), found.to_owned());
                return Err(DeploymentError::Checksum { path, field, found, wanted: address });
            }
        }
        for (at, (field, address)) in addresses.iter().enumerate() {
            if address.is_zero() || addresses[..at].iter().any(|(_, earlier)| earlier == address) {
                return Err(DeploymentError::WrongAddress {
                    path: path.into(),
                    field,
                    address: *address,
                });
            }
        }
        Ok(deployment)
    }

    /// The contracts whose events begin with the number of a broker, some of the market's apart.
    pub(crate) const fn of_brokers(&self) -> [Address; 4] {
        [self.broker_registry, self.topic_registry, self.access_market, self.audit_log]
    }

    /// The contracts with the names of their fields.
    #[must_use]
    pub const fn addresses(&self) -> [(&'static str, Address); 5] {
        [
            ("brokerRegistry", self.broker_registry),
            ("topicRegistry", self.topic_registry),
            ("accessMarket", self.access_market),
            ("deviceRegistry", self.device_registry),
            ("auditLog", self.audit_log),
        ]
    }
}

/// Only an address in both cases carries a checksum.
fn is_mixed_case(address: &str) -> bool {
    let digits = address.strip_prefix("0x").unwrap_or(address);
    digits.contains(|c: char| c.is_ascii_lowercase())
        && digits.contains(|c: char| c.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("31337.json");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn text(audit_log: &str) -> String {
        format!(
            r#"{{"chainId":31337,"block":3,
                "brokerRegistry":"0x0000000000000000000000000000000000000001",
                "topicRegistry":"0x0000000000000000000000000000000000000002",
                "accessMarket":"0x0000000000000000000000000000000000000005",
                "deviceRegistry":"0x0000000000000000000000000000000000000003",
                "auditLog":"{audit_log}"}}"#
        )
    }

    #[test]
    fn a_deployment_is_read_as_the_deploy_script_writes_it() {
        let (_dir, path) = written(&text("0x0000000000000000000000000000000000000004"));
        let deployment = Deployment::read(path).unwrap();
        assert_eq!((deployment.chain_id, deployment.block), (31337, 3));
        assert_eq!(deployment.audit_log, Address::with_last_byte(4));
        assert_eq!(deployment.access_market, Address::with_last_byte(5));
    }

    #[test]
    fn an_address_that_stands_twice_or_is_zero_is_refused_by_name() {
        for wrong in [
            "0x0000000000000000000000000000000000000001",
            "0x0000000000000000000000000000000000000000",
        ] {
            let (_dir, path) = written(&text(wrong));
            let error = Deployment::read(path).unwrap_err();
            assert!(
                matches!(error, DeploymentError::WrongAddress { field: "auditLog", .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn an_address_in_both_cases_must_have_its_checksum_and_one_in_one_case_has_none() {
        let good = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        let bad = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD";
        for right in [good, &good.to_lowercase(), &good.to_uppercase().replace("0X", "0x")] {
            let (_dir, path) = written(&text(right));
            assert!(Deployment::read(path).is_ok(), "{right}");
        }
        let (_dir, path) = written(&text(bad));
        let error = Deployment::read(path).unwrap_err();
        assert!(
            matches!(&error, DeploymentError::Checksum { field: "auditLog", found, .. } if found == bad),
            "{error}"
        );
    }

    #[test]
    fn a_missing_and_a_torn_file_are_told_apart() {
        let (dir, path) = written("{\"chainId\":31337,");
        assert!(matches!(Deployment::read(path), Err(DeploymentError::Malformed { .. })));
        assert!(matches!(
            Deployment::read(dir.path().join("1.json")),
            Err(DeploymentError::Unreadable { .. })
        ));
    }
}
