//! WireGuard devices in user space, set up as a router would be: one device on each machine, a peer to each side, and the
//! kernel forwards between them.

use std::fs;
use std::path::Path;

use crate::contender::Contender;
use crate::lab::{Background, Host, Lab, here, secs, until};
use crate::line::{Daemon, Node};
use crate::router::{WIREGUARD_PORT, text, write_private};

/// The overlay: the machines are `::1`, `::2` and so on.
const OVERLAY: &str = "fd00:7::";

/// A device and the program behind it.
pub(crate) struct Device {
    name: String,
    public_key: String,
    program: Background,
}

impl Device {
    fn start(lab: &Lab, host: &Host, contender: &Contender, options: &[&str], at: usize) -> Self {
        // The sockets of all devices of the machine the bench runs on are in one directory.
        let name = format!("wb{}n{at}", std::process::id());
        let line = [&[text(&contender.program)], options, &[&name]].concat();
        let mut program = host.start(&lab.dir().join(format!("{name}.log")), &line);
        until(&format!("device of {}", contender.name), secs(10), || match Path::new(&socket(&name)).exists() {
            true => Ok(()),
            false if program.is_running() => Err(program.log()),
            false => panic!("{} ended: {}", contender.name, program.log()),
        });
        let key_file = lab.dir().join(format!("{name}.key"));
        write_private(&key_file, here(&["wg", "genkey"]).as_bytes(), 0o600);
        let port = WIREGUARD_PORT.to_string();
        host.must(&["wg", "set", &name, "private-key", text(&key_file), "listen-port", &port]);
        let public_key = here(&["sh", "-c", &format!("wg pubkey < {}", text(&key_file))]);
        host.must(&["ip", "address", "add", &format!("{}/128", address(at)), "dev", &name, "nodad"]);
        host.must(&["ip", "link", "set", &name, "mtu", "1420", "up"]);
        host.must(&["ip", "route", "add", &format!("{OVERLAY}/64"), "dev", &name]);
        host.must(&["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"]);
        Self { name, public_key, program }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = fs::remove_file(socket(&self.name));
    }
}

/// Builds a line in which each machine reaches those to its left and to its right through the neighbour on that side.
pub(crate) fn line(lab: &mut Lab, contender: &Contender, options: &[&str], machines: usize) -> Vec<Node> {
    let hosts: Vec<Host> = (0..machines).map(|at| lab.host(&format!("w{at}"))).collect();
    let cables: Vec<(String, String)> = hosts.windows(2).map(|pair| lab.cable(&pair[0], &pair[1])).collect();
    let start = |(at, host): (usize, &Host)| Device::start(lab, host, contender, options, at);
    let devices: Vec<Device> = hosts.iter().enumerate().map(start).collect();
    for (left, (left_at, right_at)) in cables.iter().enumerate() {
        let right = left + 1;
        add_peer(&hosts[left], &devices[left], &devices[right], right_at, right..machines);
        add_peer(&hosts[right], &devices[right], &devices[left], left_at, 0..right);
    }
    let node = |((at, host), device)| Node::new(contender, host, address(at), Daemon::WireGuard(device));
    hosts.into_iter().enumerate().zip(devices).map(node).collect()
}

fn add_peer(host: &Host, device: &Device, peer: &Device, at: &str, behind: std::ops::Range<usize>) {
    let allowed: Vec<String> = behind.map(|at| format!("{}/128", address(at))).collect();
    let (endpoint, allowed) = (format!("{at}:{WIREGUARD_PORT}"), allowed.join(","));
    host.must(&["wg", "set", &device.name, "peer", &peer.public_key, "endpoint", &endpoint, "allowed-ips", &allowed]);
}

fn address(at: usize) -> String {
    format!("{OVERLAY}{}", at + 1)
}

/// Where `wg` finds the program.
fn socket(device: &str) -> String {
    format!("/var/run/wireguard/{device}.sock")
}
