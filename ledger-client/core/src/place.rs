//! Where each record of a ledger has its place, and what stands there: the form in which records are hashed and proven.
//!
//! A place is a byte for the kind and what the record is about; a value has one encoding. [`crate::fact`]s have theirs already,
//! and here accounts, channels and the totals get them. [`touched`] says of an event which places it may have changed, so that
//! whoever keeps a hash of all records can follow the log, however long after.

use metering::{ChannelId, NodeId, Tokens};

use crate::fact::{Fact, Fields, Reader, kind};
use crate::membership::{Enrolment, Membership};
use crate::name::{NameListing, OwnName};
use crate::registry::Listing;
use crate::role::Held;
use crate::share::{Holding, Pool};
use crate::signer::{ChannelSigner, Signer};
use crate::voucher::Voucher;
use crate::{Channel, Entry, Event, Phase, Records, Totals, UnixTime};

/// What an account holds, and how many orders it has made. One that has neither has no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Funds {
    /// What it holds, besides what is locked.
    pub balance: Tokens,
    /// The number of its newest order.
    pub sequence: u64,
}

impl Fact for Funds {
    type Key = NodeId;

    fn place(account: &NodeId) -> Vec<u8> {
        Fields::of(kind::FUNDS).account(*account).finish()
    }

    fn encode(&self) -> Vec<u8> {
        Fields::default().tokens(self.balance).number(self.sequence).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let funds = Self { balance: from.tokens()?, sequence: from.number()? };
        from.end(funds)
    }
}

impl Fact for Channel {
    type Key = ChannelId;

    fn place(channel: &ChannelId) -> Vec<u8> {
        let ChannelId { payer, payee, nonce } = *channel;
        Fields::of(kind::CHANNEL).account(payer).account(payee).number(nonce).finish()
    }

    fn encode(&self) -> Vec<u8> {
        let (phase, exit) = match self.phase {
            Phase::Open => (0, UnixTime::default()),
            Phase::Closing { exit } => (1, exit),
            Phase::Closed => (2, UnixTime::default()),
        };
        Fields::default().tokens(self.deposit).tokens(self.redeemed).byte(phase).number(exit.seconds()).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let (deposit, redeemed) = (from.tokens()?, from.tokens()?);
        let phase = match (from.byte()?, from.time()?) {
            (0, exit) if exit == UnixTime::default() => Phase::Open,
            (1, exit) => Phase::Closing { exit },
            (2, exit) if exit == UnixTime::default() => Phase::Closed,
            _ => return None,
        };
        from.end(Self { deposit, redeemed, phase })
    }
}

/// The ledger's time and where all tokens are. There is one, under no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overall {
    /// When the newest entry happened.
    pub time: UnixTime,
    /// Where all tokens are.
    pub totals: Totals,
}

impl Fact for Overall {
    type Key = ();

    fn place((): &()) -> Vec<u8> {
        Fields::of(kind::OVERALL).finish()
    }

    fn encode(&self) -> Vec<u8> {
        let Totals { minted, burned, held, locked } = self.totals;
        let time = Fields::default().number(self.time.seconds());
        time.tokens(minted).tokens(burned).tokens(held).tokens(locked).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let time = from.time()?;
        let totals =
            Totals { minted: from.tokens()?, burned: from.tokens()?, held: from.tokens()?, locked: from.tokens()? };
        from.end(Self { time, totals })
    }
}

/// What stands at a place; nothing, where there is no record or no such place.
///
/// # Errors
/// Where the records cannot be reached.
pub fn value<R: Records>(records: &R, place: &[u8]) -> Result<Option<Vec<u8>>, R::Error> {
    let mut about = Reader(place);
    match about.byte() {
        Some(kind::FUNDS) => {
            let Some(account) = about.account().and_then(|account| about.end(account)) else { return Ok(None) };
            let funds = Funds { balance: records.balance(account)?, sequence: records.sequence(account)? };
            Ok((funds != Funds::default()).then(|| funds.encode()))
        }
        Some(kind::CHANNEL) => {
            let Some(channel) = channel(about) else { return Ok(None) };
            Ok(records.channel(channel)?.map(|found| found.encode()))
        }
        Some(kind::OVERALL) if about.0.is_empty() => {
            Ok(Some(Overall { time: records.time(), totals: records.totals() }.encode()))
        }
        _ => records.fact(place),
    }
}

fn channel(mut about: Reader<'_>) -> Option<ChannelId> {
    let channel = ChannelId { payer: about.account()?, payee: about.account()?, nonce: about.number()? };
    about.end(channel)
}

/// The places that an entry may have changed: each that it has, and perhaps some that it has not.
#[must_use]
pub fn touched(entry: &Entry) -> Vec<Vec<u8>> {
    let mut places = vec![Overall::place(&())];
    // Whoever ordered something has a sequence more.
    places.extend(entry.order().map(|order| Funds::place(&order.account())));
    places.extend(changed(&entry.event));
    places
}

/// Those that the event itself changes: see `rules/book.rs`.
fn changed(event: &Event) -> Vec<Vec<u8>> {
    let funds = |account: NodeId| Funds::place(&account);
    // Who has issued shares does not earn itself.
    let earns = |payee: NodeId| [funds(payee), Pool::place(&payee)];
    match event {
        Event::Founded(_) | Event::Attested { .. } | Event::Skipped { .. } => Vec::new(),
        Event::Minted { to, .. } => vec![funds(*to)],
        Event::Burned { by, .. } => vec![funds(*by)],
        Event::Transferred { from, to, .. } => vec![funds(*from), funds(*to)],
        Event::ChannelOpened { channel, .. } => {
            vec![funds(channel.payer), Channel::place(channel), ChannelSigner::place(channel)]
        }
        Event::ToppedUp { channel, .. } | Event::Finalized { channel, .. } => {
            vec![funds(channel.payer), Channel::place(channel)]
        }
        Event::CloseStarted { channel, .. } => vec![Channel::place(channel)],
        Event::Redeemed { receipt, .. } => {
            let channel = receipt.channel();
            [vec![Channel::place(&channel)], earns(channel.payee).to_vec()].concat()
        }
        Event::MutuallyClosed { close, .. } => {
            let channel = close.channel();
            [vec![Channel::place(&channel), funds(channel.payer)], earns(channel.payee).to_vec()].concat()
        }
        Event::VoucherIssued { by, voucher, .. } | Event::VoucherReclaimed { by, voucher, .. } => {
            vec![funds(*by), Voucher::place(&(*by, *voucher))]
        }
        Event::VoucherRedeemed { claim, .. } => {
            vec![funds(claim.to()), Voucher::place(&(claim.issuer(), claim.voucher()))]
        }
        Event::SharesIssued { router, .. } => vec![Pool::place(router), Holding::place(&(*router, *router))],
        Event::SharesTransferred { router, from, to, .. } => {
            vec![Holding::place(&(*router, *from)), Holding::place(&(*router, *to))]
        }
        Event::RevenueClaimed { router, by, .. } => vec![Holding::place(&(*router, *by)), funds(*by)],
        Event::Appointed { role, to: account, .. } | Event::Dismissed { role, from: account, .. } => {
            vec![Held::place(&(*role, *account))]
        }
        Event::MembershipIssued { to, .. } => vec![Membership::place(to)],
        Event::MembershipRevoked { of, .. } => vec![Membership::place(of), Listing::place(of)],
        Event::EnrolmentOffered { by: issuer, enrolment, .. } | Event::EnrolmentWithdrawn { issuer, enrolment, .. } => {
            vec![Enrolment::place(&(*issuer, *enrolment))]
        }
        Event::Enrolled { account, issuer, enrolment, .. } => {
            vec![Enrolment::place(&(*issuer, *enrolment)), Membership::place(account)]
        }
        Event::Registered { account, .. } | Event::Unregistered { account } => vec![Listing::place(account)],
        Event::NameClaimed { account, name, before, .. } => {
            let accounts = before.iter().chain([account]).map(OwnName::place);
            accounts.chain([NameListing::place(name)]).collect()
        }
        Event::NameReleased { account, name, .. } => vec![NameListing::place(name), OwnName::place(account)],
        Event::SignerChanged { account, .. } => vec![Signer::place(account)],
    }
}
