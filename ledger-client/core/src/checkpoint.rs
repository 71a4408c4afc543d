//! Checkpoints: what a log says it has become, signed (c2sp.org/tlog-checkpoint), and what a client makes of it.
//!
//! A log publishes its [`Head`] as a signed [`Note`]. Who keeps the newest one it has seen, as a [`View`], cannot be shown
//! another past; and where many compare theirs, or ask a [`Quorum`] of witnesses to, nobody can be shown another present.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::merkle::verify_consistency;
use crate::note::{Log, Note, NoteKey, NoteSigner, Unsigned, Witness};
use crate::{Genesis, Hash, Head};

/// The name a community's ledger signs its checkpoints under, and their first line.
#[must_use]
pub fn origin(genesis: &Genesis) -> String {
    format!("waybill/{}", genesis.domain().contract)
}

/// A log's key has its [`origin`] for a name. This one has another, and signs for another log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the key is not named after this log")]
pub struct OtherLog;

/// Signs a checkpoint of the log with this [`origin`]. Only for a head whose every entry is durable: what a crash takes back
/// after this, the log has forked from.
///
/// # Errors
/// [`OtherLog`], where the signer is named after another.
pub fn sign(signer: &NoteSigner<Log>, origin: &str, head: &Head) -> Result<Note, OtherLog> {
    sign_text(signer, origin, head, "")
}

/// The same, with the hash of all records as they are after the log's last entry ([`crate::record_tree`]), in an extension
/// line of its own.
///
/// # Errors
/// As [`sign`].
pub fn sign_with_records(
    signer: &NoteSigner<Log>,
    origin: &str,
    head: &Head,
    records: &Hash,
) -> Result<Note, OtherLog> {
    sign_text(signer, origin, head, &format!("{RECORDS}{}\n", STANDARD.encode(records.0)))
}

/// What the line with the hash of all records begins with.
const RECORDS: &str = "records ";

fn sign_text(signer: &NoteSigner<Log>, origin: &str, head: &Head, extension: &str) -> Result<Note, OtherLog> {
    named_after(origin, signer.key())?;
    let text = format!("{origin}\n{}\n{}\n{extension}", head.size, STANDARD.encode(head.root.0));
    let mut note = Note::new(text).expect("a name has no control character, and the rest is digits and base64");
    signer.sign(&mut note);
    Ok(note)
}

fn named_after(origin: &str, key: &NoteKey<Log>) -> Result<(), OtherLog> {
    if key.name() == origin { Ok(()) } else { Err(OtherLog) }
}

/// Why a note is no checkpoint of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// The log did not sign it.
    #[error(transparent)]
    Unsigned(#[from] Unsigned),
    /// The log signed it, and it is a checkpoint of another one, or none.
    #[error("the note is not a checkpoint of this log")]
    Malformed,
}

/// The head that a note says the log of `key` had, after checking the log's signature.
///
/// # Errors
/// [`CheckpointError`]
pub fn verify(note: &Note, key: &NoteKey<Log>) -> Result<Head, CheckpointError> {
    key.verify(note)?;
    let mut lines = note.text().split('\n');
    let (origin, size, root) = (lines.next(), lines.next(), lines.next());
    if origin != Some(key.name()) {
        return Err(CheckpointError::Malformed);
    }
    let head = size.zip(root).and_then(|(size, root)| Some(Head { size: read_size(size)?, root: read_root(root)? }));
    head.ok_or(CheckpointError::Malformed)
}

/// The hash of all records that a checkpoint says the ledger had at its head, if it says one. The log's signature is to be
/// checked before ([`verify`]).
#[must_use]
pub fn records(note: &Note) -> Option<Hash> {
    note.text().split('\n').skip(3).find_map(|line| read_root(line.strip_prefix(RECORDS)?))
}

/// A decimal number without leading zeros.
fn read_size(text: &str) -> Option<u64> {
    let size: u64 = text.parse().ok()?;
    (size.to_string() == text).then_some(size)
}

fn read_root(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok().map(Hash)
}

/// The newest checkpoint that a client, or a witness, has seen of one log.
///
/// Make one with the log's [`origin`] and key, hand each note it hears of to [`View::accept`], and keep [`View::newest`] on disk, for
/// [`View::resume`]. A witness cosigns what it has accepted and made durable, and nothing else.
#[derive(Clone, Debug)]
pub struct View {
    key: NoteKey<Log>,
    newest: Option<(Head, Note)>,
}

/// Why a checkpoint was not accepted. The view has not changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ViewError {
    /// It is none of this log's.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log is shorter than it was: an old checkpoint, or the log lost entries that it had published.
    #[error("the log has {} entries here, and had {} before", told.size, seen.size)]
    Shorter {
        /// What was seen before.
        seen: Head,
        /// What the note says.
        told: Head,
    },
    /// The log does not show that it continues what it was.
    #[error("nothing proves that the log of {} entries continues the one of {}", told.size, seen.size)]
    Unproven {
        /// What was seen before.
        seen: Head,
        /// What the note says.
        told: Head,
    },
    /// The log has signed two pasts.
    #[error("{_0}")]
    Forked(Box<Fork>),
}

/// Two checkpoints of one log, of the same size and with different roots, or with different hashes of all records, both
/// signed by it: proof for everybody that whoever holds the log's key has told two stories.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the log has signed two different {} of {size} entries", if *same_log { "outcomes" } else { "pasts" })]
pub struct Fork {
    size: u64,
    same_log: bool,
    notes: [Note; 2],
}

impl Fork {
    /// The proof that these two notes are, if they are.
    #[must_use]
    pub fn proven_by(first: &Note, second: &Note, key: &NoteKey<Log>) -> Option<Self> {
        let (one, other) = (verify(first, key).ok()?, verify(second, key).ok()?);
        let same_log = one.root == other.root;
        let differ = records(first).zip(records(second)).is_some_and(|(one, other)| one != other);
        let forked = one.size == other.size && (!same_log || differ);
        forked.then(|| Self { size: one.size, same_log, notes: [first.clone(), second.clone()] })
    }

    /// The two, to be shown to others.
    #[must_use]
    pub const fn notes(&self) -> &[Note; 2] {
        &self.notes
    }
}

impl View {
    /// A view of the log with this [`origin`] that has seen nothing yet, and believes the first checkpoint it is told.
    ///
    /// # Errors
    /// [`OtherLog`], where the key is named after another.
    pub fn new(origin: &str, key: NoteKey<Log>) -> Result<Self, OtherLog> {
        named_after(origin, &key)?;
        Ok(Self { key, newest: None })
    }

    /// The same, where it had seen this note.
    ///
    /// # Errors
    /// [`CheckpointError`], where it is not one of the log's.
    pub fn resume(self, newest: Note) -> Result<Self, CheckpointError> {
        let head = verify(&newest, &self.key)?;
        Ok(Self { newest: Some((head, newest)), ..self })
    }

    /// The log's key.
    #[must_use]
    pub const fn key(&self) -> &NoteKey<Log> {
        &self.key
    }

    /// What the log was when it was last heard of.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        self.newest.as_ref().map(|(head, _)| *head)
    }

    /// The checkpoint that says so.
    #[must_use]
    pub fn newest(&self) -> Option<&Note> {
        self.newest.as_ref().map(|(_, note)| note)
    }

    /// Takes a checkpoint as the newest, where `proof` (RFC 9162, section 2.1.4) shows that it continues the one seen
    /// before. At the first checkpoint, and at the same one again, the proof is empty.
    ///
    /// # Errors
    /// [`ViewError`]
    pub fn accept(&mut self, note: Note, proof: &[Hash]) -> Result<Head, ViewError> {
        let told = verify(&note, &self.key)?;
        if let Some((seen, newest)) = &self.newest {
            let seen = *seen;
            if let Some(fork) = Fork::proven_by(newest, &note, &self.key) {
                return Err(ViewError::Forked(Box::new(fork)));
            }
            if told.size < seen.size {
                return Err(ViewError::Shorter { seen, told });
            }
            if !verify_consistency(&seen, &told, proof) {
                return Err(ViewError::Unproven { seen, told });
            }
            if seen == told && records(newest).is_some() {
                // What it says of the records is held against what it says next.
                return Ok(told);
            }
        }
        self.newest = Some((told, note));
        Ok(told)
    }
}

/// Which witnesses a client asks for, and how many of them must have cosigned. Three of four bear one that is bad or away;
/// two of three do not bear a bad one.
#[derive(Clone, Debug)]
pub struct Quorum {
    /// The witnesses it knows.
    pub witnesses: Vec<NoteKey<Witness>>,
    /// How many of them must have cosigned.
    pub needed: usize,
}

/// Why a note does not count as witnessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QuorumError {
    /// It is no checkpoint of this log, whoever has cosigned it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Too few witnesses have cosigned it.
    #[error("{found} witnesses have cosigned the checkpoint, and it takes {needed}")]
    TooFewWitnesses {
        /// How many have.
        found: usize,
        /// How many it takes.
        needed: usize,
    },
}

impl Quorum {
    /// The head that a note says the log of `log` had, where the log signed it and enough witnesses have cosigned it. A
    /// signature that is wrong counts as none, and a key counts once, under however many names it is known.
    ///
    /// # Errors
    /// [`QuorumError`]
    pub fn check(&self, note: &Note, log: &NoteKey<Log>) -> Result<Head, QuorumError> {
        let head = verify(note, log)?;
        let signed = self.witnesses.iter().filter(|key| key.verify(note).is_ok());
        let (found, needed) = (signed.map(NoteKey::public).collect::<BTreeSet<_>>().len(), self.needed);
        if found < needed { Err(QuorumError::TooFewWitnesses { found, needed }) } else { Ok(head) }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::merkle::{Subtrees, consistency_proof, leaf_hash, subtree_number};
    use crate::{Tree, UnixTime};

    const ORIGIN: &str = "example.com/valley";

    fn signer() -> NoteSigner<Log> {
        NoteSigner::new(ORIGIN, &[7; 32]).unwrap()
    }

    fn view() -> View {
        View::new(ORIGIN, signer().key().clone()).unwrap()
    }

    /// A log of numbers, and another that goes its own way from some entry on.
    #[derive(Default)]
    struct Numbers {
        tree: Tree,
        leaves: Vec<Hash>,
        completed: Vec<Hash>,
    }

    impl Numbers {
        fn grown_to(mut self, size: u64, say: &str) -> Self {
            for number in self.tree.size()..size {
                let leaf = leaf_hash(format!("{say} {number}").as_bytes());
                self.leaves.push(leaf);
                self.completed.extend(self.tree.append(leaf));
            }
            self
        }

        fn note(&self) -> Note {
            sign(&signer(), ORIGIN, &self.tree.head()).unwrap()
        }

        fn proof(&self, old_size: u64) -> Vec<Hash> {
            let Ok(proof) = consistency_proof(self, old_size, self.tree.size());
            proof.unwrap()
        }
    }

    impl Subtrees for Numbers {
        type Error = Infallible;

        fn subtree(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
            Ok(match subtree_number(level, index) {
                Some(number) => self.completed[number as usize],
                None => self.leaves[index as usize],
            })
        }
    }

    fn numbers(size: u64) -> Numbers {
        Numbers::default().grown_to(size, "number")
    }

    #[test]
    fn checkpoint_says_origin_size_and_root() {
        let note = numbers(3).note();
        let root = STANDARD.encode(numbers(3).tree.head().root.0);
        assert_eq!(note.text(), format!("example.com/valley\n3\n{root}\n"));
        assert_eq!(verify(&note, signer().key()), Ok(numbers(3).tree.head()));
    }

    #[test]
    fn key_that_is_named_after_another_log_signs_and_shows_nothing_of_this_one() {
        let other = NoteSigner::<Log>::new("example.com/hill", &[7; 32]).unwrap();
        assert_eq!(sign(&other, ORIGIN, &numbers(3).tree.head()), Err(OtherLog));
        assert_eq!(View::new(ORIGIN, other.key().clone()).map(|_| ()), Err(OtherLog));
    }

    #[test]
    fn signed_text_that_is_no_checkpoint_of_this_log_is_none() {
        let root = STANDARD.encode([1; 32]);
        for text in [
            format!("example.com/other\n3\n{root}\n"),
            format!("example.com/valley\n03\n{root}\n"),
            format!("example.com/valley\n+3\n{root}\n"),
            format!("example.com/valley\n-3\n{root}\n"),
            format!("example.com/valley\n99999999999999999999\n{root}\n"),
            format!("example.com/valley\n3\n{}\n", STANDARD.encode([1; 31])),
            format!("example.com/valley\n3\n{root}=\n"),
            "example.com/valley\n3\n".to_owned(),
            "example.com/valley\n".to_owned(),
        ] {
            let mut note = Note::new(text.clone()).unwrap();
            signer().sign(&mut note);
            assert_eq!(verify(&note, signer().key()), Err(CheckpointError::Malformed), "{text}");
        }
        // Extension lines may follow, and say nothing to us.
        let mut extended = Note::new(format!("example.com/valley\n3\n{root}\nmore\n")).unwrap();
        signer().sign(&mut extended);
        assert_eq!(verify(&extended, signer().key()).map(|head| head.size), Ok(3));
    }

    #[test]
    fn view_follows_a_log_that_only_grows() {
        let mut view = view();
        for size in [1, 2, 7, 8, 8, 33] {
            let log = numbers(size);
            let proof = view.head().map(|head| log.proof(head.size)).unwrap_or_default();
            assert_eq!(view.accept(log.note(), &proof), Ok(log.tree.head()));
        }
        let resumed = self::view().resume(view.newest().unwrap().clone()).unwrap();
        assert_eq!(resumed.head(), Some(numbers(33).tree.head()));
    }

    #[test]
    fn view_cannot_be_shown_another_past() {
        let mut view = view();
        view.accept(numbers(20).note(), &[]).unwrap();
        let (seen, before) = (numbers(20).tree.head(), view.newest().cloned());

        let shorter = numbers(19);
        let told = shorter.tree.head();
        assert_eq!(view.accept(shorter.note(), &[]), Err(ViewError::Shorter { seen, told }));

        let forked = numbers(10).grown_to(30, "lie");
        let told = forked.tree.head();
        assert_eq!(view.accept(forked.note(), &forked.proof(20)), Err(ViewError::Unproven { seen, told }));
        assert_eq!(
            view.accept(numbers(30).note(), &[]).unwrap_err().to_string(),
            "nothing proves that the log of 30 entries continues the one of 20"
        );

        let other = NoteSigner::<Log>::new("example.com/valley", &[9; 32]).unwrap();
        let stolen = sign(&other, ORIGIN, &numbers(30).tree.head()).unwrap();
        let unsigned = CheckpointError::Unsigned(Unsigned::Missing);
        assert_eq!(view.accept(stolen, &numbers(30).proof(20)), Err(ViewError::Checkpoint(unsigned)));
        assert_eq!(view.newest().cloned(), before);
    }

    #[test]
    fn two_pasts_of_one_size_are_proof_for_everybody() {
        let mut view = view();
        view.accept(numbers(20).note(), &[]).unwrap();
        let lie = numbers(10).grown_to(20, "lie").note();
        let Err(ViewError::Forked(fork)) = view.accept(lie, &[]) else { panic!("a fork is seen") };
        assert_eq!(fork.to_string(), "the log has signed two different pasts of 20 entries");
        let [first, second] = fork.notes();
        let shown: [Note; 2] = [first, second].map(|note| note.to_string().parse().unwrap());
        assert_eq!(Fork::proven_by(&shown[0], &shown[1], signer().key()), Some(*fork));

        let other = NoteSigner::<Log>::new("example.com/valley", &[9; 32]).unwrap();
        let forged = sign(&other, ORIGIN, &numbers(10).grown_to(20, "lie").tree.head()).unwrap();
        assert_eq!(Fork::proven_by(&shown[0], &forged, signer().key()), None);
        assert_eq!(Fork::proven_by(&shown[0], &shown[0], signer().key()), None);
        assert_eq!(Fork::proven_by(&shown[0], &numbers(21).note(), signer().key()), None);
    }

    #[test]
    fn a_checkpoint_says_one_thing_of_the_records() {
        let head = numbers(20).tree.head();
        let with = |byte| sign_with_records(&signer(), ORIGIN, &head, &Hash([byte; 32])).unwrap();
        let [one, other, plain] = [with(1), with(2), numbers(20).note()];
        assert_eq!((records(&one), records(&plain)), (Some(Hash([1; 32])), None));
        assert_eq!(verify(&one, signer().key()), Ok(head));
        assert_eq!(one.text().lines().nth(3).map(|line| line.split_at(8).0), Some("records "));

        let mut view = view();
        for note in [&plain, &one, &plain, &one] {
            assert_eq!(view.accept(note.clone(), &[]), Ok(head));
        }
        let Err(ViewError::Forked(fork)) = view.accept(other.clone(), &[]) else { panic!("it is seen") };
        assert_eq!(fork.to_string(), "the log has signed two different outcomes of 20 entries");
        assert_eq!(Fork::proven_by(&one, &other, signer().key()), Some(*fork));
        assert_eq!(Fork::proven_by(&one, &plain, signer().key()), None);
    }

    #[test]
    fn quorum_counts_each_witness_once_and_no_forger() {
        let witness = |n: u8| NoteSigner::<Witness>::new(&format!("example.com/w{n}"), &[n; 32]).unwrap();
        let keys = |known: &[u8]| known.iter().map(|n| witness(*n).key().clone()).collect::<Vec<_>>();
        let mut note = numbers(5).note();
        let quorum = Quorum { witnesses: keys(&[1, 2, 3, 4]), needed: 3 };
        let log = signer().key().clone();
        let few = |found, needed| Err(QuorumError::TooFewWitnesses { found, needed });
        assert_eq!(quorum.check(&note, &log), few(0, 3));
        for n in [1, 1, 2] {
            witness(n).cosign(&mut note, UnixTime::from_seconds(100));
        }
        // A stranger's cosignature, and one for another checkpoint.
        witness(9).cosign(&mut note, UnixTime::from_seconds(100));
        assert_eq!(quorum.check(&note, &log), few(2, 3));
        let mut other = numbers(6).note();
        witness(3).cosign(&mut other, UnixTime::from_seconds(100));
        let copied = other.to_string().lines().last().unwrap().to_owned() + "\n";
        let copied: Note = (note.to_string() + &copied).parse().unwrap();
        assert_eq!(quorum.check(&copied, &log), few(2, 3));
        assert_eq!(Quorum { witnesses: keys(&[1, 1, 2]), needed: 3 }.check(&note, &log), few(2, 3));
        witness(4).cosign(&mut note, UnixTime::from_seconds(200));
        assert_eq!(quorum.check(&note, &log), Ok(numbers(5).tree.head()));
    }

    #[test]
    fn witness_that_is_known_under_two_names_is_one() {
        let under = |name: &str| NoteSigner::<Witness>::new(name, &[1; 32]).unwrap();
        let [attic, cellar] = ["example.com/attic", "example.com/cellar"].map(under);
        let mut note = numbers(5).note();
        attic.cosign(&mut note, UnixTime::from_seconds(100));
        cellar.cosign(&mut note, UnixTime::from_seconds(100));
        let quorum = Quorum { witnesses: vec![attic.key().clone(), cellar.key().clone()], needed: 2 };
        let few = QuorumError::TooFewWitnesses { found: 1, needed: 2 };
        assert_eq!(quorum.check(&note, signer().key()), Err(few));
    }

    #[test]
    fn what_witnesses_have_cosigned_is_a_checkpoint_of_this_log() {
        let witness = NoteSigner::<Witness>::new("example.com/w", &[1; 32]).unwrap();
        let quorum = Quorum { witnesses: vec![witness.key().clone()], needed: 1 };
        let cosigned = |mut note: Note| {
            witness.cosign(&mut note, UnixTime::from_seconds(100));
            quorum.check(&note, signer().key()).map(|head| head.size)
        };
        let hill = NoteSigner::<Log>::new("example.com/hill", &[7; 32]).unwrap();
        let other = sign(&hill, "example.com/hill", &numbers(5).tree.head()).unwrap();
        let unsigned = CheckpointError::Unsigned(Unsigned::Missing);
        assert_eq!(cosigned(other), Err(QuorumError::Checkpoint(unsigned)));
        let root = STANDARD.encode([1; 32]);
        let mut elsewhere = Note::new(format!("example.com/hill\n5\n{root}\n")).unwrap();
        signer().sign(&mut elsewhere);
        assert_eq!(cosigned(elsewhere), Err(QuorumError::Checkpoint(CheckpointError::Malformed)));
        assert_eq!(cosigned(numbers(5).note()), Ok(5));
    }
}
