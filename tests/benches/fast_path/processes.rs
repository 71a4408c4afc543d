//! What processes and the machine spend: processor time and memory, as the kernel accounts for them.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::lab::{here, secs, until};

/// How long the machine is watched before a sample, to tell how much other work it has.
const WATCHED_FOR: Duration = Duration::from_millis(300);

/// What /proc counts processor time in.
const TICKS_PER_S: f64 = 100.0;

/// A process under test.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    pid: u32,
}

impl Process {
    /// Waits until the process has become this program, so that nobody else's time is taken for its own.
    pub(crate) fn new(pid: u32, program: &Path) -> Self {
        let exe = format!("/proc/{pid}/exe");
        until(&format!("{} as process {pid}", program.display()), secs(5), || match fs::read_link(&exe) {
            Ok(runs) if runs == program => Ok(()),
            other => Err(format!("{other:?}")),
        });
        Self { pid }
    }

    /// Seconds of processor time that all its threads used, in user space and in system calls.
    pub(crate) fn cpu_s(self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("the process lives");
        // The name in parentheses may hold spaces; utime and stime are the 12th and 13th fields behind it.
        let fields = stat.rsplit_once(')').expect("a process has a name").1;
        fields.split_whitespace().skip(11).take(2).map(seconds).sum()
    }

    /// MiB of memory it holds.
    pub(crate) fn rss_mib(self) -> f64 {
        self.status_mib("VmRSS:")
    }

    /// MiB of memory it held at most since it started.
    pub(crate) fn rss_peak_mib(self) -> f64 {
        self.status_mib("VmHWM:")
    }

    fn status_mib(self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }
}

/// Seconds of processor time that the whole machine used: every process, the kernel's threads and interrupts.
pub(crate) fn machine_cpu_s() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("Linux has /proc/stat");
    let line = stat.lines().next().expect("the first line sums up all processors");
    // user nice system idle iowait irq softirq
    let fields: Vec<f64> = line.split_whitespace().skip(1).map(seconds).collect();
    fields[0] + fields[1] + fields[2] + fields[5] + fields[6]
}

/// How many processors other work keeps busy, while no sample is taken.
pub(crate) fn busy_processors() -> f64 {
    let before = machine_cpu_s();
    thread::sleep(WATCHED_FOR);
    (machine_cpu_s() - before) / WATCHED_FOR.as_secs_f64()
}

fn seconds(ticks: &str) -> f64 {
    ticks.parse::<f64>().expect("a number of ticks") / TICKS_PER_S
}

/// # Panics
/// When the kernel counts in other ticks, which no Linux of these years does.
pub(crate) fn check_ticks() {
    assert_eq!(here(&["getconf", "CLK_TCK"]), TICKS_PER_S.to_string(), "ticks per second");
}
