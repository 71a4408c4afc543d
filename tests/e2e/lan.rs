//! `waybill lan`: machines behind two routers, told their addresses by the system's router advertisement server.

use std::fs;

use serde_json::Value;

use crate::lab::{Background, Host, Lab, here, now, secs, until};
use crate::router::{PEERS, Router, join, joined, text};
use crate::traffic::{Pings, WebServer, ping, reachable};

/// Does on a router what `waybill lan` says, and starts a machine at its interface. Returns the machine and its address.
fn lan(lab: &mut Lab, router: &Router, name: &str) -> (Host, Background, String) {
    let machine = lab.host(name);
    let (interface, _) = lab.link_local_cable(&router.host, &machine);
    let (waybill, config) = (router.waybill.clone(), router.config_file());
    let said = here(&[text(&waybill), "lan", &interface, "--json", "--config", text(&config)]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    for command in said["commands"].as_array().expect("commands") {
        router.host.must(&["sh", "-c", command.as_str().expect("a command")]);
    }
    let file = |name: &str| lab.dir().join(format!("{}-{name}", router.name));
    let [conf, pid] = [file("radvd.conf"), file("radvd.pid")];
    // Sooner than each ten minutes: the machine was there before the server.
    let radvd =
        said["radvd"].as_str().expect("a config").replace("on;", "on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;");
    fs::write(&conf, radvd).expect("room for a file");
    let log = file("radvd.log");
    let radvd = ["radvd", "-n", "-m", "stderr", "-C", text(&conf), "-p", text(&pid)];
    let server = router.host.start(&log, &radvd);
    let prefix = said["prefix"].as_str().expect("a prefix").trim_end_matches("/64").trim_end_matches(':').to_owned();
    let address = until("an address out of the /64", secs(20), || {
        let shown = machine.run(&["ip", "-6", "-o", "address", "show", "scope", "global", "-tentative"])?;
        let addresses = shown.split_whitespace().filter_map(|word| word.strip_suffix("/64"));
        let mut ours = addresses.filter(|address| address.starts_with(&prefix));
        ours.next().map(str::to_owned).ok_or_else(|| format!("{shown}\n{}", server.log()))
    });
    (machine, server, address)
}

#[test]
fn machines_of_two_lans_reach_each_other_by_the_addresses_their_routers_tell_them() {
    let test = "machines_of_two_lans_reach_each_other_by_the_addresses_their_routers_tell_them";
    let Some(mut lab) = Lab::open(test, &["ping", "curl", "python3", "radvd"]) else { return };
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, PEERS);
    [&mut r1, &mut r2].into_iter().for_each(Router::start);
    joined(&r1, &r2);
    let began = now();
    let (desk, _desk_s, desk_at) = lan(&mut lab, &r1, "desk");
    let (shelf, _shelf_s, shelf_at) = lan(&mut lab, &r2, "shelf");
    reachable(&desk, &shelf_at, secs(20));
    let took = began.elapsed();
    let all = Ok(Pings { sent: 20, answered: 20 });
    assert_eq!(ping(&shelf, &desk_at, 20, &[]), all);
    // Each router, too; and a file is as it was, though the machines know no other MTU than their cable's.
    assert_eq!(ping(&desk, &r2.address, 20, &[]), all);
    WebServer::start(&lab, &shelf, &shelf_at, 20_000_000).must_fetch(&desk);
    lab.figures(&format!(
        "machines of two LANs reached each other {:.1} s after the routers were told",
        took.as_secs_f64()
    ));

    // Whoever takes an address of another LAN is not carried.
    let other = shelf_at.rsplit_once(':').expect("an address").0.to_owned() + ":1234";
    desk.must(&["ip", "-6", "address", "add", &format!("{other}/128"), "dev", "lo", "nodad"]);
    let pings = ping(&desk, &r2.address, 5, &["-I", &other]).expect("ping");
    assert_eq!(pings.answered, 0, "from {other}");
}
