//! Whole networks of speakers on virtual time. `world` is the simulator, the rest are its stories; each prints the
//! figures it asserts about, and a failure prints the seed that replays it.
//!
//! `SIM_SEED=7 cargo test -p babel --test network -- --show-output` adds a seed to the fixed ones.

mod graphs;
mod healing;
mod noise;
mod optimal;
mod prices;
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
