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
        let host = lab.host(name);
        let (router_at, _) = lab.cable(&router.host, &host);
        let private_key = here(&["wg", "genkey"]);
        let key_file = lab.dir().join(format!("{name}.key"));
        write_private(&key_file, private_key.as_bytes(), 0o600);
        let public_key = here(&["sh", "-c", &format!("wg pubkey < {}", text(&key_file))]);
        let address = format!("{}:1::2", router.prefix);
        router.options.tables.push(format!(
            "[[leaf]]\nname = \"{name}\"\nwireguard_key = \"{public_key}\"\naddresses = [\"{address}/128\"]\n"
        ));

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
