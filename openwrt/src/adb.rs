//! ADB, the binary form of apk 3: a header, then data that values point to, little-endian.
//!
//! A value has its type in the upper four bits and a small number or an offset below. An object is a count and then its values,
//! by field number; fields at the end that are not set are left out. The order in which things are written is that of
//! `apk mkpkg`, so that the two can be compared byte by byte.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256, Sha512};

use crate::keys::ApkKey;

const INTEGER: u32 = 0x1000_0000;
const INTEGER_32: u32 = 0x2000_0000;
const INTEGER_64: u32 = 0x3000_0000;
const BLOB_8: u32 = 0x8000_0000;
const BLOB_16: u32 = 0x9000_0000;
const BLOB_32: u32 = 0xa000_0000;
/// Arrays, too, are written as this by `apk mkpkg`.
const OBJECT: u32 = 0xe000_0000;
/// Where a value's number or offset ends.
const VALUE_END: u32 = 0x1000_0000;

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Schema {
    Package,
    Index,
}

impl Schema {
    fn name(self) -> &'static [u8; 4] {
        match self {
            Self::Package => b"pckg",
            Self::Index => b"indx",
        }
    }
}

#[derive(Clone, Copy)]
enum Block {
    Adb = 0,
    Signature = 1,
    Data = 2,
}

/// A field's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Value(u32);

impl Value {
    /// What a field has that is not set.
    pub(crate) const NULL: Self = Self(0);
}

/// A database while it is written.
pub(crate) struct Adb {
    bytes: Vec<u8>,
    /// Where what was written lies: the same data is written once.
    written: BTreeMap<Vec<u8>, usize>,
}

impl Adb {
    pub(crate) fn new() -> Self {
        // Versions 0 and 0, and room for the root.
        Self { bytes: vec![0; 8], written: BTreeMap::new() }
    }

    pub(crate) fn integer(&mut self, number: u64) -> Value {
        match u32::try_from(number) {
            Ok(small) if small < VALUE_END => Value(INTEGER | small),
            Ok(medium) => self.data(INTEGER_32, &medium.to_le_bytes(), 4),
            Err(_) => self.data(INTEGER_64, &number.to_le_bytes(), 4),
        }
    }

    /// Bytes; none are a field that is not set.
    pub(crate) fn blob(&mut self, content: &[u8]) -> Value {
        let Some((kind, length)) = length(content) else { return Value::NULL };
        self.data(kind, &[length.as_slice(), content].concat(), length.len())
    }

    /// Bytes that lie where nothing else points to, to be changed afterwards; and where they lie.
    fn blob_alone(&mut self, content: &[u8]) -> (Value, usize) {
        let Some((kind, length)) = length(content) else { return (Value::NULL, self.bytes.len()) };
        let at = self.append(&[length.as_slice(), content].concat(), length.len());
        (Value(kind | offset(at)), at + length.len())
    }

    pub(crate) fn text(&mut self, text: &str) -> Value {
        self.blob(text.as_bytes())
    }

    /// An object or an array: its values from field 1 on.
    pub(crate) fn object(&mut self, fields: &[Value]) -> Value {
        let used = fields.iter().rposition(|field| *field != Value::NULL).map_or(0, |last| last + 1);
        if used == 0 {
            return Value::NULL;
        }
        let count = u32::try_from(used + 1).expect("a package has fewer entries than 2^32");
        let words = std::iter::once(count).chain(fields[..used].iter().map(|value| value.0));
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        self.data(OBJECT, &bytes, 4)
    }

    fn data(&mut self, kind: u32, content: &[u8], alignment: usize) -> Value {
        let at = match self.written.get(content) {
            Some(at) if at % alignment == 0 => *at,
            _ => {
                let at = self.append(content, alignment);
                self.written.insert(content.to_vec(), at);
                at
            }
        };
        Value(kind | offset(at))
    }

    fn append(&mut self, content: &[u8], alignment: usize) -> usize {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(content);
        at
    }

    /// Room for the id of a package, which is made of all that is written.
    pub(crate) fn unique_id(&mut self) -> (Value, UniqueId) {
        let (value, at) = self.blob_alone(&[0; UniqueId::LENGTH]);
        (value, UniqueId(at))
    }

    /// The finished database.
    pub(crate) fn finish(mut self, root: Value, id: Option<UniqueId>) -> Vec<u8> {
        self.bytes[4..8].copy_from_slice(&root.0.to_le_bytes());
        if let Some(UniqueId(at)) = id {
            let hash = Sha256::digest(&self.bytes);
            self.bytes[at..at + UniqueId::LENGTH].copy_from_slice(&hash[..UniqueId::LENGTH]);
        }
        self.bytes
    }
}

/// Where a package's id goes: the first bytes of the database's hash, taken while they are zero.
pub(crate) struct UniqueId(usize);

impl UniqueId {
    const LENGTH: usize = 20;
}

fn length(content: &[u8]) -> Option<(u32, Vec<u8>)> {
    if content.is_empty() {
        return None;
    }
    if let Ok(short) = u8::try_from(content.len()) {
        return Some((BLOB_8, short.to_le_bytes().to_vec()));
    }
    if let Ok(medium) = u16::try_from(content.len()) {
        return Some((BLOB_16, medium.to_le_bytes().to_vec()));
    }
    let long = u32::try_from(content.len()).expect("no text of a package has 4 GiB");
    Some((BLOB_32, long.to_le_bytes().to_vec()))
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).ok().filter(|at| *at < VALUE_END).expect("a package's database has less than 256 MiB")
}

/// A whole file: the database, its signature, and what follows.
pub(crate) fn file(schema: Schema, database: &[u8], key: &ApkKey, data: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(b"ADB.");
    out.extend_from_slice(schema.name());
    block(&mut out, Block::Adb, database);
    block(&mut out, Block::Signature, &signature(schema, database, key));
    for each in data {
        block(&mut out, Block::Data, each);
    }
    out
}

fn block(out: &mut Vec<u8>, kind: Block, content: &[u8]) {
    let size = u32::try_from(content.len() + 4).ok().filter(|size| *size < 1 << 30).expect("no block has 1 GiB");
    out.extend_from_slice(&((kind as u32) << 30 | size).to_le_bytes());
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Version 0, by SHA-512, of which key, and the signature over all this and the hash of the database.
fn signature(schema: Schema, database: &[u8], key: &ApkKey) -> Vec<u8> {
    const VERSION: u8 = 0;
    const SHA512: u8 = 4;
    let mut head = vec![VERSION, SHA512];
    head.extend_from_slice(&key.id());
    let hash =
        Sha512::new().chain_update(schema.name()).chain_update(&head).chain_update(Sha512::digest(database)).finalize();
    head.extend_from_slice(&key.sign_hash(&hash));
    head
}
