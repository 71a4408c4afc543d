//! A served ledger's checkpoints, held against those that others were shown.

use ledger_core::Head;
use ledger_core::checkpoint::{Fork, ViewError, verify};
use ledger_core::merkle::verify_consistency;
use ledger_core::note::Note;
use ledger_http::client::ClientError;
use ledger_http::wire::Growth;

use super::{Remote, RemoteError};
use crate::witness::{Comparison, Difference, Evidence};

/// The file with the evidence.
pub(super) const EVIDENCE: &str = "evidence.json";

/// The file with an order that the ledger did after it had refused it.
pub(super) const DONE_LATER: &str = "refused-and-done.json";

/// How often the ledger may give no answer to one question of growth, while it answers others, until that is its answer.
const MAX_UNANSWERED: u32 = 3;

/// Of how many who tell something that is counted: a router has fewer neighbours.
const MAX_TELLERS: usize = 256;

/// Who told of a checkpoint that the ledger itself gave us.
const ITSELF: &str = "this router itself";

impl Remote {
    /// What was found against the ledger, if anything was and nobody has removed it since.
    ///
    /// # Errors
    /// [`RemoteError`], where it cannot be read.
    pub fn evidence(&self) -> Result<Option<Evidence>, RemoteError> {
        self.kept.read_json(EVIDENCE)
    }

    /// What was found against the ledger, in words, and in which file.
    pub(super) fn distrust(&self) -> Result<Option<(String, &'static str)>, RemoteError> {
        if let Some(evidence) = self.evidence()? {
            return Ok(Some((evidence.words(), EVIDENCE)));
        }
        let done = self.kept.read(DONE_LATER)?;
        Ok(done.map(|_| ("the ledger did an order after it had refused it".to_owned(), DONE_LATER)))
    }

    /// Holds a checkpoint that somebody else was shown against what is shown here.
    pub(super) fn compare_note(&mut self, theirs: &Note, told_by: &str) -> Result<Comparison, RemoteError> {
        let Ok(told) = verify(theirs, self.view.key()) else { return Ok(Comparison::Foreign) };
        let mut ours = self.seen()?;
        if !self.is_fork(theirs) && told.size > ours.size {
            // It may simply be ahead of what was last asked here.
            ours = self.newest()?;
        }
        if self.is_fork(theirs) {
            return self.differ(Difference::Forked, theirs, told_by);
        }
        if told.size > ours.size {
            return self.differ(Difference::Rewound, theirs, told_by);
        }
        let proof = if told.size == ours.size || told.size == 0 {
            Vec::new()
        } else {
            match self.growth(&told, &ours) {
                Ok(proof) => proof,
                // Not away: it has just told its newest, which is asked for first each time.
                Err(_) if self.keeps_silent(told_by)? => Vec::new(),
                Err(error) => return Err(error),
            }
        };
        self.silent.remove(told_by);
        if verify_consistency(&told, &ours, &proof) {
            Ok(Comparison::Same)
        } else {
            self.differ(Difference::Split, theirs, told_by)
        }
    }

    /// Whether the ledger, which answers another question now, has answered of what this teller shows, be it something newer
    /// each time, so often with nothing that it has nothing.
    fn keeps_silent(&mut self, told_by: &str) -> Result<bool, RemoteError> {
        self.newest()?;
        if self.silent.len() >= MAX_TELLERS && !self.silent.contains_key(told_by) {
            self.silent.clear();
        }
        let count = self.silent.entry(told_by.to_owned()).or_insert(0);
        *count += 1;
        Ok(*count >= MAX_UNANSWERED)
    }

    /// The head that was accepted last.
    fn seen(&mut self) -> Result<Head, RemoteError> {
        match self.view.head() {
            Some(head) => Ok(head),
            None => self.newest(),
        }
    }

    fn is_fork(&self, theirs: &Note) -> bool {
        self.view.newest().is_some_and(|ours| Fork::proven_by(ours, theirs, self.view.key()).is_some())
    }

    /// What the ledger has to show that one head continues another; nothing, where it says that it cannot.
    fn growth(&mut self, old: &Head, new: &Head) -> Result<Vec<ledger_core::Hash>, RemoteError> {
        match self.client.get::<Growth>(&format!("/v1/growth?old_size={}&size={}", old.size, new.size)) {
            Ok(growth) => Ok(growth.proof),
            Err(ClientError::Problem { problem, .. }) if problem.status == 404 => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn differ(&mut self, difference: Difference, theirs: &Note, told_by: &str) -> Result<Comparison, RemoteError> {
        let ours = self.view.newest().map(ToString::to_string).unwrap_or_default();
        let evidence = Evidence { difference, told_by: told_by.to_owned(), notes: [ours, theirs.to_string()] };
        let before = self.evidence().unwrap_or_else(|_| {
            // What does not read may still be read by a person.
            let _kept = self.kept.set_aside(EVIDENCE);
            None
        });
        // What is kept is the worst that was found, and what is said.
        if let Some(before) = before.filter(|before| before.difference >= difference) {
            return Ok(Comparison::Differ(Box::new(before)));
        }
        self.kept.write_json(EVIDENCE, &evidence)?;
        Ok(Comparison::Differ(Box::new(evidence)))
    }

    /// Keeps what the ledger itself has shown that does not continue what it had shown before.
    pub(super) fn keep_contradiction(&mut self, error: &ViewError, theirs: &Note) -> Result<(), RemoteError> {
        let difference = match error {
            ViewError::Forked(_) => Difference::Forked,
            ViewError::Shorter { .. } => Difference::Rewound,
            ViewError::Unproven { .. } => Difference::Split,
            ViewError::Checkpoint(_) => return Ok(()),
        };
        self.differ(difference, theirs, ITSELF).map(drop)
    }
}
