//! Tells the tour: chapters, what was done, and the evidence for each claim, counted.

use crate::tell;

/// Keeps count of what was as told and what was not.
#[derive(Debug, Default)]
pub(crate) struct Narrator {
    chapter: usize,
    shown: usize,
    missing: Vec<String>,
}

impl Narrator {
    /// Starts a chapter.
    pub(crate) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        tell::line("");
        tell::line(tell::strong(&format!("{}. {title}", self.chapter)));
    }

    /// Says what is being done.
    pub(crate) fn say(&self, text: &str) {
        tell::line(format!("   {text}"));
    }

    /// Shows a command that a person could type.
    pub(crate) fn command(&self, command: &str) {
        tell::line(tell::faint(&format!("   $ {command}")));
    }

    /// Shows evidence for a claim, or that it is missing.
    pub(crate) fn evidence(&mut self, holds: bool, claim: &str) {
        self.shown += 1;
        if holds {
            tell::line(format!("   {} {claim}", tell::good("✔")));
        } else {
            tell::line(format!("   {} {}", tell::bad("✘ NOT SO:"), tell::bad(claim)));
            self.missing.push(format!("{}. {claim}", self.chapter));
        }
    }

    /// Shows that a claim could not even be looked at.
    pub(crate) fn failed(&mut self, what: &str, error: &eyre::Report) {
        self.evidence(false, &format!("{what}: {error:#}"));
    }

    /// How many claims there were, and which were not as told.
    pub(crate) fn verdict(&self) -> (usize, &[String]) {
        (self.shown, &self.missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_that_does_not_hold_is_kept() {
        let mut narrator = Narrator::default();
        narrator.chapter("First");
        narrator.evidence(true, "holds");
        narrator.evidence(false, "does not");
        assert_eq!(narrator.verdict(), (2, &["1. does not".to_owned()][..]));
    }
}
