//! The fast path: what it costs to carry a gigabyte, how fast it goes and how long a packet takes, by Waybill and by other
//! programs that do the same, in network namespaces that the bench makes and removes.
//!
//! ```sh
//! cargo build --release                                  # the program under test
//! cargo bench -p sim --bench fast_path                   # everything
//! cargo bench -p sim --bench fast_path -- relay latency  # some of it; --help lists what there is
//! ```
//!
//! The contenders take turns within each round on the same machine, so that they can be compared whatever else it does;
//! figures are medians of the rounds. Bytes are those the receiver counted. Processor time is that of a contender's whole
//! process. What the kernel does for a packet in a soft interrupt is charged to whoever happens to run, so the machine's
//! whole time stands beside it; that includes iperf3 and everybody else's work.
//!
//! Needs root, iperf3, ping, ethtool, nft and wg. Contenders that are not installed are left out, and it says how to
//! install them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use conditions::Conditions;
use contender::{Contender, Kind};
use lab::{Lab, say};
use measurements::{MEASUREMENTS, Measurement};
use report::{Figures, Report};

mod conditions;
mod contender;
mod datagrams;
#[expect(dead_code, reason = "the bench needs only a part of the lab")]
#[path = "../../e2e/lab.rs"]
mod lab;
#[expect(dead_code, reason = "nobody audits the bench's ledger")]
#[path = "../../e2e/ledger.rs"]
mod ledger;
mod line;
mod load;
mod measurements;
mod ours;
mod pings;
mod processes;
mod quic;
mod report;
#[expect(dead_code, reason = "the bench needs only a part of what routers can do")]
#[path = "../../e2e/router.rs"]
mod router;
#[expect(dead_code, reason = "the bench has loads of its own")]
#[path = "../../e2e/traffic.rs"]
mod traffic;
mod wireguard;
mod yggdrasil;

const TOOLS: &[&str] = &["iperf3", "ping", "ethtool", "nft", "wg", "getconf"];
const ROUNDS: usize = 3;
const SECONDS: u32 = 5;

/// What the command line asks for.
struct Options {
    measurements: Vec<&'static Measurement>,
    rounds: usize,
    seconds: u32,
    json: bool,
    /// Another build of Waybill to compare with.
    before: Option<PathBuf>,
    /// The contenders to measure beside Waybill; where none is named, all.
    only: Vec<String>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some((datagrams::SEND, words)) => return finish(datagrams::send_datagrams(words)),
        Some((quic::TAKE, words)) => return finish(quic::take(words)),
        Some((quic::SEND, words)) => return finish(quic::send(words)),
        Some(_) | None => {}
    }
    if words.iter().any(|word| word == "--help") {
        println!("{}", help());
        return ExitCode::SUCCESS;
    }
    // Root and the tools, once: a lab for each sample comes later.
    if Lab::open("fast_path", TOOLS).is_none() {
        return ExitCode::SUCCESS;
    }
    finish(Options::parse(words).and_then(|options| run(&options)))
}

fn finish(outcome: Result<String, String>) -> ExitCode {
    match outcome {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse(words: Vec<String>) -> Result<Self, String> {
        let mut options = Self {
            measurements: Vec::new(),
            rounds: ROUNDS,
            seconds: SECONDS,
            json: false,
            before: None,
            only: Vec::new(),
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--bench" => {} // cargo's
                "--json" => options.json = true,
                "--rounds" => options.rounds = positive(&word, &value()?)? as usize,
                "--seconds" => options.seconds = positive(&word, &value()?)?,
                "--before" => options.before = Some(value()?.into()),
                "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
                name => {
                    let measurement = MEASUREMENTS.iter().find(|measurement| measurement.name == name);
                    options.measurements.push(measurement.ok_or_else(|| format!("no {name} here\n{}", help()))?);
                }
            }
        }
        if options.measurements.is_empty() {
            options.measurements = MEASUREMENTS.iter().collect();
        }
        Ok(options)
    }
}

fn positive(word: &str, value: &str) -> Result<u32, String> {
    value.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("{word} needs a number above 0, not {value}"))
}

fn help() -> String {
    let measurements = MEASUREMENTS.map(|Measurement { name, what, .. }| format!("  {name:<12} {what}\n")).concat();
    format!(
        "cargo bench -p sim --bench fast_path -- [MEASUREMENT...] [OPTION...]\n\nMeasurements; all where none is named:\n\
         {measurements}\nOptions:\n\
         \x20 --rounds N      samples of each contender, taken in turns ({ROUNDS})\n\
         \x20 --seconds N     of one sample ({SECONDS})\n\
         \x20 --only A,B      Waybill, and of the others these alone: --only waybill for none\n\
         \x20 --before PATH   also another build of Waybill\n\
         \x20 --json          the table for programs, with every sample\n\n\
         Waybill is $WAYBILL, else the release build beside the bench."
    )
}

/// Measures and prints. Fails when a sample failed, with what could be measured printed all the same.
fn run(options: &Options) -> Result<String, String> {
    processes::check_ticks();
    let (contenders, missing) = contenders(options)?;
    missing.iter().for_each(|line| say(&format!("skipped: {line}")));
    let mut report = Report::default();
    let mut failed = Vec::new();
    let mut busy = Vec::new();
    for round in 1..=options.rounds {
        for measurement in &options.measurements {
            for (at, contender) in contenders.iter().enumerate() {
                if measurement.ours_alone && contender.kind != Kind::Waybill {
                    continue;
                }
                let title = format!("round {round} of {}, {}, {}", options.rounds, measurement.name, contender.name);
                busy.push(processes::busy_processors());
                let (figures, is_whole) = sample(measurement, contender, options.seconds);
                say(&format!("{title}: {}", figures.text()));
                report.add(measurement.name, at, figures);
                if !is_whole {
                    say(&format!("{title}: failed, see above"));
                    failed.push(title);
                }
            }
        }
    }
    let conditions = Conditions::new(options, &contenders, missing, &busy);
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    let said = if options.json {
        format!("{:#}", json!({ "conditions": conditions.0, "failed": failed, "rows": report.json(&names) }))
    } else {
        format!("{conditions}\n{}", report.table(&names))
    };
    if failed.is_empty() {
        return Ok(said);
    }
    println!("{said}");
    Err(format!("{} samples failed: {}", failed.len(), failed.join("; ")))
}

/// Who takes part, and of those who do not, how to install them.
fn contenders(options: &Options) -> Result<(Vec<Contender>, Vec<String>), String> {
    let mut contenders = vec![Contender::waybill()?];
    if let Some(before) = &options.before {
        contenders.push(Contender::waybill_at("waybill before", before)?);
    }
    let (others, mut missing) = Contender::others();
    contenders.extend(others);
    if !options.only.is_empty() {
        let known = |name: &String| contenders.iter().any(|contender| contender.name == name);
        if let Some(unknown) = options.only.iter().find(|name| !known(name)) {
            let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
            return Err(format!("there is no {unknown}; there are: {}\n{}", names.join(", "), missing.join("\n")));
        }
        let is_asked_for = |contender: &Contender| options.only.iter().any(|name| name == contender.name);
        contenders.retain(|contender| contender.kind == Kind::Waybill || is_asked_for(contender));
        missing.clear();
    }
    Ok((contenders, missing))
}

/// Takes a sample; false when it ended early, with what it found until then.
fn sample(measurement: &Measurement, contender: &Contender, seconds: u32) -> (Figures, bool) {
    let mut figures = Figures::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| (measurement.measure)(contender, seconds, &mut figures)));
    (figures, outcome.is_ok())
}
