//! The kernel's part: one nftables table of our own, and the switches for forwarding.
//!
//! The table is written as a whole and taken away as a whole; nothing outside of it is touched. One that a crash left
//! behind is replaced at the next start.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Pool;
use super::forbidden::{NOT_THE_INTERNET_V4, NOT_THE_INTERNET_V6};
use super::policy::NotCarried;
use node::Prefix;

use crate::file;

/// The table's family and name.
const TABLE: &str = "inet waybill";
/// The set of the addresses of a gateway's own leaves.
const LEAVES: &str = "leaves";
/// Questions of one client to the name server in a second.
const DNS_RATE: u32 = 100;
/// Flows that one client may have at once: as a large household has at its busiest. A kernel that keeps few in all gives each
/// client a smaller part, so that none takes it all.
const FLOWS_MAX: u64 = 4096;
const FLOWS_LEAST: u64 = 256;
/// All clients together may have so many times that: half of what a small kernel keeps, so that the owner's household goes on.
const OF_ALL: u64 = 4;
/// How many the kernel keeps in all.
const FLOWS_OF_ALL: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// What tells one start of the kernel from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why the kernel does not translate addresses.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The program `nft` is missing.
    #[error("cannot run `nft`: {source}")]
    NoProgram {
        /// The system's answer.
        source: io::Error,
    },
    /// It refused.
    #[error("nftables refused the table `{TABLE}`: {said}")]
    Refused {
        /// What it said first.
        said: String,
    },
    /// A switch of the kernel cannot be set.
    #[error("cannot set {}: {source}", path.display())]
    Switch {
        /// Its file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl NatError {
    /// What the person at the keyboard can do about it.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::NoProgram { .. } => {
                "install nftables (Debian: `apt-get install nftables`, OpenWrt: `opkg install nftables`)"
            }
            Self::Refused { .. } => {
                "the router needs CAP_NET_ADMIN, and a kernel from 5.7 on with nftables and NAT (OpenWrt: kmod-nft-nat)"
            }
            Self::Switch { .. } => {
                "the router has to run as root, outside of a container that keeps /proc/sys read-only"
            }
        }
    }
}

/// What a gateway's table is made of.
pub(super) struct GatewayRules<'a> {
    /// The TUN of sessions, and that of the mesh.
    pub(super) tun: &'a str,
    pub(super) mesh: &'a str,
    /// The one interface packets may leave by.
    pub(super) uplink: Option<&'a str>,
    pub(super) pool: Pool,
    /// What the mesh reaches at this router: its own network, and what its owner announces besides the Internet.
    pub(super) announced: Vec<Prefix>,
    /// Where questions to the gateway's inner address go.
    pub(super) dns: Option<IpAddr>,
    /// What the owner does not carry. Who sends it is told so.
    pub(super) refuse: &'a [NotCarried],
}

impl GatewayRules<'_> {
    /// The table. What it says, line by line: clients may ask the name server and nobody else on this machine; they
    /// leave by the uplink only, not into the mesh, to each other or to the gateway's own network; nobody calls them. Who has
    /// no session does not leave by the uplink at all, and nothing but answers comes from there into the mesh; but this router's own
    /// leaves do: those in the set, and IPv4, of which nothing but
    /// what these send comes from the mesh's TUN. They are let where clients are, by an uplink alone, and nobody calls them.
    /// `flows`: each client may have so many at once, and all together [`OF_ALL`] times as many, whatever keys they make;
    /// not every kernel can count them.
    fn text(&self, flows: Option<u64>) -> String {
        let Self { tun, mesh, uplink, pool, announced, dns, refuse } = self;
        let bound = |set: &str, family: &str, most: u64| {
            format!(
                "  iifname \"{tun}\" ct state new add @{set} {{ {family} saddr ct count over {most} }} \
                 counter name \"flows_over\" drop\n"
            )
        };
        let flows = flows.map_or_else(String::new, |most| {
            format!(
                " set flows {{ type ipv4_addr; size 4096; flags dynamic; }}\n \
                 set flows6 {{ type ipv6_addr; size 4096; flags dynamic; }}\n \
                 counter flows_over {{ packets 0 bytes 0 }}\n \
                 chain flows_of_each {{ type filter hook prerouting priority mangle; policy accept;\n{}{}  \
                 iifname \"{tun}\" ct state new ct count over {} counter name \"flows_over\" drop\n }}\n",
                bound("flows", "ip", most),
                bound("flows6", "ip6", most),
                most.saturating_mul(OF_ALL),
            )
        });
        let (v4, v6) = (NOT_THE_INTERNET_V4.join(", "), NOT_THE_INTERNET_V6.join(", "));
        let gateway = pool.gateway();
        let refused = |what: &NotCarried| {
            let condition = what.condition();
            format!("  {condition}counter name \"not_carried\" reject with icmpx type admin-prohibited\n")
        };
        let refuse: String = refuse.iter().map(refused).collect();
        let announced: Vec<String> = announced.iter().map(Prefix::to_string).collect();
        // Who announces the Internet is sent whatever has no other way in the mesh: none of it is for the owner's networks.
        let at_home = format!(
            "  iifname \"{mesh}\" ip6 daddr != {{ {} }} ct state != {{ established, related }} drop\n",
            announced.join(", ")
        );
        let announced = announced.join(", ");
        let without_session = match uplink {
            Some(uplink) => format!(
                "  iifname \"{mesh}\" oifname \"{uplink}\" drop\n  \
                 iifname \"{uplink}\" oifname \"{mesh}\" ct state != {{ established, related }} drop\n"
            ),
            None => format!("  iifname \"{mesh}\" ip6 daddr 2000::/3 drop\n"),
        };
        // Whoever is beside this router may send from whichever address: what is announced as ours has to come from where it is.
        let into_mesh = format!("  oifname \"{mesh}\" ip6 saddr {{ {announced} }} fib saddr . iif oif missing drop\n");
        let (leaves, uplink) = match uplink {
            Some(uplink) => (
                format!("  oifname != \"{uplink}\" drop\n"),
                format!("  iifname \"{tun}\" oifname != \"{uplink}\" drop\n"),
            ),
            None => ("  drop\n".to_owned(), String::new()),
        };
        let (redirect, asked) = match dns {
            Some(server @ IpAddr::V4(_)) => (
                format!(
                    "  iifname \"{tun}\" ip daddr {gateway} udp dport 53 dnat ip to {server}\n  \
                     iifname \"{tun}\" ip daddr {gateway} tcp dport 53 dnat ip to {server}\n"
                ),
                format!(
                    "  iifname \"{tun}\" ct status dnat ct original ip daddr {gateway} update @asked {{ ip saddr limit rate over \
                     {DNS_RATE}/second }} drop\n  iifname \"{tun}\" ct status dnat ct original ip daddr {gateway} accept\n"
                ),
            ),
            Some(IpAddr::V6(_)) | None => (String::new(), String::new()),
        };
        format!(
            "table {TABLE} {{\n{flows} \
             counter not_carried {{ packets 0 bytes 0 }}\n \
             set {LEAVES} {{ type ipv6_addr; flags interval; auto-merge; }}\n \
             set asked {{ type ipv4_addr; size 4096; flags dynamic,timeout; timeout 10s; }}\n \
             chain questions {{ type nat hook prerouting priority dstnat; policy accept;\n{redirect} }}\n \
             chain own {{ type filter hook input priority filter; policy accept;\n  \
             iifname \"{tun}\" ct state established,related accept\n  \
             iifname \"{tun}\" icmp type echo-request accept\n\
             {asked}  \
             iifname \"{tun}\" drop\n  \
             iifname \"{mesh}\" meta nfproto ipv4 drop\n{at_home} }}\n \
             chain refused {{\n{refuse} }}\n \
             chain special {{\n  \
             ip daddr {{ {v4} }} drop\n  \
             ip6 daddr {{ {v6} }} drop\n }}\n \
             chain lead {{\n  jump refused\n{leaves}  jump special\n  accept\n }}\n \
             chain pass {{ type filter hook forward priority filter; policy accept;\n  \
             iifname \"{tun}\" tcp flags syn / syn,rst tcp option maxseg size set rt mtu\n  \
             oifname \"{tun}\" tcp flags syn / syn,rst tcp option maxseg size set rt mtu\n  \
             oifname \"{tun}\" ct state established,related accept\n  \
             oifname \"{tun}\" drop\n\
             {asked}  \
             iifname \"{tun}\" oifname \"{mesh}\" drop\n  \
             iifname \"{tun}\" jump refused\n  \
             iifname \"{mesh}\" meta nfproto ipv4 jump lead\n  \
             iifname \"{mesh}\" ip6 saddr @{LEAVES} ip6 daddr != fc00::/7 jump lead\n  \
             oifname \"{mesh}\" meta nfproto ipv4 ct state != {{ established, related }} drop\n  \
             oifname \"{mesh}\" ip6 daddr @{LEAVES} ip6 saddr != fc00::/7 ct state != {{ established, related }} drop\n\
             {uplink}{without_session}{into_mesh}{at_home}  \
             iifname \"{tun}\" jump special\n }}\n \
             chain leave {{ type nat hook postrouting priority srcnat; policy accept;\n  \
             iifname \"{tun}\" masquerade\n  \
             iifname \"{mesh}\" meta nfproto ipv4 masquerade\n  \
             iifname \"{mesh}\" ip6 saddr @{LEAVES} ip6 daddr != fc00::/7 masquerade\n }}\n}}\n"
        )
    }
}

/// What a household's table is made of.
pub(super) struct ClientRules<'a> {
    /// The TUN of sessions, and that of the mesh.
    pub(super) tun: &'a str,
    pub(super) mesh: &'a str,
    /// This router's own prefix: from the mesh's TUN comes nothing of it but what leaves send.
    pub(super) home: Prefix,
    /// The UDP ports that links send from.
    pub(super) link_ports: &'a [u16],
}

/// The client's table: what its LAN sends leaves with the lease's addresses, TCP fits, and nobody calls from there: a
/// gateway is a stranger. The links themselves, which send from these ports, do not go by a session: one of them carries it.
/// What a leaf sends out of the mesh leaves by a session and by nothing else, and nobody out there calls it; by IPv4 it reaches
/// neither this machine nor the LAN. As the kernel forwards for leaves, whoever is beside the uplink could send into the mesh from an
/// address of this household: what goes there has come from where its address is.
fn client_text(rules: &ClientRules<'_>) -> String {
    let ClientRules { tun, mesh, home, link_ports } = rules;
    let ports: Vec<String> = link_ports.iter().map(u16::to_string).collect();
    let ports = ports.join(", ");
    format!(
        "table {TABLE} {{\n \
         chain links {{ type filter hook output priority filter; policy accept;\n  \
         oifname \"{tun}\" udp sport {{ {ports} }} drop\n }}\n \
         chain own {{ type filter hook input priority filter; policy accept;\n  \
         iifname \"{tun}\" ct state established,related accept\n  \
         iifname \"{tun}\" drop\n  \
         iifname \"{mesh}\" meta nfproto ipv4 drop\n }}\n \
         chain pass {{ type filter hook forward priority filter; policy accept;\n  \
         oifname \"{tun}\" tcp flags syn / syn,rst tcp option maxseg size set rt mtu\n  \
         iifname \"{tun}\" tcp flags syn / syn,rst tcp option maxseg size set rt mtu\n  \
         iifname \"{tun}\" ct state established,related accept\n  \
         iifname \"{tun}\" drop\n  \
         iifname \"{mesh}\" oifname != \"{tun}\" meta nfproto ipv4 drop\n  \
         iifname \"{mesh}\" oifname != \"{tun}\" ip6 saddr {home} ip6 daddr != fc00::/7 drop\n  \
         oifname \"{mesh}\" meta nfproto ipv4 drop\n  \
         oifname \"{mesh}\" ip6 saddr fc00::/7 fib saddr . iif oif missing drop\n  \
         oifname \"{mesh}\" ip6 daddr {home} ip6 saddr != fc00::/7 ct state != {{ established, related }} drop\n }}\n \
         chain leave {{ type nat hook postrouting priority srcnat; policy accept;\n  \
         oifname \"{tun}\" masquerade\n }}\n}}\n"
    )
}

/// What was set in the kernel. [`Nat::end`] takes it back.
pub(super) struct Nat {
    /// The table, and how the kernel lists it.
    table: String,
    listed: String,
    /// A gateway's own leaves that it leads out.
    leaves: Vec<Prefix>,
    /// What was counted before the table was put back, and by the table since.
    before: Counts,
    counts: Counts,
    said: bool,
    /// The switches that let the kernel forward IPv4 between the mesh's TUN and that of sessions, and nowhere else.
    forwards: Vec<PathBuf>,
    /// Files of switches, and what stood in them.
    switches: Vec<(PathBuf, String)>,
    /// Where that is written down, so that a crash does not make us forget it.
    record: Option<PathBuf>,
}

/// What the table counts, packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Those that would have begun a flow more than a client may have.
    pub(super) flows_over: u64,
    /// Those to where the owner carries nothing.
    pub(super) not_carried: u64,
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        let Self { flows_over, not_carried } = other;
        Self { flows_over: self.flows_over + flows_over, not_carried: self.not_carried + not_carried }
    }
}

/// What [`Nat::look`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// What was counted since the start.
    pub(super) counts: Counts,
    /// The table was not as it was written, and is again.
    pub(super) put_back: bool,
}

impl Nat {
    /// Sets up a gateway: its table, and forwarding. What stood in the kernel's switches is kept in the file `record`.
    pub(super) fn gateway(rules: &GatewayRules<'_>, record: PathBuf) -> Result<Self, NatError> {
        let text = fs::read_to_string(&record).unwrap_or_default();
        let of_all = fs::read_to_string(FLOWS_OF_ALL).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let flows = of_all.map_or(FLOWS_MAX, |all| (all / 8).clamp(FLOWS_LEAST, FLOWS_MAX));
        let nat = match Self::put(rules.text(Some(flows)), Some(record.clone())) {
            Err(NatError::Refused { said }) => {
                let nat = Self::put(rules.text(None), Some(record))?;
                tracing::warn!(
                    said,
                    "how many flows each client has is not bounded: the kernel needs the module nft_connlimit for it"
                );
                nat
            }
            done => done?,
        };
        let mut nat = Self { switches: read_switches(&text, &boot_id()), ..nat };
        if let Err(error) = nat.forward() {
            nat.end();
            return Err(error);
        }
        Ok(nat)
    }

    /// Sets up a client: its table. What [`Nat::forward_leaves`] finds in the kernel's switches is kept in the file `record`.
    pub(super) fn client(rules: &ClientRules<'_>, record: PathBuf) -> Result<Self, NatError> {
        let text = fs::read_to_string(&record).unwrap_or_default();
        let nat = Self::put(client_text(rules), Some(record))?;
        let forwards =
            [rules.mesh, rules.tun].map(|device| format!("/proc/sys/net/ipv4/conf/{device}/forwarding").into());
        Ok(Self { switches: read_switches(&text, &boot_id()), forwards: forwards.to_vec(), ..nat })
    }

    fn put(table: String, record: Option<PathBuf>) -> Result<Self, NatError> {
        replace(&table)?;
        let (listed, _) = list().inspect_err(|_| {
            let _left = nft(&format!("delete table {TABLE}\n"));
        })?;
        let (before, counts) = (Counts::default(), Counts::default());
        let (forwards, switches) = (Vec::new(), Vec::new());
        let leaves = Vec::new();
        Ok(Self { table, listed, leaves, before, counts, said: false, forwards, switches, record })
    }

    /// Looks whether the table is as it was written, and puts it back if not.
    pub(super) fn look(&mut self) -> Result<Looked, NatError> {
        match list() {
            Ok((listed, counts)) if listed == self.listed => {
                self.counts = counts;
                return Ok(Looked { counts: self.before.plus(counts), put_back: false });
            }
            Err(error @ NatError::NoProgram { .. }) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        replace(&(self.table.clone() + &elements(&self.leaves)))?;
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                "another program changed the table `{TABLE}`, or flushed all: it is put back, now and from here on"
            );
        }
        (self.listed, _) = list()?;
        self.before = self.before.plus(std::mem::take(&mut self.counts));
        Ok(Looked { counts: self.before, put_back: true })
    }

    /// Has a gateway's own leaves led out, these and no others.
    pub(super) fn lead(&mut self, leaves: Vec<Prefix>) -> Result<(), NatError> {
        if self.leaves != leaves {
            nft(&format!("flush set {TABLE} {LEAVES}\n{}", elements(&leaves)))?;
            self.leaves = leaves;
        }
        Ok(())
    }

    /// Lets a household's kernel forward what leaves send and get.
    pub(super) fn forward_leaves(&mut self) -> Result<(), NatError> {
        self.forward_ipv6()?;
        self.forwards.clone().into_iter().try_for_each(|path| self.switch(path, "1"))
    }

    fn forward(&mut self) -> Result<(), NatError> {
        self.forward_ipv6()?;
        self.switch("/proc/sys/net/ipv4/ip_forward".into(), "1")
    }

    /// Lets the kernel forward IPv6: there is one switch for all interfaces. Interfaces that take their routes from
    /// advertisements keep doing so, which they would stop when they forward (`accept_ra` of the kernel's ip-sysctl document).
    fn forward_ipv6(&mut self) -> Result<(), NatError> {
        let ipv6 = PathBuf::from("/proc/sys/net/ipv6/conf/all/forwarding");
        if fs::read_to_string(&ipv6).is_ok_and(|text| text.trim() == "0") {
            for entry in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
                let path = entry.path().join("accept_ra");
                if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
                    self.switch(path, "2")?;
                }
            }
        }
        self.switch(ipv6, "1")
    }

    fn switch(&mut self, path: PathBuf, value: &str) -> Result<(), NatError> {
        let set = || -> io::Result<Option<String>> {
            let was = fs::read_to_string(&path)?.trim().to_owned();
            if was == value {
                return Ok(None);
            }
            fs::write(&path, value)?;
            Ok(Some(was))
        };
        match set() {
            Ok(Some(was)) => {
                // Whoever turned it off again says nothing of how it stood at first.
                if !self.switches.iter().any(|(known, _)| *known == path) {
                    tracing::info!(switch = %path.display(), %was, value, "set, until the router stops");
                    self.switches.push((path, was));
                    self.keep();
                }
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(source) => Err(NatError::Switch { path, source }),
        }
    }

    /// Takes all of it back.
    pub(super) fn end(self) {
        if let Err(error) = nft(&format!("table {TABLE}\ndelete table {TABLE}\n")) {
            tracing::warn!(%error, "the table `{TABLE}` is left behind: `nft delete table {TABLE}` removes it");
        }
        for (path, was) in self.switches.iter().rev() {
            // An interface may have gone meanwhile, as our own have.
            let set = fs::write(path, was);
            if let Err(error) = set.or_else(|error| if path.exists() { Err(error) } else { Ok(()) }) {
                tracing::warn!(%error, switch = %path.display(), "not set back");
            }
        }
        if let Some(record) = &self.record {
            // There may be none: nothing had to be set.
            let _absent = fs::remove_file(record);
        }
    }

    fn keep(&self) {
        let boot = format!("boot {}\n", boot_id());
        let lines: String = self.switches.iter().map(|(path, was)| format!("{was} {}\n", path.display())).collect();
        if let Some(record) = &self.record
            && let Err(error) = file::replace(record, (boot + &lines).as_bytes(), 0o600)
        {
            tracing::warn!(%error, file = %record.display(), "after a crash the kernel would go on forwarding");
        }
    }
}

/// What [`Nat::keep`] wrote since the kernel was started; only switches of the network are set by it. At a start of the kernel
/// they are as the system sets them, and what stood in them before says nothing any more.
fn read_switches(text: &str, boot: &str) -> Vec<(PathBuf, String)> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    if boot.is_empty() || lines.next() != Some(("boot", boot)) {
        return Vec::new();
    }
    let ours = lines.filter(|(_, path)| path.starts_with("/proc/sys/net/") && !path.contains(".."));
    ours.map(|(was, path)| (path.into(), was.to_owned())).collect()
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

/// The table as the kernel has it, without what is counted in it, and that.
fn list() -> Result<(String, Counts), NatError> {
    // Without the elements of sets: those come and go.
    let listed = run_nft(&["--terse", "list", "table", "inet", "waybill"], "")?;
    Ok(without_counts(&listed))
}

fn without_counts(listed: &str) -> (String, Counts) {
    let (mut text, mut counts, mut before, mut of) = (String::with_capacity(listed.len()), Counts::default(), "", "");
    for word in listed.split_inclusive(char::is_whitespace) {
        let bare = word.trim();
        match (before, bare.parse::<u64>(), of) {
            ("packets", Ok(number), "flows_over") => counts.flows_over = number,
            ("packets", Ok(number), "not_carried") => counts.not_carried = number,
            ("packets" | "bytes", Ok(_), _) => {}
            _ => text.push_str(word),
        }
        if before == "counter" {
            of = bare;
        }
        before = if bare.is_empty() { before } else { bare };
    }
    (text, counts)
}

/// The command that puts leaves into their set.
fn elements(leaves: &[Prefix]) -> String {
    let leaves: Vec<String> = leaves.iter().map(Prefix::to_string).collect();
    if leaves.is_empty() {
        String::new()
    } else {
        format!("add element {TABLE} {LEAVES} {{ {} }}\n", leaves.join(", "))
    }
}

/// One transaction: an old table goes and the new one is there, or nothing has changed.
fn replace(table: &str) -> Result<(), NatError> {
    nft(&format!("table {TABLE}\ndelete table {TABLE}\n{table}"))
}

fn nft(commands: &str) -> Result<(), NatError> {
    run_nft(&["-f", "-"], commands).map(drop)
}

/// What it printed.
fn run_nft(arguments: &[&str], commands: &str) -> Result<String, NatError> {
    let no_program = |source| NatError::NoProgram { source };
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(no_program)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says why.
        let _refused = stdin.write_all(commands.as_bytes());
    }
    let output = child.wait_with_output().map_err(no_program)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it said nothing").to_owned();
    Err(NatError::Refused { said })
}

/// The first name server of this machine that others can be sent to; IPv4, as the inner address is.
pub(crate) fn own_resolver() -> Option<IpAddr> {
    first_resolver(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn first_resolver(text: &str) -> Option<IpAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let mut addresses = servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    addresses.find(|address| address.is_ipv4() && !address.is_loopback() && !address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use node::datapath::packet::control_packet;

    use super::super::server::addresses;
    use super::*;
    use crate::netlink::{Family, MAIN_TABLE, Netlink, in_own_namespace};
    use crate::tun::{FRAME_MAX, Frame, Local, Tun};

    fn rules(dns: Option<IpAddr>) -> GatewayRules<'static> {
        let pool = "100.64.0.0/10".parse().unwrap();
        let announced = [("fd12:3456:789a::", 48), ("2001:db8:1::", 64)];
        let announced = announced.map(|(network, len)| Prefix::new(network.parse().unwrap(), len).unwrap()).to_vec();
        GatewayRules { tun: "waybill-gw0", mesh: "waybill0", uplink: Some("eth0"), pool, announced, dns, refuse: &[] }
    }

    #[test]
    fn the_first_name_server_that_others_reach_is_taken() {
        let first = |text: &str| first_resolver(text).map(|address| address.to_string());
        assert_eq!(
            first("# by hand\nnameserver 127.0.0.53\nnameserver ::1\n nameserver 192.0.2.1 \n"),
            Some("192.0.2.1".into())
        );
        assert_eq!(first("nameserver nonsense\nsearch lan"), None);
    }

    #[test]
    fn switches_are_set_back_after_a_crash_and_not_after_the_system_was_started_anew() {
        let text = "boot 12-34\n0 /proc/sys/net/ipv4/ip_forward\n1 /etc/passwd\n1 /proc/sys/net/../../etc/passwd\n";
        assert_eq!(read_switches(text, "12-34"), [("/proc/sys/net/ipv4/ip_forward".into(), "0".to_owned())]);
        for (text, boot) in [
            (text, "56-78"),
            (text, ""),
            ("boot \n0 /proc/sys/net/ipv4/ip_forward\n", ""),
            ("0 /proc/sys/net/ipv4/ip_forward\n", "12-34"),
        ] {
            assert_eq!(read_switches(text, boot), [], "{boot}");
        }
        assert!(boot_id().len() > 8);
    }

    #[test]
    fn what_is_counted_is_no_change() {
        let table = |packets, bytes| {
            format!(
                "table {{\n\tcounter flows_over {{\n\t\tpackets {packets} bytes {bytes}\n\t}}\n\tlimit rate 100/second\n}}"
            )
        };
        let (before, none) = without_counts(&table(0, 0));
        let (after, over) = without_counts(&table(17, 1400));
        assert_eq!((none.flows_over, over), (0, Counts { flows_over: 17, not_carried: 0 }));
        let both =
            "counter flows_over {\n\t\tpackets 5 bytes 9\n\t}\n\n\tcounter not_carried {\n\t\tpackets 7 bytes 9\n";
        assert_eq!(without_counts(both).1, Counts { flows_over: 5, not_carried: 7 });
        assert_eq!(before, after);
        assert_ne!(without_counts(&table(1, 1).replace("100/", "1/")).0, before);
    }

    fn household() -> ClientRules<'static> {
        let home = Prefix::new("fd12:3456:789a::".parse().unwrap(), 48).unwrap();
        ClientRules { tun: "waybill-net0", mesh: "waybill0", home, link_ports: &[51820, 443] }
    }

    /// UDP from a port to the same.
    fn datagram(from: &str, to: &str, port: u16) -> Vec<u8> {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        match (from, to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut packet = control_packet(from, to, port, b"hello");
                packet[7] = 64;
                packet
            }
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header =
                    [&[0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0][..], &from.octets(), &to.octets()].concat();
                let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
                let sum: u32 = words.sum();
                let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                [&header[..], &port.to_be_bytes(), &port.to_be_bytes(), &[0, 12, 0, 0], b"hell"].concat()
            }
            _ => panic!("two kinds of addresses"),
        }
    }

    /// Where the next packet comes from and goes to, but for what the kernel says to its neighbours.
    fn next(local: &Local) -> Option<(String, String)> {
        let mut frame = vec![0; FRAME_MAX];
        while let Ok(Frame::Packet(packet)) = local.read(&mut frame) {
            if let Some((from, to)) = addresses(packet).filter(|(_, to)| !to.is_multicast()) {
                return Some((from.to_string(), to.to_string()));
            }
        }
        None
    }

    /// The same, waited for.
    fn come(local: &Local) -> (String, String) {
        for _ in 0..5000 {
            if let Some(packet) = next(local) {
                return packet;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("nothing has come");
    }

    #[test]
    fn what_a_leaf_sends_leaves_by_the_session_with_its_addresses_or_not_at_all_and_nobody_calls_it() {
        if !in_own_namespace(
            "gateway::nat::tests::what_a_leaf_sends_leaves_by_the_session_with_its_addresses_or_not_at_all_and_nobody_calls_it",
        ) {
            return;
        }
        if Command::new("nft").arg("--version").output().is_err() {
            println!("skipped: there is no nft");
            return;
        }
        let mut netlink = Netlink::open().unwrap();
        let [mesh, session, lan] = ["waybill0", "waybill-net0", "lan0"].map(|name| {
            let tun = Tun::create(name, 1340, false).unwrap();
            netlink.set_up(tun.index(), 1340).unwrap();
            tun
        });
        let leaf = [("172.30.87.1", 32), ("fd12:3456:789a:1eaf::1", 128)];
        for (tun, address, len) in [
            (&session, "100.64.3.4", 32),
            (&session, "fc12::7", 128),
            (&lan, "192.168.1.1", 24),
            (&lan, "2001:db8:1::1", 64),
            (&lan, "fd12:3456:789a:1::1", 64),
        ] {
            netlink.add_address(tun.index(), address.parse::<IpAddr>().unwrap(), len).unwrap();
        }
        for (address, len) in leaf {
            netlink.claim_route(address.parse().unwrap(), len, mesh.index()).unwrap();
        }
        for family in Family::BOTH {
            netlink.add_route_in(MAIN_TABLE, family.nowhere(), 0, session.index()).unwrap();
        }
        // As in a household whose kernel forwards anything.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut nat = Nat::client(&household(), directory.path().join("switches")).unwrap();
        nat.forward_leaves().unwrap();
        let [mut at_mesh, mut at_session, mut at_lan] = [&mesh, &session, &lan].map(|tun| tun.local().unwrap());
        let send = |local: &mut Local, from: &str, to: &str, port| {
            assert_eq!(local.write(std::iter::once(&datagram(from, to, port)[..])), 0);
        };
        for (leaf, leased, far, near, here) in [
            (leaf[0].0, "100.64.3.4", "198.51.100.1", "192.168.1.7", "192.168.1.1"),
            (leaf[1].0, "fc12::7", "2001:db8:9::1", "2001:db8:1::7", "2001:db8:1::1"),
        ] {
            let is = |from: &str, to: &str| (from.to_owned(), to.to_owned());
            send(&mut at_mesh, leaf, near, 7);
            send(&mut at_mesh, leaf, far, 9);
            assert_eq!(come(&at_session), is(leased, far));
            assert_eq!(next(&at_lan), None, "{leaf} to the LAN");
            // Somebody calls, of the Internet and of the LAN, and of the mesh by IPv4.
            send(&mut at_session, far, leased, 10);
            send(&mut at_session, near, leaf, 9);
            send(&mut at_lan, near, leaf, 9);
            send(&mut at_session, far, leased, 9);
            assert_eq!(come(&at_mesh), is(far, leaf), "the answer alone");
            assert_eq!(next(&at_mesh), None);
            let socket = UdpSocket::bind((here.parse::<IpAddr>().unwrap(), 11)).unwrap();
            socket.set_nonblocking(true).unwrap();
            send(&mut at_mesh, leaf, here, 11);
            send(&mut at_mesh, leaf, far, 9);
            come(&at_session);
            assert_eq!(socket.recv(&mut [0; 100]).is_ok(), leaf.contains(':'), "by IPv4 not this machine");
        }
        // A machine of the LAN may, by an address of the mesh, and nobody there by one that is elsewhere.
        send(&mut at_lan, "fd12:3456:789a:5::1", leaf[1].0, 9);
        send(&mut at_lan, "fd12:3456:789a:1::7", leaf[1].0, 9);
        assert_eq!(come(&at_mesh).0, "fd12:3456:789a:1::7");
        assert_eq!(next(&at_mesh), None);
        nat.end();
    }

    #[test]
    fn a_gateway_s_own_leaves_leave_by_its_uplink_where_its_clients_may_go_and_nobody_calls_them() {
        if !in_own_namespace(
            "gateway::nat::tests::a_gateway_s_own_leaves_leave_by_its_uplink_where_its_clients_may_go_and_nobody_calls_them",
        ) {
            return;
        }
        if Command::new("nft").arg("--version").output().is_err() {
            println!("skipped: there is no nft");
            return;
        }
        let mut netlink = Netlink::open().unwrap();
        let [mesh, _gw, lan, uplink] = ["waybill0", "waybill-gw0", "lan0", "eth0"].map(|name| {
            let tun = Tun::create(name, 1340, false).unwrap();
            netlink.set_up(tun.index(), 1340).unwrap();
            tun
        });
        let leaf = [("172.30.87.1", 32), ("fd12:3456:789a:1eaf::1", 128)];
        for (tun, address, len) in [
            (&uplink, "192.0.2.2", 24),
            (&uplink, "2001:db8:2::2", 64),
            (&lan, "192.168.1.1", 24),
            (&lan, "2001:db8:1::1", 64),
        ] {
            netlink.add_address(tun.index(), address.parse::<IpAddr>().unwrap(), len).unwrap();
        }
        for (address, len) in leaf.into_iter().chain([("fd12:3456:789a:1eaf::2", 128)]) {
            netlink.claim_route(address.parse().unwrap(), len, mesh.index()).unwrap();
        }
        for family in Family::BOTH {
            netlink.add_route_in(MAIN_TABLE, family.nowhere(), 0, uplink.index()).unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let refuse = ["udp/25".parse().unwrap()];
        let rules = GatewayRules { refuse: &refuse, ..rules(None) };
        let mut nat = Nat::gateway(&rules, directory.path().join("switches")).unwrap();
        let [mut at_mesh, mut at_lan, mut at_uplink] = [&mesh, &lan, &uplink].map(|tun| tun.local().unwrap());
        let send = |local: &mut Local, from: &str, to: &str, port| {
            assert_eq!(local.write(std::iter::once(&datagram(from, to, port)[..])), 0);
        };
        let is = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let (far, far6) = ("198.51.100.1", "2001:db8:9::1");
        // By IPv6 it is led out once it is one of those that are.
        send(&mut at_mesh, leaf[1].0, far6, 8);
        send(&mut at_mesh, leaf[0].0, far, 8);
        assert_eq!(come(&at_uplink), is("192.0.2.2", far));
        assert_eq!(next(&at_uplink), None);
        let led = vec![Prefix::new(leaf[1].0.parse().unwrap(), 128).unwrap()];
        nat.lead(led.clone()).unwrap();
        assert!(!nat.look().unwrap().put_back, "that is no change by others");
        for flushed in [false, true] {
            if flushed {
                nft("flush ruleset").unwrap();
                assert!(nat.look().unwrap().put_back);
            }
            for (leaf, own, far, near, special) in [
                (leaf[0].0, "192.0.2.2", far, "192.168.1.7", "10.1.2.3"),
                (leaf[1].0, "2001:db8:2::2", far6, "2001:db8:1::7", "64:ff9b::a01:203"),
            ] {
                send(&mut at_mesh, leaf, special, 7);
                send(&mut at_mesh, leaf, far, 25);
                send(&mut at_mesh, leaf, near, 7);
                send(&mut at_mesh, leaf, far, 9);
                assert_eq!(come(&at_uplink), is(own, far), "neither special addresses nor what is refused");
                assert_eq!((next(&at_uplink), next(&at_lan)), (None, None), "{leaf}");
                assert_eq!(come(&at_mesh).1, leaf, "it is told that it is refused");
                send(&mut at_uplink, far, leaf, 9);
                send(&mut at_lan, near, leaf, 9);
                if leaf.contains(':') {
                    // Neither as somebody of the mesh, nor as one of this household, nor as anybody else.
                    for from in ["fd99::1", "fd12:3456:789a:1eaf::7", far] {
                        send(&mut at_uplink, from, "fd12:3456:789a:1eaf::2", 9);
                        send(&mut at_uplink, from, leaf, 10);
                    }
                }
                send(&mut at_uplink, far, own, 9);
                assert_eq!(come(&at_mesh), is(far, leaf), "the answer alone");
                assert_eq!(next(&at_mesh), None);
            }
            // Another of this router's leaves, and others of the mesh, are not led out.
            for other in ["fd12:3456:789a:1eaf::2", "fd99::1"] {
                send(&mut at_mesh, other, far6, 9);
            }
            send(&mut at_mesh, leaf[1].0, far6, 9);
            assert_eq!(come(&at_uplink), is("2001:db8:2::2", far6));
            assert_eq!(next(&at_uplink), None);
        }
        nat.lead(Vec::new()).unwrap();
        send(&mut at_mesh, leaf[1].0, far6, 12);
        send(&mut at_mesh, leaf[0].0, far, 12);
        assert_eq!(come(&at_uplink), is("192.0.2.2", far));
        assert_eq!(next(&at_uplink), None);
        nat.end();
    }

    /// Links that went by a session would be carried by themselves.
    #[test]
    fn what_the_links_send_does_not_go_by_a_session() {
        if !in_own_namespace("gateway::nat::tests::what_the_links_send_does_not_go_by_a_session") {
            return;
        }
        if Command::new("nft").arg("--version").output().is_err() {
            println!("skipped: there is no nft");
            return;
        }
        let tun = Tun::create_for_both_families("waybill-net0", 1340, false).unwrap();
        let mut netlink = Netlink::open().unwrap();
        netlink.set_up(tun.index(), 1340).unwrap();
        netlink.add_address(tun.index(), Ipv4Addr::new(100, 64, 3, 4), 32).unwrap();
        netlink.add_address(tun.index(), "fc12::7".parse::<std::net::Ipv6Addr>().unwrap(), 128).unwrap();
        for family in Family::BOTH {
            netlink.add_route_in(MAIN_TABLE, family.nowhere(), 0, tun.index()).unwrap();
        }
        let sends = |port: u16| {
            ["100.64.3.4", "fc12::7"].map(|from| {
                let socket = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), port)).unwrap();
                let to: IpAddr = if from.contains(':') { "2001:db8::1" } else { "198.51.100.1" }.parse().unwrap();
                socket.send_to(b"hello", (to, 9)).is_ok()
            })
        };
        let nat = Nat::client(&household(), "no-switches".into()).unwrap();
        assert_eq!([51820, 443, 4000].map(sends), [[false; 2], [false; 2], [true; 2]]);
        nat.end();
        assert_eq!(sends(51820), [true; 2]);
    }

    #[test]
    fn the_tables_come_whole_replace_what_a_crash_left_and_go_and_others_stay() {
        if !in_own_namespace(
            "gateway::nat::tests::the_tables_come_whole_replace_what_a_crash_left_and_go_and_others_stay",
        ) {
            return;
        }
        let listed = || {
            let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        if Command::new("nft").arg("--version").output().is_err() {
            println!("skipped: there is no nft");
            return;
        }
        nft("table inet other { chain mine { type filter hook input priority 0; }; }").unwrap();
        let others = listed();
        let directory = tempfile::tempdir().unwrap();
        let record = directory.path().join("switches");
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        nft(&format!("table {TABLE} {{ chain left {{ }}; }}")).unwrap();
        for dns in ["192.0.2.53", "2001:db8::53"].map(|text| text.parse().ok()).into_iter().chain([None]) {
            let nat = Nat::gateway(&rules(dns), record.clone()).unwrap();
            let table = listed();
            assert!(table.contains("masquerade") && !table.contains("chain left"), "{table}");
            assert_eq!(table.contains("dnat"), dns.is_some_and(|dns| dns.is_ipv4()));
            let at_home = "iifname \"waybill0\" ip6 daddr != { 2001:db8:1::/64, fd12:3456:789a::/48 } ct state != { established, related } drop";
            assert_eq!(table.matches(at_home).count(), 2, "to this router, and past it: {table}");
            assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
            replace(&rules(dns).text(None)).unwrap(); // As on a kernel that counts no flows.
            assert!(listed().contains("masquerade") && !listed().contains("ct count"));
            drop(nat); // It crashes, and is there again.
            Nat::gateway(&rules(dns), record.clone()).unwrap().end();
            assert_eq!(listed(), others);
            assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "0");
            assert!(!record.exists());
        }
        let refuse = ["tcp/25", "udp/6881-6999", "198.51.100.0/24", "udp/53@192.0.2.1", "tcp/80@2001:db8::/32"];
        let refuse = refuse.map(|text| text.parse().unwrap());
        let mut nat = Nat::gateway(&GatewayRules { refuse: &refuse, ..rules(None) }, record.clone()).unwrap();
        let table = listed();
        assert_eq!(
            table.matches("counter name \"not_carried\" reject with icmpx admin-prohibited").count(),
            5,
            "{table}"
        );
        assert_eq!(nat.look().unwrap(), Looked::default());
        assert!(listed().contains("ct count over"), "{}", listed());
        for command in
            ["flush ruleset", "flush table inet waybill", "flush chain inet waybill own", "delete table inet waybill"]
        {
            nft(command).unwrap();
            assert!(nat.look().unwrap().put_back, "{command}");
            assert_eq!(nat.look().unwrap(), Looked::default(), "{command}");
            assert!(listed().contains("masquerade") && listed().contains("icmp type echo-request accept"));
        }
        nft("table inet other { chain mine { type filter hook input priority 0; }; }").unwrap();
        assert!(!nat.look().unwrap().put_back, "what others do in tables of their own is theirs");
        nat.end();
        let rules = ClientRules { mesh: "lo", ..household() };
        let switches = || {
            ["ipv6/conf/all", "ipv4/conf/lo", "ipv4/conf/all"]
                .map(|of| fs::read_to_string(format!("/proc/sys/net/{of}/forwarding")).unwrap().trim().to_owned())
        };
        assert_eq!(switches(), ["0", "0", "0"]);
        let mut nat = Nat::client(&rules, record.clone()).unwrap();
        assert!(listed().contains("oifname \"waybill-net0\" masquerade"));
        nat.forwards.pop(); // That device is not there.
        nat.forward_leaves().unwrap();
        nat.forward_leaves().unwrap();
        fs::write("/proc/sys/net/ipv4/conf/lo/forwarding", "0").unwrap();
        nat.forward_leaves().unwrap();
        assert_eq!(switches(), ["1", "1", "0"], "IPv4 between these two devices alone");
        assert_eq!(nat.switches.iter().filter(|(path, _)| path.ends_with("conf/lo/forwarding")).count(), 1);
        drop(nat); // It crashes, and is there again.
        Nat::client(&rules, record).unwrap().end();
        assert_eq!((listed(), switches()), (others, ["0", "0", "0"].map(str::to_owned)));
        assert!(matches!(nft("nonsense"), Err(NatError::Refused { .. })));
    }
}
