//! Noise on every control port of every node.

use sim::{Flow, FlowId, Quality, StationId, World};

use crate::{OFFER, SECOND, connect, probe, tell};

#[test]
fn hostile_bytes_neither_crash_a_node_nor_stop_traffic() {
    tell("hostile", 1..4, |seed| {
        let stations = 12;
        let mut world = World::random(seed, stations, 6, OFFER, Quality::GOOD);
        connect(&mut world, SECOND * 30);
        let every = SECOND / 10;
        let flows: Vec<FlowId> = (1..stations)
            .map(|to| Flow { from: StationId(0), to: StationId(to), internet: false, every, burst: 1, len: 500 })
            .map(|flow| world.flow(flow))
            .collect();
        world.run_for(SECOND * 2);
        for _ in 0..600 {
            world.attack();
            world.run_for(SECOND / 20);
        }
        for flow in flows {
            let (sent, delivered) = world.progress(flow);
            assert!(delivered * 10 >= sent * 9, "{flow:?}: {delivered} of {sent}; {}", world.report());
        }
        assert!(world.settlement().refused > 1000, "the noise was not even read: {}", world.report());
        world.stop_flows();
        world.run_for(SECOND * 30);
        connect(&mut world, SECOND * 30);
        probe(&mut world, "after the noise");
        assert_eq!(world.redeem_all(), []);
        world
    });
}
