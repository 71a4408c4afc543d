//! Who is a member of the community: asked of the ledger now and then, and kept on disk, so that a router knows its neighbours
//! while the ledger is away.
//!
//! A router that is no member itself bars nobody whom its owner wrote down: it needs a way to the ledger. It becomes one by the code
//! that lies in its state directory, as soon as the ledger can be reached. Times are as [`super::clock`] knows them, so that a
//! clock that is years off bars no members, nor lets those in whose membership has ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ledger_client::{Code, Error, Ledger, Membership, UnixTime};
use metering::{NodeId, SortedMap, SortedSet};
use node::{Access, LinkId};
use portable_atomic::{AtomicU64, Ordering};
use serde::{Deserialize, Serialize};

use super::strangers::Origin;
use super::{Control, Done, Known};
use crate::control::MembershipState;
use crate::file;

/// How often the ledger is asked about all neighbours. A member that is put out is cut off so long after, and the time the
/// ledger takes to answer.
const ASK_EACH: Duration = Duration::from_secs(20);
/// How soon after a failed question: while this router is no member yet, and else.
const ASK_AGAIN_EAGERLY: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often while somebody was met lately that is no member, and how long that is: newcomers become members.
const ASK_EAGERLY: Duration = Duration::from_secs(2);
const NEWCOMER_TIME: Duration = Duration::from_secs(60);
/// How often it is looked whose membership has ended meanwhile.
const LOOK_EACH: Duration = Duration::from_secs(1);
/// Accounts kept on disk: more neighbours than a router ever has.
const KEPT_MAX: usize = 512;
/// The file with a code, in the state directory.
pub(crate) const ENROLMENT: &str = "enrolment";
/// The file with what the ledger last said.
const MEMBERS: &str = "members.json";
/// The longest of the two that is read.
const FILE_LEN_MAX: u64 = 256 << 10;
/// How long before the end of the own membership the owner is told.
const ENDS_SOON_S: u64 = 14 * 86_400;

/// What is known of memberships.
pub(super) struct Members {
    /// Whether it matters: else whoever is configured is carried for.
    matter: bool,
    us: NodeId,
    directory: PathBuf,
    known: SortedMap<NodeId, Membership>,
    look_at: Instant,
    ask_at: Instant,
    asked_at: Instant,
    asking: bool,
    /// The code that this router is to become a member by.
    code: Option<Code>,
    /// Why it is no member yet, in words.
    waits: Option<String>,
    /// Why that is not known at the moment.
    away: Option<String>,
}

/// Accounts kept for the gateway, asked about at once, and how often each.
const GUESTS_MAX: usize = 1024;
const GUESTS_AT_ONCE: usize = 16;
const GUEST_EACH: Duration = Duration::from_secs(300);

/// Who uses this router's gateway from further away than a link, and whether they are members. The gateway's thread asks; this
/// router's control task finds out.
#[derive(Debug, Default)]
pub struct Guests {
    all: Mutex<SortedMap<NodeId, Guest>>,
    turn: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Guest {
    /// In order of the questions of the gateway: those it did not ask for lately are forgotten first.
    turn: u64,
    asked: Option<Instant>,
    membership: Option<Membership>,
}

impl Guests {
    fn all(&self) -> MutexGuard<'_, SortedMap<NodeId, Guest>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an account is known to be a member. One that was never heard of is asked about.
    pub fn is_member(&self, account: NodeId) -> bool {
        let mut all = self.all();
        if all.len() >= GUESTS_MAX && !all.contains_key(&account) {
            let last = all.iter().min_by_key(|(_, guest)| guest.turn).map(|(account, _)| *account);
            last.and_then(|last| all.remove(&last));
        }
        let guest = all.entry(account).or_default();
        guest.turn = self.turn.fetch_add(1, Ordering::Relaxed) + 1;
        let now = UnixTime::from_seconds(super::clock::seconds());
        guest.membership.is_some_and(|membership| membership.holds_at(now))
    }

    /// As if the ledger had said so: for tests.
    #[cfg(test)]
    pub(crate) fn let_in(&self, account: NodeId) {
        let until = UnixTime::from_seconds(u64::MAX >> 20);
        self.is_member(account);
        self.take(&[(account, Some(Membership { until, revoked: false }))]);
    }

    /// What was known before a restart.
    fn remember(&self, known: &SortedMap<NodeId, Membership>) {
        let guest = |membership: &Membership| Guest { membership: Some(*membership), ..Guest::default() };
        *self.all() = known.iter().map(|(account, membership)| (*account, guest(membership))).collect();
    }

    /// Whether there is one that was never asked about, for so long as the gateway wants to know.
    fn has_new(&self) -> bool {
        self.all().values().any(|guest| guest.asked.is_none() && guest.turn > 0)
    }

    fn due(&self, now: Instant) -> Vec<NodeId> {
        let mut all = self.all();
        let is_due = |guest: &&mut Guest| {
            guest.turn > 0 && guest.asked.is_none_or(|at| now.saturating_duration_since(at) >= GUEST_EACH)
        };
        let due = all.iter_mut().filter(|(_, guest)| is_due(guest)).take(GUESTS_AT_ONCE);
        due.map(|(account, guest)| {
            guest.asked = Some(now);
            *account
        })
        .collect()
    }

    fn take(&self, of: &[(NodeId, Option<Membership>)]) {
        let mut all = self.all();
        for (account, membership) in of {
            if let Some(guest) = all.get_mut(account) {
                guest.membership = *membership;
            }
        }
    }
}

/// What the ledger said of a code.
pub(super) enum Enrolled {
    /// It is used, or was not needed.
    Member,
    /// It will not do, and why.
    Refused(String),
    /// It could not be asked.
    Away(String),
}

/// What the ledger said.
pub(super) struct Told {
    of: Vec<(NodeId, Option<Membership>)>,
    /// The code that was asked about, and what came of it.
    enrolled: Option<(Code, Enrolled)>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    account: NodeId,
    #[serde(flatten)]
    membership: Membership,
}

impl Members {
    /// Reads what was known before. What does not read is asked for again.
    pub(super) fn open(now: Instant, us: NodeId, directory: &Path, matter: bool) -> Self {
        let (known, code) = if matter { (read_known(directory), read_code(directory)) } else { Default::default() };
        Self {
            matter,
            us,
            directory: directory.to_owned(),
            known,
            look_at: now,
            ask_at: now,
            asked_at: now,
            asking: false,
            code,
            waits: None,
            away: None,
        }
    }

    /// Tells what is known already to whoever asks about guests.
    pub(super) fn remind(&self, guests: &Guests) {
        guests.remember(&self.known);
    }

    /// Whether only members are carried for.
    pub(super) fn matter(&self) -> bool {
        self.matter
    }

    fn holds(&self, account: NodeId) -> bool {
        let now = UnixTime::from_seconds(super::clock::seconds());
        self.known.get(&account).is_some_and(|membership| membership.holds_at(now))
    }

    /// Whether this router may do what members do, as far as is known here.
    pub(super) fn own_holds(&self) -> bool {
        !self.matter || self.holds(self.us)
    }

    /// How this router itself stands; `None`: it does not matter.
    pub(super) fn state(&self) -> Option<MembershipState> {
        let until = self.known.get(&self.us).map(|membership| membership.until.seconds());
        self.matter.then(|| MembershipState {
            member: self.holds(self.us),
            until,
            waits: self.away.clone().or_else(|| self.waits.clone()),
        })
    }

    /// When the own membership ends.
    fn until(&self) -> UnixTime {
        self.known.get(&self.us).map(|membership| membership.until).unwrap_or_default()
    }

    /// What a neighbour may, and whether anything is bought from it or sold to it.
    pub(super) fn standing(&self, account: NodeId, is_written: bool) -> (Access, bool) {
        let (we, it) = (self.holds(self.us), self.holds(account));
        let full = !self.matter || it || is_written && !we;
        (if full { Access::Full } else { Access::Visitor }, !self.matter || we && it)
    }

    /// Takes a code that was put there while the router runs.
    pub(super) fn look_for_code(&mut self, now: Instant) {
        if self.matter {
            self.code = read_code(&self.directory);
            self.ask_soon(now);
        }
    }

    /// Asks soon: there is somebody new.
    pub(super) fn ask_soon(&mut self, now: Instant) {
        self.ask_at = self.ask_at.min(now);
    }

    /// Takes what the ledger said. Whether anything changed.
    fn take(&mut self, of: Vec<(NodeId, Option<Membership>)>) -> bool {
        let before = self.known.clone();
        let asked: SortedSet<NodeId> = of.iter().map(|(account, _)| *account).collect();
        for (account, membership) in of {
            match membership {
                Some(membership) => self.known.insert(account, membership),
                None => self.known.remove(&account),
            };
        }
        while self.known.len() > KEPT_MAX {
            let other = self.known.keys().find(|account| !asked.contains(account)).copied();
            let Some(other) = other.or_else(|| self.known.keys().next().copied()) else { break };
            self.known.remove(&other);
        }
        self.known != before
    }

    fn file(&self) -> Vec<u8> {
        let lines: Vec<Line> = self
            .known
            .iter()
            .map(|(account, membership)| Line { account: *account, membership: *membership })
            .collect();
        serde_json::to_vec(&lines).expect("accounts and times are JSON")
    }
}

/// Asked of the ledger in one job, so that a code is not used for what is there already.
fn ask(ledger: &mut dyn Ledger, us: NodeId, accounts: &[NodeId], code: Option<&Code>) -> Result<Told, Error> {
    let mut said = ledger.memberships(accounts)?;
    let now = UnixTime::from_seconds(super::clock::seconds());
    let soon = now.after(u32::try_from(ENDS_SOON_S).unwrap_or(u32::MAX));
    let member = |said: &[Option<Membership>]| {
        let ours = accounts.iter().zip(said).find(|(account, _)| **account == us);
        ours.and_then(|(_, membership)| *membership).is_some_and(|membership| membership.holds_at(soon))
    };
    let enrolled = match code {
        None => None,
        // A code that renews is used when the membership is about to end.
        Some(_) if member(&said) => Some(Enrolled::Member),
        Some(code) => Some(match ledger.enrol(code) {
            Ok(_) => {
                said = ledger.memberships(accounts)?;
                Enrolled::Member
            }
            Err(error) => match error.refusal() {
                Some(_) => Enrolled::Refused(error.to_string()),
                None => Enrolled::Away(error.to_string()),
            },
        }),
    };
    let enrolled = code.cloned().zip(enrolled);
    Ok(Told { of: accounts.iter().copied().zip(said).collect(), enrolled })
}

impl Control {
    /// Asks the ledger where it is time, and lets neighbours in and puts them out.
    pub(super) fn look_at_members(&mut self, now: Instant) {
        if !self.members.matter || now < self.members.look_at {
            return;
        }
        self.members.look_at = now + LOOK_EACH;
        self.forget_strangers(now);
        self.set_access(now);
        if self.guests.has_new() {
            self.members.ask_at = self.members.ask_at.min(self.members.asked_at + ASK_EAGERLY);
        }
        if self.members.asking || now < self.members.ask_at {
            return;
        }
        let Some(desk) = &self.ledger else { return };
        (self.members.asking, self.members.asked_at) = (true, now);
        let us = self.members.us;
        let peers = self.links.values().filter_map(|known| known.peer.as_ref());
        let guests = self.guests.due(now);
        let accounts: SortedSet<NodeId> = peers.map(|peer| peer.card.account()).chain([us]).chain(guests).collect();
        let accounts: Vec<NodeId> = accounts.into_iter().collect();
        let code = self.members.code.clone();
        let told = desk.ask(move |ledger| ask(ledger.as_mut(), us, &accounts, code.as_ref()));
        self.spawn(told, |told| {
            let told = told.map_err(|error| error.to_string()).and_then(|told| told.map_err(|error| error.to_string()));
            Some(Done::Members { told })
        });
    }

    pub(super) fn handle_members(&mut self, now: Instant, told: Result<Told, String>) {
        self.members.asking = false;
        let was = self.members.holds(self.members.us);
        let Told { of, enrolled } = match told {
            Ok(told) => told,
            Err(error) => {
                self.ledger_reachable = Some(false);
                self.members.ask_at = now + if was { ASK_AGAIN } else { ASK_AGAIN_EAGERLY };
                self.members.away = (!was).then(|| format!("the ledger is not reached: {error}"));
                return;
            }
        };
        self.ledger_reachable = Some(true);
        self.members.ask_at = now + if self.has_newcomers(now) { ASK_EAGERLY } else { ASK_EACH };
        self.members.away = None;
        self.guests.take(&of);
        if self.members.take(of) {
            let (path, bytes) = (self.members.directory.join(MEMBERS), self.members.file());
            // The journal's desk writes one thing after another, so that the newest is the last.
            let written = self.journal.ask(move |_| file::replace(&path, &bytes, 0o600));
            self.spawn(written, |written| match written {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(Done::Warning(format!("cannot write who is a member: {error}"))),
                Err(error) => Some(Done::Warning(error.to_string())),
            });
        }
        self.handle_enrolled(now, enrolled);
        self.say_own_membership(was);
        self.set_access(now);
    }

    /// Whether somebody was met lately that is no member.
    fn has_newcomers(&self, now: Instant) -> bool {
        let is_new = |at: Instant| now < at + NEWCOMER_TIME;
        let newcomer = |known: &Known| known.met.is_some_and(is_new) && known.access.is_some_and(|(_, trades)| !trades);
        self.links.values().any(newcomer)
    }

    fn handle_enrolled(&mut self, now: Instant, enrolled: Option<(Code, Enrolled)>) {
        // Another may have been put there meanwhile.
        let Some((code, enrolled)) = enrolled else { return };
        if self.members.code.as_ref() != Some(&code) || read_code(&self.members.directory).as_ref() != Some(&code) {
            return self.members.ask_soon(now);
        }
        let path = self.members.directory.join(ENROLMENT);
        match enrolled {
            Enrolled::Member => {
                self.members.code = None;
                if let Err(error) = file::remove(&path) {
                    self.warn(format!("cannot remove the used code {}: {error}", path.display()));
                }
            }
            Enrolled::Refused(why) => {
                self.members.code = None;
                let aside = self.members.directory.join("enrolment.refused");
                let _kept = fs::rename(&path, &aside);
                self.members.waits = Some(why.clone());
                self.warn(format!("the ledger does not take the code of the invitation: {why}; ask for another one, and `waybill join` it"));
            }
            Enrolled::Away(why) => {
                self.members.ask_at = now + ASK_AGAIN;
                self.members.away = Some(format!("the ledger does not answer: {why}"));
            }
        }
    }

    /// Tells the owner when this router has become a member, is none any more, or will soon be none.
    fn say_own_membership(&mut self, was: bool) {
        let (is, until) = (self.members.holds(self.members.us), self.members.until());
        if is {
            self.members.waits = None;
            let left = until.seconds().saturating_sub(super::clock::seconds());
            if !was {
                tracing::info!(node = %self.name, until = %until.utc(), "this router is a member of the community");
            }
            if left < ENDS_SOON_S {
                self.warn(format!("this router's membership ends at {}: ask an issuer to renew it", until.utc()));
            }
        } else if self.members.waits.is_none() && self.members.code.is_none() {
            let why = "it is no member of the community: it reaches the ledger, and nothing else, until an issuer takes it in";
            self.members.waits = Some(why.to_owned());
            self.warn(format!("this router waits: {why}"));
        }
    }

    /// Lets every neighbour do what it may, by what is known now.
    pub(super) fn set_access(&mut self, now: Instant) {
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, known)| known.peer.is_some()).map(|(link, _)| *link).collect();
        for link in links {
            let Some(account) = self.peer_of(link) else { continue };
            let Some(known) = self.links.get_mut(&link) else { continue };
            let state = self.members.standing(account, known.origin == Origin::Written);
            if known.access.replace(state).is_some_and(|before| before != state) {
                let may =
                    if state.0 == Access::Full { "may all" } else { "is no member, and reaches the ledger alone" };
                tracing::info!(node = %self.name, neighbour = %known.name, may, "membership of a neighbour");
                self.tell_node(now, link);
            }
        }
    }
}

fn read_known(directory: &Path) -> SortedMap<NodeId, Membership> {
    let path = directory.join(MEMBERS);
    let lines: Option<Vec<Line>> = read(&path, FILE_LEN_MAX).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    lines.unwrap_or_default().into_iter().take(KEPT_MAX).map(|line| (line.account, line.membership)).collect()
}

fn read_code(directory: &Path) -> Option<Code> {
    let path = directory.join(ENROLMENT);
    let text = String::from_utf8(read(&path, FILE_LEN_MAX)?).ok()?;
    text.trim().parse().map_err(|error| tracing::warn!(%error, path = %path.display(), "the code does not read")).ok()
}

/// What is in a file, if it is not too long.
pub(super) fn read(path: &Path, len_max: u64) -> Option<Vec<u8>> {
    match fs::metadata(path).and_then(|found| if found.len() <= len_max { fs::read(path) } else { Ok(Vec::new()) }) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "a file does not read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use ledger_client::Refusal;

    use super::super::history;
    use super::super::stub::Stub;
    use super::*;

    const US: NodeId = NodeId([1; 20]);
    const MEMBER: NodeId = NodeId([2; 20]);
    const OTHER: NodeId = NodeId([3; 20]);

    fn until(seconds_from_now: i64) -> Membership {
        let now = i64::try_from(history::unix_seconds()).unwrap();
        Membership { until: UnixTime::from_seconds(u64::try_from(now + seconds_from_now).unwrap()), revoked: false }
    }

    #[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
    fn members(directory: &Path, matter: bool) -> Members {
        Members::open(Instant::now(), US, directory, matter)
    }

    #[test]
    fn who_is_no_member_visits_and_who_is_none_itself_bars_nobody_its_owner_wrote_down() {
        let directory = tempfile::tempdir().unwrap();
        let all = [(MEMBER, Some(until(1000))), (OTHER, Some(until(-1)))];
        let mut members = members(directory.path(), true);
        members.take(all.into());
        let (full, visitor) = ((Access::Full, true), (Access::Visitor, false));
        // Before this router is one: it buys and sells nothing.
        assert_eq!(members.standing(OTHER, true), (Access::Full, false));
        assert_eq!(members.standing(OTHER, false), visitor);
        assert_eq!(members.standing(MEMBER, false), (Access::Full, false));
        members.take(vec![(US, Some(until(1000)))]);
        assert_eq!((members.standing(MEMBER, true), members.standing(MEMBER, false)), (full, full));
        assert_eq!((members.standing(OTHER, true), members.standing(OTHER, false)), (visitor, visitor));
        members.take(vec![(MEMBER, Some(Membership { revoked: true, ..until(1000) }))]);
        assert_eq!(members.standing(MEMBER, true), visitor, "put out");
        members.take(vec![(MEMBER, None)]);
        assert_eq!(members.standing(MEMBER, true), visitor, "never heard of");
        let free = self::members(directory.path(), false);
        assert_eq!(free.standing(OTHER, false), full, "where it does not matter");
    }

    #[test]
    fn what_is_known_is_known_after_a_restart_and_what_is_damaged_is_asked_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut before = members(directory.path(), true);
        assert!(before.take(vec![(US, Some(until(1000))), (MEMBER, Some(until(500)))]));
        assert!(!before.take(vec![(OTHER, None)]), "no news");
        file::replace(&directory.path().join(MEMBERS), &before.file(), 0o600).unwrap();
        let after = members(directory.path(), true);
        assert_eq!(after.known, before.known);
        assert!(after.holds(US) && after.holds(MEMBER));
        let whole = before.file();
        for len in 0..whole.len() {
            file::replace(&directory.path().join(MEMBERS), &whole[..len], 0o600).unwrap();
            assert!(members(directory.path(), true).known.is_empty(), "{len}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
    fn a_guest_is_asked_about_soon_and_again_now_and_then_and_is_known_after_a_restart() {
        let (guests, now) = (Guests::default(), Instant::now());
        assert!(!guests.has_new() && guests.due(now).is_empty());
        assert!(!guests.is_member(MEMBER) && !guests.is_member(OTHER));
        assert!(guests.has_new());
        assert_eq!(guests.due(now), [MEMBER, OTHER]);
        assert!(!guests.has_new() && guests.due(now).is_empty(), "once");
        guests.take(&[(MEMBER, Some(until(1000))), (OTHER, None), (US, Some(until(1000)))]);
        assert!(guests.is_member(MEMBER) && !guests.is_member(OTHER) && !guests.all().contains_key(&US));
        assert_eq!(guests.due(now + GUEST_EACH).len(), 2);
        guests.take(&[(MEMBER, Some(Membership { revoked: true, ..until(1000) }))]);
        assert!(!guests.is_member(MEMBER), "put out");
        guests.take(&[(MEMBER, Some(until(-1)))]);
        assert!(!guests.is_member(MEMBER), "over");
        let again = Guests::default();
        again.remember(&[(MEMBER, until(1000))].into());
        assert!(again.due(now).is_empty(), "nobody wants to know");
        assert!(again.is_member(MEMBER) && again.has_new());
    }

    #[test]
    fn guests_are_bounded() {
        let guests = Guests::default();
        for number in 0..2 * GUESTS_MAX as u32 {
            let mut account = [9; 20];
            account[..4].copy_from_slice(&number.to_be_bytes());
            guests.is_member(NodeId(account));
        }
        assert_eq!(guests.all().len(), GUESTS_MAX);
    }

    #[test]
    fn more_accounts_than_are_kept_push_out_those_that_were_not_asked_about() {
        let directory = tempfile::tempdir().unwrap();
        let mut members = members(directory.path(), true);
        let account = |number: u16| {
            let mut bytes = [7; 20];
            bytes[..2].copy_from_slice(&number.to_be_bytes());
            NodeId(bytes)
        };
        for number in 0..600 {
            members.take(vec![(US, Some(until(1000))), (account(number), Some(until(1000)))]);
            assert!(members.known.len() <= KEPT_MAX && members.holds(US) && members.holds(account(number)));
        }
    }

    #[test]
    fn a_code_is_used_by_who_is_no_member_or_soon_none() {
        let code = Code::new([0x5e; 32], NodeId([0xb0; 20])).unwrap();
        let asked = |ours: Option<Membership>, refusal: Option<Refusal>| {
            let mut stub = Stub::new(None, refusal);
            stub.memberships = [(US, ours)].into();
            let told = ask(&mut stub, US, &[US, OTHER], Some(&code)).unwrap();
            let enrolled = told.enrolled.map(|(asked, enrolled)| (asked == code, enrolled));
            (stub.enrolled, enrolled, told.of)
        };
        let (used, enrolled, _) = asked(Some(until(365 * 86_400)), None);
        assert!(!used && matches!(enrolled, Some((true, Enrolled::Member))), "it is one");
        for ours in [None, Some(until(-5)), Some(until(86_400))] {
            let (used, enrolled, of) = asked(ours, None);
            assert!(used && matches!(enrolled, Some((true, Enrolled::Member))), "{ours:?}");
            assert!(
                of[0].1.is_some_and(|membership| membership.until > until(86_400 * 300).until),
                "what it says then counts"
            );
        }
        let (used, enrolled, _) = asked(None, Some(Refusal::EnrolmentAlreadyUsed));
        assert!(!used && matches!(enrolled, Some((true, Enrolled::Refused(_)))));
    }
}
