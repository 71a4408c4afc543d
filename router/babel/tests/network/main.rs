//! Whole networks of speakers on virtual time. `world` is the simulator, the rest are its stories; each prints the
//! figures it asserts about, and a failure prints the seed that replays it.
//!
//! `SIM_SEED=7 cargo test -p babel --test network -- --show-output` adds a seed to the fixed ones, and `SIM_TRACE=3` prints
//! all that is said of node 3's prefix.

mod graphs;
mod healing;
mod noise;
mod optimal;
mod prices;
mod scale;
mod world;

use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The fixed seeds, and one from the environment to look where nobody has looked before.
fn seeds(fixed: u64) -> impl Iterator<Item = u64> {
    let fresh = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    (0..fixed).chain(fresh)
}

/// The greatest of some durations.
fn worst(took: &[Duration]) -> Duration {
    took.iter().copied().max().unwrap_or_default()
}

/// The middle one of some durations.
fn median(took: &[Duration]) -> Duration {
    let mut took = took.to_vec();
    took.sort_unstable();
    took.get(took.len() / 2).copied().unwrap_or_default()
}

/// The geometric graphs of the bench, in small.
fn geometric(nodes: usize, churn_minutes: u64) -> (scale::Size, Vec<(usize, usize)>) {
    let size = scale::Size { nodes, announcers: 1, update_s: 60, churn: 10, churn_minutes, cuts: 3, seed: 1 };
    (size, graphs::geometric(&mut fastrand::Rng::with_seed(size.seed), nodes, 5.0))
}

#[test]
fn a_thousand_nodes_reach_each_other_and_heal() {
    let (size, graph) = geometric(1000, 0);
    let (mut world, seen) = scale::start_and_settle(size, &graph, |_, _| {});
    let outages = scale::cuts(&mut world, size.cuts);
    println!("1000 nodes: all reached after {:?}, idle {} B/s per node", seen.all_reached, seen.idle_bytes);
    println!("outages after silent cuts: {outages:?}");
    assert!(seen.all_reached <= Duration::from_secs(10));
    assert!(worst(&outages) <= Duration::from_secs(10));
}

fn mesh(nodes: usize, churn_minutes: u64) -> scale::Seen {
    let (size, graph) = geometric(nodes, churn_minutes);
    let seen = scale::run(size, &graph, |_, _| {});
    println!("{nodes} nodes: all reached after {:?}, idle {} B/s per node", seen.all_reached, seen.idle_bytes);
    println!("outages after silent cuts: median {:?}, worst {:?}", median(&seen.outages), worst(&seen.outages));
    println!("parted {:?}, merged {:?}, healed {:?}; {:?}", seen.parted, seen.merged, seen.healed, seen.tally);
    seen
}

#[test]
fn three_hundred_nodes_come_and_go_and_everybody_is_reached() {
    let seen = mesh(300, 1);
    assert!(seen.all_reached <= Duration::from_secs(10));
    assert!(worst(&seen.outages) <= Duration::from_secs(10));
    assert!(seen.parted.max(seen.merged).max(seen.healed) <= MINUTE);
}
