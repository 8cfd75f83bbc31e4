//! Files that the configuration names: who may read them is checked before what is in them.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::Secret;

/// Nothing that the configuration names is larger; a device file or a log named by mistake is not read to its end.
const MOST_OCTETS: u64 = 4 * 1024 * 1024;

/// Who may be able to read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// It holds no secret.
    Anyone,
    /// It does.
    OwnerOnly,
}

/// The 32 octets that 64 hexadecimal digits stand for; white space around them is ignored.
pub(crate) fn pseudonym_key(text: &[u8]) -> Option<Secret<[u8; 32]>> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let mut key = Zeroizing::new([0; 32]);
    if text.len() != 64 {
        return None;
    }
    alloy_primitives::hex::decode_to_slice(text, key.as_mut_slice()).ok()?;
    Some(Secret::new(*key))
}

/// Reads a whole file of reasonable size.
///
/// # Errors
/// A sentence that says what is wrong and what to do.
pub(crate) fn read(path: &Path, readers: Readers) -> Result<Zeroizing<Vec<u8>>, String> {
    let file =
        fs::File::open(path).map_err(|e| format!("{e}; create the file or correct the path"))?;
    let facts = file.metadata().map_err(|e| e.to_string())?;
    if !facts.is_file() {
        return Err("is no regular file; correct the path".to_owned());
    }
    let mode = facts.permissions().mode() & 0o777;
    if readers == Readers::OwnerOnly && mode & 0o077 != 0 {
        return Err(format!(
            "others may read or write it (mode {mode:04o}), and it holds a secret: run `chmod 600`"
        ));
    }
    if facts.len() > MOST_OCTETS {
        return Err(format!(
            "has {} octets, far too many for what it should hold; correct the path",
            facts.len()
        ));
    }
    let mut octets =
        Zeroizing::new(Vec::with_capacity(usize::try_from(facts.len()).unwrap_or_default() + 1));
    file.take(MOST_OCTETS).read_to_end(&mut octets).map_err(|e| format!("cannot read it: {e}"))?;
    Ok(octets)
}
