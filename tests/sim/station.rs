//! A station: one node with the shell's part around it, played by the world.

use std::net::Ipv6Addr;
use std::sync::Arc;

use metering::{Bytes, Counts, Identity};
use node::datapath::{Datapath, Meters, Port};
use node::{Drops, LinkId, Node, Prefix, Prices};

use crate::Time;
use crate::journal::Journal;

/// What stays when the power fails, and what does not.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) identity: Identity,
    pub(crate) announce: Vec<Prefix>,
    /// What it asks and pays where roles follow from routes.
    pub(crate) prices: Prices,
    /// Tells its neighbours another price with routes than it bills.
    pub(crate) tells: Option<u32>,
    /// Which wire each link is, by [`LinkId`].
    pub(crate) wires: Vec<usize>,
    pub(crate) journal: Journal,
    pub(crate) running: Option<Running>,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Running {
    /// Tells the lives of all stations apart: what was planned for an earlier one is void.
    pub(crate) life: u64,
    pub(crate) node: Node,
    pub(crate) datapath: Datapath,
    pub(crate) meters: Arc<Meters>,
    pub(crate) drops: Arc<Drops>,
    /// When it is to be woken.
    pub(crate) wake_at: Option<Time>,
    /// When it was last woken, and how often at that time.
    pub(crate) woken: (Time, u32),
}

impl Running {
    /// Billed bytes received by the meters of a port.
    pub(crate) fn metered(&self, port: Port) -> Bytes {
        match port {
            Port::Link(link) => self.counts(link).received,
            Port::Local => Bytes::ZERO,
        }
    }

    pub(crate) fn counts(&self, link: LinkId) -> Counts {
        let count = self.meters.read(link);
        Counts { sent: count.sent, received: count.received }
    }
}

impl Station {
    /// What routes may cost it.
    pub(crate) fn price_max(&self) -> node::Price {
        let max = self.prices.limits.max_price.get();
        node::Price::new(u32::try_from(max).unwrap_or(u32::MAX))
    }

    pub(crate) fn address(&self) -> Ipv6Addr {
        metering::mesh_address(&self.identity.wireguard_key())
    }

    /// The process, if it is the one that something was planned for.
    pub(crate) fn life(&mut self, life: u64) -> Option<&mut Running> {
        self.running.as_mut().filter(|running| running.life == life)
    }
}
