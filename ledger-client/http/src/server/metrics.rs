//! What a server counts, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The upper ends of the histogram's buckets, in milliseconds.
const BUCKETS_MS: [u64; 7] = [1, 2, 5, 10, 50, 200, 1000];

/// Counters since the server's start.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Counters>);

#[derive(Debug, Default)]
struct Counters {
    answers: BTreeMap<(&'static str, u16), u64>,
    refusals: BTreeMap<&'static str, u64>,
    /// By question: how many took at most as long as each bucket; all; and their times together.
    times: BTreeMap<&'static str, Times>,
    turned_away: u64,
}

#[derive(Debug, Default)]
struct Times {
    within: [u64; BUCKETS_MS.len()],
    count: u64,
    total: Duration,
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Counters> {
        // Nothing panics with the lock held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A question was answered with this status.
    pub(super) fn answered(&self, question: &'static str, status: u16, took: Duration) {
        let mut counters = self.lock();
        *counters.answers.entry((question, status)).or_default() += 1;
        let times = counters.times.entry(question).or_default();
        times.count += 1;
        times.total += took;
        for (bucket, end) in times.within.iter_mut().zip(BUCKETS_MS) {
            *bucket += u64::from(took <= Duration::from_millis(end));
        }
    }

    /// A rule forbade something.
    pub(super) fn refused(&self, rule: &'static str) {
        *self.lock().refusals.entry(rule).or_default() += 1;
    }

    /// There was no place for a connection.
    pub(super) fn turned_away(&self) {
        self.lock().turned_away += 1;
    }

    /// All of it; `gauges` are names, meanings and values of what stands elsewhere.
    pub(super) fn text(&self, gauges: &[(&str, &str, u64)]) -> String {
        let counters = self.lock();
        let mut text = String::new();
        // Writing to a String cannot fail.
        let mut line = |line: std::fmt::Arguments<'_>| {
            let _written = writeln!(text, "{line}");
        };
        for (name, meaning, value) in gauges {
            line(format_args!("# HELP waybill_ledger_{name} {meaning}\n# TYPE waybill_ledger_{name} gauge"));
            line(format_args!("waybill_ledger_{name} {value}"));
        }
        line(format_args!(
            "# HELP waybill_ledger_turned_away_total Connections there was no place for.\n\
             # TYPE waybill_ledger_turned_away_total counter\nwaybill_ledger_turned_away_total {}",
            counters.turned_away
        ));
        line(format_args!(
            "# HELP waybill_ledger_answers_total Answers by question and status.\n# TYPE waybill_ledger_answers_total counter"
        ));
        for ((question, status), count) in &counters.answers {
            line(format_args!("waybill_ledger_answers_total{{question=\"{question}\",status=\"{status}\"}} {count}"));
        }
        line(format_args!(
            "# HELP waybill_ledger_refusals_total What rules forbade.\n# TYPE waybill_ledger_refusals_total counter"
        ));
        for (rule, count) in &counters.refusals {
            line(format_args!("waybill_ledger_refusals_total{{rule=\"{rule}\"}} {count}"));
        }
        line(format_args!(
            "# HELP waybill_ledger_answer_seconds Time from a question's head to its answer.\n\
             # TYPE waybill_ledger_answer_seconds histogram"
        ));
        for (question, times) in &counters.times {
            let name = "waybill_ledger_answer_seconds";
            for (end, count) in BUCKETS_MS.into_iter().zip(times.within) {
                let seconds = Duration::from_millis(end).as_secs_f64();
                line(format_args!("{name}_bucket{{question=\"{question}\",le=\"{seconds}\"}} {count}"));
            }
            line(format_args!("{name}_bucket{{question=\"{question}\",le=\"+Inf\"}} {}", times.count));
            line(format_args!("{name}_sum{{question=\"{question}\"}} {}", times.total.as_secs_f64()));
            line(format_args!("{name}_count{{question=\"{question}\"}} {}", times.count));
        }
        text
    }
}
