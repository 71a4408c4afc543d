//! Which links a router has: given ids, told to worker, QUIC and node, and changed while running.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metering::{Side, SortedSet};
use node::datapath::MAX_LINKS;
use node::{Access, Deal, LinkId, LinkMeasure, LinkSensing, Peer};
#[cfg(not(feature = "quic"))]
use tokio::sync::mpsc;

use super::strangers::Origin;
use super::{Control, Done, Known, Links, Money, clock};
use crate::config::{self, Endpoint, LinkKind, Role};
use crate::link::wireguard::PeerConfig;
use crate::look_up::LookUps;
#[cfg(not(feature = "quic"))]
use crate::worker::FromWorker;
use crate::worker::ToWorker;

/// A link's id is not given to another neighbour before what QUIC handed over has been carried.
const REST: Duration = Duration::from_secs(5);

impl Control {
    /// Brings the links to what the configuration says. What did not change is not touched.
    pub(super) fn set_links(&mut self, now: Instant, links: Links) {
        self.forget_namesakes(now, &links);
        let mut wanted = SortedSet::new();
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

    /// Whoever was met and is written down now, in another way, has one link and not two: both would sign on the same channel.
    fn forget_namesakes(&mut self, now: Instant, links: &Links) {
        let is_written = |known: &Known| {
            let key = known.wireguard_key();
            let leaf = links.leaves.iter().any(|leaf| Some(leaf.wireguard_key) == key);
            let peer = links.peers.iter().any(|peer| {
                let same_account = known.peer.as_ref().is_some_and(|known| known.card.account() == peer.card.account());
                let same =
                    known.peer.as_ref().is_some_and(|known| known.card == peer.card && peer.link != LinkKind::Quic);
                (same_account || Some(peer.card.wireguard()) == key) && !same
            });
            leaf || peer
        };
        let met = self.links.iter().filter(|(_, known)| known.origin != Origin::Written && is_written(known));
        for link in met.map(|(link, _)| *link).collect::<Vec<LinkId>>() {
            self.remove_link(now, link);
        }
    }

    pub(super) fn remove_link(&mut self, now: Instant, link: LinkId) {
        // Strangers come and go as they like, also many a second.
        if self.links.get(&link).is_some_and(|known| matches!(known.origin, Origin::Stranger(..))) {
            tracing::debug!(node = %self.name, "a stranger's link removed");
        } else {
            tracing::info!(node = %self.name, neighbour = %self.name_of(link), "link removed");
        }
        self.inbox.set(ToWorker::RemovePeer(link));
        self.node.handle_link_removed(now, link);
        if self.links.remove(&link).is_some_and(|known| known.may_go_by_quic()) {
            self.forget_connection(link);
            self.retired.insert(link, now);
        }
    }

    fn set_peer(&mut self, now: Instant, peer: config::Peer) -> Option<LinkId> {
        // WireGuard and both are one kind: a link goes on when QUIC is added to it or taken away.
        let by_quic_alone = |peer: &config::Peer| peer.link == LinkKind::Quic;
        let is_it = |known: &config::Peer| known.card == peer.card && by_quic_alone(known) == by_quic_alone(&peer);
        let link = self.place(&|known: &Known| known.peer.as_ref().is_some_and(is_it))?;
        let state = self.members.standing(peer.card.account(), true);
        let known = self.known(link);
        let moved = known.peer.as_ref().is_none_or(|known| known.endpoint != peer.endpoint);
        let same_quic = |known: &config::Peer| known.link == peer.link && known.by_quic() == peer.by_quic();
        let moved_quic = !known.peer.as_ref().is_some_and(same_quic);
        known.name.clone_from(&peer.name);
        known.origin = Origin::Written;
        known.access = Some(state);
        known.peer = Some(peer);
        self.tell_node(now, link);
        self.place_session(link, moved);
        if moved_quic {
            self.place_connection(link);
        }
        Some(link)
    }

    /// Tells the node what the neighbour on a link is, and may.
    pub(super) fn tell_node(&mut self, now: Instant, link: LinkId) {
        let Some((known, peer)) = self.links.get(&link).and_then(|known| Some((known, known.peer.as_ref()?))) else {
            return;
        };
        let (access, trades) = known.access.unwrap_or((Access::Full, true));
        let deal = if trades { self.deal(peer.role) } else { Deal::Agreed(Side::Peer) };
        let measure = LinkMeasure { cost: peer.cost, sensing: peer.sensing, path_mtu: peer.link != LinkKind::Quic };
        let proves = peer.link != LinkKind::Wireguard;
        self.node.handle_link(now, link, Peer::Mesh { card: peer.card, deal, measure, access, proves }, self.mtu);
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
        let peer = match leaf.babel {
            true => Peer::Babel { measure },
            false => Peer::Leaf { prefixes: leaf.addresses.clone(), ipv4: leaf.ipv4 },
        };
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
        self.links.entry(link).or_insert_with(|| {
            self.turns = self.turns.wrapping_add(1);
            self.inbox.set(ToWorker::Begin { link, turn: self.turns });
            #[cfg(feature = "quic")]
            self.shared.set_quic_status(link, crate::link::LinkStatus::default());
            Known { since, turn: self.turns, ..Known::default() }
        })
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
        let now = clock();
        let rests = |since: &Instant| now.saturating_duration_since(*since) < REST;
        let is_free = |link: &LinkId| !self.links.contains_key(link) && !self.retired.get(link).is_some_and(rests);
        (0..).map(LinkId).take(MAX_LINKS).find(is_free)
    }

    /// Tells the worker of a WireGuard peer, new or with another endpoint.
    fn place_session(&mut self, link: LinkId, moved: bool) {
        let Some(known) = self.links.get_mut(&link).filter(|known| moved && known.kind() != LinkKind::Quic) else {
            return;
        };
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
        for (link, known) in &self.links {
            let by_quic = self.shared.by_quic(*link);
            let wireguard = known.endpoint().filter(|_| !known.status.up || by_quic).cloned();
            let quic = self.quic_name(*link, known);
            for endpoint in [wireguard, quic].into_iter().flatten() {
                let (Endpoint::Name { host, port }, link) = (&endpoint, *link) else { continue };
                let (name, look_ups) = (endpoint.to_string(), self.look_ups.clone());
                self.spawn(look_up(look_ups, host.clone(), *port), move |answer| {
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
        if let Some(known) = self.links.get_mut(&link)
            && known.peer.as_ref().and_then(config::Peer::by_quic).as_ref() == Some(endpoint)
        {
            known.quic_resolved = Some(address);
        }
        let is_meant = |known: &&mut Known| known.endpoint() == Some(endpoint) && known.resolved != Some(address);
        let Some(known) = self.links.get_mut(&link).filter(is_meant) else { return };
        known.resolved = Some(address);
        if let Some(key) = known.wireguard_key() {
            let (endpoint, tells_congestion) = (Some(address), known.peer.is_some());
            self.inbox.set(ToWorker::SetPeer(PeerConfig { link, key, endpoint, tells_congestion }));
        }
    }

    /// Takes another configuration while running.
    pub(super) fn handle_reload(&mut self, now: Instant, links: Links, money: Option<Money>) {
        self.members.look_for_code(now);
        if let Some(money) = money.filter(|money| *money != self.money) {
            self.node.handle_prices(now, money.policy(), money.prices());
            self.budget.set(money.budget);
            self.money = money;
            self.look_at_budget(now);
        }
        self.registry.look_for_claim(now);
        self.set_links(now, links);
        tracing::info!(node = %self.name, links = self.links.len(), "configuration read again");
    }

    /// The name that QUIC dials, if it is to be looked up.
    #[cfg(feature = "quic")]
    fn quic_name(&self, link: LinkId, known: &Known) -> Option<Endpoint> {
        let (up, _) = self.shared.quic.load().as_ref()?.heard(link)?;
        known.peer.as_ref()?.by_quic().filter(|_| known.wants_quic_address(up))
    }
}

#[cfg(not(feature = "quic"))]
impl Control {
    /// Nothing to start; a configuration that wants QUIC links is not for this build.
    pub(super) fn start_quic(
        &self,
        _callers: mpsc::Sender<FromWorker>,
    ) -> Result<Option<SocketAddr>, super::StartError> {
        self.quic_listen.map_or(Ok(None), |_| Err(super::StartError::NoQuic))
    }

    pub(super) fn look_at_carriers(&mut self, _now: Instant) {}

    pub(super) fn place_connection(&mut self, _link: LinkId) {}

    pub(super) fn forget_connection(&self, _link: LinkId) {}

    fn quic_name(&self, _link: LinkId, _known: &Known) -> Option<Endpoint> {
        None
    }
}

/// Past the session to a gateway first, where there is one; and as the system does it, which knows names of its own.
async fn look_up(past: Option<Arc<LookUps>>, host: String, port: u16) -> std::io::Result<SocketAddr> {
    if let Some(past) = past
        && let Some(address) = past.find(&host).await
    {
        return Ok(SocketAddr::new(address, port));
    }
    let mut found = tokio::net::lookup_host((host, port)).await?;
    found.next().ok_or_else(|| std::io::Error::other("the name has no address"))
}
