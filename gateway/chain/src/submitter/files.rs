//! Files that are whole or absent, whenever the machine stops, and that tell if they are no longer what was written.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use alloy::primitives::{B256, keccak256};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Largest file that is read: more than all that may wait, folded.
const MAX_OCTETS: u64 = 64 << 20;
const VERSION: u32 = 1;

/// Content of a file with its checksum.
#[derive(Debug, Serialize, Deserialize)]
struct Sealed<T> {
    version: u32,
    id: B256,
    content: T,
}

/// Writes a file beside its place, syncs it and renames it. Returns its id.
pub(super) fn write<T: Serialize>(path: &Path, content: &T) -> io::Result<B256> {
    let id = keccak256(serde_json::to_vec(content)?);
    let text = serde_json::to_vec(&Sealed { version: VERSION, id, content })?;
    let beside = path.with_extension("tmp");
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        // Best effort: a leftover is removed at the next start.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    sync_directory(path.parent().unwrap_or(path))?;
    Ok(id)
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Reads a file and checks that it is what was written. `None` if there is none.
pub(super) fn read<T: Serialize + DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut octets = Vec::new();
    file.take(MAX_OCTETS).read_to_end(&mut octets)?;
    let sealed: Sealed<T> = serde_json::from_slice(&octets)?;
    let id = keccak256(serde_json::to_vec(&sealed.content)?);
    if sealed.version != VERSION || sealed.id != id {
        let detail = format!(
            "version {} with checksum {}, wanted version {VERSION} with {id}",
            sealed.version, sealed.id
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
    }
    Ok(Some(sealed.content))
}
