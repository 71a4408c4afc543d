//! Fifty nodes at random: traffic, cuts, power failures, and then quiet.

use sim::{Flow, Notice, Quality, StationId, WireId, World};

use crate::{OFFER, SECOND, connect, probe, tell};

const STATIONS: usize = 50;
const CHORDS: usize = 40;

#[test]
fn fifty_nodes_carry_traffic_through_churn_and_come_together_again() {
    tell("city", 1..5, churn);
}

fn churn(seed: u64) -> World {
    let mut world = city(seed, Quality::POOR);
    connect(&mut world, SECOND * 60);
    busy(&mut world, 60);
    for _ in 0..30 {
        something_happens(&mut world);
        let pause = SECOND.mul_f64(world.dice().f64() * 3.0);
        world.run_for(pause);
    }
    let wires: Vec<WireId> = world.wire_ids().collect();
    for wire in wires {
        world.set_quality(wire, Quality::GOOD);
        world.heal(wire);
    }
    let stations: Vec<StationId> = world.station_ids().collect();
    stations.into_iter().for_each(|station| world.restart(station));
    world.stop_flows();
    connect(&mut world, SECOND * 60);
    world.run_for(SECOND * 5);
    probe(&mut world, "in the quiet after");
    let refused = world.redeem_all();
    assert!(refused.is_empty(), "{refused:?}");
    let settlement = world.settlement();
    assert!(settlement.signed > 0 && settlement.redeemed > 0, "nothing was paid: {}", world.report());
    world
}

fn city(seed: u64, quality: Quality) -> World {
    World::random(seed, STATIONS, CHORDS, OFFER, quality)
}

/// Hosts at random stations talk to others, every third to the Internet.
fn busy(world: &mut World, flows: usize) {
    for number in 0..flows {
        let (from, to) = (world.dice().usize(0..STATIONS), world.dice().usize(0..STATIONS));
        let internet = number % 3 == 0;
        let to = if internet { 0 } else { to };
        if from == to {
            continue;
        }
        let every = SECOND.mul_f64(0.05 + 0.2 * world.dice().f64());
        let (burst, len) = (world.dice().u32(1..=4), world.dice().usize(60..=1420));
        world.flow(Flow { from: StationId(from), to: StationId(to), internet, every, burst, len });
    }
}

fn something_happens(world: &mut World) {
    let wires: Vec<WireId> = world.wire_ids().collect();
    let wire = wires[world.dice().usize(0..wires.len())];
    let station = StationId(world.dice().usize(0..STATIONS));
    match world.dice().u32(0..6) {
        0 => world.cut(wire, Notice::Silent),
        1 => world.cut(wire, Notice::Told),
        2 | 3 => world.heal(wire),
        4 => world.crash(station),
        _ => world.restart(station),
    }
}

#[test]
fn the_same_seed_is_the_same_run_bit_for_bit() {
    let run = |seed| {
        let mut world = city(seed, Quality::POOR);
        busy(&mut world, 20);
        world.run_for(SECOND * 5);
        something_happens(&mut world);
        world.run_for(SECOND * 5);
        world
    };
    tell("same seed", [7], |seed| {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.digest(), second.digest());
        assert_ne!(first.digest(), run(seed + 1).digest());
        second
    });
}
