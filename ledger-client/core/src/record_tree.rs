//! A hash of all records of a ledger, from which each can be proven: that it says this, or that there is none.
//!
//! Each record is a leaf at the key that its place hashes to. A subtree of no leaf is [`EMPTY`], one of a single leaf is the
//! leaf, wherever it begins, and any other is the hash of its two halves, by the next bit of the key. So the root depends on the
//! records alone and not on how they came to be, and a leaf is about as many hashes deep as the logarithm of how many there
//! are.
//!
//! Whoever keeps the tree keeps [`Tile`]s of four levels each, through [`Tiles`], and brings it up to date with
//! [`update`]; whoever has all records at hand takes [`root_of`]. A [`Proof`] is checked from the root alone.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::place::value;
use crate::{Hash, Records};

/// The hash of a subtree without leaves. Nothing that is known hashes to it.
pub const EMPTY: Hash = Hash([0; 32]);

/// The levels of a tile, and how many subtrees begin below it.
const LEVELS: u32 = 4;
const SLOTS: usize = 1 << LEVELS;

/// Tiles on the way to the deepest leaf: a key has 256 bits.
const MAX_DEPTH: u8 = 64;

/// Where a record is in the tree: the SHA-256 hash of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key(pub Hash);

impl Key {
    /// The key of a place ([`crate::place`]).
    #[must_use]
    pub fn of(place: &[u8]) -> Self {
        Self(Hash(Sha256::digest(place).into()))
    }

    /// The bit that decides at this depth, from 0: the most significant one first.
    fn bit(&self, depth: usize) -> bool {
        self.0.0.get(depth / 8).is_some_and(|byte| byte >> (7 - depth % 8) & 1 == 1)
    }

    /// The four bits that decide within a tile at this depth, counted in tiles.
    fn slot(&self, depth: u8) -> usize {
        let byte = self.0.0.get(usize::from(depth / 2)).copied().unwrap_or_default();
        usize::from(if depth.is_multiple_of(2) { byte >> 4 } else { byte & 15 })
    }
}

/// A record in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// Where.
    pub key: Key,
    /// The SHA-256 hash of its value.
    pub value: Hash,
}

impl Leaf {
    /// The leaf of this value at this place.
    #[must_use]
    pub fn of(place: &[u8], value: &[u8]) -> Self {
        Self { key: Key::of(place), value: Hash(Sha256::digest(value).into()) }
    }

    /// `HASH(0x02 || key || HASH(value))`.
    fn hash(&self) -> Hash {
        Hash(Sha256::new().chain_update([2]).chain_update(self.key.0.0).chain_update(self.value.0).finalize().into())
    }
}

/// `HASH(0x03 || left || right)`.
fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(Sha256::new().chain_update([3]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// Part of the tree: all leaves whose keys begin with some bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subtree {
    /// There is none.
    #[default]
    Empty,
    /// There is one.
    Leaf(Leaf),
    /// There are two and more.
    Node(Hash),
}

impl Subtree {
    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        match self {
            Self::Empty => EMPTY,
            Self::Leaf(leaf) => leaf.hash(),
            Self::Node(hash) => *hash,
        }
    }

    /// The subtree with these halves.
    fn over(left: Self, right: Self) -> Self {
        match (left, right) {
            (one, Self::Empty) | (Self::Empty, one) if !matches!(one, Self::Node(_)) => one,
            (left, right) => Self::Node(node_hash(&left.hash(), &right.hash())),
        }
    }

    /// The subtree that begins above these, which are next to each other. There are a power of two of them.
    fn above(subtrees: &[Self]) -> Self {
        match subtrees {
            [] => Self::Empty,
            [one] => *one,
            _ => {
                let (left, right) = subtrees.split_at(subtrees.len() / 2);
                Self::over(Self::above(left), Self::above(right))
            }
        }
    }

    /// As a store keeps it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Empty => Vec::new(),
            Self::Leaf(leaf) => [leaf.key.0.0, leaf.value.0].concat(),
            Self::Node(hash) => hash.0.to_vec(),
        }
    }

    /// Reads what [`Subtree::encode`] wrote; `None` where the bytes are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::Empty);
        }
        let (first, rest) = bytes.split_first_chunk()?;
        if rest.is_empty() {
            return Some(Self::Node(Hash(*first)));
        }
        let value = Hash(rest.try_into().ok()?);
        Some(Self::Leaf(Leaf { key: Key(Hash(*first)), value }))
    }
}

/// The root of the tree that has these leaves, each key once.
#[must_use]
pub fn root_of(leaves: &[Leaf]) -> Subtree {
    let mut sorted = leaves.to_vec();
    sorted.sort_unstable_by_key(|leaf| leaf.key);
    below(&sorted, 0)
}

/// The subtree of these leaves, which are in order and have their first bits in common.
fn below(leaves: &[Leaf], depth: usize) -> Subtree {
    match leaves {
        [] => Subtree::Empty,
        [leaf] => Subtree::Leaf(*leaf),
        _ => {
            let (left, right) = leaves.split_at(leaves.partition_point(|leaf| !leaf.key.bit(depth)));
            Subtree::over(below(left, depth + 1), below(right, depth + 1))
        }
    }
}

/// Which tile: the first bits of its keys, four for each level of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    depth: u8,
    /// The rest of it is zero.
    key: Key,
}

impl Prefix {
    /// The tile with the root.
    pub const ROOT: Self = Self { depth: 0, key: Key(Hash([0; 32])) };

    fn child(self, slot: usize) -> Self {
        let mut key = self.key;
        if let (Some(byte), Ok(slot)) = (key.0.0.get_mut(usize::from(self.depth / 2)), u8::try_from(slot)) {
            *byte |= if self.depth.is_multiple_of(2) { slot << 4 } else { slot };
        }
        Self { depth: self.depth + 1, key }
    }

    /// As a store keeps it: the number of digits, and the bytes that they fill.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let filled = usize::from(self.depth.div_ceil(2));
        let bytes = self.key.0.0.iter().take(filled).copied();
        std::iter::once(self.depth).chain(bytes).collect()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..self.depth).try_for_each(|depth| write!(f, "{:x}", self.key.slot(depth)))
    }
}

/// Four levels of the tree: the sixteen subtrees that begin below them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tile([Subtree; SLOTS]);

impl Tile {
    /// As a store keeps it: two bits for each slot, then what stands in them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut kinds = 0_u32;
        let mut bytes = vec![0; 4];
        for subtree in &self.0 {
            let kind = match subtree {
                Subtree::Empty => 0,
                Subtree::Leaf(_) => 1,
                Subtree::Node(_) => 2,
            };
            kinds = kinds << 2 | kind;
            bytes.extend(subtree.encode());
        }
        if let Some(first) = bytes.first_chunk_mut() {
            *first = kinds.to_be_bytes();
        }
        bytes
    }

    /// Reads what [`Tile::encode`] wrote; `None` where the bytes are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kinds, mut rest) = bytes.split_first_chunk()?;
        let kinds = u32::from_be_bytes(*kinds);
        let mut tile = Self::default();
        for (slot, kind) in tile.0.iter_mut().zip((0..SLOTS).rev().map(|slot| kinds >> (2 * slot) & 3)) {
            let length = match kind {
                0 => 0,
                1 => 64,
                2 => 32,
                _ => return None,
            };
            let (bytes, after) = rest.split_at_checked(length)?;
            (*slot, rest) = (Subtree::decode(bytes)?, after);
        }
        rest.is_empty().then_some(tile)
    }
}

/// The tiles of one tree, as a store keeps them.
pub trait Tiles {
    /// Why they cannot be reached.
    type Error;

    /// A tile, if there is one.
    ///
    /// # Errors
    /// Where they cannot be reached.
    fn tile(&self, prefix: &Prefix) -> Result<Option<Tile>, Self::Error>;

    /// Keeps a tile.
    ///
    /// # Errors
    /// As above.
    fn set_tile(&mut self, prefix: &Prefix, tile: &Tile) -> Result<(), Self::Error>;
}

/// Why a tree could not be read or brought up to date. What was written is to be thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TreeError<E> {
    /// The store cannot be reached.
    #[error("the tiles cannot be reached")]
    Tiles(E),
    /// A tile is not what was written.
    #[error("the tile {_0} is missing or was changed")]
    Damaged(Prefix),
}

/// Writes leaves, new ones or new values of old ones, into the tree with this root, and gives its new root. They are in order
/// of their keys, each key once.
///
/// # Errors
/// [`TreeError`]
pub fn update<T: Tiles>(
    tiles: &mut T,
    root: Subtree,
    leaves: &BTreeMap<Key, Hash>,
) -> Result<Subtree, TreeError<T::Error>> {
    let leaves: Vec<Leaf> = leaves.iter().map(|(key, value)| Leaf { key: *key, value: *value }).collect();
    write(tiles, Prefix::ROOT, root, &leaves)
}

fn write<T: Tiles>(
    tiles: &mut T,
    prefix: Prefix,
    before: Subtree,
    leaves: &[Leaf],
) -> Result<Subtree, TreeError<T::Error>> {
    let (mut tile, leaves) = match before {
        _ if leaves.is_empty() => return Ok(before),
        Subtree::Empty => (Tile::default(), leaves.to_vec()),
        Subtree::Leaf(old) => (Tile::default(), with(old, leaves)),
        Subtree::Node(hash) => (read(tiles, &prefix, &hash)?, leaves.to_vec()),
    };
    if let (false, [leaf]) = (matches!(before, Subtree::Node(_)), leaves.as_slice()) {
        return Ok(Subtree::Leaf(*leaf));
    }
    if prefix.depth == MAX_DEPTH {
        // Two leaves with one key.
        return Err(TreeError::Damaged(prefix));
    }
    let mut rest = leaves.as_slice();
    for (slot, subtree) in tile.0.iter_mut().enumerate() {
        let (here, after) = rest.split_at(rest.partition_point(|leaf| leaf.key.slot(prefix.depth) <= slot));
        *subtree = write(tiles, prefix.child(slot), *subtree, here)?;
        rest = after;
    }
    tiles.set_tile(&prefix, &tile).map_err(TreeError::Tiles)?;
    Ok(Subtree::above(&tile.0))
}

/// Leaves in order, and an older one among them unless they have its key.
fn with(old: Leaf, leaves: &[Leaf]) -> Vec<Leaf> {
    let at = leaves.partition_point(|leaf| leaf.key < old.key);
    let mut all = leaves.to_vec();
    if leaves.get(at).is_none_or(|leaf| leaf.key != old.key) {
        all.insert(at, old);
    }
    all
}

fn read<T: Tiles>(tiles: &T, prefix: &Prefix, hash: &Hash) -> Result<Tile, TreeError<T::Error>> {
    let tile = tiles.tile(prefix).map_err(TreeError::Tiles)?;
    tile.filter(|tile| Subtree::above(&tile.0) == Subtree::Node(*hash)).ok_or(TreeError::Damaged(*prefix))
}

/// The leaves of what stands at these places now. Where nothing does, nothing ever did.
///
/// # Errors
/// Where the records cannot be reached.
pub fn leaves<R: Records>(
    records: &R,
    places: impl IntoIterator<Item = Vec<u8>>,
) -> Result<BTreeMap<Key, Hash>, R::Error> {
    let mut leaves = BTreeMap::new();
    for place in places {
        if let Some(value) = value(records, &place)? {
            let Leaf { key, value } = Leaf::of(&place, &value);
            leaves.insert(key, value);
        }
    }
    Ok(leaves)
}

/// What reading all tiles found: [`count`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many leaves the tree has.
    pub leaves: u64,
    /// How many tiles it is kept in.
    pub tiles: u64,
}

/// Reads the whole tree, each tile against the one above it.
///
/// # Errors
/// [`TreeError`]
pub fn count<T: Tiles>(tiles: &T, root: &Subtree) -> Result<Count, TreeError<T::Error>> {
    let (mut count, mut left) = (Count::default(), vec![(Prefix::ROOT, *root)]);
    while let Some((prefix, subtree)) = left.pop() {
        match subtree {
            Subtree::Empty => {}
            Subtree::Leaf(_) => count.leaves += 1,
            Subtree::Node(hash) => {
                count.tiles += 1;
                let tile = read(tiles, &prefix, &hash)?;
                left.extend((0..).map(|slot| prefix.child(slot)).zip(tile.0));
            }
        }
    }
    Ok(count)
}

/// What shows that a record says something, or that there is none: the hashes beside the way from the root to its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The subtrees that branch off, from the root down.
    pub siblings: Vec<Hash>,
    /// The only leaf that begins as the key does, where there is no record and another stands in its way.
    pub other: Option<Leaf>,
}

/// The proof for this key in the tree with this root.
///
/// # Errors
/// [`TreeError`]
pub fn prove<T: Tiles>(tiles: &T, root: &Subtree, key: &Key) -> Result<Proof, TreeError<T::Error>> {
    let (mut at, mut prefix, mut proof) = (*root, Prefix::ROOT, Proof::default());
    while let Subtree::Node(hash) = at {
        let tile = read(tiles, &prefix, &hash)?;
        let (mut part, mut depth) = (tile.0.as_slice(), usize::from(prefix.depth) * LEVELS as usize);
        while matches!(at, Subtree::Node(_)) && part.len() > 1 {
            let (left, right) = part.split_at(part.len() / 2);
            let (own, other) = if key.bit(depth) { (right, left) } else { (left, right) };
            proof.siblings.push(Subtree::above(other).hash());
            (part, at, depth) = (own, Subtree::above(own), depth + 1);
        }
        prefix = prefix.child(key.slot(prefix.depth));
    }
    if let Subtree::Leaf(leaf) = at {
        proof.other = Some(leaf).filter(|leaf| leaf.key != *key);
    }
    Ok(proof)
}

impl Proof {
    /// Whether this shows that in the tree with this root `value` stands at `place`: nothing at all, where it is `None`.
    #[must_use]
    pub fn shows(&self, root: &Hash, place: &[u8], value: Option<&[u8]>) -> bool {
        self.shows_leaf(root, Key::of(place), value.map(|value| Leaf::of(place, value)))
    }

    fn shows_leaf(&self, root: &Hash, key: Key, leaf: Option<Leaf>) -> bool {
        let depth = self.siblings.len();
        let end = match (leaf, &self.other) {
            (Some(leaf), None) => leaf.hash(),
            (None, None) => EMPTY,
            (None, Some(other)) => {
                let stands_in_the_way = other.key != key && (0..depth).all(|bit| other.key.bit(bit) == key.bit(bit));
                if !stands_in_the_way {
                    return false;
                }
                other.hash()
            }
            (Some(_), Some(_)) => return false,
        };
        if depth > 256 {
            return false;
        }
        let upwards = self.siblings.iter().enumerate().rev();
        let top = upwards.fold(
            end,
            |own, (bit, sibling)| {
                if key.bit(bit) { node_hash(sibling, &own) } else { node_hash(&own, sibling) }
            },
        );
        top == *root
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;

    use metering::json::hex_text;
    use metering::{ChannelId, NodeId, Tokens};
    use proptest::prelude::*;

    use super::*;
    use crate::fact::Fact;
    use crate::place::{Funds, Overall};
    use crate::{Channel, Phase, Totals, UnixTime};

    /// Tiles in memory, as bytes.
    #[derive(Default)]
    pub(crate) struct Kept(BTreeMap<Vec<u8>, Vec<u8>>);

    impl Tiles for Kept {
        type Error = Infallible;

        fn tile(&self, prefix: &Prefix) -> Result<Option<Tile>, Infallible> {
            Ok(self.0.get(&prefix.encode()).map(|bytes| Tile::decode(bytes).unwrap()))
        }

        fn set_tile(&mut self, prefix: &Prefix, tile: &Tile) -> Result<(), Infallible> {
            self.0.insert(prefix.encode(), tile.encode());
            Ok(())
        }
    }

    /// A key that begins with these bytes, so that leaves meet deep in the tree.
    fn key() -> impl Strategy<Value = Key> {
        let byte = prop::sample::select(vec![0_u8, 1, 0x10, 0x80, 0xff]);
        prop::collection::vec(byte, 1..4).prop_map(|first| {
            let mut key = [0; 32];
            key[..first.len()].copy_from_slice(&first);
            Key(Hash(key))
        })
    }

    fn leaf() -> impl Strategy<Value = (Key, Hash)> {
        (key(), 0..3_u8).prop_map(|(key, value)| (key, Hash([value; 32])))
    }

    /// As the crate's page has it, word for word.
    fn plain(leaves: &[Leaf], depth: usize) -> Hash {
        match leaves {
            [] => EMPTY,
            [leaf] => leaf.hash(),
            _ => {
                let (right, left): (Vec<_>, Vec<_>) = leaves.iter().copied().partition(|leaf| leaf.key.bit(depth));
                node_hash(&plain(&left, depth + 1), &plain(&right, depth + 1))
            }
        }
    }

    /// [`Proof::shows`] for a key of our own, which no place is known for.
    fn shows(proof: &Proof, root: &Hash, key: Key, value: Option<Hash>) -> bool {
        let leaf = value.map(|value| Leaf { key, value });
        proof.shows_leaf(root, key, leaf)
    }

    proptest! {
        #[test]
        fn a_tree_is_its_leaves_and_proves_each_and_each_gap(
            steps in prop::collection::vec(prop::collection::btree_map(key(), leaf().prop_map(|(_, value)| value), 0..12), 0..6),
            asked in prop::collection::vec(key(), 1..12),
            turned in any::<prop::sample::Index>(),
        ) {
            let (mut tiles, mut root, mut all) = (Kept::default(), Subtree::Empty, BTreeMap::new());
            for step in steps {
                root = update(&mut tiles, root, &step).unwrap();
                all.extend(step);
                let leaves: Vec<Leaf> = all.iter().map(|(key, value)| Leaf { key: *key, value: *value }).collect();
                prop_assert_eq!(root.hash(), plain(&leaves, 0));
                prop_assert_eq!(root, root_of(&leaves));
                prop_assert_eq!(Subtree::decode(&root.encode()), Some(root));
                prop_assert_eq!(count(&tiles, &root).unwrap().leaves, leaves.len() as u64);
            }
            for key in asked.into_iter().chain(all.keys().copied().take(3)) {
                let (proof, value) = (prove(&tiles, &root, &key).unwrap(), all.get(&key).copied());
                prop_assert!(shows(&proof, &root.hash(), key, value));
                // Nothing else is shown by it, nor by anything that is nearly it.
                prop_assert!(!shows(&proof, &root.hash(), key, Some(Hash([9; 32]))));
                if value.is_some() {
                    prop_assert!(!shows(&proof, &root.hash(), key, None));
                }
                let mut altered = proof.clone();
                if let Some(sibling) = (!altered.siblings.is_empty()).then(|| turned.get_mut(&mut altered.siblings)) {
                    sibling.0[5] ^= 1;
                    prop_assert!(!shows(&altered, &root.hash(), key, value));
                    altered = Proof { siblings: proof.siblings[1..].to_vec(), ..proof.clone() };
                    prop_assert!(!shows(&altered, &root.hash(), key, value));
                }
                if let Some(other) = proof.other {
                    for forged in [Leaf { key, ..other }, Leaf { value: Hash([9; 32]), ..other }] {
                        altered = Proof { other: Some(forged), ..proof.clone() };
                        prop_assert!(!shows(&altered, &root.hash(), key, None));
                    }
                    altered = Proof { other: None, ..proof.clone() };
                    prop_assert!(!shows(&altered, &root.hash(), key, None));
                }
            }
        }

        #[test]
        fn a_tile_that_was_changed_is_named(leaves in prop::collection::btree_map(key(), Just(Hash([1; 32])), 2..40), turned in any::<prop::sample::Index>()) {
            let mut tiles = Kept::default();
            let root = update(&mut tiles, Subtree::Empty, &leaves).unwrap();
            let mut names: Vec<Vec<u8>> = tiles.0.keys().cloned().collect();
            let name = turned.get_mut(&mut names).clone();
            let intact = tiles.0.get_mut(&name).unwrap();
            *intact.last_mut().unwrap() ^= 1;
            prop_assert!(matches!(count(&tiles, &root), Err(TreeError::Damaged(_))));
            let all_again = update(&mut tiles, root, &leaves);
            prop_assert!(matches!(all_again, Err(TreeError::Damaged(_))));
        }

        #[test]
        fn bytes_that_are_no_tile_are_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(tile) = Tile::decode(&bytes) {
                prop_assert_eq!(tile.encode(), bytes);
            }
        }
    }

    /// The example of RULEBOOK.md, computed there by another program.
    #[test]
    fn the_root_is_the_one_of_the_rulebook() {
        let [treasurer, alice, bob] = [7, 0xa1, 0xb0].map(|byte| NodeId([byte; 20]));
        let tokens = |n| Tokens::new(n).unwrap();
        let (minted, held, locked) = (tokens(100), tokens(40), tokens(60));
        let totals = Totals { minted, held, locked, ..Totals::default() };
        let channel = ChannelId { payer: alice, payee: bob, nonce: 1 };
        let phase = Phase::Closing { exit: UnixTime::from_seconds(400) };
        let overall = Overall { time: UnixTime::from_seconds(100), totals };
        let records = [
            (Overall::place(&()), overall.encode()),
            (Funds::place(&treasurer), Funds { sequence: 1, ..Funds::default() }.encode()),
            (Funds::place(&alice), Funds { balance: held, sequence: 1 }.encode()),
            (Channel::place(&channel), Channel { phase, ..Channel::open(locked) }.encode()),
        ];
        let rulebook = include_str!("../../RULEBOOK.md");
        for (place, value) in &records {
            let [place, value] = [place, value].map(|bytes| hex_text(bytes)[2..].to_owned());
            let line = format!("{place} {value}");
            assert!(rulebook.contains(&line), "{line}");
        }
        let leaves = records.map(|(place, value)| Leaf::of(&place, &value));
        let root = root_of(&leaves).hash().to_string();
        assert_eq!(root, "5f560015adb335231d9dc4e256110dc85592b92e7a02bf0b1a9ce4757b106a6a");
        assert!(rulebook.contains(&root));
    }

    #[test]
    fn a_proof_is_no_longer_than_a_key() {
        let proof = Proof { siblings: vec![EMPTY; 257], other: None };
        assert!(!proof.shows(&EMPTY, b"place", None));
        assert!(Proof::default().shows(&EMPTY, b"place", None));
        assert!(!Proof::default().shows(&EMPTY, b"place", Some(b"value")));
    }
}
