//! `waybill leaf`: what it prints is given to a stock WireGuard client.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::lab::{Background, Host, Lab, here, now, say, secs, until};
use crate::router::{PEERS, Router, TUN, join, joined, text};
use crate::traffic::{Pings, ping, reachable};

/// The modules of a code that is shown in a terminal, as an image of grey bytes, with a wider margin.
fn image(shown: &str) -> Vec<u8> {
    const SCALE: usize = 4;
    let mut rows: Vec<Vec<u8>> = Vec::new();
    for line in shown.lines().filter_map(|line| line.strip_prefix("\u{1b}[97;40m")) {
        let cells: Vec<char> = line.trim_end_matches("\u{1b}[0m").chars().collect();
        for light in ["█▀", "█▄"] {
            rows.push(cells.iter().map(|cell| if light.contains(*cell) { 255 } else { 0 }).collect());
        }
    }
    // The last line's lower half is below the code.
    rows.pop();
    let (width, height) = (rows.first().map_or(0, Vec::len), rows.len());
    let mut image = format!("P5 {} {} 255\n", SCALE * (width + 4), SCALE * (height + 4)).into_bytes();
    let margin = vec![255; 2];
    let wide = |row: &[u8]| -> Vec<u8> {
        let row = [&margin, row, &margin].concat();
        row.iter().flat_map(|cell| [*cell; SCALE]).collect()
    };
    let blank = vec![255; width];
    let all = [&[blank.clone(), blank.clone()][..], &rows, &[blank.clone(), blank]].concat();
    for row in all {
        (0..SCALE).for_each(|_| image.extend(wide(&row)));
    }
    image
}

/// How many phones there were.
static PHONES: AtomicU32 = AtomicU32::new(0);

/// A stock WireGuard client on a machine, set up as `wg-quick` does it.
pub(crate) struct Phone {
    _wireguard: Background,
    socket: String,
}

impl Phone {
    /// With a config file of `waybill leaf add`.
    pub(crate) fn start(lab: &Lab, host: &Host, config: &str) -> Self {
        let field = |name: &str| {
            let line = config.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='));
            line.unwrap_or_else(|| panic!("no {name} in {config}")).trim().to_owned()
        };
        let (addresses, mtu, allowed) = (field("Address"), field("MTU"), field("AllowedIPs"));
        let ours = ["Address", "MTU", "DNS", "#"];
        let lines = config.lines().filter(|line| !ours.iter().any(|name| line.starts_with(name)));
        // Their sockets are in one folder, whatever machine each is on.
        let number = PHONES.fetch_add(1, Ordering::Relaxed);
        let device = format!("phone{}_{}", std::process::id(), number % 10);
        let file = lab.dir().join(format!("{device}.conf"));
        crate::router::write_private(&file, lines.collect::<Vec<_>>().join("\n").as_bytes(), 0o600);
        let socket = format!("/var/run/wireguard/{device}.sock");
        let wireguard =
            host.start(&lab.dir().join(format!("{device}.log")), &["wireguard-go", "--foreground", &device]);
        until("wireguard-go", secs(10), || if Path::new(&socket).exists() { Ok(()) } else { Err(wireguard.log()) });
        host.must(&["wg", "setconf", &device, text(&file)]);
        for address in addresses.split(", ") {
            let more = if address.contains(':') { &["nodad"][..] } else { &[] };
            host.must(&[&["ip", "address", "add", address, "dev", &device], more].concat());
        }
        host.must(&["ip", "link", "set", &device, "mtu", &mtu, "up"]);
        for prefix in allowed.split(", ") {
            host.must(&["ip", "route", "add", prefix, "dev", &device]);
        }
        Self { _wireguard: wireguard, socket }
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.socket);
    }
}

#[test]
fn a_phone_that_scans_what_leaf_add_prints_reaches_the_mesh() {
    let tools = ["ping", "wireguard-go", "wg"];
    let Some(mut lab) = Lab::open("a_phone_that_scans_what_leaf_add_prints_reaches_the_mesh", &tools) else { return };
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, PEERS);
    let phone = lab.host("phone");
    let (r1_at, _) = lab.cable(&r1.host, &phone);
    r1.start();
    r2.start();
    joined(&r1, &r2);

    let began = now();
    let (waybill, config_file) = (r1.waybill.clone(), r1.config_file());
    let leaf = |more: &[&str]| here(&[&[text(&waybill), "leaf"], more, &["--config", text(&config_file)]].concat());
    let shown = leaf(&["add", "phone", "--endpoint", &r1_at]);
    assert!(shown.contains("# the running router knows it"), "{shown}");
    let config: String = shown.split("\u{1b}").next().unwrap_or_default().to_owned();
    let is_scanned = ["/usr/bin/zbarimg"].iter().any(|path| Path::new(path).is_file());
    if is_scanned {
        let file = lab.dir().join("code.pgm");
        fs::write(&file, image(&shown)).expect("room for an image");
        let read = here(&["zbarimg", "--raw", "-q", text(&file)]);
        assert!(config.contains(read.trim()) && read.starts_with("[Interface]"), "{read}\nis not\n{config}");
    } else {
        say("skipped: scanning the QR code: there is no zbarimg (Debian: zbar-tools)");
    }

    let _phone_is_on = Phone::start(&lab, &phone, &config);
    reachable(&phone, &r2.address, secs(20));
    let took = began.elapsed();
    let all = Ok(Pings { sent: 20, answered: 20 });
    assert_eq!(ping(&phone, &r1.address, 20, &[]), all);
    assert_eq!(ping(&phone, &r2.address, 20, &["-s", "1200"]), all);
    lab.figures(&format!(
        "a phone reached the mesh {:.1} s after `waybill leaf add`; its QR code was {}",
        took.as_secs_f64(),
        if is_scanned { "scanned" } else { "not scanned" }
    ));

    // And a leaf that is removed is let in no more; the file is as it was.
    let before = r1.config();
    let listed: Value = serde_json::from_str(&leaf(&["list", "--json"])).expect("JSON");
    assert_eq!(listed[0]["name"], "phone", "{listed}");
    leaf(&["remove", "phone"]);
    assert_eq!(fs::read_to_string(r1.config_file()).expect("a config file").trim_end(), before.trim_end());
    until("the end of the phone's link", secs(10), || {
        let pings = ping(&phone, &r1.address, 3, &[])?;
        if pings.answered == 0 { Ok(()) } else { Err(format!("{pings:?} through {TUN}")) }
    });
}
