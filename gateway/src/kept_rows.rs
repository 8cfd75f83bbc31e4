//! Small tables on the disk that are read as a whole at the start and told apart from damaged ones.
//!
//! A SQLite file in the state directory: whatever changes at once is one transaction, so a kill leaves the state before or after it. Each
//! row carries a checksum, so that a file that was damaged is told from one that says nothing. What is struck out is overwritten.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use alloy_primitives::keccak256;
use rusqlite::{Connection, TransactionBehavior, params};
use tracing::info;

/// Most octets of a row: longer ones are not ours.
const ROW_OCTETS: i64 = 8 * 1024;

/// Which table, and how its rows are called.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Name of the file.
    pub file: &'static str,
    /// What a row is about.
    pub key: &'static str,
    /// What it says.
    pub value: &'static str,
    /// More rows than are ever written.
    pub most: usize,
}

/// The file.
#[derive(Debug)]
pub struct KeptRows {
    pub(crate) database: Connection,
    path: PathBuf,
    table: Table,
}

/// The file does not say what it was written with.
#[derive(Debug, thiserror::Error)]
#[error("\"{path}\" cannot be read: {wrong}", path = .path.display())]
pub struct Unreadable {
    path: PathBuf,
    wrong: String,
}

impl KeptRows {
    /// Opens the table's file in the state directory, made if it is missing, and reads all of it: what each row is about, and what it says.
    ///
    /// # Errors
    /// [`Unreadable`] if any of it is damaged.
    pub fn open<T>(
        state_dir: &Path,
        table: Table,
        parse: impl Fn(&str, &str) -> Result<T, String>,
    ) -> Result<(Self, Vec<T>), Unreadable> {
        let path = state_dir.join(table.file);
        let wrong = |wrong: String| Unreadable { path: path.clone(), wrong };
        match fs::metadata(&path) {
            Ok(found) if found.len() == 0 => return Err(wrong("it is empty".to_owned())),
            Ok(_) => {}
            Err(_) => info!(file = %path.display(), "nothing of an earlier run: begun anew"),
        }
        let Table { name, key, value, .. } = table;
        let opened = || {
            let database = Connection::open(&path)?;
            // No write-ahead log: its end is what its checksums say, so damage to it would look like what was never written.
            database.execute_batch(&format!(
                "PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;
                 CREATE TABLE IF NOT EXISTS {name} ({key} TEXT PRIMARY KEY, {value} TEXT NOT NULL, seal BLOB NOT NULL) STRICT, WITHOUT ROWID;",
            ))?;
            let sound: String =
                database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            Ok::<_, rusqlite::Error>((database, sound))
        };
        let (database, sound) = opened().map_err(|error| wrong(error.to_string()))?;
        if sound != "ok" {
            return Err(wrong(sound));
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600))
            .map_err(|error| wrong(error.to_string()))?;
        let kept = Self { database, path: path.clone(), table };
        let rows = kept.read(parse).map_err(wrong)?;
        Ok((kept, rows))
    }

    fn read<T>(&self, parse: impl Fn(&str, &str) -> Result<T, String>) -> Result<Vec<T>, String> {
        let told = |error: rusqlite::Error| error.to_string();
        let Table { name, key, value, most, .. } = self.table;
        let mut read = Vec::new();
        let select = format!("SELECT {key}, {value}, seal FROM {name} WHERE length({value}) <= ?1");
        let mut all = self.database.prepare(&select).map_err(told)?;
        let mut rows = all.query([ROW_OCTETS]).map_err(told)?;
        while let Some(row) = rows.next().map_err(told)? {
            let (about, text): (String, String) =
                row.get(0).and_then(|about| Ok((about, row.get(1)?))).map_err(told)?;
            let sealed: Vec<u8> = row.get(2).map_err(told)?;
            if sealed != seal(&text) {
                return Err(format!(
                    "the row of {about} does not have the checksum it was written with"
                ));
            }
            let of_row = parse(&about, &text)
                .map_err(|error| format!("the row of {about} makes no sense: {error}"))?;
            read.push(of_row);
            if read.len() > most {
                return Err("it has more rows than were ever written".to_owned());
            }
        }
        let count: i64 = self
            .database
            .query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0))
            .map_err(told)?;
        if usize::try_from(count) == Ok(read.len()) {
            Ok(read)
        } else {
            Err("a row is longer than any that was written".to_owned())
        }
    }

    /// Puts rows in the place of those about the same, or strikes them out. All of them are on the disk then, or none.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&mut self, changes: &[(String, Option<String>)]) -> rusqlite::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let Table { name, key, value, .. } = self.table;
        let write = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut put = write.prepare_cached(&format!(
                "INSERT OR REPLACE INTO {name} ({key}, {value}, seal) VALUES (?1, ?2, ?3)",
            ))?;
            let mut strike =
                write.prepare_cached(&format!("DELETE FROM {name} WHERE {key} = ?1"))?;
            for (about, text) in changes {
                match text {
                    Some(text) => put.execute(params![about, text, seal(text)])?,
                    None => strike.execute([about])?,
                };
            }
        }
        write.commit()
    }

    /// An error of the disk as one of the file.
    pub fn unreadable(&self, error: &rusqlite::Error) -> Unreadable {
        Unreadable { path: self.path.clone(), wrong: error.to_string() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn seal(text: &str) -> Vec<u8> {
    keccak256(text.as_bytes())[..8].to_vec()
}
