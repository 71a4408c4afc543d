//! Loss and jitter that never end must not move routes or take living links for dead.

use crate::graphs;
use crate::world::{Plan, Tally, World};
use crate::{MINUTE, seeds};
use std::time::Duration;

/// What a world does in half an hour once it has learnt what its links lose.
struct HalfHour {
    tally: Tally,
    before: Tally,
    node_hours: f64,
    link_hours: f64,
    /// Seconds, of 1,800, at whose end somebody did not reach somebody.
    broken_s: u32,
}

impl HalfHour {
    fn of(mut world: World) -> Self {
        world.run(MINUTE * 5);
        let before = world.tally;
        let mut broken_s = 0;
        for _ in 0..1800 {
            world.run(Duration::from_secs(1));
            broken_s += u32::from(!world.is_whole());
        }
        let (node_hours, link_hours) = (world.len() as f64 / 2.0, world.links.len() as f64 / 2.0);
        Self { tally: world.tally, before, node_hours, link_hours, broken_s }
    }

    fn moves_per_node_hour(&self) -> f64 {
        (self.tally.moves - self.before.moves) as f64 / self.node_hours
    }

    fn lost_per_node_hour(&self) -> f64 {
        (self.tally.lost - self.before.lost) as f64 / self.node_hours
    }

    fn false_downs_per_link_hour(&self) -> f64 {
        (self.tally.false_downs - self.before.false_downs) as f64 / self.link_hours
    }
}

type Graph = Vec<(usize, usize)>;

/// Graphs full of equally good ways, where the least noise can move a route.
fn graphs(seed: u64) -> [(&'static str, usize, Graph); 3] {
    let random = graphs::random(&mut fastrand::Rng::with_seed(seed), 20);
    [("ring of 8", 8, graphs::ring(8)), ("grid of 16", 16, graphs::grid(4)), ("random 20", 20, random)]
}

fn watch(what: &str, plan: Plan) -> Vec<HalfHour> {
    let mut seen = Vec::new();
    for (name, nodes, graph) in graphs(plan.seed) {
        let half_hour = HalfHour::of(World::new(plan, nodes, &graph));
        println!(
            "{name}, {what}: {:.1} moves and {:.1} lost routes per node and hour, {:.2} false downs per link and hour, \
             {} of 1,800 s broken, {} B/s per node",
            half_hour.moves_per_node_hour(),
            half_hour.lost_per_node_hour(),
            half_hour.false_downs_per_link_hour(),
            half_hour.broken_s,
            (half_hour.tally.bytes - half_hour.before.bytes) / 1800 / nodes as u64
        );
        seen.push(half_hour);
    }
    seen
}

/// What is seen: no move at 1 %, 15 per node and hour at 5 %, 60 at 20 %; a false down every four link-hours at 20 %,
/// none at 10 %.
#[test]
fn steady_loss_moves_few_routes_and_takes_hardly_any_living_link_for_dead() {
    for (loss, moves, false_downs, broken_s) in
        [(0, 0.0, 0.0, 0), (10, 1.0, 0.0, 0), (50, 50.0, 0.1, 5), (100, 100.0, 0.25, 10), (200, 150.0, 1.0, 20)]
    {
        for seed in seeds(1) {
            let seen = watch(&format!("{} % lost", loss / 10), Plan { loss, ..Plan::new(seed) });
            assert!(seen.iter().all(|seen| seen.moves_per_node_hour() <= moves), "seed {seed}");
            assert!(seen.iter().all(|seen| seen.false_downs_per_link_hour() <= false_downs), "seed {seed}");
            assert!(seen.iter().all(|seen| seen.broken_s <= broken_s), "seed {seed}");
        }
    }
}

/// The worst is jitter around the middle of the range in which round trips cost something: a route moves every ten
/// minutes, to one that is as good.
#[test]
fn jitter_breaks_nothing_and_moves_few_routes() {
    for delay_ms in [(20, 80), (5, 200), (1, 400)] {
        for seed in seeds(1) {
            let seen = watch(&format!("{delay_ms:?} ms"), Plan { delay_ms, ..Plan::new(seed) });
            assert!(seen.iter().all(|seen| seen.moves_per_node_hour() <= 200.0), "seed {seed}");
            assert!(
                seen.iter().all(|seen| seen.false_downs_per_link_hour() == 0.0 && seen.broken_s == 0),
                "seed {seed}"
            );
        }
    }
}

/// A Hello every second that takes one to two is late all the time, and each time its sender is asked: up to eight
/// questions in 0.7 s, and any packet that comes meanwhile ends them.
#[test]
fn links_of_one_to_two_seconds_are_used_and_the_questions_on_them_cost_little() {
    for (loss, broken_s) in [(0, 0), (100, 60)] {
        for seed in seeds(1) {
            let seen = watch("1 to 2 s", Plan { delay_ms: (1000, 2000), loss, ..Plan::new(seed) });
            assert!(seen.iter().all(|seen| seen.false_downs_per_link_hour() <= 0.5), "seed {seed}");
            assert!(seen.iter().all(|seen| seen.broken_s <= broken_s), "seed {seed}");
        }
    }
}
