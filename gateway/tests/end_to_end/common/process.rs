//! A gateway process beside the site's own, with a changed configuration, that need not get ready.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use eyre::{Result, eyre};
use flytrap_site::Child;
use toml::{Table, Value};

use super::{PATIENCE, Stage, watch_log};

/// The process.
pub struct Process {
    /// Itself: its log, its end.
    pub child: Child,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
}

/// The gateway's program: the one that was built with the tests, unless `FLYTRAP_GATEWAY_BIN` names another.
pub fn program() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_flytrap-gateway");
    std::env::var_os("FLYTRAP_GATEWAY_BIN").map_or_else(|| built.into(), PathBuf::from)
}

/// Sets `table.section.key`, whether there is one or not.
pub fn set(table: &mut Table, section: &str, key: &str, value: impl Into<Value>) {
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Some(section) = section.as_table_mut() {
        section.insert(key.into(), value.into());
    }
}

impl Stage {
    /// The site's configuration of its gateway, as a table.
    ///
    /// # Errors
    /// If there is none.
    pub fn config(&self) -> Result<Table> {
        Ok(fs::read_to_string(&self.site.gateway()?.config)?.parse()?)
    }

    /// Writes a configuration for a gateway called `name`, with a state directory of its own.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_config(
        &self,
        name: &str,
        edit: impl FnOnce(&mut Table),
    ) -> Result<(PathBuf, PathBuf)> {
        let mut table = self.config()?;
        let state = self.site.dir().join(format!("{name}-state"));
        table.insert("state_dir".into(), state.display().to_string().into());
        edit(&mut table);
        let file = self.site.dir().join(format!("{name}.toml"));
        fs::write(&file, toml::to_string(&table)?)?;
        Ok((file, state))
    }

    /// Starts a gateway with the site's configuration as changed by `edit`, and does not wait for it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn_gateway(&self, name: &str, edit: impl FnOnce(&mut Table)) -> Result<Process> {
        let (config, state) = self.write_config(name, edit)?;
        let child = self.launch(name, &config)?;
        watch_log(child.log_file().to_owned())?;
        Ok(Process { child, config, state })
    }

    /// Starts a gateway with a configuration file as it is.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn launch(&self, name: &str, config: &Path) -> Result<Child> {
        let mut command = Command::new(program());
        command.arg("run").arg("--config").arg(config).env("FLYTRAP_LOG", "info,flytrap=debug");
        self.site.spawn(name, command)
    }
}

impl Process {
    /// Where its listener with this name is, once it says so.
    ///
    /// # Errors
    /// If it does not.
    pub async fn listener(&mut self, name: &str) -> Result<SocketAddr> {
        let end = format!(" ({name})");
        self.address_after("listening on ", &end).await
    }

    /// Where its health is served, once it says so.
    ///
    /// # Errors
    /// If it does not.
    pub async fn health(&mut self) -> Result<SocketAddr> {
        self.address_after("health and metrics on http://", "\"").await
    }

    async fn address_after(&mut self, before: &str, after: &str) -> Result<SocketAddr> {
        let find = |log: &str| {
            log.lines().find_map(|line| {
                let (_, rest) = line.split_once(before)?;
                let (address, _) = rest.split_once(after)?;
                address.parse().ok()
            })
        };
        self.child.until_logged(before, PATIENCE, find).await.map_err(|error| eyre!("{error}"))
    }
}
