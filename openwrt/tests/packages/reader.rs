//! Reads apk's files by what its documentation says of them, and shares nothing with the builder.

use std::collections::BTreeMap;

/// A file of apk, taken apart.
pub(crate) struct AdbFile {
    pub(crate) schema: [u8; 4],
    pub(crate) database: Vec<u8>,
    /// Everything in the block: version, hash, key and the signature itself.
    pub(crate) signature: Vec<u8>,
    /// Which directory, which file in it, and its content.
    pub(crate) data: BTreeMap<(u32, u32), Vec<u8>>,
}

impl AdbFile {
    pub(crate) fn read(file: &[u8]) -> Self {
        let deflated = file.strip_prefix(b"ADBd").expect("it is a deflated ADB");
        let plain = miniz_oxide::inflate::decompress_to_vec(deflated).expect("it can be inflated");
        let rest = plain.strip_prefix(b"ADB.").expect("it is an ADB inside");
        let schema = rest[..4].try_into().expect("four bytes");
        let mut out = Self { schema, database: Vec::new(), signature: Vec::new(), data: BTreeMap::new() };
        let mut at = 8;
        let mut last = 0;
        while at < plain.len() {
            let head = word(&plain, at);
            let (kind, size) = (head >> 30, (head & 0x3fff_ffff) as usize);
            let content = &plain[at + 4..at + size];
            assert!(kind >= last, "blocks come in the order of their kinds");
            last = kind;
            match kind {
                0 => out.database = content.to_vec(),
                1 => out.signature = content.to_vec(),
                2 => {
                    out.data.insert((word(content, 0), word(content, 4)), content[8..].to_vec());
                }
                other => panic!("no block of kind {other} is expected"),
            }
            let end = (at + size).next_multiple_of(8);
            assert!(plain[at + size..end].iter().all(|byte| *byte == 0), "blocks are padded with zeros");
            at = end;
        }
        out
    }

    pub(crate) fn root(&self) -> Field<'_> {
        assert_eq!(self.database[..4], [0; 4], "both versions are 0");
        Field { database: &self.database, value: word(&self.database, 4) }
    }
}

/// A value in a database.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    database: &'a [u8],
    value: u32,
}

impl<'a> Field<'a> {
    fn parts(self) -> (u32, usize) {
        (self.value >> 28, (self.value & 0x0fff_ffff) as usize)
    }

    pub(crate) fn is_set(self) -> bool {
        self.value != 0
    }

    /// A field of an object, or an entry of an array: both count from 1.
    pub(crate) fn at(self, number: usize) -> Self {
        if !self.is_set() || number > self.len() {
            return Self { value: 0, ..self };
        }
        let (_, at) = self.parts();
        Self { value: word(self.database, at + 4 * number), ..self }
    }

    pub(crate) fn len(self) -> usize {
        if !self.is_set() {
            return 0;
        }
        let (kind, at) = self.parts();
        assert!(kind == 0xd || kind == 0xe, "{:#x} is an array or an object", self.value);
        assert_eq!(at % 4, 0, "objects are aligned");
        word(self.database, at) as usize - 1
    }

    pub(crate) fn entries(self) -> impl Iterator<Item = Self> {
        (1..=self.len()).map(move |number| self.at(number))
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        if !self.is_set() {
            return &[];
        }
        let (kind, at) = self.parts();
        let width = match kind {
            0x8 => 1,
            0x9 => 2,
            0xa => 4,
            other => panic!("{other:#x} is no blob"),
        };
        let length = self.database[at..at + width].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        &self.database[at + width..at + width + length]
    }

    pub(crate) fn text(self) -> &'a str {
        std::str::from_utf8(self.bytes()).expect("text is UTF-8")
    }

    pub(crate) fn number(self) -> u64 {
        let (kind, at) = self.parts();
        match kind {
            0x0 if at == 0 => 0,
            0x1 => at as u64,
            0x2 => word(self.database, at).into(),
            0x3 => u64::from(word(self.database, at)) | u64::from(word(self.database, at + 4)) << 32,
            other => panic!("{other:#x} is no number"),
        }
    }

    /// A dependency as people write it.
    pub(crate) fn dependency(self) -> String {
        assert!(!self.at(3).is_set(), "no operator but equality is used");
        match self.at(2).text() {
            "" => self.at(1).text().to_owned(),
            version => format!("{}={version}", self.at(1).text()),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
