//! Neighbours that nobody wrote down: members that call us, and those that are found on a wire or a radio.
//!
//! ```text
//! first message of a handshake, unknown key ──> Stranger ── its card ──┐
//! found by a beacon, with its card ────────────────────────────────────┴──> Met ── member or visitor ──> as any neighbour
//! ```
//!
//! A stranger may show its card, and nothing else, for a few seconds. What it may then is for the ledger to say ([`super::members`]).
//! Nothing of this is kept over a restart: whoever calls calls again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use metering::{NodeCard, NodeId, WireguardKey};
use node::{Access, LinkId, LinkSensing, Peer};

use super::{Control, Known};
use crate::config::{self, Endpoint, LinkKind, Role};
use crate::link::wireguard::PeerConfig;
use crate::worker::ToWorker;

/// Strangers at a time, and how long each has to show its card.
const STRANGERS_MAX: usize = 8;
const STRANGER_TIME: Duration = Duration::from_secs(15);
/// Neighbours that were met, and of these such that are no members.
const MET_MAX: usize = 64;
const VISITORS_MAX: usize = 16;
/// How long a neighbour that was met may be gone before it is forgotten: a visitor, and a member.
const VISITOR_AWAY: Duration = Duration::from_secs(60);
const MEMBER_AWAY: Duration = Duration::from_secs(600);
/// Babel's cost of a link as it is by default.
const COST: u16 = 96;

/// How a neighbour came to be one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Origin {
    /// The owner wrote it into the config.
    #[default]
    Written,
    /// It has called us with this key, then, and not shown its card.
    Stranger(WireguardKey, Instant),
    /// It was met; since when its link has been down, if it is.
    Met(Option<Instant>),
}

/// A neighbour that was found below the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who it is. Its signature has been checked.
    pub card: NodeCard,
    /// Where its WireGuard links are.
    pub wireguard: SocketAddr,
    /// And its QUIC links, if it has any.
    pub quic: Option<SocketAddr>,
}

impl Control {
    /// Somebody whose key nobody has written down begins a handshake.
    pub(super) fn handle_stranger(&mut self, now: Instant, key: WireguardKey, from: SocketAddr, datagram: Vec<u8>) {
        let knows = self.links.values().any(|known| known.wireguard_key() == Some(key));
        let strangers = self.links.values().filter(|known| matches!(known.origin, Origin::Stranger(..))).count();
        if knows || strangers >= STRANGERS_MAX || !self.members.matter() || key == self.identity.wireguard_key() {
            return;
        }
        let Some(link) = self.free_link() else { return };
        tracing::debug!(node = %self.name, %from, "a stranger calls");
        self.node.handle_link(now, link, Peer::Stranger { key }, self.mtu);
        let known = self.known(link);
        known.name = "a stranger".to_owned();
        known.origin = Origin::Stranger(key, now);
        let peer = PeerConfig { link, key, endpoint: None, tells_congestion: true };
        self.inbox.set(ToWorker::Meet { peer, from, datagram });
    }

    /// The stranger on a link has shown its card.
    pub(super) fn handle_introduced(&mut self, now: Instant, link: LinkId, card: &NodeCard) {
        let account = card.account();
        let is_stranger = |known: &Known| matches!(known.origin, Origin::Stranger(..));
        if !self.links.get(&link).is_some_and(is_stranger) {
            return;
        }
        if account == self.node.id() || self.link_to(account).is_some() || !self.has_room_for(account) {
            // Whoever has another link to us by another key is not let in twice.
            return self.remove_link(now, link);
        }
        self.meet(now, link, card, None, None);
    }

    /// A neighbour was found. One that is there already is looked for where it was found, if it is silent where it was.
    pub(super) fn handle_found_neighbour(&mut self, now: Instant, Found { card, wireguard, quic }: &Found) {
        let account = card.account();
        if account == self.node.id() || !self.members.matter() {
            return;
        }
        if let Some(link) = self.link_to(account) {
            let Some(known) = self.links.get_mut(&link) else { return };
            let silent = known.last_heard.is_none_or(|at| now.saturating_duration_since(at) >= known.silence());
            let is_it = known.peer.as_ref().is_some_and(|peer| peer.card == *card);
            if is_it && silent && known.status.endpoint != Some(*wireguard) && known.kind() != LinkKind::Quic {
                self.call(link, card.wireguard(), *wireguard);
            }
            return;
        }
        if !self.has_room_for(account) {
            return;
        }
        let Some(link) = self.free_link() else { return };
        self.meet(now, link, card, Some(*wireguard), *quic);
        self.call(link, card.wireguard(), *wireguard);
    }

    /// Begins a handshake there.
    fn call(&self, link: LinkId, key: WireguardKey, at: SocketAddr) {
        self.inbox.set(ToWorker::SetPeer(PeerConfig { link, key, endpoint: Some(at), tells_congestion: true }));
        self.inbox.send(ToWorker::Renew(link));
    }

    /// Makes a neighbour of whom we have met.
    fn meet(&mut self, now: Instant, link: LinkId, card: &NodeCard, at: Option<SocketAddr>, quic: Option<SocketAddr>) {
        let name = short_name(card.account());
        tracing::info!(node = %self.name, neighbour = %name, account = %card.account(), "a neighbour was met");
        let state = (self.members.access(card.account()), self.members.trades_with(card.account()));
        let kind = if self.quic_listen.is_some() { LinkKind::Auto } else { LinkKind::Wireguard };
        let known = self.known(link);
        known.name.clone_from(&name);
        known.origin = Origin::Met(None);
        known.met = Some(now);
        known.resolved = at;
        known.access = Some(state);
        known.peer = Some(config::Peer {
            name,
            card: *card,
            endpoint: at.map(Endpoint::Address),
            quic_endpoint: quic.map(Endpoint::Address),
            link: kind,
            role: Role::Auto,
            cost: COST,
            sensing: LinkSensing::Measured,
        });
        self.tell_node(now, link);
        self.place_connection(link);
        self.members.ask_soon(now);
    }

    /// Whether one more may be met.
    fn has_room_for(&self, account: NodeId) -> bool {
        let met = || self.links.values().filter(|known| matches!(known.origin, Origin::Met(_)));
        let is_visitor =
            |known: &&Known| matches!(known.access, Some((access, trades)) if access == Access::Visitor || !trades);
        let (all, visitors) = (met().count(), met().filter(is_visitor).count());
        all < MET_MAX && (self.members.trades_with(account) || visitors < VISITORS_MAX)
    }

    /// Forgets strangers that have not shown a card, and whoever was met and has gone.
    pub(super) fn forget_strangers(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for (link, known) in &mut self.links {
            let up = known.status.up;
            let patience = if known.access.is_some_and(|(_, trades)| trades) { MEMBER_AWAY } else { VISITOR_AWAY };
            let is_over = match &mut known.origin {
                Origin::Written => false,
                Origin::Stranger(_, since) => now >= *since + STRANGER_TIME,
                Origin::Met(down) if up => {
                    *down = None;
                    false
                }
                Origin::Met(down) => now >= *down.get_or_insert(now) + patience,
            };
            if is_over {
                gone.push(*link);
            }
        }
        for link in gone {
            self.remove_link(now, link);
        }
    }
}

/// What whoever was met is called: the beginning of its account. No name in a config begins so.
fn short_name(account: NodeId) -> String {
    account.to_string().chars().take(10).collect()
}
