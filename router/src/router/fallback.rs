//! Which carrier a link sends by that has both: WireGuard while it is heard, QUIC while it is not.
//!
//! Packets are taken from either at any time, so each side decides for itself what it sends by, and the two need not agree.
//! [`Fallback`] is that decision: it is told at each look what was heard, and says what to do. A neighbour says Hello each
//! second, so WireGuard is in doubt soon after one is missing. Then a handshake asks whether it passes, and if that is not
//! answered either, QUIC is dialled. The way back takes longer: handshakes have to be answered and data has to come for some
//! seconds on end, and for longer each time the last return did not last.
//!
//! A firewall may pass handshakes and drop data, so those alone do not say that WireGuard carries: where no transport data
//! comes for some seconds, QUIC is taken however well handshakes are answered. While QUIC carries, the neighbour's own tries say
//! whether data passes, as whoever began a handshake ends it with an empty packet. Where QUIC brings nothing either, WireGuard is
//! tried each second, and taken as soon as it answers.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::strangers::Origin;
use super::{Control, Known, StartError};
use crate::config::LinkKind;
use crate::link::LinkStatus;
use crate::link::quic::{QuicConfig, QuicEvent, QuicLinks, QuicPeer};
use crate::worker::{FromWorker, ToWorker};

/// WireGuard is in doubt after a quarter more than from one of the neighbour's Hellos to the next, as they jitter, within these bounds:
/// handshakes are dear, and nobody is to wait for long.
const DOUBT: RangeInclusive<Duration> = Duration::from_millis(1250)..=Duration::from_secs(3);
/// How long the handshake may take that is to settle it.
const ANSWERS: Duration = Duration::from_millis(650);
/// The same where the neighbour sends by QUIC: it has been waiting already.
const ANSWERS_FOLLOWER: Duration = Duration::from_millis(250);
/// A neighbour that is heard and does not hear us is waited for so long, as it takes some Hellos to know.
const DEAF: Duration = Duration::from_secs(4);
/// How often WireGuard is tried while QUIC carries: as often as a handshake is repeated.
const TRY: Duration = Duration::from_secs(5);
/// The same once it has answered.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// An answer, and data, say so much about the time after it: two of three may be lost.
const FRESH: Duration = Duration::from_millis(3500);
/// In so many Hello intervals of the neighbour data would have come if any did: 2.75 s with Hellos each second, when Babel takes it
/// for lost as well. What is found again takes it a second and a half more. However long they are, the last is a bound.
const STARVED: (u32, u32) = (11, 4);
const STARVED_MAX: Duration = Duration::from_secs(180);
/// For how long handshakes have to be answered before WireGuard carries again: at first, and at most.
const HOLD_MIN: Duration = Duration::from_secs(4);
const HOLD_MAX: Duration = Duration::from_secs(300);
/// A return that lasts for so long has lasted.
const LASTING: Duration = Duration::from_secs(60);
/// A connection over which nothing comes any more is kept for so long after the return.
const LINGER: Duration = Duration::from_secs(10);

/// What is known of a link at a look. Counts only say that there is more.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    /// Authentic datagrams that came by WireGuard.
    heard: u64,
    /// Those of them that were transport data.
    data: u64,
    /// Handshakes of ours that were answered: both directions passed.
    answered: u64,
    /// Whether the neighbour says that it hears us.
    mutual: bool,
    /// Whether there is a QUIC connection.
    quic_up: bool,
    /// Packets that came by QUIC.
    by_quic: u64,
}

/// What is to be done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Wish {
    /// Send by QUIC.
    send_by_quic: bool,
    /// Have a QUIC connection, or dial for one.
    dial: bool,
    /// Try whether WireGuard passes.
    handshake: bool,
}

/// How a link's two carriers do.
#[derive(Debug)]
pub(super) struct Fallback {
    before: Seen,
    doubt: Duration,
    /// How long no data may be missed.
    starves_in: Duration,
    sends_by_quic: bool,
    wireguard_heard: Instant,
    /// When transport data came, and since when any is missed: what comes by QUIC need not come there too.
    data: Option<Instant>,
    data_missed: Instant,
    /// The neighbour has said that it hears us since WireGuard carries, so it has more to say.
    talks: bool,
    answered: Option<Instant>,
    tried: Option<Instant>,
    /// Since when the neighbour has not said that it hears us.
    unheard: Option<Instant>,
    /// When a packet came by QUIC, or the connection was made.
    quic_heard: Option<Instant>,
    /// When a packet did.
    sent_by_quic: Option<Instant>,
    /// Since when WireGuard answers all the time.
    alive: Option<Instant>,
    returned: Option<Instant>,
    /// QUIC carries, and neither it nor WireGuard has brought anything for some time; until QUIC does.
    cut_off: bool,
    hold: Duration,
}

impl Fallback {
    fn new(now: Instant, hello_interval: Duration, sends_by_quic: bool) -> Self {
        let mut new = Self {
            doubt: *DOUBT.end(),
            starves_in: STARVED_MAX,
            before: Seen::default(),
            sends_by_quic,
            wireguard_heard: now,
            data: None,
            data_missed: now,
            talks: false,
            answered: None,
            tried: None,
            unheard: None,
            quic_heard: None,
            sent_by_quic: None,
            alive: None,
            returned: None,
            cut_off: false,
            hold: HOLD_MIN,
        };
        new.expect(hello_interval);
        new
    }

    /// How often the neighbour says Hello.
    fn expect(&mut self, hello_interval: Duration) {
        let (times, of) = STARVED;
        self.doubt = (hello_interval * 5 / 4).clamp(*DOUBT.start(), *DOUBT.end());
        self.starves_in = (hello_interval * times / of).clamp(*DOUBT.start() * 2, STARVED_MAX);
    }

    fn look(&mut self, now: Instant, seen: Seen) -> Wish {
        let before = std::mem::replace(&mut self.before, seen);
        if seen.heard != before.heard {
            if now.saturating_duration_since(self.wireguard_heard) >= self.doubt * 2 {
                // It was away: what it has to say comes after the first handshake.
                self.data_missed = now;
            }
            self.wireguard_heard = now;
        }
        if seen.answered != before.answered {
            self.answered = Some(now);
        }
        if seen.data != before.data {
            (self.data, self.data_missed) = (Some(now), now);
        }
        if seen.by_quic != before.by_quic {
            (self.sent_by_quic, self.data_missed) = (Some(now), now);
        }
        if seen.by_quic != before.by_quic || seen.quic_up && !before.quic_up {
            self.quic_heard = Some(now);
        }
        self.talks |= seen.mutual;
        self.unheard = if seen.mutual { None } else { self.unheard.or(Some(now)) };
        if self.sends_by_quic { self.by_quic(now, seen) } else { self.by_wireguard(now, seen) }
    }

    fn by_wireguard(&mut self, now: Instant, seen: Seen) -> Wish {
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let within = |at, time| since(at).is_some_and(|since| since < time);
        let silence = now.saturating_duration_since(self.wireguard_heard);
        let follows = seen.quic_up && within(self.quic_heard, TRY_AGAIN);
        // Heard, and not hearing: whether both directions pass only a handshake says, and whether data does, the neighbour that
        // sends by QUIC.
        let unheard = |time| since(self.unheard).is_some_and(|since| since >= time);
        let deaf = unheard(DEAF) && !within(self.answered, DEAF)
            || within(self.sent_by_quic, self.doubt) && unheard(TRY_AGAIN);
        let missed = now.saturating_duration_since(self.data_missed);
        let starved = missed >= self.starves_in && (self.talks || self.data.is_none());
        let dead = silence >= self.doubt + if follows { ANSWERS_FOLLOWER } else { ANSWERS } || deaf || starved;
        if dead && seen.quic_up {
            let lasted = !within(self.returned, LASTING);
            self.hold = if lasted { HOLD_MIN } else { HOLD_MAX.min(self.hold * 2) };
            (self.sends_by_quic, self.alive, self.answered, self.data) = (true, None, None, None);
            self.data_missed = now;
            return Wish { send_by_quic: true, dial: true, handshake: false };
        }
        let handshake = (silence >= self.doubt || unheard(DEAF)) && !within(self.tried, self.doubt);
        if handshake {
            self.tried = Some(now);
        }
        Wish { send_by_quic: false, dial: dead || seen.quic_up && within(self.quic_heard, LINGER), handshake }
    }

    fn by_quic(&mut self, now: Instant, seen: Seen) -> Wish {
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let fresh = |at| since(at).is_some_and(|since| since < FRESH);
        let (answers, data) = (fresh(self.answered), fresh(self.data));
        self.alive = if answers && data { self.alive.or(Some(now)) } else { None };
        self.cut_off &= since(self.sent_by_quic).is_none_or(|since| since >= self.doubt);
        self.cut_off |= now.saturating_duration_since(self.data_missed) >= self.starves_in;
        let held = since(self.alive).is_some_and(|since| since >= self.hold) || self.cut_off && answers;
        if held {
            (self.returned, self.talks) = (Some(now), false);
            (self.wireguard_heard, self.data_missed) = (now, now);
        }
        if held || !seen.quic_up {
            (self.sends_by_quic, self.cut_off) = (false, false);
            return Wish { send_by_quic: false, dial: true, handshake: false };
        }
        let interval = if data || self.cut_off { TRY_AGAIN } else { TRY };
        let handshake = since(self.tried).is_none_or(|since| since >= interval);
        if handshake {
            self.tried = Some(now);
        }
        Wish { send_by_quic: true, dial: true, handshake }
    }
}

impl Control {
    /// Starts QUIC; its links come as neighbours do, and `callers` hears of those nobody wrote down, if they matter. Returns where it
    /// listens.
    pub(super) fn start_quic(&self, callers: mpsc::Sender<FromWorker>) -> Result<Option<SocketAddr>, StartError> {
        let Some(listen) = self.quic_listen else { return Ok(None) };
        let (shared, inbox) = (Arc::clone(&self.shared), self.inbox.clone());
        let sink = move |link, event| match event {
            QuicEvent::Up { remote } => {
                shared.set_quic_status(link, LinkStatus { up: true, endpoint: Some(remote), ..LinkStatus::default() });
            }
            QuicEvent::Packet(packet) => {
                // A full inbox loses a packet, as a link may; the worker cannot count what it never saw.
                inbox.packet(link, packet);
            }
            QuicEvent::Down { .. } => shared.set_quic_status(link, LinkStatus::default()),
        };
        let (tls_secret, peers) = (self.identity.tls_secret(), Vec::new());
        let quic = QuicLinks::start(QuicConfig { listen, tls_secret, peers, link_mtu: self.mtu }, sink)?;
        let address = quic.local_addr();
        if self.members.matter() {
            quic.meet_strangers(move |caller| {
                use mpsc::error::TrySendError::{Closed, Full};
                if let Err(Full(FromWorker::Caller(caller)) | Closed(FromWorker::Caller(caller))) =
                    callers.try_send(FromWorker::Caller(caller))
                {
                    caller.refuse();
                }
            });
        }
        self.shared.quic.store(Some(Arc::new(quic)));
        Ok(Some(address))
    }

    /// Says what each link that QUIC may carry is sent by, and whether it is dialled.
    pub(super) fn look_at_carriers(&mut self, now: Instant) {
        let quic = self.shared.quic.load();
        let Some(quic) = quic.as_deref() else { return };
        let mut cut_off = Vec::new();
        for (link, known) in &mut self.links {
            let Some(peer) = known.peer.as_ref().filter(|peer| peer.link != LinkKind::Wireguard) else { continue };
            let key = peer.card.tls();
            // Nobody else takes a link's key or number away from it, unless a reload has just given it another link.
            let Some((quic_up, by_quic)) = quic.heard(*link) else { continue };
            let wish = if peer.link == LinkKind::Quic {
                Wish { send_by_quic: true, dial: true, handshake: false }
            } else {
                let status = self.shared.wireguard_status(*link);
                let (heard, data, answered, mutual) = (status.heard, status.data, status.answered, known.neighbour_up);
                let hellos = known.hello_interval.unwrap_or(self.hello_interval);
                let fallback = known.fallback.get_or_insert_with(|| Fallback::new(now, hellos, known.starts_by_quic));
                fallback.expect(hellos);
                let was = fallback.cut_off;
                let wish = fallback.look(now, Seen { heard, data, answered, mutual, quic_up, by_quic });
                if fallback.cut_off && !was && known.origin == Origin::Written {
                    cut_off.push(known.name.clone());
                }
                wish
            };
            if wish.send_by_quic != self.shared.by_quic(*link) {
                self.shared.set_by_quic(*link, wish.send_by_quic);
                let carrier = if wish.send_by_quic { "QUIC" } else { "WireGuard" };
                tracing::info!(node = %self.name, neighbour = %known.name, carrier, "a link goes by another way");
            }
            if wish.handshake {
                self.inbox.send(ToWorker::Renew { link: *link, starves: false });
            }
            let dial = known.quic_resolved.filter(|_| wish.dial);
            if dial != known.dialled && dial.is_some() {
                // Only our own key is refused, and that was found out when it was added.
                let _own = quic.set_peer(&QuicPeer { link: *link, key, dial });
            } else if !wish.dial && (quic_up || known.dialled.is_some()) {
                quic.hang_up(*link);
            }
            known.dialled = dial;
        }
        for name in cut_off {
            self.warn(format!("{name} is heard neither by WireGuard nor by QUIC, though there is a connection: see its firewall, and ours"));
        }
    }

    /// Tells QUIC of a neighbour that is new, has moved, or is WireGuard's alone from here on. It is dialled at the next look, if it
    /// is to be.
    pub(super) fn place_connection(&mut self, link: node::LinkId) {
        let quic = self.shared.quic.load();
        let Some((quic, known)) = quic.as_deref().zip(self.links.get_mut(&link)) else { return };
        let Some(peer) = known.peer.as_ref() else { return };
        if peer.link == LinkKind::Wireguard {
            (known.fallback, known.dialled, known.quic_resolved) = (None, None, None);
            return self.forget_connection(link);
        }
        known.quic_resolved = match peer.by_quic() {
            Some(crate::config::Endpoint::Address(address)) => Some(address),
            Some(crate::config::Endpoint::Name { .. }) | None => None,
        };
        if peer.link == LinkKind::Quic {
            self.shared.set_by_quic(link, true);
        }
        let placed = quic.set_peer(&QuicPeer { link, key: peer.card.tls(), dial: known.dialled });
        if let Err(error) = placed {
            let warning = format!("no QUIC link with {}: {error}", known.name);
            self.warn(warning);
        }
    }

    /// A link is no more.
    pub(super) fn forget_connection(&self, link: node::LinkId) {
        if let Some(quic) = self.shared.quic.load().as_deref() {
            quic.remove_peer(link);
        }
        self.shared.set_by_quic(link, false);
        self.shared.set_quic_status(link, LinkStatus::default());
    }
}

impl Known {
    /// Whether the neighbour is heard neither by WireGuard nor by QUIC, which carries.
    pub(super) fn is_cut_off(&self) -> bool {
        self.fallback.as_ref().is_some_and(|fallback| fallback.cut_off)
    }

    /// Whether the name in the config that QUIC dials is to be looked up.
    pub(super) fn wants_quic_address(&self, quic_up: bool) -> bool {
        !quic_up && (self.quic_resolved.is_none() || self.dialled.is_some())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use super::*;

    /// A link whose ways open and close. Looked at as the router does, with a Hello each second.
    struct Way {
        now: Instant,
        began: Instant,
        fallback: Fallback,
        seen: Seen,
        wireguard: bool,
        quic: bool,
        /// WireGuard passes handshakes alone.
        drops_data: bool,
        /// QUIC's packets are lost, while the connection seems to be there.
        quic_is_silent: bool,
        /// The neighbour sends by QUIC.
        they_by_quic: bool,
        /// So many looks from one Hello to the next.
        hello_each: u64,
        looks: u64,
    }

    impl Way {
        fn new() -> Self {
            let (now, quic_is_silent) = (Instant::now(), false);
            let seen = Seen { mutual: true, ..Seen::default() };
            let fallback = Fallback::new(now, Duration::from_secs(1), false);
            Self {
                now,
                began: now,
                fallback,
                seen,
                wireguard: true,
                quic: true,
                drops_data: false,
                quic_is_silent,
                they_by_quic: false,
                hello_each: 20,
                looks: 0,
            }
        }

        fn look(&mut self) -> Wish {
            self.looks += 1;
            self.now += Duration::from_millis(50);
            if self.looks.is_multiple_of(self.hello_each) {
                // While it sends by QUIC it tries WireGuard, and ends each handshake with a packet.
                self.seen.heard += u64::from(self.wireguard);
                self.seen.data += u64::from(self.wireguard && !self.drops_data);
                let they_do = self.they_by_quic || !self.wireguard || self.drops_data;
                self.seen.by_quic += u64::from(self.seen.quic_up && they_do && !self.quic_is_silent);
            }
            let wish = self.fallback.look(self.now, self.seen);
            if wish.handshake && self.wireguard {
                self.seen.heard += 1;
                self.seen.answered += 1;
            }
            self.seen.quic_up = self.quic && (wish.dial || self.they_by_quic);
            wish
        }

        /// How long until the link is sent by this.
        fn until(&mut self, by_quic: bool) -> Duration {
            let began = self.now;
            while self.look().send_by_quic != by_quic {
                assert!(self.now - began < Duration::from_secs(1000), "never");
            }
            self.now - began
        }

        fn pass(&mut self, seconds: u64) -> Vec<Wish> {
            (0..seconds * 20).map(|_| self.look()).collect()
        }
    }

    #[test]
    fn a_link_falls_back_in_two_seconds_and_returns_when_wireguard_has_answered_for_some() {
        let mut way = Way::new();
        assert!(way.pass(60).iter().all(|wish| *wish == Wish::default()), "nothing is done while Hellos come");
        way.wireguard = false;
        let outage = way.until(true);
        assert!(outage <= Duration::from_secs(3), "{outage:?}");
        let tries = way.pass(60).iter().filter(|wish| wish.handshake).count();
        assert!((10..14).contains(&tries), "{tries} tries a minute");
        way.wireguard = true;
        let back = way.until(false);
        assert!(back >= HOLD_MIN && back <= HOLD_MIN + TRY * 2, "{back:?}");
        assert!(way.pass(20).iter().any(|wish| !wish.dial), "the connection ends after a while");
        assert!(way.pass(60).iter().all(|wish| *wish == Wish::default()));
    }

    #[test]
    fn a_way_that_comes_and_goes_is_left_alone_for_longer_each_time() {
        let mut way = Way::new();
        let mut switches = 0;
        for _ in 0..90 {
            for open in [false, true] {
                way.wireguard = open;
                let wishes = way.pass(10);
                switches += wishes.windows(2).filter(|pair| pair[0].send_by_quic != pair[1].send_by_quic).count();
            }
        }
        assert!(switches <= 6, "{switches} in half an hour");
        way.wireguard = true;
        assert!(way.until(false) <= HOLD_MAX + TRY);
        way.pass(100);
        way.wireguard = false;
        way.until(true);
        way.wireguard = true;
        assert!(way.until(false) <= HOLD_MIN + TRY * 2, "what lasted is forgiven");
    }

    #[test]
    fn whoever_cannot_dial_follows_the_neighbour_and_does_not_go_before_it_returns() {
        let mut way = Way::new();
        way.pass(10);
        (way.wireguard, way.they_by_quic) = (false, true);
        assert!(way.until(true) <= Duration::from_millis(2600));
        way.wireguard = true;
        way.until(false);
        // The neighbour takes longer. Its QUIC packets do not take us back, as WireGuard answers.
        assert!(way.pass(60).iter().all(|wish| !wish.send_by_quic && wish.dial));
        way.they_by_quic = false;
        assert!(way.pass(20).iter().any(|wish| !wish.dial));
    }

    #[test]
    fn without_quic_all_stays_as_it_was_and_with_neither_the_first_that_answers_is_taken() {
        let mut way = Way::new();
        (way.wireguard, way.quic) = (false, false);
        assert!(way.pass(30).iter().all(|wish| !wish.send_by_quic));
        way.quic = true;
        assert!(way.until(true) <= Duration::from_secs(1));
        way.pass(5);
        (way.wireguard, way.quic) = (true, false);
        assert!(way.until(false) <= Duration::from_secs(1), "no connection");
    }

    #[test]
    fn a_firewall_that_drops_data_and_passes_handshakes_is_gone_round_and_not_fallen_for_again() {
        // From one moment on, and from the beginning.
        for passes_first in [true, false] {
            let mut way = Way::new();
            (way.drops_data, way.seen.mutual) = (!passes_first, passes_first);
            if passes_first {
                way.pass(10);
                way.drops_data = true;
            }
            let outage = way.until(true);
            assert!(outage <= Duration::from_secs(5), "{outage:?}");
            let wishes = way.pass(300);
            assert!(wishes.iter().all(|wish| wish.send_by_quic), "handshakes are answered, and data does not come");
            let tries = wishes.iter().filter(|wish| wish.handshake).count();
            assert!(tries <= 61, "{tries} in five minutes");
            (way.drops_data, way.seen.mutual) = (false, true);
            let back = way.until(false);
            assert!(back <= HOLD_MIN + TRY * 2, "{back:?}");
        }
    }

    #[test]
    fn whoever_follows_a_neighbour_that_misses_its_data_does_so_although_handshakes_are_answered() {
        let mut way = Way::new();
        way.pass(10);
        // Data passes to us alone: the neighbour sends by QUIC, and does not say that it hears us.
        (way.they_by_quic, way.seen.mutual, way.seen.quic_up) = (true, false, true);
        assert!(way.until(true) <= Duration::from_secs(3));
    }

    #[test]
    fn where_quic_falls_silent_too_wireguard_is_tried_each_second_and_taken_at_once() {
        let mut way = Way::new();
        way.pass(10);
        way.wireguard = false;
        way.until(true);
        way.pass(60);
        assert!(!way.fallback.cut_off);
        way.quic_is_silent = true;
        way.pass(10);
        assert!(way.fallback.cut_off, "this is told");
        let tries = way.pass(60).iter().filter(|wish| wish.handshake).count();
        assert!(tries >= 55, "{tries} tries a minute");
        way.wireguard = true;
        assert!(way.until(false) <= Duration::from_secs(2));
    }

    #[test]
    fn a_neighbour_that_says_hello_seldom_and_nothing_else_is_not_taken_for_starved() {
        for seconds in [3, 20, 60] {
            let mut way = Way::new();
            way.hello_each = seconds * 20;
            way.fallback.expect(Duration::from_secs(seconds));
            assert!(way.pass(600).iter().all(|wish| !wish.send_by_quic), "Hellos each {seconds} s");
            // It is, where they do not come, as soon as one may miss them.
            way.drops_data = true;
            let outage = way.until(true);
            assert!(outage <= Duration::from_secs(seconds * 3 + 2).min(STARVED_MAX), "{outage:?}");
        }
    }

    #[test]
    fn whoever_has_nothing_to_say_is_not_taken_for_one_whose_data_is_dropped() {
        let mut way = Way::new();
        way.seen.mutual = false;
        way.pass(2);
        // It showed its card, and may not say more; handshakes are answered.
        (way.drops_data, way.quic_is_silent) = (true, true);
        assert!(way.pass(60).iter().all(|wish| !wish.send_by_quic));
    }

    #[test]
    fn a_neighbour_that_is_heard_and_does_not_hear_us_is_reached_by_quic() {
        let mut way = Way::new();
        way.pass(10);
        way.seen.mutual = false;
        // Its Hellos come, and no handshake is answered.
        let began = way.began;
        let mut wish = Wish::default();
        while !wish.send_by_quic {
            way.now += Duration::from_millis(50);
            way.seen.heard += 1;
            wish = way.fallback.look(way.now, way.seen);
            way.seen.quic_up = wish.dial;
            assert!(way.now - began < Duration::from_secs(30));
        }
        // One that is only not admitted answers them.
        let mut way = Way::new();
        way.seen.mutual = false;
        assert!(way.pass(60).iter().all(|wish| !wish.send_by_quic));
    }
}
