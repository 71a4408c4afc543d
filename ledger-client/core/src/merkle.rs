//! Merkle trees over the log, hashed as in RFC 9162, section 2.1.
//!
//! [`Tree`] is what a writer keeps: it appends and knows its root in memory of at most 64 hashes. The proofs are made
//! from the leaf hashes and checked from a [`Head`] alone.

use std::fmt;

use sha2::{Digest, Sha256};

/// A SHA-256 hash: of a leaf, of a subtree, or of a whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Size and root of a log: what a checkpoint signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Appends one entry by its [`leaf_hash`].
    pub fn append(&mut self, leaf: Hash) {
        let mut subtree = leaf;
        // Each set bit at the end of the size is a complete subtree that the new one completes to double its size.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                subtree = node_hash(&left, &subtree);
            }
        }
        self.peaks.push(subtree);
        self.size += 1;
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

/// `MTH(D[n])` of these leaf hashes.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// `PATH(index, D[n])`: proves that the leaf at `index` is in the tree. `None` where there is no such leaf.
#[must_use]
pub fn inclusion_proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    (index < leaves.len()).then(|| path(leaves, index))
}

fn path(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut proof, sibling) =
        if index < k { (path(left, index), root(right)) } else { (path(right, index - k), root(left)) };
    proof.push(sibling);
    proof
}

/// `PROOF(old_size, D[n])`: proves that the tree's first `old_size` leaves were the tree then. `None` unless
/// `0 < old_size <= n`.
#[must_use]
pub fn consistency_proof(leaves: &[Hash], old_size: usize) -> Option<Vec<Hash>> {
    (0 < old_size && old_size <= leaves.len()).then(|| subproof(leaves, old_size, true))
}

fn subproof(leaves: &[Hash], old_size: usize, old_root_is_known: bool) -> Vec<Hash> {
    if old_size == leaves.len() {
        return if old_root_is_known { Vec::new() } else { vec![root(leaves)] };
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut proof, sibling) = if old_size <= k {
        (subproof(left, old_size, old_root_is_known), root(right))
    } else {
        (subproof(right, old_size - k, false), root(left))
    };
    proof.push(sibling);
    proof
}

/// The largest power of two smaller than `n`, for `n` of 2 and more.
const fn split(n: usize) -> usize {
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

    fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    fn tree(leaves: &[Hash]) -> Tree {
        let mut tree = Tree::default();
        leaves.iter().for_each(|leaf| tree.append(*leaf));
        tree
    }

    #[test]
    fn roots_are_those_of_the_rfc_6962_test_vectors() {
        let leaves: Vec<Hash> = LEAVES.iter().map(|leaf| leaf_hash(leaf)).collect();
        for (size, expected) in ROOTS.iter().enumerate() {
            assert_eq!(root(&leaves[..size]).to_string(), *expected, "size {size}");
            assert_eq!(tree(&leaves[..size]).head().root.to_string(), *expected, "size {size}");
        }
    }

    #[test]
    fn inclusion_path_is_that_of_the_rfc_6962_test_vectors() {
        let leaves: Vec<Hash> = LEAVES.iter().map(|leaf| leaf_hash(leaf)).collect();
        let proof: Vec<String> = inclusion_proof(&leaves, 0).unwrap().iter().map(Hash::to_string).collect();
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
            assert_eq!(tree.head(), Head { size: n as u64, root: root(&leaves) });
            assert_eq!(Tree::from_peaks(n as u64, tree.peaks().to_vec()), Some(tree));
        }
    }

    #[test]
    fn every_leaf_proves_its_place_and_no_other() {
        for n in 1..34 {
            let leaves = leaves(n);
            let head = tree(&leaves).head();
            for index in 0..n {
                let proof = inclusion_proof(&leaves, index).unwrap();
                for claimed in 0..n as u64 + 2 {
                    let holds = verify_inclusion(&head, claimed, &leaves[index], &proof);
                    assert_eq!(holds, claimed == index as u64, "leaf {index} of {n} claimed at {claimed}");
                }
                assert!(!verify_inclusion(&head, index as u64, &leaf_hash(b"other"), &proof));
            }
            assert_eq!(inclusion_proof(&leaves, n), None);
        }
    }

    #[test]
    fn every_prefix_proves_consistent_and_a_fork_does_not() {
        for n in 1..34 {
            let leaves = leaves(n);
            let new = tree(&leaves).head();
            for old_size in 1..=n {
                let old = tree(&leaves[..old_size]).head();
                let proof = consistency_proof(&leaves, old_size).unwrap();
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
}
