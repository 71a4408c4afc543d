//! The mixed ring again, each link a WireGuard tunnel between two wireguard-go.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::lab::{Background, Host, Lab, here, now, secs, until};
use crate::machine::{Cable, Network, Pace, Who};
use crate::pulse::{Pulse, outage};
use crate::ring::{BABELD, BIRD, HEALED_WITHIN, MIXED, OURS, cut_and_mend, gone_everywhere};

const PORT: usize = 51_820;

/// One end of a tunnel.
struct End {
    host: Host,
    device: String,
    link_local: String,
    key: PathBuf,
    public_key: String,
    port: usize,
    log: PathBuf,
    wireguard: Option<Background>,
}

impl End {
    /// `number` is unlike that of any other end of this test.
    fn new(lab: &Lab, host: &Host, number: usize) -> Self {
        let private_key = here(&["wg", "genkey"]);
        let key = lab.dir().join(format!("wg{number}.key"));
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&key).expect("a new file");
        file.write_all(private_key.as_bytes()).expect("room for a key");
        Self {
            host: host.clone(),
            // wireguard-go's control sockets are in one place for all namespaces.
            device: format!("wg{}x{number}", std::process::id()),
            link_local: format!("fe80::{number:x}"),
            public_key: here(&["sh", "-c", &format!("wg pubkey < {}", key.display())]),
            key,
            port: PORT + number,
            log: lab.dir().join(format!("wg{number}.log")),
            wireguard: None,
        }
    }

    /// Starts wireguard-go, and sets the device up as one does the kernel's WireGuard, which has no address by itself.
    fn start(&mut self, peer: &Peer) {
        let Self { host, device, .. } = self;
        let mut wireguard = host.start(&self.log, &["wireguard-go", "--foreground", device]);
        let socket = socket(device);
        until("wireguard-go", secs(20), || match Path::new(&socket).exists() {
            true => Ok(()),
            false if wireguard.is_running() => Err(wireguard.log()),
            false => panic!("wireguard-go ended: {}", wireguard.log()),
        });
        self.wireguard = Some(wireguard);
        let (key, port) = (self.key.display().to_string(), self.port.to_string());
        let ours = ["wg", "set", device, "private-key", &key, "listen-port", &port];
        let theirs = ["peer", &peer.public_key, "endpoint", &peer.endpoint, "allowed-ips", "0.0.0.0/0,::/0"];
        host.must(&[&ours[..], &theirs].concat());
        host.must(&["ip", "link", "set", device, "addrgenmode", "none"]);
        host.must(&["ip", "address", "add", &format!("{}/64", self.link_local), "dev", device, "nodad"]);
        host.must(&["ip", "link", "set", device, "mtu", "1420", "up"]);
    }

    fn kill(&mut self) {
        self.wireguard = None;
        let _ = fs::remove_file(socket(&self.device));
    }

    /// As the other end has to know it.
    fn as_peer(&self, address: &str) -> Peer {
        Peer { public_key: self.public_key.clone(), endpoint: format!("{address}:{}", self.port) }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Peer {
    public_key: String,
    endpoint: String,
}

/// Where `wg` finds wireguard-go.
fn socket(device: &str) -> String {
    format!("/var/run/wireguard/{device}.sock")
}

/// The addresses below tunnel `number`.
fn below(number: usize) -> [String; 2] {
    [1, 2].map(|end| format!("10.9.{number}.{end}"))
}

/// Joins two machines by a cable, and by a tunnel over it, on which the daemons run.
fn join(lab: &mut Lab, network: &mut Network, a: usize, b: usize) -> [End; 2] {
    let number = network.cables.len();
    let cable = lab.link_local_cable(&network.machines[a].host, &network.machines[b].host);
    let cable = [cable.0, cable.1];
    let mut ends = [(a, 2 * number + 1), (b, 2 * number + 2)]
        .map(|(place, number)| End::new(lab, &network.machines[place].host, number));
    for ((end, interface), address) in ends.iter().zip(&cable).zip(below(number)) {
        end.host.must(&["ip", "address", "add", &format!("{address}/24"), "dev", interface]);
    }
    let [at_a, at_b] = below(number);
    let (peer_a, peer_b) = (ends[0].as_peer(&at_a), ends[1].as_peer(&at_b));
    ends[0].start(&peer_b);
    ends[1].start(&peer_a);
    let devices = [(a, ends[0].device.clone()), (b, ends[1].device.clone())];
    network.use_cable(Cable { ends: devices, below: cable }, Pace::Brisk, true);
    ends
}

#[test]
fn a_mixed_ring_over_wireguard_reaches_everything_and_heals() {
    let tools = ["babeld", "bird", "birdc", "nft", "ping", "wg", "wireguard-go"];
    let Some(mut lab) = Lab::open("a_mixed_ring_over_wireguard_reaches_everything_and_heals", &tools) else { return };
    let mut ring = Network::new(&mut lab, &MIXED);
    let count = ring.machines.len();
    let mut tunnels: Vec<[End; 2]> =
        (0..count).map(|place| join(&mut lab, &mut ring, place, (place + 1) % count)).collect();
    ring.start();
    let met = ring.all_know_all(secs(60));
    ring.all_reach_all(secs(20));
    lab.figures(&format!("12 wireguard-go: all know all after {:.1} s", met.as_secs_f64()));

    for cable in [BABELD, BIRD] {
        let figures = cut_and_mend(&lab, &ring, cable, Who::Ours, "silent cut", |cut| match cut {
            true => ring.cut_silently(cable),
            false => ring.mend(cable),
        });
        lab.figures(&figures);
    }

    // The tunnel's program dies at our end, and its device with it; it comes back as another device of the same name.
    ring.used_by(Who::Both, OURS, secs(90));
    let pulses = [Pulse::start(&lab, &ring.machines[OURS], &ring.machines[BIRD])];
    let [here, there] = &mut tunnels[OURS];
    here.kill();
    let away = outage(&pulses, HEALED_WITHIN);
    here.start(&there.as_peer(&below(OURS)[1]));
    let back = ring.used_by(Who::Both, OURS, secs(90)).map(|time| time.unwrap_or_default().as_secs_f64());
    lab.figures(&format!(
        "wireguard-go between ours and BIRD dies: {:.1} s of outage; after its return, short path again: ours {:.1} s, \
         BIRD {:.1} s",
        away.as_secs_f64(),
        back[0],
        back[1],
    ));

    for place in [OURS, BABELD, BIRD] {
        ring.machines[place].kill();
        let gone = gone_everywhere(&ring, place, secs(60));
        let started = now();
        ring.machines[place].start();
        ring.all_know_all(secs(60));
        ring.all_reach_all(secs(20));
        lab.figures(&format!(
            "{} loses power: gone after {gone}; everything reaches everything {:.1} s after its start",
            ring.machines[place].name,
            started.elapsed().as_secs_f64(),
        ));
    }
}
