//! Cables that are not encrypted, where only who has the key is believed (RFC 8967).

use crate::lab::{Lab, now, secs, until};
use crate::machine::{Kind, Machine, Network};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// How each daemon is told that the key of an interface is this one.
fn authenticate(machine: &mut Machine, interface: &str, algorithm: &str, key: &str) {
    let options = match machine.kind {
        Kind::Ours => format!("wired,hello=1000,{algorithm}={key}"),
        Kind::Babeld => {
            machine.options.push(format!("key id {interface} type {algorithm} value {key}"));
            format!("type wired hello-interval 1 update-interval 4 key {interface}")
        }
        Kind::Bird => {
            let algorithm = if algorithm == "blake2s128" { "blake2s128" } else { "hmac sha256" };
            format!(
                "type wired; hello interval 1 s; update interval 4 s; authentication mac; \
                 password {key} {{ algorithm {algorithm}; }};"
            )
        }
    };
    machine.use_interface(interface, &options);
}

#[test]
fn whoever_has_the_key_is_believed_and_nobody_else() {
    let tools = ["babeld", "bird", "birdc", "ping"];
    let Some(mut lab) = Lab::open("whoever_has_the_key_is_believed_and_nobody_else", &tools) else { return };
    // Ours in the middle; babeld and BIRD with either algorithm, and a babeld with another key.
    let kinds = [Kind::Ours, Kind::Babeld, Kind::Bird, Kind::Babeld, Kind::Bird, Kind::Ours, Kind::Babeld];
    let mut star = Network::new(&mut lab, &kinds);
    let algorithms = ["hmac-sha256", "hmac-sha256", "blake2s128", "blake2s128", "blake2s128"];
    let other = KEY.replace("00", "ff");
    for place in 1..kinds.len() {
        let (here, there) = lab.link_local_cable(&star.machines[0].host, &star.machines[place].host);
        let algorithm = algorithms.get(place - 1).unwrap_or(&"hmac-sha256");
        authenticate(&mut star.machines[0], &here, algorithm, KEY);
        let key = if place < 6 { KEY } else { &other };
        authenticate(&mut star.machines[place], &there, algorithm, key);
    }
    star.start();
    let began = now();
    let friends = &star.machines[..6];
    for from in friends {
        for to in friends.iter().filter(|to| to.address != from.address) {
            until(&format!("route from {} to {}", from.name, to.name), secs(60), || from.route(&to.home()));
        }
    }
    let took = began.elapsed();
    until("answer of BIRD to babeld", secs(20), || friends[1].ping(&friends[4].address));
    let stranger = &star.machines[6];
    assert!(star.machines[0].routes().expect("a table").len() == 5, "the stranger is believed");
    assert!(stranger.routes().expect("a table").is_empty(), "we believe the stranger");

    // A restart forgets what was counted; the neighbours ask for proof and go on.
    let restarts = [0, 1, 2].map(|place| {
        star.machines[place].kill();
        let home = star.machines[place].home();
        until(&format!("{} to be missed", star.machines[place].name), secs(120), || {
            let watcher = if place == 0 { &star.machines[1] } else { &star.machines[0] };
            match watcher.route(&home) {
                Ok(route) => Err(format!("{route:?}")),
                Err(_) => Ok(()),
            }
        });
        star.machines[place].start();
        let began = now();
        for other in (0..6).filter(|other| *other != place) {
            until(&format!("route to {}", star.machines[place].name), secs(60), || star.machines[other].route(&home));
        }
        format!("{} {:.1} s", star.machines[place].name, began.elapsed().as_secs_f64())
    });
    lab.figures(&format!(
        "babeld and BIRD with HMAC-SHA256 and BLAKE2s, all know all after {:.1} s, a stranger nothing; known again after \
         a restart: {}",
        took.as_secs_f64(),
        restarts.join(", "),
    ));
}
