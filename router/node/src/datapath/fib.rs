//! The forwarding table: an immutable snapshot of what the control side decided.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use babel::Prefix;

use super::LinkId;

/// The addresses of all meshes (DESIGN section 3): `fd00::/8`, unique local addresses chosen by hash (RFC 4193).
const MESH: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0);
const MESH_LEN: u8 = 8;

/// Where packets of a route go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// Over a link.
    Link(LinkId),
    /// To this node's own side.
    Local,
    /// Nowhere: the prefix was retracted, and a shorter one must not catch its packets (RFC 8966, section 3.5.4).
    Unreachable,
}

/// What may pass on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkPolicy {
    /// A neighbour running Waybill, admitted: it relays for others, so any routable source but ours is allowed.
    Mesh,
    /// A leaf: only sources inside these prefixes are its own.
    Leaf(Vec<Prefix>),
    /// Not admitted: control packets only.
    Closed,
    /// Admitted, and the window of credit is nearly full: as [`LinkPolicy::Mesh`], while the link's ration lasts.
    Paced,
    /// Admitted, but the window of credit is full: as [`LinkPolicy::Paced`], with a ration for a lifeline, and little that
    /// comes is so much as opened.
    Exhausted,
}

/// A port of TCP at an address.
pub type Service = (Ipv6Addr, u16);

/// What a neighbour is to us, where that decides between which links packets pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// Whatever it sends, or is sent, passes.
    #[default]
    Partner,
    /// We pay it for all that passes the link.
    Provider,
    /// It pays nothing, and nothing is carried for it at our expense: not to a provider, not from one, and not out of
    /// the mesh.
    Guest,
    /// It is no member of the community: only the ledger is open to it, so that it can become one. Its addresses are in this
    /// prefix.
    Visitor(Prefix),
}

/// One link, as the datapath sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEntry {
    /// What may pass.
    pub policy: LinkPolicy,
    /// What the neighbour is to us.
    pub standing: Standing,
    /// The largest IP packet the link carries, bytes.
    pub mtu: usize,
}

/// Longest-prefix routes, one hash table per prefix length, longest first.
#[derive(Debug, Default)]
struct Routes(Vec<(u8, HashMap<u128, NextHop>)>);

impl Routes {
    fn lookup(&self, address: Ipv6Addr) -> Option<(u8, NextHop)> {
        let bits = address.to_bits();
        self.0.iter().find_map(|(len, table)| Some((*len, *table.get(&(bits & mask(*len)))?)))
    }
}

/// The network mask of a prefix length of 0 to 128.
fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

/// An immutable snapshot: routes, links and this node's own prefixes. Cloning shares the routes.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    routes: Arc<Routes>,
    listing: Arc<BTreeMap<Prefix, NextHop>>,
    own: Arc<Vec<Prefix>>,
    open: Arc<Vec<Service>>,
    led_out: Arc<Vec<(Ipv4Addr, LinkId)>>,
    links: Vec<Option<LinkEntry>>,
    visited: bool,
}

impl Fib {
    /// The next hop of the longest matching prefix.
    pub fn lookup(&self, address: Ipv6Addr) -> Option<NextHop> {
        self.routes.lookup(address).map(|(_, next_hop)| next_hop)
    }

    /// The link's entry, if the control side knows the link.
    pub fn link(&self, link: LinkId) -> Option<&LinkEntry> {
        self.links.get(link.index())?.as_ref()
    }

    /// Whether the address belongs to a prefix this node itself announces.
    pub fn is_own(&self, address: Ipv6Addr) -> bool {
        self.own.iter().any(|prefix| prefix.contains(address))
    }

    /// Whether the address belongs to one of our prefixes other than a default route, which contains everybody.
    pub fn is_own_exclusively(&self, address: Ipv6Addr) -> bool {
        self.own.iter().any(|prefix| prefix.len() > 0 && prefix.contains(address))
    }

    /// Whether nothing but a default route leads there: out of the mesh.
    pub fn is_by_default(&self, address: Ipv6Addr) -> bool {
        self.routes.lookup(address).is_some_and(|(len, _)| len == 0)
    }

    /// Whether whoever is no member may speak with this port of TCP at this address.
    pub fn is_open(&self, service: Service) -> bool {
        self.open.contains(&service)
    }

    /// Whether any neighbour is no member.
    pub fn is_visited(&self) -> bool {
        self.visited
    }

    /// What the neighbour on a link is to us.
    pub fn standing(&self, link: LinkId) -> Standing {
        self.link(link).map_or(Standing::Partner, |entry| entry.standing)
    }

    /// Whether what the leaf on this link sends out of the mesh goes to the own side, which leads it to the Internet, and what
    /// comes from there goes to it.
    pub fn leads_out(&self, link: LinkId) -> bool {
        self.led_out.iter().any(|(_, other)| *other == link)
    }

    /// The link of the leaf with this IPv4 address.
    pub fn leaf_at(&self, address: Ipv4Addr) -> Option<LinkId> {
        self.led_out.iter().find(|(other, _)| *other == address).map(|(_, link)| *link)
    }

    /// The IPv4 addresses of leaves.
    pub fn leaves_ipv4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.led_out.iter().map(|(address, _)| *address)
    }

    /// Every route, in order of prefix.
    pub fn routes(&self) -> impl Iterator<Item = (Prefix, NextHop)> + '_ {
        self.listing.iter().map(|(prefix, next_hop)| (*prefix, *next_hop))
    }

    /// The same snapshot with other links.
    #[must_use]
    pub fn with_links(&self, links: Vec<Option<LinkEntry>>) -> Self {
        Self { visited: any_visitor(&links), links, ..self.clone() }
    }
}

fn any_visitor(links: &[Option<LinkEntry>]) -> bool {
    links.iter().flatten().any(|link| matches!(link.standing, Standing::Visitor(_)))
}

/// Collects routes for a new snapshot.
#[derive(Debug, Default)]
pub struct FibBuilder {
    routes: BTreeMap<Prefix, NextHop>,
    own: Vec<Prefix>,
    open: Vec<Service>,
    led_out: Vec<(Ipv4Addr, LinkId)>,
}

impl FibBuilder {
    /// What those who are no members may speak with.
    #[must_use]
    pub fn open(self, services: &[Service]) -> Self {
        Self { open: services.to_vec(), ..self }
    }

    /// A prefix this node announces: its packets go to the own side, unless a longer route says otherwise.
    #[must_use]
    pub fn own(mut self, prefix: Prefix) -> Self {
        self.own.push(prefix);
        self.routes.insert(prefix, NextHop::Local);
        self
    }

    /// A route over a link. A prefix of our own is never overruled by a route somebody announced.
    #[must_use]
    pub fn route(mut self, prefix: Prefix, link: LinkId) -> Self {
        self.routes.entry(prefix).or_insert(NextHop::Link(link));
        self
    }

    /// A leaf with an IPv4 address of its own behind this node, which the own side leads to the Internet.
    #[must_use]
    pub fn lead_out(mut self, address: Ipv4Addr, link: LinkId) -> Self {
        self.led_out.push((address, link));
        self
    }

    /// A prefix that has been lost.
    #[must_use]
    pub fn unreachable(mut self, prefix: Prefix) -> Self {
        self.routes.entry(prefix).or_insert(NextHop::Unreachable);
        self
    }

    /// The snapshot. A mesh address without a route of its own is nowhere: a default route leads out of the mesh.
    pub fn build(self, links: Vec<Option<LinkEntry>>) -> Fib {
        let mesh = Prefix::new(MESH, MESH_LEN);
        let this = mesh.into_iter().fold(self, Self::unreachable);
        this.snapshot(links)
    }

    fn snapshot(self, links: Vec<Option<LinkEntry>>) -> Fib {
        let mut tables: BTreeMap<u8, HashMap<u128, NextHop>> = BTreeMap::new();
        for (prefix, next_hop) in &self.routes {
            tables.entry(prefix.len()).or_default().insert(prefix.addr().to_bits(), *next_hop);
        }
        Fib {
            routes: Arc::new(Routes(tables.into_iter().rev().collect())),
            listing: Arc::new(self.routes),
            own: Arc::new(self.own),
            open: Arc::new(self.open),
            led_out: Arc::new(self.led_out),
            visited: any_visitor(&links),
            links,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str, len: u8) -> Prefix {
        Prefix::new(text.parse().expect("address"), len).expect("prefix length")
    }

    #[test]
    fn longest_prefix_wins_and_own_prefixes_are_not_overruled() {
        let fib = FibBuilder::default()
            .own(prefix("fd01::", 48))
            .route(prefix("fd01::", 48), LinkId(9))
            .route(prefix("fd01:0:0:7::", 64), LinkId(1))
            .route(prefix("::", 0), LinkId(2))
            .route(prefix("fd02::1", 128), LinkId(3))
            .build(Vec::new());
        let lookup = |text: &str| fib.lookup(text.parse().expect("address"));
        assert_eq!(lookup("fd01::1"), Some(NextHop::Local));
        assert_eq!(lookup("fd01:0:0:7::1"), Some(NextHop::Link(LinkId(1))));
        assert_eq!(lookup("2001:db8::1"), Some(NextHop::Link(LinkId(2))));
        assert_eq!(lookup("fd02::1"), Some(NextHop::Link(LinkId(3))));
        assert_eq!(lookup("fd02::2"), Some(NextHop::Unreachable), "the default route is not for the mesh");
        let empty = FibBuilder::default().build(Vec::new());
        assert_eq!(empty.lookup(Ipv6Addr::LOCALHOST), None);
    }

    #[test]
    fn lookup_agrees_with_a_linear_search() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..50 {
            let routes: Vec<(Prefix, LinkId)> = (0..40)
                .map(|id| {
                    let addr = Ipv6Addr::from_bits(rng.u128(..) & 0xff00_f000_0000_0000_0000_0000_0000_000f);
                    (Prefix::new(addr, rng.u8(0..=128)).expect("length"), LinkId(id))
                })
                .collect();
            let fib = routes.iter().fold(FibBuilder::default(), |fib, (p, id)| fib.route(*p, *id)).build(Vec::new());
            for _ in 0..200 {
                let address = Ipv6Addr::from_bits(rng.u128(..) & 0x7f00_f000_0000_0000_0000_0000_0000_000f);
                let longest = routes.iter().filter(|(p, _)| p.contains(address)).map(|(p, _)| p.len()).max();
                let expected = longest.and_then(|len| {
                    routes.iter().find(|(p, _)| p.len() == len && p.contains(address)).map(|(_, id)| NextHop::Link(*id))
                });
                assert_eq!(fib.lookup(address), expected, "{address}");
            }
        }
    }
}
