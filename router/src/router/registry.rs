//! The community's names, NAME.mesh: read from the ledger page by page, kept on disk, and answered for members that stand.
//!
//! A name is taken as far as the account that has it has signed that it is its node's ([`ledger_client::Ledger::named`]): whoever
//! serves the ledger gives it to nobody else's node. What is asked for and not known is looked for at once, a few names at a time. The
//! name that `waybill join` wants for this router lies in the state directory until the ledger has answered.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ledger_client::{Error, Ledger, Membership, Name, Named, Refusal, UnixTime};
use metering::{NodeId, SortedMap, SortedSet};
use node::names::Names;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::members::read;
use super::{Control, Done, history};
use crate::file;

/// How long after all names were read they are read again, and how long after one page the next is.
const ROUND_EACH: Duration = Duration::from_secs(300);
const PAGE_EACH: Duration = Duration::from_secs(1);
/// How soon after a question that failed, and how often names are looked for that somebody has asked for.
const AGAIN: Duration = Duration::from_secs(10);
const LOOK_EACH: Duration = Duration::from_secs(2);
/// How often it is looked whose membership has ended meanwhile.
const TELL_EACH: Duration = Duration::from_secs(10);
/// How long one that nobody had is not looked for again, and how many of those are remembered.
const ABSENT_TIME: Duration = Duration::from_secs(60);
const ABSENT_MAX: usize = 256;
/// Names kept: one less than are answered for, as the own is among those.
const KEPT_MAX: usize = 4095;
/// Names that wait to be looked for, all of which are asked for at once. One who asks has half of them at most, a second half of
/// the rest; and half are the household's own.
const WANTED_MAX: usize = 8;
/// The file with what the ledger last said, and the longest that is read.
const NAMES: &str = "names.json";
const FILE_LEN_MAX: u64 = 2 << 20;
/// The file with the name that this router is to claim.
pub(crate) const CLAIM: &str = "name";

/// What the resolver and the control task share: the zone of the community, and what was asked for and is not in it.
#[derive(Clone, Debug)]
pub struct Registered {
    zone: watch::Sender<Names>,
    /// This router's own prefix.
    home: u64,
    /// Who asked for it first.
    wanted: Arc<Mutex<SortedMap<Name, Asker>>>,
}

/// Somebody who asks: a machine of the household, or a whole node of the mesh, which has a /48 of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Household(IpAddr),
    Mesh(u64),
}

/// The first 48 bits.
fn prefix(address: Ipv6Addr) -> u64 {
    let [a, b, c, ..] = address.segments();
    u64::from(a) << 32 | u64::from(b) << 16 | u64::from(c)
}

impl Registered {
    /// Of a router with this name and address; nothing else is known yet.
    #[must_use]
    pub fn new(server: &str, address: Ipv6Addr) -> Self {
        Self { zone: watch::Sender::new(Names::new(server, address)), home: prefix(address), wanted: Arc::default() }
    }

    /// The answer to somebody's question, by what the ledger said; what it denies is looked for.
    #[must_use]
    pub fn answer(&self, from: IpAddr, question: &[u8]) -> Option<Vec<u8>> {
        let answer = self.zone.borrow().answer(question)?;
        let asked = || node::names::asked(question)?.parse().ok();
        if node::names::denies(&answer)
            && let Some(name) = asked()
        {
            let asker = match from.to_canonical() {
                IpAddr::V6(ip) if ip.is_unique_local() && prefix(ip) != self.home => Asker::Mesh(prefix(ip)),
                ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => Asker::Household(ip),
            };
            let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            let held = |is: &dyn Fn(&Asker) -> bool| wanted.values().filter(|other| is(other)).count();
            let may = match asker {
                Asker::Household(_) => true,
                Asker::Mesh(_) => held(&|other| matches!(other, Asker::Mesh(_))) < WANTED_MAX / 2,
            };
            if may && held(&|other| *other == asker) < WANTED_MAX - wanted.len() {
                wanted.entry(name).or_insert(asker);
            }
        }
        Some(answer)
    }

    fn take_wanted(&self) -> SortedSet<Name> {
        let wanted = std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        wanted.into_keys().collect()
    }
}

/// Who has a name, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    account: NodeId,
    address: Ipv6Addr,
    membership: Option<Membership>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    name: Name,
    #[serde(flatten)]
    holder: Holder,
}

/// What is known of the community's names.
pub(super) struct Registry {
    /// Where they are answered; `None`: nowhere, and none are read.
    shared: Option<Registered>,
    server: (String, Ipv6Addr),
    directory: PathBuf,
    known: SortedMap<Name, Holder>,
    /// As the file has it.
    written: SortedMap<Name, Holder>,
    /// Those that this round has come to, and the last of them.
    seen: SortedSet<Name>,
    after: Option<Name>,
    absent: SortedMap<Name, Instant>,
    page_at: Instant,
    look_at: Instant,
    tell_at: Instant,
    asking: bool,
    /// What this router is to be called.
    claim: Option<Name>,
    claim_at: Instant,
}

/// What is asked of the ledger.
enum Question {
    Page(Option<Name>),
    Names(SortedSet<Name>),
    Claim(Name, [u8; 32]),
}

/// What the ledger said.
pub(super) enum Told {
    /// Of the names on a page; none: there are no more.
    Page(Vec<(Name, Option<Holder>)>),
    /// Of names that were asked for.
    Names(Vec<(Name, Option<Holder>)>),
    /// The name is this router's, or why it is not.
    Claimed(Name, Result<(), Error>),
}

impl Registry {
    /// Reads what was known before. What does not read is asked for again.
    pub(super) fn open(now: Instant, shared: Option<Registered>, server: (String, Ipv6Addr), directory: &Path) -> Self {
        let known = if shared.is_some() { read_known(directory) } else { SortedMap::new() };
        let registry = Self {
            shared,
            server,
            directory: directory.to_owned(),
            written: known.clone(),
            known,
            seen: SortedSet::new(),
            after: None,
            absent: SortedMap::new(),
            page_at: now,
            look_at: now,
            tell_at: now + TELL_EACH,
            asking: false,
            claim: read_claim(directory),
            claim_at: now,
        };
        registry.tell();
        registry
    }

    /// Takes a name to be claimed that was put there while the router runs.
    pub(super) fn look_for_claim(&mut self, now: Instant) {
        (self.claim, self.claim_at) = (read_claim(&self.directory), now);
    }

    /// Has those answered whose holders are members.
    fn tell(&self) {
        let Some(shared) = &self.shared else { return };
        let now = UnixTime::from_seconds(super::clock::seconds());
        let (server, address) = &self.server;
        let mut zone = Names::new(server, *address);
        for (name, holder) in &self.known {
            if holder.membership.is_some_and(|membership| membership.holds_at(now)) {
                zone.add(name.as_str(), &[holder.address]);
            }
        }
        shared.zone.send_if_modified(|told| {
            let news = *told != zone;
            *told = zone;
            news
        });
    }

    /// What is to be asked by now, if anything is.
    fn question(&mut self, now: Instant, is_member: bool, wireguard: [u8; 32]) -> Option<Question> {
        if let Some(name) = self.claim.filter(|_| is_member && now >= self.claim_at) {
            return Some(Question::Claim(name, wireguard));
        }
        let shared = self.shared.as_ref()?;
        if now >= self.look_at {
            let mut wanted = shared.take_wanted();
            self.absent.retain(|_, at| now.saturating_duration_since(*at) < ABSENT_TIME);
            wanted.retain(|name| !self.absent.contains_key(name));
            if !wanted.is_empty() {
                self.look_at = now + LOOK_EACH;
                return Some(Question::Names(wanted));
            }
        }
        (now >= self.page_at).then_some(Question::Page(self.after))
    }

    fn take(&mut self, name: Name, holder: Option<Holder>) {
        // What nobody has is not of this round: whoever asks for such names would end it.
        if holder.is_some() {
            self.seen.insert(name);
        }
        match holder {
            Some(holder) if self.known.len() < KEPT_MAX || self.known.contains_key(&name) => {
                self.known.insert(name, holder);
            }
            Some(_) => {}
            None => {
                self.known.remove(&name);
            }
        }
    }

    fn take_page(&mut self, now: Instant, page: Vec<(Name, Option<Holder>)>) {
        match page.last() {
            Some((last, _)) if self.seen.len() <= KEPT_MAX => {
                (self.after, self.page_at) = (Some(*last), now + PAGE_EACH);
                page.into_iter().for_each(|(name, holder)| self.take(name, holder));
            }
            // The end, or as many as are kept.
            Some(_) | None => {
                let seen = std::mem::take(&mut self.seen);
                self.known.retain(|name, _| seen.contains(name));
                (self.after, self.page_at) = (None, now + ROUND_EACH);
            }
        }
    }

    fn take_names(&mut self, now: Instant, names: Vec<(Name, Option<Holder>)>) {
        for (name, holder) in names {
            if holder.is_none() && self.absent.len() < ABSENT_MAX {
                self.absent.insert(name, now);
            }
            self.take(name, holder);
        }
    }

    /// What the file is to say, where that is news. Between the pages of the first round it would be written often.
    fn news(&mut self) -> Option<Vec<u8>> {
        if self.after.is_some() || self.known == self.written {
            return None;
        }
        self.written.clone_from(&self.known);
        let lines: Vec<Line> = self.known.iter().map(|(name, holder)| Line { name: *name, holder: *holder }).collect();
        Some(serde_json::to_vec(&lines).expect("names and addresses are JSON"))
    }
}

/// Asked of the ledger in one job.
fn ask(ledger: &mut dyn Ledger, us: NodeId, question: Question) -> Result<Told, Error> {
    match question {
        Question::Page(after) => {
            let page = ledger.names(after)?;
            let named = page.into_iter().map(|Named { name, holder }| (name, Some(holder)));
            Ok(Told::Page(standing(ledger, named.collect())?))
        }
        Question::Names(names) => {
            let mut named = Vec::with_capacity(names.len());
            for name in names {
                named.push((name, ledger.named(name)?));
            }
            Ok(Told::Names(standing(ledger, named)?))
        }
        Question::Claim(name, wireguard) => {
            let claimed = match ledger.claim_name(name, wireguard) {
                // Before this router was started anew, it may be.
                Err(Error::Refused(Refusal::NameAlreadyHeld { .. }))
                    if ledger.named(name)?.is_some_and(|holder| holder.account == us) =>
                {
                    Ok(())
                }
                claimed => claimed,
            };
            Ok(Told::Claimed(name, claimed))
        }
    }
}

/// The same, and whether their holders are members.
fn standing(
    ledger: &mut dyn Ledger,
    named: Vec<(Name, Option<ledger_client::Holder>)>,
) -> Result<Vec<(Name, Option<Holder>)>, Error> {
    let accounts: Vec<NodeId> = named.iter().filter_map(|(_, holder)| Some(holder.as_ref()?.account)).collect();
    let memberships: SortedMap<_, _> = accounts.iter().copied().zip(ledger.memberships(&accounts)?).collect();
    let known = |holder: ledger_client::Holder| {
        let (account, address) = (holder.account, holder.address());
        Holder { account, address, membership: memberships.get(&account).copied().flatten() }
    };
    Ok(named.into_iter().map(|(name, holder)| (name, holder.map(known))).collect())
}

impl Control {
    /// Asks the ledger for names where it is time.
    pub(super) fn look_at_registry(&mut self, now: Instant) {
        if now >= self.registry.tell_at {
            self.registry.tell_at = now + TELL_EACH;
            self.registry.tell();
        }
        let (Some(desk), false) = (&self.ledger, self.registry.asking) else { return };
        // Whoever asks about members finds out when it is back.
        if self.members.matter() && self.ledger_reachable != Some(true) {
            return;
        }
        let (us, is_member) = (self.identity.node_id(), self.members.own_holds());
        let key = self.identity.wireguard_key().0;
        let Some(question) = self.registry.question(now, is_member, key) else { return };
        self.registry.asking = true;
        let told = desk.ask(move |ledger| ask(ledger.as_mut(), us, question));
        self.spawn(told, |told| {
            let told = told.map_err(|error| error.to_string()).and_then(|told| told.map_err(|error| error.to_string()));
            Some(Done::Registry { told })
        });
    }

    pub(super) fn handle_registry(&mut self, now: Instant, told: Result<Told, String>) {
        self.registry.asking = false;
        match told {
            Ok(Told::Page(page)) => self.registry.take_page(now, page),
            Ok(Told::Names(names)) => self.registry.take_names(now, names),
            Ok(Told::Claimed(name, claimed)) => self.handle_claimed(now, name, claimed),
            Err(error) => {
                tracing::debug!(node = %self.name, %error, "the ledger does not tell of names");
                let again = now + AGAIN;
                (self.registry.page_at, self.registry.look_at, self.registry.claim_at) = (again, again, again);
                return;
            }
        }
        self.registry.tell();
        if let Some(bytes) = self.registry.news() {
            let path = self.registry.directory.join(NAMES);
            let written = self.journal.ask(move |_| file::replace(&path, &bytes, 0o600));
            self.spawn(written, |written| match written {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(Done::Warning(format!("cannot write the community's names: {error}"))),
                Err(error) => Some(Done::Warning(error.to_string())),
            });
        }
    }

    fn handle_claimed(&mut self, now: Instant, name: Name, claimed: Result<(), Error>) {
        let path = self.registry.directory.join(CLAIM);
        let settled = match claimed {
            Ok(()) => {
                tracing::info!(node = %self.name, %name, "this router is NAME.mesh in the whole community");
                file::remove(&path)
            }
            // Not yet, by what the ledger knows.
            Err(Error::Refused(Refusal::NotMember { .. }) | Error::NoKey | Error::Unavailable(_)) => {
                self.registry.claim_at = now + AGAIN;
                return;
            }
            Err(error @ Error::Refused(_)) => {
                self.warn(format!("{name}.mesh is not this router: {error}; take another with `waybill names claim`"));
                fs::rename(&path, self.registry.directory.join("name.refused"))
            }
        };
        (self.registry.claim, self.registry.page_at) = (None, now);
        if let Err(error) = settled {
            self.warn(format!("cannot remove {}, which was done: {error}", path.display()));
        }
    }
}

/// Names of members that a router with this state directory answers for, as its ledger said last.
pub(crate) fn kept(directory: &Path) -> Vec<(Name, Ipv6Addr)> {
    let now = UnixTime::from_seconds(history::unix_seconds());
    let known = read_known(directory).into_iter();
    let stands = |holder: &Holder| holder.membership.is_some_and(|membership| membership.holds_at(now));
    known.filter(|(_, holder)| stands(holder)).map(|(name, holder)| (name, holder.address)).collect()
}

fn read_known(directory: &Path) -> SortedMap<Name, Holder> {
    let lines: Option<Vec<Line>> =
        read(&directory.join(NAMES), FILE_LEN_MAX).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    lines.unwrap_or_default().into_iter().take(KEPT_MAX).map(|line| (line.name, line.holder)).collect()
}

fn read_claim(directory: &Path) -> Option<Name> {
    String::from_utf8(read(&directory.join(CLAIM), 256)?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use metering::{Signature, WireguardKey, mesh_address};

    use super::super::stub::Stub;
    use super::*;

    const US: NodeId = NodeId([1; 20]);
    const OTHER: NodeId = NodeId([2; 20]);
    const KEY: [u8; 32] = [7; 32];

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
    fn start() -> Instant {
        Instant::now()
    }

    fn shared() -> Registered {
        Registered::new("us", "fd00::1".parse().unwrap())
    }

    fn registry(shared: &Registered, directory: &Path, now: Instant) -> Registry {
        Registry::open(now, Some(shared.clone()), ("us".to_owned(), "fd00::1".parse().unwrap()), directory)
    }

    /// A ledger that has these names, of members until so many seconds from now.
    fn ledger(names: &[(&str, NodeId, i64)]) -> Stub {
        let mut stub = Stub::new(None, None);
        for (text, account, seconds) in names {
            let holder = ledger_client::Holder { account: *account, wireguard: KEY, claim: Signature([0; 65]) };
            stub.names.insert(name(text), holder);
            let until = i64::try_from(history::unix_seconds()).unwrap() + seconds;
            let until = UnixTime::from_seconds(u64::try_from(until).unwrap());
            stub.memberships.insert(*account, Some(Membership { until, revoked: false }));
        }
        stub
    }

    /// Asks as the control task does, until there is nothing to ask at this moment.
    fn round(registry: &mut Registry, stub: &mut Stub, now: Instant) {
        while let Some(question) = registry.question(now, true, KEY) {
            match ask(stub, US, question).unwrap() {
                Told::Page(page) => {
                    registry.take_page(now, page);
                    // The pause between two pages is over.
                    if registry.after.is_some() {
                        registry.page_at = now;
                    }
                }
                Told::Names(names) => registry.take_names(now, names),
                Told::Claimed(..) => registry.claim = None,
            }
        }
        registry.tell();
    }

    fn question(text: &str) -> Vec<u8> {
        let mut message = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in [text, "mesh"] {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, 28, 0, 1]);
        message
    }

    fn answers(shared: &Registered, text: &str) -> bool {
        let answer = shared.answer(IpAddr::from([192, 168, 1, 7]), &question(text)).unwrap();
        let is_it = answer.ends_with(&mesh_address(&WireguardKey(KEY)).octets());
        assert_eq!(is_it, !node::names::denies(&answer));
        is_it
    }

    #[test]
    fn all_pages_are_read_and_members_alone_are_answered_for_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (shared, now) = (shared(), start());
        let mut registry = registry(&shared, directory.path(), now);
        let mut stub =
            ledger(&[("a", US, 1000), ("b", OTHER, -5), ("c", NodeId([3; 20]), 1000), ("d", NodeId([4; 20]), 1000)]);
        round(&mut registry, &mut stub, now);
        assert_eq!(registry.known.len(), 4);
        assert_eq!(["a", "b", "c", "d"].map(|text| answers(&shared, text)), [true, false, true, true]);
        let file = registry.news().unwrap();
        assert_eq!(registry.news(), None, "written once");
        file::replace(&directory.path().join(NAMES), &file, 0o600).unwrap();

        // The ledger is away.
        let later = self::shared();
        let mut after = self::registry(&later, directory.path(), now);
        assert_eq!(after.known, registry.known);
        assert_eq!(kept(directory.path()).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "c", "d"]);
        assert!(answers(&later, "a") && !answers(&later, "b"));
        for len in 0..file.len() {
            file::replace(&directory.path().join(NAMES), &file[..len], 0o600).unwrap();
            assert!(self::registry(&later, directory.path(), now).known.is_empty(), "{len}");
        }

        // One was given up, and another member was put out.
        stub.names.remove(&name("a"));
        let Some(Some(membership)) = stub.memberships.get_mut(&NodeId([3; 20])) else { panic!("one") };
        membership.revoked = true;
        round(&mut after, &mut stub, now + ROUND_EACH);
        let later = after.shared.clone().unwrap();
        assert_eq!(["a", "c", "d"].map(|text| answers(&later, text)), [false, false, true]);
    }

    #[test]
    fn what_somebody_asks_for_is_looked_for_soon_and_what_nobody_has_not_again_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let (shared, now) = (shared(), start());
        let mut registry = registry(&shared, directory.path(), now);
        round(&mut registry, &mut ledger(&[]), now);
        let mut stub = ledger(&[("roof", OTHER, 1000)]);
        for text in ["roof", "wpad", "-", "12"] {
            assert!(!answers(&shared, text));
        }
        let Some(Question::Names(names)) = registry.question(now, true, KEY) else { panic!("two are looked for") };
        assert_eq!(names, [name("roof"), name("wpad")].into());
        let Ok(Told::Names(told)) = ask(&mut stub, US, Question::Names(names)) else { panic!("it is told") };
        registry.take_names(now, told);
        registry.tell();
        assert!(answers(&shared, "roof") && !answers(&shared, "wpad"));
        assert!(registry.question(now + LOOK_EACH, true, KEY).is_none(), "nobody had it");
        assert!(!answers(&shared, "wpad"));
        assert!(matches!(registry.question(now + ABSENT_TIME, true, KEY), Some(Question::Names(_))));
    }

    #[test]
    fn one_who_asks_much_leaves_room_for_others_and_the_mesh_for_the_household() {
        let (shared, count) = (shared(), std::cell::Cell::new(0_u32));
        let asks = |from: &str, times: u32| {
            for _ in 0..times {
                count.set(count.get() + 1);
                let answer = shared.answer(from.parse().unwrap(), &question(&format!("x{}", count.get()))).unwrap();
                assert!(node::names::denies(&answer));
            }
            shared.wanted.lock().unwrap().len()
        };
        assert_eq!(asks("fd01::1", 10), 4, "a node of the mesh");
        assert_eq!(asks("fd01:0:0:7::1", 1), 4, "the same node");
        assert_eq!(asks("fd02::1", 10), 4, "and all of them");
        assert_eq!(asks("192.168.1.7", 10), 6);
        assert_eq!(asks("fd00::7", 10), 7, "another machine of the house");
        assert_eq!(asks("::ffff:192.168.1.7", 10), 7);
        assert_eq!(asks("fe80::7", 10), 8);
        assert_eq!(shared.take_wanted().len(), WANTED_MAX);
        assert_eq!(asks("192.168.1.7", 10), 4);
    }

    #[test]
    fn a_flood_of_questions_costs_the_ledger_few() {
        let directory = tempfile::tempdir().unwrap();
        let (shared, now) = (shared(), start());
        let mut registry = registry(&shared, directory.path(), now);
        round(&mut registry, &mut ledger(&[]), now);
        let mut asked = 0;
        for number in 0..10_000_u32 {
            assert!(!answers(&shared, &format!("x{number}")));
            let at = now + Duration::from_millis(number.into());
            if let Some(Question::Names(names)) = registry.question(at, true, KEY) {
                asked += names.len();
                registry.take_names(at, names.into_iter().map(|name| (name, None)).collect());
            }
        }
        assert!(asked <= WANTED_MAX * 6, "{asked} in ten seconds");
        assert!(registry.seen.is_empty(), "none of them counts as one of this round");
        assert!(registry.absent.len() <= ABSENT_MAX && registry.known.is_empty());
    }

    #[test]
    fn no_more_names_are_kept_than_are_answered_for() {
        let directory = tempfile::tempdir().unwrap();
        let (shared, now) = (shared(), start());
        let mut registry = registry(&shared, directory.path(), now);
        let until = UnixTime::from_seconds(history::unix_seconds() + 1000);
        let holder = Holder {
            account: OTHER,
            address: "fd00::2".parse().unwrap(),
            membership: Some(Membership { until, revoked: false }),
        };
        for page in 0.. {
            registry.take_page(now, (0..100).map(|n| (name(&format!("n{page:02}-{n:02}")), Some(holder))).collect());
            if registry.after.is_none() {
                break;
            }
        }
        assert_eq!(registry.known.len(), KEPT_MAX);
        assert!(registry.after.is_none() && registry.seen.is_empty());
        let file = registry.news().unwrap();
        assert!(file.len() as u64 <= FILE_LEN_MAX, "{}", file.len());
    }

    #[test]
    fn the_name_that_was_put_there_is_claimed_once_this_router_is_a_member() {
        let directory = tempfile::tempdir().unwrap();
        file::replace(&directory.path().join(CLAIM), b"roof\n", 0o600).unwrap();
        let (shared, now) = (shared(), start());
        let mut registry = registry(&shared, directory.path(), now);
        assert!(!matches!(registry.question(now, false, KEY), Some(Question::Claim(..))));
        let Some(Question::Claim(claims, key)) = registry.question(now, true, KEY) else { panic!("it is claimed") };
        let mut stub = ledger(&[]);
        let claimed = |stub: &mut Stub| match ask(stub, US, Question::Claim(claims, key)).unwrap() {
            Told::Claimed(_, claimed) => claimed.map_err(|error| error.refusal()),
            Told::Page(_) | Told::Names(_) => panic!("it was claimed"),
        };
        assert_eq!(claimed(&mut stub), Ok(()));
        // Once more, as after a power cut; and where it is another's.
        let held = Refusal::NameAlreadyHeld { account: US };
        stub.refusal = Some(held);
        assert_eq!(claimed(&mut stub), Ok(()));
        stub.names.clear();
        assert_eq!(claimed(&mut stub), Err(Some(held)));
        file::replace(&directory.path().join(CLAIM), b"Not A Name", 0o600).unwrap();
        registry.look_for_claim(now);
        assert_eq!(registry.claim, None);
    }
}
