//! Nonces and indices that are never used again.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Octets of a nonce and of an index. RFC 8967 allows 192 and 32. At 128 random bits a repetition
/// cannot be hoped for, not even over all restarts of all routers that share a key.
pub(super) const NONCE_LEN: usize = 16;
/// A nonce, or an index.
pub(super) type Nonce = [u8; NONCE_LEN];

/// Makes nonces and indices from one random seed.
///
/// What the protocol needs is that none comes twice under one key: a nonce that comes twice lets an old
/// challenge reply be replayed, an index that comes twice lets old packets be replayed and makes
/// neighbours drop ours until they forget us. So the seed must come from the operating system's
/// generator, and be another for each interface and after each restart; a generator that is itself seeded for jitter or
/// simulation (`fastrand`) will not do. With such a seed nobody can foretell a nonce either.
///
/// Each draw replaces the secret by a hash of itself, so that what was drawn cannot be found from a
/// memory image taken later.
pub(crate) struct Nonces {
    secret: [u8; 32],
}

impl Nonces {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { secret: seed }
    }

    pub(super) fn draw(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&self.next(Use::Nonce)[..NONCE_LEN]);
        nonce
    }

    fn next(&mut self, purpose: Use) -> [u8; 32] {
        let drawn = hash(&self.secret, purpose);
        self.secret = hash(&self.secret, Use::Secret);
        drawn
    }
}

/// What a hash of the secret is for. No two of them are ever the same hash.
#[derive(Clone, Copy)]
enum Use {
    Secret,
    Nonce,
}

fn hash(secret: &[u8; 32], purpose: Use) -> [u8; 32] {
    let label: &[u8] = match purpose {
        Use::Secret => b"waybill babel mac: next secret",
        Use::Nonce => b"waybill babel mac: nonce",
    };
    // A block of key: HMAC takes it as it is and cannot refuse it.
    let mut block = [0; 64];
    block[..secret.len()].copy_from_slice(secret);
    Hmac::<Sha256>::new(&block.into()).chain_update(label).finalize().into_bytes().into()
}

/// Not printed: whoever knows it knows the next challenges.
impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nonces").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn nothing_is_drawn_twice_from_a_seed() {
        let mut nonces = Nonces::new([7; 32]);
        let drawn: BTreeSet<Nonce> = (0..4000).map(|_| nonces.draw()).collect();
        assert_eq!(drawn.len(), 4000);
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let [mut one, mut same, mut other] = [[1; 32], [1; 32], [2; 32]].map(Nonces::new);
        let drawn = one.draw();
        assert_eq!(drawn, same.draw());
        assert_ne!(drawn, other.draw());
    }

    #[test]
    fn the_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Nonces::new([7; 32])), "Nonces { .. }");
    }
}
