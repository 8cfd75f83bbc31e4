//! Where the programs of a site are: in the project's `node_modules`, on the machine, beside the running program.

use std::env;
use std::path::{Path, PathBuf};

use eyre::{Result, bail, eyre};

/// The project's folder: the nearest one above the working directory, or above the running program, that has the contracts.
///
/// # Errors
/// If there is none; `FLYTRAP_ROOT` names it then.
pub fn project_root() -> Result<PathBuf> {
    if let Some(root) = env::var_os("FLYTRAP_ROOT") {
        return Ok(root.into());
    }
    let starts = [env::current_dir().ok(), env::current_exe().ok()];
    starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .find(|dir| dir.join("foundry.toml").is_file() && dir.join("src-sol").is_dir())
        .map(Path::to_path_buf)
        .ok_or_else(|| eyre!("the FlyTrap source folder (with `foundry.toml`) was not found: run inside it, or set FLYTRAP_ROOT to it"))
}

/// The name by which npm calls this platform's build of the Foundry programs.
fn foundry_platform() -> Option<&'static str> {
    match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") => Some("linux-amd64"),
        ("linux", "aarch64") => Some("linux-arm64"),
        ("macos", "x86_64") => Some("darwin-amd64"),
        ("macos", "aarch64") => Some("darwin-arm64"),
        _ => None,
    }
}

/// A Foundry program (`anvil`, `forge`): from `node_modules`, else from the search path, else from `~/.foundry/bin`.
///
/// # Errors
/// If it is in none of them.
pub(crate) fn foundry(root: &Path, name: &str) -> Result<PathBuf> {
    let packaged = foundry_platform().map(|platform| {
        root.join(format!("node_modules/@foundry-rs/{name}-{platform}/bin/{name}"))
    });
    let installed =
        env::var_os("HOME").map(|home| Path::new(&home).join(".foundry/bin").join(name));
    let found = packaged.filter(|file| file.is_file()).or_else(|| on_path(name));
    match found.or_else(|| installed.filter(|file| file.is_file())) {
        Some(file) => Ok(file),
        None => bail!(
            "`{name}` was not found in {}, on the search path or in ~/.foundry/bin: run `make setup`",
            root.join("node_modules/@foundry-rs").display()
        ),
    }
}

/// A program on the search path, or where system daemons are (which not every user's search path has).
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The gateway's binary: `FLYTRAP_GATEWAY_BIN`, else beside the running program or one folder above it (where cargo puts
/// the programs that belong to a test).
///
/// # Errors
/// If it is in neither.
pub fn gateway() -> Result<PathBuf> {
    built("flytrap-gateway", "flytrap-gateway", "FLYTRAP_GATEWAY_BIN")
}

/// The command line `flytrap`: `FLYTRAP_BIN`, else where [`gateway`] looks.
///
/// # Errors
/// If it is in neither.
pub fn command_line() -> Result<PathBuf> {
    built("flytrap", "flytrap-cli", "FLYTRAP_BIN")
}

fn built(name: &str, package: &str, variable: &str) -> Result<PathBuf> {
    if let Some(file) = env::var_os(variable) {
        return Ok(file.into());
    }
    let exe = env::current_exe()?;
    exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|file| file.is_file()).ok_or_else(
        || {
            eyre!(
                "`{name}` was not found beside {}: build it (`cargo build -p {package}`) or set {variable}",
                exe.display()
            )
        },
    )
}
