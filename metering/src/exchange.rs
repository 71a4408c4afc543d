//! The exchange: the protocol by which two neighbours agree on terms, compare counts and sign receipts.

mod purse;
mod till;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::allowance::Allowance;
use crate::credit::{self, Answered, Credit, LIFELINE, Security, Standing, Trust};
use crate::eip712::Word;
use crate::identity::SignatureError;
use crate::meter::{Counts, Meter, charge, meter_hash};
use crate::terms::{Offer, Role, SignedTerms, Terms};
use crate::wire::{ChannelNote, Message, MessageError, MeterReport, ReceiptMessage, Resume, TermsMessage};
use crate::{AccountKey, Bytes, ChannelId, Close, LedgerDomain, NodeId, Price, Receipt, Tokens, Unverified};

use purse::{Claim, Purse};
use till::{Till, UNWRITTEN_WINDOWS};

/// How often a provider reports what it counted when nothing urges it.
pub const TICK: Duration = Duration::from_secs(5);

/// When a provider first reports in a segment: who dies often pays in between.
const FIRST_TICK: Duration = Duration::from_secs(1);

/// How soon an unanswered report is repeated while an eighth of the window is unpaid.
const URGENT: Duration = Duration::from_millis(500);

/// How soon an unanswered `Resume` or `Terms` is repeated, at first; after every fourth time doubled, twice.
const RETRY: Duration = Duration::from_millis(250);

/// After so many repetitions nobody seems to be there, and one each [`TICK`] is enough.
const RETRIES: u32 = 16;

/// No session reaches it: a count of boots that does is no count of boots, and a neighbour must not use ours up.
const SESSIONS_END: u64 = 1 << 63;

/// How long a provider that is to ask another price, or to be something else, waits for what is owed until then.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// The least time between two requests to look a channel up: the neighbour can cause them.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(1);

/// How often a payer repeats its last receipt when all is quiet, once a tick.
const REPEATS: u8 = 3;

/// How many new channels a neighbour can make us turn to at once, and how often to one more: a channel is opened for months.
const TURNS_MAX: u32 = 8;
const TURN_EACH: Duration = Duration::from_secs(60);

/// The exchange with one neighbour: one per link, the same for provider, subscriber and peer.
///
/// It is pure: hand in what happened by the `handle_*` calls; after each of them drain [`Exchange::poll_transmit`]
/// (payloads of link-local UDP datagrams to [`crate::wire::PORT`]) and [`Exchange::poll_event`] (what the journal, the
/// ledger and the operator are wanted for); call [`Exchange::handle_timeout`] when [`Exchange::poll_timeout`] says so.
///
/// 1. `Resume` both ways: each learns the other's session and the highest receipt; both adopt the maximum.
/// 2. `Terms` from the provider; the payer's first `MeterReport` accepts them. A segment starts at zero.
/// 3. `MeterReport` from the provider each [`TICK`], and sooner when an eighth of the window is unpaid; the payer
///    answers with a `Receipt` over base + [`charge`] of both ends' counts.
///
/// Two writes must be durable before the protocol goes on. The payer signs nothing above a ceiling the journal has
/// confirmed ([`Event::Reserve`], [`Exchange::handle_reserved`]); the payee's credit counts only receipts the journal
/// has confirmed ([`Event::Hold`], [`Exchange::handle_held`]).
///
/// A new session on either side (a restart, other terms, another channel) ends the segment. What is unpaid then is
/// written off, but not forgotten: it shortens what is carried on trust until it is worked off (see [`crate::credit`]).
/// Messages are cumulative: losing, repeating or reordering them is harmless.
#[derive(Debug)]
pub struct Exchange {
    account: AccountKey,
    peer: NodeId,
    domain: LedgerDomain,
    side: Side,
    session: u64,
    /// 0 until the neighbour's first `Resume`.
    their_session: u64,
    /// The highest of our sessions they are known to know.
    their_echo: u64,
    their_channel: Option<ChannelNote>,
    /// What the neighbour last took itself for.
    their_role: Option<Role>,
    /// Payer: what the provider's latest terms ask, accepted or not.
    asked: Option<Price>,
    channel: Option<ChannelState>,
    meter: Meter,
    phase: Phase,
    purse: Purse,
    till: Till,
    trust: Trust,
    /// Payee: the epoch of the channel, and what was signed on it, when that was last written before this process.
    written: (u64, Tokens),
    /// Of the segments that have ended.
    ended: Sums,
    /// Payee: what was signed for since the exchange began.
    signed: Tokens,
    written_off: Tokens,
    receipts_signed: u64,
    receipts_verified: u64,
    outbox: Outbox,
    events: VecDeque<Event>,
    tick_at: Instant,
    retry_at: Instant,
    retries: u32,
    /// Payer: whether terms came in this session, acceptable or not.
    terms_came: bool,
    looked_up_at: Option<Instant>,
    /// Payer: how often the latest receipt is still to be repeated, and whether counts were sent since the last tick.
    repeats: u8,
    spoke: bool,
    /// The newest channel that was looked up because the neighbour spoke of it, and how many more may be.
    turned_to: u64,
    turns: Allowance,
    exhausted_since: Option<Instant>,
    /// Provider: until then, each receipt goes to the journal at once.
    flush_until: Option<Instant>,
    /// Payer: the channel that the payee is offered to end. Nothing is signed on it any more.
    closing: Option<ChannelId>,
    /// Payer: the channel was closed by the owner's word, so the next one is opened when something is owed, not before.
    opens_late: bool,
    /// Payee: the offer to close that was passed on: the channel's nonce, and what we have of it. What is signed beyond that
    /// is worth nothing once the ledger has closed it.
    close_taken: Option<(u64, Tokens)>,
    /// Another role, and it is not known yet what journal and ledger know of its channel: whoever goes on without what was
    /// signed before would be paid for it twice, or not at all.
    awaits_restored: bool,
    /// Whether the journal was asked how the payer stands.
    trust_known: bool,
    /// Provider: what it is to be, once it is paid, or at that time.
    leaving: Option<(Side, Instant)>,
    /// Provider until a moment ago: what was carried since the last reading of the counters was carried at these terms.
    carried_at: Option<Terms>,
    /// Whether the operator was told of it.
    exhaustion_told: bool,
    /// Provider: what the link is known to lose, parts per million.
    link_loss_ppm: u32,
}

/// What an exchange starts from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Our key; it signs terms or receipts.
    pub account: AccountKey,
    /// The neighbour, as its verified card names it.
    pub peer: NodeId,
    /// The ledger both use.
    pub domain: LedgerDomain,
    /// What we are to the neighbour.
    pub side: Side,
    /// Above every session any earlier exchange with this neighbour began with: a durable count of boots in the upper
    /// 32 bits, random lower ones. If it is not above, for a journal was lost, the neighbour says so and the exchange
    /// goes on from its number.
    pub session: u64,
    /// The link's counters at this moment.
    pub counts: Counts,
    /// What the journal and the ledger know.
    pub restored: Restored,
}

/// What one end is to the other, with what it asks or accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We are paid for both directions.
    Provider(Offer),
    /// We pay for both directions.
    Subscriber(Limits),
    /// Neither pays; both count.
    Peer,
}

/// What a payer accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most it pays, in either direction.
    pub max_price: Price,
}

/// What outlives a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restored {
    /// The channel as the ledger had it when last asked.
    pub channel: Option<ChannelState>,
    /// Payer: the highest ceiling made durable.
    pub ceiling: Option<(ChannelId, Tokens)>,
    /// Payee: the highest receipt made durable.
    pub held: Option<Receipt>,
    /// Payee: how the payer stood when that was last written.
    pub standing: Standing,
}

/// A channel as the ledger has it. Who pays whom follows from the [`Side`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelState {
    /// Its epoch.
    pub nonce: u64,
    /// What the payer locked, in all.
    pub deposit: Tokens,
    /// What the payee took out of it, in all.
    pub redeemed: Tokens,
    /// Whether the payer gave notice.
    pub closing: bool,
}

/// What the exchange wants of its shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Payer: make this ceiling durable, then call [`Exchange::handle_reserved`].
    Reserve {
        /// On which channel.
        channel: ChannelId,
        /// No receipt above it is signed until it is raised again.
        ceiling: Tokens,
    },
    /// Payee: make this receipt durable, then call [`Exchange::handle_held`]. Only the highest one matters.
    Hold(Receipt),
    /// Payer: open a channel, or top it up, and call [`Exchange::handle_channel`], or [`Exchange::handle_not_funded`].
    /// Repeated while it is needed.
    NeedChannel {
        /// To whom.
        payee: NodeId,
        /// What its deposit should be in all, at least.
        at_least: Tokens,
    },
    /// The neighbour knows of a channel or deposit we do not: ask the ledger, and call [`Exchange::handle_channel`].
    LookUpChannel(ChannelId),
    /// Payee: the payer offers to end the channel with no less for us than we hold: tell the ledger, and call
    /// [`Exchange::handle_channel_closed`].
    CloseOffered(Close),
    /// A segment began.
    TermsAgreed(Terms),
    /// The operator should know.
    Alarm(Alarm),
}

/// What an operator should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Alarm {
    /// A receipt with our signature is above all we made durable: the journal is not the one it was signed with, or
    /// another machine has our key. It is adopted, for the payee can redeem it.
    #[error("our journal allows {ceiling}, yet a receipt over {amount} carries our signature")]
    ReceiptAboveCeiling {
        /// The receipt's amount.
        amount: Tokens,
        /// The durable ceiling.
        ceiling: Tokens,
    },
    /// The window has been full for longer than a report and a receipt take, so the neighbour has its lifeline only.
    #[error("{unpaid} unpaid, with a window of {window}")]
    Exhausted {
        /// What was carried and is not covered.
        unpaid: Tokens,
        /// The window.
        window: Tokens,
    },
    /// The payer gave notice: redeem before it ends.
    #[error("the payer is closing channel {nonce}")]
    ChannelClosing {
        /// Which channel.
        nonce: u64,
    },
}

/// Why a message was refused. Nothing of it was adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// No honest neighbour sends this.
    #[error("the neighbour misbehaved: {0}")]
    Misbehaved(#[from] Misbehaviour),
    /// An honest neighbour may send this, but the two cannot do business.
    #[error("the neighbour is incompatible: {0}")]
    Incompatible(#[from] Incompatibility),
}

/// What no honest neighbour sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Misbehaviour {
    /// Not a message.
    #[error(transparent)]
    Malformed(MessageError),
    /// A session of 0 or, as our own, one no counter reaches.
    #[error("an impossible session number")]
    ImpossibleSession,
    /// A receipt whose signature is not the payer's over this ledger and amount.
    #[error("a forged receipt: {0}")]
    ForgedReceipt(SignatureError),
    /// A receipt on a channel that is not between us, or on one already replaced.
    #[error("a receipt on another channel")]
    OtherChannel,
    /// A receipt above what the channel holds, as far as our ledger knows.
    #[error("a receipt over {amount}, on a channel that holds {deposit}")]
    AboveDeposit {
        /// The receipt's amount.
        amount: Tokens,
        /// The deposit.
        deposit: Tokens,
    },
    /// An offer to close with less for us than a receipt we hold.
    #[error("an offer to close with {total}, where {held} is signed for")]
    CloseTooLow {
        /// What it offers.
        total: Tokens,
        /// What is signed for.
        held: Tokens,
    },
    /// An offer to close that the payer did not sign.
    #[error("a forged offer to close: {0}")]
    ForgedClose(SignatureError),
    /// The receipt's meter is not the hash of the counts beside it.
    #[error("a receipt for other counts than it came with")]
    MeterMismatch,
    /// The payer claims we reported more than we did.
    #[error("a receipt for counts that were never reported")]
    CountsNeverReported,
    /// One count rose and the other fell: no meter does that.
    #[error("counts that went back")]
    CountsWentBack,
    /// Terms whose signature is not the neighbour's.
    #[error("forged terms: {0}")]
    ForgedTerms(SignatureError),
    /// Terms between other parties, or other terms within one session.
    #[error("terms that are not for this link")]
    OtherTerms,
    /// A message only the other role sends.
    #[error("a message only the {0:?} sends")]
    WrongRole(Role),
}

/// Why two honest neighbours cannot do business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Incompatibility {
    /// Another version of the protocol.
    #[error(transparent)]
    Protocol(MessageError),
    /// Two providers, two subscribers, or a peer and a paid role.
    #[error("we are its {ours:?}, and it takes itself for our {theirs:?}")]
    Roles {
        /// What we are.
        ours: Role,
        /// What it takes itself for.
        theirs: Role,
    },
    /// The price is above our limit.
    #[error("it asks {asked} per GiB; our limit is {limit}")]
    PriceAboveLimit {
        /// The dearer of the two prices.
        asked: Price,
        /// The limit.
        limit: Price,
    },
}

/// Where an exchange stands, for people and programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What we are to the neighbour.
    pub role: Role,
    /// The neighbour.
    pub peer: NodeId,
    /// Whether a segment is running.
    pub agreed: bool,
    /// The terms agreed on, or those we offer; a payer without an agreement has none.
    pub terms: Option<Terms>,
    /// What we counted in this segment.
    pub ours: Counts,
    /// What the neighbour last reported of this segment.
    pub theirs: Counts,
    /// Payer: what is delivered by both counts and not signed.
    pub owed_by_us: Tokens,
    /// Payee: what we carried and no receipt covers.
    pub owed_to_us: Tokens,
    /// Payer: nothing is owed, and the provider has reported all that we counted.
    pub settled: bool,
    /// What is signed on the channel, cumulative, as far as we know.
    pub signed: Tokens,
    /// Payee: what durable receipts cover on the channel.
    pub held: Tokens,
    /// What the channel holds.
    pub deposit: Tokens,
    /// Payee: the most the neighbour can come to owe before we stop carrying for it; nothing when carrying is free.
    pub window: Tokens,
    /// What all segments came to.
    pub sums: Sums,
    /// Payee: the most that can be lost with the neighbour.
    pub at_risk: AtRisk,
    /// Payee: what of [`Snapshot::written_off`] still shortens the window.
    pub arrears: Tokens,
    /// Payee: how the payer stands, for the journal. It goes into [`Restored`].
    pub standing: Standing,
    /// Payee: what was unpaid when segments ended, and when the last process did.
    pub written_off: Tokens,
    /// Payer: receipts signed since the exchange began.
    pub receipts_signed: u64,
    /// Payee: higher receipts found right since the exchange began.
    pub receipts_verified: u64,
    /// Payee: whether to carry.
    pub credit: Credit,
    /// The channel, once it is known.
    pub channel: Option<ChannelId>,
}

/// What segments came to, since the exchange began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many there were.
    pub segments: u64,
    /// What we counted in them, until the neighbour's last report.
    pub ours: Counts,
    /// What the neighbour reported of them.
    pub theirs: Counts,
    /// Payee: what was signed for in them.
    pub earned: Tokens,
    /// Payer: what we signed for in them.
    pub spent: Tokens,
}

/// The most that can be lost with a payer, whatever it does and whenever the power fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtRisk {
    /// By carrying on trust, in however many segments, until it pays again.
    pub unpaid: Tokens,
    /// By receipts that the journal does not have yet: the payer has them too, and may say it has not.
    pub unwritten: Tokens,
    /// Each day after that: what is forgiven, and the lifeline.
    pub each_day: Tokens,
}

#[derive(Debug)]
enum Phase {
    /// Until both know each other's session; a payer stays here until terms come.
    Resuming,
    /// Provider: terms were sent.
    Offered(SignedTerms),
    /// A segment runs.
    Agreed(Segment),
}

#[derive(Debug)]
struct Segment {
    terms: SignedTerms,
    id: Word,
    theirs: Counts,
    /// What we had counted when those came: only what was on its way then makes the two differ.
    ours_by_then: Counts,
    /// Provider: how much of what we sent the payer's latest receipt answers for.
    answered: Answered,
}

/// What is to be sent. Flags, not a queue: each message holds all that is known when it leaves, and nobody can make
/// them pile up.
#[derive(Debug, Default)]
struct Outbox {
    resume: bool,
    terms: bool,
    counts: bool,
    close: bool,
}

impl Side {
    /// The role.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::Provider(_) => Role::Provider,
            Self::Subscriber(_) => Role::Subscriber,
            Self::Peer => Role::Peer,
        }
    }
}

impl Exchange {
    /// An exchange over a link that is up.
    #[must_use]
    pub fn new(setup: Setup, now: Instant) -> Self {
        let trust = Trust::restored(&setup.restored.standing, setup.restored.held.as_ref());
        Self {
            account: setup.account,
            peer: setup.peer,
            domain: setup.domain,
            side: setup.side,
            session: setup.session.max(1),
            their_session: 0,
            their_echo: 0,
            their_channel: None,
            their_role: None,
            asked: None,
            channel: setup.restored.channel,
            meter: Meter::new(setup.counts),
            phase: Phase::Resuming,
            purse: Purse::new(setup.restored.ceiling),
            till: Till::new(setup.restored.held),
            trust,
            written: (setup.restored.standing.nonce, setup.restored.standing.signed),
            ended: Sums::default(),
            signed: Tokens::ZERO,
            written_off: trust.late(),
            receipts_signed: 0,
            receipts_verified: 0,
            outbox: Outbox { resume: true, ..Outbox::default() },
            events: VecDeque::new(),
            tick_at: now + TICK,
            retry_at: now + RETRY,
            retries: 0,
            terms_came: false,
            looked_up_at: None,
            repeats: 0,
            spoke: false,
            turned_to: 0,
            turns: Allowance::new(TURNS_MAX, TURN_EACH, now),
            exhausted_since: None,
            flush_until: None,
            closing: None,
            opens_late: false,
            close_taken: None,
            awaits_restored: false,
            trust_known: true,
            leaving: None,
            carried_at: None,
            exhaustion_told: false,
            link_loss_ppm: 0,
        }
    }

    /// Takes one datagram of the neighbour.
    ///
    /// # Errors
    /// [`Rejected`] says why nothing of it was adopted.
    pub fn handle_message(&mut self, now: Instant, message: &[u8]) -> Result<(), Rejected> {
        let message = Message::decode(message).map_err(|error| match error {
            MessageError::Unknown { .. } => Rejected::from(Incompatibility::Protocol(error)),
            MessageError::TooLong { .. } | MessageError::Decode(_) => Misbehaviour::Malformed(error).into(),
        })?;
        if self.awaits_restored {
            if let Message::Resume(resume) = message {
                self.note_role(&resume);
            }
            return Ok(());
        }
        match message {
            Message::Resume(resume) => self.handle_resume(now, &resume)?,
            Message::Terms(message) => self.handle_terms(now, &message)?,
            Message::MeterReport(report) => self.handle_meter_report(now, &report)?,
            Message::Receipt(message) => self.handle_receipt(now, message)?,
            Message::Close(close) => self.handle_offer_to_close(now, &close)?,
        }
        self.leave(now);
        self.hold(now);
        Ok(())
    }

    /// Takes the link's counters, authenticated billed bytes since the link began. Call it at least every 50 ms while
    /// traffic flows: credit and reports are as fresh as the counts.
    pub fn handle_counts(&mut self, now: Instant, counts: Counts) {
        let before = self.carried_at.take().map(|terms| (terms, self.meter.since(counts)));
        let unbilled = self.meter.handle_counts(counts);
        match before {
            Some((terms, carried)) => self.give_away(&terms, carried),
            None => {
                let terms = self.terms().filter(|_| self.is_provider() && unbilled != Counts::ZERO);
                terms.inspect(|terms| self.give_away(terms, unbilled));
            }
        }
        if self.report_is_urgent(now) {
            self.report(now);
        }
        self.notice_exhaustion(now);
    }

    /// Provider: takes what the link loses of what is sent, in parts per million, as others than the payer's counts say:
    /// so much more loss is not taken for owed.
    pub const fn handle_link_loss(&mut self, ppm: u32) {
        self.link_loss_ppm = ppm;
    }

    /// Payer: the ledger could not be asked for what [`Event::NeedChannel`] wants. It is wanted again soon.
    pub fn handle_not_funded(&mut self, now: Instant) {
        self.purse.note_not_funded(now);
    }

    /// Takes the ledger's view of the channel between the two; an older channel than the one known is ignored.
    pub fn handle_channel(&mut self, now: Instant, channel: ChannelState) {
        let known = self.channel;
        if known.is_some_and(|known| channel.nonce < known.nonce) {
            return;
        }
        if known.is_some_and(|known| channel.nonce > known.nonce) {
            self.events.extend(self.till.retire().map(Event::Hold));
            self.closing = None;
            self.restart_session(now, self.session);
        }
        self.channel = Some(channel);
        self.purse.note_funded();
        if channel.closing && self.closing.take().is_some() {
            self.opens_late = true; // Notice was given instead.
        }
        let was_closing = known.is_some_and(|known| known.nonce == channel.nonce && known.closing);
        if self.is_provider() && channel.closing && !was_closing {
            let nonce = channel.nonce;
            self.events.push_back(Event::Alarm(Alarm::ChannelClosing { nonce }));
        }
        self.outbox.resume |= self.note() != self.their_channel && !self.is_free();
        self.pay(now);
        self.notice_exhaustion(now);
    }

    /// Payer: offers the payee to end the channel at once with what is signed, again each [`TICK`], until
    /// [`Exchange::handle_channel_closed`]. From here on nothing is signed, so settle before. `false`: there is no channel
    /// of ours, or nothing is known of it yet.
    pub fn handle_close(&mut self) -> bool {
        let channel = self.channel_id().filter(|_| !self.is_provider());
        self.closing = channel;
        self.outbox.close = channel.is_some();
        channel.is_some()
    }

    /// Payee: the ledger did not close the channel after [`Event::CloseOffered`]. Another offer may come.
    pub fn handle_close_failed(&mut self) {
        self.close_taken = None;
    }

    /// The ledger has closed a channel: what was signed on it is history.
    pub fn handle_channel_closed(&mut self, now: Instant, nonce: u64) {
        if self.channel.is_none_or(|known| known.nonce != nonce) {
            return;
        }
        self.opens_late |= self.closing.take().is_some();
        self.close_taken = None;
        // What is not written was paid by the ledger.
        let _paid = self.till.retire();
        self.channel = None;
        self.restart_session(now, self.session);
    }

    /// Payer: the journal made `ceiling` durable.
    pub fn handle_reserved(&mut self, now: Instant, channel: ChannelId, ceiling: Tokens) {
        if !self.is_between_us(channel) {
            return;
        }
        self.purse.handle_reserved(channel, ceiling);
        self.pay(now);
    }

    /// Payee: the journal made the receipt of `amount` durable. Credit extends.
    pub fn handle_held(&mut self, now: Instant, channel: ChannelId, amount: Tokens) {
        if !self.is_between_us(channel) {
            return;
        }
        self.till.handle_held(now, channel, amount);
        self.hold(now);
        self.notice_exhaustion(now);
    }

    /// Takes other prices or limits, or another role: a new session, so new terms and a new segment. With another role
    /// the channel is another one too: what is known of it is to be handed in by [`Exchange::handle_restored`].
    ///
    /// A provider to whom something is owed reports first, and changes when that is paid, or after a second: what has
    /// been carried since then is written off.
    pub fn handle_side(&mut self, now: Instant, side: Side) {
        if side == self.side {
            self.leaving = None;
            return;
        }
        if let Some((next, _)) = &mut self.leaving {
            *next = side;
            return;
        }
        self.leaving = Some((side, now + LEAVE_WITHIN));
        self.report(now);
        self.leave(now);
    }

    /// Becomes what it is to be, if nothing is worth waiting for.
    fn leave(&mut self, now: Instant) {
        let Some((side, until)) = self.leaving else { return };
        let waits = matches!(self.phase, Phase::Agreed(_)) && self.is_provider() && !self.is_free();
        if waits && now < until && self.till.signed_for != self.till.reported {
            return;
        }
        self.leaving = None;
        self.become_side(now, side);
    }

    fn become_side(&mut self, now: Instant, side: Side) {
        let terms = self.terms().filter(|terms| self.is_provider() && !terms.is_free());
        self.restart_session(now, self.session);
        if terms.is_some() {
            self.carried_at = terms;
            self.meter.restart_late();
        }
        if side.role() != self.side.role() {
            self.events.extend(self.till.retire().map(Event::Hold));
            self.channel = None;
            self.closing = None;
            self.asked = None;
            self.awaits_restored = true;
        }
        self.side = side;
    }

    /// Takes what the journal and the ledger know of the channel that the present [`Side`] makes matter: after
    /// [`Exchange::handle_side`] has made another role of it, until when nothing is said, nor listened to; or because the journal
    /// knows more than before.
    pub fn handle_restored(&mut self, now: Instant, restored: Restored) {
        let begins = std::mem::take(&mut self.awaits_restored);
        if begins {
            self.outbox.resume = true;
            (self.retries, self.retry_at) = (0, now + RETRY);
        }
        if !std::mem::replace(&mut self.trust_known, true) {
            self.trust = Trust::restored(&restored.standing, restored.held.as_ref());
            self.written = (restored.standing.nonce, restored.standing.signed);
            self.written_off = self.trust.late();
        }
        let parties = self.parties();
        let ours = |channel: ChannelId| (channel.payer, channel.payee) == parties;
        if let Some((channel, ceiling)) = restored.ceiling.filter(|(channel, _)| ours(*channel)) {
            self.purse.handle_reserved(channel, ceiling);
        }
        if let Some(held) = restored.held.filter(|held| self.is_provider() && ours(held.channel())) {
            if !begins {
                self.find(now, &held);
            }
            self.till.restore(held);
        }
        if let Some(channel) = restored.channel {
            self.handle_channel(now, channel);
        }
    }

    /// Payee: the journal has a higher receipt of the present channel than is known here, for a neighbour had kept it. The payer may
    /// have forgotten it too, and be signing from below it: both begin anew, from there.
    fn find(&mut self, now: Instant, held: &Receipt) {
        let newest = self.channel.map_or(0, |channel| channel.nonce);
        if held.amount() <= self.till.best_on(held.channel()) || held.channel().nonce < newest {
            return;
        }
        let late = self.above_what_was_known(held);
        self.restart_session(now, self.session);
        self.note_signed(held);
        // It was signed for a segment that has ended, and paid for what was written off.
        self.trust.handle_late_payment(late);
        self.written_off = self.written_off.saturating_sub(late);
    }

    /// Begins without what journal and ledger know: they were asked about another role.
    pub fn await_restored(&mut self) {
        self.awaits_restored = true;
        self.trust_known = false;
    }

    /// Whether [`Exchange::handle_restored`] is waited for; the session tells one waiting from another.
    #[must_use]
    pub fn awaits_restored(&self) -> Option<u64> {
        self.awaits_restored.then_some(self.session)
    }

    /// What we are at present.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// The neighbour's session: it rises when the neighbour begins anew.
    #[must_use]
    pub const fn their_session(&self) -> u64 {
        self.their_session
    }

    /// What the neighbour last took itself for.
    #[must_use]
    pub const fn their_role(&self) -> Option<Role> {
        self.their_role
    }

    /// Payer: the dearer price of the provider's latest terms, accepted or not.
    #[must_use]
    pub const fn asked(&self) -> Option<Price> {
        self.asked
    }

    /// The terms of the running segment.
    #[must_use]
    pub fn agreed(&self) -> Option<&Terms> {
        Some(self.segment()?.terms.terms())
    }

    /// Payer: what both counts say was delivered, less what is signed for it.
    #[must_use]
    pub fn owed(&self) -> Tokens {
        self.owed_by_us()
    }

    /// Settles as far as can be without waiting for the next tick: a report, and the highest receipt to the journal, the
    /// one that answers the report too. For a redemption that is about to happen, and before a shutdown.
    pub fn handle_flush(&mut self, now: Instant) {
        self.flush_until = Some(now + TICK);
        self.report(now);
        self.hold(now);
    }

    /// Does what is due. Harmless to call early.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.retry_at <= now && !self.awaits_restored && !matches!(self.phase, Phase::Agreed(_)) {
            self.retry(now);
        }
        if self.tick_at <= now {
            self.tick_at = now + TICK;
            self.tick(now);
        }
        if self.report_is_urgent(now) {
            self.report(now);
        }
        if self.purse.is_again(now) {
            self.pay(now);
        }
        self.leave(now);
        self.hold(now);
    }

    /// When to call [`Exchange::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = match &self.phase {
            Phase::Agreed(_) => None,
            Phase::Offered(_) | Phase::Resuming => Some(self.retry_at).filter(|_| !self.awaits_restored),
        };
        let urgent = self.urgent_at().filter(|_| self.much_is_unpaid());
        let leaving = self.leaving.map(|(_, until)| until);
        [Some(self.tick_at), retry, urgent, leaving, self.till.hold_at(), self.purse.again_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The payload of the next datagram to the neighbour, if there is one.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let message = if self.awaits_restored {
            None
        } else if std::mem::take(&mut self.outbox.resume) {
            Some(self.resume())
        } else if std::mem::take(&mut self.outbox.terms) {
            self.terms_message()
        } else if std::mem::take(&mut self.outbox.counts) {
            self.spoke = true;
            self.counts_message()
        } else if self.synced() && std::mem::take(&mut self.outbox.close) {
            // Before that a payer that was restarted may not know what it has signed.
            self.offer_to_close()
        } else {
            None
        };
        message.map(|message| message.encode())
    }

    /// The next thing wanted of the shell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the datapath may carry for the neighbour. A payer always may.
    ///
    /// Receipts count when they are verified; but beyond the worth of five full windows they count only when they are
    /// durable, so that a power cut takes no more than that.
    #[must_use]
    pub fn credit(&self) -> Credit {
        let Some(terms) = self.terms().filter(|terms| self.is_provider() && !terms.is_free()) else {
            return Credit::Open;
        };
        let unwritten = self.till.unwritten().saturating_sub(unwritten_most(&terms));
        let unpaid = self.earned(&terms).saturating_sub(self.till.paid()).saturating_add(unwritten);
        let window = self.window(&terms);
        let left = window.saturating_sub(unpaid);
        let carried = terms.carried_for(left);
        if left == Tokens::ZERO || carried < LIFELINE && left < window {
            Credit::Exhausted { unpaid, window }
        } else if left.get() < window.get() / credit::PACED_PART {
            Credit::Paced { left: carried }
        } else {
            Credit::Open
        }
    }

    /// The highest receipt the neighbour gave us, durable or not. To redeem it, make it durable first.
    #[must_use]
    pub const fn best_receipt(&self) -> Option<&Receipt> {
        self.till.best()
    }

    /// The highest receipt of the present channel, if the ledger has not paid it as far as we know. One of a channel that the ledger
    /// has closed since is worth nothing.
    #[must_use]
    pub fn unredeemed(&self) -> Option<&Receipt> {
        let (channel, id) = self.channel.zip(self.channel_id())?;
        self.till.best().filter(|best| best.channel() == id && best.amount() > channel.redeemed)
    }

    /// Where the exchange stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let channel = self.channel_id();
        let on = |amount: &dyn Fn(ChannelId) -> Tokens| channel.map_or(Tokens::ZERO, amount);
        let provider = self.is_provider();
        let terms = self.terms();
        let owed_to_us = terms
            .filter(|_| provider)
            .map_or(Tokens::ZERO, |terms| self.earned(&terms).saturating_sub(self.till.paid()));
        let paid = terms.filter(|terms| provider && !terms.is_free());
        let window = paid.map_or(Tokens::ZERO, |terms| self.window(&terms));
        let at_risk = paid.map_or(AtRisk::default(), |terms| self.at_risk(&terms));
        Snapshot {
            role: self.side.role(),
            peer: self.peer,
            agreed: matches!(self.phase, Phase::Agreed(_)),
            terms,
            ours: self.meter.counts(),
            theirs: self.segment().map_or(Counts::ZERO, |segment| segment.theirs),
            owed_by_us: self.owed_by_us(),
            settled: self.is_settled(),
            owed_to_us,
            signed: on(&|id| if provider { self.till.best_on(id) } else { self.purse.signed_on(id) }),
            held: on(&|id| self.till.durable_on(id)),
            deposit: self.channel.map_or(Tokens::ZERO, |channel| channel.deposit),
            window,
            sums: self.sums(),
            at_risk,
            arrears: self.trust.arrears(),
            standing: self.standing(),
            written_off: self.written_off,
            receipts_signed: self.receipts_signed,
            receipts_verified: self.receipts_verified,
            credit: self.credit(),
            channel,
        }
    }
}

/// Sessions and terms.
impl Exchange {
    fn handle_resume(&mut self, now: Instant, resume: &Resume) -> Result<(), Rejected> {
        self.note_role(resume);
        if let Err(misfit) = self.check_role(resume.role) {
            self.handle_misfit(now, resume);
            return Err(misfit);
        }
        let ours_lost = resume.echo > self.session;
        if resume.session == 0 || resume.session.max(resume.echo) >= SESSIONS_END {
            return Err(Misbehaviour::ImpossibleSession.into());
        }
        self.outbox.resume |= resume.ask;
        if resume.session < self.their_session {
            return Ok(());
        }
        let receipt = resume.receipt.as_ref();
        let receipt = receipt.map(|receipt| self.verify_resumed(receipt)).transpose()?;
        if resume.session > self.their_session {
            self.their_session = resume.session;
            self.their_echo = 0;
            self.restart(now);
        }
        if ours_lost {
            self.restart_session(now, resume.echo);
        }
        self.their_echo = self.their_echo.max(resume.echo);
        self.their_channel = resume.channel;
        self.adopt_resumed(now, receipt.flatten());
        self.look_up(now);
        if self.synced() && self.is_provider() && matches!(self.phase, Phase::Resuming) {
            self.offer(now);
        }
        Ok(())
    }

    /// The neighbour takes itself for something that does not fit. If it began anew, what ran with it is over, and it is
    /// told what we are; if it has lost count of its sessions, it is told that too. Neither is repeated by its repeating it.
    fn handle_misfit(&mut self, now: Instant, resume: &Resume) {
        if resume.session > self.their_session && resume.session < SESSIONS_END {
            self.their_session = resume.session;
            self.their_echo = 0;
            self.restart(now);
        } else if resume.session < self.their_session {
            self.outbox.resume |= resume.ask && self.synced();
        }
    }

    fn note_role(&mut self, resume: &Resume) {
        if resume.session >= self.their_session {
            self.their_role = Some(resume.role);
        }
    }

    fn check_role(&self, theirs: Role) -> Result<(), Rejected> {
        let ours = self.side.role();
        match (ours, theirs) {
            (Role::Provider, Role::Subscriber) | (Role::Subscriber, Role::Provider) | (Role::Peer, Role::Peer) => {
                Ok(())
            }
            _ => Err(Incompatibility::Roles { ours, theirs }.into()),
        }
    }

    /// The receipt, if it is higher than what we know on its channel and good.
    fn verify_resumed(&self, receipt: &Receipt<Unverified>) -> Result<Option<Receipt>, Rejected> {
        let channel = receipt.channel();
        if (channel.payer, channel.payee) != self.parties() {
            return Err(Misbehaviour::OtherChannel.into());
        }
        let known = if self.is_provider() { self.till.best_on(channel) } else { self.purse.signed_on(channel) };
        // A provider may have been the payer before, on channels that count for themselves.
        let reserved = self.purse.newest_nonce().filter(|_| !self.is_provider());
        let newest = self.channel.map(|known| known.nonce).max(reserved);
        let replaced = Some(channel.nonce) < newest;
        // Above the deposit we know of: the neighbour's note makes us look it up, and the receipt comes again.
        let unsecured = self.check_deposit(receipt).is_err();
        let beyond = self.is_provider() && self.is_beyond_the_close(receipt);
        if receipt.amount() <= known || replaced || unsecured || beyond {
            return Ok(None);
        }
        let verified = receipt.verify(&self.domain);
        Ok(Some(verified.map_err(Misbehaviour::ForgedReceipt)?))
    }

    /// Payee: adds what a receipt is above the best one known of its channel. Of the first that is known nobody can say
    /// how much is new.
    fn note_signed(&mut self, receipt: &Receipt) {
        let known = self.till.best_on(receipt.channel());
        let more = if known == Tokens::ZERO { known } else { receipt.amount().saturating_sub(known) };
        self.signed = self.signed.saturating_add(more);
    }

    /// Payee: what a receipt is above the best one known of its channel, held or not when the last process ended. Without
    /// any, nobody can say.
    fn above_what_was_known(&self, receipt: &Receipt) -> Tokens {
        let channel = receipt.channel();
        let (nonce, signed) = self.written;
        let written = (nonce == channel.nonce).then_some(signed);
        let best = self.till.best().filter(|best| best.channel() == channel).map(Receipt::amount);
        best.max(written).map_or(Tokens::ZERO, |known| receipt.amount().saturating_sub(known))
    }

    fn adopt_resumed(&mut self, now: Instant, receipt: Option<Receipt>) {
        let Some(receipt) = receipt else { return };
        if self.is_provider() {
            // On a channel our ledger has not shown us, a receipt proves nothing; it comes again once we know the channel.
            if self.channel_id() == Some(receipt.channel()) {
                // In a segment that has begun, it pays for the segment, though its counts are not known yet.
                let late = self.above_what_was_known(&receipt);
                self.note_signed(&receipt);
                if let (Phase::Agreed(_), Some(channel)) = (&self.phase, self.channel) {
                    self.till.fix_base(receipt.channel(), channel.redeemed);
                } else {
                    // It was signed for a segment that has ended, and paid for what was written off.
                    self.trust.handle_late_payment(late);
                    self.written_off = self.written_off.saturating_sub(late);
                }
                self.till.adopt(now, receipt);
            }
            return;
        }
        let (amount, ceiling) = (receipt.amount(), self.purse.ceiling_on(receipt.channel()));
        if amount > ceiling {
            let alarm = Alarm::ReceiptAboveCeiling { amount, ceiling };
            self.events.push_back(Event::Alarm(alarm));
        }
        self.purse.adopt(receipt);
    }

    /// Begins a session after `last`; if there is none after it, the old one goes on.
    fn restart_session(&mut self, now: Instant, last: u64) {
        self.session = last.saturating_add(1);
        self.restart(now);
    }

    /// Ends the segment and begins again with `Resume`.
    fn restart(&mut self, now: Instant) {
        self.write_off();
        self.ended = self.sums();
        self.purse.end_segment();
        self.till.end_segment();
        self.meter.restart();
        self.phase = Phase::Resuming;
        self.outbox = Outbox { resume: true, ..Outbox::default() };
        self.retries = 0;
        self.retry_at = now + RETRY;
        self.terms_came = false;
    }

    fn write_off(&mut self) {
        if self.is_provider()
            && let Some(terms) = self.terms()
        {
            let unpaid = self.earned(&terms).saturating_sub(self.till.paid());
            self.written_off = self.written_off.saturating_add(unpaid);
            self.trust.handle_unpaid(unpaid);
            if unpaid > Tokens::ZERO && self.segment().is_some() {
                self.trust.handle_break();
            }
        }
    }

    /// Provider: adds to the arrears what passed between the agreement and the first reading after it, or between the last
    /// reading and a change of role or price. It is of no segment, so that nobody owes it; but whoever agrees anew after each
    /// reading, or takes itself for something else before it, would have all its traffic there.
    fn give_away(&mut self, terms: &Terms, unbilled: Counts) {
        let allowance = credit::allowance(terms, self.link_loss_ppm);
        let unpaid = credit::earned(terms, unbilled, Answered::default(), Counts::ZERO, allowance);
        self.written_off = self.written_off.saturating_add(unpaid);
        self.trust.handle_unpaid(unpaid);
    }

    fn retry(&mut self, now: Instant) {
        self.retries = self.retries.saturating_add(1);
        let wait = if self.retries < RETRIES { RETRY * (1 << (self.retries / 4).min(2)) } else { TICK };
        self.retry_at = now + wait;
        match self.phase {
            Phase::Resuming if !self.synced() => self.outbox.resume = true,
            Phase::Resuming if self.is_forgotten() => self.restart_session(now, self.session),
            Phase::Resuming => {}
            Phase::Offered(_) => self.outbox.terms = true,
            Phase::Agreed(_) => {}
        }
    }

    /// Payer: the provider knows this session and sends no terms. A lost journal may have made us begin with a session
    /// we had before, so that it believes a segment is running; the next session tells it otherwise.
    fn is_forgotten(&self) -> bool {
        !self.is_provider() && !self.terms_came && self.retries >= RETRIES
    }

    fn synced(&self) -> bool {
        self.their_session != 0 && self.their_echo == self.session
    }

    fn offer(&mut self, now: Instant) {
        let terms = self.draft().sign(&self.account, &self.domain);
        self.phase = Phase::Offered(terms);
        self.outbox.terms = true;
        self.retries = 0;
        self.retry_at = now + RETRY;
    }

    /// Provider: what we ask.
    fn draft(&self) -> Terms {
        let offer = match self.side {
            Side::Provider(offer) => offer,
            Side::Peer | Side::Subscriber(_) => Offer::FREE,
        };
        Terms {
            peers: self.side == Side::Peer,
            provider: self.account.node_id(),
            payer: self.peer,
            price_up: offer.price_up,
            price_down: offer.price_down,
            window: offer.window,
            loss_allowance_ppm: offer.loss_allowance_ppm,
            seq: self.session,
        }
    }

    /// Payer: the provider's terms.
    fn handle_terms(&mut self, now: Instant, message: &TermsMessage) -> Result<(), Rejected> {
        if self.is_provider() {
            // Those for an earlier session, in which we paid, are late.
            let late = message.payer_session != self.session;
            return if late { Ok(()) } else { Err(Misbehaviour::WrongRole(Role::Provider).into()) };
        }
        let terms = *message.terms.terms();
        if message.payer_session != self.session || terms.seq != self.their_session {
            return Ok(());
        }
        self.terms_came = true;
        if !self.synced() {
            // They overtook the Resume that says what we have signed, or that one was lost; both come again.
            return Ok(());
        }
        if let Phase::Agreed(segment) = &self.phase {
            if segment.terms.into_unverified() != message.terms {
                return Err(Misbehaviour::OtherTerms.into());
            }
            self.outbox.counts = true;
            return Ok(());
        }
        self.check_terms(&terms)?;
        let verified = message.terms.verify(&self.domain);
        let terms = verified.map_err(Misbehaviour::ForgedTerms)?;
        self.meter.restart();
        self.agree(terms, self.session);
        self.pay(now);
        self.outbox.counts = true;
        Ok(())
    }

    fn check_terms(&mut self, terms: &Terms) -> Result<(), Rejected> {
        let peers = self.side == Side::Peer;
        let parties = (terms.payer, terms.provider);
        if parties != self.parties() || terms.peers != peers {
            return Err(Misbehaviour::OtherTerms.into());
        }
        let limit = match self.side {
            Side::Subscriber(limits) => limits.max_price,
            Side::Peer | Side::Provider(_) => Price::FREE,
        };
        let asked = terms.price_up.max(terms.price_down);
        if !peers {
            self.asked = Some(asked);
        }
        if asked > limit {
            return Err(Incompatibility::PriceAboveLimit { asked, limit }.into());
        }
        Ok(())
    }

    fn agree(&mut self, terms: SignedTerms, payer_session: u64) {
        self.phase = Phase::Agreed(Segment {
            id: terms.terms().segment(&self.domain, payer_session),
            theirs: Counts::ZERO,
            ours_by_then: Counts::ZERO,
            answered: Answered::default(),
            terms,
        });
        self.events.push_back(Event::TermsAgreed(*terms.terms()));
    }

    /// Provider: whether these counts, the first in a segment, accept the terms offered.
    fn accept(&mut self, now: Instant, id: &Word) {
        if let Phase::Offered(terms) = self.phase
            && terms.terms().segment(&self.domain, self.their_session) == *id
        {
            self.write_off();
            self.meter.restart_late();
            self.agree(terms, self.their_session);
            self.tick_at = self.tick_at.min(now + FIRST_TICK);
        }
    }
}

/// Counts and receipts.
impl Exchange {
    fn handle_meter_report(&mut self, now: Instant, report: &MeterReport) -> Result<(), Rejected> {
        self.accept(now, &report.segment);
        if self.segment_is(&report.segment) {
            self.note_counts(report.counts)?;
            if !self.is_provider() {
                self.pay(now);
                self.outbox.counts = true;
            }
        }
        Ok(())
    }

    /// Takes the neighbour's counts; older ones than those known came late and are ignored.
    fn note_counts(&mut self, counts: Counts) -> Result<(), Rejected> {
        let Phase::Agreed(segment) = &mut self.phase else {
            return Ok(());
        };
        if segment.theirs.within(counts) {
            segment.theirs = counts;
            segment.ours_by_then = self.meter.counts();
        } else if !counts.within(segment.theirs) {
            return Err(Misbehaviour::CountsWentBack.into());
        }
        Ok(())
    }

    fn note_answered(&mut self, sent: Bytes) {
        if let Phase::Agreed(segment) = &mut self.phase {
            let allowance = credit::allowance(segment.terms.terms(), self.link_loss_ppm);
            segment.answered.note(sent, allowance);
        }
    }

    /// Payee: takes a receipt. Everything cheap is checked before the signature.
    fn handle_receipt(&mut self, now: Instant, message: ReceiptMessage) -> Result<(), Rejected> {
        if !self.is_provider() {
            // One of an earlier segment, in which we were paid, is late.
            let late = !self.segment_is(&message.segment);
            return if late { Ok(()) } else { Err(Misbehaviour::WrongRole(Role::Subscriber).into()) };
        }
        self.accept(now, &message.segment);
        if !self.segment_is(&message.segment) {
            return Ok(());
        }
        let receipt = message.receipt;
        if !self.is_on_our_channel(now, receipt.channel())? || self.is_beyond_the_close(&receipt) {
            return Ok(());
        }
        let hash = meter_hash(&message.segment, message.provider, message.payer);
        if hash != receipt.meter() {
            return Err(Misbehaviour::MeterMismatch.into());
        }
        if !message.provider.within(self.till.reported) {
            return Err(Misbehaviour::CountsNeverReported.into());
        }
        if receipt.amount() > self.till.best_on(receipt.channel()) || self.is_underrated(&message) {
            self.adopt_receipt(now, &message)?;
        }
        self.note_counts(message.payer)?;
        self.note_answered(message.provider.sent);
        self.till.signed_for = message.provider;
        self.notice_exhaustion(now);
        Ok(())
    }

    /// Payee: takes an offer to end the channel.
    fn handle_offer_to_close(&mut self, now: Instant, close: &Close<Unverified>) -> Result<(), Rejected> {
        let (channel, total) = (close.channel(), close.total());
        if !self.is_provider() {
            // One of when the neighbour paid us is late.
            let late = (channel.payer, channel.payee) == (self.peer, self.account.node_id());
            return if late { Ok(()) } else { Err(Misbehaviour::WrongRole(Role::Subscriber).into()) };
        }
        let Some(known) = self.channel.filter(|known| !self.is_taken(known.nonce)) else { return Ok(()) };
        if !self.is_on_our_channel(now, channel)? {
            return Ok(());
        }
        let held = self.till.best_on(channel).max(known.redeemed);
        if total < held {
            return Err(Misbehaviour::CloseTooLow { total, held }.into());
        }
        if total > known.deposit {
            let (amount, deposit) = (total, known.deposit);
            return Err(Misbehaviour::AboveDeposit { amount, deposit }.into());
        }
        let close = close.verify(&self.domain).map_err(Misbehaviour::ForgedClose)?;
        self.close_taken = Some((channel.nonce, total));
        self.events.push_back(Event::CloseOffered(close));
        Ok(())
    }

    /// Whether a receipt's channel is the one known. One we have not heard of is looked up; its receipt comes again.
    fn is_on_our_channel(&mut self, now: Instant, channel: ChannelId) -> Result<bool, Rejected> {
        let known = self.channel.map(|known| known.nonce);
        if (channel.payer, channel.payee) != self.parties() || known > Some(channel.nonce) {
            return Err(Misbehaviour::OtherChannel.into());
        }
        if known < Some(channel.nonce) {
            self.request_look_up(now, channel);
        }
        Ok(known == Some(channel.nonce))
    }

    fn is_underrated(&self, message: &ReceiptMessage) -> bool {
        let charge = self.segment().and_then(|segment| charge(segment.terms.terms(), message.provider, message.payer));
        let (channel, amount) = (message.receipt.channel(), message.receipt.amount());
        charge.is_some_and(|charge| self.till.is_underrated(channel, amount, charge))
    }

    fn adopt_receipt(&mut self, now: Instant, message: &ReceiptMessage) -> Result<(), Rejected> {
        let (Some(channel), Phase::Agreed(segment)) = (self.channel, &self.phase) else {
            return Ok(());
        };
        let terms = segment.terms;
        if let Err(above) = self.check_deposit(&message.receipt) {
            self.request_look_up(now, message.receipt.channel());
            return Err(above);
        }
        let verified = message.receipt.verify(&self.domain);
        let receipt = verified.map_err(Misbehaviour::ForgedReceipt)?;
        let charge = charge(terms.terms(), message.provider, message.payer);
        let charge = charge.unwrap_or(Tokens::MAX);
        self.receipts_verified = self.receipts_verified.saturating_add(1);
        let before = self.till.paid();
        let is_first = self.till.best_on(receipt.channel()) == Tokens::ZERO;
        self.note_signed(&receipt);
        self.till.adopt_payment(now, receipt, channel.redeemed, charge);
        let paid = self.till.paid().saturating_sub(before);
        if is_first {
            self.signed = self.signed.saturating_add(paid);
        }
        self.trust.handle_payment(paid);
        Ok(())
    }

    /// Payee: refuses a receipt above what our ledger says is locked. A payer knows better what it signed.
    fn check_deposit<S>(&self, receipt: &Receipt<S>) -> Result<(), Rejected> {
        let amount = receipt.amount();
        match self.channel {
            Some(channel) if self.is_provider() && amount > channel.deposit => {
                let deposit = channel.deposit;
                Err(Misbehaviour::AboveDeposit { amount, deposit }.into())
            }
            _ => Ok(()),
        }
    }

    /// Payer: asks for what will be needed, signs what is owed and sends it.
    fn pay(&mut self, now: Instant) {
        let (false, Phase::Agreed(segment)) = (self.is_provider(), &self.phase) else {
            return;
        };
        let terms = *segment.terms.terms();
        if terms.is_free() || self.closing.is_some() {
            return;
        }
        let claim = Claim { terms: &terms, segment: segment.id, provider: segment.theirs, payer: self.meter.counts() };
        let Some((channel, id)) = self.channel.zip(self.channel_id()) else {
            let owed = charge(&terms, claim.provider, claim.payer).unwrap_or(Tokens::MAX);
            if !self.opens_late || owed > Tokens::ZERO {
                self.need_channel(now, &terms, Tokens::ZERO);
            }
            return;
        };
        let Some(owed) = self.purse.owed(id, channel.redeemed, &claim) else {
            return;
        };
        if channel.closing && self.opens_late && self.owed_by_us() == Tokens::ZERO {
            return;
        }
        let reserve = self.purse.reserve(id, channel.deposit, &terms, owed);
        self.events.extend(reserve);
        self.need_channel(now, &terms, owed);
        let new = self.purse.sign(&self.account, &self.domain, id, channel.deposit, owed, &claim);
        self.receipts_signed = self.receipts_signed.saturating_add(new.into());
        self.outbox.counts |= new;
        if new {
            self.repeats = REPEATS;
        }
    }

    fn need_channel(&mut self, now: Instant, terms: &Terms, owed: Tokens) {
        let channel = self.channel.as_ref();
        if let Some(at_least) = self.purse.need_channel(now, terms, channel, owed) {
            let payee = self.peer;
            self.events.push_back(Event::NeedChannel { payee, at_least });
        }
    }

    fn tick(&mut self, now: Instant) {
        self.look_up(now);
        self.pay(now);
        self.repeat();
        self.outbox.close |= self.closing.is_some();
        self.outbox.resume |=
            self.synced() && !self.is_free() && self.channel.is_some() && self.note() != self.their_channel;
        let Some(terms) = self.terms() else { return };
        self.trust.tick(&terms);
        let counted = self.meter.counts() != self.till.reported;
        if counted || self.earned(&terms) > self.till.paid() {
            self.report(now);
        }
    }

    /// Payer: says once more what it signed last, when nothing was said since the last tick: the provider may think that nothing
    /// is owed, and not ask.
    fn repeat(&mut self) {
        let spoke = std::mem::take(&mut self.spoke);
        if self.is_provider() || spoke || self.purse.latest.is_none() {
            return;
        }
        if let Some(left) = self.repeats.checked_sub(1) {
            self.repeats = left;
            self.outbox.counts = true;
        }
    }

    /// Provider: reports the latest counts.
    fn report(&mut self, now: Instant) {
        let (true, Phase::Agreed(segment)) = (self.is_provider(), &self.phase) else {
            return;
        };
        let earned = self.earned(segment.terms.terms());
        self.till.reported = self.meter.counts();
        self.till.reported_at = Some(now);
        self.till.reported_earned = earned;
        self.outbox.counts = true;
    }

    /// An eighth of the window is unpaid, and either a sixteenth more was earned since the last report or that one
    /// remained unanswered.
    fn report_is_urgent(&self, now: Instant) -> bool {
        let Some(terms) = self.terms() else { return false };
        let since = self.earned(&terms).saturating_sub(self.till.reported_earned);
        let sixteenth = self.window(&terms).get() / 16;
        let more = since.get() > sixteenth;
        self.much_is_unpaid() && (more || self.urgent_at().is_none_or(|at| at <= now))
    }

    fn much_is_unpaid(&self) -> bool {
        let (true, Phase::Agreed(segment)) = (self.is_provider(), &self.phase) else {
            return false;
        };
        let terms = segment.terms.terms();
        let unpaid = self.earned(terms).saturating_sub(self.till.paid());
        let eighth = self.window(terms).get() / 8;
        !terms.is_free() && unpaid.get() > eighth
    }

    fn urgent_at(&self) -> Option<Instant> {
        self.till.reported_at.map(|at| at + URGENT)
    }

    fn hold(&mut self, now: Instant) {
        self.flush_until = self.flush_until.filter(|until| now < *until);
        let flush = self.flush_until.is_some();
        if let Some(terms) = self.terms().filter(|_| self.is_provider()) {
            let receipt = self.till.hold(now, terms.window_value(), flush);
            self.events.extend(receipt.map(Event::Hold));
        }
    }

    fn notice_exhaustion(&mut self, now: Instant) {
        let Credit::Exhausted { unpaid, window } = self.credit() else {
            (self.exhausted_since, self.exhaustion_told) = (None, false);
            return;
        };
        let since = *self.exhausted_since.get_or_insert(now);
        if !self.exhaustion_told && now >= since + TICK {
            self.exhaustion_told = true;
            let alarm = Alarm::Exhausted { unpaid, window };
            self.events.push_back(Event::Alarm(alarm));
        }
    }

    fn look_up(&mut self, now: Instant) {
        let known = self.channel.map(|known| (known.nonce, known.deposit));
        if let Some(note) = self.their_channel
            && Some((note.nonce, note.deposit)) > known
        {
            self.request_look_up(now, self.channel_with(note.nonce));
        }
    }

    fn request_look_up(&mut self, now: Instant, channel: ChannelId) {
        if self.looked_up_at.is_some_and(|at| now < at + LOOK_UP_INTERVAL) || !self.may_turn_to(now, channel.nonce) {
            return;
        }
        self.looked_up_at = Some(now);
        self.events.push_back(Event::LookUpChannel(channel));
    }

    /// Whether the neighbour may make another channel of interest: each wears the flash.
    fn may_turn_to(&mut self, now: Instant, nonce: u64) -> bool {
        if nonce <= self.turned_to {
            return true;
        }
        if !self.turns.take(now) {
            return false;
        }
        self.turned_to = nonce;
        true
    }
}

/// What is sent.
impl Exchange {
    fn resume(&self) -> Message {
        let receipt = if self.is_provider() { self.till.best().copied() } else { self.purse.signed };
        Message::Resume(Resume {
            role: self.side.role(),
            session: self.session,
            echo: self.their_session,
            ask: !self.synced(),
            channel: self.note(),
            receipt: receipt.map(Receipt::into_unverified),
        })
    }

    fn offer_to_close(&self) -> Option<Message> {
        let (id, channel) = self.closing.zip(self.channel)?;
        // As much as is known to be signed at this moment: a payee that restarted may just have reminded us.
        let total = self.purse.signed_on(id).max(channel.redeemed);
        Some(Message::Close(Close::sign(&self.account, &self.domain, id, total).into_unverified()))
    }

    fn terms_message(&self) -> Option<Message> {
        match &self.phase {
            Phase::Offered(terms) => {
                Some(Message::Terms(TermsMessage { payer_session: self.their_session, terms: terms.into_unverified() }))
            }
            Phase::Resuming | Phase::Agreed(_) => None,
        }
    }

    fn counts_message(&self) -> Option<Message> {
        let segment = self.segment()?;
        if let Some(receipt) = &self.purse.latest {
            return Some(Message::Receipt(receipt.clone()));
        }
        let counts = if self.is_provider() { self.till.reported } else { self.meter.counts() };
        Some(Message::MeterReport(MeterReport { segment: segment.id, counts }))
    }
}

/// What is known.
impl Exchange {
    /// Whether we sign the terms. Between peers, who have nothing to pay, the lower id does.
    fn is_provider(&self) -> bool {
        match self.side {
            Side::Provider(_) => true,
            Side::Subscriber(_) => false,
            Side::Peer => self.account.node_id() < self.peer,
        }
    }

    /// The payer and the payee.
    fn parties(&self) -> (NodeId, NodeId) {
        if self.is_provider() { (self.peer, self.account.node_id()) } else { (self.account.node_id(), self.peer) }
    }

    /// Whether it is a channel from the payer to the payee on this link. A write may be done with one of others, who had the link
    /// before, or of the time when the roles were the other way round: the journal knows it, and it is of no use here.
    fn is_between_us(&self, channel: ChannelId) -> bool {
        (channel.payer, channel.payee) == self.parties()
    }

    fn channel_with(&self, nonce: u64) -> ChannelId {
        let (payer, payee) = self.parties();
        ChannelId { payer, payee, nonce }
    }

    fn channel_id(&self) -> Option<ChannelId> {
        self.channel.map(|channel| self.channel_with(channel.nonce))
    }

    fn note(&self) -> Option<ChannelNote> {
        self.channel.map(|channel| ChannelNote { nonce: channel.nonce, deposit: channel.deposit })
    }

    const fn segment(&self) -> Option<&Segment> {
        match &self.phase {
            Phase::Agreed(segment) => Some(segment),
            Phase::Resuming | Phase::Offered(_) => None,
        }
    }

    fn segment_is(&self, id: &Word) -> bool {
        self.segment().is_some_and(|segment| segment.id == *id)
    }

    /// The terms agreed on, or those a provider asks.
    fn terms(&self) -> Option<Terms> {
        match &self.phase {
            Phase::Agreed(segment) => Some(*segment.terms.terms()),
            Phase::Resuming | Phase::Offered(_) => self.is_provider().then(|| self.draft()),
        }
    }

    fn is_free(&self) -> bool {
        self.terms().is_some_and(|terms| terms.is_free())
    }

    fn earned(&self, terms: &Terms) -> Tokens {
        let segment = self.segment();
        let theirs = segment.map_or(Counts::ZERO, |segment| segment.theirs);
        let answered = segment.map_or(Answered::default(), |segment| segment.answered);
        let allowance = credit::allowance(terms, self.link_loss_ppm);
        credit::earned(terms, self.meter.counts(), answered, theirs, allowance)
    }

    /// Payee: what may be unpaid at present.
    fn window(&self, terms: &Terms) -> Tokens {
        self.trust.window(terms, self.security(), self.segment().is_some())
    }

    fn sums(&self) -> Sums {
        let Some(segment) = self.segment() else { return Sums { earned: self.signed, ..self.ended } };
        let add = |a: Counts, b: Counts| Counts {
            sent: a.sent.saturating_add(b.sent),
            received: a.received.saturating_add(b.received),
        };
        let spending = if self.is_provider() { Tokens::ZERO } else { self.purse.paid() };
        Sums {
            segments: self.ended.segments.saturating_add(1),
            ours: add(self.ended.ours, segment.ours_by_then),
            theirs: add(self.ended.theirs, segment.theirs),
            earned: self.signed,
            spent: self.ended.spent.saturating_add(spending),
        }
    }

    fn at_risk(&self, terms: &Terms) -> AtRisk {
        AtRisk {
            unpaid: self.trust.most(terms, self.security()),
            unwritten: unwritten_most(terms),
            each_day: credit::lost_each_day(terms),
        }
    }

    fn standing(&self) -> Standing {
        let unpaid = self.terms().filter(|_| self.is_provider());
        let unpaid = unpaid.map_or(Tokens::ZERO, |terms| self.earned(&terms).saturating_sub(self.till.paid()));
        let signed = self.channel_id().map_or(Tokens::ZERO, |channel| self.till.best_on(channel));
        self.trust.standing(self.channel.map_or(0, |channel| channel.nonce), signed, unpaid)
    }

    /// Whether an offer to close the channel was passed on to the ledger.
    fn is_taken(&self, nonce: u64) -> bool {
        self.close_taken.is_some_and(|(taken, _)| taken == nonce)
    }

    /// Whether a receipt is above what an offer to close leaves us.
    fn is_beyond_the_close<S>(&self, receipt: &Receipt<S>) -> bool {
        self.close_taken.is_some_and(|(nonce, total)| nonce == receipt.channel().nonce && receipt.amount() > total)
    }

    fn security(&self) -> Security {
        match self.channel {
            None => Security::Unknown,
            Some(channel) if channel.closing || self.is_taken(channel.nonce) => Security::Closing,
            Some(channel) => {
                let signed = self.till.best_on(self.channel_with(channel.nonce));
                Security::Locked(channel.deposit.saturating_sub(signed.max(channel.redeemed)))
            }
        }
    }

    /// Payer: nothing is owed, and the provider has reported all that we counted.
    fn is_settled(&self) -> bool {
        let reported = self.segment().is_none_or(|segment| segment.ours_by_then == self.meter.counts());
        !self.is_provider() && reported && self.owed_by_us() == Tokens::ZERO
    }

    /// Payer: what both counts say was delivered in this segment, less what is signed for it.
    fn owed_by_us(&self) -> Tokens {
        let (false, Some(segment)) = (self.is_provider(), self.segment()) else {
            return Tokens::ZERO;
        };
        let charge = charge(segment.terms.terms(), segment.theirs, self.meter.counts());
        charge.map_or(Tokens::MAX, |charge| charge.saturating_sub(self.purse.paid()))
    }
}

/// What receipts may be worth that the journal does not have yet.
fn unwritten_most(terms: &Terms) -> Tokens {
    Tokens::new(terms.window_value().get().saturating_mul(UNWRITTEN_WINDOWS)).unwrap_or(Tokens::MAX)
}

impl Snapshot {
    /// The most that can be lost at once with a payer that pays no more, and by a power cut.
    #[must_use]
    pub fn at_risk_in_all(&self) -> Tokens {
        self.at_risk.unpaid.saturating_add(self.at_risk.unwritten)
    }

    /// The worst case, as a sentence, in whole tokens of a token with `decimals` decimals.
    #[must_use]
    pub fn worst_case(&self, decimals: u8, symbol: &str) -> String {
        if self.at_risk == AtRisk::default() {
            return "with this neighbour you can lose nothing you have carried or paid for".to_owned();
        }
        let [unpaid, unwritten, each_day, window] =
            [self.at_risk.unpaid, self.at_risk.unwritten, self.at_risk.each_day, self.window]
                .map(|amount| amount.display(decimals).to_string());
        format!(
            "with this neighbour you can lose at most {unpaid} {symbol} carried on trust ({window} at once), \
             {unwritten} of receipts not yet written if the power fails, and {each_day} a day after that"
        )
    }
}

#[cfg(test)]
mod tests;
