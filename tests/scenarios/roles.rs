//! Roles that follow from the ways out of the mesh, and prices that follow from what those cost.

use std::num::NonZeroU32;
use std::time::Duration;

use ledger_core::Refusal;
use metering::{Bytes, Limits, Offer, Price, Role, Tokens};
use node::{DropReason, PriceWeight, Prices};
use sim::{Bond, Flow, FlowId, Notice, Quality, StationId, WireId, World};

use crate::{OFFER, SECOND, tell};

/// Tokens of 6 decimals.
const TOKEN: u64 = 1_000_000;

/// Asks `ask` tokens per GiB, whatever its own way out costs.
fn asks(ask: u64) -> Prices {
    let price = Price::new(ask * TOKEN);
    Prices { offer: Offer { price_up: price, price_down: price, ..OFFER }, fee: None, ..adds(0) }
}

/// Asks `fee` tokens per GiB more than its own way out costs.
fn adds(fee: u64) -> Prices {
    Prices { offer: OFFER, fee: Some(Price::new(fee * TOKEN)), limits: pays(1000) }
}

/// Pays so many tokens per GiB at most.
fn pays(max: u64) -> Limits {
    Limits { max_price: Price::new(max * TOKEN) }
}

/// Starts a world whose first station is a gateway that asks 10 tokens; everybody else adds 5.
fn start(world: &mut World, ids: &[StationId]) {
    world.set_prices(ids[0], asks(10));
    for id in &ids[1..] {
        world.set_prices(*id, adds(5));
    }
    world.start();
}

/// 10 tokens per GiB are as bad as a hop.
fn weight() -> PriceWeight {
    PriceWeight { metric: 96, per: NonZeroU32::new(10_000_000).expect("not zero") }
}

/// A call with somebody in the Internet.
fn call(world: &mut World, household: StationId, gateway: StationId) -> [FlowId; 2] {
    let every = SECOND / 25;
    [
        world.flow(Flow { from: gateway, to: household, internet: false, every, burst: 2, len: 1420 }),
        world.flow(Flow { from: household, to: gateway, internet: true, every, burst: 1, len: 300 }),
    ]
}

/// Lets time pass until the condition holds; how long it took.
fn until(world: &mut World, limit: Duration, what: &str, holds: impl Fn(&World) -> bool) -> Duration {
    let began = world.now();
    while !holds(world) {
        assert!(world.now() - began < limit, "{what}: not within {limit:?}: {}", world.report());
        world.run_for(SECOND / 10);
    }
    world.now() - began
}

fn price(world: &World, at: StationId, wire: WireId) -> Option<u64> {
    let snapshot = world.settled(at, wire).filter(|snapshot| snapshot.agreed)?;
    Some(snapshot.terms?.price_down.get())
}

#[test]
fn along_a_line_everybody_pays_the_next_one_and_asks_what_that_costs_and_a_fee() {
    tell("auto line", 1..4, |seed| {
        let mut world = World::new(seed);
        let ids = world.stations(5);
        let wires: Vec<WireId> =
            ids.windows(2).map(|pair| world.connect(pair[1], pair[0], Bond::ByRoutes, Quality::GOOD)).collect();
        start(&mut world, &ids);
        let agreed =
            |world: &World| (0..4).all(|hop| price(world, ids[hop], wires[hop]) == Some((10 + 5 * hop as u64) * TOKEN));
        until(&mut world, SECOND * 60, "prices", agreed);
        for (hop, wire) in wires.iter().enumerate() {
            assert_eq!(world.role(ids[hop], *wire), Some(Role::Provider), "wire {hop}");
            assert_eq!(world.role(ids[hop + 1], *wire), Some(Role::Subscriber), "wire {hop}");
        }
        world.run_for(SECOND);
        let [down, up] = call(&mut world, ids[4], ids[0]);
        world.run_for(SECOND * 30);
        world.stop_flows();
        world.run_for(SECOND * 11);
        for flow in [down, up] {
            let (sent, delivered) = world.progress(flow);
            assert_eq!(sent, delivered);
        }
        assert_eq!(world.redeem_all(), []);
        let earned: Vec<u128> = ids.iter().map(|id| world.earned(*id).get()).collect();
        // Each relay is paid for the same bytes as it pays for, at 5 tokens more.
        assert!(earned[3] > 0 && earned[4] == 0, "{earned:?}");
        for hop in 0..3_usize {
            let there = 10 + 5 * hop as u128;
            let ratio = earned[hop] as f64 / earned[hop + 1] as f64 * (there + 5) as f64 / there as f64;
            assert!((ratio - 1.0).abs() < 0.01, "{earned:?}");
        }
        world
    });
}

#[test]
fn a_relay_that_is_back_before_its_customers_noticed_is_paid_again() {
    tell("quick restart", 1..6, |seed| {
        let mut world = World::new(seed);
        let ids = world.stations(3);
        let wires: Vec<WireId> =
            ids.windows(2).map(|pair| world.connect(pair[1], pair[0], Bond::ByRoutes, Quality::GOOD)).collect();
        start(&mut world, &ids);
        let agreed = |world: &World| {
            price(world, ids[2], wires[1]) == Some(15 * TOKEN) && price(world, ids[1], wires[0]) == Some(10 * TOKEN)
        };
        until(&mut world, SECOND * 60, "prices", agreed);
        world.run_for(SECOND);
        for (who, away) in [(1, 500), (0, 700), (2, 500), (1, 50)] {
            world.crash(ids[who]);
            world.run_for(Duration::from_millis(away));
            world.restart(ids[who]);
            world.run_for(Duration::from_millis(500));
            until(&mut world, SECOND * 20, "agreed again", agreed);
            let [down, up] = call(&mut world, ids[2], ids[0]);
            world.run_for(SECOND * 15);
            let early = [down, up].map(|flow| world.progress(flow));
            world.run_for(SECOND * 5);
            let late = [down, up].map(|flow| world.progress(flow));
            world.stop_flows();
            world.run_for(SECOND * 6);
            for (early, late) in early.into_iter().zip(late) {
                assert!(late.1 - early.1 + 5 >= late.0 - early.0, "{early:?} {late:?}: {}", world.report());
            }
        }
        world
    });
}

#[test]
fn a_peer_becomes_the_way_out_when_the_other_is_gone_and_a_peer_again_afterwards() {
    tell("other way out", 1..4, |seed| {
        // A gateway, two households at it, and a wire between them.
        let mut world = World::new(seed);
        let ids = world.stations(3);
        world.set_weight(weight());
        let [first, second, between] =
            [(0, 1), (0, 2), (1, 2)].map(|(a, b)| world.connect(ids[a], ids[b], Bond::ByRoutes, Quality::GOOD));
        start(&mut world, &ids);
        let settled = |world: &World| {
            let both =
                [(1, first), (2, second)].iter().all(|(id, wire)| price(world, ids[*id], *wire) == Some(10 * TOKEN));
            both && [1, 2].iter().all(|id| world.role(ids[*id], between) == Some(Role::Peer))
        };
        until(&mut world, SECOND * 60, "two customers and peers", settled);
        let [down, up] = call(&mut world, ids[1], ids[0]);
        // What passes between peers is free.
        let gossip =
            world.flow(Flow { from: ids[1], to: ids[2], internet: false, every: SECOND / 5, burst: 1, len: 500 });
        world.run_for(SECOND * 20);
        for notice in [Notice::Silent, Notice::Told] {
            world.cut(first, notice);
            let through_the_peer = |world: &World| {
                world.way_out(ids[1]) == Some(between) && price(world, ids[1], between) == Some(15 * TOKEN)
            };
            until(&mut world, SECOND * 15, "through the peer", through_the_peer);
            assert_eq!(world.role(ids[2], between), Some(Role::Provider));
            let before = world.progress(up);
            world.run_for(SECOND * 30);
            let after = world.progress(up);
            assert!(after.1 - before.1 + 5 >= after.0 - before.0, "{before:?} {after:?}: {}", world.report());
            world.heal(first);
            until(&mut world, SECOND * 400, "back", |world| world.way_out(ids[1]) == Some(first) && settled(world));
            world.run_for(SECOND * 5);
        }
        world.stop_flows();
        world.run_for(SECOND * 11);
        assert_eq!(world.redeem_all(), []);
        assert!(world.earned(ids[2]) > Tokens::ZERO, "it was paid for being a way out");
        assert_eq!(world.progress(gossip).0, world.progress(gossip).1, "{}", world.report());
        assert!(world.progress(down).1 > 0);
        world
    });
}

#[test]
fn two_neighbours_between_two_gateways_pay_each_other_in_turn() {
    tell("there and back", 1..4, |seed| {
        // A gateway at each end of a line of four.
        let mut world = World::new(seed);
        let ids = world.stations(4);
        let wires: Vec<WireId> =
            ids.windows(2).map(|pair| world.connect(pair[0], pair[1], Bond::ByRoutes, Quality::GOOD)).collect();
        world.offer_internet(ids[3]);
        for gateway in [ids[0], ids[3]] {
            world.set_prices(gateway, asks(10));
        }
        for relay in [ids[1], ids[2]] {
            world.set_prices(relay, adds(5));
        }
        world.start();
        let role = |world: &World, id: usize| world.role(ids[id], wires[1]);
        until(&mut world, SECOND * 60, "peers", |world| {
            price(world, ids[1], wires[0]) == Some(10 * TOKEN)
                && price(world, ids[2], wires[2]) == Some(10 * TOKEN)
                && [1, 2].iter().all(|id| role(world, *id) == Some(Role::Peer))
        });
        for (gone, (payer, payee), other) in [(0, (1, 2), 3), (3, (2, 1), 0), (0, (1, 2), 3)] {
            world.crash(ids[gone]);
            until(&mut world, SECOND * 30, "one pays the other", |world| {
                role(world, payer) == Some(Role::Subscriber)
                    && price(world, ids[payer], wires[1]) == Some(15 * TOKEN)
                    && role(world, payee) == Some(Role::Provider)
            });
            let earned = world.earned(ids[payee]);
            let flows = call(&mut world, ids[payer], ids[other]);
            world.run_for(SECOND * 20);
            world.stop_flows();
            world.run_for(SECOND * 11);
            let redeemed_before = |refusal: &Refusal| matches!(refusal, Refusal::ReceiptAlreadyRedeemed { .. });
            assert!(world.redeem_all().iter().all(|(_, refusal)| redeemed_before(refusal)));
            let more = world.earned(ids[payee]).get() - earned.get();
            // 20 s of what the call takes, at 15 tokens.
            let bytes: u64 = [(flows[0], 1456), (flows[1], 352)]
                .iter()
                .map(|(flow, billed)| world.progress(*flow).1 as u64 * billed)
                .sum();
            let worth = Price::new(15 * TOKEN).of(Bytes::new(bytes)).expect("small").get();
            assert!(more * 20 >= worth * 19 && more <= worth, "{more} of {worth}: {}", world.report());
            world.restart(ids[gone]);
            until(&mut world, SECOND * 400, "peers again", |world| {
                [1, 2].iter().all(|id| role(world, *id) == Some(Role::Peer))
            });
        }
        world
    });
}

#[test]
fn whoever_says_it_is_a_peer_is_not_led_out_of_the_mesh_nor_to_whom_the_relay_pays() {
    tell("freeloader", 1..4, |seed| {
        // A gateway, a relay, an honest household, and one that takes itself for a peer.
        let mut world = World::new(seed);
        let ids = world.stations(4);
        let up = world.connect(ids[1], ids[0], Bond::ByRoutes, Quality::GOOD);
        let honest = world.connect(ids[1], ids[2], Bond::ByRoutes, Quality::GOOD);
        let cheat = world.connect(ids[1], ids[3], Bond::Freeloader, Quality::GOOD);
        start(&mut world, &ids);
        until(&mut world, SECOND * 60, "an honest customer", |world| {
            price(world, ids[2], honest) == Some(15 * TOKEN) && price(world, ids[1], up) == Some(10 * TOKEN)
        });
        assert_eq!(world.role(ids[1], cheat), Some(Role::Peer));
        world.run_for(SECOND);
        let paid = call(&mut world, ids[2], ids[0]);
        let unpaid = call(&mut world, ids[3], ids[0]);
        let to_the_honest =
            world.flow(Flow { from: ids[3], to: ids[2], internet: false, every: SECOND / 5, burst: 1, len: 500 });
        world.run_for(SECOND * 30);
        world.stop_flows();
        world.run_for(SECOND * 11);
        for flow in paid {
            assert_eq!(world.progress(flow).0, world.progress(flow).1, "{}", world.report());
        }
        let gained: usize = unpaid.iter().map(|flow| world.progress(*flow).1).sum();
        assert_eq!(gained, 0, "{}", world.report());
        assert!(world.dropped(DropReason::AtOurExpense) > 500);
        let (sent, delivered) = world.progress(to_the_honest);
        assert_eq!(sent, delivered, "our own customer is no expense");
        println!("a peer by its own account gains {gained} packets out of the mesh");
        world
    });
}

#[test]
fn whoever_may_not_spend_any_more_uses_no_way_that_costs_and_pays_for_what_it_used() {
    tell("used budget", 1..3, |seed| {
        // A gateway, a household that found out that it pays, and one whose owner agreed to.
        let mut world = World::new(seed);
        let ids = world.stations(3);
        let found = world.connect(ids[1], ids[0], Bond::ByRoutes, Quality::GOOD);
        let agreed = world.connect(ids[0], ids[2], Bond::Provides(OFFER), Quality::GOOD);
        let households = [(ids[1], found), (ids[2], agreed)];
        start(&mut world, &ids);
        let connected = |world: &World| {
            households.iter().all(|(id, wire)| price(world, *id, *wire).is_some() && world.way_out(*id) == Some(*wire))
        };
        until(&mut world, SECOND * 60, "two customers", connected);
        world.run_for(SECOND);
        let calls = households.map(|(id, _)| call(&mut world, id, ids[0]));
        let delivered = |world: &World| calls.map(|flows| flows.map(|flow| world.progress(flow).1));
        let spent = |world: &World| {
            households.map(|(id, wire)| world.settled(id, wire).map_or(0, |known| known.sums.spent.get()))
        };
        world.run_for(SECOND * 20);
        let before = (delivered(&world), spent(&world));
        assert!(before.0.iter().flatten().all(|packets| *packets > 400), "{before:?}");
        households.iter().for_each(|(id, _)| world.allow_spending(*id, false));
        world.run_for(SECOND);
        assert!(households.iter().all(|(id, _)| world.way_out(*id).is_none()), "{}", world.report());
        let at_once = delivered(&world);
        // As long as anything is owed, the first is a customer, and nothing passes that it would owe.
        world.run_for(SECOND * 8);
        assert_eq!(delivered(&world), at_once, "{}", world.report());
        let paid = spent(&world);
        assert!(paid[0] > before.1[0], "{paid:?}, {before:?}: what was carried is paid");
        world.run_for(SECOND * 80);
        assert_eq!(world.role(ids[1], found), Some(Role::Peer));
        assert_eq!(world.role(ids[2], agreed), Some(Role::Subscriber), "its owner's word");
        assert_eq!(spent(&world), paid);
        let last = delivered(&world);
        assert_eq!((last[0][1], last[1]), (at_once[0][1], at_once[1]), "not out of the mesh: {}", world.report());
        households.iter().for_each(|(id, _)| world.allow_spending(*id, true));
        until(&mut world, SECOND * 60, "two customers again", connected);
        world.run_for(SECOND * 20);
        let again = delivered(&world);
        for (again, last) in again.into_iter().zip(last) {
            assert!(again[1] > last[1] + 400, "{again:?} {last:?}: {}", world.report());
        }
        world
    });
}

/// A gateway, an honest relay that asks 15 tokens, one that tells 11 with its routes and bills `bills`, and a household
/// that pays up to `max`. What the household signed for each of the two within so long, in base units.
fn bait(seed: u64, bills: u64, max: u64, time: Duration) -> (World, [u128; 2]) {
    let mut world = World::new(seed);
    let ids = world.stations(4);
    world.set_weight(weight());
    for relay in [ids[1], ids[2]] {
        world.connect(relay, ids[0], Bond::ByRoutes, Quality::GOOD);
    }
    let honest = world.connect(ids[1], ids[3], Bond::ByRoutes, Quality::GOOD);
    let cheat = world.connect(ids[2], ids[3], Bond::ByRoutes, Quality::GOOD);
    world.set_prices(ids[0], asks(10));
    world.set_prices(ids[1], adds(5));
    world.set_prices(ids[2], asks(bills));
    world.tell_price(ids[2], 11_000_000);
    world.set_prices(ids[3], Prices { limits: pays(max), ..adds(0) });
    world.start();
    until(&mut world, SECOND * 60, "a way out", |world| world.way_out(ids[3]).is_some());
    call(&mut world, ids[3], ids[0]);
    world.run_for(time);
    let signed = [honest, cheat].map(|wire| world.settled(ids[3], wire).map_or(0, |known| known.sums.spent.get()));
    (world, signed)
}

#[test]
fn whoever_tells_one_price_and_bills_another_is_left_at_once_and_not_taken_again_for_an_hour() {
    tell("bait", 3..4, |seed| {
        let (world, [honest, cheat]) = bait(seed, 40, 100, SECOND * 3000);
        let second = Price::new(40 * TOKEN).of(Bytes::new(25 * (2 * 1456 + 352))).expect("small").get();
        println!("tells 11, bills 40: {cheat} signed for it in 50 minutes, {honest} for the honest relay");
        assert!(cheat <= 2 * second, "{cheat}: {}", world.report());
        assert!(honest > 1000 * second);
        world
    });
    tell("bait beyond the limit", 1..3, |seed| {
        let (world, [honest, cheat]) = bait(seed, 40, 30, SECOND * 600);
        assert_eq!(cheat, 0);
        assert!(honest > 0);
        world
    });
}
