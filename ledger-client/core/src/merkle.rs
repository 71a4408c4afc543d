//! Merkle trees over the log, hashed as in RFC 9162, section 2.1.
//!
//! [`Tree`] is what a writer keeps: it appends and knows its root in memory of at most 64 hashes. The roots of the subtrees
//! it completes are [`Subtrees`] for a store to keep; from those, proofs for any size the log ever had are made with a
//! number of reads that grows as the logarithm of the size, and they are checked from a [`Head`] alone.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 hash: of a leaf, of a subtree, or of a whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Size and root of a log: what a checkpoint signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// How many entries.
    pub size: u64,
    /// `MTH(D[size])`.
    pub root: Hash,
}

/// `HASH(0x00 || entry)`.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
}

/// `HASH(0x01 || left || right)`.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// A tree that only grows.
///
/// It keeps the roots of the complete subtrees its size is made of, largest first: one for each bit that is set in the
/// size, so a tree of 13 entries keeps the roots of its first 8, next 4 and last 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    peaks: Vec<Hash>,
}

impl Tree {
    /// The tree with these [`Tree::peaks`], or `None` where their number does not fit the size.
    #[must_use]
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (size.count_ones() as usize == peaks.len()).then_some(Self { size, peaks })
    }

    /// The tree as it was when the log behind `subtrees`, which is at least as long, had `size` entries.
    ///
    /// # Errors
    /// As [`Subtrees::subtree`].
    pub fn at<S: Subtrees>(subtrees: &S, size: u64) -> Result<Self, S::Error> {
        let levels = (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1);
        // The peak of a level ends where all lower bits of the size are zero.
        let peaks = levels.map(|level| subtrees.subtree(level, (size >> level) - 1));
        Ok(Self { size, peaks: peaks.collect::<Result<_, _>>()? })
    }

    /// The roots of its complete subtrees, largest first.
    #[must_use]
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// How many entries it holds.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends one entry by its [`leaf_hash`], and returns the roots of the subtrees of two entries and more that it
    /// completes, smallest first.
    pub fn append(&mut self, leaf: Hash) -> Vec<Hash> {
        let mut subtree = leaf;
        let mut completed = Vec::new();
        // Each set bit at the end of the size is a complete subtree that the new one completes to double its size.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                subtree = node_hash(&left, &subtree);
                completed.push(subtree);
            }
        }
        self.peaks.push(subtree);
        self.size += 1;
        completed
    }

    /// Its size and `MTH(D[size])`; the root of an empty tree is the hash of nothing.
    #[must_use]
    pub fn head(&self) -> Head {
        let root = self.peaks.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
        Head { size: self.size, root: root.unwrap_or_else(empty_root) }
    }
}

fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// The complete subtrees of a log, as a store keeps them. Once complete, a subtree never changes.
pub trait Subtrees {
    /// Why a subtree cannot be read.
    type Error;

    /// The root of the subtree of `2^level` entries that begins at entry `index * 2^level`. At level 0 it is the entry's
    /// [`leaf_hash`]. Only what is complete is asked for.
    ///
    /// # Errors
    /// Where the store cannot be read.
    fn subtree(&self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// Numbers the complete subtrees of two entries and more, from 0, in the order in which a growing log completes them: a
/// store that keeps them under these numbers only ever adds at its end. `None` at level 0 and beyond 2^63 entries.
#[must_use]
pub fn subtree_number(level: u32, index: u64) -> Option<u64> {
    // The subtree is complete when so many entries are there.
    let size = index.checked_add(1)?.checked_mul(1_u64.checked_shl(level)?)?;
    u64::from(level).checked_sub(1)?.checked_add(subtree_count(size.checked_sub(1)?))
}

/// How many complete subtrees of two entries and more a log of this size has: one for each entry, less one for each peak.
#[must_use]
pub const fn subtree_count(size: u64) -> u64 {
    size - size.count_ones() as u64
}

/// `PATH(index, D[size])`: proves that the entry at `index` is in the log as it was at that size. The log behind `subtrees`
/// is at least as long. `None` where the log had no such entry then.
///
/// # Errors
/// As [`Subtrees::subtree`].
pub fn inclusion_proof<S: Subtrees>(subtrees: &S, size: u64, index: u64) -> Result<Option<Vec<Hash>>, S::Error> {
    if index >= size {
        return Ok(None);
    }
    let (mut first, mut end, mut proof) = (0, size, Vec::new());
    while end - first > 1 {
        let middle = first + split(end - first);
        if index < middle {
            proof.push(root_of(subtrees, middle, end)?);
            end = middle;
        } else {
            proof.push(root_of(subtrees, first, middle)?);
            first = middle;
        }
    }
    proof.reverse();
    Ok(Some(proof))
}

/// `PROOF(old_size, D[size])`: proves that the log of `old_size` entries is how the log of `size` entries begins. The log
/// behind `subtrees` is at least as long. `None` unless `0 < old_size <= size`.
///
/// # Errors
/// As [`Subtrees::subtree`].
pub fn consistency_proof<S: Subtrees>(subtrees: &S, old_size: u64, size: u64) -> Result<Option<Vec<Hash>>, S::Error> {
    if old_size == 0 || old_size > size {
        return Ok(None);
    }
    let (mut first, mut end, mut proof) = (0, size, Vec::new());
    while old_size < end {
        let middle = first + split(end - first);
        if old_size <= middle {
            proof.push(root_of(subtrees, middle, end)?);
            end = middle;
        } else {
            proof.push(root_of(subtrees, first, middle)?);
            first = middle;
        }
    }
    // Where the old log is one complete subtree, its root is known to whoever checks.
    if first > 0 {
        proof.push(root_of(subtrees, first, end)?);
    }
    proof.reverse();
    Ok(Some(proof))
}

/// `MTH(D[first:end])`, where `first` is a multiple of the smallest power of two that is not below `end - first`.
fn root_of<S: Subtrees>(subtrees: &S, first: u64, end: u64) -> Result<Hash, S::Error> {
    let size = end - first;
    if size.is_power_of_two() {
        let level = size.ilog2();
        return subtrees.subtree(level, first >> level);
    }
    let middle = first + split(size);
    Ok(node_hash(&root_of(subtrees, first, middle)?, &root_of(subtrees, middle, end)?))
}

/// The largest power of two smaller than `n`, for `n` of 2 and more.
const fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// Whether `proof` shows that `leaf` stands at `index` in the tree of `head` (RFC 9162, section 2.1.3.2).
#[must_use]
pub fn verify_inclusion(head: &Head, index: u64, leaf: &Hash, proof: &[Hash]) -> bool {
    if index >= head.size {
        return false;
    }
    let (mut r, mut position, mut last) = (*leaf, index, head.size - 1);
    for p in proof {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            r = node_hash(p, &r);
            while position & 1 == 0 && position != 0 {
                (position, last) = (position >> 1, last >> 1);
            }
        } else {
            r = node_hash(&r, p);
        }
        (position, last) = (position >> 1, last >> 1);
    }
    last == 0 && r == head.root
}

/// Whether `proof` shows that the tree of `new` begins with the tree of `old` (RFC 9162, section 2.1.4.2).
///
/// Everything begins with the empty tree.
#[must_use]
pub fn verify_consistency(old: &Head, new: &Head, proof: &[Hash]) -> bool {
    if old.size == 0 || old.size >= new.size {
        return proof.is_empty() && (old == new || (old.size == 0 && old.root == empty_root()));
    }
    let (first, rest) = if old.size.is_power_of_two() {
        (old.root, proof)
    } else {
        let Some((first, rest)) = proof.split_first() else {
            return false;
        };
        (*first, rest)
    };
    let (mut position, mut last) = (old.size - 1, new.size - 1);
    let complete = position.trailing_ones();
    (position, last) = (position >> complete, last >> complete);
    let (mut old_root, mut new_root) = (first, first);
    for c in rest {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            old_root = node_hash(c, &old_root);
            new_root = node_hash(c, &new_root);
            while position & 1 == 0 && position != 0 {
                (position, last) = (position >> 1, last >> 1);
            }
        } else {
            new_root = node_hash(&new_root, c);
        }
        (position, last) = (position >> 1, last >> 1);
    }
    last == 0 && old_root == old.root && new_root == new.root
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use proptest::prelude::*;

    use super::*;

    /// The eight leaves of the test vectors that the Certificate Transparency implementations share for RFC 6962.
    const LEAVES: [&[u8]; 8] = [
        &[],
        &[0x00],
        &[0x10],
        &[0x20, 0x21],
        &[0x30, 0x31],
        &[0x40, 0x41, 0x42, 0x43],
        &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
        &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
    ];

    /// Their roots, for sizes 0 to 8.
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    /// RFC 9162's definitions, word for word, over all leaf hashes: `MTH`, `PATH` and `SUBPROOF`.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(k(leaves));
                node_hash(&mth(left), &mth(right))
            }
        }
    }

    fn path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(k(leaves));
        let (path, sibling) =
            if m < left.len() { (path(m, left), mth(right)) } else { (path(m - left.len(), right), mth(left)) };
        [path, vec![sibling]].concat()
    }

    fn subproof(m: usize, leaves: &[Hash], b: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if b { Vec::new() } else { vec![mth(leaves)] };
        }
        let (left, right) = leaves.split_at(k(leaves));
        let (proof, sibling) = if m <= left.len() {
            (subproof(m, left, b), mth(right))
        } else {
            (subproof(m - left.len(), right, false), mth(left))
        };
        [proof, vec![sibling]].concat()
    }

    fn k(leaves: &[Hash]) -> usize {
        leaves.len().next_power_of_two() / 2
    }

    /// A log that keeps its subtrees under their numbers, as a store does, and counts what is read.
    #[derive(Default)]
    struct Store {
        tree: Tree,
        leaves: Vec<Hash>,
        completed: Vec<Hash>,
        reads: Cell<u32>,
    }

    impl Store {
        fn of(leaves: &[Hash]) -> Self {
            let mut store = Self { leaves: leaves.to_vec(), ..Self::default() };
            leaves.iter().for_each(|leaf| store.completed.extend(store.tree.append(*leaf)));
            store
        }

        fn inclusion(&self, size: u64, index: u64) -> Option<Vec<Hash>> {
            let Ok(proof) = inclusion_proof(self, size, index);
            proof
        }

        fn consistency(&self, old_size: u64, size: u64) -> Option<Vec<Hash>> {
            let Ok(proof) = consistency_proof(self, old_size, size);
            proof
        }
    }

    impl Subtrees for Store {
        type Error = Infallible;

        fn subtree(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
            self.reads.set(self.reads.get() + 1);
            Ok(match subtree_number(level, index) {
                Some(number) => self.completed[number as usize],
                None => self.leaves[index as usize],
            })
        }
    }

    fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    fn tree(leaves: &[Hash]) -> Tree {
        let mut tree = Tree::default();
        leaves.iter().for_each(|leaf| drop(tree.append(*leaf)));
        tree
    }

    #[test]
    fn roots_are_those_of_the_rfc_6962_test_vectors() {
        let leaves: Vec<Hash> = LEAVES.iter().map(|leaf| leaf_hash(leaf)).collect();
        for (size, expected) in ROOTS.iter().enumerate() {
            assert_eq!(mth(&leaves[..size]).to_string(), *expected, "size {size}");
            assert_eq!(tree(&leaves[..size]).head().root.to_string(), *expected, "size {size}");
        }
    }

    #[test]
    fn inclusion_path_is_that_of_the_rfc_6962_test_vectors() {
        let leaves: Vec<Hash> = LEAVES.iter().map(|leaf| leaf_hash(leaf)).collect();
        let proof: Vec<String> = Store::of(&leaves).inclusion(8, 0).unwrap().iter().map(Hash::to_string).collect();
        assert_eq!(
            proof,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ]
        );
    }

    #[test]
    fn growing_tree_has_the_root_of_the_definition() {
        for n in 0..70 {
            let leaves = leaves(n);
            let tree = tree(&leaves);
            assert_eq!(tree.head(), Head { size: n as u64, root: mth(&leaves) });
            assert_eq!(Tree::from_peaks(n as u64, tree.peaks().to_vec()), Some(tree));
        }
    }

    #[test]
    fn every_leaf_proves_its_place_and_no_other() {
        for n in 1..34 {
            let leaves = leaves(n);
            let (head, store) = (tree(&leaves).head(), Store::of(&leaves));
            for (index, leaf) in (0..).zip(&leaves) {
                let proof = store.inclusion(n as u64, index).unwrap();
                for claimed in 0..n as u64 + 2 {
                    let holds = verify_inclusion(&head, claimed, leaf, &proof);
                    assert_eq!(holds, claimed == index, "leaf {index} of {n} claimed at {claimed}");
                }
                assert!(!verify_inclusion(&head, index, &leaf_hash(b"other"), &proof));
            }
            assert_eq!(store.inclusion(n as u64, n as u64), None);
        }
    }

    #[test]
    fn every_prefix_proves_consistent_and_a_fork_does_not() {
        for n in 1..34 {
            let leaves = leaves(n);
            let (new, store) = (tree(&leaves).head(), Store::of(&leaves));
            for old_size in 1..=n {
                let old = tree(&leaves[..old_size]).head();
                let proof = store.consistency(old_size as u64, n as u64).unwrap();
                assert!(verify_consistency(&old, &new, &proof), "{old_size} of {n}");
                let fork = Head { root: leaf_hash(b"fork"), ..old };
                assert!(!verify_consistency(&fork, &new, &proof), "{old_size} of {n}");
                assert!(!verify_consistency(&old, &Head { root: leaf_hash(b"fork"), ..new }, &proof));
                let longer = [&proof[..], &[leaf_hash(b"more")]].concat();
                assert!(!verify_consistency(&old, &new, &longer), "{old_size} of {n}");
                if let Some((_, shorter)) = proof.split_last() {
                    assert!(!verify_consistency(&old, &new, shorter), "{old_size} of {n}");
                }
            }
        }
    }

    #[test]
    fn smaller_log_is_no_continuation_and_the_empty_one_begins_all() {
        let [empty, small, large] = [0, 3, 7].map(|n| tree(&leaves(n)).head());
        assert!(verify_consistency(&empty, &large, &[]));
        assert!(!verify_consistency(&large, &small, &[]));
        assert!(!verify_consistency(&Head { root: small.root, ..empty }, &large, &[]));
    }

    #[test]
    fn subtrees_are_numbered_as_they_become_complete() {
        let mut tree = Tree::default();
        let mut next = 0;
        for number in 0..300_u64 {
            assert_eq!(subtree_count(number), next);
            for level in 1..=tree.append(leaf_hash(&number.to_be_bytes())).len() as u32 {
                assert_eq!(subtree_number(level, number >> level), Some(next), "level {level}, entry {number}");
                next += 1;
            }
        }
        assert_eq!(subtree_number(0, 5), None);
        assert_eq!(subtree_number(64, 0), None);
        assert_eq!(subtree_number(1, u64::MAX), None);
    }

    #[test]
    fn proofs_read_as_many_hashes_as_the_log_is_deep() {
        let n = 100_000;
        let store = Store::of(&leaves(n));
        for (old, index) in [(1, 0), (65_536, 65_535), (99_999, 99_999), (77_777, 12_345)] {
            store.reads.set(0);
            store.inclusion(n as u64, index).unwrap();
            // 17 levels: one hash a level, and the right edge once.
            assert!(store.reads.get() <= 34, "{} reads", store.reads.get());
            store.reads.set(0);
            store.consistency(old, n as u64).unwrap();
            assert!(store.reads.get() <= 51, "{} reads", store.reads.get());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn proofs_are_those_of_the_rfc_whatever_the_log_has_become_since(
            n in 1..600_usize, grown in 0..600_usize, index in 0..600_usize, old in 1..600_usize,
        ) {
            let (index, old) = (index % n, 1 + old % n);
            let all = leaves(n + grown);
            let (then, store) = (&all[..n], Store::of(&all));
            prop_assert_eq!(Tree::at(&store, n as u64), Ok(tree(then)));
            prop_assert_eq!(store.inclusion(n as u64, index as u64), Some(path(index, then)));
            prop_assert_eq!(store.consistency(old as u64, n as u64), Some(subproof(old, then, true)));
        }

        #[test]
        fn another_implementation_makes_the_same_roots_and_proofs(n in 1..200_usize, index in 0..200_usize, old in 1..200_usize) {
            let (index, old) = (index % n, 1 + old % n);
            let mut oracle = MemoryBackedTree::<Sha256, Vec<u8>>::new();
            (0..n).for_each(|i| oracle.push(i.to_be_bytes().to_vec()));
            let store = Store::of(&leaves(n));
            let root = Hash(oracle.root().as_bytes().as_slice().try_into().unwrap());
            prop_assert_eq!(store.tree.head().root, root);
            let flat = |proof: Option<Vec<Hash>>| proof.unwrap().iter().flat_map(|hash| hash.0).collect::<Vec<u8>>();
            let inclusion = oracle.prove_inclusion(index);
            prop_assert_eq!(inclusion.as_bytes(), flat(store.inclusion(n as u64, index as u64)));
            let consistency = oracle.prove_consistency(n - old);
            prop_assert_eq!(consistency.as_bytes(), flat(store.consistency(old as u64, n as u64)));
        }

        #[test]
        fn altered_proof_proves_nothing(n in 2..200_u64, index in 0..200_u64, old in 1..200_u64, byte in any::<usize>()) {
            let (index, old) = (index % n, 1 + old % (n - 1));
            let (store, all) = (Store::of(&leaves(n as usize)), leaves(n as usize));
            let (head, before) = (store.tree.head(), tree(&all[..old as usize]).head());
            let flip = |proof: &mut Vec<Hash>| {
                let at = byte % (proof.len() * 32);
                proof[at / 32].0[at % 32] ^= 1;
            };
            let mut inclusion = store.inclusion(n, index).unwrap();
            prop_assert!(verify_inclusion(&head, index, &all[index as usize], &inclusion));
            flip(&mut inclusion);
            prop_assert!(!verify_inclusion(&head, index, &all[index as usize], &inclusion));
            let mut consistency = store.consistency(old, n).unwrap();
            prop_assert!(verify_consistency(&before, &head, &consistency));
            flip(&mut consistency);
            prop_assert!(!verify_consistency(&before, &head, &consistency));
        }
    }
}
