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

/// The table's family and name.
const TABLE: &str = "inet waybill";
/// Questions of one client to the name server in a second.
const DNS_RATE: u32 = 100;
/// Where nobody outside of the gateway's own network is let: private and link-local addresses (RFC 1918, RFC 6598,
/// RFC 3927, RFC 4193, RFC 4291), and multicast.
const PRIVATE_V4: &str =
    "10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/3";
const PRIVATE_V6: &str = "::/127, fc00::/7, fe80::/10, ff00::/8";

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
    /// Where questions to the gateway's inner address go.
    pub(super) dns: Option<IpAddr>,
}

impl GatewayRules<'_> {
    /// The table. What it says, line by line: clients may ask the name server and nobody else on this machine; they
    /// leave by the uplink only, not into the mesh, to each other or to the gateway's own network; nobody calls them. Who has
    /// no session does not leave by the uplink at all.
    fn text(&self) -> String {
        let Self { tun, mesh, uplink, pool, dns } = self;
        let gateway = pool.gateway();
        let without_session = match uplink {
            Some(uplink) => format!("  iifname \"{mesh}\" oifname \"{uplink}\" drop\n"),
            None => format!("  iifname \"{mesh}\" ip6 daddr 2000::/3 drop\n"),
        };
        let uplink =
            uplink.map_or_else(String::new, |uplink| format!("  iifname \"{tun}\" oifname != \"{uplink}\" drop\n"));
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
            "table {TABLE} {{\n \
             set asked {{ type ipv4_addr; size 4096; flags dynamic,timeout; timeout 10s; }}\n \
             chain questions {{ type nat hook prerouting priority dstnat; policy accept;\n{redirect} }}\n \
             chain own {{ type filter hook input priority filter; policy accept;\n  \
             iifname \"{tun}\" ct state established,related accept\n  \
             iifname \"{tun}\" icmp type echo-request accept\n  \
             iifname \"{tun}\" drop\n }}\n \
             chain pass {{ type filter hook forward priority filter; policy accept;\n  \
             iifname \"{tun}\" tcp flags syn / syn,rst tcp option maxseg size set rt mtu\n  \
             oifname \"{tun}\" tcp flags syn / syn,rst tcp option maxseg size set rt mtu\n  \
             oifname \"{tun}\" ct state established,related accept\n  \
             oifname \"{tun}\" drop\n\
             {asked}  \
             iifname \"{tun}\" oifname \"{mesh}\" drop\n\
             {uplink}{without_session}  \
             iifname \"{tun}\" ip daddr {{ {PRIVATE_V4} }} drop\n  \
             iifname \"{tun}\" ip6 daddr {{ {PRIVATE_V6} }} drop\n }}\n \
             chain leave {{ type nat hook postrouting priority srcnat; policy accept;\n  \
             iifname \"{tun}\" masquerade\n }}\n}}\n"
        )
    }
}

/// The client's table: what its LAN sends leaves with the lease's addresses, TCP fits, and nobody calls from there: a
/// gateway is a stranger.
fn client_text(tun: &str) -> String {
    format!(
        "table {TABLE} {{\n \
         chain own {{ type filter hook input priority filter; policy accept;\n  \
         iifname \"{tun}\" ct state established,related accept\n  \
         iifname \"{tun}\" drop\n }}\n \
         chain pass {{ type filter hook forward priority filter; policy accept;\n  \
         oifname \"{tun}\" tcp flags syn / syn,rst tcp option maxseg size set rt mtu\n  \
         iifname \"{tun}\" tcp flags syn / syn,rst tcp option maxseg size set rt mtu\n  \
         iifname \"{tun}\" ct state established,related accept\n  \
         iifname \"{tun}\" drop\n }}\n \
         chain leave {{ type nat hook postrouting priority srcnat; policy accept;\n  \
         oifname \"{tun}\" masquerade\n }}\n}}\n"
    )
}

/// What was set in the kernel. [`Nat::end`] takes it back.
pub(super) struct Nat {
    /// Files of switches, and what stood in them.
    switches: Vec<(PathBuf, String)>,
    /// Where that is written down, so that a crash does not make us forget it.
    record: Option<PathBuf>,
}

impl Nat {
    /// Sets up a gateway: its table, and forwarding. What stood in the kernel's switches is kept in the file `record`.
    pub(super) fn gateway(rules: &GatewayRules<'_>, record: PathBuf) -> Result<Self, NatError> {
        let text = fs::read_to_string(&record).unwrap_or_default();
        let mut nat = Self { switches: read_switches(&text), record: Some(record) };
        replace(&rules.text())?;
        if let Err(error) = nat.forward() {
            nat.end();
            return Err(error);
        }
        Ok(nat)
    }

    /// Sets up a client: its table.
    pub(super) fn client(tun: &str) -> Result<Self, NatError> {
        replace(&client_text(tun))?;
        Ok(Self { switches: Vec::new(), record: None })
    }

    /// Lets the kernel forward. Interfaces that take their routes from advertisements keep doing so, which they would
    /// stop when they forward (`accept_ra` of the kernel's ip-sysctl document).
    fn forward(&mut self) -> Result<(), NatError> {
        let ipv6 = PathBuf::from("/proc/sys/net/ipv6/conf/all/forwarding");
        if fs::read_to_string(&ipv6).is_ok_and(|text| text.trim() == "0") {
            for entry in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
                let path = entry.path().join("accept_ra");
                if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
                    self.switch(path, "2")?;
                }
            }
        }
        self.switch(ipv6, "1")?;
        self.switch("/proc/sys/net/ipv4/ip_forward".into(), "1")
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
                tracing::info!(switch = %path.display(), %was, value, "set, until the gateway stops");
                self.switches.push((path, was));
                self.keep();
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
            if let Err(error) = fs::write(path, was) {
                tracing::warn!(%error, switch = %path.display(), "not set back");
            }
        }
        if let Some(record) = &self.record {
            // There may be none: nothing had to be set.
            let _absent = fs::remove_file(record);
        }
    }

    fn keep(&self) {
        let lines: String = self.switches.iter().map(|(path, was)| format!("{was} {}\n", path.display())).collect();
        if let Some(record) = &self.record
            && let Err(error) = fs::write(record, lines)
        {
            tracing::warn!(%error, file = %record.display(), "after a crash the kernel would go on forwarding");
        }
    }
}

/// What [`Nat::keep`] wrote; only switches of the network are set by it.
fn read_switches(text: &str) -> Vec<(PathBuf, String)> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let ours = lines.filter(|(_, path)| path.starts_with("/proc/sys/net/") && !path.contains(".."));
    ours.map(|(was, path)| (path.into(), was.to_owned())).collect()
}

/// One transaction: an old table goes and the new one is there, or nothing has changed.
fn replace(table: &str) -> Result<(), NatError> {
    nft(&format!("table {TABLE}\ndelete table {TABLE}\n{table}"))
}

fn nft(commands: &str) -> Result<(), NatError> {
    let no_program = |source| NatError::NoProgram { source };
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(no_program)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says why.
        let _refused = stdin.write_all(commands.as_bytes());
    }
    let output = child.wait_with_output().map_err(no_program)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it said nothing").to_owned();
    Err(NatError::Refused { said })
}

/// The first name server of this machine that others can be sent to; IPv4, as the inner address is.
pub(super) fn own_resolver() -> Option<IpAddr> {
    first_resolver(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn first_resolver(text: &str) -> Option<IpAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let mut addresses = servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    addresses.find(|address| address.is_ipv4() && !address.is_loopback() && !address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::in_own_namespace;

    fn rules(dns: Option<IpAddr>) -> GatewayRules<'static> {
        let pool = "100.64.0.0/10".parse().unwrap();
        GatewayRules { tun: "waybill-gw0", mesh: "waybill0", uplink: Some("eth0"), pool, dns }
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
            assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
            drop(nat); // It crashes, and is there again.
            Nat::gateway(&rules(dns), record.clone()).unwrap().end();
            assert_eq!(listed(), others);
            assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "0");
            assert!(!record.exists());
        }
        let nat = Nat::client("waybill-net0").unwrap();
        assert!(listed().contains("oifname \"waybill-net0\" masquerade"));
        nat.end();
        assert_eq!(listed(), others);
        assert!(matches!(nft("nonsense"), Err(NatError::Refused { .. })));
    }
}
