//! How large a mesh can grow: memory, time and bytes of a whole network on virtual time.
//!
//! `cargo bench -p babel --bench mesh -- --nodes 1000 --update 60` prints one row of the table in `tests/README.md`; with
//! `--settle` it ends when nothing changes any more, without cuts, churn and partitions. `--announcers 5`: one node in five
//! announces a prefix, as where villages are aggregated.

#[path = "../tests/network/graphs.rs"]
#[expect(dead_code, reason = "the stories use more of it")]
mod graphs;
#[path = "../tests/network/scale.rs"]
mod scale;
#[path = "../tests/network/world.rs"]
#[expect(dead_code, reason = "the stories use more of it")]
mod world;

use scale::Size;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The system's allocator, and how much it has given.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator cannot be counted otherwise; all work is left to the system's")]
// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let size = Size {
        nodes: argument("--nodes").unwrap_or(300) as usize,
        announcers: argument("--announcers").unwrap_or(1) as usize,
        update_s: argument("--update").unwrap_or(60),
        churn: 10,
        churn_minutes: argument("--churn-minutes").unwrap_or(10),
        cuts: argument("--cuts").unwrap_or(30) as usize,
        seed: argument("--seed").unwrap_or(1),
    };
    let graph = graphs::geometric(&mut fastrand::Rng::with_seed(size.seed), size.nodes, 5.0);
    println!("{} nodes, {} links, updates every {} s", size.nodes, graph.len(), size.update_s);
    let (start, before) = (clock(), IN_USE.load(Ordering::Relaxed));
    let mut idle = 0;
    let at = |what: &str, world: &world::World| {
        let in_use = IN_USE.load(Ordering::Relaxed) - before - of_the_world(world);
        idle = if what == "idle" { in_use } else { idle };
        let (virtually, really) = (world.elapsed().as_secs_f64(), start.elapsed().as_secs_f64());
        println!("  {what}: {virtually:.1} s virtual, {really:.1} s, speakers {:.1} MiB", mib(in_use));
    };
    let seen = match std::env::args().any(|argument| argument == "--settle") {
        true => scale::start_and_settle(size, &graph, at).1,
        false => scale::run(size, &graph, at),
    };
    report(size, &seen, idle, start.elapsed());
}

fn report(size: Size, seen: &scale::Seen, idle: usize, took: Duration) {
    let mut outages = seen.outages.clone();
    outages.sort_unstable();
    let worst = outages.last().copied().unwrap_or_default().as_secs_f64();
    let median = outages.get(outages.len() / 2).copied().unwrap_or_default().as_secs_f64();
    println!(
        "| {} / {} s | {:.1} s | {} | {} | {} | {median:.1} / {worst:.1} s of {} | {:.1} / {:.1} s | {:.0} MiB, {:.0} KiB, {:.0} B \
         | {:.0} s | {:.1} M |",
        size.nodes,
        size.update_s,
        seen.all_reached.as_secs_f64(),
        seen.idle_bytes,
        seen.lossy_bytes,
        seen.churn_bytes,
        outages.len(),
        seen.parted.as_secs_f64(),
        seen.merged.as_secs_f64(),
        mib(idle),
        idle as f64 / 1024.0 / size.nodes as f64,
        idle as f64 / seen.routes as f64,
        took.as_secs_f64(),
        seen.tally.loop_checks as f64 / 1e6,
    );
    println!(
        "  healed after {:.1} s; {} loops through restarted nodes, the longest {:.2} s; {} packets, {:.0} MB; at most {:.0} MiB",
        seen.healed.as_secs_f64(),
        seen.tally.loops_after_restart,
        seen.tally.loop_lasted.as_secs_f64(),
        seen.tally.packets,
        seen.tally.bytes as f64 / 1e6,
        mib(MOST.load(Ordering::Relaxed)),
    );
}

/// Its FIBs; packets on their way are few when it is asked.
fn of_the_world(world: &world::World) -> usize {
    world.len() * world.len() * size_of::<u32>()
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

fn argument(name: &str) -> Option<u64> {
    std::env::args().skip_while(|argument| argument != name).nth(1)?.parse().ok()
}

fn clock() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
    Instant::now()
}
