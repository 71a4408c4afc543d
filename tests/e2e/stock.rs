//! A stock WireGuard client, `wireguard-go`, on a machine of its own.

use std::fs;
use std::path::Path;

use crate::lab::{Background, Host, Lab, here, secs, until};
use crate::router::{Router, WIREGUARD_PORT, text, write_private};

/// The machine and its tunnel to one router.
pub(crate) struct Stock {
    pub(crate) host: Host,
    /// Its address, out of the router's /48.
    pub(crate) address: String,
    /// Its network device.
    pub(crate) device: String,
    _wireguard: Background,
}

impl Stock {
    /// Lays a cable to the router and writes the client into the router's config, then starts it. The client sends all of
    /// the mesh and all link-local traffic into the tunnel.
    pub(crate) fn new(lab: &mut Lab, name: &'static str, router: &mut Router) -> Self {
        let address = format!("{}:1::2", router.prefix);
        let table = format!("addresses = [\"{address}/128\"]");
        Self::connect(lab, name, router, address, &table)
    }

    /// The same for a router that is to run a Babel daemon of its own in the tunnel: it has an address of its own,
    /// and a link-local one.
    pub(crate) fn routing(lab: &mut Lab, name: &'static str, router: &mut Router) -> Self {
        let stock = Self::connect(lab, name, router, "fd99:99:99::1".to_owned(), "babel = true");
        stock.host.must(&["ip", "-6", "route", "del", "fd00::/8", "dev", &stock.device]);
        stock.host.must(&["ip", "-6", "address", "add", "fe80::99/64", "dev", &stock.device, "nodad"]);
        stock
    }

    fn connect(lab: &mut Lab, name: &'static str, router: &mut Router, address: String, table: &str) -> Self {
        let host = lab.host(name);
        let (router_at, _) = lab.cable(&router.host, &host);
        let private_key = here(&["wg", "genkey"]);
        let key_file = lab.dir().join(format!("{name}.key"));
        write_private(&key_file, private_key.as_bytes(), 0o600);
        let public_key = here(&["sh", "-c", &format!("wg pubkey < {}", text(&key_file))]);
        router.options.tables.push(format!("[[leaf]]\nname = \"{name}\"\nwireguard_key = \"{public_key}\"\n{table}\n"));

        let device = format!("leaf{}", std::process::id());
        let mut wireguard =
            host.start(&lab.dir().join(format!("{name}.log")), &["wireguard-go", "--foreground", &device]);
        let socket = socket(&device);
        until("wireguard-go", secs(10), || match Path::new(&socket).exists() {
            true => Ok(()),
            false if wireguard.is_running() => Err(wireguard.log()),
            false => panic!("wireguard-go ended: {}", wireguard.log()),
        });
        let endpoint = format!("{router_at}:{WIREGUARD_PORT}");
        host.must(&[
            "wg",
            "set",
            &device,
            "private-key",
            text(&key_file),
            "peer",
            &router.wireguard_key,
            "endpoint",
            &endpoint,
            "allowed-ips",
            "fd00::/8,fe80::/10,ff02::/16",
        ]);
        host.must(&["ip", "-6", "address", "add", &format!("{address}/128"), "dev", &device, "nodad"]);
        host.must(&["ip", "link", "set", &device, "mtu", "1420", "up"]);
        host.must(&["ip", "-6", "route", "add", "fd00::/8", "dev", &device]);
        Self { host, address, device, _wireguard: wireguard }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = fs::remove_file(socket(&self.device));
    }
}

/// Where `wg` finds wireguard-go.
fn socket(device: &str) -> String {
    format!("/var/run/wireguard/{device}.sock")
}
