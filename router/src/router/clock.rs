//! What time it is, where memberships hang on it: a router without a battery clock begins at the time of its firmware, or years off.
//!
//! A clock that the kernel says is kept right (by NTP) counts, whatever anybody says. Where none is, the ledger's does, as memberships
//! end by it: what it said when it last answered, and what has passed since by a clock that nobody sets. The system's own is as good
//! where the two agree. Before the ledger has answered, it is no earlier than what the ledger said before the last start, which is
//! kept on disk. What the ledger says later counts, also where that is less: a ledger whose clock was wrong once bars nobody for good,
//! and one whose clock begins years ago itself says nothing. A ledger says it over TLS alone.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Control, Done, history, members};
use crate::file;

/// No clock that is before this was ever right: 2025-12-01.
const NOT_BEFORE: u64 = 1_764_547_200;
/// How much later than the system's clock it may be by what a ledger has said, for certificates: a router that lay on a shelf.
#[cfg(any(feature = "ledger-remote", test))]
const AHEAD_S: u64 = 400 * 86_400;
/// By how much the system's clock may differ from the ledger's.
const TOLERANCE_S: u64 = 3600;
/// How often it is looked what the ledger said, and how often that is written down.
const LOOK_EACH: Duration = Duration::from_secs(20);
const WRITE_EACH_S: u64 = 6 * 3600;
/// The file, in the state directory, and the longest that is read.
const FILE: &str = "ledger-clock";
const FILE_LEN_MAX: u64 = 32;

/// The process has one clock, and one truth about it.
static KNOWN: Mutex<Known> = Mutex::new(Known { before: 0, told: None, written: 0 });

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since 1970-01-01, UTC, as memberships count them.
pub(super) fn seconds() -> u64 {
    known().seconds((history::unix_seconds(), is_kept()), super::clock())
}

/// Seconds since 1970-01-01, UTC, that a ledger's certificate has to be good for: a clock that is years behind makes none look as if it
/// were not valid yet.
#[cfg(feature = "ledger-remote")]
pub(crate) fn for_certificates() -> u64 {
    known().for_certificates((history::unix_seconds(), is_kept()), super::clock())
}

/// Reads what the ledger said before this start, for whoever asks it now.
#[cfg(feature = "ledger-remote")]
pub(crate) fn remember(directory: &Path) {
    known().before = read(directory).unwrap_or(0);
}

/// Whether the kernel's clock is kept right by somebody, as it says.
fn is_kept() -> bool {
    #[expect(unsafe_code, reason = "the standard library does not know how good the clock is")]
    // SAFETY: all zeros is a `timex` that changes nothing, and the kernel writes one.
    let (said, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    said >= 0 && said != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0
}

/// What is wrong with the system's clock, for people.
pub(super) fn wrong() -> Option<String> {
    let (system, truth) = (history::unix_seconds(), seconds());
    (system.abs_diff(truth) > TOLERANCE_S).then(|| {
        let [system, truth] = [system, truth].map(history::moment);
        format!(
            "this machine's clock says {system}, and the ledger's {truth} or later (UTC): memberships go by the ledger's; set the \
             clock, as days and hours go by this machine's"
        )
    })
}

/// What is known of the ledger's clock.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// What it said before this start.
    before: u64,
    /// What it said last, and when.
    told: Option<(u64, Instant)>,
    /// What is on disk.
    written: u64,
}

impl Known {
    /// The earliest that a certificate has to be good for: it was no earlier than that before this start, or at this build's. Unlike
    /// [`Known::seconds`] it never goes back, but to a clock that is kept right.
    #[cfg(any(feature = "ledger-remote", test))]
    fn for_certificates(&self, (system, is_kept): (u64, bool), now: Instant) -> u64 {
        if is_kept {
            return system;
        }
        let (told, known) = (self.seconds((system, is_kept), now).max(self.before), system.max(NOT_BEFORE));
        // A ledger that once said what is years ahead would have every certificate look as if it had ended, and its own first.
        if told > known.saturating_add(AHEAD_S) { known } else { known.max(told) }
    }

    /// By the system's clock, and whether that is kept right.
    fn seconds(&self, (system, is_kept): (u64, bool), now: Instant) -> u64 {
        match self.told {
            _ if is_kept => system,
            Some((told, at)) => {
                let by_ledger = told.saturating_add(now.saturating_duration_since(at).as_secs());
                if system.abs_diff(by_ledger) <= TOLERANCE_S { system } else { by_ledger }
            }
            None => system.max(self.before),
        }
    }

    /// Takes what the ledger's clock said. What is to be written down, if anything is.
    fn take(&mut self, told: (u64, Instant)) -> Option<u64> {
        if told.0 < NOT_BEFORE {
            return None;
        }
        self.told = Some(told);
        if told.0.abs_diff(self.written) < WRITE_EACH_S {
            return None;
        }
        self.written = told.0;
        Some(told.0)
    }
}

fn read(directory: &Path) -> Option<u64> {
    let text = String::from_utf8(members::read(&directory.join(FILE), FILE_LEN_MAX)?).ok()?;
    text.trim().parse().ok()
}

/// When it is looked next, and where the file is.
pub(super) struct Look {
    at: Instant,
    directory: PathBuf,
}

impl Look {
    /// Reads what the ledger said before this start.
    pub(super) fn open(now: Instant, directory: &Path) -> Self {
        let before = read(directory).unwrap_or(0);
        let mut known = known();
        (known.before, known.written) = (before, before);
        Self { at: now, directory: directory.to_owned() }
    }
}

impl Control {
    /// Takes in what the ledger's clock said in its last answer, and writes it down now and then.
    pub(super) fn look_at_clock(&mut self, now: Instant) {
        let (Some(desk), true) = (&self.ledger, now >= self.clock_look.at) else { return };
        self.clock_look.at = now + LOOK_EACH;
        let (told, journal) = (desk.ask(|ledger| ledger.told_time()), self.journal.clone());
        let path = self.clock_look.directory.join(FILE);
        let written = async move {
            let news = told.await.ok().flatten().and_then(|told| known().take(told));
            match news {
                Some(seconds) => {
                    journal.ask(move |_| file::replace(&path, seconds.to_string().as_bytes(), 0o600)).await.ok()
                }
                None => None,
            }
        };
        self.spawn(written, |written| match written {
            Some(Err(error)) => Some(Done::Warning(format!("cannot write what the ledger's clock said: {error}"))),
            Some(Ok(())) | None => None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000;
    const FIRMWARE: u64 = 1_700_000_000;

    fn known() -> Known {
        Known { before: 0, told: None, written: 0 }
    }

    #[test]
    fn before_the_ledger_has_answered_it_is_no_earlier_than_it_was() {
        let moment = super::super::clock();
        assert_eq!(known().seconds((FIRMWARE, false), moment), FIRMWARE, "nothing else is known");
        let known = Known { before: NOW, ..known() };
        assert_eq!(known.seconds((FIRMWARE, false), moment), NOW);
        assert_eq!(known.seconds((NOW + 99, false), moment), NOW + 99);
        assert_eq!(known.seconds((NOW - 99, true), moment), NOW - 99, "NTP says so");
    }

    #[test]
    fn once_the_ledger_has_answered_a_clock_far_off_on_either_side_does_not_count() {
        let (moment, hour) = (super::super::clock(), 3600);
        let known = Known { before: NOW * 2, told: Some((NOW, moment)), ..known() };
        let later = moment + Duration::from_secs(10 * hour);
        for wrong in [0, FIRMWARE, NOW + 8 * hour, NOW * 2, u64::MAX] {
            assert_eq!(known.seconds((wrong, false), later), NOW + 10 * hour, "{wrong}");
            assert_eq!(known.seconds((wrong, true), later), wrong, "a ledger's clock changes none that is kept");
        }
        for near in [NOW + 9 * hour, NOW + 10 * hour + 7, NOW + 11 * hour] {
            assert_eq!(known.seconds((near, false), later), near);
        }
    }

    #[test]
    fn certificates_have_to_be_good_for_no_time_before_what_is_known() {
        let moment = super::super::clock();
        let wants = |known: &Known, system: u64| known.for_certificates((system, false), moment);
        assert_eq!(wants(&known(), 0), NOT_BEFORE, "a router that begins in 1970");
        let before = Known { before: NOW, ..known() };
        assert_eq!([0, FIRMWARE, NOW - 1, NOW + 1].map(|system| wants(&before, system)), [NOW, NOW, NOW, NOW + 1]);
        let told = Known { told: Some((NOW - 9999, moment)), ..before };
        assert_eq!(wants(&told, 0), NOW, "what it says makes none good again that has ended");
        assert_eq!(told.for_certificates((FIRMWARE, true), moment), FIRMWARE, "NTP says so");
        let wrong = Known { told: Some((NOW * 2, moment)), before: NOW * 2, ..known() };
        assert_eq!(wants(&wrong, NOW), NOW, "what is years ahead would lock this router out");
    }

    #[test]
    fn it_is_written_seldom_and_read_again_and_a_wrong_one_goes() {
        let (moment, directory) = (super::super::clock(), tempfile::tempdir().unwrap());
        let mut known = known();
        assert_eq!(known.take((NOW, moment)), Some(NOW));
        assert_eq!(known.take((NOW + WRITE_EACH_S - 1, moment)), None);
        assert_eq!(known.take((NOW + WRITE_EACH_S, moment)), Some(NOW + WRITE_EACH_S));
        assert_eq!(known.take((NOW - 999_999, moment)), Some(NOW - 999_999), "it had been wrong");
        assert_eq!(known.take((FIRMWARE, moment)), None, "the ledger's machine has no clock itself");
        assert_eq!(known.told, Some((NOW - 999_999, moment)));
        assert_eq!(read(directory.path()), None);
        for (text, is) in
            [("1795000000", Some(NOW)), ("", None), ("soon", None), ("-1", None), ("99999999999999999999999", None)]
        {
            file::replace(&directory.path().join(FILE), text.as_bytes(), 0o600).unwrap();
            assert_eq!(read(directory.path()), is, "{text}");
        }
    }
}
