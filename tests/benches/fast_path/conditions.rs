//! Under which conditions figures were taken: versions, the machine, and how much else it had to do.

use std::fmt;
use std::fs;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::Options;
use crate::contender::{Contender, first_line};
use crate::report::median;

/// The same for people and for programs.
pub(crate) struct Conditions(pub(crate) Value);

impl Conditions {
    /// `busy` is how many processors other work kept busy before each sample.
    pub(crate) fn new(options: &Options, contenders: &[Contender], missing: Vec<String>, busy: &[f64]) -> Self {
        let linux = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let tcp = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
        let versions: Vec<String> =
            contenders.iter().map(|contender| format!("{}: {}", contender.name, contender.version)).collect();
        Self(json!({
            "rounds": options.rounds,
            "seconds": options.seconds,
            "linux": linux.trim(),
            "processors": thread::available_parallelism().map_or(1, usize::from),
            "busy_processors_median": median(busy),
            "busy_processors_max": busy.iter().copied().fold(0.0, f64::max),
            "tcp": tcp.trim(),
            "iperf3": first_line(Command::new("iperf3").arg("--version")),
            "versions": versions,
            "skipped": missing,
        }))
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(conditions) = self;
        let text = |name: &str| conditions[name].as_str().unwrap_or_default();
        let lines = |name: &str| conditions[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        writeln!(
            f,
            "Medians of {} rounds, {} s a sample; in brackets, how many times the first column. Linux {}, {} processors, of \
             which other work kept {:.2} busy before a sample in the median, {:.2} at most; TCP {}; {}.\n",
            conditions["rounds"],
            conditions["seconds"],
            text("linux"),
            conditions["processors"],
            conditions["busy_processors_median"].as_f64().unwrap_or_default(),
            conditions["busy_processors_max"].as_f64().unwrap_or_default(),
            text("tcp"),
            text("iperf3"),
        )?;
        lines("versions").try_for_each(|line| writeln!(f, "- {line}"))?;
        lines("skipped").try_for_each(|line| writeln!(f, "- skipped: {line}"))
    }
}
