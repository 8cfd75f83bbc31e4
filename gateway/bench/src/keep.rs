//! Where results are kept for programs: `target/eval/<name>.json`.

use std::fs;
use std::path::PathBuf;

use eyre::{Result, WrapErr as _};
use flytrap_site::project_root;
use serde_json::Value;

/// The folder, made if it is missing.
///
/// # Errors
/// If it cannot be made.
pub fn folder() -> Result<PathBuf> {
    let dir = project_root()?.join("target/eval");
    fs::create_dir_all(&dir).wrap_err_with(|| dir.display().to_string())?;
    Ok(dir)
}

/// Writes raw results and says where.
///
/// # Errors
/// If they cannot be written.
pub fn write(name: &str, results: &Value) -> Result<PathBuf> {
    let file = folder()?.join(format!("{name}.json"));
    let text = serde_json::to_vec_pretty(results)?;
    fs::write(&file, text).wrap_err_with(|| file.display().to_string())?;
    println!("raw results: {}", file.display());
    Ok(file)
}

/// What was written last under a name, if anything was.
///
/// # Errors
/// If it is there and no JSON.
pub fn read(name: &str) -> Result<Option<Value>> {
    let file = folder()?.join(format!("{name}.json"));
    if !file.is_file() {
        return Ok(None);
    }
    let text = fs::read(&file)?;
    Ok(Some(serde_json::from_slice(&text).wrap_err_with(|| file.display().to_string())?))
}
