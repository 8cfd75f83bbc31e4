//! The state on disk, so that a restart reads only what has happened since: one file, whole or worthless.
//!
//! It is written beside its place and renamed into it, both reached by `fsync`, so that after a crash there is the old one or the
//! new one. It says of which deployment, broker and block it is, and ends with a checksum over all that. Nothing in it is believed
//! before that fits, and the state only counts once a node has the block on its chain. Whatever does not fit costs a reading of
//! the chain from the deployment on, never a wrong state.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use alloy::primitives::{B256, Bloom, Keccak256, U256};
use flytrap_policy::{Registry, STORE_VERSION};
use sha2::{Digest, Sha256};

use crate::{Deployment, Header};

const MAGIC: &[u8; 16] = b"FlyTrap mirror\r\n";
/// Of the frame; the state within has its own.
const VERSION: u32 = 2;
const BUFFER_OCTETS: usize = 1 << 20;
const SUM_OCTETS: usize = 32;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The system's.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Another file altogether.
    #[error("it is no snapshot")]
    NoSnapshot,
    /// Of an older or newer gateway.
    #[error("it has version {found}, this gateway writes {wanted}")]
    Version {
        /// In the file.
        found: u64,
        /// Of this program.
        wanted: u64,
    },
    /// Of other contracts or another broker.
    #[error("it is of another deployment or broker")]
    Other,
    /// Torn or flipped.
    #[error("its checksum is wrong: it was cut off or changed")]
    Checksum,
}

/// The versions of frame and state in one number.
const fn version() -> u64 {
    ((VERSION as u64) << 32) | STORE_VERSION as u64
}

/// What tells deployments and brokers apart.
fn subject(deployment: &Deployment, broker_id: U256) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(deployment.chain_id.to_be_bytes());
    hasher.update(deployment.block.to_be_bytes());
    for (_, address) in deployment.addresses() {
        hasher.update(address);
    }
    hasher.update(broker_id.to_be_bytes::<32>());
    hasher.finalize()
}

fn unfinished(path: &Path) -> PathBuf {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    unfinished.into()
}

/// Writes the state after a block.
///
/// # Errors
/// Those of the file system; what was there before then still is.
pub fn write(
    path: &Path,
    deployment: &Deployment,
    block: &Header,
    registry: &Registry,
) -> io::Result<()> {
    let unfinished = unfinished(path);
    let file =
        File::options().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
    // Hashed in large pieces, since the state comes in small ones.
    let hashed = Hashed { file, hasher: Sha256::new() };
    let mut out = BufWriter::with_capacity(BUFFER_OCTETS, hashed);
    out.write_all(MAGIC)?;
    out.write_all(&version().to_le_bytes())?;
    out.write_all(subject(deployment, registry.broker_id()).as_slice())?;
    out.write_all(&block.height.to_le_bytes())?;
    out.write_all(&block.time.to_le_bytes())?;
    out.write_all(block.hash.as_slice())?;
    registry.store(&mut out)?;
    let Hashed { mut file, hasher } = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.write_all(&hasher.finalize())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    // The name, too, must outlive a loss of power.
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Reads the state and the block it is of, `None` if there is no file.
///
/// # Errors
/// [`SnapshotError`] says why it is worthless.
pub fn read(
    path: &Path,
    deployment: &Deployment,
    broker_id: U256,
) -> Result<Option<(Header, Registry)>, SnapshotError> {
    // What a crash left half written is of no use to anyone.
    let _ = fs::remove_file(unfinished(path));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut input = BufReader::with_capacity(BUFFER_OCTETS, &file);
    let torn = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => SnapshotError::Checksum,
        _ => SnapshotError::Io(error),
    };
    if &octets::<16>(&mut input).map_err(torn)? != MAGIC {
        return Err(SnapshotError::NoSnapshot);
    }
    let found = u64::from_le_bytes(octets(&mut input).map_err(torn)?);
    if found != version() {
        return Err(SnapshotError::Version { found, wanted: version() });
    }
    if octets::<32>(&mut input).map_err(torn)? != subject(deployment, broker_id).0 {
        return Err(SnapshotError::Other);
    }
    let body = input.stream_position()?;
    check(&file).map_err(torn)?;
    input.seek(io::SeekFrom::Start(body))?;
    let height = u64::from_le_bytes(octets(&mut input).map_err(torn)?);
    let time = u64::from_le_bytes(octets(&mut input).map_err(torn)?);
    let hash = B256::new(octets(&mut input).map_err(torn)?);
    let registry = Registry::restore(&mut input).map_err(torn)?;
    let mut rest = Vec::new();
    // One more than there should be, to see that there is none.
    input.by_ref().take(SUM_OCTETS as u64 + 1).read_to_end(&mut rest)?;
    if rest.len() != SUM_OCTETS {
        return Err(SnapshotError::Checksum);
    }
    let unknown = B256::ZERO;
    let header =
        Header { height, hash, time, parent: unknown, bloom: Bloom::ZERO, receipts: unknown };
    Ok(Some((header, registry)))
}

/// Whether a file ends with the checksum of all before it: a reading of its own, which costs less than hashing the state's small pieces.
fn check(mut file: &File) -> io::Result<()> {
    file.rewind()?;
    let octets = file.metadata()?.len().saturating_sub(SUM_OCTETS as u64);
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; BUFFER_OCTETS]);
    let mut covered = file.take(octets);
    loop {
        match covered.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let mut kept = [0; SUM_OCTETS];
    file.read_exact(&mut kept)?;
    let sum: [u8; SUM_OCTETS] = hasher.finalize().into();
    if kept == sum { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn octets<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    input.read_exact(&mut octets)?;
    Ok(octets)
}

/// Makes the checksum of all that is written.
struct Hashed {
    file: File,
    hasher: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.file.write(octets)?;
        self.hasher.update(&octets[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;
    use flytrap_policy::{Event, NamingPolicy, Stamp};

    use super::*;

    const ID: U256 = U256::from_limbs([9, 0, 0, 0]);

    fn deployment() -> Deployment {
        let [broker_registry, topic_registry, access_market, device_registry, audit_log] =
            [1, 2, 3, 4, 5].map(Address::with_last_byte);
        Deployment {
            chain_id: 31337,
            block: 3,
            broker_registry,
            topic_registry,
            access_market,
            device_registry,
            audit_log,
        }
    }

    fn registry(bans: u8) -> Registry {
        let mut registry = Registry::new(ID);
        let (owner, name) = (Address::repeat_byte(1), "b".to_owned());
        let policy = NamingPolicy::Open;
        let at = Stamp { height: 4, time: 5 };
        registry.apply(&Event::BrokerCreated { broker_id: ID, owner, policy, name }, at).unwrap();
        for ban in 0..bans {
            let event = Event::WalletBanned {
                broker_id: ID,
                wallet: Address::repeat_byte(ban),
                by: owner,
                until: 77,
                evidence: B256::ZERO,
                reason: String::new(),
            };
            registry.apply(&event, at).unwrap();
        }
        registry
    }

    fn block() -> Header {
        let (hash, unknown) = (B256::repeat_byte(7), B256::ZERO);
        Header { height: 8, time: 9, hash, parent: unknown, bloom: Bloom::ZERO, receipts: unknown }
    }

    fn written(bans: u8) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mirror.snapshot");
        write(&path, &deployment(), &block(), &registry(bans)).unwrap();
        (dir, path)
    }

    fn digest(path: &Path) -> Result<Option<B256>, SnapshotError> {
        Ok(read(path, &deployment(), ID)?.map(|(_, registry)| registry.digest()))
    }

    #[test]
    fn what_is_written_is_read_with_its_block_and_nothing_is_left_beside_it() {
        let (dir, path) = written(3);
        let (header, restored) = read(&path, &deployment(), ID).unwrap().unwrap();
        assert_eq!(header, block());
        assert_eq!(restored.digest(), registry(3).digest());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(digest(&dir.path().join("none")).unwrap().is_none());
    }

    /// THREATS F04.
    #[test]
    fn every_flipped_bit_and_every_cut_makes_it_worthless() {
        let (_dir, path) = written(2);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for bit in [1, 16, 128] {
                let mut flipped = whole.clone();
                flipped[at] ^= bit;
                fs::write(&path, &flipped).unwrap();
                assert!(digest(&path).is_err(), "bit {bit} of octet {at}");
            }
            fs::write(&path, &whole[..at]).unwrap();
            assert!(digest(&path).is_err(), "cut to {at}");
        }
        fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
        assert!(digest(&path).is_err(), "one octet more");
        fs::write(&path, &whole).unwrap();
        assert!(digest(&path).unwrap().is_some());
    }

    /// THREATS F03: a process that dies in the middle leaves a part beside the file, and the file as it was.
    #[test]
    fn a_write_that_was_cut_off_leaves_the_one_before() {
        let (dir, path) = written(2);
        let before = digest(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        for part in [0, 1, whole.len() / 2, whole.len()] {
            fs::write(unfinished(&path), &whole[..part]).unwrap();
            assert_eq!(digest(&path).unwrap(), before);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    /// THREATS F17.
    #[test]
    fn another_version_deployment_or_broker_is_told_apart_from_damage() {
        let (_dir, path) = written(1);
        let whole = fs::read(&path).unwrap();
        for (older_or_newer, at) in [(0, 16), (9, 16), (0, 20), (9, 20)] {
            let mut other = whole.clone();
            other[at] = older_or_newer;
            fs::write(&path, other).unwrap();
            assert!(matches!(digest(&path), Err(SnapshotError::Version { .. })));
        }
        fs::write(&path, b"#!/bin/sh\necho something else\n").unwrap();
        assert!(matches!(digest(&path), Err(SnapshotError::NoSnapshot)));
        fs::write(&path, whole).unwrap();
        assert!(matches!(read(&path, &deployment(), U256::ONE), Err(SnapshotError::Other)));
        let moved = Deployment { audit_log: Address::with_last_byte(9), ..deployment() };
        assert!(matches!(read(&path, &moved, ID), Err(SnapshotError::Other)));
    }
}
