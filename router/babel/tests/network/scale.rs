//! Large networks: nodes strewn over a square start within a second, then links and nodes come and go, packets are lost
//! and overtake each other, and the network falls into two parts and becomes one again.

use crate::world::{Plan, Tally, World};
use std::time::Duration;

/// How large and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    /// One node in so many announces a prefix.
    pub(crate) announcers: usize,
    pub(crate) update_s: u64,
    /// Of this share of links and nodes each minute, in thousandths.
    pub(crate) churn: usize,
    pub(crate) churn_minutes: u64,
    /// Links that are cut in silence one after the other.
    pub(crate) cuts: usize,
    pub(crate) seed: u64,
}

/// What was seen. Times are virtual.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// After the last node was switched on.
    pub(crate) all_reached: Duration,
    pub(crate) idle_bytes: u64,
    /// Nothing changes, but a tenth of all packets is lost.
    pub(crate) lossy_bytes: u64,
    pub(crate) churn_bytes: u64,
    /// After a silent cut, until all pairs that it parted reach each other.
    pub(crate) outages: Vec<Duration>,
    pub(crate) parted: Duration,
    pub(crate) merged: Duration,
    pub(crate) healed: Duration,
    pub(crate) tally: Tally,
    /// At the end of the quiet time before the churn.
    pub(crate) routes: usize,
}

const MINUTE: Duration = Duration::from_secs(60);

/// The whole story; `at` is told what is over.
pub(crate) fn run(size: Size, graph: &[(usize, usize)], mut at: impl FnMut(&str, &World)) -> Seen {
    let (mut world, mut seen) = start_and_settle(size, graph, &mut at);
    seen.outages = cuts(&mut world, size.cuts);
    at("cuts", &world);
    get_lossy(&mut world);
    seen.lossy_bytes = bytes_per_node_second(&mut world, MINUTE);
    at("lossy", &world);
    seen.churn_bytes = churn(&mut world, size);
    at("churn", &world);
    (seen.parted, seen.merged) = part_and_merge(&mut world);
    at("parts", &world);
    calm(&mut world);
    seen.healed = whole(&mut world, MINUTE * 10);
    at("healed", &world);
    seen.tally = world.tally;
    seen
}

/// The story's first part: from the cold until nothing changes any more.
pub(crate) fn start_and_settle(
    size: Size,
    graph: &[(usize, usize)],
    mut at: impl FnMut(&str, &World),
) -> (World, Seen) {
    let mut seen = Seen::default();
    let mut world = start(size, graph);
    seen.all_reached = whole(&mut world, MINUTE * 10);
    at("all reached", &world);
    world.run(Duration::from_secs(size.update_s));
    let quiet = Duration::from_secs(size.update_s.max(120));
    seen.idle_bytes = bytes_per_node_second(&mut world, quiet);
    seen.routes = (0..size.nodes).map(|node| world.speaker(node).usage().routes).sum();
    at("idle", &world);
    seen.tally = world.tally;
    (world, seen)
}

/// Within one second every node is switched on.
fn start(size: Size, graph: &[(usize, usize)]) -> World {
    let sample = 1 + size.nodes as u64 / 10;
    let mut plan = Plan { sample, announcers: size.announcers, delay_ms: (1, 20), ..Plan::new(size.seed) };
    plan.interface.update_interval = Duration::from_secs(size.update_s);
    let mut world = World::dark(plan, size.nodes, graph);
    for node in 0..size.nodes {
        world.run(Duration::from_secs(1) / size.nodes as u32);
        world.power_on(node);
    }
    world
}

fn whole(world: &mut World, limit: Duration) -> Duration {
    world.run_until_whole(limit).unwrap_or_else(|| panic!("{}: not whole", world.when()))
}

fn bytes_per_node_second(world: &mut World, duration: Duration) -> u64 {
    let before = world.tally.bytes;
    world.run(duration);
    (world.tally.bytes - before) / duration.as_secs() / world.len() as u64
}

/// Cuts links in silence, one after the other, and tells how long each outage was.
pub(crate) fn cuts(world: &mut World, count: usize) -> Vec<Duration> {
    (0..count).filter_map(|_| cut_and_mend(world)).collect()
}

/// `None`: the link was a bridge or unused, and nobody can tell.
fn cut_and_mend(world: &mut World) -> Option<Duration> {
    let link = world.rng.usize(0..world.links.len());
    world.set_whole(link, false);
    let outage = (!world.is_whole()).then(|| whole(world, MINUTE));
    world.set_whole(link, true);
    world.run(Duration::from_secs(10));
    outage
}

/// All links begin to lose a tenth, and packets to overtake each other: every metric in the network grows. Returns after
/// the slowest average has followed.
fn get_lossy(world: &mut World) {
    for link in &mut world.links {
        (link.loss, link.delay_ms) = ([100; 2], (1, 100));
    }
    world.run(MINUTE * 3);
}

/// Links are cut with and without a word, nodes vanish, and each is back after 20 s on average.
fn churn(world: &mut World, size: Size) -> u64 {
    let mut rng = fastrand::Rng::with_seed(size.seed);
    let (before, start) = (world.tally.bytes, world.now);
    let things = world.links.len() + size.nodes;
    let changes = things * size.churn / 1000 * size.churn_minutes as usize;
    let pause = MINUTE * size.churn_minutes as u32 / changes.max(1) as u32;
    let mut mending = Vec::new();
    for _ in 0..changes {
        world.run(pause);
        let thing = rng.usize(0..things);
        let back = world.now + Duration::from_millis(rng.u64(1000..40_000));
        break_something(world, thing, rng.bool());
        mending.push((back, thing));
        let (due, later): (Vec<_>, _) = mending.into_iter().partition(|(back, _)| *back <= world.now);
        due.into_iter().for_each(|(_, thing)| mend(world, thing));
        mending = later;
    }
    mending.into_iter().for_each(|(_, thing)| mend(world, thing));
    (world.tally.bytes - before) / (world.now - start).as_secs().max(1) / size.nodes as u64
}

fn break_something(world: &mut World, thing: usize, silently: bool) {
    match thing.checked_sub(world.links.len()) {
        Some(node) => world.power_off(node),
        None if silently => world.set_whole(thing, false),
        None => world.unplug(thing),
    }
}

fn mend(world: &mut World, thing: usize) {
    match thing.checked_sub(world.links.len()) {
        Some(node) => world.power_on(node),
        None => world.plug(thing),
    }
}

/// All links between the lower and the upper half of the nodes are cut in silence for two minutes.
fn part_and_merge(world: &mut World) -> (Duration, Duration) {
    calm(world);
    whole(world, MINUTE * 10);
    let half = world.len() / 2;
    let between = |world: &World, link: usize| world.links[link].ends.iter().filter(|end| **end < half).count() == 1;
    let cut: Vec<_> = (0..world.links.len()).filter(|link| between(world, *link)).collect();
    cut.iter().for_each(|link| world.set_whole(*link, false));
    let parted = whole(world, MINUTE * 10);
    world.run(MINUTE * 2);
    cut.iter().for_each(|link| world.set_whole(*link, true));
    (parted, whole(world, MINUTE * 10))
}

/// Nothing is lost any more.
fn calm(world: &mut World) {
    for link in &mut world.links {
        (link.loss, link.delay_ms) = ([0; 2], (1, 20));
    }
}
