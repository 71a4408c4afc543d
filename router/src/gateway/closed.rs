//! The rules of the kernel's routing by which a household's packets leave through a session or not at all.
//!
//! ```text
//! 8700  what the links send, and the router's look-ups of names   -> as without us
//! 8703  questions to the name servers of the gateway in use       -> the session
//! 8705  says nothing new, but makes the kernel look at ports
//! 8710  what has a route of its own, such as the LAN and the mesh -> there
//! 8720  all else                                                  -> the session, and without one nowhere
//! ```
//!
//! They are there before anything else of the router is, and outlive its crash: the session's device goes then, and what is
//! left of the table says "unreachable". A start after it takes them over. Only an end in order takes them away.

use std::net::IpAddr;

use super::ROUTE_TABLE;
use crate::netlink::{
    DEFAULT_LEN_MAX, Family, FoundRule, Leads, MAIN_TABLE, Netlink, NetlinkError, Rule, Selector, Transport,
};

/// The priorities of the rules: all before the kernel's own of 32766.
const OWN: u32 = 8700;
const NAMES: u32 = 8703;
const PORTS: u32 = 8705;
const SPECIFIC: u32 = 8710;
const DEFAULT: u32 = 8720;
const ALL: [u32; 5] = [OWN, NAMES, PORTS, SPECIFIC, DEFAULT];
/// Where name servers listen.
const DNS_PORT: u16 = 53;
/// Rules of others that are named at most.
const NAMED_MAX: usize = 8;
/// What opens it by hand.
const BY_HAND: &str = "for p in 8700 8703 8705 8710 8720; do while ip rule del priority $p; do :; done; \
                       while ip -6 rule del priority $p; do :; done; done";

/// The way out is closed but for sessions. Dropping it leaves it so, as a crash would.
#[derive(Debug)]
pub(crate) struct Closed {
    netlink: Netlink,
    /// Nothing was left of a start before.
    fresh: bool,
    own: Vec<u16>,
    said: bool,
    /// What others made that leads past it, for people.
    past: Vec<String>,
}

impl Closed {
    /// Closes it. What is sent from the UDP ports `own` of this machine leaves as ever.
    ///
    /// # Errors
    /// The kernel's; it is as it was then.
    pub(crate) fn begin(own: &[u16]) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let fresh = !netlink.has_rules(DEFAULT)?;
        let mut closed = Self { netlink, fresh, own: own.to_vec(), said: false, past: Vec::new() };
        match closed.close() {
            Ok(()) => {
                closed.look_past();
                Ok(closed)
            }
            Err(error) => {
                closed.failed();
                Err(error)
            }
        }
    }

    fn close(&mut self) -> Result<(), NetlinkError> {
        self.put()?;
        // Those of another start had other ports, perhaps.
        [OWN, PORTS].into_iter().try_for_each(|priority| self.netlink.delete_rules(priority))?;
        self.put()
    }

    /// First the table that leads nowhere, then the rules that lead there: there is no moment between. What is there stays.
    fn put(&mut self) -> Result<(), NetlinkError> {
        self.netlink.close_table(ROUTE_TABLE)?;
        for family in Family::BOTH {
            let of = Selector::All(family);
            let rule = |priority, table, without| Rule { priority, of, table, without };
            self.netlink.add_rule(rule(SPECIFIC, MAIN_TABLE, Some(DEFAULT_LEN_MAX)))?;
            self.netlink.add_rule(rule(DEFAULT, ROUTE_TABLE, None))?;
        }
        self.own.clone().into_iter().try_for_each(|port| self.put_port(port))
    }

    /// Looks whether all is as it was put, and puts it back: a program that takes all rules for its own removes ours, as
    /// systemd-networkd does when it starts (`ManageForeignRoutingPolicyRules`).
    pub(crate) fn look(&mut self) {
        let there = [SPECIFIC, DEFAULT]
            .into_iter()
            .try_fold(true, |all, priority| self.netlink.has_rules(priority).map(|there| all && there));
        if matches!(there, Ok(false)) && !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                "another program removed the routing rules that keep packets in sessions: they are put back"
            );
        }
        if let Err(error) = self.put() {
            tracing::warn!(%error, "packets may leave in the clear");
        }
        self.look_past();
    }

    /// Looks which rules of others come before ours and lead to a way out: those are not ours to take away.
    fn look_past(&mut self) {
        match leads_past(&mut self.netlink) {
            Ok(past) => {
                for what in past.iter().filter(|what| !self.past.contains(what)) {
                    tracing::warn!("{what}");
                }
                self.past = past;
            }
            Err(error) => tracing::debug!(%error, "whether rules of others lead past the sessions is not known"),
        }
    }

    /// What leads past it by rules of other programs: each with its name, and what to do.
    pub(crate) fn past(&self) -> &[String] {
        &self.past
    }

    /// Lets pass what this machine sends from a UDP port, and what comes to it.
    pub(crate) fn pass(&mut self, port: u16) -> Result<(), NetlinkError> {
        if !self.own.contains(&port) {
            self.own.push(port);
        }
        self.put_port(port)
    }

    fn put_port(&mut self, port: u16) -> Result<(), NetlinkError> {
        for family in Family::BOTH {
            let own = Rule { priority: OWN, of: Selector::Own(family, port), table: MAIN_TABLE, without: None };
            self.netlink.add_rule(own)?;
            let (of, without) = (Selector::From(family, port), Some(DEFAULT_LEN_MAX));
            self.netlink.add_rule(Rule { priority: PORTS, of, table: MAIN_TABLE, without })?;
        }
        Ok(())
    }

    /// Opens the way out: at an end in order.
    pub(crate) fn end(mut self) {
        if let Err(error) = open(&mut self.netlink) {
            tracing::warn!(%error, by_hand = BY_HAND, "the way out is still closed");
        }
    }

    /// The router does not start, or ends otherwise than in order: what was closed before stays closed.
    pub(crate) fn failed(self) {
        if self.fresh {
            return self.end();
        }
        self.stay();
    }

    /// It stays closed.
    pub(crate) fn stay(self) {
        tracing::warn!(
            by_hand = BY_HAND,
            "no packet leaves for the Internet until the router runs again, or is started and stopped in order"
        );
    }

    /// Opens what an end without order left closed, where no session is wanted any more. Nothing, if there is nothing.
    pub(crate) fn end_left() {
        let Ok(mut netlink) = Netlink::open() else { return };
        if netlink.has_rules(DEFAULT).is_ok_and(|left| left) {
            tracing::info!("the way out was closed by a router with [internet], and is open");
            Self { netlink, fresh: true, own: Vec::new(), said: true, past: Vec::new() }.end();
        }
    }
}

fn leads_past(netlink: &mut Netlink) -> Result<Vec<String>, NetlinkError> {
    let rules = netlink.found_rules(DEFAULT)?;
    let ways_out = if rules.is_empty() { Vec::new() } else { netlink.default_routes()? };
    let leads_out = |rule: &&FoundRule| match rule.leads {
        Leads::Table { table, without } => ways_out.iter().any(|(family, of, len)| {
            (*family, *of) == (rule.family, table) && without.is_none_or(|without| u32::from(*len) > without)
        }),
        Leads::OfDevice => true,
        Leads::Rule(target) => target > DEFAULT,
    };
    let all: Vec<&FoundRule> = rules.iter().filter(leads_out).collect();
    let mut named: Vec<String> = all.iter().take(NAMED_MAX).map(|rule| said(rule)).collect();
    if all.len() > NAMED_MAX {
        named.push(format!("{} more routing rules lead packets past the sessions in the clear", all.len() - NAMED_MAX));
    }
    Ok(named)
}

/// A rule, what it does and what can be done, for people.
fn said(FoundRule { family, priority, of, leads }: &FoundRule) -> String {
    let ip = if *family == Family::V4 { "ip" } else { "ip -6" };
    let of = if of.is_empty() { "all packets" } else { of };
    let leads = match leads {
        Leads::Table { table: 254, .. } => "table main, which has a way out".to_owned(),
        Leads::Table { table, .. } => format!("table {table}, which has a way out"),
        Leads::OfDevice => "the tables of VRF devices".to_owned(),
        Leads::Rule(target) => format!("rule {target}, past those of the sessions"),
    };
    format!(
        "another program's routing rule {priority} (`{ip} rule`) leads {of} to {leads}: those leave in the clear; \
         stop what makes it (mwan3 and pbr make such rules), take it away with `{ip} rule del priority {priority}`, or make \
         it again with a priority above {DEFAULT}"
    )
}

fn open(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    ALL.into_iter().try_for_each(|priority| netlink.delete_rules(priority))?;
    netlink.open_table(ROUTE_TABLE)
}

/// Leads questions to these name servers into the session, and to no others any more: another network here may have their
/// addresses, such as that of an uplink without public ones.
pub(super) fn lead_names(netlink: &mut Netlink, servers: &[IpAddr]) -> Result<(), NetlinkError> {
    netlink.delete_rules(NAMES)?;
    put_names(netlink, servers)
}

/// The same where the rules should be there already.
pub(super) fn put_names(netlink: &mut Netlink, servers: &[IpAddr]) -> Result<(), NetlinkError> {
    for (server, transport) in servers.iter().flat_map(|at| [(at, Transport::Udp), (at, Transport::Tcp)]) {
        let of = Selector::To(*server, transport, DNS_PORT);
        netlink.add_rule(Rule { priority: NAMES, of, table: ROUTE_TABLE, without: None })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::netlink::in_own_namespace;

    fn run(line: &str) -> String {
        let mut words = line.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    fn ip(line: &str) {
        assert_eq!(run(&format!("ip {line}")), "", "{line}");
    }

    /// A cable to a provider that shares addresses.
    fn uplink() {
        for line in [
            "link add up0 type veth peer name up1",
            "link set up1 up",
            "link set up0 up",
            "link set lo up",
            "address add 100.64.0.9/24 dev up0",
        ] {
            ip(line);
        }
    }

    /// What the kernel would do with a packet.
    fn way(to: &str, more: &str) -> String {
        run(&format!("ip route get {to}{more}")).replace("No route to host", "unreachable")
    }

    const FAR: [&str; 2] = ["198.51.100.7", "2001:db8:9::7"];

    #[test]
    fn rules_of_others_that_lead_past_it_are_named_as_they_come_and_go() {
        if !in_own_namespace("gateway::closed::tests::rules_of_others_that_lead_past_it_are_named_as_they_come_and_go")
        {
            return;
        }
        uplink();
        for line in [
            "route add default via 100.64.0.1",
            "rule add priority 100 fwmark 0x100/0x3f00 lookup 99",
            "rule add priority 150 iif up0 lookup main suppress_prefixlength 7",
            "rule add priority 160 to 192.0.2.0/24 unreachable",
            "rule add priority 170 goto 8710",
            "rule add priority 9000 lookup main",
            "-6 rule add priority 180 goto 40000",
        ] {
            ip(line);
        }
        let mut guard = Closed::begin(&[51820]).unwrap();
        assert_eq!(guard.past(), [""; 0], "none of them leads to a way out");
        let named = |guard: &mut Closed, wanted: &[&[&str]]| {
            guard.look();
            let all = guard.past();
            assert_eq!(all.len(), wanted.len(), "{all:?}");
            for (said, words) in all.iter().zip(wanted) {
                assert!(words.iter().all(|word| said.contains(word)), "{said}");
            }
        };
        ip("route add 128.0.0.0/1 via 100.64.0.1 table 99");
        let marked =
            ["rule 100 (`ip rule`)", "fwmark 0x100/0x3f00", "to table 99", "in the clear", "rule del priority 100"];
        named(&mut guard, &[&marked]);
        ip("rule add priority 200 from 192.0.2.0/24 iif up0 lookup main");
        ip("-6 rule add priority 300 goto 32766");
        named(
            &mut guard,
            &[&marked, &["from 192.0.2.0/24", "iif up0", "table main"], &["`ip -6 rule`", "all packets", "rule 32766"]],
        );
        for line in ["rule del priority 100", "rule del priority 200", "-6 rule del priority 300"] {
            ip(line);
        }
        named(&mut guard, &[]);
        for priority in 300..300 + NAMED_MAX + 5 {
            ip(&format!("rule add priority {priority} lookup main"));
        }
        guard.look();
        assert_eq!(guard.past().len(), NAMED_MAX + 1);
        assert!(guard.past()[NAMED_MAX].starts_with("5 more"), "{:?}", guard.past());
        guard.end();
    }

    #[test]
    fn nothing_leaves_but_what_the_links_send_and_a_crash_leaves_it_so_until_an_end_in_order() {
        if !in_own_namespace(
            "gateway::closed::tests::nothing_leaves_but_what_the_links_send_and_a_crash_leaves_it_so_until_an_end_in_order",
        ) {
            return;
        }
        uplink();
        for line in [
            "-6 address add 2001:db8:1::9/64 dev up0 nodad",
            // As a hostile server of addresses gives them: more specific than any default route.
            "route add 0.0.0.0/1 via 100.64.0.1",
            "route add 128.0.0.0/1 via 100.64.0.1",
            "route add default via 100.64.0.1",
            "-6 route add 2000::/3 via 2001:db8:1::1",
            "-6 route add default via 2001:db8:1::1",
        ] {
            ip(line);
        }
        let before = run("ip rule") + &run("ip -6 rule");
        let closed = || FAR.iter().all(|far| way(far, "").contains("unreachable"));
        let by_port = || FAR.iter().all(|far| way(far, " ipproto udp sport 51820 dport 4000").contains("dev up0"));
        assert!(!closed());

        let mut guard = Closed::begin(&[51820]).unwrap();
        assert!(closed() && by_port(), "{}", run("ip rule"));
        let rules = run("ip rule") + &run("ip -6 rule");
        // Another program takes them for its own.
        for line in
            ["rule del priority 8720", "-6 rule del priority 8720", "rule del priority 8710", "rule del priority 8700"]
        {
            run(&format!("ip {line}"));
        }
        run("ip -6 route flush table 87");
        assert!(!closed());
        guard.look();
        assert!(closed() && by_port());
        assert_eq!(run("ip rule") + &run("ip -6 rule"), rules);
        assert!(way(FAR[0], " ipproto tcp sport 51820 dport 80").contains("unreachable"), "UDP alone");
        assert!(way("100.64.0.7", "").contains("dev up0"), "what is on a wire here is reached");
        lead_names(&mut Netlink::open().unwrap(), &["100.64.0.1".parse().unwrap()]).unwrap();
        assert!(way("100.64.0.1", " ipproto udp dport 53").contains("unreachable"), "there is no session");
        assert!(way("100.64.0.1", " ipproto tcp dport 53").contains("unreachable"));
        assert!(way("100.64.0.1", " ipproto udp dport 67").contains("dev up0"));
        // What looks names of neighbours up asks the uplink's name server, though the gateway's has the same address.
        guard.pass(5353).unwrap();
        assert!(way("100.64.0.1", " ipproto udp sport 5353 dport 53").contains("dev up0"));

        // A crash. The next start finds it, does not start, and ends.
        drop(guard);
        assert!(closed() && by_port());
        Closed::begin(&[51820]).unwrap().failed();
        assert!(closed() && by_port(), "what was closed stays closed");
        let rules = run("ip rule");
        // The next one has another port.
        let guard = Closed::begin(&[51999]).unwrap();
        assert!(closed() && !by_port());
        assert_eq!(run("ip rule").lines().count(), rules.lines().count(), "no rule is doubled");
        guard.end();
        assert_eq!(run("ip rule") + &run("ip -6 rule"), before);
        assert!(!closed() && !run("ip route show table all").contains("unreachable"));

        // One that finds nothing and does not start leaves nothing.
        Closed::begin(&[51820]).unwrap().failed();
        assert_eq!(run("ip rule") + &run("ip -6 rule"), before);
        drop(Closed::begin(&[51820]).unwrap());
        Closed::end_left();
        assert_eq!(run("ip rule") + &run("ip -6 rule"), before);
        drop(Closed::begin(&[51820]).unwrap());
        let by_hand = Command::new("sh").args(["-c", BY_HAND]).output().unwrap();
        assert_eq!(run("ip rule") + &run("ip -6 rule"), before, "{by_hand:?}");
    }
}
