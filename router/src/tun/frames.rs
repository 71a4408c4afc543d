//! What passes through the node's own side: bare IP packets, or the kernel's frames of many packets at once, each behind
//! a header that says how they are one (`struct virtio_net_hdr`, virtio specification, section 5.1.6).

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use node::datapath::packet::IPV6_HEADER_LEN;
use node::datapath::{JOINED_MAX, Join, Split, Transport, checksum};

/// What one `read` or `write` carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One IP packet.
    Bare,
    /// A frame behind a header, and whether frames of UDP are taken.
    Frames {
        /// The kernel joins and cuts UDP as well as TCP: Linux 6.2 and later.
        udp: bool,
    },
}

/// The node's own side: a TUN device, or a host's port.
#[derive(Debug)]
pub struct Local {
    file: File,
    framing: Framing,
    /// Whether frames are written, and not only read.
    joins: bool,
}

/// A frame that was read.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    /// A packet.
    Packet(&'a [u8]),
    /// Many.
    Many(Split<'a>),
    /// Nothing that can be used.
    Strange,
}

/// Flags and types of the header.
const NEEDS_CHECKSUM: u8 = 1;
const NO_FRAME: u8 = 0;
const TCP_FRAME: u8 = 4;
const UDP_FRAME: u8 = 5;
/// Beside the type: the first packet carries TCP's CWR.
const WITH_ECN: u8 = 0x80;
/// The longest IPv6 packet without a jumbo option, and the header.
pub(crate) const FRAME_MAX: usize = Header::LEN + IPV6_HEADER_LEN + 65_535;

/// `struct virtio_net_hdr`, in the machine's own byte order, as TUN devices have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Header {
    flags: u8,
    kind: u8,
    headers_len: u16,
    size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl Header {
    const LEN: usize = 10;

    fn read(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            kind: bytes[1],
            headers_len: word(2),
            size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    fn bytes(self) -> [u8; Self::LEN] {
        let words = [self.headers_len, self.size, self.checksum_start, self.checksum_offset].map(u16::to_ne_bytes);
        let [a, b, c, d] = words;
        [self.flags, self.kind, a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]]
    }
}

impl Local {
    /// Each read and write is what the framing says.
    pub(super) fn new(fd: OwnedFd, framing: Framing) -> Self {
        Self { file: File::from(fd), framing, joins: framing != Framing::Bare }
    }

    /// A host's port: each read and write is one IP packet.
    #[must_use]
    pub fn packets(fd: OwnedFd) -> Self {
        Self::new(fd, Framing::Bare)
    }

    /// Another handle on the same.
    pub(crate) fn share(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, ..*self })
    }

    /// The next frame, in a buffer of [`FRAME_MAX`] bytes. `WouldBlock` when there is none.
    pub(crate) fn read<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Frame<'a>> {
        let len = (&self.file).read(buffer)?;
        let bytes = &mut buffer[..len];
        match self.framing {
            Framing::Bare => Ok(Frame::Packet(bytes)),
            Framing::Frames { .. } => Ok(frame(bytes)),
        }
    }

    /// Writes packets in order, as few frames as possible. How many were not taken.
    pub(crate) fn write<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) -> u64 {
        let Framing::Frames { udp } = self.framing else {
            return packets.map(|packet| u64::from((&self.file).write(packet).is_err())).sum();
        };
        let mut packets = packets.peekable();
        let mut lost = 0;
        while let Some(packet) = packets.next() {
            let join = packets.peek().filter(|_| self.joins).and_then(|_| Join::begin(packet, udp));
            lost += match join {
                Some(mut join) => {
                    while packets.next_if(|packet| join.push(packet)).is_some() {}
                    self.write_joined(&mut join, packet)
                }
                None => self.write_alone(packet),
            };
        }
        lost
    }

    fn write_alone(&self, packet: &[u8]) -> u64 {
        let header = Header::default().bytes();
        u64::from((&self.file).write_vectored(&[IoSlice::new(&header), IoSlice::new(packet)]).is_err())
    }

    fn write_joined(&mut self, join: &mut Join<'_>, first: &[u8]) -> u64 {
        let count = join.count();
        if count == 1 {
            return self.write_alone(first);
        }
        let (transport, size) = (join.transport(), join.size());
        let headers_len = join.headers().len();
        let header = Header {
            flags: NEEDS_CHECKSUM,
            kind: if transport == Transport::Tcp { TCP_FRAME } else { UDP_FRAME },
            headers_len: headers_len as u16,
            size: size as u16,
            checksum_start: IPV6_HEADER_LEN as u16,
            checksum_offset: transport.checksum_offset() as u16,
        };
        let header = header.bytes();
        let mut headers = [0; 128];
        headers[..headers_len].copy_from_slice(join.headers());
        let mut parts = [IoSlice::new(&[]); 2 + JOINED_MAX];
        (parts[0], parts[1]) = (IoSlice::new(&header), IoSlice::new(&headers[..headers_len]));
        for (part, payload) in parts[2..].iter_mut().zip(join.payloads()) {
            *part = IoSlice::new(payload);
        }
        let Err(error) = (&self.file).write_vectored(&parts[..2 + count]).map(drop) else { return 0 };
        if error.kind() == io::ErrorKind::InvalidInput {
            tracing::warn!(
                "the kernel takes no joined {transport:?} packets from the TUN device: each is written alone"
            );
            match transport {
                Transport::Tcp => self.joins = false,
                Transport::Udp => self.framing = Framing::Frames { udp: false },
            }
        }
        count as u64
    }
}

impl AsRawFd for Local {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Reads a frame with its header; a checksum that the kernel left to us is completed.
fn frame(bytes: &mut [u8]) -> Frame<'_> {
    let Some((header, packet)) = bytes.split_first_chunk_mut() else { return Frame::Strange };
    let header = Header::read(header);
    let start = usize::from(header.checksum_start);
    let many = |transport, packet| Split::new(packet, transport, start, header.size.into());
    match header.kind & !WITH_ECN {
        NO_FRAME if header.flags & NEEDS_CHECKSUM == 0 => Frame::Packet(packet),
        NO_FRAME if checksum::complete(packet, start, header.checksum_offset.into()) => Frame::Packet(packet),
        TCP_FRAME => many(Transport::Tcp, packet).map_or(Frame::Strange, Frame::Many),
        UDP_FRAME => many(Transport::Udp, packet).map_or(Frame::Strange, Frame::Many),
        _ => Frame::Strange,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back() {
        let header =
            Header { flags: 1, kind: TCP_FRAME, headers_len: 72, size: 1348, checksum_start: 40, checksum_offset: 16 };
        assert_eq!(Header::read(&header.bytes()), header);
    }

    #[test]
    fn strange_frames_are_survived() {
        let mut rng = fastrand::Rng::with_seed(6);
        for _ in 0..50_000 {
            let mut bytes = vec![0; rng.usize(0..200)];
            rng.fill(&mut bytes);
            if let Some(head) = bytes.first_chunk_mut::<2>() {
                *head = [rng.u8(0..3), rng.u8(0..7)];
            }
            if let Some(fields) = bytes.get_mut(4..10).filter(|_| rng.bool()) {
                let sizes = [rng.u16(0..50), rng.u16(30..60), rng.u16(0..20)].map(u16::to_ne_bytes);
                fields.copy_from_slice(sizes.as_flattened());
            }
            if let Frame::Many(mut split) = frame(&mut bytes) {
                let mut slot = [0; 256];
                while split.next_into(&mut slot).is_some() {}
            }
        }
    }
}
