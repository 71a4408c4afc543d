//! Pings that go on, to see for how long nothing came back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::lab::{Background, Lab, secs, until};
use crate::machine::Machine;

/// Between pings.
const INTERVAL: &str = "0.05";
/// Longer than this without an answer is an outage, on a busy machine.
const SILENCE_MIN: Duration = Duration::from_millis(500);
/// The network has healed when no outage was seen for so long.
const CALM: Duration = Duration::from_secs(2);

/// A `ping` between two machines.
pub(crate) struct Pulse {
    pair: String,
    ping: Background,
}

impl Pulse {
    /// Starts, and waits for the first answer.
    pub(crate) fn start(lab: &Lab, from: &Machine, to: &Machine) -> Self {
        let pair = format!("{}-{}", from.name, to.name);
        let log = lab.dir().join(format!("pulse-{pair}-{:?}.log", wall_clock()));
        let line = ["ping", "-6", "-D", "-n", "-i", INTERVAL, "-I", &from.address, &to.address];
        let pulse = Self { pair, ping: from.host.start(&log, &line) };
        until(&format!("first answer on {}", pulse.pair), secs(10), || match pulse.answers().is_empty() {
            true => Err(pulse.ping.log()),
            false => Ok(()),
        });
        pulse
    }

    /// When answers came.
    fn answers(&self) -> Vec<Duration> {
        let time = |line: &str| line.strip_prefix('[')?.split_once(']')?.0.parse().ok().map(Duration::from_secs_f64);
        let log = self.ping.log();
        log.lines().filter(|line| line.contains("bytes from")).filter_map(time).collect()
    }

    /// The longest time between two answers, and the pair it was seen on.
    fn longest_silence(&self) -> Duration {
        let answers = self.answers();
        answers.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default()
    }

    /// Whether answers have come without an outage for a while.
    fn is_calm(&self) -> bool {
        let answers = self.answers();
        let since = wall_clock().saturating_sub(CALM);
        let recent: Vec<Duration> = answers.into_iter().filter(|at| *at > since).collect();
        let edges = [since].into_iter().chain(recent).chain([wall_clock()]).collect::<Vec<Duration>>();
        edges.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) < SILENCE_MIN)
    }
}

/// Waits until all pulses are answered steadily, and returns the longest outage of any.
pub(crate) fn outage(pulses: &[Pulse], patience: Duration) -> Duration {
    until("steady answers", patience, || match pulses.iter().find(|pulse| !pulse.is_calm()) {
        Some(pulse) => Err(format!("{} is not answered", pulse.pair)),
        None => Ok(()),
    });
    pulses.iter().map(Pulse::longest_silence).max().unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "ping tells its answers by the wall clock")]
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
