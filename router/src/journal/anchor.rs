//! The anchor: the ceilings once more, in two small files that are written in turn.
//!
//! A damaged journal may be set aside and begun anew; what a payer promised to its neighbours must outlive it. So the
//! newest ceilings and the boot counter also stand in `NAME.anchor-a` or `NAME.anchor-b`. A write goes to the file
//! that does not hold the newest state: a power cut in the middle costs that file, never the other.
//!
//! The layout, integers big-endian: magic (16 bytes), generation (8), boot counter (8), chain id (8), contract (20),
//! number of ceilings (4), then for each payer (20), payee (20), nonce (8), amount (12); SHA-256 of all that (32).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use metering::{ChannelId, LedgerDomain, NodeId, SortedMap, Tokens};
use sha2::{Digest, Sha256};

use super::CHANNELS_MAX;
use super::files::{OWNER_ONLY, beside, sync_directory_of};
use super::state::{channel_from_bytes, channel_to_bytes};

const MAGIC: &[u8; 16] = b"waybill anchor 1";
const HEADER_LEN: usize = 16 + 8 + 8 + 8 + 20 + 4;
const CEILING_LEN: usize = 48 + 12;
const DIGEST_LEN: usize = 32;
const ANCHOR_LEN_MAX: usize = HEADER_LEN + CHANNELS_MAX * CEILING_LEN + DIGEST_LEN;

/// What must outlive the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) domain: LedgerDomain,
    pub(super) boot: u64,
    pub(super) ceilings: SortedMap<ChannelId, Tokens>,
}

/// The two files, and which of them is to be written next.
#[derive(Debug)]
pub(super) struct AnchorFiles {
    paths: [PathBuf; 2],
    next: usize,
    generation: u64,
}

impl AnchorFiles {
    /// Reads both files of the journal at `journal`; the newest readable anchor comes with them. A file that cannot
    /// be read is as good as none, and is the next to be written.
    pub(super) fn open(journal: &Path) -> (Self, Option<Anchor>) {
        let paths = [beside(journal, ".anchor-a"), beside(journal, ".anchor-b")];
        let [a, b] = paths.each_ref().map(|path| read(path));
        let generation = |slot: &Option<(u64, Anchor)>| slot.as_ref().map(|(generation, _)| *generation);
        let next = usize::from(generation(&a) > generation(&b));
        let newest = if next == 1 { a } else { b };
        let (generation, anchor) = newest.unzip();
        (Self { paths, next, generation: generation.unwrap_or(0) }, anchor)
    }

    /// Makes the anchor durable. Where this fails, the one before it still stands. The first goes to both files, so that
    /// a disk that is full later has room for either.
    pub(super) fn write(&mut self, anchor: &Anchor) -> Result<(), (PathBuf, io::Error)> {
        self.write_next(anchor)?;
        if self.paths[self.next].exists() { Ok(()) } else { self.write_next(anchor) }
    }

    fn write_next(&mut self, anchor: &Anchor) -> Result<(), (PathBuf, io::Error)> {
        let generation = self.generation.saturating_add(1);
        let path = &self.paths[self.next];
        write(path, &anchor.encode(generation)).map_err(|source| (path.clone(), source))?;
        self.generation = generation;
        self.next = 1 - self.next;
        Ok(())
    }
}

fn read(path: &Path) -> Option<(u64, Anchor)> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(ANCHOR_LEN_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Anchor::decode(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is damaged"))
    };
    match read() {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "an anchor of the journal cannot be read");
            None
        }
    }
}

/// Overwrites in place: on a full disk the blocks are there already.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let is_new = !path.exists();
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(OWNER_ONLY).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    if is_new {
        sync_directory_of(path)?;
    }
    Ok(())
}

impl Anchor {
    fn encode(&self, generation: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.ceilings.len() * CEILING_LEN + DIGEST_LEN);
        bytes.extend(MAGIC);
        bytes.extend(generation.to_be_bytes());
        bytes.extend(self.boot.to_be_bytes());
        bytes.extend(self.domain.chain_id.to_be_bytes());
        bytes.extend(self.domain.contract.0);
        bytes.extend(u32::try_from(self.ceilings.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (channel, amount) in &self.ceilings {
            bytes.extend(channel_to_bytes(channel));
            bytes.extend(amount.to_be_bytes12());
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        bytes
    }

    /// The generation and the anchor, if the bytes are one in full.
    fn decode(bytes: &[u8]) -> Option<(u64, Self)> {
        let (body, digest) = bytes.split_last_chunk::<DIGEST_LEN>()?;
        let mut rest = body.strip_prefix(MAGIC)?;
        if Sha256::digest(body)[..] != digest[..] {
            return None;
        }
        let generation = u64::from_be_bytes(*take(&mut rest)?);
        let boot = u64::from_be_bytes(*take(&mut rest)?);
        let chain_id = u64::from_be_bytes(*take(&mut rest)?);
        let contract = NodeId(*take(&mut rest)?);
        let count = u32::from_be_bytes(*take(&mut rest)?) as usize;
        if count > CHANNELS_MAX || count.checked_mul(CEILING_LEN)? != rest.len() {
            return None;
        }
        let mut ceilings = SortedMap::new();
        for _ in 0..count {
            let channel = channel_from_bytes(take(&mut rest)?);
            ceilings.insert(channel, Tokens::from_be_bytes12(*take(&mut rest)?));
        }
        Some((generation, Self { domain: LedgerDomain { chain_id, contract }, boot, ceilings }))
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn anchor(boot: u64) -> Anchor {
        let node = |n| NodeId([n; 20]);
        let channel = |n| ChannelId { payer: node(1), payee: node(n), nonce: u64::from(n) };
        let ceilings = (2..5).map(|n| (channel(n), Tokens::new(u128::from(boot)).unwrap())).collect();
        Anchor { domain: LedgerDomain { chain_id: 0, contract: node(9) }, boot, ceilings }
    }

    #[test]
    fn the_newest_anchor_is_read_back_and_a_torn_write_costs_one_step() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal.db");
        let (mut files, none) = AnchorFiles::open(&journal);
        assert_eq!(none, None);
        for boot in 1..=5 {
            files.write(&anchor(boot)).unwrap();
            assert_eq!(AnchorFiles::open(&journal).1, Some(anchor(boot)));
        }
        // The first went to both files, the fifth to the second.
        let torn = directory.path().join("journal.db.anchor-b");
        let whole = fs::read(&torn).unwrap();
        fs::write(&torn, &whole[..whole.len() / 2]).unwrap();
        let (mut files, newest) = AnchorFiles::open(&journal);
        assert_eq!(newest, Some(anchor(4)));
        files.write(&anchor(6)).unwrap();
        assert_eq!(Anchor::decode(&fs::read(&torn).unwrap()).unwrap(), (6, anchor(6)), "the torn file was replaced");
    }

    #[test]
    fn a_shorter_anchor_leaves_nothing_of_the_longer_one() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal.db");
        let (mut files, _) = AnchorFiles::open(&journal);
        let mut short = anchor(3);
        short.ceilings.clear();
        for anchor in [&anchor(1), &anchor(2), &short] {
            files.write(anchor).unwrap();
        }
        assert_eq!(AnchorFiles::open(&journal).1, Some(short));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = anchor(7).encode(1);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Anchor::decode(&bytes), None);
        }
        for len in 0..whole.len() {
            assert_eq!(Anchor::decode(&whole[..len]), None);
        }
    }
}
