//! Round trips, by ping.

use crate::lab::{Background, Lab, secs};
use crate::line::Node;
use crate::load::new_log;

/// Pings a second: enough for a 99th percentile within seconds, and next to no load.
const PER_S: u32 = 200;

/// A ping that runs beside other things.
pub(crate) struct Pings {
    ping: Background,
    count: u32,
}

/// Round trips in microseconds, shortest first; those without an answer are infinitely long.
pub(crate) struct RoundTrips(Vec<f64>);

impl Pings {
    /// Starts to ping, for so many seconds.
    pub(crate) fn start(lab: &Lab, from: &Node, to: &Node, seconds: u32) -> Self {
        let log = new_log(lab, &format!("ping-{}", to.address.replace(':', "_")));
        let count = seconds * PER_S;
        let (interval, pings) = (format!("{}", 1.0 / f64::from(PER_S)), count.to_string());
        let line = ["ping", "-6", "-n", "-i", &interval, "-c", &pings, "-W", "2", &to.address];
        Self { ping: from.host.start(&log, &line), count }
    }

    pub(crate) fn ended(mut self) -> RoundTrips {
        self.ping.ended(secs(u64::from(self.count / PER_S) * 3 + 20));
        let log = self.ping.log();
        let answered = log.lines().filter_map(|line| {
            let (time, unit) = line.split_once(" time=")?.1.split_once(' ')?;
            assert_eq!(unit, "ms", "{line}");
            time.parse::<f64>().ok()
        });
        let mut round_trips: Vec<f64> = answered.map(|ms| ms * 1000.0).collect();
        assert!(!round_trips.is_empty(), "ping: {log}");
        assert!(round_trips.len() <= self.count as usize, "ping was answered more often than it asked");
        round_trips.resize(self.count as usize, f64::INFINITY);
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
