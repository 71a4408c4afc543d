//! Starting, reloading and stopping.

use std::fs;

use crate::lab::{Lab, secs, until};
use crate::router::{PEERS, Router, TUN, join, joined};
use crate::traffic::{Pulse, reachable};

/// Some X25519 public key: that of RFC 7748, section 6.1, Alice.
const STRANGERS_KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

#[test]
fn sigterm_leaves_nothing_behind() {
    let Some(mut lab) = Lab::open("sigterm_leaves_nothing_behind", &["ping"]) else { return };
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, PEERS);
    let before = r1.host.stack();
    r2.start();
    for _ in 0..2 {
        r1.start();
        joined(&r1, &r2);
        reachable(&r1.host, &r2.address, secs(20));
        assert!(r1.host.stack().contains(TUN), "there is no {TUN}: {}", r1.host.stack());
        r1.stop();
        assert_eq!(r1.host.stack(), before);
        assert!(!r1.control_socket().exists(), "the control socket is still there");
    }
    lab.figures("links, addresses, routes and the control socket as before, twice");
}

#[test]
fn sighup_adds_a_neighbour_and_a_broken_file_changes_nothing() {
    let Some(mut lab) = Lab::open("sighup_adds_a_neighbour_and_a_broken_file_changes_nothing", &["ping"]) else {
        return;
    };
    let [mut r1, mut r2, mut r3] = ["r1", "r2", "r3"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, PEERS);
    r1.start();
    r2.start();
    joined(&r1, &r2);
    reachable(&r1.host, &r2.address, secs(20));
    let pulse = Pulse::start(&lab, &r1.host, &r2.address);
    until("answers", secs(10), || if pulse.answered() > 5 { Ok(()) } else { Err("few answers".to_owned()) });
    let before = r1.meter(&r2).expect("a meter");

    join(&mut lab, &mut r1, &mut r3, PEERS);
    r3.start();
    r1.write_config();
    r1.reload();
    joined(&r1, &r3);
    reachable(&r3.host, &r2.address, secs(20));
    let after = r1.meter(&r2).expect("a meter");
    assert!(after.sent > before.sent && after.received > before.received, "{before:?}, then {after:?}");

    // Files with a mistake, the second one such that only the router's own key shows it: each is named in the log, and
    // everything stays as it is.
    let answered = pulse.answered();
    let mistakes = [
        ("asks", "[price]\nasks = \"1\"\n".to_owned()),
        (
            "fd00:bad::",
            format!(
                "[[leaf]]\nname = \"thief\"\nwireguard_key = \"{STRANGERS_KEY}\"\naddresses = [\"fd00:bad::/64\"]\n"
            ),
        ),
    ];
    for (named, mistake) in mistakes {
        let told = r1.log().len();
        fs::write(r1.config_file(), format!("{}\n{mistake}", r1.config())).expect("room for a file");
        r1.reload();
        until("the mistake in the log", secs(10), || {
            let log = r1.log().split_off(told);
            let is_named = log.contains("ERROR") && log.contains(named) && log.contains("waybill.toml");
            if is_named { Ok(()) } else { Err(log) }
        });
    }
    until("answers after it", secs(10), || {
        if pulse.answered() > answered + 10 { Ok(()) } else { Err(format!("{} answers", pulse.answered())) }
    });
    r1.is_joined_to(&r2).and_then(|()| r1.is_joined_to(&r3)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pulse.lost(), 0, "pings were lost while the config was reloaded");

    // The mistake removed, a neighbour is taken out again.
    r1.options.tables.pop();
    r1.write_config();
    r1.reload();
    until("end of the link to r3", secs(10), || match r1.neighbour("r3") {
        Err(_) => Ok(()),
        Ok(line) => Err(line.to_string()),
    });
    let answered = pulse.answered();
    until("answers after that", secs(10), || {
        if pulse.answered() > answered + 5 { Ok(()) } else { Err(format!("{} answers", pulse.answered())) }
    });
    assert_eq!(pulse.lost(), 0, "pings were lost while the config was reloaded");
    lab.figures(&format!("four reloads, two of them mistaken, {} pings, none lost", pulse.answered()));
}
