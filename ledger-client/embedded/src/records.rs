//! The hash of all records, kept beside them: it follows the log when it is asked for, and not with each entry, which would
//! take longer than all else that an entry does.
//!
//! What the tree was last brought up to date with is a size of the log. The entries since then say which records they may have
//! changed ([`ledger_core::place::touched`]); those are hashed as they are now. Only where no entry is left over does the root
//! belong to the log's head, and only then is anything proven by it.

use ledger_core::fact::Fact;
use ledger_core::place::{self, Funds};
use ledger_core::record_tree::{
    self, Count, Key, Prefix, Proof, Subtree, Tile, Tiles, TreeError, count, leaves, update,
};
use ledger_core::{Channel, Hash, Head};
use metering::NodeId;
use rusqlite::{OptionalExtension, TransactionBehavior, params};

use crate::error::{Error, Fault};
use crate::seal::{Seal, Table, seal};
use crate::transaction::{Transaction, stored, unsigned};
use crate::{Embedded, MAX_PAGE, Progress};

/// How many entries the tree may be behind before who writes many of them brings it up to date: so that whoever asks for a
/// proof waits for no more than these, some tenths of a second where all of them are about other records.
pub(crate) const MAX_BEHIND: u64 = 1024;

/// From this far behind, all records are hashed anew instead.
const ANEW_BEHIND: u64 = 100_000;

/// How many leaves are written at once where all are: some megabytes.
const AT_ONCE: usize = 16_384;

/// Records, as they are at one head of the log, and what proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The log's head.
    pub head: Head,
    /// The hash of all records there.
    pub root: Hash,
    /// Of each place that was asked for, in that order: what stands there, if anything does, and the proof.
    pub records: Vec<(Option<Vec<u8>>, Proof)>,
}

impl Embedded {
    /// What stands at each of these places ([`ledger_core::place`]), with proofs against the hash of all records. `None` where
    /// that is behind the log: [`Embedded::prove_records`] brings it up to date.
    ///
    /// # Errors
    /// [`Error`]
    pub fn proven_records(&mut self, places: &[Vec<u8>]) -> Result<Option<Proven>, Error> {
        self.read(|records| match records.prove(places) {
            // Whoever brings it up to date mends it.
            Err(Fault::Hashes(_)) => Ok(None),
            proven => proven,
        })
    }

    /// The same, after the hash of all records was brought up to date where it was behind: it waits for whoever writes.
    ///
    /// # Errors
    /// [`Error`]
    pub fn prove_records(&mut self, places: &[Vec<u8>]) -> Result<Proven, Error> {
        self.write_beside(|records| {
            while records.follow(u64::MAX)? {}
            let proven = match records.prove(places) {
                Err(Fault::Hashes(_)) => records.hash_anew(&mut |_| ()).and_then(|()| records.prove(places)),
                proven => proven,
            };
            proven?.ok_or_else(|| Fault::damaged("the hash of all records does not follow the log"))
        })
    }

    /// Brings the hash of all records nearer to the log, by so many entries at most, and says whether it is still behind. Nothing
    /// but proofs of records rests on it.
    ///
    /// # Errors
    /// [`Error`]
    pub fn hash_records(&mut self, most: u64) -> Result<bool, Error> {
        self.write_beside(|records| records.follow(most))
    }

    /// Brings the hash of all records up to date, however far it is behind, and says how far it is: in records where all are
    /// hashed anew, else in entries. To be done before a ledger is served that others have written for long.
    ///
    /// # Errors
    /// [`Error`]
    pub fn hash_all_records(&mut self, mut progress: impl FnMut(Progress)) -> Result<(), Error> {
        loop {
            let told = &mut progress;
            let (hashed, size) = self.write_beside(|records| {
                let is_behind = records.follow_and_tell(u64::MAX, told)?;
                let size = records.head().size;
                Ok((if is_behind { records.hashed()?.0 } else { size }, size))
            })?;
            progress(Progress { done: hashed, of: size });
            if hashed == size {
                return Ok(());
            }
        }
    }

    /// A transaction that writes, and adds no entry.
    pub(crate) fn write_beside<T>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        let (path, genesis) = (&self.path, &self.genesis);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = transaction.map_err(|error| Error::sqlite(path, error))?;
        let done = Transaction::begin(&transaction, Some(genesis)).and_then(|mut records| work(&mut records));
        let done = done.map_err(|fault| fault.at(path))?;
        transaction.commit().map_err(|error| Error::sqlite(path, error))?;
        Ok(done)
    }
}

impl Transaction<'_> {
    /// Up to which size of the log all records are hashed, and the root.
    pub(crate) fn hashed(&self) -> Result<(u64, Subtree), Fault> {
        let mut select = self.connection().prepare_cached("SELECT size, root, seal FROM hashed WHERE id = 0")?;
        let mut rows = select.query([])?;
        let row = rows.next()?.ok_or_else(|| Fault::Hashes("the row of what is hashed is missing".to_owned()))?;
        let (size, root): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let root = Subtree::decode(&root).filter(|_| row.get::<_, Seal>(2) == Ok(seal_hashed(size, &root)));
        Ok((unsigned(size)?, root.ok_or_else(|| Fault::Hashes("the row of what is hashed was changed".to_owned()))?))
    }

    pub(crate) fn set_hashed(&mut self, size: u64, root: &Subtree) -> Result<(), Fault> {
        let (size, root) = (stored(size)?, root.encode());
        let seal = seal_hashed(size, &root);
        self.connection()
            .prepare_cached(
                "INSERT INTO hashed VALUES (0, ?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET size = excluded.size, root = excluded.root, seal = excluded.seal",
            )?
            .execute(params![size, root, seal])?;
        Ok(())
    }

    fn prove(&self, places: &[Vec<u8>]) -> Result<Option<Proven>, Fault> {
        // What is proven is signed with the log's head.
        self.check_own_row()?;
        let ((size, root), head) = (self.hashed()?, self.head());
        if size != head.size {
            return Ok(None);
        }
        let prove = |place: &Vec<u8>| {
            let proof = record_tree::prove(self, &root, &Key::of(place)).map_err(Fault::from)?;
            Ok((place::value(self, place)?, proof))
        };
        let records = places.iter().map(prove).collect::<Result<_, Fault>>()?;
        Ok(Some(Proven { head, root: root.hash(), records }))
    }

    /// Follows the log by so many entries at most, or hashes all records anew where it is far behind or what was kept is
    /// damaged; says whether it is still behind.
    fn follow(&mut self, most: u64) -> Result<bool, Fault> {
        self.follow_and_tell(most, &mut |_| ())
    }

    /// The same, and says how far it is where all are hashed anew.
    fn follow_and_tell(&mut self, most: u64, progress: &mut impl FnMut(Progress)) -> Result<bool, Fault> {
        let size = self.head().size;
        let followed = match self.hashed() {
            Ok((hashed, _)) if hashed == size => return Ok(false),
            Ok((hashed, root)) if hashed < size && size - hashed < ANEW_BEHIND => self.follow_from(hashed, &root, most),
            // What is behind by so much, or beyond the log, or does not read.
            Ok(_) | Err(Fault::Hashes(_)) => self.hash_anew(progress).map(|()| false),
            Err(fault) => Err(fault),
        };
        match followed {
            Err(Fault::Hashes(_)) => self.hash_anew(progress).map(|()| false),
            followed => followed,
        }
    }

    fn follow_from(&mut self, hashed: u64, root: &Subtree, most: u64) -> Result<bool, Fault> {
        let size = self.head().size;
        let count = most.min(size - hashed).min(MAX_PAGE as u64);
        let entries = self.entries(hashed, MAX_PAGE.min(usize::try_from(count).unwrap_or(MAX_PAGE)))?;
        let changed = leaves(self, entries.iter().flat_map(place::touched))?;
        let root = update(self, *root, &changed)?;
        let hashed = hashed + entries.len() as u64;
        self.set_hashed(hashed, &root)?;
        Ok(hashed < size)
    }

    fn hash_anew(&mut self, progress: &mut impl FnMut(Progress)) -> Result<(), Fault> {
        self.connection().execute("DELETE FROM tile", [])?;
        let mut places = Vec::new();
        let mut root = Subtree::Empty;
        let mut all = self.all_places()?.into_iter();
        let of = all.len() as u64;
        while all.len() > 0 {
            progress(Progress { done: of - all.len() as u64, of });
            places.extend(all.by_ref().take(AT_ONCE));
            let leaves = leaves(self, places.drain(..))?;
            root = update(self, root, &leaves)?;
        }
        self.set_hashed(self.head().size, &root)
    }

    /// The place of every record.
    fn all_places(&self) -> Result<Vec<Vec<u8>>, Fault> {
        let mut places = vec![place::Overall::place(&())];
        let mut select =
            self.connection().prepare("SELECT id FROM account UNION SELECT DISTINCT account FROM ordered")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            places.push(Funds::place(&NodeId(row.get(0)?)));
        }
        self.each_channel(|row| {
            places.push(Channel::place(&row.value.0));
            Ok(())
        })?;
        self.each_fact(|row| {
            places.push(row.value.0);
            Ok(())
        })?;
        Ok(places)
    }

    /// Reads all tiles that the root leads to, and says how many there are besides.
    pub(crate) fn count_tiles(&self, root: &Subtree) -> Result<(Count, u64), Fault> {
        let kept = self.connection().query_row("SELECT count(*) FROM tile", [], |row| row.get(0))?;
        Ok((count(self, root)?, unsigned(kept)?))
    }
}

fn seal_hashed(size: i64, root: &[u8]) -> Seal {
    seal(Table::Hashed, &[&size.to_be_bytes(), root])
}

impl From<TreeError<Self>> for Fault {
    fn from(error: TreeError<Self>) -> Self {
        match error {
            TreeError::Tiles(fault) => fault,
            TreeError::Damaged(prefix) => {
                Self::Hashes(format!("the tile \"{prefix}\" of hashes of records is missing or was changed"))
            }
        }
    }
}

impl Tiles for Transaction<'_> {
    type Error = Fault;

    fn tile(&self, prefix: &Prefix) -> Result<Option<Tile>, Fault> {
        let mut select = self.connection().prepare_cached("SELECT slots FROM tile WHERE prefix = ?1")?;
        let slots =
            select.query_row([prefix.encode()], |row| Ok(Tile::decode(row.get_ref(0)?.as_blob()?))).optional()?;
        Ok(slots.flatten())
    }

    fn set_tile(&mut self, prefix: &Prefix, tile: &Tile) -> Result<(), Fault> {
        self.connection()
            .prepare_cached(
                "INSERT INTO tile VALUES (?1, ?2) ON CONFLICT (prefix) DO UPDATE SET slots = excluded.slots",
            )?
            .execute(params![prefix.encode(), tile.encode()])?;
        Ok(())
    }
}
