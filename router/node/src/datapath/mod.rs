//! The path of a data packet through a node: pure functions on bytes, called alike by workers, simulator and benches.
//!
//! A shell opens packets from one ingress into a [`Batch`], hands it to [`Datapath::handle_batch`], and then acts on
//! each packet's [`Verdict`]: seal it for a link, write it to the TUN, give it to the control core, or forget it.
//! What the control side decided is in the [`Fib`], an immutable snapshot; what was carried is in the [`Meters`].

pub mod checksum;
mod destinations;
mod fib;
mod forward;
mod icmp;
mod join;
mod meter;
mod mss;
pub mod packet;
mod split;
mod waiting;

pub use fib::{Fib, FibBuilder, LinkEntry, LinkPolicy, NextHop, Service, Standing};
pub use forward::{Batch, Datapath, Verdict};
pub use join::{JOINED_MAX, Join};
pub use meter::{LinkCount, MAX_LINKS, Meters, Ration, Tally};
pub use split::{Split, Transport};
pub use waiting::{AGE_MAX, QUEUE_ROOM, QUEUES_MAX, Sender, Waiting};

/// A link of this node: a dense index below [`MAX_LINKS`], given by the shell and kept for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

impl LinkId {
    /// The index into per-link tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where packets come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// A link to a neighbour or a leaf.
    Link(LinkId),
    /// This node's own side: the TUN, and the LAN and kernel behind it.
    Local,
}

impl Port {
    /// The index into tables of [`MAX_LINKS`] links and, at the end, the own side.
    fn index(self) -> usize {
        match self {
            Self::Link(link) => link.index(),
            Self::Local => MAX_LINKS,
        }
    }
}
