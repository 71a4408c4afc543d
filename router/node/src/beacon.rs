//! Beacons: how neighbours on one wire or radio find each other.
//!
//! Each node says on each of its configured interfaces, every five seconds and to a link-local multicast group, who it is and at
//! which ports its links are. Nobody answers; whoever believes a beacon may begin a WireGuard handshake, which proves the
//! rest. [`Beacons::hear`] decides what is believed, [`Beacons::poll_event`] says who was found, [`Beacons::poll_transmit`] what to send.
//!
//! A beacon is deterministic CBOR: `[1, card, community, wireguard port, quic port, count, source, signature]`. The signature is of the
//! card's TLS key, over `waybill beacon v1` and the seven items before it as an array of their own.
//!
//! What keeps old beacons from being believed is a count and an address, and no clock: a router has none when it starts, and that is
//! when it has to be found. The count rises over restarts (the journal's boot in its upper half). The source address is signed, so a
//! copy is only believed from where the original came, and only until the original's next. A copy from a segment, at a time, or
//! after a loss of the journal where that does not help leads to one handshake nobody answers; addresses of working links do not follow
//! beacons at all.
//!
//! Checks are made in the order of their cost, and signatures within a budget: that of a sender who is known is its own, and all
//! unknown ones of an interface share another, so that no flood in the names of others keeps whoever is known from being heard.
//! A sender's own budget is only charged with what it has signed. What was forged in the name of somebody known is charged to the
//! interface; only where that budget is used up, too, a second one of each sender is, for what comes from where it was heard before. So
//! a flood in its name from elsewhere costs it nothing but new ways, and one from its own address, which on most wires takes more
//! than a program, its being heard while it lasts; its links go on.

use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use metering::{DecodeError, Identity, NodeCard, NodeId, SortedMap, Unverified};
use minicbor::{Decoder, Encoder};
use thiserror::Error;

/// UDP port of beacons.
pub const PORT: u16 = 6702;
/// The group they are sent to: link-local, and nobody's by assignment (RFC 4291, section 2.7). The last word is that of "Wb".
pub const GROUP: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0, 0x5762);
/// How long a beacon is: shorter and longer ones are refused unread.
pub const LENGTH: std::ops::RangeInclusive<usize> = 249..=294;
/// How every beacon begins: an array of eight, of version 1.
pub const FIRST_BYTES: [u8; 2] = [0x88, 1];

/// How often one is sent, before jitter, and how often when an interface has just appeared.
const INTERVAL: Duration = Duration::from_secs(5);
const QUICK_INTERVAL: Duration = Duration::from_secs(1);
const QUICK: u8 = 3;
/// How soon a sender that was not known is shown ours, and how often at most: many may appear at once.
const SHOW_SOON: Duration = Duration::from_millis(300);
const SHOW_EACH: Duration = Duration::from_secs(2);
/// Silence of three beacons and a half.
const LOST_AFTER: Duration = Duration::from_secs(18);
/// How long a lost sender's count is remembered. One that has lost its journal counts from the beginning.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);
/// A sender is told of this often on each of its ways, which is how often it is called there at most.
const TELL_EACH: Duration = Duration::from_secs(5);
/// Senders remembered, and interfaces of one on which it is heard.
const SENDERS_MAX: usize = 128;
const WAYS_MAX: usize = 4;
/// Beacons to send and events that wait.
const QUEUE_MAX: usize = 256;
/// Beacons of one sender on several interfaces may come in another order.
const DISORDER: u64 = 16;
/// Signatures checked for each known sender: twice what it sends, and the first three at once.
const KNOWN_BUDGET: (Duration, u32) = (Duration::from_millis(2500), 4);
/// Signatures checked for all others on an interface, and as many wrong ones in the names of those that are known. With all senders
/// known and flooding these are 142 checks a second: some 10 ms of a PC's second, and half of a small router's.
const UNKNOWN_BUDGET: (Duration, u32) = (Duration::from_millis(50), 20);

const WHAT: &[u8] = b"waybill beacon v1";

/// Which community a node is of: its ledger's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Community {
    id: [u8; 32],
    len: usize,
}

impl Community {
    /// An id of 20 or 32 bytes.
    #[must_use]
    pub fn new(id: &[u8]) -> Option<Self> {
        let fits = id.len() == 20 || id.len() == 32;
        let mut bytes = [0; 32];
        bytes.get_mut(..id.len()).filter(|_| fits)?.copy_from_slice(id);
        Some(Self { id: bytes, len: id.len() })
    }

    /// The id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.id[..self.len]
    }
}

/// What a beacon says. Nothing of it is to be believed before its signatures have been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Who sends.
    pub card: NodeCard<Unverified>,
    /// Of which community it is.
    pub community: Option<Community>,
    /// The UDP port of its WireGuard links.
    pub wireguard: u16,
    /// The UDP port of its QUIC links.
    pub quic: Option<u16>,
    /// Higher than in the beacon before.
    pub count: u64,
    /// The address it is sent from.
    pub source: Ipv6Addr,
    /// By the card's TLS key.
    pub signature: [u8; 64],
}

/// Why a beacon was not believed. Dropping one is all that ever follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Ignored {
    /// Too long, too short, or not from a link-local address.
    #[error("no beacon has this length or comes from there")]
    Misfit,
    /// Not a beacon, or one of another version.
    #[error("not a well-formed beacon of version 1")]
    Malformed,
    /// Our own, come back.
    #[error("our own beacon")]
    Ours,
    /// Of another community.
    #[error("a beacon of another community")]
    Foreign,
    /// Sent from another address than it says.
    #[error("a beacon from another address than it says")]
    Elsewhere,
    /// Not newer than the last one.
    #[error("a beacon that was heard before")]
    Replayed,
    /// The budget of signature checks is used up.
    #[error("more beacons than are checked")]
    Busy,
    /// A signature is wrong.
    #[error("a beacon nobody has signed")]
    Forged,
}

impl Beacon {
    /// The same, signed with the TLS key of `identity`, which is to be that of the card.
    #[must_use]
    pub fn signed(mut self, identity: &Identity) -> Self {
        self.signature = identity.sign_with_tls(&self.statement());
        self
    }

    /// What is signed.
    fn statement(&self) -> Vec<u8> {
        let mut to = WHAT.to_vec();
        self.write(&mut to, 7);
        to
    }

    fn write(&self, to: &mut Vec<u8>, items: u64) {
        let mut encoder = Encoder::new(to);
        let mut all = || {
            encoder.array(items)?.u8(1)?.bytes(&self.card.encode())?;
            match &self.community {
                Some(community) => encoder.bytes(community.as_bytes())?,
                None => encoder.null()?,
            };
            encoder.u16(self.wireguard)?;
            match self.quic {
                Some(port) => encoder.u16(port)?,
                None => encoder.null()?,
            };
            encoder.u64(self.count)?.bytes(&self.source.octets())?;
            if items == 8 {
                encoder.bytes(&self.signature)?;
            }
            Ok::<_, minicbor::encode::Error<std::convert::Infallible>>(())
        };
        all().expect("a vector takes every write");
    }

    /// The datagram.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(*LENGTH.end());
        self.write(&mut to, 8);
        to
    }

    /// Reads a datagram; its one encoding and no other.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "beacon";
        let beacon = Self::read(bytes).ok_or(DecodeError::Malformed { what })?;
        if beacon.encode() == bytes { Ok(beacon) } else { Err(DecodeError::NotDeterministic { what }) }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let from = &mut Decoder::new(bytes.strip_prefix(&FIRST_BYTES)?);
        Some(Self {
            card: NodeCard::decode(from.bytes().ok()?).ok()?,
            community: or_null(from, |from| Community::new(from.bytes().ok()?))?,
            wireguard: port(from)?,
            quic: or_null(from, port)?,
            count: from.u64().ok()?,
            source: <[u8; 16]>::try_from(from.bytes().ok()?).ok()?.into(),
            signature: from.bytes().ok()?.try_into().ok()?,
        })
    }
}

fn or_null<T>(from: &mut Decoder<'_>, read: impl Fn(&mut Decoder<'_>) -> Option<T>) -> Option<Option<T>> {
    if from.datatype().ok()? == minicbor::data::Type::Null {
        from.null().ok()?;
        return Some(None);
    }
    read(from).map(Some)
}

fn port(from: &mut Decoder<'_>) -> Option<u16> {
    from.u16().ok().filter(|port| *port > 0)
}

/// A neighbour that was found, or heard again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who it is; its signatures have been checked.
    pub card: NodeCard,
    /// Of which community it says it is.
    pub community: Option<Community>,
    /// On which interface, by the kernel's index.
    pub interface: u32,
    /// Its link-local address there.
    pub address: Ipv6Addr,
    /// The UDP port of its WireGuard links.
    pub wireguard: u16,
    /// The UDP port of its QUIC links.
    pub quic: Option<u16>,
    /// Whether it was not known, or lost, before.
    pub is_new: bool,
}

/// What became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A neighbour is there. Told again every few seconds as long as it is, of each way it is heard on.
    Found(Box<Found>),
    /// A neighbour is heard no more. A link to it may work all the same.
    Lost(NodeId),
}

/// A number of signature checks that fills up again.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    each: Duration,
    most: u32,
    /// When it is full again.
    full_at: Instant,
}

impl Bucket {
    fn new(now: Instant, (each, most): (Duration, u32)) -> Self {
        Self { each, most, full_at: now }
    }

    fn has(&self, now: Instant) -> bool {
        self.full_at.max(now) + self.each <= now + self.each * self.most
    }

    fn take(&mut self, now: Instant) -> bool {
        let has = self.has(now);
        if has {
            self.full_at = self.full_at.max(now) + self.each;
        }
        has
    }
}

/// One interface of ours.
#[derive(Debug)]
struct Interface {
    address: Ipv6Addr,
    budget: Bucket,
    /// For wrong signatures in the names of those that are known.
    forged: Bucket,
    due: Instant,
    quick: u8,
    shown: Option<Instant>,
}

/// Somebody who was believed.
#[derive(Debug)]
struct Sender {
    card: NodeCard,
    /// As it was read and checked.
    seen: NodeCard<Unverified>,
    /// For what it has signed, and for what it may have where the interface has no budget left.
    budget: Bucket,
    suspect: Bucket,
    ways: Vec<Way>,
    heard: Instant,
    beacons: u32,
    lost: bool,
}

/// Where a sender is heard.
#[derive(Debug)]
struct Way {
    interface: u32,
    address: Ipv6Addr,
    count: u64,
    heard: Instant,
    told: Instant,
}

/// All beacons of one node, sent and heard. Give it the interfaces, then what is heard on them, and the time when
/// [`Beacons::poll_timeout`] says so; then drain both other `poll_*`.
#[derive(Debug)]
pub struct Beacons {
    identity: Identity,
    community: Option<Community>,
    wireguard: u16,
    quic: Option<u16>,
    count: u64,
    chance: u64,
    interfaces: SortedMap<u32, Interface>,
    senders: SortedMap<NodeId, Sender>,
    outbox: VecDeque<(u32, Vec<u8>)>,
    events: VecDeque<Event>,
}

impl Beacons {
    /// Those of this node, with these ports. `boot` is higher than it was at the start before; `seed` makes the jitter.
    #[must_use]
    pub fn new(
        identity: Identity,
        community: Option<Community>,
        (wireguard, quic): (u16, Option<u16>),
        boot: u64,
        seed: u64,
    ) -> Self {
        Self {
            identity,
            community,
            wireguard,
            quic,
            count: boot << 32,
            chance: seed | 1,
            interfaces: SortedMap::new(),
            senders: SortedMap::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// An interface has appeared with this link-local address, or has another one. Three beacons are sent quickly.
    pub fn add_interface(&mut self, now: Instant, interface: u32, address: Ipv6Addr) {
        let budget = Bucket::new(now, UNKNOWN_BUDGET);
        let new = Interface { address, budget, forged: budget, due: now, quick: QUICK, shown: None };
        self.interfaces.insert(interface, new);
        self.handle_timeout(now);
    }

    /// An interface is gone.
    pub fn remove_interface(&mut self, interface: u32) {
        self.interfaces.remove(&interface);
    }

    /// A datagram has come in on an interface. What is believed becomes an event.
    ///
    /// # Errors
    /// Why it was not.
    pub fn hear(&mut self, now: Instant, interface: u32, from: Ipv6Addr, bytes: &[u8]) -> Result<(), Ignored> {
        if !LENGTH.contains(&bytes.len()) || !from.is_unicast_link_local() {
            return Err(Ignored::Misfit);
        }
        let ours = self.interfaces.get_mut(&interface).ok_or(Ignored::Misfit)?;
        let beacon = Beacon::decode(bytes).map_err(|_| Ignored::Malformed)?;
        let account = beacon.card.account();
        if account == self.identity.node_id() {
            return Err(Ignored::Ours);
        }
        if beacon.source != from {
            return Err(Ignored::Elsewhere);
        }
        if let (Some(ours), Some(other)) = (self.community, beacon.community)
            && ours != other
        {
            return Err(Ignored::Foreign);
        }
        let known = self.senders.get_mut(&account).filter(|known| known.seen == beacon.card);
        let is_known = known.is_some();
        let card = match known {
            Some(known) => {
                if !known.is_newer(interface, from, beacon.count) {
                    return Err(Ignored::Replayed);
                }
                known.check(now, interface, &beacon, &mut ours.forged)?
            }
            None => {
                if !ours.budget.take(now) {
                    return Err(Ignored::Busy);
                }
                // The cheaper of two signatures first.
                let is_signed = beacon.card.tls().verify(&beacon.statement(), &beacon.signature);
                is_signed.and_then(|()| beacon.card.verify()).map_err(|_| Ignored::Forged)?
            }
        };
        if !is_known {
            ours.show_soon(now);
            self.make_room(account);
            self.senders.insert(account, Sender::new(now, card, beacon.card));
        }
        self.believe(now, interface, &beacon);
        Ok(())
    }

    /// Sends what is due, and forgets who is silent. Harmless to call early.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<u32> =
            self.interfaces.iter().filter(|(_, ours)| ours.due <= now).map(|(interface, _)| *interface).collect();
        for interface in due {
            self.send(now, interface);
        }
        for (account, sender) in &mut self.senders {
            if !sender.lost && now >= sender.heard + LOST_AFTER {
                sender.lost = true;
                push(&mut self.events, Event::Lost(*account));
            }
        }
        self.senders.retain(|_, sender| now < sender.heard + FORGOTTEN_AFTER);
    }

    /// When to call [`Beacons::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let silent = |sender: &Sender| sender.heard + if sender.lost { FORGOTTEN_AFTER } else { LOST_AFTER };
        let due = self.interfaces.values().map(|ours| ours.due);
        due.chain(self.senders.values().map(silent)).min()
    }

    /// A beacon to send, and the interface.
    pub fn poll_transmit(&mut self) -> Option<(u32, Vec<u8>)> {
        self.outbox.pop_front()
    }

    /// What became known.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How many senders are remembered.
    #[must_use]
    pub fn senders(&self) -> usize {
        self.senders.len()
    }

    /// Signs a beacon for each interface as it is sent: the count and the address differ.
    fn send(&mut self, now: Instant, interface: u32) {
        let jitter = self.jitter();
        let Some(ours) = self.interfaces.get_mut(&interface) else { return };
        self.count += 1;
        let source = ours.address;
        ours.quick = ours.quick.saturating_sub(1);
        ours.shown = Some(now);
        ours.due = now + if ours.quick > 0 { QUICK_INTERVAL } else { INTERVAL }.mul_f32(jitter);
        let card = NodeCard::decode(&self.identity.card().encode()).expect("our own card");
        let beacon = Beacon {
            card,
            community: self.community,
            wireguard: self.wireguard,
            quic: self.quic,
            count: self.count,
            source,
            signature: [0; 64],
        };
        push(&mut self.outbox, (interface, beacon.signed(&self.identity).encode()));
    }

    /// From 0.8 to 1.2, so that routers on one radio do not speak at once.
    fn jitter(&mut self) -> f32 {
        // Xorshift: nobody is to be surprised by it.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        0.8 + f32::from((self.chance >> 32) as u16) / f32::from(u16::MAX) * 0.4
    }

    /// Where the table is full, who has been heard the least goes: a crowd that was made up does not drive out who stays.
    fn make_room(&mut self, account: NodeId) {
        if self.senders.len() < SENDERS_MAX || self.senders.contains_key(&account) {
            return;
        }
        let least = self.senders.iter().min_by_key(|(_, sender)| (!sender.lost, sender.beacons, sender.heard));
        if let Some(account) = least.map(|(account, _)| *account) {
            self.senders.remove(&account);
        }
    }

    fn believe(&mut self, now: Instant, interface: u32, beacon: &Beacon) {
        let Some(sender) = self.senders.get_mut(&beacon.card.account()) else { return };
        let is_new = sender.lost || sender.beacons == 0;
        sender.lost = false;
        sender.heard = now;
        sender.beacons = sender.beacons.saturating_add(1);
        let told = sender.way(interface, beacon.source).map(|way| way.told);
        let is_told = !is_new && told.is_some_and(|told| now < told + TELL_EACH);
        let told = told.filter(|_| is_told).unwrap_or(now);
        sender.take_way(Way { interface, address: beacon.source, count: beacon.count, heard: now, told });
        if is_told {
            return;
        }
        let found = Found {
            card: sender.card,
            community: beacon.community,
            interface,
            address: beacon.source,
            wireguard: beacon.wireguard,
            quic: beacon.quic,
            is_new,
        };
        push(&mut self.events, Event::Found(Box::new(found)));
    }
}

/// The oldest goes where nobody drains.
fn push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() >= QUEUE_MAX {
        queue.pop_front();
    }
    queue.push_back(item);
}

impl Interface {
    /// Somebody new is to find us soon, too.
    fn show_soon(&mut self, now: Instant) {
        let soon = self.shown.map_or(now, |shown| shown + SHOW_EACH).max(now + SHOW_SOON);
        self.due = self.due.min(soon);
    }
}

impl Sender {
    fn new(now: Instant, card: NodeCard, seen: NodeCard<Unverified>) -> Self {
        let budget = Bucket::new(now, KNOWN_BUDGET);
        Self { card, seen, budget, suspect: budget, ways: Vec::new(), heard: now, beacons: 0, lost: false }
    }

    /// Where it was heard before, later than the last one there; elsewhere, later than the last one at all, but for disorder.
    fn is_newer(&self, interface: u32, address: Ipv6Addr, count: u64) -> bool {
        match self.way(interface, address) {
            Some(way) => count > way.count,
            None => self.ways.iter().all(|way| count.saturating_add(DISORDER) > way.count),
        }
    }

    fn way(&self, interface: u32, address: Ipv6Addr) -> Option<&Way> {
        self.ways.iter().find(|way| way.interface == interface && way.address == address)
    }

    /// Its card has been checked before. Who is charged is known only afterwards: the sender, if it has signed; else the interface.
    fn check(
        &mut self,
        now: Instant,
        interface: u32,
        beacon: &Beacon,
        forged: &mut Bucket,
    ) -> Result<NodeCard, Ignored> {
        let at_home = || self.way(interface, beacon.source).is_some();
        if !self.budget.has(now) || !(forged.has(now) || at_home() && self.suspect.take(now)) {
            return Err(Ignored::Busy);
        }
        if self.card.tls().verify(&beacon.statement(), &beacon.signature).is_err() {
            forged.take(now);
            return Err(Ignored::Forged);
        }
        self.budget.take(now);
        Ok(self.card)
    }

    fn take_way(&mut self, way: Way) {
        self.ways.retain(|known| known.interface != way.interface || known.address != way.address);
        if self.ways.len() >= WAYS_MAX {
            let oldest = self.ways.iter().enumerate().min_by_key(|(_, way)| way.heard).map(|(index, _)| index);
            self.ways.swap_remove(oldest.unwrap_or(0));
        }
        self.ways.push(way);
    }
}

#[cfg(test)]
mod tests;
