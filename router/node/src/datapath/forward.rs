//! The one central decision: what becomes of a packet.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use super::destinations::Destinations;
use super::fib::{Fib, LinkPolicy, NextHop, Standing};
use super::icmp::{self, Budgets};
use super::meter::{Meters, Ration, Tally};
use super::mss;
use super::packet::{self, Header, Ipv4Header};
use super::{LinkId, Port};
use crate::drop::{DropReason, Drops};

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it there.
    Forward(Port),
    /// It is for the control core: routing, admission or settlement with the neighbour on this link.
    Control(LinkId),
    /// Forget it; it has been counted.
    Drop(DropReason),
}

/// Opened IP packets from one ingress, in fixed slots of one buffer that is allocated once.
#[derive(Debug)]
pub struct Batch {
    buffer: Box<[u8]>,
    slot: usize,
    packets: Vec<(usize, Verdict)>,
    capacity: usize,
    egresses: Vec<Port>,
    answers: Vec<(Port, Vec<u8>)>,
}

impl Batch {
    /// Room for `capacity` packets of at most `slot` bytes each.
    pub fn new(capacity: usize, slot: usize) -> Self {
        Self {
            buffer: vec![0; capacity * slot].into_boxed_slice(),
            slot,
            packets: Vec::with_capacity(capacity),
            capacity,
            egresses: Vec::with_capacity(capacity),
            answers: Vec::new(),
        }
    }

    /// Whether no further packet fits.
    pub fn is_full(&self) -> bool {
        self.packets.len() == self.capacity
    }

    /// Whether there is no packet in the batch.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.egresses.clear();
        self.answers.clear();
    }

    /// The free slot after the last packet, to write the next packet into. Empty when the batch is full.
    pub fn spare(&mut self) -> &mut [u8] {
        let start = (self.packets.len() * self.slot).min(self.buffer.len());
        let end = (start + self.slot).min(self.buffer.len());
        &mut self.buffer[start..end]
    }

    /// Takes the first `len` bytes of [`Self::spare`] as the next packet.
    pub fn commit(&mut self, len: usize) {
        if !self.is_full() {
            self.packets.push((len.min(self.slot), Verdict::Drop(DropReason::Malformed)));
        }
    }

    /// How many packets are in the batch.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Brings what was written into [`Self::spare`] behind `before` packets, which have been cleared since, into the first
    /// slot.
    pub fn bring_forward(&mut self, before: usize, len: usize) {
        let (start, len) = (before * self.slot, len.min(self.slot));
        if before < self.capacity && self.is_empty() {
            self.buffer.copy_within(start..start + len, 0);
        }
    }

    /// The same for a packet that met congestion inside its link and that no mark can be put on: it came, and goes no
    /// further.
    pub fn commit_congested(&mut self, len: usize) {
        self.commit(len);
        if let Some((_, verdict)) = self.packets.last_mut() {
            *verdict = Verdict::Drop(DropReason::Congestion);
        }
    }

    /// Copies a packet in. False when it is too long or the batch is full.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let Some(room) = self.spare().get_mut(..packet.len()) else {
            return false;
        };
        room.copy_from_slice(packet);
        let fits = !self.is_full();
        self.commit(packet.len());
        fits
    }

    /// The packets and their verdicts, in order of arrival.
    pub fn packets(&self) -> impl Iterator<Item = (Verdict, &[u8])> {
        let slots = self.buffer.chunks_exact(self.slot);
        self.packets.iter().zip(slots).map(|((len, verdict), slot)| (*verdict, &slot[..*len]))
    }

    /// Where packets are to be forwarded to, each port once.
    pub fn egresses(&self) -> impl Iterator<Item = Port> + '_ {
        self.egresses.iter().copied()
    }

    /// The packets to be forwarded there, in order of arrival.
    pub fn towards(&self, port: Port) -> impl Iterator<Item = &[u8]> + Clone {
        let slots = self.buffer.chunks_exact(self.slot);
        let all = self.packets.iter().zip(slots);
        all.filter(move |((_, verdict), _)| *verdict == Verdict::Forward(port)).map(|((len, _), slot)| &slot[..*len])
    }

    /// ICMPv6 errors to send, and where.
    pub fn answers(&self) -> impl Iterator<Item = (Port, &[u8])> {
        self.answers.iter().map(|(port, packet)| (*port, packet.as_slice()))
    }
}

/// One worker's forwarding state: a snapshot of the table, and the meters and drop counters of all workers.
///
/// Call [`Self::handle_batch`] with opened packets, act on the verdicts, and call [`Self::count_sent`] for the data
/// packets a link took. Swap the table with [`Self::set_fib`] between batches.
#[derive(Debug)]
pub struct Datapath {
    address: Ipv6Addr,
    local_mtu: usize,
    fib: Arc<Fib>,
    destinations: Destinations,
    meters: Arc<Meters>,
    drops: Arc<Drops>,
    errors: Budgets,
    link_ports: Vec<u16>,
}

impl Datapath {
    /// A datapath that answers from `address` and delivers packets of at most `local_mtu` bytes to the own side.
    pub fn new(address: Ipv6Addr, local_mtu: usize, meters: Arc<Meters>, drops: Arc<Drops>, now: Instant) -> Self {
        let destinations = Destinations::default();
        let errors = Budgets::new(now);
        Self { address, local_mtu, fib: Arc::default(), destinations, meters, drops, errors, link_ports: Vec::new() }
    }

    /// The UDP ports that this node's links use below the mesh.
    #[must_use]
    pub fn with_link_ports(self, link_ports: Vec<u16>) -> Self {
        Self { link_ports, ..self }
    }

    /// Uses another table from the next batch on.
    pub fn set_fib(&mut self, fib: Arc<Fib>) {
        if !Arc::ptr_eq(&self.fib, &fib) {
            self.fib = fib;
            self.destinations.forget();
        }
    }

    /// The table in use.
    pub fn fib(&self) -> &Fib {
        &self.fib
    }

    /// Decides on every packet of the batch: sets its verdict, lowers hop limits, counts what was received and what
    /// was dropped, and adds the ICMPv6 errors that are due.
    pub fn handle_batch(&mut self, now: Instant, ingress: Port, batch: &mut Batch) {
        let mut received = Tally::default();
        for (index, (len, verdict)) in batch.packets.iter_mut().enumerate() {
            let start = index * batch.slot;
            let packet = &mut batch.buffer[start..start + *len];
            let congested = *verdict == Verdict::Drop(DropReason::Congestion);
            let decided = self.decide(ingress, packet, &mut received);
            *verdict = match decided.and_then(|decided| if congested { spare_control(decided) } else { Ok(decided) }) {
                Ok((verdict, len_stated)) => {
                    *len = len_stated;
                    note_egress(&mut batch.egresses, verdict);
                    verdict
                }
                Err(reason) => {
                    self.drops.count(reason);
                    batch.answers.extend(self.answer(now, ingress, packet, reason));
                    Verdict::Drop(reason)
                }
            };
        }
        if let Port::Link(link) = ingress {
            self.meters.add_received(link, received);
        }
    }

    /// Whether a link's packets are carried; else only its control packets are of use.
    pub fn carries_for(&self, link: LinkId) -> bool {
        self.fib.link(link).is_some_and(|entry| match entry.policy {
            LinkPolicy::Mesh | LinkPolicy::Leaf(_) | LinkPolicy::Paced => true,
            LinkPolicy::Closed | LinkPolicy::Exhausted => false,
        })
    }

    /// Counts data packets that the link's cryptography took for sending.
    pub fn count_sent(&self, link: LinkId, sent: Tally) {
        self.meters.add_sent(link, sent);
    }

    /// Counts a packet that the shell could not send after a `Forward` verdict.
    pub fn count_drop(&self, reason: DropReason) {
        self.drops.count(reason);
    }

    /// Counts many of them.
    pub fn count_drops(&self, reason: DropReason, packets: u64) {
        self.drops.count_all(reason, packets);
    }

    /// The verdict, and the length the IP header states.
    fn decide(
        &mut self,
        ingress: Port,
        packet: &mut [u8],
        received: &mut Tally,
    ) -> Result<(Verdict, usize), DropReason> {
        if packet::is_ipv4(packet) {
            return self.decide_ipv4(ingress, packet, received);
        }
        let header = packet::parse(packet)?;
        if packet::is_link_local(header.destination) || packet::is_link_local_multicast(header.destination) {
            return match ingress {
                Port::Link(link) => Ok((Verdict::Control(link), header.len)),
                Port::Local => Err(DropReason::DestinationNotRoutable),
            };
        }
        self.check_source(ingress, &header, packet)?;
        if ingress == Port::Local && header.source == self.address && self.is_of_a_link(packet) {
            return Err(DropReason::LinkInMesh);
        }
        // Counted whatever becomes of it further on: if a relay did not count what it drops for a household that does
        // not pay, its own provider would see a loss, and stop carrying for the households that do.
        received.add(header.len);
        let egress = self.egress(ingress, &header, packet)?;
        if self.fib.is_visited() {
            self.check_visitors(ingress, egress, &header, packet)?;
        }
        if let (Port::Link(_), Port::Link(_)) = (ingress, egress) {
            let hops_left = header.hop_limit.checked_sub(1).filter(|left| *left > 0).ok_or(DropReason::HopLimit)?;
            packet::set_hop_limit(packet, hops_left);
        } else {
            mss::clamp(&mut packet[..header.len], self.mtu_between(ingress, egress));
        }
        Ok((Verdict::Forward(egress), header.len))
    }

    /// IPv4 passes between the own side and leaves that it leads to the Internet.
    fn decide_ipv4(&self, ingress: Port, packet: &[u8], received: &mut Tally) -> Result<(Verdict, usize), DropReason> {
        if let Port::Link(link) = ingress
            && !self.fib.leads_out(link)
        {
            return Err(DropReason::NotIpv6);
        }
        let Ipv4Header { source, destination, udp_source_port, len } = packet::parse_ipv4(packet)?;
        let (link, egress) = match ingress {
            Port::Link(link) => (link, Port::Local),
            Port::Local => {
                let link = self.fib.leaf_at(destination).ok_or(DropReason::NotIpv6)?;
                (link, Port::Link(link))
            }
        };
        let entry = self.fib.link(link).ok_or(DropReason::LinkDown)?;
        if !matches!(entry.policy, LinkPolicy::Leaf(_)) {
            return Err(DropReason::NotAdmitted);
        }
        if !is_routable(source) {
            return Err(DropReason::SourceNotRoutable);
        }
        let of_leaf = self.fib.leaf_at(source);
        match ingress {
            Port::Link(link) if of_leaf != Some(link) => return Err(DropReason::SourceNotAllowed),
            // Leaves meet by the mesh's addresses.
            Port::Link(_) if !is_routable(destination) || self.fib.leaf_at(destination).is_some() => {
                return Err(DropReason::DestinationNotRoutable);
            }
            Port::Link(_) => received.add(len),
            Port::Local if of_leaf.is_some() => return Err(DropReason::SourceNotOurs),
            Port::Local if udp_source_port.is_some_and(|port| self.link_ports.contains(&port)) => {
                return Err(DropReason::LinkInMesh);
            }
            Port::Local => {}
        }
        if len > if egress == Port::Local { self.local_mtu } else { entry.mtu } {
            return Err(DropReason::TooBig);
        }
        Ok((Verdict::Forward(egress), len))
    }

    /// Whether our own kernel sends this for one of our links. Sealed again it would come back for ever.
    fn is_of_a_link(&self, packet: &[u8]) -> bool {
        packet::udp_source_port(packet).is_some_and(|port| self.link_ports.contains(&port))
    }

    /// The longest packet that passes from one to the other.
    fn mtu_between(&self, ingress: Port, egress: Port) -> usize {
        let mtu = |port| match port {
            Port::Link(link) => self.fib.link(link).map_or(self.local_mtu, |entry| entry.mtu),
            Port::Local => self.local_mtu,
        };
        mtu(ingress).min(mtu(egress))
    }

    fn check_source(&self, ingress: Port, header: &Header, packet: &[u8]) -> Result<(), DropReason> {
        let source = header.source;
        if source.is_multicast() || source.is_unspecified() || source.is_loopback() || packet::is_link_local(source) {
            return Err(DropReason::SourceNotRoutable);
        }
        let Port::Link(link) = ingress else {
            let ours = self.fib.is_own(source) || is_outside(source) && self.leads_out(header.destination);
            return if ours { Ok(()) } else { Err(DropReason::SourceNotOurs) };
        };
        match &self.fib.link(link).ok_or(DropReason::LinkDown)?.policy {
            LinkPolicy::Closed => Err(DropReason::NotAdmitted),
            LinkPolicy::Leaf(prefixes) if prefixes.iter().any(|prefix| prefix.contains(source)) => Ok(()),
            LinkPolicy::Leaf(_) => Err(DropReason::SourceNotAllowed),
            LinkPolicy::Mesh | LinkPolicy::Paced | LinkPolicy::Exhausted if self.fib.is_own_exclusively(source) => {
                Err(DropReason::SourceSpoofed)
            }
            LinkPolicy::Mesh => Ok(()),
            LinkPolicy::Paced | LinkPolicy::Exhausted => self.take_ration(link, header, packet),
        }
    }

    fn egress(&mut self, ingress: Port, header: &Header, packet: &[u8]) -> Result<Port, DropReason> {
        let to = header.destination;
        if to.is_multicast() || to.is_unspecified() || to.is_loopback() {
            return Err(DropReason::DestinationNotRoutable);
        }
        if let Port::Link(link) = ingress
            && self.fib.leads_out(link)
            && is_outside(to)
        {
            return if header.len > self.local_mtu { Err(DropReason::TooBig) } else { Ok(Port::Local) };
        }
        let next_hop = self.destinations.lookup(&self.fib, to).ok_or(DropReason::NoRoute)?;
        self.check_standing(ingress, next_hop, to)?;
        match next_hop {
            NextHop::Unreachable => Err(DropReason::NoRoute),
            NextHop::Local if ingress == Port::Local => Err(DropReason::NoRoute),
            NextHop::Local if header.len > self.local_mtu => Err(DropReason::TooBig),
            NextHop::Local => Ok(Port::Local),
            NextHop::Link(link) => {
                let entry = self.fib.link(link).ok_or(DropReason::LinkDown)?;
                match entry.policy {
                    LinkPolicy::Closed => Err(DropReason::NotAdmitted),
                    _ if header.len > entry.mtu => Err(DropReason::TooBig),
                    LinkPolicy::Mesh | LinkPolicy::Leaf(_) => Ok(Port::Link(link)),
                    LinkPolicy::Paced | LinkPolicy::Exhausted => {
                        self.take_ration(link, header, packet).map(|()| Port::Link(link))
                    }
                }
            }
        }
    }

    /// Whether this is the address of a leaf that the own side leads to the Internet.
    fn leads_out(&self, to: Ipv6Addr) -> bool {
        matches!(self.fib.lookup(to), Some(NextHop::Link(link)) if self.fib.leads_out(link))
    }

    /// Nobody who pays nothing is carried at our expense.
    fn check_standing(&self, ingress: Port, next_hop: NextHop, to: Ipv6Addr) -> Result<(), DropReason> {
        let Port::Link(from) = ingress else { return Ok(()) };
        let onwards = match next_hop {
            NextHop::Link(link) => self.fib.standing(link),
            NextHop::Local | NextHop::Unreachable => Standing::Partner,
        };
        let allowed = match (self.fib.standing(from), onwards) {
            // What we pay for is not carried on to somebody we pay, nor back.
            (Standing::Guest | Standing::Provider, Standing::Provider) | (Standing::Provider, Standing::Guest) => false,
            (Standing::Guest, Standing::Guest | Standing::Partner) => !self.fib.is_by_default(to),
            (Standing::Provider | Standing::Partner, _) => true,
            // Whatever they may do is with what is open to all.
            (Standing::Visitor(_), _) | (Standing::Guest, Standing::Visitor(_)) => true,
        };
        if allowed { Ok(()) } else { Err(DropReason::AtOurExpense) }
    }

    /// Who is no member speaks with what is open to all, from its own address and by its ration, and is told of errors. What is
    /// open may also be reached through it, where no other way is known.
    fn check_visitors(&self, from: Port, to: Port, header: &Header, packet: &[u8]) -> Result<(), DropReason> {
        let visitor = |port| match port {
            Port::Link(link) => match self.fib.standing(link) {
                Standing::Visitor(own) => Some((link, own)),
                Standing::Partner | Standing::Provider | Standing::Guest => None,
            },
            Port::Local => None,
        };
        let [is_answer, is_question] = self.speaks_with_what_is_open(header, packet);
        for (link, own, comes) in visitor(from)
            .map(|(link, own)| (link, own, true))
            .into_iter()
            .chain(visitor(to).map(|(link, own)| (link, own, false)))
        {
            let may = if comes {
                let through = || self.fib.lookup(header.source) == Some(NextHop::Link(link));
                is_question && own.contains(header.source) || is_answer && through()
            } else {
                let is_its = own.contains(header.destination);
                is_its && (is_answer || packet::is_icmp_error(packet)) || is_question
            };
            if !may {
                return Err(DropReason::NotAMember);
            }
            self.take(link, Ration::Any, header)?;
        }
        Ok(())
    }

    /// Whether it comes from what is open to all, and whether it goes there.
    fn speaks_with_what_is_open(&self, header: &Header, packet: &[u8]) -> [bool; 2] {
        let (source, destination) = packet::tcp_ports(packet).unzip();
        let open = |address, port: Option<u16>| port.is_some_and(|port| self.fib.is_open((address, port)));
        [open(header.source, source), open(header.destination, destination)]
    }

    /// What is open to all has a ration of its own: tokens are locked there that restore the credit which something else has
    /// used up, and uses up again before them.
    fn take_ration(&self, link: LinkId, header: &Header, packet: &[u8]) -> Result<(), DropReason> {
        let open = self.speaks_with_what_is_open(header, packet).contains(&true);
        if open && self.take(link, Ration::Open, header).is_ok() {
            Ok(())
        } else {
            self.take(link, Ration::Any, header)
        }
    }

    fn take(&self, link: LinkId, of: Ration, header: &Header) -> Result<(), DropReason> {
        if self.meters.take_ration(link, of, header.len) { Ok(()) } else { Err(DropReason::Unpaid) }
    }

    /// The ICMPv6 error about a dropped packet, with the port its sender is reached by.
    fn answer(&mut self, now: Instant, ingress: Port, packet: &[u8], reason: DropReason) -> Option<(Port, Vec<u8>)> {
        use DropReason::{AtOurExpense, HopLimit, NoRoute, NotAMember, TooBig};
        if !matches!(reason, NoRoute | AtOurExpense | NotAMember | HopLimit | TooBig) {
            return None;
        }
        let header = packet::parse(packet).ok()?;
        let back = match self.fib.lookup(header.source)? {
            NextHop::Unreachable => return None,
            NextHop::Local => Port::Local,
            NextHop::Link(link) => match self.fib.link(link)?.policy {
                LinkPolicy::Mesh | LinkPolicy::Leaf(_) | LinkPolicy::Paced => Port::Link(link),
                LinkPolicy::Closed | LinkPolicy::Exhausted => return None,
            },
        };
        let mtu = match self.fib.lookup(header.destination) {
            Some(NextHop::Link(link)) => self.fib.link(link).map_or(self.local_mtu, |entry| entry.mtu),
            Some(NextHop::Local | NextHop::Unreachable) | None => self.local_mtu,
        };
        let allowed = || self.errors.take(now, ingress, reason);
        icmp::answer(allowed, self.address, &header, packet, reason, mtu).map(|error| (back, error))
    }
}

/// Whether it is an address outside of all meshes, and of other networks that are nobody's on the Internet.
fn is_outside(address: Ipv6Addr) -> bool {
    !address.is_unique_local()
}

/// Whether it is one machine's address, and of use beyond one network.
fn is_routable(address: Ipv4Addr) -> bool {
    let nobody = address.octets()[0] == 0 || address.octets()[0] >= 224;
    !(nobody || address.is_loopback() || address.is_link_local())
}

/// What was marked as congested and cannot say so is dropped, but for what keeps the mesh together.
fn spare_control(decided: (Verdict, usize)) -> Result<(Verdict, usize), DropReason> {
    match decided.0 {
        Verdict::Control(_) => Ok(decided),
        Verdict::Forward(_) | Verdict::Drop(_) => Err(DropReason::Congestion),
    }
}

/// Few: a batch has one ingress, and mostly one flow.
fn note_egress(egresses: &mut Vec<Port>, verdict: Verdict) {
    if let Verdict::Forward(port) = verdict
        && !egresses.contains(&port)
    {
        egresses.push(port);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use babel::Prefix;
    use metering::units::Bytes;
    use smoltcp::wire::{Icmpv6Message, Icmpv6Packet, Ipv6Packet};

    use super::super::fib::{FibBuilder, LinkEntry};
    use super::*;

    const A: LinkId = LinkId(0);
    const B: LinkId = LinkId(1);
    const LEAF: LinkId = LinkId(2);

    fn address(text: &str) -> Ipv6Addr {
        text.parse().expect("address")
    }

    fn prefix(text: &str, len: u8) -> Prefix {
        Prefix::new(address(text), len).expect("prefix")
    }

    fn entry(policy: LinkPolicy) -> Option<LinkEntry> {
        Some(LinkEntry { policy, standing: Standing::Partner, mtu: 1420 })
    }

    /// We are `fd01::1`; `fd0a::/48` is over A, `fd0b::/48` over B, and a leaf has `fd01:0:0:9::/64`.
    fn datapath(a: LinkPolicy) -> Datapath {
        let leaf = prefix("fd01:0:0:9::", 64);
        let links = vec![entry(a), entry(LinkPolicy::Mesh), entry(LinkPolicy::Leaf(vec![leaf]))];
        let fib = FibBuilder::default()
            .own(prefix("fd01::", 48))
            .route(prefix("fd0a::", 48), A)
            .route(prefix("fd0b::", 48), B)
            .route(leaf, LEAF)
            .build(links);
        let now = Instant::now();
        let mut datapath = Datapath::new(address("fd01::1"), 1420, Arc::default(), Arc::default(), now);
        datapath.set_fib(Arc::new(fib));
        datapath
    }

    fn ip(source: &str, destination: &str, hop_limit: u8, len: usize) -> Vec<u8> {
        let mut packet = packet::control_packet(address(source), address(destination), 9, &vec![7; len - 48]);
        packet[7] = hop_limit;
        packet
    }

    type Answers = Vec<(Port, Vec<u8>)>;

    fn run(datapath: &mut Datapath, ingress: Port, packet: &[u8]) -> (Verdict, Vec<u8>, Answers) {
        let mut batch = Batch::new(4, 2048);
        assert!(batch.push(packet));
        datapath.handle_batch(Instant::now(), ingress, &mut batch);
        let answers = batch.answers().map(|(port, bytes)| (port, bytes.to_vec())).collect();
        let (verdict, bytes) = batch.packets().next().expect("one packet");
        (verdict, bytes.to_vec(), answers)
    }

    #[test]
    fn relayed_packet_loses_a_hop_and_is_metered() {
        let mut node = datapath(LinkPolicy::Mesh);
        let (verdict, bytes, _) = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd0b::1", 64, 1420));
        assert_eq!(verdict, Verdict::Forward(Port::Link(B)));
        assert_eq!(bytes[7], 63);
        node.count_sent(B, Tally::of(bytes.len()));
        let billed = Bytes::new(32 + 16 * 89);
        assert_eq!(node.meters.read(A).received, billed);
        assert_eq!(node.meters.read(B).sent, billed);
    }

    /// TCP from one port to another.
    fn tcp(source: (&str, u16), to: (&str, u16)) -> Vec<u8> {
        let mut packet = ip(source.0, to.0, 64, 100);
        packet[6] = 6;
        packet[40..42].copy_from_slice(&source.1.to_be_bytes());
        packet[42..44].copy_from_slice(&to.1.to_be_bytes());
        packet
    }

    #[test]
    fn who_is_no_member_speaks_with_the_ledger_alone() {
        const VISITOR: LinkId = LinkId(0);
        const MEMBER: LinkId = LinkId(1);
        let link = |standing| Some(LinkEntry { policy: LinkPolicy::Mesh, standing, mtu: 1420 });
        let fib = |ledger| {
            FibBuilder::default()
                .open(&[(address("fd0b::7"), 8443)])
                .own(prefix("fd01::", 48))
                .route(prefix("fd0a::", 48), VISITOR)
                .route(prefix("fd0b::", 48), ledger)
                .build(vec![link(Standing::Visitor(prefix("fd0a::", 48))), link(Standing::Partner)])
        };
        let meters: Arc<Meters> = Arc::default();
        let mut node = Datapath::new(address("fd01::1"), 1420, Arc::clone(&meters), Arc::default(), Instant::now());
        node.set_fib(Arc::new(fib(MEMBER)));
        meters.add_ration(VISITOR, Ration::Any, Bytes::new(5000), Bytes::new(5000));
        let (visitor, member) = (Port::Link(VISITOR), Port::Link(MEMBER));
        let (asks, answer) = (tcp(("fd0a::1", 4000), ("fd0b::7", 8443)), tcp(("fd0b::7", 8443), ("fd0a::1", 4000)));
        assert_eq!(run(&mut node, visitor, &asks).0, Verdict::Forward(member));
        assert_eq!(run(&mut node, member, &answer).0, Verdict::Forward(visitor));
        let error = |next: u8, kind: u8| {
            let mut packet = ip("fd0b::8", "fd0a::1", 64, 100);
            (packet[6], packet[40]) = (next, kind);
            packet
        };
        assert_eq!(run(&mut node, member, &error(58, 2)).0, Verdict::Forward(visitor), "errors pass");
        for (from, packet, why) in [
            (visitor, tcp(("fd0a::1", 4000), ("fd0b::7", 22)), "another port"),
            (visitor, tcp(("fd0a::1", 4000), ("fd0b::8", 8443)), "another address"),
            (visitor, tcp(("fd0a::1", 4000), ("fd01::1", 8443)), "ourselves"),
            (visitor, tcp(("fd0c::1", 4000), ("fd0b::7", 8443)), "whoever it is, in another's name"),
            (visitor, answer.clone(), "the ledger's name"),
            (visitor, ip("fd0a::1", "fd0b::7", 64, 100), "UDP"),
            (member, tcp(("fd0b::7", 22), ("fd0a::1", 4000)), "the ledger's other ports"),
            (member, tcp(("fd0b::8", 8443), ("fd0a::1", 4000)), "other members"),
            (member, error(58, 128), "an echo request"),
            (member, error(47, 2), "what is no ICMPv6"),
            (Port::Local, tcp(("fd01::1", 8443), ("fd0a::1", 4000)), "our own side"),
        ] {
            let (was, _, answers) = run(&mut node, from, &packet);
            assert_eq!(was, Verdict::Drop(DropReason::NotAMember), "{why}");
            assert!(answers.iter().all(|(_, error)| (error[40], error[41]) == (1, 1)), "administratively prohibited");
        }
        let spent = (0..).take_while(|_| run(&mut node, visitor, &asks).0 == Verdict::Forward(member)).count();
        assert_eq!(spent, (5000 - 3 * 144) / 144, "by its ration alone");
        assert_eq!(run(&mut node, visitor, &asks).0, Verdict::Drop(DropReason::Unpaid));

        // Where the only way to the ledger leads through it.
        node.set_fib(Arc::new(fib(VISITOR)));
        meters.add_ration(VISITOR, Ration::Any, Bytes::new(5000), Bytes::new(5000));
        let ours = tcp(("fd01::1", 4000), ("fd0b::7", 8443));
        assert_eq!(run(&mut node, Port::Local, &ours).0, Verdict::Forward(visitor));
        let back = tcp(("fd0b::7", 8443), ("fd01::1", 4000));
        assert_eq!(run(&mut node, visitor, &back).0, Verdict::Forward(Port::Local));
    }

    #[test]
    fn who_pays_nothing_is_carried_neither_to_nor_from_whom_we_pay_nor_out_of_the_mesh() {
        const GUEST: LinkId = LinkId(0);
        const PAID: LinkId = LinkId(1);
        const CUSTOMER: LinkId = LinkId(2);
        let link = |standing| Some(LinkEntry { policy: LinkPolicy::Mesh, standing, mtu: 1420 });
        let links = vec![link(Standing::Guest), link(Standing::Provider), link(Standing::Partner)];
        let fib = FibBuilder::default()
            .own(prefix("fd01::", 48))
            .own(prefix("::", 0))
            .route(prefix("fd0a::", 48), GUEST)
            .route(prefix("fd0b::", 48), PAID)
            .route(prefix("fd0c::", 48), CUSTOMER);
        let mut node = Datapath::new(address("fd01::1"), 1420, Arc::default(), Arc::default(), Instant::now());
        node.set_fib(Arc::new(fib.build(links)));
        let mut verdict = |from, source, to| run(&mut node, Port::Link(from), &ip(source, to, 64, 100));
        let refused = Verdict::Drop(DropReason::AtOurExpense);
        for (from, source, to) in [
            (GUEST, "fd0a::1", "fd0b::1"),
            (PAID, "fd0b::1", "fd0a::1"),
            (GUEST, "fd0a::1", "2001:db8::1"),
            (PAID, "fd0b::1", "fd0b::2"),
        ] {
            let (was, _, answers) = verdict(from, source, to);
            assert_eq!(was, refused, "{source} to {to}");
            let [(port, error)] = &answers[..] else { panic!("{answers:?}") };
            assert_eq!(*port, Port::Link(from));
            assert_eq!((error[40], error[41]), (1, 1), "unreachable, administratively prohibited");
        }
        for (from, source, to, onwards) in [
            (GUEST, "fd0a::1", "fd0c::1", Port::Link(CUSTOMER)),
            (GUEST, "fd0a::1", "fd01::1", Port::Local),
            (CUSTOMER, "fd0c::1", "fd0b::1", Port::Link(PAID)),
            (PAID, "fd0b::1", "fd0c::1", Port::Link(CUSTOMER)),
            (CUSTOMER, "fd0c::1", "fd0a::1", Port::Link(GUEST)),
            (CUSTOMER, "fd0c::1", "2001:db8::1", Port::Local),
        ] {
            assert_eq!(verdict(from, source, to).0, Verdict::Forward(onwards), "{source} to {to}");
        }
    }

    #[test]
    fn delivery_and_sending_keep_the_hop_limit() {
        let mut node = datapath(LinkPolicy::Mesh);
        let (verdict, bytes, _) = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd01::5", 1, 100));
        assert_eq!((verdict, bytes[7]), (Verdict::Forward(Port::Local), 1));
        let (verdict, bytes, _) = run(&mut node, Port::Local, &ip("fd01::5", "fd0b::1", 64, 100));
        assert_eq!((verdict, bytes[7]), (Verdict::Forward(Port::Link(B)), 64));
    }

    #[test]
    fn what_our_kernel_sends_for_a_link_does_not_go_over_links() {
        let mut node = datapath(LinkPolicy::Mesh).with_link_ports(vec![51820, 443]);
        let from_port = |source, port| packet::control_packet(address(source), address("fd0b::1"), port, &[7; 60]);
        for port in [51820, 443] {
            let (verdict, ..) = run(&mut node, Port::Local, &from_port("fd01::1", port));
            assert_eq!(verdict, Verdict::Drop(DropReason::LinkInMesh));
        }
        let mut tcp = from_port("fd01::1", 443);
        tcp[6] = 6;
        for other in [from_port("fd01::1", 80), from_port("fd01::5", 51820), tcp] {
            assert_eq!(run(&mut node, Port::Local, &other).0, Verdict::Forward(Port::Link(B)));
        }
        let (relayed, ..) = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd0b::1", 9, 100));
        assert_eq!(relayed, Verdict::Forward(Port::Link(B)));
    }

    #[test]
    fn connections_between_here_and_the_mesh_ask_for_segments_that_fit() {
        let mut node = datapath(LinkPolicy::Mesh);
        let syn = |from: &str, to: &str| {
            let mut packet = ip(from, to, 64, 64);
            (packet[6], packet[52], packet[53]) = (6, 6 << 4, 2);
            packet[60..64].copy_from_slice(&[2, 4, 5, 0xa0]);
            packet
        };
        let mut asks = |ingress, from, to| run(&mut node, ingress, &syn(from, to)).1[62..64].to_vec();
        let (fits, asked) = (1360_u16.to_be_bytes(), 1440_u16.to_be_bytes());
        assert_eq!(asks(Port::Local, "fd01::5", "fd0b::1"), fits);
        assert_eq!(asks(Port::Link(A), "fd0a::1", "fd01::5"), fits);
        assert_eq!(asks(Port::Link(A), "fd0a::1", "fd0b::1"), asked, "what is relayed is others' business");
    }

    #[test]
    fn what_met_congestion_and_knows_no_marks_is_counted_and_dropped_but_for_control() {
        let mut node = datapath(LinkPolicy::Mesh);
        let mut batch = Batch::new(4, 2048);
        for to in ["fd0b::1", "ff02::1:6"] {
            let packet = ip(if to.starts_with("ff") { "fe80::1" } else { "fd0a::1" }, to, 64, 100);
            batch.spare()[..100].copy_from_slice(&packet);
            batch.commit_congested(100);
        }
        node.handle_batch(Instant::now(), Port::Link(A), &mut batch);
        let verdicts: Vec<_> = batch.packets().map(|(verdict, _)| verdict).collect();
        assert_eq!(verdicts, [Verdict::Drop(DropReason::Congestion), Verdict::Control(A)]);
        assert_eq!((batch.egresses().count(), node.drops.packets(DropReason::Congestion)), (0, 1));
        assert_eq!(node.meters.read(A).received_packets, 1);
    }

    #[test]
    fn hop_limit_one_is_answered_by_time_exceeded() {
        let mut node = datapath(LinkPolicy::Mesh);
        let (verdict, _, answers) = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd0b::1", 1, 100));
        assert_eq!(verdict, Verdict::Drop(DropReason::HopLimit));
        assert_icmp(&answers, Port::Link(A), Icmpv6Message::TimeExceeded);
    }

    #[test]
    fn no_neighbour_uses_up_the_errors_of_another_and_packet_too_big_has_its_own() {
        let mut node = datapath(LinkPolicy::Mesh);
        let now = Instant::now();
        let mut batch = Batch::new(64, 2048);
        let mut told = |ingress, packet: &[u8], times: usize| {
            let mut told = 0;
            for _ in 0..times {
                batch.clear();
                assert!(batch.push(packet));
                node.handle_batch(now, ingress, &mut batch);
                told += batch.answers().count();
            }
            told
        };
        let (nowhere, long) = (ip("fd0a::1", "fd0c::1", 9, 100), ip("fd0a::1", "fd0b::1", 9, 1500));
        assert_eq!(told(Port::Link(A), &nowhere, 300), 100);
        assert_eq!(told(Port::Link(A), &long, 300), 100);
        assert_eq!(told(Port::Link(B), &ip("fd0b::1", "fd0a::1", 9, 1500), 20), 20);
        assert_eq!(told(Port::Local, &ip("fd01::5", "fd0b::1", 9, 1500), 20), 20);
    }

    #[test]
    fn what_an_open_link_brought_is_metered_even_if_it_cannot_be_carried_on() {
        let mut node = datapath(LinkPolicy::Exhausted);
        let (verdict, ..) = run(&mut node, Port::Link(B), &ip("fd0b::1", "fd0a::1", 9, 100));
        assert_eq!(verdict, Verdict::Drop(DropReason::Unpaid));
        assert_eq!(node.meters.read(B).received, Bytes::new(32 + 112));
        let (verdict, ..) = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd0b::1", 9, 100));
        assert_eq!(verdict, Verdict::Drop(DropReason::Unpaid));
        assert_eq!(node.meters.read(A).received, Bytes::ZERO);
    }

    #[test]
    fn too_big_is_answered_with_the_mtu_and_no_route_with_unreachable() {
        let mut node = datapath(LinkPolicy::Mesh);
        let (verdict, _, answers) = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd0b::1", 9, 1421));
        assert_eq!(verdict, Verdict::Drop(DropReason::TooBig));
        let packet = assert_icmp(&answers, Port::Link(A), Icmpv6Message::PktTooBig);
        assert_eq!(Icmpv6Packet::new_checked(&packet[40..]).expect("icmp").pkt_too_big_mtu(), 1420);
        let (verdict, _, answers) = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd77::1", 9, 100));
        assert_eq!(verdict, Verdict::Drop(DropReason::NoRoute));
        assert_icmp(&answers, Port::Link(A), Icmpv6Message::DstUnreachable);
    }

    fn assert_icmp(answers: &[(Port, Vec<u8>)], port: Port, message: Icmpv6Message) -> Vec<u8> {
        let [(to, packet)] = answers else { panic!("one answer, got {answers:?}") };
        assert_eq!(*to, port);
        let ipv6 = Ipv6Packet::new_checked(&packet[..]).expect("ipv6");
        let icmp = Icmpv6Packet::new_checked(ipv6.payload()).expect("icmp");
        assert!(icmp.verify_checksum(&ipv6.src_addr(), &ipv6.dst_addr()));
        assert_eq!((icmp.msg_type(), ipv6.src_addr()), (message, address("fd01::1")));
        packet.clone()
    }

    #[test]
    fn no_error_answers_an_error_and_errors_are_limited() {
        let mut node = datapath(LinkPolicy::Mesh);
        let (_, _, answers) = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd77::1", 9, 100));
        let mut error = answers[0].1.clone();
        // The error about an error: sent back towards a place without a route.
        error[24..40].copy_from_slice(&address("fd77::2").octets());
        error[8..24].copy_from_slice(&address("fd0a::1").octets());
        let (_, _, answers) = run(&mut node, Port::Link(A), &error);
        assert!(answers.is_empty());
        let sent = (0..500).filter(|_| !run(&mut node, Port::Link(A), &ip("fd0a::1", "fd77::1", 9, 100)).2.is_empty());
        assert!((90..=200).contains(&sent.count()), "100 a second, and the test may cross one second's end");
    }

    #[test]
    fn spoofed_and_foreign_sources_are_dropped_by_name() {
        let mut node = datapath(LinkPolicy::Mesh);
        let mut verdict =
            |ingress, source: &str, destination: &str| run(&mut node, ingress, &ip(source, destination, 9, 100)).0;
        let dropped = Verdict::Drop;
        assert_eq!(verdict(Port::Link(A), "fd01::5", "fd0b::1"), dropped(DropReason::SourceSpoofed));
        assert_eq!(verdict(Port::Link(A), "ff02::1", "fd0b::1"), dropped(DropReason::SourceNotRoutable));
        assert_eq!(verdict(Port::Link(LEAF), "fd0a::1", "fd0b::1"), dropped(DropReason::SourceNotAllowed));
        assert_eq!(verdict(Port::Link(LEAF), "fd01:0:0:9::2", "fd0b::1"), Verdict::Forward(Port::Link(B)));
        assert_eq!(verdict(Port::Local, "2001:db8::1", "fd0b::1"), dropped(DropReason::SourceNotOurs));
        assert_eq!(verdict(Port::Local, "fd01::1", "fd01::2"), dropped(DropReason::NoRoute));
        assert_eq!(verdict(Port::Link(A), "fd0a::1", "ff0e::1"), dropped(DropReason::DestinationNotRoutable));
        assert_eq!(verdict(Port::Link(LinkId(7)), "fd0a::1", "fd0b::1"), dropped(DropReason::LinkDown));
    }

    /// As [`datapath`], and the leaf is led to the Internet, with `10.9.0.1`; a default route leads over B.
    fn household() -> Datapath {
        let leaf = prefix("fd01:0:0:9::", 64);
        let links = vec![entry(LinkPolicy::Mesh), entry(LinkPolicy::Mesh), entry(LinkPolicy::Leaf(vec![leaf]))];
        let fib = FibBuilder::default()
            .own(prefix("fd01::", 48))
            .route(prefix("fd0a::", 48), A)
            .route(prefix("::", 0), B)
            .route(leaf, LEAF)
            .lead_out(Ipv4Addr::new(10, 9, 0, 1), LEAF)
            .lead_out(Ipv4Addr::new(10, 9, 0, 2), LinkId(3));
        let mut node = Datapath::new(address("fd01::1"), 1420, Arc::default(), Arc::default(), Instant::now());
        node.set_fib(Arc::new(fib.build(links)));
        node.with_link_ports(vec![51820])
    }

    /// UDP from this port.
    fn ipv4(source: &str, destination: &str, port: u16, len: usize) -> Vec<u8> {
        let parse = |text: &str| text.parse::<Ipv4Addr>().expect("address").octets();
        let mut packet = vec![7; len];
        packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0]);
        packet[2..4].copy_from_slice(&u16::try_from(len).expect("a length").to_be_bytes());
        packet[12..16].copy_from_slice(&parse(source));
        packet[16..20].copy_from_slice(&parse(destination));
        packet[20..22].copy_from_slice(&port.to_be_bytes());
        packet
    }

    #[test]
    fn what_a_leaf_sends_out_of_the_mesh_goes_to_the_own_side_and_answers_come_back() {
        let (leaf, ours) = (Port::Link(LEAF), Port::Local);
        let (a, far) = ("fd01:0:0:9::2", "2001:db8::1");
        let mut node = household();
        let mut verdict = |ingress, packet: &[u8]| run(&mut node, ingress, packet).0;
        let (out, back) = (Verdict::Forward(ours), Verdict::Forward(leaf));
        assert_eq!(verdict(leaf, &ip(a, far, 64, 100)), out, "not by the default route");
        assert_eq!(verdict(ours, &ip(far, a, 64, 100)), back);
        assert_eq!(verdict(leaf, &ip(a, "fd0a::1", 64, 100)), Verdict::Forward(Port::Link(A)), "the mesh is there");
        assert_eq!(verdict(leaf, &ipv4("10.9.0.1", "9.9.9.9", 9, 100)), out);
        assert_eq!(verdict(ours, &ipv4("9.9.9.9", "10.9.0.1", 9, 100)), back);
        assert_eq!(verdict(ours, &ipv4("192.168.1.1", "10.9.0.1", 9, 100)), back);
        let dropped = |reason| Verdict::Drop(reason);
        let far_to_mesh = ip(far, "fd0a::1", 64, 100);
        assert_eq!(verdict(ours, &far_to_mesh), dropped(DropReason::SourceNotOurs), "to a leaf alone");
        assert_eq!(verdict(ours, &ip("fc99::1", a, 64, 100)), dropped(DropReason::SourceNotOurs));
        assert_eq!(verdict(leaf, &ip("fd01:0:0:8::2", far, 64, 100)), dropped(DropReason::SourceNotAllowed));
        assert_eq!(verdict(Port::Link(A), &ip(far, a, 64, 100)), back, "what the mesh brings, as ever");
        assert_eq!(verdict(leaf, &ip(a, "fc99::1", 64, 100)), Verdict::Forward(Port::Link(B)), "as ever");
        assert_eq!(node.meters.read(LEAF).received_packets, 4);
    }

    #[test]
    fn ipv4_passes_between_a_leaf_and_the_own_side_alone() {
        let (leaf, ours) = (Port::Link(LEAF), Port::Local);
        let mut fragment = ipv4("9.9.9.9", "10.9.0.1", 51820, 100);
        fragment[7] = 9;
        let mut longer = ipv4("10.9.0.1", "9.9.9.9", 9, 100);
        longer[3] = 101;
        let mut node = household();
        assert_eq!(run(&mut node, ours, &fragment).0, Verdict::Forward(leaf), "those bytes are no port");
        for (ingress, packet, reason, why) in [
            (Port::Link(A), ipv4("9.9.9.9", "10.9.0.1", 9, 100), DropReason::NotIpv6, "of the mesh"),
            (Port::Link(A), ipv4("10.9.0.1", "9.9.9.9", 9, 100), DropReason::NotIpv6, "in a leaf's name"),
            (leaf, ipv4("10.9.0.2", "9.9.9.9", 9, 100), DropReason::SourceNotAllowed, "in another leaf's name"),
            (leaf, ipv4("192.168.1.7", "9.9.9.9", 9, 100), DropReason::SourceNotAllowed, "in the LAN's name"),
            (leaf, ipv4("127.0.0.1", "9.9.9.9", 9, 100), DropReason::SourceNotRoutable, "in our own name"),
            (leaf, ipv4("10.9.0.1", "10.9.0.2", 9, 100), DropReason::DestinationNotRoutable, "to another leaf"),
            (leaf, ipv4("10.9.0.1", "127.0.0.1", 9, 100), DropReason::DestinationNotRoutable, "to our own programs"),
            (leaf, ipv4("10.9.0.1", "169.254.1.1", 9, 100), DropReason::DestinationNotRoutable, "to one network"),
            (leaf, ipv4("10.9.0.1", "224.0.0.251", 9, 100), DropReason::DestinationNotRoutable, "to all"),
            (leaf, longer, DropReason::Malformed, "shorter than it says"),
            (leaf, vec![0x45; 19], DropReason::Malformed, "shorter than a header"),
            (leaf, vec![0x44; 40], DropReason::Malformed, "a header that ends before its end"),
            (leaf, ipv4("10.9.0.1", "9.9.9.9", 9, 1421), DropReason::TooBig, "longer than our side takes"),
            (ours, ipv4("9.9.9.9", "10.9.0.1", 9, 1421), DropReason::TooBig, "longer than the link takes"),
            (ours, ipv4("9.9.9.9", "10.9.0.3", 9, 100), DropReason::NotIpv6, "to nobody"),
            (ours, ipv4("10.9.0.2", "10.9.0.1", 9, 100), DropReason::SourceNotOurs, "of another leaf"),
            (ours, ipv4("192.0.2.1", "10.9.0.1", 51820, 100), DropReason::LinkInMesh, "of a link"),
            (ours, ipv4("9.9.9.9", "10.9.0.2", 9, 100), DropReason::LinkDown, "to a leaf that is away"),
        ] {
            let before = node.drops.packets(reason);
            let (was, _, answers) = run(&mut node, ingress, &packet);
            assert_eq!((was, answers.len()), (Verdict::Drop(reason), 0), "{why}");
            assert_eq!(node.drops.packets(reason), before + 1, "{why}");
        }
        // A leaf that is not led out sends no IPv4, and by IPv6 what it may send as ever.
        let mut other = datapath(LinkPolicy::Mesh);
        let refused = run(&mut other, leaf, &ipv4("10.9.0.1", "9.9.9.9", 9, 100)).0;
        assert_eq!(refused, Verdict::Drop(DropReason::NotIpv6));
        let refused = run(&mut other, leaf, &ip("fd01:0:0:9::2", "2001:db8::1", 64, 100)).0;
        assert_eq!(refused, Verdict::Drop(DropReason::NoRoute));
        let refused = run(&mut other, ours, &ip("2001:db8::1", "fd01:0:0:9::2", 64, 100)).0;
        assert_eq!(refused, Verdict::Drop(DropReason::SourceNotOurs));
        // Nor one whose link is closed.
        let mut node = household();
        let closed = vec![entry(LinkPolicy::Mesh), entry(LinkPolicy::Mesh), entry(LinkPolicy::Closed)];
        node.set_fib(Arc::new(node.fib().with_links(closed)));
        for (ingress, packet) in
            [(leaf, ipv4("10.9.0.1", "9.9.9.9", 9, 100)), (ours, ipv4("9.9.9.9", "10.9.0.1", 9, 100))]
        {
            assert_eq!(run(&mut node, ingress, &packet).0, Verdict::Drop(DropReason::NotAdmitted));
        }
    }

    #[test]
    fn closed_and_exhausted_links_pass_control_only() {
        for (policy, reason) in
            [(LinkPolicy::Closed, DropReason::NotAdmitted), (LinkPolicy::Exhausted, DropReason::Unpaid)]
        {
            let mut node = datapath(policy);
            let towards = run(&mut node, Port::Link(B), &ip("fd0b::1", "fd0a::1", 9, 100)).0;
            let from = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd0b::1", 9, 100)).0;
            let control = run(&mut node, Port::Link(A), &ip("fe80::1", "ff02::1:6", 1, 100)).0;
            assert_eq!((towards, from), (Verdict::Drop(reason), Verdict::Drop(reason)));
            assert_eq!(control, Verdict::Control(A));
            assert_eq!(node.meters.read(A).received, Bytes::ZERO);
        }
    }

    #[test]
    fn where_credit_is_short_both_ways_share_a_ration_and_only_what_passes_is_counted() {
        for policy in [LinkPolicy::Paced, LinkPolicy::Exhausted] {
            let mut node = datapath(policy);
            let billed = metering::billed_length(100);
            node.meters.add_ration(A, Ration::Any, billed.saturating_add(billed), Bytes::new(1 << 20));
            let towards = run(&mut node, Port::Link(B), &ip("fd0b::1", "fd0a::1", 9, 100)).0;
            let from = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd0b::1", 9, 100)).0;
            let spoofed = run(&mut node, Port::Link(A), &ip("fd01::5", "fd0b::1", 9, 100)).0;
            let third = run(&mut node, Port::Link(A), &ip("fd0a::1", "fd0b::1", 9, 100)).0;
            assert_eq!((towards, from), (Verdict::Forward(Port::Link(A)), Verdict::Forward(Port::Link(B))));
            assert_eq!(spoofed, Verdict::Drop(DropReason::SourceSpoofed));
            assert_eq!(third, Verdict::Drop(DropReason::Unpaid));
            assert_eq!(node.meters.read(A).received, billed);
        }
    }

    #[test]
    fn the_ledger_is_reached_where_all_else_has_used_up_what_credit_there_is() {
        for policy in [LinkPolicy::Paced, LinkPolicy::Exhausted] {
            let mut node = datapath(LinkPolicy::Mesh);
            let links = vec![entry(policy), entry(LinkPolicy::Mesh)];
            let open = FibBuilder::default().open(&[(address("fd0b::7"), 8443)]).own(prefix("fd01::", 48));
            let fib = open.route(prefix("fd0a::", 48), A).route(prefix("fd0b::", 48), B).build(links);
            node.set_fib(Arc::new(fib));
            node.meters.add_ration(A, Ration::Open, Bytes::new(2 * 144), Bytes::new(1000));
            let (poor, ledger) = (Port::Link(A), Port::Link(B));
            let (asks, answer) = (tcp(("fd0a::1", 4000), ("fd0b::7", 8443)), tcp(("fd0b::7", 8443), ("fd0a::1", 4000)));
            let unpaid = Verdict::Drop(DropReason::Unpaid);
            assert_eq!(run(&mut node, poor, &tcp(("fd0a::1", 4000), ("fd0b::7", 80))).0, unpaid, "what is not open");
            assert_eq!(run(&mut node, poor, &asks).0, Verdict::Forward(ledger));
            assert_eq!(run(&mut node, ledger, &answer).0, Verdict::Forward(poor));
            assert_eq!(node.meters.read(A).received, Bytes::new(144), "it is counted, as all else");
            assert_eq!(run(&mut node, poor, &asks).0, unpaid, "it has an end, too");
            node.meters.add_ration(A, Ration::Any, Bytes::new(144), Bytes::new(1000));
            assert_eq!(run(&mut node, poor, &asks).0, Verdict::Forward(ledger), "and its part of the rest");
        }
    }

    #[test]
    fn a_ration_grows_to_its_limit_and_no_further() {
        let meters = Meters::default();
        for _ in 0..100 {
            meters.add_ration(A, Ration::Any, Bytes::new(100), Bytes::new(250));
        }
        // 64 bytes are billed 96.
        assert_eq!((0..10).filter(|_| meters.take_ration(A, Ration::Any, 64)).count(), 2);
        assert!(!meters.take_ration(LinkId(u32::MAX), Ration::Any, 64));
    }

    #[test]
    fn random_bytes_never_panic_and_are_all_accounted_for() {
        let mut node = household();
        let mut rng = fastrand::Rng::with_seed(3);
        let mut batch = Batch::new(32, 2048);
        for _ in 0..2_000 {
            batch.clear();
            while !batch.is_full() {
                let len = rng.usize(0..200);
                let mut packet: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
                if let (Some(first), true) = (packet.first_mut(), rng.bool()) {
                    *first = if rng.bool() { 0x60 } else { 0x40 | rng.u8(..16) };
                }
                if let Some(addresses) = packet.get_mut(12..20).filter(|_| rng.bool()) {
                    addresses.copy_from_slice(&[10, 9, 0, 1, 10, 9, 0, 1]);
                }
                assert!(batch.push(&packet));
            }
            let before = node.drops.total();
            let ingress = [Port::Link(A), Port::Link(LEAF), Port::Local][rng.usize(..3)];
            node.handle_batch(Instant::now(), ingress, &mut batch);
            let dropped = batch.packets().filter(|(verdict, _)| matches!(verdict, Verdict::Drop(_))).count();
            assert_eq!(node.drops.total() - before, dropped as u64);
        }
    }
}
