//! A short hash in each row that says what somebody has, so that what the disk has changed is noticed when it is read, and
//! not at the next audit.
//!
//! It guards against rot, not against people: who writes the file can write the hash, and only an audit sees that. Nor does it
//! tell a row from an older one of the same place. SQLite's own way, `cksumvfs`, hashes whole pages; it is not part of the
//! SQLite that is built in here, would have to be registered by unsafe code, and makes files that no other SQLite writes without it.

use sha2::{Digest, Sha256};

/// One row in 2^64 that has changed is not noticed.
pub(crate) type Seal = [u8; 8];

/// A table whose rows are sealed.
#[derive(Clone, Copy)]
pub(crate) enum Table {
    Ledger,
    Account,
    Ordered,
    Fact,
    Channel,
    Hashed,
}

/// The seal of a row with these columns.
pub(crate) fn seal(table: Table, columns: &[&[u8]]) -> Seal {
    let mut hash = Sha256::new().chain_update([table as u8]);
    for column in columns {
        hash.update((column.len() as u64).to_be_bytes());
        hash.update(column);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = hash;
    [a, b, c, d, e, f, g, h]
}

/// The same for a row of numbers below one key.
pub(crate) fn seal_numbers(table: Table, key: &[u8], numbers: &[i64]) -> Seal {
    let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    seal(table, &[key, &numbers])
}
