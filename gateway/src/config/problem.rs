//! What is wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong: where in the file, what was found, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, from 1; `None` where the whole file is meant.
    pub place: Option<(usize, usize)>,
    /// What was found and what to do.
    pub message: String,
}

/// Everything that is wrong with one file. `Display` gives one line each, after the shape `file:line:column: message`.
#[derive(Debug, thiserror::Error)]
pub struct Problems {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &Path, problems: Vec<Problem>) -> Self {
        Self { file: file.to_owned(), problems }
    }

    pub(super) fn unreadable(file: &Path, error: &io::Error) -> Self {
        let message = format!(
            "cannot read the configuration file: {error}; give the path of an existing file"
        );
        Self::new(file, vec![Problem { place: None, message }])
    }

    pub(super) fn syntax(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let place = error.span().map(|span| place(text, &span));
        Self::new(file, vec![Problem { place, message: error.message().replace('\n', "; ") }])
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file.display())?;
            if let Some((line, column)) = problem.place {
                write!(f, "{line}:{column}:")?;
            }
            write!(f, " {}", problem.message)?;
        }
        Ok(())
    }
}

/// Line and column, from 1, of where `span` starts in `text`; columns count characters.
pub(super) fn place(text: &str, span: &Range<usize>) -> (usize, usize) {
    let before = text.get(..span.start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let text = "a\nbé = c\n";
        assert_eq!(place(text, &(0..1)), (1, 1));
        assert_eq!(place(text, &(2..3)), (2, 1));
        assert_eq!(place(text, &(8..9)), (2, 6));
        assert_eq!(place(text, &(99..100)), (3, 1));
    }
}
