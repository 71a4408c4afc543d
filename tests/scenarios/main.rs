//! Whole meshes on virtual time. Each story runs for fixed seeds and, where the variable `SIM_SEED` is set, for that one
//! too. What must hold at every step is checked by the world itself (`tests/sim`); the stories say what must come of it.

mod cheats;
mod city;
mod hostile;
mod money;
mod roles;
mod shapes;

use std::fmt::Display;
use std::time::{Duration, Instant};

use metering::{Bytes, Offer, Price};
use sim::World;

const SECOND: Duration = Duration::from_secs(1);

/// A relay that asks 20 tokens (of 6 decimals) for a GiB in either direction, and risks four MiB.
const OFFER: Offer = Offer {
    price_up: Price::new(20_000_000),
    price_down: Price::new(20_000_000),
    window: Bytes::from_mebibytes(4),
    loss_allowance_ppm: Offer::DEFAULT_LOSS_ALLOWANCE_PPM,
};

/// Tells a story for each seed and prints what it was.
fn tell(name: &str, seeds: impl IntoIterator<Item = u64>, story: impl Fn(u64) -> World) {
    let fresh = std::env::var("SIM_SEED").ok().map(|seed| seed.parse().expect("SIM_SEED is a number"));
    for seed in seeds.into_iter().chain(fresh) {
        let began = clock();
        let world = story(seed);
        println!("{name}: {:.1} s; {}", began.elapsed().as_secs_f64(), world.report());
    }
}

#[expect(clippy::disallowed_methods, reason = "only to print how long a story took")]
fn clock() -> Instant {
    Instant::now()
}

/// Waits until everybody reaches everybody.
fn connect(world: &mut World, limit: Duration) -> Duration {
    let took = world.run_until_connected(limit);
    took.unwrap_or_else(|| panic!("not everybody is reached after {limit:?}: {}", world.report()))
}

/// Sends a packet from everybody to everybody; each must arrive.
fn probe(world: &mut World, when: impl Display) {
    let (missing, of) = world.probe_all_pairs(SECOND * 2);
    assert_eq!(missing, 0, "of {of} pairs, {when}: {}", world.report());
}
