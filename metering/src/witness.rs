//! Witnessing: neighbours show each other what the community's ledger has shown them.
//!
//! One kind of datagram, of the text of a signed checkpoint and nothing else, so nothing here knows what a ledger is. `PROTOCOL.md`
//! says when it is sent; here are the port, and how often a neighbour is listened to.

use std::time::{Duration, Instant};

/// The link-local UDP port of witnessing.
pub const PORT: u16 = 6701;

/// The longest datagram; a longer one is refused unread.
pub const MESSAGE_LENGTH_MAX: usize = 1200;

/// How often a neighbour is listened to at most: it has something new once a minute.
const LISTEN_EACH: Duration = Duration::from_secs(5);

/// What one neighbour and we show each other.
#[derive(Debug, Default)]
pub struct Witnessing {
    heard_at: Option<Instant>,
    to_show: Option<Vec<u8>>,
}

impl Witnessing {
    /// Whether what a neighbour shows now is looked at: not where it is too long, or comes too soon.
    pub fn hears(&mut self, now: Instant, payload: &[u8]) -> bool {
        let too_soon = self.heard_at.is_some_and(|at| now < at + LISTEN_EACH);
        if too_soon || payload.len() > MESSAGE_LENGTH_MAX {
            return false;
        }
        self.heard_at = Some(now);
        true
    }

    /// Shows the neighbour this, in place of what was not sent yet. Nothing that is too long is shown.
    pub fn show(&mut self, note: &[u8]) {
        self.to_show = (note.len() <= MESSAGE_LENGTH_MAX).then(|| note.to_vec());
    }

    /// The datagram to send, once.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.to_show.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the beginning of virtual time")]
    fn clock() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_neighbour_that_shows_something_all_the_time_is_listened_to_now_and_then() {
        let (mut witnessing, began) = (Witnessing::default(), clock());
        let heard =
            (0..600_u64).filter(|tenth| witnessing.hears(began + Duration::from_millis(100 * tenth), b"note")).count();
        assert_eq!(heard, 12);
        assert!(!witnessing.hears(began + Duration::from_secs(100), &[b'n'; MESSAGE_LENGTH_MAX + 1]));
        assert!(witnessing.hears(began + Duration::from_secs(100), &[b'n'; MESSAGE_LENGTH_MAX]));
    }

    #[test]
    fn what_is_shown_is_sent_once_and_the_newest_alone() {
        let mut witnessing = Witnessing::default();
        witnessing.show(b"old");
        witnessing.show(b"new");
        assert_eq!(witnessing.poll_transmit(), Some(b"new".to_vec()));
        assert_eq!(witnessing.poll_transmit(), None);
        witnessing.show(&[0; MESSAGE_LENGTH_MAX + 1]);
        assert_eq!(witnessing.poll_transmit(), None);
    }
}
