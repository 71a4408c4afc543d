//! A whole ledger in memory: what an auditor rebuilds from the log, and what the rules are tested on.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use metering::{ChannelId, NodeId, Tokens};
use thiserror::Error;

use crate::fact::Fact;
use crate::place::{Funds, Overall};
use crate::record_tree::{Leaf, root_of};
use crate::records::NotConserved;
use crate::rules::{ExecuteError, execute_presented, perform};
use crate::{
    Channel, Entry, EntryError, Event, Genesis, Hash, Head, Logged, Presented, Records, Refusal, Request, Totals, Tree,
    UnixTime, merkle, place,
};

/// All accounts and channels of a ledger, and the head of its log.
///
/// [`State::found`] begins one; [`State::execute`] makes things happen; [`State::replay`] checks that what a log says
/// happened by the rules.
#[derive(Clone, Debug)]
pub struct State {
    genesis: Genesis,
    time: UnixTime,
    totals: Totals,
    balances: BTreeMap<NodeId, Tokens>,
    sequences: BTreeMap<NodeId, u64>,
    channels: BTreeMap<ChannelId, Channel>,
    facts: BTreeMap<Vec<u8>, Vec<u8>>,
    tree: Tree,
    /// The log's root at every size it had, from 0: 32 bytes an entry.
    roots: Vec<Hash>,
    /// What orders made, for those who ask again. An auditor, who only replays, answers nobody and keeps none.
    made: BTreeMap<(NodeId, u64), Entry>,
}

/// Why a log cannot be what happened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// An entry does not read.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The log does not begin with a founding, or has a second one.
    #[error("a log has one founding, at its beginning")]
    Founding,
    /// The rules forbid it.
    #[error("the rules forbid it ({}): {refusal}", refusal.rule())]
    Refused {
        /// Which.
        refusal: Refusal,
    },
    /// The rules give another outcome.
    #[error("by the rules it would be {expected:?}")]
    Differs {
        /// What it should say.
        expected: Box<Entry>,
    },
    /// The rules have written something that they cannot read.
    #[error("a record does not read")]
    Unreadable,
    /// The rules themselves made or lost tokens.
    #[error(transparent)]
    NotConserved(#[from] NotConserved),
}

impl State {
    /// A ledger with its founding as the only entry.
    #[must_use]
    pub fn found(genesis: Genesis) -> Self {
        let mut state = Self {
            time: genesis.founded(),
            totals: Totals::default(),
            balances: BTreeMap::new(),
            sequences: BTreeMap::new(),
            channels: BTreeMap::new(),
            facts: BTreeMap::new(),
            tree: Tree::default(),
            roots: vec![Tree::default().head().root],
            made: BTreeMap::new(),
            genesis,
        };
        state.grow(&founding(&state.genesis));
        state
    }

    fn grow(&mut self, entry: &Entry) {
        self.tree.append(merkle::leaf_hash(&entry.encode()));
        self.roots.push(self.tree.head().root);
    }

    /// The ledger that begins with this encoded entry.
    ///
    /// # Errors
    /// [`ReplayError`], where it is no founding.
    pub fn replay_founding(entry: &[u8]) -> Result<Self, ReplayError> {
        let entry = Entry::decode(entry)?;
        let Event::Founded(genesis) = &entry.event else {
            return Err(ReplayError::Founding);
        };
        if entry == founding(genesis) { Ok(Self::found(genesis.clone())) } else { Err(ReplayError::Founding) }
    }

    /// Checks that the next encoded entry of the log is what the rules make of it, lets it happen, and returns it.
    ///
    /// # Errors
    /// [`ReplayError`]; the state is not to be used further.
    pub fn replay(&mut self, entry: &[u8]) -> Result<Entry, ReplayError> {
        let logged = Logged::read(&self.genesis.domain(), entry)?;
        self.replay_logged(&logged)?;
        Ok(logged.into_entry())
    }

    /// The same, for an entry whose signatures were looked at before, for whichever ledger.
    ///
    /// # Errors
    /// [`ReplayError`]; the state is not to be used further.
    pub fn replay_logged(&mut self, logged: &Logged) -> Result<(), ReplayError> {
        let entry = logged.entry();
        let expected = perform(self, entry.at, logged.presented()).map_err(|error| match error {
            ExecuteError::Refused(refusal) => ReplayError::Refused { refusal },
            ExecuteError::NotConserved(error) => error.into(),
            ExecuteError::Unreadable => ReplayError::Unreadable,
            ExecuteError::Records(never) => match never {},
        })?;
        if expected == *entry { Ok(()) } else { Err(ReplayError::Differs { expected: Box::new(expected) }) }
    }

    /// Answers one request, as [`crate::execute`] does.
    ///
    /// # Errors
    /// [`ExecuteError`]
    pub fn execute(&mut self, now: UnixTime, request: &Request) -> Result<Entry, ExecuteError<Infallible>> {
        self.execute_presented(now, &Presented::recover(&self.genesis.domain(), *request))
    }

    /// The same, for a request whose signatures were looked at before.
    ///
    /// # Errors
    /// [`ExecuteError`]
    pub fn execute_presented(
        &mut self,
        now: UnixTime,
        presented: &Presented,
    ) -> Result<Entry, ExecuteError<Infallible>> {
        let entry = execute_presented(self, now, presented)?;
        if let Some(order) = entry.order() {
            self.made.insert((order.account(), order.seal().sequence), entry.clone());
        }
        Ok(entry)
    }

    /// Size and root of the log.
    #[must_use]
    pub fn head(&self) -> Head {
        self.tree.head()
    }

    /// All accounts that ever held something, in order.
    #[must_use]
    pub const fn balances(&self) -> &BTreeMap<NodeId, Tokens> {
        &self.balances
    }

    /// All else that is kept, in order: what [`crate::fact::Fact`] encodes.
    #[must_use]
    pub const fn facts(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.facts
    }

    /// The hash of all records ([`crate::record_tree`]), made anew.
    #[must_use]
    pub fn record_root(&self) -> Hash {
        let funds = self.balances.keys().chain(self.sequences.keys()).map(Funds::place);
        let channels = self.channels.keys().map(Channel::place);
        let places: BTreeSet<_> =
            funds.chain(channels).chain(self.facts.keys().cloned()).chain([Overall::place(&())]).collect();
        let leaf = |place: &Vec<u8>| {
            let Ok(value) = place::value(self, place);
            value.map(|value| Leaf::of(place, &value))
        };
        root_of(&places.iter().filter_map(leaf).collect::<Vec<_>>()).hash()
    }

    /// All channels that were ever opened, in order.
    #[must_use]
    pub const fn channels(&self) -> &BTreeMap<ChannelId, Channel> {
        &self.channels
    }
}

/// Entry 0 of a ledger.
#[must_use]
pub fn founding(genesis: &Genesis) -> Entry {
    Entry { at: genesis.founded(), event: Event::Founded(genesis.clone()), seal: None }
}

impl Records for State {
    type Error = Infallible;

    fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    fn time(&self) -> UnixTime {
        self.time
    }

    fn totals(&self) -> Totals {
        self.totals
    }

    fn balance(&self, account: NodeId) -> Result<Tokens, Infallible> {
        Ok(self.balances.get(&account).copied().unwrap_or_default())
    }

    fn sequence(&self, account: NodeId) -> Result<u64, Infallible> {
        Ok(self.sequences.get(&account).copied().unwrap_or_default())
    }

    fn ordered(&self, account: NodeId, sequence: u64) -> Result<Option<Entry>, Infallible> {
        Ok(self.made.get(&(account, sequence)).cloned())
    }

    fn fact(&self, place: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.facts.get(place).cloned())
    }

    fn channel(&self, id: ChannelId) -> Result<Option<Channel>, Infallible> {
        Ok(self.channels.get(&id).copied())
    }

    fn latest_nonce(&self, payer: NodeId, payee: NodeId) -> Result<Option<u64>, Infallible> {
        let [first, last] = [0, u64::MAX].map(|nonce| ChannelId { payer, payee, nonce });
        Ok(self.channels.range(first..=last).next_back().map(|(id, _)| id.nonce))
    }

    fn root_at(&self, size: u64) -> Result<Option<Hash>, Infallible> {
        Ok(usize::try_from(size).ok().and_then(|size| self.roots.get(size)).copied())
    }

    fn set_totals(&mut self, totals: Totals) {
        self.totals = totals;
    }

    fn set_balance(&mut self, account: NodeId, balance: Tokens) -> Result<(), Infallible> {
        self.balances.insert(account, balance);
        Ok(())
    }

    fn set_fact(&mut self, place: &[u8], value: &[u8]) -> Result<(), Infallible> {
        self.facts.insert(place.to_vec(), value.to_vec());
        Ok(())
    }

    fn set_channel(&mut self, id: ChannelId, channel: Channel) -> Result<(), Infallible> {
        self.channels.insert(id, channel);
        Ok(())
    }

    fn append(&mut self, entry: &Entry) -> Result<(), Infallible> {
        self.time = entry.at;
        if let Some(order) = entry.order() {
            self.sequences.insert(order.account(), order.seal().sequence);
        }
        self.grow(entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use metering::{AccountKey, Close, LedgerDomain, Price, Receipt, Signature};
    use proptest::prelude::*;

    use super::*;
    use crate::fact::Fact;
    use crate::membership;
    use crate::name::{self, Name, OwnName};
    use crate::place::touched;
    use crate::record_tree::tests::Kept;
    use crate::record_tree::{Subtree, leaves, update};
    use crate::registry::{Registration, Station};
    use crate::role::Role;
    use crate::signer::{Signer, consent};
    use crate::voucher::Claim;
    use crate::{Command, MAX_SUPPLY, Order, Phase, Seal};

    const NOTICE_S: u32 = 50;

    /// Anything at all that may be asked, in small numbers so that it often fits. Account 0 is the treasurer.
    #[derive(Clone, Debug)]
    enum Ask {
        Mint { by: usize, to: usize, amount: u64 },
        Transfer { from: usize, to: usize, amount: u64 },
        Open { payer: usize, payee: usize, deposit: u64 },
        TopUp { channel: usize, amount: u64 },
        Redeem { channel: usize, total: u64, forged: bool },
        StartClose { channel: usize },
        Finalize { channel: usize },
        MutualClose { channel: usize, total: u64 },
        Burn { by: usize, amount: u64 },
        IssueVoucher { by: usize, secret: usize, amount: u64, until: u64 },
        RedeemVoucher { issuer: usize, secret: usize, to: usize, forged: bool },
        ReclaimVoucher { by: usize, secret: usize },
        ChangeSigner { account: usize, key: usize, agreed: bool },
        IssueShares { router: usize, shares: u64 },
        TransferShares { router: usize, from: usize, to: usize, shares: u64 },
        ClaimRevenue { router: usize, by: usize },
        Appoint { by: usize, role: Role, to: usize, dismiss: bool },
        IssueMembership { by: usize, to: usize, until: u64 },
        RevokeMembership { by: usize, of: usize },
        OfferEnrolment { by: usize, secret: usize, until: u64, expires: u64 },
        WithdrawEnrolment { by: usize, issuer: usize, secret: usize },
        Enrol { by: usize, issuer: usize, secret: usize, forged: bool },
        Register { by: usize },
        Unregister { by: usize },
        ClaimName { by: usize, name: usize, forged: bool },
        ReleaseName { by: usize, name: usize },
        Attest { by: usize, size: u64, lie: bool },
        Skip { by: usize },
        Wait { seconds: u64 },
    }

    /// What can be wrong with an order, whatever it asks for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        None,
        /// Signed by another account's key.
        Forged,
        /// A number beyond the account's next.
        Early,
        /// The number of an order that happened, or 0.
        Used,
        /// The last order that happened, once more.
        Again,
    }

    fn fault() -> impl Strategy<Value = Fault> {
        prop_oneof![
            16 => Just(Fault::None),
            1 => Just(Fault::Forged),
            1 => Just(Fault::Early),
            1 => Just(Fault::Used),
            2 => Just(Fault::Again)
        ]
    }

    fn ask() -> impl Strategy<Value = Ask> {
        let account = || 0..4_usize;
        let channel = || 0..5_usize;
        let time = || 0..1000_u64;
        let amount = || prop_oneof![8 => 0..60_u64, 1 => Just(MAX_SUPPLY), 1 => Just(u64::MAX)];
        prop_oneof![
            2 => (account(), account(), amount()).prop_map(|(by, to, amount)| Ask::Mint { by: by / 2, to, amount }),
            2 => (account(), account(), amount()).prop_map(|(from, to, amount)| Ask::Transfer { from, to, amount }),
            3 => (account(), account(), amount()).prop_map(|(payer, payee, deposit)| Ask::Open { payer, payee, deposit }),
            1 => (channel(), amount()).prop_map(|(channel, amount)| Ask::TopUp { channel, amount }),
            6 => (channel(), amount(), 0..8_u8)
                .prop_map(|(channel, total, die)| Ask::Redeem { channel, total, forged: die == 0 }),
            1 => channel().prop_map(|channel| Ask::StartClose { channel }),
            1 => channel().prop_map(|channel| Ask::Finalize { channel }),
            1 => (channel(), amount()).prop_map(|(channel, total)| Ask::MutualClose { channel, total }),
            1 => (account(), amount()).prop_map(|(by, amount)| Ask::Burn { by, amount }),
            2 => (account(), 0..3_usize, amount(), 0..200_u64)
                .prop_map(|(by, secret, amount, until)| Ask::IssueVoucher { by, secret, amount, until }),
            3 => (account(), 0..3_usize, account(), 0..6_u8)
                .prop_map(|(issuer, secret, to, die)| Ask::RedeemVoucher { issuer, secret, to, forged: die == 0 }),
            1 => (account(), 0..3_usize).prop_map(|(by, secret)| Ask::ReclaimVoucher { by, secret }),
            1 => (account(), 0..3_usize, 0..6_u8)
                .prop_map(|(account, key, die)| Ask::ChangeSigner { account, key, agreed: die > 0 }),
            1 => (account(), 0..9_u64).prop_map(|(router, shares)| Ask::IssueShares { router, shares }),
            2 => (account(), account(), account(), 0..6_u64)
                .prop_map(|(router, from, to, shares)| Ask::TransferShares { router, from, to, shares }),
            2 => (account(), account()).prop_map(|(router, by)| Ask::ClaimRevenue { router, by }),
            3 => (account(), any::<bool>(), account(), 0..5_u8).prop_map(|(by, issuer, to, die)| {
                let role = if issuer { Role::Issuer } else { Role::Auditor };
                Ask::Appoint { by: by / 3, role, to, dismiss: die == 0 }
            }),
            2 => (account(), account(), time()).prop_map(|(by, to, until)| Ask::IssueMembership { by, to, until }),
            1 => (account(), account()).prop_map(|(by, of)| Ask::RevokeMembership { by, of }),
            2 => (account(), 0..3_usize, time(), time())
                .prop_map(|(by, secret, until, expires)| Ask::OfferEnrolment { by, secret, until, expires }),
            1 => (account(), account(), 0..3_usize)
                .prop_map(|(by, issuer, secret)| Ask::WithdrawEnrolment { by, issuer, secret }),
            3 => (account(), account(), 0..3_usize, 0..6_u8)
                .prop_map(|(by, issuer, secret, die)| Ask::Enrol { by, issuer, secret, forged: die == 0 }),
            1 => account().prop_map(|by| Ask::Register { by }),
            1 => account().prop_map(|by| Ask::Unregister { by }),
            3 => (account(), 0..3_usize, 0..6_u8)
                .prop_map(|(by, name, die)| Ask::ClaimName { by, name, forged: die == 0 }),
            1 => (account(), 0..3_usize).prop_map(|(by, name)| Ask::ReleaseName { by, name }),
            2 => (account(), 0..40_u64, 0..4_u8).prop_map(|(by, size, die)| Ask::Attest { by, size, lie: die == 0 }),
            1 => account().prop_map(|by| Ask::Skip { by }),
            1 => (0..80_u64).prop_map(|seconds| Ask::Wait { seconds }),
        ]
    }

    /// The same rules, written once more and as plainly as can be.
    #[derive(Default)]
    struct Model {
        now: u64,
        minted: u128,
        burned: u128,
        balances: [u128; 4],
        channels: Vec<ModelChannel>,
        /// By issuer and secret.
        vouchers: BTreeMap<(usize, usize), ModelVoucher>,
        pools: BTreeMap<usize, ModelPool>,
        roles: BTreeSet<(Role, usize)>,
        /// How many entries the log has.
        size: u64,
        /// Until when each account is a member, and whether it was put out.
        members: [Option<(u64, bool)>; 4],
        /// Until when an issuer's secret makes a member, when it ends, and why it is worth nothing any more.
        enrolments: BTreeMap<(usize, usize), (u64, u64, Option<&'static str>)>,
        listed: [bool; 4],
        /// Who has each name.
        names: [Option<usize>; 3],
        /// Which of its keys each account signs with.
        signers: [usize; 4],
        /// Whether an order of the account's has happened.
        acted: [bool; 4],
    }

    /// Who owns each share, and what each account has earned and not taken out, in units divided by all shares.
    struct ModelPool {
        owners: Vec<usize>,
        parts: [u128; 4],
    }

    struct ModelVoucher {
        left: u128,
        until: u64,
        spent: bool,
    }

    struct ModelChannel {
        payer: usize,
        payee: usize,
        nonce: u64,
        signer: usize,
        left: u128,
        redeemed: u128,
        exit: Option<u64>,
        closed: bool,
    }

    impl Model {
        /// Does it, or names the rule against it.
        fn ask(&mut self, ask: &Ask) -> Result<(), &'static str> {
            match *ask {
                Ask::Wait { seconds } => self.now += seconds,
                Ask::Skip { by } => self.stands(by)?,
                Ask::Mint { by, .. } if by != 0 => return Err("NotTreasurer"),
                Ask::Mint { to, amount, .. } => {
                    some(amount)?;
                    if self.minted + u128::from(amount) > u128::from(MAX_SUPPLY) {
                        return Err("SupplyTooLarge");
                    }
                    self.minted += u128::from(amount);
                    self.balances[to] += u128::from(amount);
                }
                Ask::Transfer { from, to, amount } => {
                    self.take(from, Some(to), amount)?;
                    self.balances[to] += u128::from(amount);
                }
                Ask::Open { payer, payee, deposit } => {
                    self.take(payer, Some(payee), deposit)?;
                    let same = |other: &&ModelChannel| (other.payer, other.payee) == (payer, payee);
                    let nonce = self.channels.iter().filter(same).count() as u64 + 1;
                    let (signer, left, redeemed, exit, closed) = (self.signers[payer], deposit.into(), 0, None, false);
                    self.channels.push(ModelChannel { payer, payee, nonce, signer, left, redeemed, exit, closed });
                }
                Ask::TopUp { channel, amount } => {
                    some(amount)?;
                    let found = self.unclosed(channel)?;
                    if found.exit.is_some() {
                        return Err("CloseAlreadyStarted");
                    }
                    let (payer, signer) = (found.payer, found.signer);
                    if self.signers[payer] != signer {
                        return Err("ChannelSignerChanged");
                    }
                    self.take(payer, None, amount)?;
                    self.channels[channel].left += u128::from(amount);
                }
                Ask::Redeem { forged: true, .. } => return Err("ReceiptSignatureInvalid"),
                Ask::Redeem { channel, total, .. } => {
                    if self.unclosed(channel)?.redeemed == u128::from(total) {
                        return Err("ReceiptAlreadyRedeemed");
                    }
                    self.pay(channel, total)?;
                }
                Ask::StartClose { channel } => {
                    let exit = self.now + u64::from(NOTICE_S);
                    let found = self.unclosed(channel)?;
                    if found.exit.is_some() {
                        return Err("CloseAlreadyStarted");
                    }
                    found.exit = Some(exit);
                }
                Ask::Finalize { channel } => {
                    let now = self.now;
                    match self.unclosed(channel)?.exit {
                        None => return Err("CloseNotStarted"),
                        Some(exit) if now < exit => return Err("NoticeNotOver"),
                        Some(_) => self.end(channel),
                    }
                }
                Ask::MutualClose { channel, total } => {
                    self.pay(channel, total)?;
                    self.end(channel);
                }
                Ask::Burn { by, amount } => {
                    self.take(by, None, amount)?;
                    self.burned += u128::from(amount);
                }
                Ask::IssueVoucher { by, secret, amount, until } => {
                    if self.vouchers.contains_key(&(by, secret))
                        && amount > 0
                        && u128::from(amount) <= self.balances[by]
                    {
                        return Err("VoucherExists");
                    }
                    self.take(by, None, amount)?;
                    let voucher = ModelVoucher { left: amount.into(), until, spent: false };
                    self.vouchers.insert((by, secret), voucher);
                }
                Ask::RedeemVoucher { forged: true, .. } => return Err("ClaimSignatureInvalid"),
                Ask::RedeemVoucher { issuer, secret, to, .. } => {
                    let voucher = self.unspent(issuer, secret)?;
                    voucher.spent = true;
                    self.balances[to] += std::mem::take(&mut voucher.left);
                }
                Ask::ReclaimVoucher { by, secret } => {
                    let now = self.now;
                    let voucher = self.unspent(by, secret)?;
                    if now < voucher.until {
                        return Err("VoucherStillGood");
                    }
                    voucher.spent = true;
                    self.balances[by] += std::mem::take(&mut voucher.left);
                }
                Ask::IssueShares { router, .. } if self.stands(router).is_err() => return Err("NoStanding"),
                Ask::IssueShares { shares: 0, .. } => return Err("AmountIsZero"),
                Ask::IssueShares { router, .. } if self.pools.contains_key(&router) => {
                    return Err("SharesAlreadyIssued");
                }
                Ask::IssueShares { router, shares } => {
                    let pool = ModelPool { owners: vec![router; shares as usize], parts: [0; 4] };
                    self.pools.insert(router, pool);
                }
                Ask::TransferShares { shares: 0, .. } => return Err("AmountIsZero"),
                Ask::TransferShares { from, to, .. } if from == to => return Err("SameAccount"),
                Ask::TransferShares { router, from, to, shares } => {
                    let pool = self.pools.get_mut(&router).ok_or("UnknownShares")?;
                    let held: Vec<&mut usize> = pool.owners.iter_mut().filter(|owner| **owner == from).collect();
                    if (held.len() as u64) < shares {
                        return Err("InsufficientShares");
                    }
                    let last = held.len() as u64 == shares;
                    held.into_iter().take(shares as usize).for_each(|owner| *owner = to);
                    if last {
                        let rest = pool.parts[from] % pool.owners.len() as u128;
                        pool.parts[from] -= rest;
                        pool.parts[to] += rest;
                    }
                }
                Ask::ClaimRevenue { router, by } => {
                    let pool = self.pools.get_mut(&router).ok_or("UnknownShares")?;
                    let unit = pool.owners.len() as u128;
                    if pool.parts[by] < unit {
                        return Err("NothingToClaim");
                    }
                    self.balances[by] += pool.parts[by] / unit;
                    pool.parts[by] %= unit;
                }
                Ask::Appoint { by, .. } if by != 0 => return Err("NotTreasurer"),
                Ask::Appoint { role, to, dismiss: false, .. } if !self.roles.insert((role, to)) => {
                    return Err("RoleAlreadyHeld");
                }
                Ask::Appoint { role, to, dismiss: true, .. } if !self.roles.remove(&(role, to)) => {
                    return Err("RoleNotHeld");
                }
                Ask::Appoint { .. } => {}
                Ask::IssueMembership { by, .. }
                | Ask::RevokeMembership { by, .. }
                | Ask::OfferEnrolment { by, .. }
                | Ask::WithdrawEnrolment { by, .. }
                    if !self.roles.contains(&(Role::Issuer, by)) =>
                {
                    return Err("NotIssuer");
                }
                Ask::IssueMembership { until, .. } if until <= self.now => return Err("MembershipOver"),
                Ask::IssueMembership { to, until, .. } => self.members[to] = Some((until, false)),
                Ask::RevokeMembership { of, .. } => {
                    let (_, revoked) = self.members[of].get_or_insert((0, false));
                    if std::mem::replace(revoked, true) {
                        return Err("MembershipRevoked");
                    }
                    self.listed[of] = false;
                }
                Ask::OfferEnrolment { until, .. } if until <= self.now => return Err("MembershipOver"),
                Ask::OfferEnrolment { expires, .. } if expires <= self.now => return Err("EnrolmentExpired"),
                Ask::OfferEnrolment { by, secret, until, expires } => {
                    if self.enrolments.contains_key(&(by, secret)) {
                        return Err("EnrolmentExists");
                    }
                    self.enrolments.insert((by, secret), (until, expires, None));
                }
                Ask::WithdrawEnrolment { issuer, secret, .. } => {
                    let (_, _, gone) = self.enrolments.get_mut(&(issuer, secret)).ok_or("UnknownEnrolment")?;
                    if let Some(gone) = gone {
                        return Err(gone);
                    }
                    *gone = Some("EnrolmentWithdrawn");
                }
                Ask::Enrol { forged: true, .. } => return Err("EnrolmentClaimInvalid"),
                Ask::Enrol { by, issuer, secret, .. } => {
                    let offer = self.enrolments.get_mut(&(issuer, secret)).ok_or("UnknownEnrolment")?;
                    let (until, expires, gone) = offer;
                    if let Some(gone) = gone {
                        return Err(gone);
                    }
                    if *expires <= self.now {
                        return Err("EnrolmentExpired");
                    }
                    if !self.roles.contains(&(Role::Issuer, issuer)) {
                        return Err("NotIssuer");
                    }
                    let until = match self.members[by] {
                        Some((_, true)) => return Err("MembershipRevoked"),
                        Some((before, false)) => before.max(*until),
                        None => *until,
                    };
                    if until <= self.now {
                        return Err("MembershipOver");
                    }
                    *gone = Some("EnrolmentAlreadyUsed");
                    self.members[by] = Some((until, false));
                }
                Ask::Register { by } if !self.is_member(by) => return Err("NotMember"),
                Ask::Register { by } => self.listed[by] = true,
                Ask::Unregister { by } if !self.listed[by] => return Err("NotRegistered"),
                Ask::Unregister { by } => self.listed[by] = false,
                Ask::ClaimName { forged: true, .. } => return Err("NameClaimInvalid"),
                Ask::ClaimName { by, .. } if !self.is_member(by) => return Err("NotMember"),
                Ask::ClaimName { by, .. } if self.names.contains(&Some(by)) => return Err("NameAlreadyHeld"),
                // No membership is over for 30 days here.
                Ask::ClaimName { name, .. }
                    if self.names[name].is_some_and(|holder| self.members[holder].is_some_and(|(_, out)| !out)) =>
                {
                    return Err("NameTaken");
                }
                Ask::ClaimName { by, name, .. } => self.names[name] = Some(by),
                Ask::ReleaseName { name, .. } if self.names[name].is_none() => return Err("UnknownName"),
                Ask::ReleaseName { by, name }
                    if self.names[name] != Some(by) && !self.roles.contains(&(Role::Issuer, by)) =>
                {
                    return Err("NotNameHolder");
                }
                Ask::ReleaseName { name, .. } => self.names[name] = None,
                Ask::Attest { by, .. } if !self.roles.contains(&(Role::Auditor, by)) => return Err("NotAuditor"),
                Ask::Attest { size, .. } if size > self.size => return Err("HeadBeyondLog"),
                Ask::Attest { lie: true, .. } => return Err("HeadDiffers"),
                Ask::Attest { .. } => {}
                Ask::ChangeSigner { agreed: false, .. } => return Err("ConsentInvalid"),
                Ask::ChangeSigner { account, .. } if self.stands(account).is_err() => return Err("NoStanding"),
                Ask::ChangeSigner { account, key, .. } if self.signers[account] == key => {
                    return Err("SignerUnchanged");
                }
                Ask::ChangeSigner { account, key, .. } => self.signers[account] = key,
            }
            Ok(())
        }

        fn is_member(&self, by: usize) -> bool {
            self.members[by].is_some_and(|(until, revoked)| !revoked && self.now < until)
        }

        fn stands(&self, by: usize) -> Result<(), &'static str> {
            let member = self.is_member(by);
            let role = self.roles.iter().any(|(_, holder)| *holder == by);
            let stands = by == 0 || self.acted[by] || self.balances[by] > 0 || role || member;
            if stands { Ok(()) } else { Err("NoStanding") }
        }

        fn take(&mut self, from: usize, to: Option<usize>, amount: u64) -> Result<(), &'static str> {
            some(amount)?;
            if to == Some(from) {
                return Err("SameAccount");
            }
            if u128::from(amount) > self.balances[from] {
                return Err("InsufficientBalance");
            }
            self.balances[from] -= u128::from(amount);
            Ok(())
        }

        fn unspent(&mut self, issuer: usize, secret: usize) -> Result<&mut ModelVoucher, &'static str> {
            let found = self.vouchers.get_mut(&(issuer, secret)).ok_or("UnknownVoucher")?;
            if found.spent { Err("VoucherAlreadySpent") } else { Ok(found) }
        }

        fn unclosed(&mut self, channel: usize) -> Result<&mut ModelChannel, &'static str> {
            let found = self.channels.get_mut(channel).ok_or("UnknownChannel")?;
            if found.closed { Err("ChannelClosed") } else { Ok(found) }
        }

        fn pay(&mut self, channel: usize, total: u64) -> Result<(), &'static str> {
            let found = self.unclosed(channel)?;
            let total = u128::from(total);
            if total < found.redeemed {
                return Err("TotalWentBackwards");
            }
            let paid = total - found.redeemed;
            if paid > found.left {
                return Err("TotalExceedsDeposit");
            }
            found.left -= paid;
            found.redeemed = total;
            let payee = found.payee;
            let Some(pool) = self.pools.get_mut(&payee) else {
                self.balances[payee] += paid;
                return Ok(());
            };
            pool.owners.iter().for_each(|owner| pool.parts[*owner] += paid);
            Ok(())
        }

        fn end(&mut self, channel: usize) {
            let found = &mut self.channels[channel];
            found.closed = true;
            self.balances[found.payer] += std::mem::take(&mut found.left);
        }
    }

    fn some(amount: u64) -> Result<(), &'static str> {
        if amount == 0 { Err("AmountIsZero") } else { Ok(()) }
    }

    /// The rulebook and the model side by side.
    struct Pair {
        /// Three keys for each account; it is named after the first.
        keys: [[AccountKey; 3]; 4],
        secrets: [AccountKey; 3],
        state: State,
        model: Model,
        log: Vec<Vec<u8>>,
        /// All records, hashed as the log goes on.
        tiles: Kept,
        root: Subtree,
    }

    impl Pair {
        fn new() -> Self {
            let key = |n: u8| AccountKey::from_bytes(&[n; 32]).unwrap();
            let keys = [1, 2, 3, 4].map(|account| [0, 0x10, 0x20].map(|n| key(account + n)));
            let secrets = [0x51, 0x52, 0x53].map(key);
            let genesis =
                Genesis::new("Hilltop", "HILL", 6, keys[0][0].node_id(), UnixTime::default(), [1; 16]).unwrap();
            let genesis = genesis.with_close_notice(NOTICE_S);
            let log = vec![founding(&genesis).encode()];
            let founding = founding(&genesis);
            let (state, tiles) = (State::found(genesis), Kept::default());
            let mut pair = Self { keys, secrets, state, model: Model::default(), log, tiles, root: Subtree::Empty };
            pair.follow(&founding);
            pair
        }

        fn follow(&mut self, entry: &Entry) {
            let Ok(leaves) = leaves(&self.state, touched(entry));
            self.root = update(&mut self.tiles, self.root, &leaves).unwrap();
        }

        fn ask(&mut self, ask: &Ask) {
            self.ask_with(ask, Fault::None);
        }

        fn ask_with(&mut self, ask: &Ask, fault: Fault) {
            let before = self.state.channels.clone();
            self.model.size = self.log.len() as u64;
            self.model.acted = [0, 1, 2, 3].map(|account| self.state.sequence(self.id(account)) > Ok(0));
            let expected = match (ask, fault) {
                (Ask::Wait { .. } | Ask::Redeem { .. } | Ask::Finalize { .. } | Ask::RedeemVoucher { .. }, _)
                | (_, Fault::None | Fault::Again) => self.model.ask(ask),
                (_, Fault::Forged) => Err("OrderSignatureInvalid"),
                (_, Fault::Early) => Err("SequenceOutOfOrder"),
                (_, Fault::Used) => Err("SequenceAlreadyUsed"),
            };
            if let Some(request) = self.request(ask, fault, &expected) {
                let now = UnixTime::from_seconds(self.model.now);
                let outcome = self.state.execute(now, &request);
                let rule = outcome.as_ref().map(|_| ()).map_err(|error| {
                    let ExecuteError::Refused(refusal) = error else { panic!("{error:?}") };
                    refusal.rule()
                });
                assert_eq!(rule, expected, "{request:?}");
                if let Ok(entry) = outcome {
                    self.log.push(entry.encode());
                    self.follow(&entry);
                    if fault == Fault::Again && entry.order().is_some() {
                        let later = UnixTime::from_seconds(self.model.now + 1);
                        assert_eq!(self.state.execute(later, &request), Ok(entry), "{request:?}");
                    }
                }
            }
            self.compare();
            amounts_are_monotone(&before, &self.state.channels);
        }

        fn request(&self, ask: &Ask, fault: Fault, expected: &Result<(), &'static str>) -> Option<Request> {
            let id = |account: usize| self.id(account);
            let tokens = |amount: u64| Tokens::new(amount.into()).unwrap();
            let ends =
                |channel: usize| self.model.channels.get(channel).map_or((0, 1), |found| (found.payer, found.payee));
            let domain = self.state.genesis.domain();
            let (by, command) = match *ask {
                Ask::Wait { .. } => return None,
                Ask::Redeem { channel, total, .. } => {
                    let receipt = Receipt::sign_by(
                        self.channel_key(channel),
                        &domain,
                        self.channel(channel),
                        tokens(total),
                        [0; 32],
                    );
                    let receipt = receipt.into_unverified();
                    let forged = *expected == Err("ReceiptSignatureInvalid");
                    return Some(Request::Redeem { receipt: if forged { forge(&receipt) } else { receipt } });
                }
                Ask::Finalize { channel } => return Some(Request::Finalize { channel: self.channel(channel) }),
                Ask::Mint { by, to, amount } => (by, Command::Mint { to: id(to), amount: tokens(amount) }),
                Ask::Transfer { from, to, amount } => (from, Command::Transfer { to: id(to), amount: tokens(amount) }),
                Ask::Open { payer, payee, deposit } => {
                    (payer, Command::OpenChannel { payee: id(payee), deposit: tokens(deposit) })
                }
                Ask::TopUp { channel, amount } => {
                    (ends(channel).0, Command::TopUp { channel: self.channel(channel), amount: tokens(amount) })
                }
                Ask::StartClose { channel } => {
                    (ends(channel).0, Command::StartClose { channel: self.channel(channel) })
                }
                Ask::MutualClose { channel, total } => {
                    let (_, payee) = ends(channel);
                    let close =
                        Close::sign_by(self.channel_key(channel), &domain, self.channel(channel), tokens(total));
                    (payee, Command::MutualClose { close: close.into_unverified() })
                }
                Ask::Burn { by, amount } => (by, Command::Burn { amount: tokens(amount) }),
                Ask::IssueVoucher { by, secret, amount, until } => {
                    let (voucher, until) = (self.secrets[secret].node_id(), UnixTime::from_seconds(until));
                    (by, Command::IssueVoucher { voucher, amount: tokens(amount), until })
                }
                Ask::RedeemVoucher { issuer, secret, to, .. } => {
                    let claim = Claim::sign(&self.secrets[secret], &domain, id(issuer), id(to));
                    let forged = *expected == Err("ClaimSignatureInvalid");
                    let to = if forged { id((to + 1) % 4) } else { id(to) };
                    let claim = Claim::new(claim.issuer(), claim.voucher(), to, claim.signature());
                    return Some(Request::RedeemVoucher { claim });
                }
                Ask::ReclaimVoucher { by, secret } => {
                    (by, Command::ReclaimVoucher { voucher: self.secrets[secret].node_id() })
                }
                Ask::IssueShares { router, shares } => (router, Command::IssueShares { shares }),
                Ask::TransferShares { router, from, to, shares } => {
                    (from, Command::TransferShares { router: id(router), to: id(to), shares })
                }
                Ask::ClaimRevenue { router, by } => (by, Command::ClaimRevenue { router: id(router) }),
                Ask::Appoint { by, role, to, dismiss: false } => (by, Command::Appoint { role, to: id(to) }),
                Ask::Appoint { by, role, to, dismiss: true } => (by, Command::Dismiss { role, from: id(to) }),
                Ask::IssueMembership { by, to, until } => {
                    (by, Command::IssueMembership { to: id(to), until: UnixTime::from_seconds(until) })
                }
                Ask::RevokeMembership { by, of } => (by, Command::RevokeMembership { of: id(of) }),
                Ask::OfferEnrolment { by, secret, until, expires } => {
                    let [until, expires] = [until, expires].map(UnixTime::from_seconds);
                    (by, Command::OfferEnrolment { enrolment: self.secrets[secret].node_id(), until, expires })
                }
                Ask::WithdrawEnrolment { by, issuer, secret } => {
                    let enrolment = self.secrets[secret].node_id();
                    (by, Command::WithdrawEnrolment { issuer: id(issuer), enrolment })
                }
                Ask::Enrol { by, issuer, secret, forged } => {
                    let (issuer, secret) = (id(issuer), &self.secrets[secret]);
                    let claim = membership::claim(secret, &domain, issuer, id(if forged { (by + 1) % 4 } else { by }));
                    (by, Command::Enrol { issuer, enrolment: secret.node_id(), claim })
                }
                Ask::Register { by } => {
                    let (station, price) = (Station::Router, Price::new(5));
                    let registration = Registration { station, price_up: price, price_down: price, terms: [0; 32] };
                    (by, Command::Register { registration })
                }
                Ask::Unregister { by } => (by, Command::Unregister),
                Ask::ClaimName { by, name, forged } => {
                    let (key, name) = (&self.keys[if forged { (by + 1) % 4 } else { by }][0], named(name));
                    let claim = name::claim(key, &domain, &name, &[by as u8; 32]);
                    (by, Command::ClaimName { name, wireguard: [by as u8; 32], claim })
                }
                Ask::ReleaseName { by, name } => (by, Command::ReleaseName { name: named(name) }),
                Ask::Skip { by } => (by, Command::Skip),
                Ask::Attest { by, size, lie } => {
                    let mut tree = Tree::default();
                    let log = self.log.iter().take(size as usize);
                    log.for_each(|entry| drop(tree.append(merkle::leaf_hash(entry))));
                    let root = if lie { Hash([1; 32]) } else { tree.head().root };
                    (by, Command::Attest { head: Head { size, root } })
                }
                Ask::ChangeSigner { account, key, agreed } => {
                    let of = if agreed { account } else { (account + 1) % 4 };
                    let key = &self.keys[account][key];
                    let Ok(last) = self.state.sequence(id(account));
                    let consent = consent(key, &domain, id(of), last + 1);
                    (account, Command::ChangeSigner { signer: key.node_id(), consent })
                }
            };
            let Ok(last) = self.state.sequence(id(by));
            let seal = Seal { sequence: last, signature: Signature([0; 65]) };
            let same = Order::new(id(by), command, seal).digest(&domain);
            let made = self.state.made.get(&(id(by), last)).and_then(Entry::order);
            let sequence = match fault {
                Fault::None | Fault::Forged | Fault::Again => last + 1,
                Fault::Early => last + 2,
                // Where the account's last order was this very one, it would be answered.
                Fault::Used if made.is_none_or(|made| made.digest(&domain) != same) => last,
                Fault::Used => 0,
            };
            let signer = if fault == Fault::Forged { (by + 1) % 4 } else { by };
            // The model has taken a change of the key in already.
            let Ok(current) = self.state.fact(&Signer::place(&id(signer)));
            let current = current.map_or(id(signer), |fact| Signer::decode(&fact).unwrap().0);
            let key = self.keys[signer].iter().find(|key| key.node_id() == current).unwrap();
            let order = Order::sign(key, &domain, id(by), sequence, command);
            Some(Request::Order(order.into_unverified()))
        }

        fn id(&self, account: usize) -> NodeId {
            self.keys[account][0].node_id()
        }

        /// The key that signed for the payer when the channel was opened.
        fn channel_key(&self, number: usize) -> &AccountKey {
            let (payer, signer) = self.model.channels.get(number).map_or((0, 0), |found| (found.payer, found.signer));
            &self.keys[payer][signer]
        }

        fn channel(&self, number: usize) -> ChannelId {
            let (payer, payee, nonce) =
                self.model.channels.get(number).map_or((0, 1, 999), |found| (found.payer, found.payee, found.nonce));
            ChannelId { payer: self.id(payer), payee: self.id(payee), nonce }
        }

        fn compare(&self) {
            assert_eq!(self.root.hash(), self.state.record_root(), "an entry says all that it changes");
            let totals = self.state.totals();
            assert!(totals.conserved());
            assert_eq!((totals.minted.get(), totals.burned.get()), (self.model.minted, self.model.burned));
            for (account, expected) in self.model.balances.into_iter().enumerate() {
                let Ok(balance) = self.state.balance(self.id(account));
                assert_eq!(balance.get(), expected);
            }
            for account in 0..4 {
                let Ok(own) = self.state.fact(&OwnName::place(&self.id(account)));
                let own = own.and_then(|own| OwnName::decode(&own).unwrap().0);
                let expected = self.model.names.iter().position(|holder| *holder == Some(account)).map(named);
                assert_eq!(own, expected);
            }
            assert_eq!(self.state.channels.len(), self.model.channels.len());
            for (number, expected) in self.model.channels.iter().enumerate() {
                let record = self.state.channels[&self.channel(number)];
                assert_eq!((record.locked().get(), record.redeemed.get()), (expected.left, expected.redeemed));
                assert_eq!(record.phase == Phase::Closed, expected.closed);
            }
            // Added up anew, and not as the ledger's running sums have it.
            let locked = self.state.channels.values().map(|channel| channel.locked().get()).sum::<u128>();
            let vouchers = self.model.vouchers.values().map(|voucher| voucher.left).sum::<u128>();
            let pools = self.model.pools.values().map(|pool| {
                let (parts, unit) = (pool.parts.iter().sum::<u128>(), pool.owners.len() as u128);
                assert_eq!(parts % unit, 0, "what is locked is whole units");
                parts / unit
            });
            assert_eq!(totals.locked.get(), locked + vouchers + pools.sum::<u128>());
        }
    }

    fn named(number: usize) -> Name {
        ["roof", "attic", "barn"][number].parse().unwrap()
    }

    /// A receipt whose meter is another than the one that was signed.
    fn forge(receipt: &Receipt<metering::Unverified>) -> Receipt<metering::Unverified> {
        let mut bytes = receipt.encode();
        // The signature's 65 bytes and their two of head stand at the end, behind the meter.
        let at = bytes.len() - 65 - 2 - 1;
        bytes[at] ^= 1;
        Receipt::decode(&bytes).unwrap()
    }

    fn amounts_are_monotone(before: &BTreeMap<ChannelId, Channel>, after: &BTreeMap<ChannelId, Channel>) {
        for (id, old) in before {
            let new = after[id];
            assert!(new.redeemed >= old.redeemed && new.deposit >= old.deposit);
            assert!(old.phase != Phase::Closed || new == *old, "a closed channel never changes");
        }
    }

    /// Replays a log, once with signatures looked at as it goes and once with those that were found before, be it for another
    /// ledger: the two must be one.
    fn replay(log: &[Vec<u8>]) -> Result<State, ReplayError> {
        let mut state = State::replay_founding(&log[0])?;
        let (domain, mut other) = (state.genesis.domain(), state.clone());
        let elsewhere = LedgerDomain { chain_id: 9, ..domain };
        let read = |(n, entry): (usize, &Vec<u8>)| Logged::read(if n % 5 == 4 { &elsewhere } else { &domain }, entry);
        let before: Vec<_> = log[1..].iter().enumerate().map(read).collect();
        for (entry, logged) in log[1..].iter().zip(before) {
            let replayed = state.replay(entry);
            let logged = logged.and_then(|logged| other.replay_logged(&logged).map(|()| logged.into_entry()));
            assert_eq!(logged, replayed);
            replayed?;
            assert_eq!(other.head(), state.head());
        }
        assert_eq!(other.record_root(), state.record_root());
        Ok(state)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn rules_do_what_the_plain_model_does_and_the_log_tells_it_all(asks in prop::collection::vec((ask(), fault()), 1..120)) {
            let mut pair = Pair::new();
            pair.ask(&Ask::Mint { by: 0, to: 1, amount: 200 });
            pair.ask(&Ask::Mint { by: 0, to: 2, amount: 200 });
            asks.iter().for_each(|(ask, fault)| pair.ask_with(ask, *fault));

            let replayed = replay(&pair.log).unwrap();
            prop_assert_eq!(replayed.head(), pair.state.head());
            prop_assert_eq!(replayed.totals(), pair.state.totals());
            prop_assert_eq!(replayed.balances, pair.state.balances);
            prop_assert_eq!(replayed.sequences, pair.state.sequences);
            prop_assert_eq!(replayed.channels, pair.state.channels);
            prop_assert_eq!(replayed.facts, pair.state.facts);
        }
    }

    #[test]
    fn log_that_says_something_else_does_not_replay() {
        let mut pair = Pair::new();
        pair.ask(&Ask::Mint { by: 0, to: 1, amount: 100 });
        pair.ask(&Ask::Open { payer: 1, payee: 2, deposit: 60 });
        pair.ask(&Ask::Redeem { channel: 0, total: 10, forged: false });
        pair.ask(&Ask::Redeem { channel: 0, total: 30, forged: false });
        let log = &pair.log;
        assert!(replay(log).is_ok());

        let entry = |number: usize| Entry::decode(&log[number]).unwrap();
        let replay_with = |number: usize, event: Event| {
            let forged = Entry { event, ..entry(number) }.encode();
            replay(&[&log[..number], &[forged], &log[number + 1..]].concat()).map(|_| ())
        };
        let Event::Redeemed { receipt, .. } = entry(3).event else { unreachable!() };
        let [ten, more] = [10, 11].map(|n| Tokens::new(n).unwrap());

        let overpaid = replay_with(3, Event::Redeemed { receipt, paid: more });
        assert_eq!(overpaid, Err(ReplayError::Differs { expected: Box::new(entry(3)) }));
        let forged = replay_with(3, Event::Redeemed { receipt: forge(&receipt), paid: ten });
        assert_eq!(forged, Err(ReplayError::Refused { refusal: Refusal::ReceiptSignatureInvalid }));
        let twice = replay_with(4, Event::Redeemed { receipt, paid: ten });
        assert_eq!(twice, Err(ReplayError::Refused { refusal: Refusal::ReceiptAlreadyRedeemed { amount: ten } }));
        let founded_again = replay(&[&log[..2], &log[..1], &log[2..]].concat()).map(|_| ());
        assert_eq!(founded_again, Err(ReplayError::Founding));
        // By somebody who can write the file and has no key.
        let (by, to) = (pair.id(0), pair.id(3));
        let unsigned = Err(ReplayError::Refused { refusal: Refusal::OrderSignatureInvalid { account: by } });
        assert_eq!(replay_with(1, Event::Minted { by, to, amount: ten }), unsigned);
        let repeated = replay(&[&log[..3], &log[2..3], &log[3..]].concat()).map(|_| ());
        let used = Refusal::SequenceAlreadyUsed { account: pair.id(1), sequence: 1, next: 2 };
        assert_eq!(repeated, Err(ReplayError::Refused { refusal: used }));
        assert_eq!(replay(&log[1..]).map(|_| ()), Err(ReplayError::Founding));
        let unopened = replay(&[&log[..2], &log[3..]].concat()).map(|_| ());
        assert_eq!(unopened, Err(ReplayError::Refused { refusal: Refusal::UnknownChannel }));
        let cut = replay(&[&log[..2], &[log[2][1..].to_vec()]].concat()).map(|_| ());
        assert_eq!(cut, Err(ReplayError::Entry(EntryError::Malformed)));
    }

    #[test]
    fn log_whose_time_runs_backwards_does_not_replay() {
        let mut pair = Pair::new();
        pair.ask(&Ask::Wait { seconds: 10 });
        pair.ask(&Ask::Mint { by: 0, to: 1, amount: 100 });
        pair.ask(&Ask::Mint { by: 0, to: 1, amount: 100 });
        let last = Entry::decode(&pair.log[2]).unwrap();
        let earlier = Entry { at: UnixTime::from_seconds(9), ..last.clone() };
        let log = [&pair.log[..2], &[earlier.encode()]].concat();
        assert_eq!(replay(&log).map(|_| ()), Err(ReplayError::Differs { expected: Box::new(last) }));
    }
}
