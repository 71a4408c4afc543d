//! Comparing what a served ledger has shown to different people.
//!
//! A ledger that lies may show each of them a log of its own, each sound by itself. Its signature is on both, so whoever sees two
//! checkpoints that do not belong to one log has proof. Neighbours give each other the newest one they have accepted, with their
//! own signature that they have; [`crate::Ledger::compare`] holds it against one's own.

use ledger_core::checkpoint::{Fork, verify};
use ledger_core::note::{Note, NoteKey, NoteSigner, Witness};
use ledger_core::{Head, UnixTime};
use metering::{NodeId, TlsKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::LogKey;

/// The longest note that is compared, in bytes: a checkpoint with the signatures of its log and of one witness.
pub const MAX_COMPARED_BYTES: usize = 1200;

/// A node's key as a witness: it cosigns checkpoints (c2sp.org/tlog-cosignature).
///
/// It is the node's TLS key, which its neighbours know from its card. What it signs in TLS begins with 64 spaces (RFC 8446,
/// section 4.4.3) and here with `cosignature/v1`, so neither is ever taken for the other.
#[derive(Clone, Debug)]
pub struct WitnessKey(NoteSigner<Witness>);

impl WitnessKey {
    /// The witness of this account, with the secret of its node's TLS key.
    #[must_use]
    pub fn new(account: NodeId, tls_secret: &[u8; 32]) -> Option<Self> {
        NoteSigner::new(&witness_name(account), tls_secret).ok().map(Self)
    }

    /// Cosigns a checkpoint that its node has accepted as the newest.
    pub fn cosign(&self, note: &mut Note, at: UnixTime) {
        self.0.cosign(note, at);
    }
}

/// Whether the node with this account and TLS key has cosigned the checkpoint, and when by its clock.
#[must_use]
pub fn cosigned_by(note: &Note, account: NodeId, key: &TlsKey) -> Option<UnixTime> {
    NoteKey::<Witness>::from_public(&witness_name(account), &key.0).ok()?.verify(note).ok()
}

fn witness_name(account: NodeId) -> String {
    format!("waybill/node/{account}")
}

/// What comparing two checkpoints gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Both are of one log.
    Same,
    /// The other one is not signed by this ledger's key: it says nothing.
    Foreign,
    /// They are not of one log.
    Differ(Box<Evidence>),
}

/// How two checkpoints of one ledger do not belong together; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// The ledger shows a log that is shorter than one it has signed: it lost or hides entries.
    Rewound,
    /// It does not show that the longer one continues the shorter one.
    Split,
    /// Both are of one size and differ: proof for everybody.
    Forked,
}

/// Two checkpoints that a ledger has signed and that do not belong to one log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// How they differ.
    pub difference: Difference,
    /// Who had the second one: a neighbour, or the ledger itself.
    pub told_by: String,
    /// The one that was accepted here, and the other.
    pub notes: [String; 2],
}

/// Why evidence shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoEvidence {
    /// One of the notes is no checkpoint that the key has signed.
    #[error("note {number} is no checkpoint signed by this ledger's key")]
    Unsigned {
        /// The first or the second.
        number: u8,
    },
}

/// What two checkpoints show by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Two pasts, or two outcomes, of one size: the ledger has told two stories.
    Fork {
        /// Of so many entries.
        size: u64,
    },
    /// They say the same.
    Same,
    /// They are of two sizes. Only the ledger, or who has its log, can show whether one continues the other.
    Sizes([Head; 2]),
}

impl Evidence {
    /// What the notes show to somebody who believes nothing but the ledger's key.
    ///
    /// # Errors
    /// [`NoEvidence`]
    pub fn check(&self, key: &LogKey) -> Result<Shown, NoEvidence> {
        let read = |number: u8, text: &String| {
            let note: Option<Note> = text.parse().ok();
            let head = note.as_ref().and_then(|note| verify(note, key).ok());
            note.zip(head).ok_or(NoEvidence::Unsigned { number })
        };
        let [first, second] = &self.notes;
        let ((first, one), (second, other)) = (read(1, first)?, read(2, second)?);
        Ok(match Fork::proven_by(&first, &second, key) {
            Some(_) => Shown::Fork { size: one.size },
            None if one == other => Shown::Same,
            None => Shown::Sizes([one, other]),
        })
    }

    /// What it means, in a line.
    #[must_use]
    pub fn words(&self) -> String {
        let told_by = &self.told_by;
        match self.difference {
            Difference::Forked => format!("the ledger has signed two different logs: {told_by} was shown another one"),
            Difference::Split => {
                format!("the ledger does not show that its log continues the one that {told_by} was shown")
            }
            Difference::Rewound => format!("the ledger shows fewer entries than {told_by} was shown before"),
        }
    }
}
