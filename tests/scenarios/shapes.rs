//! Small meshes: they converge, heal after a cut, and take a restarted node back.

use sim::{Notice, Quality, StationId, WireId, World};

use crate::{OFFER, SECOND, connect, probe, tell};

#[test]
fn a_line_converges_and_heals() {
    tell("line", 1..6, |seed| {
        let mut world = World::line(seed, 6, OFFER, Quality::GOOD);
        converge_cut_and_restart(&mut world, WireId(2), StationId(3), false);
        world
    });
}

#[test]
fn a_ring_converges_and_goes_the_other_way_round() {
    tell("ring", 1..6, |seed| {
        let mut world = World::ring(seed, 8, Quality::GOOD);
        converge_cut_and_restart(&mut world, WireId(0), StationId(4), true);
        world
    });
}

#[test]
fn a_diamond_converges_and_uses_the_other_relay() {
    tell("diamond", 1..6, |seed| {
        let mut world = World::diamond(seed, OFFER, Quality::GOOD);
        converge_cut_and_restart(&mut world, WireId(0), StationId(2), true);
        world
    });
}

/// Converges, loses a wire without notice and gets it back, loses one with notice, loses a station and gets it back.
/// `spare` says whether another way leads around each of them.
fn converge_cut_and_restart(world: &mut World, wire: WireId, station: StationId, spare: bool) {
    assert!(connect(world, SECOND * 20) < SECOND * 5, "{}", world.report());
    probe(world, "at first");
    for notice in [Notice::Silent, Notice::Told] {
        world.cut(wire, notice);
        world.run_for(SECOND);
        if spare {
            connect(world, SECOND * 10);
            probe(world, "around the cut");
        } else {
            world.run_for(SECOND * 10);
            assert!(!world.is_connected(), "a cut line holds together");
        }
        world.heal(wire);
        connect(world, SECOND * 30);
        probe(world, "after the cut");
    }
    world.crash(station);
    world.run_for(SECOND * 8);
    if spare {
        connect(world, SECOND * 10);
        probe(world, "around the station");
    }
    world.restart(station);
    connect(world, SECOND * 30);
    world.run_for(SECOND);
    probe(world, "after the restart");
}

#[test]
fn a_node_that_restarts_unnoticed_is_found_again() {
    tell("quick restart", 1..11, |seed| {
        let mut world = World::ring(seed, 6, Quality::GOOD);
        connect(&mut world, SECOND * 20);
        for _ in 0..5 {
            let station = StationId(world.dice().usize(0..6));
            world.crash(station);
            world.run_for(SECOND / 5);
            world.restart(station);
            world.run_for(SECOND * 5);
            connect(&mut world, SECOND * 20);
            probe(&mut world, "after the restart");
        }
        world
    });
}
