//! The thread that looks whether the kernel still has what was set in it: others flush all rules, and tell nobody.
//!
//! Every few seconds it lists the table and puts it back where it is not as it was written; for a gateway it also reads which
//! networks are the owner's by now.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use portable_atomic::{AtomicU64, Ordering};

use node::Prefix;

use super::Pool;
use super::forbidden::Forbidden;
use super::nat::Nat;
use crate::netlink::{FoundRoute, Netlink, NetlinkError};

/// How often it looks. The rules of others may be ours for so long.
const INTERVAL: Duration = Duration::from_secs(5);

/// What it tells the thread of the sessions.
#[derive(Debug)]
pub(super) struct Watched {
    forbidden: Mutex<Arc<Forbidden>>,
    /// A network that has addresses of clients, for people.
    clash: Mutex<Option<String>>,
    /// Flows that clients had too many, since the start.
    flows_over: AtomicU64,
    /// Packets to where the owner carries nothing, likewise.
    not_carried: AtomicU64,
    /// How often the table had to be put back.
    put_back: AtomicU64,
}

impl Watched {
    pub(super) fn new(forbidden: Forbidden) -> Arc<Self> {
        let (forbidden, clash) = (Mutex::new(Arc::new(forbidden)), Mutex::default());
        Arc::new(Self {
            forbidden,
            clash,
            flows_over: AtomicU64::new(0),
            not_carried: AtomicU64::new(0),
            put_back: AtomicU64::new(0),
        })
    }

    pub(super) fn forbidden(&self) -> Arc<Forbidden> {
        Arc::clone(&self.forbidden.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn clash(&self) -> Option<String> {
        self.clash.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn flows_over(&self) -> u64 {
        self.flows_over.load(Ordering::Relaxed)
    }

    pub(super) fn not_carried(&self) -> u64 {
        self.not_carried.load(Ordering::Relaxed)
    }

    pub(super) fn put_back(&self) -> u64 {
        self.put_back.load(Ordering::Relaxed)
    }
}

/// What a gateway's owner calls the way out, and how to find out which networks are not it.
pub(super) struct Ways {
    pub(super) netlink: Netlink,
    pub(super) uplink: Option<String>,
    /// What clients have their addresses of, and the device that leads to them.
    pub(super) pool: Pool,
    pub(super) tun: u32,
}

impl Ways {
    /// Where nobody is let at present, and which network has addresses of clients.
    pub(super) fn look(&mut self) -> Result<(Forbidden, Option<String>), NetlinkError> {
        let routes = self.netlink.found_routes()?;
        // An uplink that is away for a while is none of the interfaces there are.
        let uplink = self.uplink.as_ref().map(|name| self.netlink.link_index(name).unwrap_or(0));
        Ok((Forbidden::new(&routes, uplink), clash(&routes, self.pool, self.tun)))
    }
}

/// A route that came after the start, and takes what is for clients elsewhere.
fn clash(routes: &[FoundRoute], pool: Pool, tun: u32) -> Option<String> {
    let whole = FoundRoute {
        destination: pool.network().into(),
        prefix_len: pool.prefix_len(),
        interface: None,
        gateway: None,
        local: false,
    };
    let taken = |route: &&FoundRoute| {
        route.interface != Some(tun) && route.prefix_len > pool.prefix_len() && whole.holds(route.destination)
    };
    let FoundRoute { destination, prefix_len, .. } = routes.iter().find(taken)?;
    Some(format!(
        "this router has come to a network {destination}/{prefix_len}, which has addresses of ipv4_pool in [gateway]: clients \
         with one of those get no answers; set another ipv4_pool, and reload"
    ))
}

/// Whom to lead out.
enum Lead {
    /// A household's leaves, by its sessions.
    Household,
    /// A gateway's own, by its uplink.
    Own(Vec<Prefix>),
}

/// A thread that runs until [`Watch::stop`].
pub(super) struct Watch {
    thread: JoinHandle<Nat>,
    /// Says which leaves are to be led out; dropped, that this ends.
    orders: Sender<Lead>,
    told: AtomicBool,
}

impl Watch {
    /// Begins. `ways`: for a gateway.
    pub(super) fn start(nat: Nat, ways: Option<Ways>, watched: Arc<Watched>) -> io::Result<Self> {
        let (orders, ordered) = channel();
        let run = move || run(nat, ways, &watched, &ordered);
        let thread = std::thread::Builder::new().name("rules".to_owned()).spawn(run)?;
        Ok(Self { thread, orders, told: AtomicBool::new(false) })
    }

    /// Lets the kernel forward for leaves, from now on.
    pub(super) fn lead_leaves_out(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            self.order(Lead::Household);
        }
    }

    /// Has a gateway's own leaves led out, these and no others.
    pub(super) fn lead(&self, leaves: Vec<Prefix>) {
        self.order(Lead::Own(leaves));
    }

    fn order(&self, lead: Lead) {
        if self.orders.send(lead).is_err() {
            tracing::error!("the thread that looks after the kernel's rules had panicked");
        }
    }

    /// Ends the thread and takes back what was set.
    pub(super) fn stop(self) {
        drop(self.orders);
        match self.thread.join() {
            Ok(nat) => nat.end(),
            Err(_) => tracing::error!("the thread that looks after the kernel's rules had panicked"),
        }
    }
}

fn run(mut nat: Nat, mut ways: Option<Ways>, watched: &Watched, ordered: &Receiver<Lead>) -> Nat {
    let (mut said, mut said_of_leaves, mut leaves) = (false, false, false);
    let mut own = None;
    loop {
        match ordered.recv_timeout(INTERVAL) {
            Ok(Lead::Household) => leaves = true,
            Ok(Lead::Own(prefixes)) => own = Some(prefixes),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        // Others turn it off again.
        let led = match &own {
            Some(own) => nat.lead(own.clone()),
            None if leaves => nat.forward_leaves(),
            None => Ok(()),
        };
        if let Err(error) = led
            && !std::mem::replace(&mut said_of_leaves, true)
        {
            tracing::warn!(%error, next = error.next_step(), "leaves are not led to the Internet");
        }
        match nat.look() {
            Ok(looked) => {
                watched.flows_over.store(looked.counts.flows_over, Ordering::Relaxed);
                watched.not_carried.store(looked.counts.not_carried, Ordering::Relaxed);
                watched.put_back.fetch_add(looked.put_back.into(), Ordering::Relaxed);
            }
            Err(error) if !said => {
                tracing::warn!(%error, next = error.next_step(), "the kernel's rules of the sessions are gone");
                said = true;
            }
            Err(_) => {}
        }
        match ways.as_mut().map(Ways::look) {
            Some(Ok((forbidden, clash))) => {
                let mut known = watched.clash.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(what) = clash.as_ref().filter(|what| known.as_ref() != Some(what)) {
                    tracing::warn!("{what}");
                }
                *known = clash;
                drop(known);
                *watched.forbidden.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(forbidden);
            }
            Some(Err(error)) => tracing::debug!(%error, "which networks are our own is not known anew"),
            None => {}
        }
    }
    nat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_with_addresses_of_clients_is_named() {
        let route = |text: &str, prefix_len, interface| FoundRoute {
            destination: text.parse().unwrap(),
            prefix_len,
            interface: Some(interface),
            gateway: None,
            local: false,
        };
        let pool = "100.64.0.0/10".parse().unwrap();
        let own =
            [route("100.64.0.0", 10, 9), route("100.64.0.1", 32, 9), route("0.0.0.0", 0, 2), route("fc00::", 8, 9)];
        assert_eq!(clash(&own, pool, 9), None);
        let said = clash(&[&own[..], &[route("100.70.3.0", 24, 2)]].concat(), pool, 9).unwrap();
        assert!(said.contains("100.70.3.0/24") && said.contains("another ipv4_pool"), "{said}");
    }
}
