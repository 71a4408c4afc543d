//! IPv4 and source-specific routes, with other daemons on both sides of ours.

use crate::lab::{Lab, secs, until};
use crate::machine::{Kind, Machine, Network, Pace};

/// The IPv4 address of a machine.
fn v4(number: usize) -> String {
    format!("10.6.{number}.1")
}

/// Gives each machine an IPv4 address to announce.
fn announce_ipv4(network: &mut Network) {
    for (number, machine) in (1..).zip(&mut network.machines) {
        let prefix = format!("{}/32", v4(number));
        machine.take_address(&prefix);
        if machine.kind == Kind::Ours {
            machine.options.extend(["--announce".to_owned(), prefix]);
        }
    }
}

/// Waits until each knows the IPv4 address of each, and an answer comes over the whole line, both ways.
fn ipv4_reaches_all(network: &Network) {
    let last = network.machines.len();
    for (from, machine) in (1..).zip(&network.machines) {
        for to in (1..=last).filter(|to| *to != from) {
            let prefix = format!("{}/32", v4(to));
            until(&format!("IPv4 route from {}", machine.name), secs(40), || machine.route(&prefix));
        }
    }
    for (from, to) in [(1, last), (last, 1), (1, 2), (last, 2)] {
        let line = ["ping", "-4", "-n", "-c", "1", "-W", "1", "-I", &v4(from), &v4(to)];
        until(&format!("IPv4 answer from {to} to {from}"), secs(20), || network.machines[from - 1].host.run(&line));
    }
}

#[test]
fn ipv4_routes_pass_between_babeld_and_bird_through_ours() {
    let tools = ["babeld", "bird", "birdc", "ping"];
    let Some(mut lab) = Lab::open("ipv4_routes_pass_between_babeld_and_bird_through_ours", &tools) else { return };
    let mut line = Network::new(&mut lab, &[Kind::Babeld, Kind::Ours, Kind::Bird]);
    line.make_line(&mut lab, Pace::Brisk);
    for (number, cable) in line.cables.iter().enumerate() {
        for (end, (place, interface)) in cable.ends.iter().enumerate() {
            let address = format!("10.7.{number}.{}/24", end + 1);
            line.machines[*place].host.must(&["ip", "address", "add", &address, "dev", interface]);
        }
    }
    announce_ipv4(&mut line);
    line.start();
    ipv4_reaches_all(&line);
    let next_hop = |number| line.machines[1].route(&format!("{}/32", v4(number))).map(|route| route.next_hop);
    assert_eq!([next_hop(1), next_hop(3)], [Ok("10.7.0.1".to_owned()), Ok("10.7.1.2".to_owned())]);
    lab.figures("IPv4 next hops on both sides, pings both ways through ours");
}

#[test]
fn ipv4_routes_pass_over_cables_that_have_no_ipv4() {
    let Some(mut lab) = Lab::open("ipv4_routes_pass_over_cables_that_have_no_ipv4", &["babeld", "ping"]) else {
        return;
    };
    let mut line = Network::new(&mut lab, &[Kind::Babeld, Kind::Ours, Kind::Babeld]);
    line.make_line(&mut lab, Pace::Brisk);
    announce_ipv4(&mut line);
    line.start();
    ipv4_reaches_all(&line);
    for machine in &line.machines {
        for (to, route) in machine.routes().expect("it answers").iter().filter(|(to, _)| to.starts_with("10.")) {
            assert!(route.next_hop.starts_with("fe80:"), "{} to {to}: {route:?}", machine.name);
        }
    }
    lab.figures("IPv4 by IPv6 next hops (RFC 9229) on both sides, pings both ways through ours");
}

#[test]
fn source_specific_routes_pass_between_two_babelds_through_ours() {
    let test = "source_specific_routes_pass_between_two_babelds_through_ours";
    let Some(mut lab) = Lab::open(test, &["babeld", "ping"]) else { return };
    let mut line = Network::new(&mut lab, &[Kind::Babeld, Kind::Ours, Kind::Babeld]);
    line.make_line(&mut lab, Pace::Brisk);
    // Two doors that the third machine may come to from one of its addresses and not from the other.
    let (door, door_of_ours) = ("fd00:77::1", "fd00:78::1");
    let (allowed, refused) = (line.machines[2].address.clone(), "fd00:6:3::bad");
    let specific = |to: &str| format!("{to}/128 from {allowed}/128");
    let [babeld, ours, far] = &mut line.machines[..] else { panic!("three machines") };
    babeld.take_address(&format!("{door}/128"));
    babeld.options.push(format!("redistribute local ip fd00:77::/32 src-prefix {allowed}/128"));
    ours.take_address(&format!("{door_of_ours}/128"));
    ours.options.extend(["--announce".to_owned(), specific(door_of_ours)]);
    far.take_address(&format!("{refused}/128"));
    line.start();

    let far = &line.machines[2];
    for to in [door, door_of_ours] {
        until(&format!("route to {to}"), secs(40), || far.route(&specific(to)));
    }
    let kernel = line.machines[1].host.must(&["ip", "-6", "route", "show", "proto", "196"]);
    assert!(kernel.contains(&format!("{door} from {allowed}")), "{kernel}");
    for to in [door, door_of_ours] {
        until(&format!("answer of {to}"), secs(20), || ping_from(far, &allowed, to));
        assert!(ping_from(far, refused, to).is_err(), "an answer to {refused}");
    }
    lab.figures(
        "a babeld's and our own source-specific routes are at the far babeld; the source decides who is carried",
    );
}

fn ping_from(machine: &Machine, from: &str, to: &str) -> Result<(), String> {
    machine.host.run(&["ping", "-n", "-c", "1", "-W", "1", "-I", from, to]).map(drop)
}
