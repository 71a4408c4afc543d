//! Channels, receipts and redemption: between the node, the journal and the ledger.

use std::time::{Duration, Instant};

use ledger_client::{Channel, Error, Ledger, Phase, Refusal as Forbidden};
use metering::{ChannelId, ChannelState, NodeId, Receipt, Restored, Role, SortedMap, SortedSet, Tokens};
use node::LinkId;
use tokio::sync::oneshot;

use super::{Control, Done, Known, LedgerDesk, ROUND, TRY_AGAIN, clock};
use crate::control::{Redeemed, RedeemedReceipts, Refusal, Response, Unit};
use crate::desk::{Desk, Urgency};
use crate::journal::{Journal, KnownChannel, Record};

/// How long a redemption waits for the last receipts: many round trips, and less than the person's patience.
const SETTLE_TIME: Duration = Duration::from_secs(2);
/// How long a neighbour that has come waits for what the ledger says of its channel. Then what it last said has to do, and what it
/// says is taken in when it comes: a slow ledger stops no traffic.
const RESTORE_WAIT: Duration = Duration::from_secs(3);
/// How many receipts are redeemed at a time, at most; and how long a time may be for there to be more in the next one. Another
/// job at the desk waits as long.
const PIECE_MAX: usize = 64;
const PIECE_TIME: Duration = Duration::from_secs(1);
const TOO_SLOW: &str = "the ledger answers too slowly: what is left is for the next time";
/// Redemptions that wait at once.
const REDEMPTIONS_MAX: usize = 16;
/// The next step where there is no ledger.
pub(super) const NAME_A_LEDGER: &str = "name the community's ledger: [ledger] path = \"...\"";

/// What a desk could not do, in words.
type Failed = String;

/// A redemption that waits until its payers have signed.
pub(super) struct Redemption {
    payer: Option<NodeId>,
    answer: Option<oneshot::Sender<Response>>,
    deadline: Instant,
}

impl Control {
    /// Gathers what journal and ledger know of a neighbour's account, in that role of ours.
    pub(super) fn restore(&mut self, link: LinkId, peer: NodeId, role: Role, admitted: bool) {
        let us = self.node.id();
        let (journal, journal_again) = (self.journal.clone(), self.journal.clone());
        let (payer, payee) = match role {
            Role::Provider => (peer, us),
            Role::Subscriber => (us, peer),
            Role::Peer => {
                // Between peers there is no channel; but it is not forgotten how they stand if one becomes the other's payer.
                return self.spawn(known_of(journal, (peer, us), us, None), move |known| {
                    let Restored { held, standing, .. } = known;
                    let restored = Box::new(Restored { held, standing, ..Restored::default() });
                    Some(Done::Restored { link, peer, role, admitted, restored })
                });
            }
        };
        let (desk, done) = (self.ledger.clone(), self.done.clone());
        let asked = desk.as_ref().map(|desk| desk.ask(move |ledger| newest_channel(ledger, payer, payee)));
        tokio::spawn(async move {
            let mut told = Box::pin(async move {
                let Some(asked) = asked else { return Ok(None) };
                asked.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            });
            let in_time = tokio::time::timeout(RESTORE_WAIT, &mut told).await.ok();
            let newest = in_time.as_ref().and_then(|told| told.as_ref().ok().copied().flatten());
            let mut restored = known_of(journal, (payer, payee), us, newest.map(|(id, _)| id)).await;
            // Where the ledger is away or slow, what it last said has to do.
            if let Some(Ok(newest)) = &in_time {
                restored.channel = newest.map(|(id, channel)| state(id, &channel));
            }
            let known = restored.channel;
            if let Some((id, channel)) = newest {
                remember(&journal_again, id, &state(id, &channel)).await;
            }
            // The control task is gone only when the router is stopping.
            let restored = Box::new(restored);
            let _stopping = done.send(Done::Restored { link, peer, role, admitted, restored }).await;
            let told_late = match in_time {
                Some(told) => told.map(|_| None),
                None => told_late(desk, told.await, known, link, (payer, payee)).await,
            };
            let news = match told_late {
                Ok(news) => news,
                Err(error) => Some(Done::LedgerFailed { what: "cannot read the ledger", error }),
            };
            if let Some(news) = news {
                let _stopping = done.send(news).await;
            }
        });
    }

    /// Makes a receipt durable, and learns how much of its channel was redeemed. What others have signed since their last
    /// write goes with it: many slow neighbours wear the flash no more than one.
    pub(super) fn hold(&mut self, link: LinkId, receipt: Receipt) {
        let settled = self.node.links().filter_map(|view| Some((view.link, view.settlement?)));
        let waiting = settled.filter(|(other, known)| *other != link && known.signed > known.held);
        let links: SortedMap<ChannelId, LinkId> =
            waiting.filter_map(|(link, known)| Some((known.channel?, link))).collect();
        let others = self.node.held().filter_map(|other| Some((*links.get(&other.channel())?, other)));
        let held: Vec<(LinkId, Receipt)> = [(link, receipt)].into_iter().chain(others).collect();
        let channels: Vec<ChannelId> = held.iter().map(|(_, receipt)| receipt.channel()).collect();
        let redeemed = move |journal: &mut Journal| -> Vec<Tokens> {
            channels.iter().map(|channel| journal.redeemed(channel)).collect()
        };
        let redeemed = self.journal.ask(redeemed);
        let records = held.iter().map(|(_, receipt)| Record::Held { receipt: *receipt }).collect();
        let (written, done) = (self.written(records), self.done.clone());
        tokio::spawn(async move {
            let redeemed = redeemed.await.unwrap_or_else(|_| vec![Tokens::ZERO; held.len()]);
            if written.await {
                for ((link, receipt), redeemed) in held.into_iter().zip(redeemed) {
                    let _stopping = done.send(Done::Held { link, receipt, redeemed }).await;
                }
            }
        });
    }

    /// Opens a channel to a provider, or adds to the one there is.
    pub(super) fn fund(&mut self, link: LinkId, payee: NodeId, at_least: Tokens) {
        let Some(desk) = &self.ledger else {
            self.warn(format!("{} wants to be paid, and no [ledger] is configured", self.name_of(link)));
            return;
        };
        let (us, deposit) = (self.node.id(), self.money.deposit);
        let answer = desk.ask(move |ledger| funded(ledger, us, payee, deposit, at_least));
        self.spawn(answer, move |answer| {
            let failed = match answer {
                Ok(Ok((channel, state, left))) => return Some(Done::Funded { link, channel, state, left }),
                Ok(Err(error)) => ledger_failed("cannot lock tokens for a provider", &error),
                Err(error) => desk_failed("cannot lock tokens for a provider", &error),
            };
            Some(Done::NotFunded { link, failed: Box::new(failed) })
        });
    }

    /// Asks the ledger for a channel the neighbour speaks of.
    pub(super) fn look_up(&self, link: LinkId, channel: ChannelId) {
        self.look_up_as(Urgency::Urgent, link, channel);
    }

    /// The same where nobody waits for it.
    pub(super) fn look_up_later(&self, link: LinkId, channel: ChannelId) {
        self.look_up_as(Urgency::CanWait, link, channel);
    }

    fn look_up_as(&self, urgency: Urgency, link: LinkId, channel: ChannelId) {
        let Some(desk) = &self.ledger else { return };
        self.spawn(desk.hand_in(urgency, move |ledger| usable(ledger, channel)), move |answer| match answer {
            Ok(Ok(found)) => found.map(|found| looked_up(link, channel, found)),
            Ok(Err(error)) => Some(ledger_failed("cannot read a channel", &error)),
            Err(error) => Some(desk_failed("cannot read a channel", &error)),
        });
    }

    /// Says in time that tokens run low: the next time a channel needs more, there is not as much as is locked at a time.
    pub(super) fn look_at_balance(&mut self, link: LinkId, state: &ChannelState, left: Tokens) {
        if left >= self.money.deposit {
            return;
        }
        let Unit { symbol, decimals } = self.money.unit.clone();
        let [left, locked] =
            [left, state.deposit.saturating_sub(state.redeemed)].map(|amount| amount.display(decimals));
        self.warn(format!(
            "tokens run low: {left} {symbol} are left in the account, and {locked} locked for {}; when they are used, it \
             carries no more",
            self.name_of(link)
        ));
    }

    /// Keeps what the ledger said of a channel, for when it is away.
    pub(super) fn remember_channel(&self, channel: ChannelId, state: &ChannelState) {
        let (journal, state) = (self.journal.clone(), *state);
        tokio::spawn(async move { remember(&journal, channel, &state).await });
    }

    /// Tells the node what the ledger holds of a channel after it was redeemed.
    pub(super) fn refresh_channel(&self, channel: ChannelId) {
        let other = if channel.payee == self.node.id() { channel.payer } else { channel.payee };
        if let Some(link) = self.link_to(other) {
            self.look_up_later(link, channel);
        }
    }

    /// Settles with one payer, or with all, as far as can be, and then redeems: see [`Self::redeem_settled`].
    pub(super) fn redeem(&mut self, now: Instant, payer: Option<NodeId>, answer: Option<oneshot::Sender<Response>>) {
        if self.redemptions.len() == REDEMPTIONS_MAX {
            return refuse(answer, "too many redemptions are under way".to_owned(), "try again in a few seconds");
        }
        self.node.handle_flush(now);
        self.redemptions.push(Redemption { payer, answer, deadline: now + SETTLE_TIME });
    }

    /// Redeems for whoever waits and is settled with: nothing owed, every receipt on disk. Who does not sign in time
    /// is redeemed from with what is there.
    pub(super) fn redeem_settled(&mut self, now: Instant) {
        let unsettled: SortedSet<NodeId> = self
            .node
            .links()
            .filter_map(|link| link.settlement)
            .filter(|known| {
                known.owed_to_us > Tokens::ZERO || (known.role == Role::Provider && known.signed > known.held)
            })
            .map(|known| known.peer)
            .collect();
        let is_due = |redemption: &mut Redemption| {
            let waits = match redemption.payer {
                Some(payer) => unsettled.contains(&payer),
                None => !unsettled.is_empty(),
            };
            !waits || redemption.deadline <= now
        };
        let due: Vec<Redemption> = self.redemptions.extract_if(.., is_due).collect();
        for Redemption { payer, answer, .. } in due {
            self.redeem_now(payer, answer);
        }
    }

    fn redeem_now(&mut self, payer: Option<NodeId>, answer: Option<oneshot::Sender<Response>>) {
        let respond = |answer: Option<oneshot::Sender<Response>>, response| {
            if let Some(answer) = answer {
                // Whoever asked may have gone.
                let _gone = answer.send(response);
            }
        };
        let Some(ledger) = self.ledger.clone() else {
            return refuse(answer, "no ledger is configured".to_owned(), NAME_A_LEDGER);
        };
        let (journal, done, unit) = (self.journal.clone(), self.done.clone(), self.money.unit.clone());
        let names: Vec<(NodeId, String)> = self.links.values().filter_map(Known::named).collect();
        tokio::spawn(async move {
            let urgency = if answer.is_some() { Urgency::Urgent } else { Urgency::CanWait };
            let (paid, failed) = redeem_held(&journal, &ledger, payer, urgency).await;
            let response = match failed {
                None => {
                    let name = |id: NodeId| names.iter().find(|(known, _)| *known == id).map(|(_, name)| name.clone());
                    let redeemed = paid.iter().map(|(channel, paid)| Redeemed {
                        neighbour: name(channel.payer).unwrap_or_else(|| channel.payer.to_string()),
                        channel: *channel,
                        paid: *paid,
                    });
                    let redeemed = redeemed.collect();
                    let _stopping = done.send(Done::Redeemed { paid }).await;
                    Response::Redeemed(RedeemedReceipts { unit, redeemed })
                }
                Some(error) => {
                    // What was paid before is paid.
                    if !paid.is_empty() {
                        let _stopping = done.send(Done::Redeemed { paid }).await;
                    }
                    let failed = Done::LedgerFailed { what: "cannot redeem", error: error.clone() };
                    let _stopping = done.send(failed).await;
                    Response::Failed(Refusal {
                        cause: format!("cannot redeem: {error}"),
                        next: Some("the receipts are kept; try again when the ledger is reachable".to_owned()),
                    })
                }
            };
            respond(answer, response);
        });
    }
}

pub(super) fn refuse(answer: Option<oneshot::Sender<Response>>, cause: String, next: &str) {
    if let Some(answer) = answer {
        // Whoever asked may have gone.
        let _gone = answer.send(Response::Failed(Refusal { cause, next: Some(next.to_owned()) }));
    }
}

impl Known {
    pub(super) fn named(&self) -> Option<(NodeId, String)> {
        self.peer.as_ref().map(|peer| (peer.card.account(), self.name.clone()))
    }
}

/// What follows where the ledger says how a channel stands after the exchange has begun with what the journal `known`.
async fn told_late(
    desk: Option<LedgerDesk>,
    told: Result<Option<(ChannelId, Channel)>, Failed>,
    known: Option<ChannelState>,
    link: LinkId,
    (payer, payee): (NodeId, NodeId),
) -> Result<Option<Done>, Failed> {
    if let Some((channel, found)) = told? {
        return Ok(Some(Done::Channel { link, channel, state: state(channel, &found) }));
    }
    // It has none that is open: the one that was known is closed, or was never there.
    let Some((desk, known)) = desk.zip(known) else { return Ok(None) };
    let id = ChannelId { payer, payee, nonce: known.nonce };
    let found = desk.ask(move |ledger| usable(ledger, id)).await.map_err(|error| error.to_string())?;
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.map(|found| looked_up(link, id, found)))
}

/// Asks the ledger about one after another, and lets others in between. What was found out before it failed, or before the round
/// was over, counts.
pub(super) async fn one_by_one<T, R, F>(desk: &LedgerDesk, all: Vec<T>, job: F) -> (Vec<R>, Option<Failed>)
where
    T: Send + 'static,
    R: Send + 'static,
    F: Fn(&mut Box<dyn Ledger>, &T) -> Result<R, Error> + Clone + Send + 'static,
{
    let (mut found, end) = (Vec::new(), clock() + ROUND);
    for one in all {
        if clock() >= end {
            return (found, Some(TOO_SLOW.to_owned()));
        }
        let job = job.clone();
        match desk.ask_later(move |ledger| job(ledger, &one)).await {
            Ok(Ok(answer)) => found.push(answer),
            Ok(Err(error)) => return (found, Some(error.to_string())),
            Err(error) => return (found, Some(error.to_string())),
        }
    }
    (found, None)
}

/// Waits for what the journal knows: without it nothing is settled, for an exchange that has forgotten carries twice.
async fn known_of(
    journal: Desk<Journal>,
    (payer, payee): (NodeId, NodeId),
    us: NodeId,
    newest: Option<ChannelId>,
) -> Restored {
    loop {
        match journal.ask(move |journal| remembered(journal, (payer, payee), us, newest)).await {
            Ok(restored) => return restored,
            Err(error) => tracing::warn!(%error, "waiting for what was remembered of a neighbour"),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// What the journal knows of the channels from a payer to a payee, of whom we are one: of the one the ledger calls the
/// newest, or, where the ledger says nothing, of the newest the journal knows.
fn remembered(
    journal: &mut Journal,
    (payer, payee): (NodeId, NodeId),
    us: NodeId,
    newest: Option<ChannelId>,
) -> Restored {
    let is_theirs = |channel: ChannelId| {
        (channel.payer, channel.payee) == (payer, payee) && newest.is_none_or(|newest| newest == channel)
    };
    let known = journal.channel(payer, payee).filter(|(channel, _)| is_theirs(*channel));
    let ceilings = journal.ceilings().filter(|(channel, _)| payer == us && is_theirs(*channel));
    let held = journal.held().filter(|receipt| payee == us && is_theirs(receipt.channel()));
    let state = |(id, known): (ChannelId, KnownChannel)| ChannelState {
        nonce: id.nonce,
        deposit: known.deposit,
        redeemed: known.redeemed,
        closing: known.closing,
    };
    Restored {
        channel: known.map(state),
        ceiling: ceilings.max_by_key(|(channel, _)| channel.nonce),
        held: held.max_by_key(|receipt| receipt.channel().nonce).copied(),
        standing: journal.standing(if payer == us { payee } else { payer }),
    }
}

/// Keeps what the ledger said, for when it is away. Where it cannot be kept, it is asked for again.
async fn remember(journal: &Desk<Journal>, channel: ChannelId, state: &ChannelState) {
    let known = KnownChannel { deposit: state.deposit, redeemed: state.redeemed, closing: state.closing };
    let record = Record::Channel { channel, known };
    if !matches!(journal.ask(move |journal| journal.commit(&[record])).await, Ok(Ok(()))) {
        tracing::debug!(payer = %channel.payer, payee = %channel.payee, channel.nonce, "a channel was not noted");
    }
}

fn state(id: ChannelId, channel: &Channel) -> ChannelState {
    ChannelState {
        nonce: id.nonce,
        deposit: channel.deposit,
        redeemed: channel.redeemed,
        closing: channel.phase != Phase::Open,
    }
}

fn newest_channel(
    ledger: &mut Box<dyn Ledger>,
    payer: NodeId,
    payee: NodeId,
) -> Result<Option<(ChannelId, Channel)>, Error> {
    let Some(nonce) = ledger.latest_nonce(payer, payee)? else { return Ok(None) };
    let id = ChannelId { payer, payee, nonce };
    // A closed channel is history: the next payment opens the next one.
    let channel = usable(ledger, id)?.filter(|channel| channel.phase != Phase::Closed);
    Ok(channel.map(|channel| (id, channel)))
}

/// A channel whose receipts are signed with the key that its payer is named after, which is how routers sign and check them. What
/// is signed so on another one the ledger would not pay: for a router it is not there.
pub(super) fn usable(ledger: &mut Box<dyn Ledger>, id: ChannelId) -> Result<Option<Channel>, Error> {
    let Some(channel) = ledger.channel(id)? else { return Ok(None) };
    let is_usable = channel.phase == Phase::Closed || ledger.channel_signer(id)? == id.payer;
    Ok(is_usable.then_some(channel))
}

/// Brings our newest channel to `payee` to a deposit of `at_least`, by steps of `deposit`; with less in the account, as
/// far as that goes. With nothing in it, the ledger refuses and names the rule. What is left in the account comes last.
fn funded(
    ledger: &mut Box<dyn Ledger>,
    payer: NodeId,
    payee: NodeId,
    deposit: Tokens,
    at_least: Tokens,
) -> Result<(ChannelId, ChannelState, Tokens), Error> {
    let balance = ledger.balance(payer)?;
    let affordable = |wanted: Tokens| if balance == Tokens::ZERO { wanted } else { wanted.min(balance) };
    let id = match newest_channel(ledger, payer, payee)?.filter(|(_, channel)| channel.phase == Phase::Open) {
        Some((id, channel)) if channel.deposit >= at_least => {
            return Ok((id, state(id, &channel), balance));
        }
        Some((id, channel)) => {
            ledger.top_up(id, affordable(at_least.saturating_sub(channel.deposit).max(deposit)))?;
            id
        }
        None => ledger.open_channel(payee, affordable(at_least.max(deposit)))?,
    };
    let channel = ledger.channel(id)?.unwrap_or_else(|| Channel::open(Tokens::ZERO));
    Ok((id, state(id, &channel), ledger.balance(payer)?))
}

/// Redeems the best receipt of each channel and remembers what was paid, a few at a time. Returns what each brought, and why not
/// all were brought to the ledger.
async fn redeem_held(
    journal: &Desk<Journal>,
    ledger: &LedgerDesk,
    payer: Option<NodeId>,
    urgency: Urgency,
) -> (Vec<(ChannelId, Tokens)>, Option<Failed>) {
    let wanted = move |receipt: &&Receipt| payer.is_none_or(|payer| receipt.channel().payer == payer);
    let waiting = move |journal: &mut Journal| -> Vec<Receipt> {
        let held = journal.held().filter(wanted);
        held.filter(|receipt| receipt.amount() > journal.redeemed(&receipt.channel())).copied().collect()
    };
    let mut paid = Vec::new();
    let receipts = match journal.ask(waiting).await {
        Ok(receipts) => receipts,
        Err(error) => return (paid, Some(error.to_string())),
    };
    let (mut left, mut size, end) = (&receipts[..], 1, clock() + ROUND);
    while !left.is_empty() {
        let began = clock();
        if began >= end {
            return (paid, Some(TOO_SLOW.to_owned()));
        }
        let (piece, rest) = left.split_at(size.min(left.len()));
        let asked = piece.to_vec();
        let outcomes = match ledger.hand_in(urgency, move |ledger| brought(ledger, &asked)).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(error)) => return (paid, Some(error.to_string())),
            Err(error) => return (paid, Some(error.to_string())),
        };
        note_brought(journal, piece, &outcomes, &mut paid).await;
        size = if clock().saturating_duration_since(began) < PIECE_TIME { (size * 2).min(PIECE_MAX) } else { 1 };
        left = rest;
    }
    (paid, None)
}

/// What became of a receipt that was brought to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brought {
    /// It was paid so much.
    Paid(Tokens),
    /// It had been paid before, by whoever kept it for us, or the journal lost that: nothing is missing.
    PaidBefore,
    /// It was refused, and the channel's record does not say that it is paid.
    Refused(Forbidden),
}

/// Brings receipts to the ledger. Why it refuses one is its word alone, and proves nothing: whether a receipt was paid the channel's
/// record says.
fn brought(ledger: &mut Box<dyn Ledger>, receipts: &[Receipt]) -> Result<Vec<Brought>, Error> {
    let answers = ledger.redeem_many(receipts)?;
    let outcomes = receipts.iter().zip(answers).map(|(receipt, answer)| match answer {
        Ok(amount) => Brought::Paid(amount),
        Err(refusal) => match ledger.channel(receipt.channel()) {
            Ok(Some(channel)) if is_paid(&channel, receipt) => Brought::PaidBefore,
            Ok(_) | Err(_) => Brought::Refused(refusal),
        },
    });
    Ok(outcomes.collect())
}

async fn note_brought(
    journal: &Desk<Journal>,
    receipts: &[Receipt],
    outcomes: &[Brought],
    paid: &mut Vec<(ChannelId, Tokens)>,
) {
    let mut records = Vec::new();
    for (receipt, outcome) in receipts.iter().zip(outcomes) {
        let channel = receipt.channel();
        match outcome {
            Brought::Paid(amount) => paid.push((channel, *amount)),
            Brought::PaidBefore => {}
            Brought::Refused(refusal) => {
                tracing::warn!(payer = %channel.payer, %refusal, "a receipt was not redeemed");
                continue;
            }
        }
        records.push(Record::Redeemed { channel, amount: receipt.amount() });
    }
    // If this is lost, the ledger says next time that the receipt was redeemed.
    match journal.ask(move |journal| journal.commit(&records)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a redemption was not noted"),
        Err(error) => tracing::warn!(%error, "a redemption was not noted"),
    }
}

/// Whether a channel's record says that a receipt is paid.
fn is_paid(channel: &Channel, receipt: &Receipt) -> bool {
    channel.redeemed >= receipt.amount()
}

/// Whether a channel's record says that nothing more is to be had for a receipt. Only then it may be forgotten: that the ledger
/// refuses it is not enough.
pub(super) fn is_worthless(channel: &Channel, receipt: &Receipt) -> bool {
    channel.phase == Phase::Closed || is_paid(channel, receipt)
}

fn looked_up(link: LinkId, channel: ChannelId, found: Channel) -> Done {
    match found.phase {
        Phase::Closed => Done::Closed { link, channel, state: found },
        Phase::Open | Phase::Closing { .. } => Done::Channel { link, channel, state: state(channel, &found) },
    }
}

/// The ledger could not be asked, or a rule forbids what it was asked.
pub(super) fn ledger_failed(what: &'static str, error: &Error) -> Done {
    match error {
        Error::Unavailable(_) => Done::LedgerFailed { what, error: error.to_string() },
        Error::Refused(_) | Error::NoKey => Done::Warning(format!("{what}: {error}")),
    }
}

/// Its desk is gone, or has too much to do.
pub(super) fn desk_failed(what: &'static str, error: &dyn std::fmt::Display) -> Done {
    Done::LedgerFailed { what, error: error.to_string() }
}

#[cfg(test)]
mod tests {
    use ledger_client::UnixTime;
    use metering::AccountKey;

    use super::super::keeping::{Watched, look_at_one, worthless_one};
    use super::super::stub::Stub;
    use super::*;

    fn tokens(amount: u128) -> Tokens {
        Tokens::new(amount).unwrap()
    }

    fn receipt(nonce: u64) -> Receipt {
        let key = AccountKey::from_bytes(&[1; 32]).unwrap();
        let channel = ChannelId { payer: key.node_id(), payee: NodeId([2; 20]), nonce };
        let domain = metering::LedgerDomain { chain_id: 0, contract: NodeId([9; 20]) };
        Receipt::sign(&key, &domain, channel, tokens(30), [0; 32])
    }

    fn refusals() -> Vec<Forbidden> {
        let (account, time) = (NodeId([2; 20]), UnixTime::from_seconds(1_000_000));
        vec![
            Forbidden::ReceiptAlreadyRedeemed { amount: tokens(30) },
            Forbidden::TotalWentBackwards { total: tokens(30), redeemed: tokens(31) },
            Forbidden::ChannelClosed,
            Forbidden::UnknownChannel,
            Forbidden::ReceiptSignatureInvalid,
            Forbidden::CloseAlreadyStarted { exit: time },
            Forbidden::CloseNotStarted,
            Forbidden::NotPayee { by: account },
            Forbidden::NotPayer { by: account },
            Forbidden::AmountIsZero,
            Forbidden::InsufficientBalance { account, balance: tokens(0), amount: tokens(30) },
            Forbidden::SequenceAlreadyUsed { account, sequence: 1, next: 2 },
            Forbidden::HeadDiffers { size: 1 },
        ]
    }

    /// Whoever serves the ledger says no as it likes; of what it can prove there is the record.
    #[test]
    fn whatever_the_ledger_refuses_a_receipt_is_only_done_with_when_its_channels_record_says_so() {
        let exit = UnixTime::from_seconds(1);
        let phases = [Phase::Open, Phase::Closing { exit }, Phase::Closed];
        let redeemed = [0, 29, 30, 31].map(tokens);
        let of = |phase| redeemed.map(|redeemed| Some(Channel { redeemed, phase, ..Channel::open(tokens(50)) }));
        let records: Vec<Option<Channel>> = phases.into_iter().flat_map(of).chain([None]).collect();
        let (receipt, mut forgotten) = (receipt(1), 0);
        for refusal in refusals() {
            for record in &records {
                let mut ledger: Box<dyn Ledger> = Box::new(Stub::new(*record, Some(refusal)));
                let paid = record.is_some_and(|record| record.redeemed >= tokens(30));
                let over = paid || record.is_some_and(|record| record.phase == Phase::Closed);
                let outcome = if paid { Brought::PaidBefore } else { Brought::Refused(refusal) };
                assert_eq!(brought(&mut ledger, &[receipt]).unwrap(), [outcome], "{refusal} {record:?}");
                let worthless = worthless_one(&mut ledger, &(receipt.channel(), Some(receipt))).unwrap();
                assert_eq!(worthless.is_some(), over, "{refusal} {record:?}");
                let watched = look_at_one(&mut ledger, &receipt, Duration::MAX, 2).unwrap();
                assert_eq!(watched == Watched::Over, over, "{refusal} {record:?}");
                forgotten += usize::from(over);
            }
        }
        assert_eq!(forgotten, refusals().len() * 8, "of thirteen records eight say that it is over");
    }

    /// With 256 channels that are watched, at 19 s for an answer, that was more than an hour.
    #[tokio::test]
    async fn a_neighbour_waits_for_one_answer_of_a_slow_ledger_and_not_for_a_whole_round() {
        let (stub, gate) = Stub::behind_a_gate(Some(Channel::open(tokens(50))));
        let (desk, thread) = Desk::start("ledger", Box::new(stub) as Box<dyn Ledger>).unwrap();
        let watched: Vec<Receipt> = (1..=256).map(receipt).collect();
        let (theirs, round) = (receipt(1).channel(), desk.clone());
        let round = tokio::spawn(async move {
            one_by_one(&round, watched, |ledger, receipt| look_at_one(ledger, receipt, Duration::ZERO, 0)).await
        });
        let asked = tokio::task::spawn_blocking(move || gate.asked.recv().map(|()| gate));
        let gate = asked.await.unwrap().unwrap();
        let restored = desk.ask(move |ledger| newest_channel(ledger, theirs.payer, theirs.payee));
        // The one that had begun, and the neighbour's.
        for _ in 0..2 {
            gate.answer.send(()).unwrap();
        }
        assert!(restored.await.unwrap().unwrap().is_some());
        assert!(!round.is_finished());
        drop(gate);
        let (looked, failed) = round.await.unwrap();
        assert_eq!((looked.len(), failed), (256, None));
        drop(desk);
        assert!(thread.join().await);
    }
}
