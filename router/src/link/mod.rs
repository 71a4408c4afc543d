//! Links: encrypted sessions that carry IP packets to one neighbour each.

#[cfg(feature = "quic")]
pub mod quic;

/// A link of this node, numbered by the node. One neighbour is at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);
