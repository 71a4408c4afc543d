//! Neighbours that nobody wrote down: members that call us, and those that are found on a wire or a radio.
//!
//! ```text
//! first message of a WireGuard handshake, unknown key ──┐
//! QUIC connection of an unknown key ────────────────────┴──> Stranger ── its card ──┐
//! found by a beacon, with its card ────────────────────────────────────────────────┴──> Met ── member or visitor ──> as any neighbour
//! ```
//!
//! A stranger may show its card, and nothing else, for a few seconds. What it may then is for the ledger to say ([`super::members`]).
//! Nothing of this is kept over a restart: whoever calls calls again.
//!
//! Whoever dials by QUIC has proven by the TLS handshake that it holds the key it presented, and from where it dials by a Retry,
//! before anything is kept of it. It is given a link of its own, where it shows its card and proves the WireGuard key in that too, as
//! its addresses follow from it: a card with anybody else's keys is not accepted. From then on it is met as one that called by
//! WireGuard: with the same few places, the same of them for each address, and the rights of a visitor until the ledger knows it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use metering::{NodeCard, NodeId, WireguardKey};
use node::admission::{AdmissionError, Proven};
use node::{LinkId, LinkSensing, Peer};

use super::whence::{Rate, Shares, Whence};
use super::{Control, Known};
use crate::config::{self, Endpoint, LinkKind, Role};
#[cfg(feature = "quic")]
use crate::link::quic::QuicStranger;
use crate::link::wireguard::PeerConfig;
use crate::worker::ToWorker;

/// Strangers at a time: the oldest whose session is not made makes room for another. How long that may take, and then until
/// the card is shown; and how long it is waited for in a crowd, as it is shown each second.
const STRANGERS_MAX: usize = 32;
/// Of these, and of those that were met and are no members, so many may be of one address: a household has more addresses in its
/// /64 than there are places, and behind one of IPv4 there may be several.
const STRANGERS_OF_ONE: usize = 8;
const VISITORS_OF_ONE: usize = 4;
const SESSION_TIME: Duration = Duration::from_secs(2);
const CROWD_TIME: Duration = Duration::from_secs(3);
const STRANGER_TIME: Duration = Duration::from_secs(15);
/// Neighbours that were met, and of these such that are no members.
const MET_MAX: usize = 64;
/// How often somebody is met that is not known for a member: accounts are free, and each costs a look at the ledger.
const MEETINGS_OF_ONE: Rate = Rate { each: Duration::from_secs(2), burst: 4 };
const MEETINGS: Rate = Rate { each: Duration::from_millis(500), burst: 8 };
/// How often a stranger that dials by QUIC is given a link. As many ids may rest because such strangers have gone, which they do for
/// seconds: so few that enough are left for whom the owner is about to write down.
const CALLS_OF_ONE: Rate = Rate { each: Duration::from_secs(1), burst: 4 };
const CALLS: Rate = Rate { each: Duration::from_millis(250), burst: 12 };
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
    Stranger(Proven, Instant),
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

/// How often somebody comes that nobody wrote down.
#[derive(Debug)]
pub(super) struct Comers {
    met: Shares,
    #[cfg_attr(not(feature = "quic"), expect(dead_code, reason = "nobody dials"))]
    calls: Shares,
}

impl Comers {
    pub(super) fn new(now: Instant) -> Self {
        Self { met: Shares::new(now, MEETINGS_OF_ONE, MEETINGS), calls: Shares::new(now, CALLS_OF_ONE, CALLS) }
    }
}

impl Control {
    /// Somebody whose key nobody has written down begins a handshake.
    pub(super) fn handle_stranger(&mut self, now: Instant, key: WireguardKey, from: SocketAddr, datagram: Vec<u8>) {
        let knows = self.links.values().any(|known| known.wireguard_key() == Some(key));
        if knows || key == self.identity.wireguard_key() {
            return;
        }
        let Some(link) = self.place_stranger(now, Proven::Wireguard(key), from) else { return };
        let peer = PeerConfig { link, key, endpoint: None, tells_congestion: true };
        self.inbox.set(ToWorker::Meet { peer, from, datagram });
    }

    /// Somebody has dialled us by QUIC whose key nobody has written down.
    #[cfg(feature = "quic")]
    pub(super) fn handle_caller(&mut self, now: Instant, caller: QuicStranger) {
        let quic = self.shared.quic.load_full();
        let Some(quic) = quic else { return caller.refuse() };
        let proven = Proven::Tls(caller.key);
        let from = Whence::of(caller.remote);
        if !self.comers.calls.has(now, from) {
            return caller.refuse();
        }
        // It may have dialled twice: the newer connection is taken.
        let same = |known: &Known| matches!(known.origin, Origin::Stranger(other, _) if other == proven);
        let there = self.links.iter().find(|(_, known)| same(known)).map(|(link, _)| *link);
        let Some(link) = there.or_else(|| self.place_stranger(now, proven, caller.remote)) else {
            return caller.refuse();
        };
        self.comers.calls.take(now, from);
        self.shared.set_by_quic(link, true);
        // Only our own key is refused.
        if quic.adopt(link, caller).is_err() {
            self.remove_link(now, link);
        }
    }

    /// A link for a stranger, if there is room for one more from there. Of one address, or of all, the oldest whose session is not
    /// made, or that was long enough to show its card, makes place.
    fn place_stranger(&mut self, now: Instant, proven: Proven, from: SocketAddr) -> Option<LinkId> {
        if !self.members.matter() {
            return None;
        }
        let from = Whence::of(from);
        let strangers = self.links.iter().filter_map(|(link, known)| match known.origin {
            Origin::Stranger(_, since) => {
                let may_go = !known.status.up || now >= since + CROWD_TIME;
                Some(Place {
                    may_go,
                    rank: (known.status.up, Some(since)),
                    link: *link,
                    same: known.from == Some(from),
                })
            }
            Origin::Written | Origin::Met(_) => None,
        });
        match room(&strangers.collect::<Vec<Place>>(), [STRANGERS_OF_ONE, STRANGERS_MAX]) {
            Room::Free => {}
            Room::Of(oldest) => self.remove_link(now, oldest),
            Room::None => return None,
        }
        let link = self.free_link()?;
        tracing::debug!(node = %self.name, %from, "a stranger calls");
        self.node.handle_link(now, link, Peer::Stranger { proven }, self.mtu);
        self.stranger(now, link, proven, from);
        Some(link)
    }

    /// The stranger on a link has shown its card.
    pub(super) fn handle_introduced(&mut self, now: Instant, link: LinkId, card: &NodeCard) {
        let account = card.account();
        let Some(Origin::Stranger(proven, _)) = self.links.get(&link).map(|known| known.origin) else { return };
        if account == self.node.id() {
            return self.remove_link(now, link);
        }
        if let Some(other) = self.link_to(account) {
            return self.join_links(now, link, other, card, proven);
        }
        // Where the first message came from says nothing, as anybody forges that; where the session is, does.
        let session = self.shared.wireguard_status(link).endpoint.filter(|_| matches!(proven, Proven::Wireguard(_)));
        let known = self.known(link);
        known.from = session.map(Whence::of).or(known.from);
        let from = known.from;
        // By WireGuard the card names a TLS key that nobody has proven here: QUIC would take somebody else's packets for this one's.
        let kind = match proven {
            Proven::Wireguard(_) => LinkKind::Wireguard,
            Proven::Tls(_) => LinkKind::Auto,
        };
        let same =
            |(other, known): &(&LinkId, &Known)| **other != link && known.wireguard_key() == Some(card.wireguard());
        match self.links.iter().find(same).map(|(other, known)| (*other, known.origin)) {
            // It calls by WireGuard, too, and has not got so far there.
            Some((other, Origin::Stranger(..))) => self.remove_link(now, other),
            // A beacon named the key, and nobody has proven it there; here somebody has.
            Some((other, Origin::Met(_))) if !self.node.is_admitted(other) => self.remove_link(now, other),
            Some((_, Origin::Written | Origin::Met(_))) => return self.remove_link(now, link),
            None => {}
        }
        if kind == LinkKind::Auto && self.has_tls_key(card) {
            return self.remove_link(now, link);
        }
        if !self.make_room(now, from, account) {
            return self.remove_link(now, link);
        }
        self.meet(now, link, card, kind, [None, None]);
        if kind == LinkKind::Auto {
            let peer = PeerConfig { link, key: card.wireguard(), endpoint: None, tells_congestion: true };
            self.inbox.set(ToWorker::SetPeer(peer));
        }
    }

    /// Whoever was met by WireGuard alone, and has dialled us by QUIC now and shown the same card there, has one link for both.
    /// Else nobody who has another link to us is let in twice.
    fn join_links(&mut self, now: Instant, link: LinkId, other: LinkId, card: &NodeCard, proven: Proven) {
        let of_wireguard = |peer: &config::Peer| peer.card == *card && peer.link == LinkKind::Wireguard;
        let known = self.links.get_mut(&other).filter(|known| matches!(known.origin, Origin::Met(_)));
        let peer = known.and_then(|known| known.peer.as_mut()).filter(|peer| of_wireguard(peer));
        if let (Some(peer), Proven::Tls(_)) = (peer, proven) {
            peer.link = LinkKind::Auto;
            #[cfg(feature = "quic")]
            if let Some(quic) = self.shared.quic.load().as_deref() {
                quic.renumber(link, other);
            }
            self.tell_node(now, other);
        }
        self.remove_link(now, link);
    }

    /// A neighbour was found. One that is there already has one more way, or is looked for there, if it is silent where it was.
    pub(super) fn handle_found_neighbour(&mut self, now: Instant, Found { card, wireguard, quic }: &Found) {
        let account = card.account();
        if account == self.node.id() || !self.members.matter() {
            return;
        }
        if let Some(link) = self.link_to(account) {
            let may_go_by_quic = self.quic_listen.is_some() && !self.has_tls_key(card);
            let Some(known) = self.links.get_mut(&link) else { return };
            let silent = known.last_heard.is_none_or(|at| now.saturating_duration_since(at) >= known.silence());
            let is_it = known.peer.as_ref().is_some_and(|peer| peer.card == *card);
            // It called us by WireGuard, which proves that key alone, and the beacon has proven the other.
            if is_it
                && let (Origin::Met(_), Some(peer), true) = (known.origin, known.peer.as_mut(), may_go_by_quic)
                && peer.link == LinkKind::Wireguard
            {
                (peer.link, peer.quic_endpoint) = (LinkKind::Auto, quic.map(Endpoint::Address));
                self.tell_node(now, link);
                return self.place_connection(link);
            }
            if is_it && known.status.up && known.kind() != LinkKind::Quic {
                let (key, at) = (card.wireguard(), *wireguard);
                self.inbox.send(ToWorker::Way { link, key, at });
            }
            if is_it && silent && known.status.endpoint != Some(*wireguard) && known.kind() != LinkKind::Quic {
                if known.origin == Origin::Written {
                    self.inbox.send(ToWorker::Call { link, at: *wireguard });
                } else {
                    // Nobody wrote down where it is: what it says last is where it is.
                    let moved = known.peer.as_mut().filter(|peer| peer.link == LinkKind::Auto);
                    if let Some(peer) = moved {
                        peer.quic_endpoint = quic.map(Endpoint::Address);
                        self.place_connection(link);
                    }
                    let (key, endpoint) = (card.wireguard(), Some(*wireguard));
                    self.inbox.set(ToWorker::SetPeer(PeerConfig { link, key, endpoint, tells_congestion: true }));
                    self.inbox.send(ToWorker::Renew { link, starves: false });
                }
            }
            return;
        }
        // It may be calling us already, and shows its card there, or another: a beacon's card may name anybody's key.
        if self.links.values().any(|known| known.wireguard_key() == Some(card.wireguard())) {
            return;
        }
        // A beacon is signed with the card's TLS key.
        let kind = if self.quic_listen.is_some() { LinkKind::Auto } else { LinkKind::Wireguard };
        if kind == LinkKind::Auto && self.has_tls_key(card) {
            return;
        }
        let from = Some(Whence::of(*wireguard));
        if !self.make_room(now, from, account) {
            return;
        }
        let Some(link) = self.free_link() else { return };
        self.known(link).from = from;
        self.meet(now, link, card, kind, [Some(*wireguard), *quic]);
        let (key, endpoint) = (card.wireguard(), Some(*wireguard));
        self.inbox.set(ToWorker::SetPeer(PeerConfig { link, key, endpoint, tells_congestion: true }));
        self.inbox.send(ToWorker::Renew { link, starves: false });
    }

    /// Somebody's card is not good. What it says is the neighbour's choice, so it is told of those alone whom the owner wrote down.
    pub(super) fn handle_not_admitted(&mut self, now: Instant, link: LinkId, error: &AdmissionError) {
        match self.links.get(&link).map(|known| known.origin) {
            Some(Origin::Written) => self.warn(format!("{} is not admitted: {error}", self.name_of(link))),
            Some(Origin::Stranger(..)) => self.remove_link(now, link),
            Some(Origin::Met(_)) => self.unmask(now, link),
            None => {}
        }
    }

    /// Whoever was met is somebody else. A beacon can name anybody's key; who holds it has a session on this link now, and is a
    /// stranger that shows its own card. To have it call again would leave the key to the next such beacon.
    fn unmask(&mut self, now: Instant, link: LinkId) {
        let session = self.shared.wireguard_status(link);
        let key = self.links.get(&link).and_then(Known::wireguard_key);
        let (Some(key), Some(at), true) = (key, session.endpoint, session.up) else {
            return self.remove_link(now, link);
        };
        tracing::debug!(node = %self.name, neighbour = %self.name_of(link), "a beacon named another's key");
        self.forget_connection(link);
        self.inbox.set(ToWorker::ForgetWays(link));
        self.links.remove(&link);
        let proven = Proven::Wireguard(key);
        self.node.handle_link(now, link, Peer::Stranger { proven }, self.mtu);
        let known = self.stranger(now, link, proven, Whence::of(at));
        // The node has been told already.
        known.status = session;
    }

    /// A link's entry, of a stranger.
    fn stranger(&mut self, now: Instant, link: LinkId, proven: Proven, from: Whence) -> &mut Known {
        let known = self.known(link);
        known.name = "a stranger".to_owned();
        known.origin = Origin::Stranger(proven, now);
        known.from = Some(from);
        known
    }

    /// Whether a link that QUIC may carry is with the TLS key of a card.
    fn has_tls_key(&self, card: &NodeCard) -> bool {
        let is_it = |peer: &config::Peer| peer.link != LinkKind::Wireguard && peer.card.tls() == card.tls();
        self.links.values().any(|known| known.peer.as_ref().is_some_and(is_it))
    }

    /// Makes a neighbour of whom we have met.
    fn meet(&mut self, now: Instant, link: LinkId, card: &NodeCard, kind: LinkKind, at: [Option<SocketAddr>; 2]) {
        let [at, quic] = at;
        let others = self.links.iter().filter(|(other, _)| **other != link).map(|(_, known)| known.name.as_str());
        let name = short_name(card.account(), &others.collect::<Vec<&str>>());
        tracing::info!(node = %self.name, neighbour = %name, account = %card.account(), "a neighbour was met");
        let state = self.members.standing(card.account(), false);
        let known = self.known(link);
        #[cfg(feature = "quic")]
        if matches!(known.origin, Origin::Stranger(Proven::Tls(_), _)) {
            known.starts_by_quic = true;
        }
        known.name.clone_from(&name);
        known.origin = Origin::Met(None);
        // It shows its card once more, to be admitted.
        (known.met, known.waits) = (Some(now), None);
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

    /// Makes room for one more who is met: of those that are no members, whoever has no session, or was met first, makes place for
    /// the next, and those of one address among themselves. `false`: there are members enough, or many were met just now, and this
    /// one calls again.
    fn make_room(&mut self, now: Instant, from: Option<Whence>, account: NodeId) -> bool {
        let (_, is_member) = self.members.standing(account, false);
        if !is_member && !from.is_some_and(|from| self.comers.met.take(now, from)) {
            return false;
        }
        let met = self.links.iter().filter(|(_, known)| matches!(known.origin, Origin::Met(_)));
        let (mut members, mut visitors) = (0, Vec::new());
        for (link, known) in met {
            if known.access.is_some_and(|(_, trades)| trades) {
                members += 1;
            } else {
                let same = from.is_some() && known.from == from;
                visitors.push(Place { may_go: true, rank: (known.status.up, known.met), link: *link, same });
            }
        }
        match room(&visitors, [VISITORS_OF_ONE, VISITORS_MAX.min(MET_MAX - members.min(MET_MAX))]) {
            Room::Free => true,
            Room::Of(oldest) => {
                self.remove_link(now, oldest);
                true
            }
            Room::None => false,
        }
    }

    /// Forgets strangers that have not shown a card, and whoever was met and has gone.
    pub(super) fn forget_strangers(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for (link, known) in &mut self.links {
            let up = known.status.up;
            known.waits = if up && !self.node.is_admitted(*link) { known.waits.or(Some(now)) } else { None };
            let patience = if known.access.is_some_and(|(_, trades)| trades) { MEMBER_AWAY } else { VISITOR_AWAY };
            let is_over = match &mut known.origin {
                Origin::Written => false,
                Origin::Stranger(_, since) => now >= *since + if up { STRANGER_TIME } else { SESSION_TIME },
                Origin::Met(down) if up => {
                    *down = None;
                    known.waits.is_some_and(|since| now >= since + STRANGER_TIME)
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

/// A place that somebody has.
struct Place {
    /// It may be given to another.
    may_go: bool,
    /// The lower goes first: whoever has no session, then whoever came first.
    rank: (bool, Option<Instant>),
    link: LinkId,
    /// It is of the address that wants one more.
    same: bool,
}

/// Where there is room for one more.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Free,
    /// In the place of this one.
    Of(LinkId),
    None,
}

/// Room for one more of an address, of which so many may be there, and so many in all.
fn room(places: &[Place], [of_one, max]: [usize; 2]) -> Room {
    let full_of_it = places.iter().filter(|place| place.same).count() >= of_one;
    if !full_of_it && places.len() < max {
        return Room::Free;
    }
    let may_go = places.iter().filter(|place| place.may_go && (place.same || !full_of_it));
    may_go.min_by_key(|place| (place.rank, place.link)).map_or(Room::None, |place| Room::Of(place.link))
}

/// What whoever was met is called: the beginning of its account, longer where another has the same: accounts are made until they
/// begin as somebody's. No name in a config begins so.
fn short_name(account: NodeId, others: &[&str]) -> String {
    let whole = account.to_string();
    let mut names = (10..whole.len()).filter_map(|len| whole.get(..len)).filter(|name| !others.contains(name));
    names.next().unwrap_or(&whole).to_owned()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_a_few_places_and_takes_none_from_others() {
        let now = Instant::now();
        let place = |link: u32, up: bool, may_go: bool, same: bool| {
            let came = now + Duration::from_secs(link.into());
            Place { may_go, rank: (up, Some(came)), link: LinkId(link), same }
        };
        let limits = [STRANGERS_OF_ONE, STRANGERS_MAX];
        let crowd = |n: u32, up: bool, may_go: bool, same: bool| (0..n).map(move |link| place(link, up, may_go, same));
        let crowd = |n, up, may_go, same| crowd(n, up, may_go, same).collect::<Vec<Place>>();
        assert_eq!(room(&crowd(7, true, false, true), limits), Room::Free);
        // The ninth of one address: only another of its own makes place, though there is room for others.
        let mut places = crowd(8, true, false, true);
        assert_eq!(room(&places, limits), Room::None);
        places.push(place(20, false, true, false));
        assert_eq!(room(&places, limits), Room::None, "others' places are not its own");
        places[5] = place(5, false, true, true);
        assert_eq!(room(&places, limits), Room::Of(LinkId(5)));
        // To somebody else the same crowd leaves what it does not have.
        assert_eq!(room(&crowd(8, true, false, false), limits), Room::Free);
        assert_eq!(room(&crowd(32, false, true, false), limits), Room::Of(LinkId(0)));
    }

    #[test]
    fn two_accounts_that_begin_alike_have_two_names() {
        let [one, other] = [[1; 20], [[1; 4].to_vec(), [2; 16].to_vec()].concat().try_into().unwrap()].map(NodeId);
        let first = short_name(one, &["roof"]);
        assert_eq!(first.len(), 10);
        let second = short_name(other, &["roof", &first]);
        assert!(second != first && second.starts_with(&first), "{second}");
    }
}
