//! Round trips, by ping.

use crate::lab::{Background, Lab, secs};
use crate::line::Node;
use crate::load::new_log;

/// Pings a second: enough for a 99th percentile within seconds, and next to no load.
const PER_S: u32 = 200;

/// A ping that runs beside other things.
pub(crate) struct Pings {
    ping: Background,
    deadline: u32,
}

/// Round trips in microseconds, shortest first; those without an answer are infinitely long.
pub(crate) struct RoundTrips(Vec<f64>);

impl Pings {
    /// Starts to ping, for so many seconds and one more for what is late.
    pub(crate) fn start(lab: &Lab, from: &Node, to: &Node, seconds: u32) -> Self {
        let log = new_log(lab, &format!("ping-{}", to.address.replace(':', "_")));
        let deadline = seconds + 1;
        let words =
            [1.0 / f64::from(PER_S), f64::from(seconds * PER_S), f64::from(deadline)].map(|word| word.to_string());
        let line = ["ping", "-6", "-n", "-i", &words[0], "-c", &words[1], "-w", &words[2], &to.address];
        Self { ping: from.host.start(&log, &line), deadline }
    }

    pub(crate) fn ended(mut self) -> RoundTrips {
        self.ping.ended(secs(u64::from(self.deadline) + 10));
        let log = self.ping.log();
        let sent = log.lines().find_map(|line| line.split_once(" packets transmitted")?.0.parse::<usize>().ok());
        let sent = sent.unwrap_or_else(|| panic!("ping: {log}"));
        let answered = log.lines().filter_map(|line| {
            let (time, unit) = line.split_once(" time=")?.1.split_once(' ')?;
            assert_eq!(unit, "ms", "{line}");
            time.parse::<f64>().ok()
        });
        let mut round_trips: Vec<f64> = answered.map(|ms| ms * 1000.0).collect();
        assert!((1..=sent).contains(&round_trips.len()), "{} answers to {sent} pings: {log}", round_trips.len());
        round_trips.resize(sent, f64::INFINITY);
        round_trips.sort_by(f64::total_cmp);
        RoundTrips(round_trips)
    }
}

impl RoundTrips {
    /// The round trip that so many of a hundred do not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        self.0[(self.0.len() * percent).div_ceil(100) - 1]
    }
}
