//! A ring of eight namespaces, routed by our speaker, by babeld as it comes and by babeld with short intervals: how long
//! nothing arrives when a link is cut, and what the routing costs while nothing happens.
//!
//! The setups take turns on the same machine within the same hour, so that they can be compared whatever else it does.
//! Needs root, babeld, nft and ping. `cargo bench -p sim --bench babel_ring -- --rounds 3`

use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use lab::{Lab, secs};
use machine::{Kind, Machine, Network, Pace, Who};
use pulse::{Pulse, outage};

#[expect(dead_code, reason = "the bench needs only a part of the lab")]
#[path = "../e2e/lab.rs"]
mod lab;
#[expect(dead_code, reason = "the bench needs only a part of what machines can do")]
#[path = "../interop/machine.rs"]
mod machine;
#[path = "../interop/pulse.rs"]
mod pulse;

const SETUPS: [Setup; 3] = [
    Setup { name: "ours, tunnel defaults", kind: Kind::Ours, pace: Pace::Stock },
    Setup { name: "babeld, defaults", kind: Kind::Babeld, pace: Pace::Stock },
    Setup { name: "babeld, hello 1 s, update 4 s", kind: Kind::Babeld, pace: Pace::Brisk },
];
const NODES: usize = 8;
/// The link that is cut, between the first two.
const CUT: usize = 0;
/// Pairs whose short path leads over it, by their places, up to three hops.
const AFFECTED: [(usize, usize); 6] = [(0, 1), (7, 1), (0, 2), (7, 2), (6, 1), (0, 3)];
/// From the first route to every node until the idle traffic is counted.
const SETTLED_AFTER: Duration = secs(20);
const IDLE_FOR: Duration = secs(60);
/// babeld as it comes needs up to a minute for some things.
const PATIENCE: Duration = secs(180);
const ROUNDS: usize = 3;

struct Setup {
    name: &'static str,
    kind: Kind,
    pace: Pace,
}

/// What one round of one setup measured.
#[derive(Clone, Copy)]
struct Figures {
    idle_bytes_per_s: f64,
    silent_s: f64,
    told_s: f64,
    back_s: f64,
    back_after_told_s: f64,
    rss_mib: f64,
}

/// A column's title, its figure and its decimals.
type Column = (&'static str, fn(&Figures) -> f64, usize);

const COLUMNS: [Column; 6] = [
    ("idle B/s/node", |figures| figures.idle_bytes_per_s, 0),
    ("silent cut s", |figures| figures.silent_s, 1),
    ("interface down s", |figures| figures.told_s, 1),
    ("back after mending s", |figures| figures.back_s, 1),
    ("back after up s", |figures| figures.back_after_told_s, 1),
    ("RSS MiB", |figures| figures.rss_mib, 1),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let rounds = match words.iter().position(|word| word == "--rounds") {
        Some(at) => words.get(at + 1).and_then(|count| count.parse().ok()),
        None => Some(ROUNDS),
    };
    let Some(rounds) = rounds.filter(|rounds| *rounds > 0) else {
        eprintln!("error: --rounds needs a number");
        return ExitCode::FAILURE;
    };
    let mut measured: [Vec<Figures>; SETUPS.len()] = Default::default();
    for round in 1..=rounds {
        for (setup, measured) in SETUPS.iter().zip(&mut measured) {
            let Some(mut lab) = Lab::open("babel_ring", &["babeld", "nft", "ping"]) else { return ExitCode::SUCCESS };
            let figures = measure(&mut lab, setup);
            lab.figures(&format!("round {round}, {}: {}", setup.name, cells(&[figures])));
            measured.push(figures);
        }
    }
    print(&measured, rounds);
    ExitCode::SUCCESS
}

fn measure(lab: &mut Lab, setup: &Setup) -> Figures {
    let mut ring = Network::new(lab, &[setup.kind; NODES]);
    ring.close_ring(lab, setup.pace);
    ring.start();
    ring.all_know_all(PATIENCE);
    ring.used_by(Who::Both, CUT, PATIENCE);
    let idle_bytes_per_s = idle(&ring);
    let rss = ring.machines.iter().map(|machine| machine.daemon().rss_kib()).max().unwrap_or_default();
    let (silent_s, back_s) = cut(lab, &ring, |cut| match cut {
        true => ring.cut_silently(CUT),
        false => ring.mend(CUT),
    });
    let (told_s, back_after_told_s) = cut(lab, &ring, |cut| ring.set_end(CUT, 0, if cut { "down" } else { "up" }));
    Figures { idle_bytes_per_s, silent_s, told_s, back_s, back_after_told_s, rss_mib: rss as f64 / 1024.0 }
}

/// What a node sends in a second, with the headers of IPv6 and UDP.
fn idle(ring: &Network) -> f64 {
    for machine in &ring.machines {
        let rules = "table inet idle { chain sent { type filter hook output priority 0; udp sport 6696 counter; }; }";
        machine.host.must(&["nft", rules]);
    }
    thread::sleep(SETTLED_AFTER);
    let sent = || -> u64 { ring.machines.iter().map(sent).sum() };
    let (began, before) = (lab::now(), sent());
    thread::sleep(IDLE_FOR);
    let bytes = sent() - before;
    bytes as f64 / began.elapsed().as_secs_f64() / NODES as f64
}

fn sent(machine: &Machine) -> u64 {
    let listed = machine.host.must(&["nft", "-j", "list", "table", "inet", "idle"]);
    let listed: Value = serde_json::from_str(&listed).expect("nft -j prints JSON");
    let counter =
        listed["nftables"].as_array().into_iter().flatten().find_map(|entry| {
            entry["rule"]["expr"].as_array()?.iter().find_map(|part| part["counter"]["bytes"].as_u64())
        });
    counter.expect("the rule has a counter")
}

/// Takes the link away and brings it back: the longest outage of any pair, and how long both ends needed to use it again.
fn cut(lab: &Lab, ring: &Network, set: impl Fn(bool)) -> (f64, f64) {
    ring.used_by(Who::Both, CUT, PATIENCE);
    let pulses = AFFECTED.map(|(from, to)| Pulse::start(lab, &ring.machines[from], &ring.machines[to]));
    set(true);
    let outage = outage(&pulses, PATIENCE);
    set(false);
    let back = ring.used_by(Who::Both, CUT, PATIENCE).into_iter().max().flatten();
    (outage.as_secs_f64(), back.unwrap_or_default().as_secs_f64())
}

fn print(measured: &[Vec<Figures>], rounds: usize) {
    let version = |program: &str, option: &str| {
        let output = Command::new(program).arg(option).output().expect("it ran before");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
    };
    println!(
        "\nRing of {NODES}, median (worst) of {rounds}. Waybill {}, {}, Linux {}\n",
        env!("CARGO_PKG_VERSION"),
        version("babeld", "-V"),
        version("uname", "-r"),
    );
    let titles = COLUMNS.map(|(title, ..)| title).join(" | ");
    println!("| | {titles} |\n|{}", "---|".repeat(COLUMNS.len() + 1));
    for (setup, figures) in SETUPS.iter().zip(measured) {
        println!("| {} | {} |", setup.name, cells(figures));
    }
}

fn cells(figures: &[Figures]) -> String {
    let cells = COLUMNS.map(|(_, figure, decimals)| {
        let mut values: Vec<f64> = figures.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let (median, worst) = (values[values.len() / 2], values[values.len() - 1]);
        if values.len() == 1 {
            format!("{median:.decimals$}")
        } else {
            format!("{median:.decimals$} ({worst:.decimals$})")
        }
    });
    cells.join(" | ")
}
