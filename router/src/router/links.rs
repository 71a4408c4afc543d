//! Which links a router has: given ids, told to worker, QUIC and node, and changed while running.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use metering::Side;
use node::datapath::MAX_LINKS;
use node::{Access, Deal, LinkId, LinkMeasure, LinkSensing, Peer};

use super::strangers::Origin;
use super::{Control, Done, Known, Links, StartError};
use crate::config::{self, Endpoint, LinkKind, Role};
use crate::link::wireguard::PeerConfig;
use crate::worker::ToWorker;

impl Control {
    /// Brings the links to what the configuration says. What did not change is not touched.
    pub(super) fn set_links(&mut self, now: Instant, links: Links) {
        let mut wanted = BTreeSet::new();
        for peer in links.peers {
            wanted.extend(self.set_peer(now, peer));
        }
        for leaf in links.leaves {
            wanted.extend(self.set_leaf(now, leaf));
        }
        let is_gone = |link: &LinkId, known: &Known| known.origin == Origin::Written && !wanted.contains(link);
        let gone: Vec<LinkId> =
            self.links.iter().filter(|(link, known)| is_gone(link, known)).map(|(link, _)| *link).collect();
        for link in gone {
            self.remove_link(now, link);
        }
        self.resolve();
    }

    pub(super) fn remove_link(&mut self, now: Instant, link: LinkId) {
        tracing::info!(node = %self.name, neighbour = %self.name_of(link), "link removed");
        self.inbox.set(ToWorker::RemovePeer(link));
        self.node.handle_link_removed(now, link);
        if self.links.remove(&link).is_some_and(|known| known.is_quic()) {
            self.retired.insert(link);
        }
    }

    fn set_peer(&mut self, now: Instant, peer: config::Peer) -> Option<LinkId> {
        let same =
            |known: &Known| known.peer.as_ref().is_some_and(|known| known.card == peer.card && known.link == peer.link);
        let link = self.place(&same)?;
        let state = (self.members.access(peer.card.account()), self.members.trades_with(peer.card.account()));
        let known = self.known(link);
        let moved = known.peer.as_ref().is_none_or(|known| known.endpoint != peer.endpoint);
        known.name.clone_from(&peer.name);
        known.origin = Origin::Written;
        known.access = Some(state);
        known.peer = Some(peer);
        self.tell_node(now, link);
        self.place_session(link, moved);
        Some(link)
    }

    /// Tells the node what the neighbour on a link is, and may.
    pub(super) fn tell_node(&mut self, now: Instant, link: LinkId) {
        let Some((known, peer)) = self.links.get(&link).and_then(|known| Some((known, known.peer.as_ref()?))) else {
            return;
        };
        let (access, trades) = known.access.unwrap_or((Access::Full, true));
        let deal = if trades { self.deal(peer.role) } else { Deal::Agreed(Side::Peer) };
        let measure =
            LinkMeasure { cost: peer.cost, sensing: peer.sensing, path_mtu: peer.link == LinkKind::Wireguard };
        self.node.handle_link(now, link, Peer::Mesh { card: peer.card, deal, measure, access }, self.mtu);
    }

    fn set_leaf(&mut self, now: Instant, leaf: config::Leaf) -> Option<LinkId> {
        let same = |known: &Known| {
            known
                .leaf
                .as_ref()
                .is_some_and(|known| known.wireguard_key == leaf.wireguard_key && known.babel == leaf.babel)
        };
        let link = self.place(&same)?;
        let measure = LinkMeasure { cost: leaf.cost, sensing: LinkSensing::Measured, path_mtu: false };
        let peer = if leaf.babel { Peer::Babel { measure } } else { Peer::Leaf { prefixes: leaf.addresses.clone() } };
        self.node.handle_link(now, link, peer, self.mtu);
        let known = self.known(link);
        let moved = known.leaf.as_ref().is_none_or(|known| known.endpoint != leaf.endpoint);
        known.name.clone_from(&leaf.name);
        known.leaf = Some(leaf);
        self.place_session(link, moved);
        Some(link)
    }

    /// The link's entry; a new one begins to count at what earlier users of its id left.
    pub(super) fn known(&mut self, link: LinkId) -> &mut Known {
        let since = self.shared.meters.read(link);
        self.links.entry(link).or_insert_with(|| Known { since, ..Known::default() })
    }

    /// The id of the link that is the same as before, or the lowest free one.
    fn place(&mut self, same: &dyn Fn(&Known) -> bool) -> Option<LinkId> {
        let known = self.links.iter().find(|(_, known)| same(known)).map(|(link, _)| *link);
        let link = known.or_else(|| self.free_link());
        if link.is_none() {
            self.warn(format!("more than {MAX_LINKS} links: the rest is left out"));
        }
        link
    }

    /// The lowest free id.
    pub(super) fn free_link(&self) -> Option<LinkId> {
        let is_free = |link: &LinkId| !self.links.contains_key(link) && !self.retired.contains(link);
        (0..).map(LinkId).take(MAX_LINKS).find(is_free)
    }

    /// Tells the worker of a WireGuard peer, new or with another endpoint.
    fn place_session(&mut self, link: LinkId, moved: bool) {
        let Some(known) = self.links.get_mut(&link).filter(|known| moved && !known.is_quic()) else { return };
        known.resolved = match known.endpoint() {
            Some(Endpoint::Address(address)) => Some(*address),
            Some(Endpoint::Name { .. }) | None => None,
        };
        if let Some(key) = known.wireguard_key() {
            let (endpoint, tells_congestion) = (known.resolved, known.peer.is_some());
            self.inbox.set(ToWorker::SetPeer(PeerConfig { link, key, endpoint, tells_congestion }));
        }
    }

    /// What decides what we are to a neighbour.
    fn deal(&self, role: Role) -> Deal {
        match role {
            Role::Auto => Deal::ByRoutes,
            Role::Provider => Deal::Agreed(Side::Subscriber(self.money.limits)),
            Role::Subscriber => Deal::Agreed(Side::Provider(self.money.offer)),
            Role::Peer => Deal::Agreed(Side::Peer),
        }
    }

    /// Looks up the host names of links that are down.
    pub(super) fn resolve(&self) {
        for (link, known) in self.links.iter().filter(|(_, known)| !known.status.up && !known.is_quic()) {
            if let Some(endpoint @ Endpoint::Name { .. }) = known.endpoint() {
                let (link, endpoint, name) = (*link, endpoint.clone(), endpoint.to_string());
                self.spawn(look_up(name.clone()), move |answer| {
                    Some(match answer {
                        Ok(address) => Done::Resolved { link, endpoint, address },
                        Err(error) => Done::Warning(format!("cannot find {name}: {error}")),
                    })
                });
            }
        }
    }

    /// A host name has been looked up.
    pub(super) fn set_endpoint(&mut self, link: LinkId, endpoint: &Endpoint, address: SocketAddr) {
        let is_meant = |known: &&mut Known| known.endpoint() == Some(endpoint) && known.resolved != Some(address);
        let Some(known) = self.links.get_mut(&link).filter(is_meant) else { return };
        known.resolved = Some(address);
        if let Some(key) = known.wireguard_key() {
            let (endpoint, tells_congestion) = (Some(address), known.peer.is_some());
            self.inbox.set(ToWorker::SetPeer(PeerConfig { link, key, endpoint, tells_congestion }));
        }
    }

    /// Takes another configuration while running.
    pub(super) fn handle_reload(&mut self, now: Instant, links: Links) {
        let quic = |peers: &[config::Peer]| -> Vec<config::Peer> {
            peers.iter().filter(|peer| peer.link == LinkKind::Quic).cloned().collect()
        };
        let before: Vec<config::Peer> = self.links.values().filter_map(|known| known.peer.clone()).collect();
        if quic(&before) != quic(&links.peers) {
            self.warn("QUIC links changed: the change takes effect at the next start".to_owned());
        }
        self.members.look_for_code(now);
        self.set_links(now, links);
        tracing::info!(node = %self.name, links = self.links.len(), "configuration read again");
    }

    /// Starts the QUIC links, dialling the addresses known at this moment. Returns where they listen.
    #[cfg(feature = "quic")]
    pub(super) async fn start_quic(&mut self) -> Result<Option<SocketAddr>, StartError> {
        use crate::link::LinkStatus;
        use crate::link::quic::{QuicConfig, QuicEvent, QuicLinks, QuicPeer};

        let Some(listen) = self.quic_listen else { return Ok(None) };
        let (mut peers, mut lost) = (Vec::new(), Vec::new());
        for (link, known) in self.links.iter().filter(|(_, known)| known.is_quic()) {
            let Some(peer) = &known.peer else { continue };
            let dial = match &peer.endpoint {
                Some(Endpoint::Address(address)) => Some(*address),
                Some(endpoint @ Endpoint::Name { .. }) => {
                    let found = look_up(endpoint.to_string()).await;
                    lost.extend(found.as_ref().err().map(|error| format!("cannot find {endpoint}: {error}")));
                    found.ok()
                }
                None => None,
            };
            peers.push(QuicPeer { link: *link, key: peer.card.tls(), dial });
        }
        for error in lost {
            self.warn(format!("{error}; this QUIC link is not dialled until the next start"));
        }
        let (shared, inbox) = (std::sync::Arc::clone(&self.shared), self.inbox.clone());
        let sink = move |link, event| match event {
            QuicEvent::Up { remote } => {
                shared.set_status(link, LinkStatus { up: true, endpoint: Some(remote), ..LinkStatus::default() });
            }
            QuicEvent::Packet(packet) => {
                // A full inbox loses a packet, as a link may; the worker cannot count what it never saw.
                inbox.packet(link, packet);
            }
            QuicEvent::Down { reason } => {
                tracing::info!(link = link.0, %reason, "QUIC link down");
                shared.set_status(link, LinkStatus::default());
            }
        };
        let config = QuicConfig { listen, tls_secret: self.identity.tls_secret(), peers, link_mtu: self.mtu };
        let quic = QuicLinks::start(config, sink)?;
        let address = quic.local_addr();
        self.shared.quic.store(Some(std::sync::Arc::new(quic)));
        Ok(Some(address))
    }
}

#[cfg(not(feature = "quic"))]
impl Control {
    /// Nothing to start; a configuration that wants QUIC links is not for this build.
    pub(super) async fn start_quic(&mut self) -> Result<Option<SocketAddr>, StartError> {
        match self.quic_listen {
            None => Ok(None),
            Some(_) => Err(StartError::NoQuic),
        }
    }
}

async fn look_up(name: String) -> std::io::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(name).await?;
    found.next().ok_or_else(|| std::io::Error::other("the name has no address"))
}
