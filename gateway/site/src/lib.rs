//! A whole local site: chain, contracts, broker, recorder and gateway, all on free ports of this machine.
//!
//! `flytrap demo` and the end-to-end tests stand on it. Everything lives in one temporary directory and in child processes
//! that end with the [`Site`], however that ends (see [`ground`]).
//!
//! ```no_run
//! # async fn example() -> eyre::Result<()> {
//! let site = flytrap_site::Site::start(flytrap_site::SiteOptions::default()).await?;
//! let gateway = site.gateway()?.listener("mqtt")?;
//! let login = site.token(&site.wallets.reader, "reader-1")?;
//! # Ok(()) }
//! ```
//!
//! The order of a start: authority; chain with contracts and broker side by side; the broker's entry on chain; recorder;
//! gateway. Fields end in the order they are written, so the gateway goes before what it leans on.

mod authority;
mod broker;
mod chain;
mod contracts;
mod fault;
mod gateway;
mod ground;
mod postgres;
pub mod raw;
mod recorder;
mod spy;
mod tools;
mod wallets;
mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy::primitives::U256;
use eyre::{Result, eyre};
use flytrap_chain::Deployment;
use flytrap_chain::Wallet;
use flytrap_chain::keys::Key;
use flytrap_policy::credential;

pub use authority::{Authority, Identity};
pub use broker::{Broker, BrokerKind, BrokerOptions};
pub use chain::{Chain, ChainOptions};
pub use contracts::Deploy;
pub use fault::{Fault, FaultProxy};
pub use gateway::Gateway;
pub use ground::Child;
pub use postgres::Postgres;
pub use recorder::{Direction, Recorder, Seen};
pub use spy::Spy;
pub use tools::{command_line, gateway as gateway_program, on_path, project_root};
pub use wallets::{Device, Login, Wallets, token, token_between, unix_now};
pub use wire::{Connect, Packet, Publish, Reader};

use ground::Ground;

/// What a site is to be like. The default: a block per transaction, Mosquitto, a recorder, one gateway.
#[derive(Clone, Debug)]
pub struct SiteOptions {
    /// How the chain makes blocks.
    pub chain: ChainOptions,
    /// How the contracts get there.
    pub deploy: Deploy,
    /// The broker.
    pub broker: BrokerOptions,
    /// Is there a recorder between gateway and broker? Not with a TLS broker, whose octets say nothing.
    pub recorder: bool,
    /// Is a gateway started? Without, use [`Site::start_gateway`].
    pub gateway: bool,
    /// TOML laid over the site's configuration of the gateway: tables are merged, all else is replaced.
    pub gateway_config: String,
    /// Does the gateway follow the chain by WebSocket instead of HTTP?
    pub websocket: bool,
    /// Who may register topics at the top.
    pub naming: flytrap_policy::NamingPolicy,
    /// The gateway's binary, if it is not where [`tools`] looks.
    pub gateway_bin: Option<PathBuf>,
    /// The gateway's plain port, and its TLS port; free ones otherwise.
    pub ports: Option<(u16, u16)>,
    /// Is told what is being started.
    pub progress: fn(&str),
}

impl Default for SiteOptions {
    fn default() -> Self {
        Self {
            chain: ChainOptions::default(),
            deploy: Deploy::default(),
            broker: BrokerOptions::default(),
            recorder: true,
            gateway: true,
            gateway_config: String::new(),
            websocket: false,
            naming: flytrap_policy::NamingPolicy::Open,
            gateway_bin: None,
            ports: None,
            progress: |_| {},
        }
    }
}

/// A running site.
#[derive(Debug)]
pub struct Site {
    gateway: Option<Gateway>,
    recorder: Option<Recorder>,
    /// The broker.
    pub broker: Broker,
    /// The chain.
    pub chain: Chain,
    /// The accounts.
    pub wallets: Wallets,
    /// Where the contracts are.
    pub deployment: Deployment,
    /// The deployment file.
    pub deployment_file: PathBuf,
    /// The folder with `<role>.key` for every role.
    pub keys: PathBuf,
    /// The broker's number on chain.
    pub broker_id: U256,
    /// Makes certificates.
    pub authority: Authority,
    identity: Identity,
    options: SiteOptions,
    root: PathBuf,
    ground: Arc<Ground>,
}

impl Site {
    /// Starts everything and waits until it serves.
    ///
    /// # Errors
    /// If a part is missing or does not come up, with the end of its log. What was started is ended.
    pub async fn start(options: SiteOptions) -> Result<Self> {
        let root = project_root()?;
        let ground = Ground::new()?;
        let authority = Authority::new(&ground)?;
        let identity = authority.identify("server")?;
        let tell = options.progress;
        let chain = async {
            tell("starting a chain");
            let chain = Chain::start(&ground, &root, &options.chain).await?;
            tell("deploying the contracts");
            let file = contracts::deploy(&ground, &root, &chain, options.deploy).await?;
            Ok::<_, eyre::Report>((chain, file))
        };
        let broker = Broker::start(&ground, &root, &options.broker, &identity);
        let ((chain, deployment_file), broker) = tokio::try_join!(chain, broker)?;
        let deployment = Deployment::read(&deployment_file)?;
        let wallets = Wallets::of(&chain)?;
        let keys = wallets.write(&ground)?;
        tell("entering the broker on chain");
        let recorder = if options.recorder && broker.tls_address().is_none() {
            Some(Recorder::start(broker.address()).await?)
        } else {
            None
        };
        let mut site = Self {
            gateway: None,
            recorder,
            broker,
            chain,
            wallets,
            deployment,
            deployment_file,
            keys,
            broker_id: U256::ZERO,
            authority,
            identity,
            options,
            root,
            ground,
        };
        site.broker_id = site.enter_broker().await?;
        if site.options.gateway {
            tell("starting the gateway");
            site.gateway = Some(site.start_gateway("gateway", &site.wallets.gateway, "").await?);
        }
        Ok(site)
    }

    /// The gateway.
    ///
    /// # Errors
    /// If the options said that there is none.
    pub fn gateway(&self) -> Result<&Gateway> {
        self.gateway.as_ref().ok_or_else(|| eyre!("this site was started without a gateway"))
    }

    /// The gateway, to stop or restart it.
    ///
    /// # Errors
    /// If the options said that there is none.
    pub fn gateway_mut(&mut self) -> Result<&mut Gateway> {
        self.gateway.as_mut().ok_or_else(|| eyre!("this site was started without a gateway"))
    }

    /// Starts one more gateway, in front of the same broker, with `overrides` laid over the site's configuration. Its key must
    /// have been registered for its bans and alerts to count.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn start_gateway(&self, name: &str, key: &Key, overrides: &str) -> Result<Gateway> {
        let chain = if self.options.websocket { self.chain.ws() } else { self.chain.http() };
        let broker = match (&self.recorder, self.broker.tls_address()) {
            (Some(recorder), _) => recorder.address(),
            (None, Some(tls)) => tls,
            (None, None) => self.broker.address(),
        };
        let facts = gateway::Facts {
            ground: &self.ground,
            name,
            urls: vec![chain.to_string()],
            deployment: &self.deployment_file,
            broker_id: self.broker_id,
            broker,
            broker_ca: self.broker.tls_address().map(|_| self.authority.certificate.as_path()),
            key,
            identity: &self.identity,
            ports: self.options.ports,
        };
        let mut table = gateway::config(&facts, &self.options.gateway_config)?;
        gateway::merge(&mut table, self.broker.gateway_config(&self.ground)?);
        gateway::merge(&mut table, overrides.parse()?);
        let program = match &self.options.gateway_bin {
            Some(file) => file.clone(),
            None => tools::gateway()?,
        };
        Gateway::start(&self.ground, &program, name, &table).await
    }

    /// Starts one more broker, of another maker than the site's, for a gateway of its own. It ends when dropped.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start_broker(&self, kind: BrokerKind) -> Result<Broker> {
        let options = BrokerOptions { kind, ..BrokerOptions::default() };
        Broker::start(&self.ground, &self.root, &options, &self.identity).await
    }

    /// The recorder between gateway and broker.
    ///
    /// # Errors
    /// If there is none.
    pub fn recorder(&self) -> Result<&Recorder> {
        self.recorder.as_ref().ok_or_else(|| eyre!("this site was started without a recorder"))
    }

    /// A subscriber directly at the broker, for `filter`.
    ///
    /// # Errors
    /// If it does not get its SUBACK.
    pub async fn spy(&self, filter: &str) -> Result<Spy> {
        Spy::start(self.broker.address(), self.broker.login(), filter).await
    }

    /// The place that proofs are made for.
    #[must_use]
    pub fn place(&self) -> credential::Site {
        wallets::place(self.deployment.chain_id, self.deployment.broker_registry, self.broker_id)
    }

    /// A token of `key` for `client_id` that lives for an hour.
    ///
    /// # Errors
    /// If the clock is past 2106.
    pub fn token(&self, key: &Key, client_id: &str) -> Result<Login> {
        self.token_of_life(key, client_id, 3600)
    }

    /// A token of `key` for `client_id` that lives for so many seconds more.
    ///
    /// # Errors
    /// If the clock is past 2106.
    pub fn token_of_life(&self, key: &Key, client_id: &str, life: u64) -> Result<Login> {
        token(key, &self.place(), client_id, life)
    }

    /// The CA certificate for `--cafile`.
    #[must_use]
    pub fn ca_file(&self) -> &Path {
        &self.authority.certificate
    }

    /// The key file of a role, such as `topic-owner`.
    #[must_use]
    pub fn key_file(&self, role: &str) -> PathBuf {
        wallets::key_file(&self.keys, role)
    }

    /// The site's own directory, gone with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.ground.dir()
    }

    /// The project's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Starts a program of your own that ends with the site and logs to `<name>.log` in its directory.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, name: &str, command: std::process::Command) -> Result<Child> {
        Child::spawn(&self.ground, name, command)
    }

    /// A wallet on the site's chain, for every call that the contracts take.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn wallet(&self, key: &Key) -> Result<Wallet> {
        let wallet =
            Wallet::connect(vec![self.chain.http()], self.deployment.clone(), key.clone()).await?;
        Ok(wallet.with_patience(std::time::Duration::from_secs(30)))
    }

    /// Creates the broker on chain and registers the gateway's key.
    async fn enter_broker(&self) -> Result<U256> {
        let owner = self.wallet(&self.wallets.broker_owner).await?;
        let (broker_id, _) = owner.create_broker(self.options.naming, "Local site").await?;
        owner.set_gateway(broker_id, self.wallets.gateway.address(), "mqtts://localhost").await?;
        Ok(broker_id)
    }

    /// A device that acts for `owner`: makes a password, authorizes its key on chain.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn device(
        &self,
        owner: &Wallet,
        seed: &[u8; 20],
        client_id: &str,
        until: u64,
    ) -> Result<Device> {
        let device = Device::from_seed(seed, client_id)?;
        owner.authorize_device_key(&device.key, until).await?;
        Ok(device)
    }

    /// The gateway's plain listener.
    ///
    /// # Errors
    /// If there is no gateway.
    pub fn mqtt(&self) -> Result<SocketAddr> {
        self.gateway()?.listener("mqtt")
    }

    /// The gateway's TLS listener.
    ///
    /// # Errors
    /// If there is no gateway.
    pub fn mqtts(&self) -> Result<SocketAddr> {
        self.gateway()?.listener("mqtts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_site_has_a_broker_on_chain_whose_gateway_may_write() {
        let site = Site::start(SiteOptions { gateway: false, ..SiteOptions::default() })
            .await
            .expect("a site");
        let owner = site.wallet(&site.wallets.broker_owner).await.expect("a wallet");
        assert_eq!(owner.broker_owner(site.broker_id).await.expect("an owner"), owner.address());
        let gateway = site.wallets.gateway.address();
        assert!(owner.is_gateway(site.broker_id, gateway).await.expect("an answer"));
        assert!(site.gateway().is_err());
        let key = Key::read(site.key_file("topic-owner"), None).expect("a key file");
        assert_eq!(key.address(), site.wallets.topic_owner.address());
        let dir = site.dir().to_owned();
        drop(site);
        assert!(!dir.exists());
    }
}
