//! A tar archive in the old GNU form, as OpenWrt's own are.

/// The longest path that the header has room for.
pub(crate) const PATH_MAX: usize = 99;
const BLOCK: usize = 512;

/// An archive while it is written: everything belongs to root and has one time.
pub(crate) struct Tar {
    bytes: Vec<u8>,
    time: u64,
}

impl Tar {
    pub(crate) fn new(time: u64) -> Self {
        Self { bytes: Vec::new(), time }
    }

    /// `path` ends with a slash.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.header(path, mode, 0, b'5');
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.header(path, mode, content.len() as u64, b'0');
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn header(&mut self, path: &str, mode: u32, size: u64, kind: u8) {
        debug_assert!(path.len() <= PATH_MAX, "paths are measured when a package is read");
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, format!("{:011o}\0", self.time).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(257, b"ustar  \0");
        put(265, b"root");
        put(297, b"root");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
    }
}
