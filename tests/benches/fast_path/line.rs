//! Machines in a line, each joined to the next by a cable, with one contender's program on each.

use crate::contender::{Contender, Kind};
use crate::lab::{Host, Lab, secs};
use crate::ledger::Ledger;
use crate::load::{Carried, Tcp};
use crate::processes::{Process, machine_cpu_s};
use crate::router::{Joint, PAYS, PEERS, Router, join};
use crate::traffic::reachable;
use crate::wireguard::{self, Device};
use crate::yggdrasil::{self, Yggdrasil};

/// What the kernel may do for the programs on the cables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offloads {
    /// Trains of segments cross a cable whole.
    On,
    /// The kernel cuts every train before the cable, as it does for a network card that cannot, and puts none together
    /// behind it.
    Off,
}

/// A line that carries traffic from its first to its last machine.
pub(crate) struct Line {
    pub(crate) nodes: Vec<Node>,
    /// The last field, so that the programs end before their machines go.
    pub(crate) lab: Lab,
}

/// A machine of the line.
pub(crate) struct Node {
    pub(crate) host: Host,
    /// Its address in the overlay.
    pub(crate) address: String,
    pub(crate) process: Process,
    daemon: Daemon,
}

/// What runs on a machine.
pub(crate) enum Daemon {
    Router(Box<Router>),
    WireGuard(Device),
    Yggdrasil(Yggdrasil),
}

/// Names of routers, as many as a measurement may need.
pub(crate) const NAMES: [&str; 25] = [
    "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "r16", "r17",
    "r18", "r19", "r20", "r21", "r22", "r23", "r24", "r25",
];

impl Line {
    /// Builds a line of so many machines and waits until the first one reaches all others.
    pub(crate) fn new(contender: &Contender, machines: usize) -> Self {
        let mut lab = open();
        let nodes = match contender.kind {
            Kind::Waybill => routers(&mut lab, contender, machines, PEERS, None),
            Kind::WireGuard { options } => wireguard::line(&mut lab, contender, options, machines),
            Kind::Yggdrasil => yggdrasil::line(&mut lab, contender, machines),
        };
        Self { nodes, lab }.awaited()
    }

    /// A line of routers joined so.
    pub(crate) fn joined(contender: &Contender, machines: usize, joint: Joint) -> Self {
        let mut lab = open();
        let nodes = routers(&mut lab, contender, machines, joint, None);
        Self { nodes, lab }.awaited()
    }

    /// A line of routers each of which pays the next one for what it carries.
    pub(crate) fn paid(contender: &Contender, machines: usize) -> Self {
        let mut lab = open();
        let ledger = Ledger::create(&lab);
        let nodes = routers(&mut lab, contender, machines, PAYS, Some(&ledger));
        Self { nodes, lab }.awaited()
    }

    /// A line of machines that are there already.
    pub(crate) fn of(lab: Lab, nodes: Vec<Node>) -> Self {
        Self { nodes, lab }.awaited()
    }

    fn awaited(self) -> Self {
        for node in &self.nodes[1..] {
            reachable(&self.first().host, &node.address, secs(60));
        }
        self
    }

    pub(crate) fn first(&self) -> &Node {
        &self.nodes[0]
    }

    pub(crate) fn last(&self) -> &Node {
        &self.nodes[self.nodes.len() - 1]
    }

    /// The machines between the ends.
    pub(crate) fn relays(&self) -> std::ops::Range<usize> {
        1..self.nodes.len() - 1
    }

    /// Takes away what the kernel does for the programs on the cables.
    ///
    /// # Panics
    /// When the cables keep it.
    pub(crate) fn remove_offloads(&self) {
        let off = "set -e; for path in /sys/class/net/cable*; do cable=${path##*/}; \
                   ethtool -K $cable tso off gso off gro off tx-udp-segmentation off >&2; ethtool -k $cable; done";
        for node in &self.nodes {
            let features = node.host.must(&["sh", "-c", off]);
            for feature in ["generic-segmentation-offload", "generic-receive-offload", "tx-udp-segmentation"] {
                let states = features.lines().filter_map(|line| line.trim().strip_prefix(feature)?.strip_prefix(": "));
                let states: Vec<&str> = states.collect();
                assert!(!states.is_empty() && states.iter().all(|state| *state == "off"), "{feature}: {states:?}");
            }
        }
    }

    /// Runs a TCP load and accounts for what it cost.
    pub(crate) fn carry(&self, tcp: &Tcp) -> Carried {
        let cpu_s = || self.nodes.iter().map(|node| node.process.cpu_s()).collect::<Vec<f64>>();
        let (nodes_before, machine_before) = (cpu_s(), machine_cpu_s());
        let received = tcp.run(&self.lab, self.first(), self.last());
        let spent = cpu_s().iter().zip(&nodes_before).map(|(after, before)| after - before).collect();
        Carried { received, nodes_cpu_s: spent, machine_cpu_s: machine_cpu_s() - machine_before }
    }
}

impl Node {
    pub(crate) fn new(contender: &Contender, host: Host, address: String, mut daemon: Daemon) -> Self {
        let pid = match &mut daemon {
            Daemon::Router(router) => router.process().pid(),
            Daemon::WireGuard(device) => device.pid(),
            Daemon::Yggdrasil(yggdrasil) => yggdrasil.pid(),
        };
        Self { host, address, process: Process::new(pid, &contender.program), daemon }
    }

    /// # Panics
    /// When another contender runs here.
    pub(crate) fn router(&self) -> &Router {
        let Daemon::Router(router) = &self.daemon else { panic!("no router of ours runs here") };
        router
    }
}

/// A lab for one sample.
pub(crate) fn open() -> Lab {
    Lab::open("fast_path", crate::TOOLS).expect("the tools were there when the bench began")
}

fn routers(lab: &mut Lab, contender: &Contender, count: usize, joint: Joint, ledger: Option<&Ledger>) -> Vec<Node> {
    let mut routers: Vec<Router> = NAMES[..count].iter().map(|name| router(lab, contender, name)).collect();
    if let Some(ledger) = ledger {
        for (at, router) in routers.iter_mut().enumerate() {
            // Cheap enough for the longest sample; the first one carries for nobody.
            router.join_community(ledger, if at == 0 { "0" } else { "0.01" });
            ledger.mint(router, 20);
        }
    }
    for at in 1..count {
        let (left, right) = routers.split_at_mut(at);
        join(lab, &mut left[at - 1], &mut right[0], joint);
    }
    routers.into_iter().map(|router| started(contender, router)).collect()
}

/// A router that runs this contender's program.
pub(crate) fn router(lab: &mut Lab, contender: &Contender, name: &'static str) -> Router {
    let mut router = Router::new(lab, name);
    router.waybill = contender.program.clone();
    router
}

pub(crate) fn started(contender: &Contender, mut router: Router) -> Node {
    router.start();
    let (host, address) = (router.host.clone(), router.address.clone());
    Node::new(contender, host, address, Daemon::Router(Box::new(router)))
}
