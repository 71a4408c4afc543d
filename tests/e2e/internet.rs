//! The Internet through a gateway: a household, a relay, gateways, and an Internet of one machine behind them.

use std::fs;

use crate::capture::{Capture, Captured};
use crate::lab::{Background, Host, Lab, here, now, secs, until};
use crate::router::{BY_ROUTES, Router, TUN, WIREGUARD_PORT, join, join_at, joined, text};

/// What the Internet's machine is called and known by.
pub(crate) const NAME: &str = "www.internet.example";
pub(crate) const IPV4: &str = "198.51.100.80";
pub(crate) const IPV6: &str = "2001:db8:80::80";
pub(crate) const NAME_SERVER: &str = "198.51.100.53";
/// What its page says.
pub(crate) const TEXT: &str = "the household reads this and no relay does";
/// The device of sessions in the household.
const CLIENT_TUN: &str = "waybill-net0";
/// Between the two, as the mesh carries it.
const SESSION_PORT: u16 = 51821;

/// A machine that is the whole Internet: a page, and a name server.
pub(crate) struct Internet {
    host: Host,
    _web: Background,
    _names: Background,
}

impl Internet {
    /// Joins it to gateways by a cable each, which is their way out.
    fn behind(lab: &mut Lab, gateways: &mut [&mut Router]) -> Self {
        let internet = Self::start(lab);
        for gateway in gateways {
            let device = internet.way_out(lab, &gateway.host);
            gateway.options.tables.push(format!(
                "[gateway]\nuplink = \"{device}\"\ndns = [\"{NAME_SERVER}\"]\ncontact = \"abuse@{}.example\"\n\
                 refuse = [\"tcp/81\"]\nclient_cap_day = \"{}\"\n",
                gateway.name,
                if gateway.name == "small" { "1 MiB" } else { "10 GiB" },
            ));
        }
        internet
    }

    /// Joined to nobody yet.
    pub(crate) fn start(lab: &mut Lab) -> Self {
        let host = lab.host("internet");
        for (address, len) in [(IPV4, "32"), (NAME_SERVER, "32"), (IPV6, "128")] {
            host.must(&["ip", "address", "add", &format!("{address}/{len}"), "dev", "lo"]);
        }
        let pages = lab.dir().join("pages");
        fs::create_dir(&pages).expect("a new directory");
        fs::write(pages.join("page"), format!("{TEXT}\n").repeat(5000)).expect("room for a page");
        fs::write(pages.join("large"), vec![b'x'; 30_000_000]).expect("room for a file");
        let web = ["python3", "-m", "http.server", "--bind", "::", "--directory", text(&pages), "80"];
        let web = host.start(&lab.dir().join("web.log"), &web);
        let script = lab.dir().join("name_server.py");
        fs::write(&script, include_str!("name_server.py")).expect("room for a script");
        let names = ["python3", text(&script), NAME_SERVER, IPV4, IPV6];
        let names = host.start(&lab.dir().join("names.log"), &names);
        until("name server", secs(10), || if names.log().contains("ready") { Ok(()) } else { Err(names.log()) });
        until("web server", secs(10), || host.run(&["curl", "-sf", "-o", "/dev/null", &format!("http://{IPV4}/page")]));
        Self { host, _web: web, _names: names }
    }

    /// A cable to it from a machine whose way out that is, and the name of the machine's end.
    pub(crate) fn way_out(&self, lab: &mut Lab, of: &Host) -> String {
        let (near, there) = lab.cable(of, &self.host);
        let number = near.split('.').nth(2).expect("four numbers").to_owned();
        let device = format!("cable{number}a");
        for (end, host, device) in [(1, of, &device), (2, &self.host, &format!("cable{number}b"))] {
            host.must(&["sh", "-c", &format!("echo 0 > /proc/sys/net/ipv6/conf/{device}/disable_ipv6")]);
            let address = format!("2001:db8:{number}::{end}/64");
            host.must(&["ip", "address", "add", &address, "dev", device, "nodad"]);
        }
        of.must(&["ip", "route", "add", "default", "via", &there]);
        of.must(&["ip", "-6", "route", "add", "default", "via", &format!("2001:db8:{number}::2")]);
        device
    }
}

/// Reads the page, with so much patience.
pub(crate) fn read(from: &Host, server: &str, patience: &str) -> Result<(), String> {
    let page = from.run(&["curl", "-sf", "--max-time", patience, &format!("http://{server}/page")])?;
    if page.lines().filter(|line| *line == TEXT).count() == 5000 { Ok(()) } else { Err("another page".to_owned()) }
}

pub(crate) fn uses(house: &Router, gateway: &str) -> Result<(), String> {
    let state = house.show("internet")?;
    if state["in_use"] == gateway { Ok(()) } else { Err(format!("{state}")) }
}

pub(crate) fn holds(captured: &Captured, what: &[u8]) -> bool {
    captured.packets.iter().any(|packet| packet.bytes.windows(what.len()).any(|bytes| bytes == what))
}

#[test]
fn a_household_reaches_the_internet_and_its_relay_sees_only_ciphertext() {
    let name = "a_household_reaches_the_internet_and_its_relay_sees_only_ciphertext";
    let Some(mut lab) = Lab::open(name, &["curl", "python3", "nft", "tcpdump"]) else { return };
    let [mut house, mut relay, mut gateway] = ["house", "relay", "gateway"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut house, &mut relay, BY_ROUTES);
    join(&mut lab, &mut relay, &mut gateway, BY_ROUTES);
    let internet = Internet::behind(&mut lab, &mut [&mut gateway]);
    // The house knows no more than the gateway's address.
    house.options.tables.push(format!("[internet]\ngateways = [\"{}\"]\n", gateway.address));
    let lan = lab.host("lan");
    let (house_at, _) = lab.cable(&house.host, &lan);
    lan.must(&["ip", "route", "add", "default", "via", &house_at]);
    house.host.must(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);

    // The kernel's own link-local address on the way out is ready.
    until("quiet", secs(10), || match gateway.host.stack() {
        stack if stack.contains("tentative") => Err(stack),
        _ => Ok(()),
    });
    let stacks = (gateway.host.stack(), house.host.stack());
    gateway.host.must(&["nft", "add", "table", "inet", "others"]);
    for router in [&mut relay, &mut gateway, &mut house] {
        router.start();
    }
    joined(&house, &relay);
    joined(&relay, &gateway);
    until("lease", secs(30), || uses(&house, &gateway.address));

    // What a relay opens is what the mesh's device carries; what is on its cables is sealed once more.
    let devices = [(&house.host, TUN), (&relay.host, "cable1b"), (&relay.host, "cable2a"), (&house.host, CLIENT_TUN)];
    let captures = devices.map(|(host, device)| Capture::start(&lab, host, device, "ip or ip6"));
    for server in [IPV4.to_owned(), format!("[{IPV6}]")] {
        read(&house.host, &server, "20").unwrap_or_else(|error| panic!("{server}: {error}"));
    }
    let resolv_conf = house.state_dir().join("resolv.conf");
    let by_name =
        format!("mount --bind {} /etc/resolv.conf && curl -sf http://{NAME}/page | head -c 19", text(&resolv_conf));
    assert_eq!(house.host.must(&["sh", "-c", &by_name]), TEXT[..19]);
    read(&lan, IPV4, "20").expect("a machine in the LAN reads it too");
    let [mesh, cable, next_cable, inside] = captures.map(Capture::end);

    let state = house.show("internet").expect("an answer");
    let octets = |name: &str| match state[name].as_str().expect("an address").parse().expect("an address") {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    let secrets = [TEXT.as_bytes().to_vec(), NAME.as_bytes()[..8].to_vec(), octets("ipv4"), octets("ipv6")];
    for secret in &secrets {
        assert!(holds(&inside, secret), "{secret:?} is inside the session");
        for capture in [&mesh, &cable, &next_cable] {
            assert!(!holds(capture, secret), "{secret:?} is seen on the way");
        }
    }
    let between = |packet: &&crate::capture::Packet| {
        let ports = [packet.bytes[40..42].to_vec(), packet.bytes[42..44].to_vec()];
        packet.bytes[6] == 17 && ports.iter().all(|port| port[..] == SESSION_PORT.to_be_bytes())
    };
    let others: Vec<_> = mesh.packets.iter().filter(|packet| !between(packet)).collect();
    assert!(others.is_empty(), "the mesh carries the session and nothing else of it: {others:?}");
    let sealed = mesh.packets.len();

    // What has another source than the lease's does not leave the household: its own address is nobody's business.
    let script = lab.dir().join("send_raw.py");
    fs::write(&script, include_str!("send_raw.py")).expect("room for a script");
    let outside = Capture::start(&lab, &internet.host, "cable3b", "udp port 9");
    let wrong = [("100.64.9.9", IPV4), ("fc99::1", IPV6), (house.address.as_str(), IPV6)];
    for (source, to) in wrong {
        house.host.must(&["python3", text(&script), CLIENT_TUN, source, to]);
    }
    read(&house.host, IPV4, "20").expect("what came after them is here");
    let state = gateway.show("gateway").expect("an answer");
    assert_eq!(state["clients"][0]["spoofed_packets"], 0, "{state}");
    // The gateway's own network is not the Internet.
    for private in ["10.0.3.1", "10.0.2.2", "100.64.0.1"] {
        let refused = house.host.run(&["curl", "-sf", "--max-time", "1", &format!("http://{private}/page")]);
        assert!(refused.is_err(), "{private}");
    }
    assert!(outside.end().packets.is_empty());
    // Somebody else's firewall begins with this. Packets are looked at all the same, and the rules come back.
    gateway.host.must(&["nft", "flush", "ruleset"]);
    gateway.host.must(&["nft", "add", "table", "inet", "others"]);
    let refused = house.host.run(&["curl", "-sf", "--max-time", "1", "http://10.0.3.1/page"]);
    assert!(refused.is_err(), "the gateway's own network without rules");
    until("the rules again", secs(15), || {
        let table = gateway.host.run(&["nft", "list", "table", "inet", "waybill"])?;
        if table.contains("masquerade") { Ok(()) } else { Err(table) }
    });
    read(&house.host, IPV4, "20").expect("it serves on");
    // What the gateway's owner does not carry is answered at once, and counted.
    let (began, port) = (now(), format!("http://{IPV4}:81/"));
    assert!(house.host.run(&["curl", "-sf", "--max-time", "10", &port]).is_err() && began.elapsed() < secs(5));
    let counter = gateway.host.must(&["nft", "list", "counter", "inet", "waybill", "not_carried"]);
    assert!(counter.contains("packets ") && !counter.contains("packets 0"), "{counter}");
    assert_eq!(house.show("internet").expect("an answer")["gateways"][0]["refuse"][0], "tcp/81");
    let shown = gateway.show("gateway").expect("an answer");
    assert!(shown["clients"][0]["forbidden_packets"].as_u64() > Some(0), "{shown}");
    until("a count of that", secs(5), || {
        let state = gateway.show("gateway")?;
        if state["rules_put_back"] == 1 { Ok(()) } else { Err(format!("{state}")) }
    });
    let status = gateway.show("status").expect("an answer");
    assert_eq!(status["gateway"]["served"], 1, "{status}");
    let status = house.show("status").expect("an answer");
    assert_eq!(status["internet"]["in_use"].as_str(), Some(gateway.address.as_str()), "{status}");
    assert!(shown["clients"][0]["received_bytes"].as_u64() > Some(500_000), "{shown}");
    let before = relay.meter(&house).expect("a meter").sent;
    let began = now();
    house.host.must(&["curl", "-sf", "-o", "/dev/null", &format!("http://[{IPV6}]/large")]);
    let ipv6 = 240.0 / began.elapsed().as_secs_f64();
    until("the relay's count of it", secs(10), || match relay.meter(&house)?.sent - before {
        counted @ 30_000_000..36_000_000 => Ok(counted),
        counted => Err(format!("{counted}")),
    });
    let began = now();
    house.host.must(&["curl", "-sf", "-o", "/dev/null", &format!("http://{IPV4}/large")]);
    let ipv4 = 240.0 / began.elapsed().as_secs_f64();

    // After a crash and an end in order there is nothing left, and others' tables are as they were.
    gateway.kill();
    assert!(gateway.host.must(&["nft", "list", "tables"]).contains("inet waybill"), "a crash leaves it");
    gateway.start();
    until("the Internet again", secs(30), || read(&house.host, IPV4, "2"));
    gateway.stop();
    assert_eq!(gateway.host.must(&["nft", "list", "tables"]), "table inet others");
    house.stop();
    assert_eq!(house.host.must(&["nft", "list", "tables"]), "");
    assert_eq!((gateway.host.stack(), house.host.stack()), stacks);
    assert_eq!(gateway.host.must(&["cat", "/proc/sys/net/ipv6/conf/all/forwarding"]), "0");
    assert!(!resolv_conf.exists());
    lab.figures(&format!(
        "{sealed} packets of the mesh, none in the clear; 30 MB by IPv6 at {ipv6:.0} Mbit/s, by IPv4 at {ipv4:.0} Mbit/s"
    ));
}

#[test]
fn when_a_gateway_dies_the_next_one_serves_within_seconds_with_the_same_addresses() {
    let name = "when_a_gateway_dies_the_next_one_serves_within_seconds_with_the_same_addresses";
    let Some(mut lab) = Lab::open(name, &["curl", "python3", "nft"]) else { return };
    let [mut house, mut relay, mut first, mut second] =
        ["house", "relay", "first", "second"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut house, &mut relay, BY_ROUTES);
    join(&mut lab, &mut relay, &mut first, BY_ROUTES);
    join(&mut lab, &mut relay, &mut second, BY_ROUTES);
    let _internet = Internet::behind(&mut lab, &mut [&mut first, &mut second]);
    house.options.tables.push(format!("[internet]\ngateways = [\"{}\", \"{}\"]\n", first.address, second.address));
    for router in [&mut relay, &mut first, &mut second, &mut house] {
        router.start();
    }
    let ready = |house: &Router| {
        let state = house.show("internet")?;
        let all = state["gateways"].as_array().is_some_and(|all| all.iter().all(|one| one["answers"] == true));
        if all { Ok(state) } else { Err(format!("{state}")) }
    };
    until("both gateways", secs(40), || ready(&house));
    until("the first gateway in use", secs(60), || uses(&house, &first.address));
    let before = house.show("internet").expect("an answer");

    let mut took = Vec::new();
    for busy in [true, false] {
        if busy {
            read(&house.host, IPV4, "10").expect("the page by the first gateway");
        }
        let killed = now();
        first.kill();
        until("the page by the second gateway", secs(20), || read(&house.host, IPV4, "1"));
        took.push(killed.elapsed());
        uses(&house, &second.address).expect("it is the second");
        read(&house.host, &format!("[{IPV6}]"), "10").expect("IPv6 by the second gateway");
        let after = house.show("internet").expect("an answer");
        assert_eq!((&after["ipv4"], &after["ipv6"]), (&before["ipv4"], &before["ipv6"]), "the same addresses");
        first.start();
        until("the first gateway again", secs(40), || ready(&house));
        if busy {
            // A small gain moves nothing: the second one stays until it goes.
            uses(&house, &second.address).expect("it stays");
            second.kill();
            until("the first gateway in use", secs(20), || uses(&house, &first.address));
            second.start();
            until("the second gateway again", secs(40), || ready(&house));
        }
    }
    let worst = took.iter().max().expect("two");
    assert!(*worst < secs(8), "{took:?}");
    lab.figures(&format!(
        "the Internet was back {took:?} after a gateway died, busy and idle, with the same addresses"
    ));
}

#[test]
fn a_household_whose_cap_is_reached_goes_on_by_another_gateway_and_finds_the_first_closed() {
    let name = "a_household_whose_cap_is_reached_goes_on_by_another_gateway_and_finds_the_first_closed";
    let Some(mut lab) = Lab::open(name, &["curl", "python3", "nft"]) else { return };
    let [mut house, mut small, mut large] = ["house", "small", "large"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut house, &mut small, BY_ROUTES);
    join(&mut lab, &mut house, &mut large, BY_ROUTES);
    let _internet = Internet::behind(&mut lab, &mut [&mut small, &mut large]);
    house.options.tables.push("[internet]\ngateways = [\"small\", \"large\"]\n".to_owned());
    // Whichever has answered first would be used.
    [&mut small, &mut house].into_iter().for_each(Router::start);
    until("the first gateway in use", secs(40), || uses(&house, "small"));
    large.start();
    until("the other gateway's answers", secs(40), || {
        let state = house.show("internet")?;
        if state["gateways"][1]["answers"] == true { Ok(()) } else { Err(format!("{state}")) }
    });
    uses(&house, "small").expect("it is the first in the list, and no worse");
    let cap = |house: &Router| {
        let state = house.show("internet")?;
        let small = &state["gateways"][0];
        if small["refused"] == "the cap is reached; ask abuse@small.example" { Ok(()) } else { Err(format!("{state}")) }
    };
    until("the cap's end", secs(40), || {
        // It may fail: the gateway changes under it.
        let _read = read(&house.host, IPV4, "2");
        cap(&house)
    });
    until("the page by the other gateway", secs(10), || read(&house.host, IPV4, "2"));
    uses(&house, "large").expect("it is the other");
    // What was used is known after a restart, and hours count too.
    small.stop();
    small.start();
    until("the cap again", secs(40), || cap(&house));
    small.stop();
    let hour = here(&["date", "-u", "+%H"]).parse::<u32>().expect("an hour");
    let elsewhen = format!("hours = \"{:02}:00-{:02}:00\"", (hour + 12) % 24, (hour + 13) % 24);
    let table = small.options.tables.iter_mut().find(|table| table.starts_with("[gateway]")).expect("the table");
    *table = table.replace("client_cap_day = \"1 MiB\"", &elsewhen);
    small.start();
    until("a closed gateway", secs(40), || {
        let state = house.show("internet")?;
        let why = &state["gateways"][0]["refused"];
        if *why == "it is closed at this hour; ask abuse@small.example" { Ok(()) } else { Err(format!("{state}")) }
    });
    read(&house.host, IPV4, "5").expect("the other gateway serves on");
}

/// The household's one way out is that of a provider which shares addresses among its customers. It leads to the Internet, and to
/// a neighbour that is known by name; nothing but links is to go there.
#[test]
fn a_household_sends_nothing_in_the_clear_before_a_session_and_without_and_after_a_crash() {
    let name = "a_household_sends_nothing_in_the_clear_before_a_session_and_without_and_after_a_crash";
    let Some(mut lab) = Lab::open(name, &["curl", "python3", "nft", "tcpdump"]) else { return };
    let [mut house, mut gateway] = ["house", "gateway"].map(|name| Router::new(&mut lab, name));
    let internet = Internet::behind(&mut lab, &mut [&mut gateway]);
    // The machine at the uplink's other end has the address of the gateway's name server inside, too.
    let (_, there) = lab.cable(&house.host, &internet.host);
    let number = there.split('.').nth(2).expect("four numbers").to_owned();
    let (near, far) = (format!("cable{number}a"), format!("cable{number}b"));
    house.host.must(&["ip", "address", "add", "100.64.0.2/24", "dev", &near]);
    internet.host.must(&["ip", "address", "add", "100.64.0.1/24", "dev", &far]);
    for range in ["0.0.0.0/1", "128.0.0.0/1", "default"] {
        house.host.must(&["ip", "route", "add", range, "via", "100.64.0.1"]);
    }
    internet.host.must(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    for command in ["table ip provider", "chain ip provider out { type nat hook postrouting priority 100; }"] {
        internet.host.must(&["nft", "add", command]);
    }
    internet.host.must(&["nft", "add", "rule ip provider out ip saddr 100.64.0.0/24 masquerade"]);
    // The gateway's address is behind a name, and the name server for that is the uplink's.
    let gateway_at = gateway.host.must(&["ip", "-4", "-o", "address", "show", "dev", "cable1a"]);
    let gateway_at = gateway_at.split_whitespace().nth(3).and_then(|at| at.split('/').next()).expect("an address");
    let uplink_names = "198.51.100.54";
    internet.host.must(&["ip", "address", "add", &format!("{uplink_names}/32"), "dev", "lo"]);
    let script = lab.dir().join("name_server.py");
    let names = ["python3", text(&script), uplink_names, gateway_at, "2001:db8:1::1"];
    let names = internet.host.start(&lab.dir().join("uplink_names.log"), &names);
    until("name server", secs(10), || if names.log().contains("ready") { Ok(()) } else { Err(names.log()) });
    let resolv_conf = lab.dir().join("uplink.conf");
    fs::write(&resolv_conf, format!("nameserver {uplink_names}\n")).expect("room for a file");
    join_at(&mut house, &mut gateway, BY_ROUTES, ("unknown.example", "roof.example"));
    let own = format!("endpoint = \"unknown.example:{WIREGUARD_PORT}\"\n");
    assert!(gateway.options.tables.iter_mut().any(|table| {
        let known = table.contains(&own);
        *table = table.replace(&own, "");
        known
    }));
    house.options.tables.push("[internet]\ngateways = [\"gateway\"]\n".to_owned());
    let lan = lab.host("lan");
    let (house_at, _) = lab.cable(&house.host, &lan);
    lan.must(&["ip", "route", "add", "default", "via", &house_at]);
    // As some systems look whether a way leads back.
    house.host.must(&[
        "sh",
        "-c",
        &format!("cd /proc/sys/net/ipv4; echo 1 | tee ip_forward conf/all/rp_filter conf/{near}/rp_filter"),
    ]);
    read(&house.host, IPV4, "5").expect("the page by the uplink, while there is no router");

    // What comes to it are errors of links to a neighbour that is away.
    let names = format!("udp port 53 and host {uplink_names}");
    let others = format!("ip and not dst host 100.64.0.2 and not udp port {WIREGUARD_PORT} and not ({names})");
    let uplink = Capture::start(&lab, &house.host, &near, &others);
    let tries = |house: &Router| {
        for host in [&house.host, &lan] {
            let refused = read(host, IPV4, "0.5");
            assert!(refused.is_err(), "the page without a session");
        }
    };
    let mount = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", text(&resolv_conf));
    let start = |house: &mut Router| house.start_with(&["sh", "-c", &mount, "sh"]);
    // No gateway yet: there is no session before its first lease.
    start(&mut house);
    let inside = format!("udp port 53 or udp src port {WIREGUARD_PORT}");
    let inside = Capture::start(&lab, &house.host, CLIENT_TUN, &inside);
    tries(&house);
    gateway.start();
    until("the Internet by the gateway", secs(60), || read(&house.host, IPV4, "2"));
    read(&lan, IPV4, "20").expect("the LAN by the gateway");
    let resolvers = house.state_dir().join("resolv.conf");
    assert!(fs::read_to_string(&resolvers).is_ok_and(|text| text.contains("nameserver 100.64.0.1")));
    let by_name =
        format!("mount --bind {} /etc/resolv.conf && curl -sf http://{NAME}/page | head -c 19", text(&resolvers));
    assert_eq!(house.host.must(&["sh", "-c", &by_name]), TEXT[..19], "names by the session, not by the uplink");
    // The session is lost.
    gateway.stop();
    tries(&house);
    // Of all that, the session saw the household's question, and nothing that the session itself needs.
    let inside = inside.end();
    assert!(holds(&inside, b"internet\x07example"), "{:?}", inside.packets);
    assert!(!holds(&inside, b"roof\x07example") && !holds(&inside, b"unknown\x07example"), "{:?}", inside.packets);
    let link = |packet: &crate::capture::Packet| packet.bytes[20..22] == WIREGUARD_PORT.to_be_bytes();
    assert!(!inside.packets.iter().any(link), "{:?}", inside.packets);
    // The household's router crashes, and is started again.
    house.kill();
    tries(&house);
    gateway.start();
    start(&mut house);
    until("the Internet again", secs(60), || read(&house.host, IPV4, "2"));
    house.kill();
    tries(&house);
    let seen = uplink.end();
    assert!(seen.packets.is_empty(), "in the clear: {:?}", seen.packets);
    // An end in order opens it. While it is closed, what others have made that leads past it is named.
    house.host.must(&["ip", "rule", "add", "priority", "100", "fwmark", "7", "lookup", "main"]);
    start(&mut house);
    until("a warning", secs(5), || {
        let status = house.show("status")?;
        if status["warnings"].to_string().contains("routing rule 100") { Ok(()) } else { Err(status.to_string()) }
    });
    house.stop();
    read(&house.host, IPV4, "5").expect("the page by the uplink, as without the router");
}
