//! Where clients' countries are known from.

use std::path::PathBuf;
use std::time::Duration;

use super::file;
use super::resolve::Resolver;

/// Databases of countries. What is in them is read when the gateway starts, and again while it runs.
#[derive(Debug, Clone)]
pub struct CountriesConfig {
    /// The files, the first that knows an address has the word; none: no client's country is known.
    pub databases: Vec<PathBuf>,
    /// How often it is looked whether a file has changed.
    pub poll: Duration,
}

/// More files than anyone has reason to name.
const MOST_DATABASES: usize = 8;

impl Resolver<'_> {
    pub(super) fn countries(&mut self, countries: &file::Countries) -> CountriesConfig {
        let mut databases = Vec::new();
        for path in countries.database.iter().chain(&countries.databases) {
            let full = self.at(path.get_ref());
            if databases.contains(&full) {
                let wrong = format!("`countries`: \"{}\" is named twice", full.display());
                self.problem(path, wrong);
            } else if databases.len() == MOST_DATABASES {
                let wrong = format!("`countries` names more than {MOST_DATABASES} databases");
                self.problem(path, wrong);
                break;
            }
            databases.push(full);
        }
        CountriesConfig { databases, poll: countries.poll.0 }
    }
}
