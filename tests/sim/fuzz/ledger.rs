//! The ledger: what it reads from a disk, from paper and from whoever asks; and its rules, from a script.

use std::str::FromStr;
use std::sync::LazyLock;

use ledger_core::checkpoint::{records, verify};
use ledger_core::enrolment::Code;
use ledger_core::fact::Fact;
use ledger_core::name::{self, Name, NameListing};
use ledger_core::note::{Log, Note, NoteKey, NoteSigner, Witness};
use ledger_core::registry::{Registration, Station};
use ledger_core::role::Role;
use ledger_core::signer::{Signer, consent};
use ledger_core::voucher::{Claim, Paper};
use ledger_core::{
    Command, Entry, Event, ExecuteError, Genesis, Head, Logged, MAX_SUPPLY, Order, Presented, Records, Request, State,
    Sums, UnixTime, membership,
};
use metering::{AccountKey, ChannelId, Close, NodeId, Price, Receipt, Tokens};

use crate::pair::DOMAIN;

/// An entry from a disk or a server: what is read has one encoding, and whoever signed it is found or is nobody.
///
/// # Panics
/// If it has another.
pub fn ledger_entry(bytes: &[u8]) {
    let _ = State::replay_founding(bytes);
    let Ok(entry) = Entry::decode(bytes) else { return };
    assert_eq!(entry.encode(), bytes);
    if let Event::NameClaimed { account, name, wireguard, claim, .. } = entry.event {
        let listing = NameListing(Some(name::Holder { account, wireguard, claim }));
        assert_eq!(NameListing::decode(&listing.encode()), Some(listing));
        assert_eq!(name::name_at(&NameListing::place(&name)), Some(name));
    }
    let logged = Logged::read(&DOMAIN, bytes);
    assert_eq!(logged.as_ref().ok().map(|logged| *logged.presented().request()), entry.request());
    if let Some(request) = entry.request() {
        reads_back(&request);
    }
}

/// A checkpoint or a key from a file, a server or another witness.
///
/// # Panics
/// If what is read is written otherwise.
pub fn ledger_note(bytes: &[u8]) {
    static KEY: LazyLock<NoteKey<Log>> =
        LazyLock::new(|| NoteSigner::new("waybill/lab", &[7; 32]).expect("a name").key().clone());
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    written_as_read::<NoteKey<Log>>(text);
    written_as_read::<NoteKey<Witness>>(text);
    if let Ok(note) = text.parse::<Note>() {
        // Base64 has one form, but a text may lack the line break behind its last line.
        assert_eq!(note.to_string().parse::<Note>().as_ref(), Ok(&note));
        let _ = verify(&note, &KEY);
        let _ = records(&note);
    }
}

/// A voucher, an enrolment's code or a name that somebody typed in.
///
/// # Panics
/// If what is read is written otherwise, or is worth nothing by its own word.
pub fn ledger_paper(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    written_as_read::<Code>(text);
    written_as_read::<Paper>(text);
    written_as_read::<Name>(text);
    let to = NodeId([9; 20]);
    if let Ok(code) = text.parse::<Code>() {
        assert!(matches!(code.enrol(&DOMAIN, to), Command::Enrol { enrolment, .. } if enrolment == code.enrolment()));
    }
    if let Ok(paper) = text.parse::<Paper>() {
        let _ = paper.check(&DOMAIN, paper.issuer());
        assert!(paper.claim(&DOMAIN, to).is_ok_and(|claim| claim.into_unverified().verify(&DOMAIN).is_ok()));
    }
}

/// A question's body.
///
/// # Panics
/// If what is read is something else when it is written and read again.
pub fn ledger_json(bytes: &[u8]) {
    let one = serde_json::from_slice::<Request>(bytes).into_iter();
    let batch = serde_json::from_slice::<Vec<Request>>(bytes).unwrap_or_default();
    one.chain(batch).for_each(|request| {
        reads_back(&request);
        assert_eq!(*Presented::recover(&DOMAIN, request).request(), request);
    });
}

fn reads_back(request: &Request) {
    let json = serde_json::to_vec(request).expect("JSON");
    assert_eq!(serde_json::from_slice::<Request>(&json).expect("our own JSON"), *request);
}

fn written_as_read<T: FromStr + ToString>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        assert_eq!(read.to_string(), text);
    }
}

/// Steps beyond these are not read.
const STEPS_MAX: usize = 150;

/// Keys of four accounts, two for each, which is named after the first. The treasurer is account 0.
static KEYS: LazyLock<[[AccountKey; 2]; 4]> = LazyLock::new(|| [1, 2, 3, 4].map(|who| [who, who + 10].map(key)));

/// What vouchers and enrolments are made of.
static SECRETS: LazyLock<[AccountKey; 2]> = LazyLock::new(|| [31, 32].map(key));

fn key(byte: u8) -> AccountKey {
    AccountKey::from_bytes(&[byte; 32]).expect("a key")
}

fn id(who: u8) -> NodeId {
    KEYS[usize::from(who % 4)][0].node_id()
}

/// A ledger, and anybody who asks anything of it. After each step no token is made or lost, what the records add up to is what
/// the totals say, and what is refused has changed nothing. In the end the log is replayed and gives the same.
///
/// Returns the log.
///
/// # Panics
/// If one of these does not hold.
pub fn ledger_rules(bytes: &[u8]) -> Vec<Vec<u8>> {
    let genesis = Genesis::new("Lab", "WAY", 6, id(0), UnixTime::default(), [1; 16]).expect("good names");
    let genesis = genesis.with_close_notice(50);
    let log = vec![ledger_core::state::founding(&genesis).encode()];
    let mut play = Play { state: State::found(genesis), now: 0, log, last: None };
    for step in bytes.chunks_exact(4).take(STEPS_MAX) {
        play.step([step[0], step[1], step[2], step[3]]);
        play.check();
    }
    play.replayed();
    play.log
}

struct Play {
    state: State,
    now: u64,
    log: Vec<Vec<u8>>,
    last: Option<Request>,
}

impl Play {
    /// The first byte says what is asked and what is wrong with it, the second by whom, the third of what or whom, the last how
    /// much.
    fn step(&mut self, [kind, by, of, n]: [u8; 4]) {
        let (kind, fault) = (kind & 31, kind >> 5);
        if kind == 0 {
            self.now += u64::from(n);
            return;
        }
        let request = match self.last.filter(|_| fault == 7) {
            Some(again) => again,
            None => self.request(kind, [by, of, n], fault),
        };
        self.last = Some(request);
        let (before, totals) = (self.state.head(), self.state.totals());
        match self.state.execute(UnixTime::from_seconds(self.now), &request) {
            Ok(entry) if self.state.head() == before => {
                assert!(self.log.contains(&entry.encode()), "answered with what never happened: {entry:?}");
            }
            Ok(entry) => {
                assert_eq!(entry.request(), Some(request));
                self.log.push(entry.encode());
            }
            Err(ExecuteError::Refused(refusal)) => {
                assert_eq!((self.state.head(), self.state.totals()), (before, totals), "{refusal} changed something");
            }
            Err(error) => panic!("{request:?}: {error}"),
        }
        assert_eq!(self.state.head().size, self.log.len() as u64);
    }

    fn request(&self, kind: u8, [by, of, n]: [u8; 3], fault: u8) -> Request {
        let (domain, channel, amount) = (self.state.genesis().domain(), self.channel(of), amount(n));
        let forger = |who: u8| if fault == 6 { who.wrapping_add(1) } else { who };
        // Whoever pays in the channel.
        let payer = (0..4).find(|who| id(*who) == channel.payer).unwrap_or(0);
        let secret = &SECRETS[usize::from(of % 2)];
        let issuer = id(of / 2);
        let command = match kind {
            1 => return Request::Finalize { channel },
            2 => {
                let receipt = Receipt::sign_by(self.signing(forger(payer)), &domain, channel, amount, [n; 32]);
                return Request::Redeem { receipt: receipt.into_unverified() };
            }
            3 => {
                let claim = Claim::sign(secret, &domain, issuer, id(n));
                let to = id(forger(n));
                return Request::RedeemVoucher {
                    claim: Claim::new(claim.issuer(), claim.voucher(), to, claim.signature()),
                };
            }
            _ => self.command(kind, [by, of, n], fault),
        };
        let Ok(last) = self.state.sequence(id(by));
        let sequence = match fault {
            4 => last + 2,
            5 => last,
            _ => last + 1,
        };
        Request::Order(Order::sign(self.signing(forger(by)), &domain, id(by), sequence, command).into_unverified())
    }

    fn command(&self, kind: u8, [by, of, n]: [u8; 3], fault: u8) -> Command {
        let (domain, channel, amount) = (self.state.genesis().domain(), self.channel(of), amount(n));
        let (to, enrolment) = (id(of), SECRETS[usize::from(of % 2)].node_id());
        let [until, expires] = [n, n / 2].map(|n| UnixTime::from_seconds(u64::from(n) * 4));
        let role = if n % 2 == 0 { Role::Issuer } else { Role::Auditor };
        match kind {
            4 | 5 => Command::Mint { to, amount },
            6 => Command::Transfer { to, amount },
            7 | 8 => Command::OpenChannel { payee: to, deposit: amount },
            9 => Command::TopUp { channel, amount },
            10 => Command::StartClose { channel },
            11 => {
                let payer = (0..4).find(|who| id(*who) == channel.payer).unwrap_or(0);
                let close = Close::sign_by(self.signing(payer), &domain, channel, amount).into_unverified();
                Command::MutualClose { close }
            }
            12 => Command::Burn { amount },
            13 => Command::IssueVoucher { voucher: enrolment, amount, until: expires },
            14 => Command::ReclaimVoucher { voucher: enrolment },
            15 => {
                let (key, Ok(last)) = (&KEYS[usize::from(by % 4)][usize::from(of % 2)], self.state.sequence(id(by)));
                let of = if fault == 3 { id(by.wrapping_add(1)) } else { id(by) };
                Command::ChangeSigner { signer: key.node_id(), consent: consent(key, &domain, of, last + 1) }
            }
            16 => Command::IssueShares { shares: n.into() },
            17 => Command::TransferShares { router: to, to: id(of / 4), shares: n.into() },
            18 => Command::ClaimRevenue { router: to },
            19 => Command::Appoint { role, to },
            20 => Command::Dismiss { role, from: to },
            21 => Command::IssueMembership { to, until },
            22 => Command::RevokeMembership { of: to },
            23 => Command::OfferEnrolment { enrolment, until, expires },
            24 => Command::WithdrawEnrolment { issuer: id(of / 2), enrolment },
            25 | 26 => {
                let secret = &SECRETS[usize::from(of % 2)];
                let newcomer = if fault == 3 { id(by.wrapping_add(1)) } else { id(by) };
                let claim = membership::claim(secret, &domain, id(of / 2), newcomer);
                Command::Enrol { issuer: id(of / 2), enrolment, claim }
            }
            27 => {
                let [price_up, price_down] = [of, n].map(|price| Price::new(price.into()));
                let station = if n % 2 == 0 { Station::Router } else { Station::Gateway };
                Command::Register { registration: Registration { station, price_up, price_down, terms: [of; 32] } }
            }
            28 => Command::Unregister,
            30 if n % 2 == 0 => {
                let (name, wireguard) = (called(of), [by; 32]);
                let who = usize::from(if fault == 3 { by.wrapping_add(1) } else { by } % 4);
                let claim = name::claim(&KEYS[who][0], &domain, &name, &wireguard);
                Command::ClaimName { name, wireguard, claim }
            }
            30 => Command::ReleaseName { name: called(of) },
            29 => {
                let size = u64::from(n);
                let Ok(root) = self.state.root_at(size);
                let head = Head { size, root: root.unwrap_or(self.state.head().root) };
                Command::Attest { head: if fault == 3 { Head { size: size + 1, ..head } } else { head } }
            }
            _ => Command::Skip,
        }
    }

    /// One of the ledger's, or one that nobody has opened.
    fn channel(&self, number: u8) -> ChannelId {
        let unknown = ChannelId { payer: id(1), payee: id(2), nonce: 1 };
        self.state.channels().keys().nth(usize::from(number % 8)).copied().unwrap_or(unknown)
    }

    /// The key that signs for an account.
    fn signing(&self, who: u8) -> &'static AccountKey {
        let keys = &KEYS[usize::from(who % 4)];
        let Ok(fact) = self.state.fact(&Signer::place(&id(who)));
        let current = fact.map_or(id(who), |fact| Signer::decode(&fact).expect("the rules wrote it").0);
        keys.iter().find(|key| key.node_id() == current).expect("one of its two keys")
    }

    fn check(&self) {
        let (totals, mut sums) = (self.state.totals(), Sums::default());
        assert!(totals.conserved(), "{totals:?}");
        self.state.balances().values().for_each(|balance| sums.add_balance(*balance));
        self.state.channels().values().for_each(|channel| sums.add_channel(channel));
        for (place, value) in self.state.facts() {
            sums.add_fact(place, value).unwrap_or_else(|| panic!("{value:?} under {place:?} does not read"));
        }
        assert!(sums.fit(&totals), "{sums:?} {totals:?}");
    }

    fn replayed(&self) {
        let mut state = State::replay_founding(&self.log[0]).expect("our own founding");
        for entry in &self.log[1..] {
            let logged = Logged::read(&state.genesis().domain(), entry).expect("our own entry");
            state.replay_logged(&logged).expect("what the rules allowed");
        }
        assert_eq!((state.head(), state.totals()), (self.state.head(), self.state.totals()));
        assert_eq!(state.balances(), self.state.balances());
        assert_eq!(state.channels(), self.state.channels());
        assert_eq!(state.facts(), self.state.facts());
        assert_eq!(state.record_root(), self.state.record_root());
    }
}

fn called(of: u8) -> Name {
    ["roof", "attic", "barn"][usize::from(of % 3)].parse().expect("a name")
}

fn amount(n: u8) -> Tokens {
    let most = Tokens::new(MAX_SUPPLY.into());
    if n == u8::MAX { most.expect("an amount") } else { Tokens::new(n.into()).expect("an amount") }
}
