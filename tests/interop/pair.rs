//! What two neighbours tell each other: prices and round trips.

use crate::lab::{Lab, now, secs, until};
use crate::machine::{Kind, Network, Pace};

const FEE: u64 = 250;

#[test]
fn our_interfaces_of_every_kind_meet_babeld_and_bird() {
    let tools = ["babeld", "bird", "birdc", "ping"];
    let Some(mut lab) = Lab::open("our_interfaces_of_every_kind_meet_babeld_and_bird", &tools) else { return };
    let (ours, theirs) = (["tunnel", "wired", "lossy", "tunnel,unicast"], [Kind::Babeld, Kind::Bird]);
    let pairs = || ours.iter().flat_map(|options| theirs.iter().map(move |kind| (options, kind)));
    let kinds: Vec<Kind> = pairs().flat_map(|(_, kind)| [Kind::Ours, *kind]).collect();
    let mut network = Network::new(&mut lab, &kinds);
    for (pair, (options, kind)) in network.machines.chunks_mut(2).zip(pairs()) {
        let (here, there) = lab.link_local_cable(&pair[0].host, &pair[1].host);
        pair[0].use_interface(&here, options);
        pair[1].use_interface(&there, kind.interface_options(Pace::Stock, false));
    }
    network.start();
    let began = now();
    for pair in network.machines.chunks(2) {
        for (from, to) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            until(&format!("route from {} to {}", from.name, to.name), secs(60), || from.route(&to.home()));
            until(&format!("answer of {} to {}", to.name, from.name), secs(20), || from.ping(&to.address));
        }
    }
    let kinds = ours.join("; ");
    lab.figures(&format!("all of {kinds} know both after {:.1} s", began.elapsed().as_secs_f64()));
}

#[test]
fn a_price_is_understood_by_ours_and_harms_nobody_else() {
    let tools = ["babeld", "bird", "birdc", "ping"];
    let Some(mut lab) = Lab::open("a_price_is_understood_by_ours_and_harms_nobody_else", &tools) else { return };
    // The first asks a fee of everybody. Behind each of the others is one of ours that may hear of it.
    let kinds = [Kind::Ours, Kind::Ours, Kind::Babeld, Kind::Bird, Kind::Ours, Kind::Ours, Kind::Ours];
    let mut star = Network::new(&mut lab, &kinds);
    for via in [1, 2, 3] {
        let (here, there) = lab.link_local_cable(&star.machines[0].host, &star.machines[via].host);
        star.machines[0].use_interface(&here, &format!("tunnel,fee={FEE}"));
        let options = star.machines[via].kind.interface_options(Pace::Brisk, false);
        star.machines[via].use_interface(&there, options);
        star.join(&mut lab, via, via + 3, Pace::Brisk);
    }
    star.start();
    star.all_know_all(secs(60));
    star.all_reach_all(secs(20));

    let home = star.machines[0].home();
    let told = |place: usize| {
        let route = star.machines[place].route(&home).unwrap_or_else(|error| panic!("{error}"));
        (route.metric, route.price)
    };
    assert_eq!([told(1), told(4)], [(96, Some(FEE)), (192, Some(FEE))], "ours next to it and behind");
    assert_eq!([told(2), told(3)], [(96, None), (96, None)], "babeld and BIRD next to it");
    assert_eq!([told(5), told(6)], [(192, None), (192, None)], "ours behind babeld and BIRD");
    lab.figures(&format!("price {FEE} known to ours, unknown behind babeld and BIRD, whose routes are as without it"));
}

#[test]
fn ours_and_babeld_measure_the_same_round_trip() {
    let Some(mut lab) = Lab::open("ours_and_babeld_measure_the_same_round_trip", &["babeld"]) else { return };
    let mut pair = Network::new(&mut lab, &[Kind::Ours, Kind::Babeld]);
    let (a, b) = lab.link_local_cable(&pair.machines[0].host, &pair.machines[1].host);
    for (machine, interface) in pair.machines.iter_mut().zip([a, b]) {
        machine.use_interface(&interface, machine.kind.interface_options(Pace::Stock, true));
    }
    pair.start();
    let rtts = [0, 1].map(|place| {
        until(&format!("round trip at {}", pair.machines[place].name), secs(40), || {
            let neighbours = pair.machines[place].neighbours()?;
            neighbours.iter().find_map(|neighbour| neighbour.rtt).ok_or_else(|| format!("{neighbours:?}"))
        })
    });
    assert!(rtts.iter().all(|rtt| *rtt < secs(1)), "{rtts:?} over a cable");
    let [ours, babeld] = rtts.map(|rtt| rtt.as_secs_f64() * 1000.0);
    lab.figures(&format!("round trip {ours:.2} ms by ours, {babeld:.2} ms by babeld"));
}
