//! Carried, signed, redeemed: through restarts, old journals and payers that do not pay.

use std::time::Duration;

use metering::{Tokens, billed_length};
use node::DropReason;
use sim::{Backup, Flow, FlowId, Quality, StationId, WireId, World};

use crate::{OFFER, SECOND, connect, tell};

/// A download for the last station from the Internet, and as much back.
fn download(world: &mut World, household: StationId) {
    let gateway = StationId(0);
    let every = SECOND / 50;
    world.flow(Flow { from: gateway, to: household, internet: false, every, burst: 6, len: 1420 });
    world.flow(Flow { from: household, to: gateway, internet: true, every, burst: 1, len: 300 });
}

/// What a payer of [`download`] can take in half a minute without paying: the window, what passes until the provider
/// looks at its meters again, the lifeline, and the loss that is not counted as owed. In base units.
fn at_risk() -> u128 {
    let per_look = 2 * 460_000 / 20;
    let lifeline = 30 * metering::credit::LIFELINE.get();
    let bytes = metering::Bytes::new((OFFER.window.get() + per_look + lifeline) * 100 / 94);
    OFFER.price_down.of(bytes).expect("small").get()
}

#[test]
fn whoever_stops_paying_after_a_long_time_has_no_more_credit_than_at_first() {
    tell("late cheat", 1..3, |seed| {
        let mut world = World::line(seed, 3, OFFER, Quality::GOOD);
        connect(&mut world, SECOND * 20);
        world.run_for(SECOND * 3);
        download(&mut world, StationId(2));
        world.run_for(SECOND * 120);
        let wire = WireId(1);
        world.cheat(wire);
        let signed = world.signed(wire).get();
        world.run_for(SECOND * 30);
        let taken = world.carried_worth(wire).get() - signed;
        assert!(taken <= at_risk(), "{taken} taken, where {} was at risk: {}", at_risk(), world.report());
        world
    });
}

#[test]
fn what_was_delivered_is_what_is_metered_signed_and_redeemed() {
    tell("books", 1..3, |seed| {
        let mut world = World::line(seed, 4, OFFER, Quality::GOOD);
        connect(&mut world, SECOND * 20);
        world.run_for(SECOND * 3);
        download(&mut world, StationId(3));
        world.run_for(SECOND * 30);
        world.stop_flows();
        world.run_for(SECOND * 11);
        assert_eq!(world.redeem_all(), []);
        let wires: Vec<WireId> = world.wire_ids().collect();
        for (provider, wire) in wires.into_iter().enumerate() {
            let worth = world.carried_worth(wire);
            assert!(worth > Tokens::ZERO);
            assert_eq!((world.signed(wire), world.earned(StationId(provider))), (worth, worth), "wire {provider}");
            let expected = [(0, 1420), (1, 300)].map(|(flow, len)| {
                let packets = world.progress(FlowId(flow)).0 as u64;
                packets * billed_length(len).get()
            });
            assert_eq!(world.metered(wire), expected.map(|bytes| (bytes, bytes)), "wire {provider}");
        }
        assert_eq!(world.lost(), 0);
        world
    });
}

#[test]
fn a_relay_with_an_old_journal_goes_on_where_its_neighbours_say() {
    tell("old journal", 1..3, |seed| old_journal(seed, Some(SECOND * 15)));
    tell("lost journal", 1..3, |seed| old_journal(seed, None));
}

/// The relay comes back with the journal of `age` after the household began to download, or with none at all: then it
/// does not even know that it had started before.
fn old_journal(seed: u64, age: Option<Duration>) -> World {
    let mut world = World::line(seed, 4, OFFER, Quality::GOOD);
    let relay = StationId(2);
    connect(&mut world, SECOND * 20);
    download(&mut world, StationId(3));
    world.run_for(age.unwrap_or_default());
    let old = age.map_or_else(Backup::default, |_| world.backup(relay));
    world.run_for(SECOND * 20);
    assert_eq!(world.redeem_all(), []);
    let before: Vec<Tokens> = world.wire_ids().map(|wire| world.signed(wire)).collect();
    let earned = world.earned(relay);
    world.crash(relay);
    world.roll_back(relay, &old);
    world.run_for(SECOND * 2);
    world.restart(relay);
    world.run_for(SECOND * 40);
    let after: Vec<Tokens> = world.wire_ids().map(|wire| world.signed(wire)).collect();
    for (wire, (before, after)) in before.iter().zip(&after).enumerate() {
        assert!(after > before, "no receipt on wire {wire} since the restart: {}", world.report());
    }
    assert_eq!(world.redeem_all(), []);
    assert!(world.earned(relay) > earned, "the relay earns nothing: {}", world.report());
    world
}

#[test]
fn whoever_settles_nothing_gets_little_and_a_lifeline_and_others_do_not_notice() {
    tell("cheat", 1..4, |seed| {
        // Two households at one relay; the second one sends no settlement at all.
        let mut world = World::new(seed);
        let ids = world.stations(4);
        world.connect(ids[0], ids[1], sim::Bond::Provides(OFFER), Quality::GOOD);
        let honest = world.connect(ids[1], ids[2], sim::Bond::Provides(OFFER), Quality::GOOD);
        let cheat = world.connect(ids[1], ids[3], sim::Bond::Provides(OFFER), Quality::GOOD);
        world.cheat(cheat);
        world.start();
        connect(&mut world, SECOND * 20);
        // Until terms and a channel are there, little is carried for anybody.
        world.run_for(SECOND * 3);
        download(&mut world, ids[2]);
        download(&mut world, ids[3]);
        world.run_for(SECOND * 30);
        let taken = world.carried_worth(cheat).get();
        assert!(taken <= at_risk(), "{taken} taken, where {} was at risk", at_risk());
        let unsecured = metering::credit::UNSECURED_WINDOW.get();
        let little = OFFER.price_down.of(metering::Bytes::new(unsecured / 16)).expect("small").get();
        assert!(taken > little, "the cheat was not even carried until the terms would have been agreed on: {taken}");
        assert_eq!(world.signed(cheat), Tokens::ZERO);
        assert!(world.dropped(DropReason::Unpaid) > 0);
        let (sent, delivered) = world.progress(FlowId(0));
        assert!(delivered + 20 >= sent, "the honest household got {delivered} of {sent}");
        assert!(world.signed(honest).get() * 10 > world.carried_worth(honest).get() * 9);
        world
    });
}
