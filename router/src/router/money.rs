//! Channels, receipts and redemption: between the node, the journal and the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ledger_client::{Channel, Error, Ledger, Phase, Refusal as Forbidden};
use metering::{ChannelId, ChannelState, NodeId, Receipt, Restored, Role, Tokens};
use node::LinkId;
use tokio::sync::oneshot;

use super::{Control, Done, Known, LedgerDesk, TRY_AGAIN};
use crate::control::{Redeemed, RedeemedReceipts, Refusal, Response, Unit};
use crate::desk::Desk;
use crate::journal::{Journal, KnownChannel, Record};

/// How long a redemption waits for the last receipts: many round trips, and less than the person's patience.
const SETTLE_TIME: Duration = Duration::from_secs(2);
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
        let ledger = self.ledger.as_ref().map(|desk| desk.ask(move |ledger| newest_channel(ledger, payer, payee)));
        let gathered = async move {
            let (mut channel, mut failed) = (None, None);
            match async { Some(ledger?.await) }.await {
                Some(Ok(Ok(found))) => channel = found,
                Some(Ok(Err(error))) => failed = Some(error.to_string()),
                Some(Err(error)) => failed = Some(error.to_string()),
                None => {}
            }
            let id = channel.map(|(id, _)| id);
            let mut restored = known_of(journal, (payer, payee), us, id).await;
            // Where the ledger is away, what it last said has to do.
            if failed.is_none() {
                restored.channel = channel.map(|(id, channel)| state(id, &channel));
            }
            (restored, channel, failed)
        };
        let done = self.done.clone();
        tokio::spawn(async move {
            let (restored, channel, failed) = gathered.await;
            if let Some((id, channel)) = channel {
                remember(&journal_again, id, &state(id, &channel)).await;
            }
            // The control task is gone only when the router is stopping.
            let restored = Box::new(restored);
            let _stopping = done.send(Done::Restored { link, peer, role, admitted, restored }).await;
            if let Some(error) = failed {
                let _stopping = done.send(Done::LedgerFailed { what: "cannot read the ledger", error }).await;
            }
        });
    }

    /// Makes a receipt durable, and learns how much of its channel was redeemed. What others have signed since their last
    /// write goes with it: many slow neighbours wear the flash no more than one.
    pub(super) fn hold(&mut self, link: LinkId, receipt: Receipt) {
        let settled = self.node.links().filter_map(|view| Some((view.link, view.settlement?)));
        let waiting = settled.filter(|(other, known)| *other != link && known.signed > known.held);
        let links: BTreeMap<ChannelId, LinkId> =
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
            Some(match answer {
                Ok(Ok((channel, state, left))) => Done::Funded { link, channel, state, left },
                Ok(Err(error)) => ledger_failed("cannot lock tokens for a provider", &error),
                Err(error) => desk_failed("cannot lock tokens for a provider", &error),
            })
        });
    }

    /// Asks the ledger for a channel the neighbour speaks of.
    pub(super) fn look_up(&self, link: LinkId, channel: ChannelId) {
        let Some(desk) = &self.ledger else { return };
        self.spawn(desk.ask(move |ledger| usable(ledger, channel)), move |answer| match answer {
            Ok(Ok(found)) => found.map(|found| match found.phase {
                Phase::Closed => Done::Closed { link, channel, state: found },
                Phase::Open | Phase::Closing { .. } => Done::Channel { link, channel, state: state(channel, &found) },
            }),
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
            self.look_up(link, channel);
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
        let unsettled: BTreeSet<NodeId> = self
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
            let response = match redeem_held(&journal, &ledger, payer).await {
                Ok(paid) => {
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
                Err(error) => {
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
        tracing::debug!(?channel, "a channel was not noted");
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

/// Redeems the best receipt of each channel and remembers what was paid. Returns what each brought.
async fn redeem_held(
    journal: &Desk<Journal>,
    ledger: &LedgerDesk,
    payer: Option<NodeId>,
) -> Result<Vec<(ChannelId, Tokens)>, Failed> {
    let wanted = move |receipt: &&Receipt| payer.is_none_or(|payer| receipt.channel().payer == payer);
    let waiting = move |journal: &mut Journal| -> Vec<Receipt> {
        let held = journal.held().filter(wanted);
        held.filter(|receipt| receipt.amount() > journal.redeemed(&receipt.channel())).copied().collect()
    };
    let receipts = journal.ask(waiting).await.map_err(|error| error.to_string())?;
    if receipts.is_empty() {
        return Ok(Vec::new());
    }
    let asked = receipts.clone();
    let answers = ledger.ask(move |ledger| ledger.redeem_many(&asked)).await.map_err(|error| error.to_string())?;
    let answers = answers.map_err(|error| error.to_string())?;
    let (mut paid, mut records) = (Vec::new(), Vec::new());
    for (receipt, answer) in receipts.iter().zip(answers) {
        match answer {
            Ok(amount) => {
                paid.push((receipt.channel(), amount));
                records.push(Record::Redeemed { channel: receipt.channel(), amount: receipt.amount() });
            }
            // Redeemed before, by whoever kept it for us, or the journal lost it: nothing is missing.
            Err(Forbidden::ReceiptAlreadyRedeemed { .. } | Forbidden::TotalWentBackwards { .. }) => {
                records.push(Record::Redeemed { channel: receipt.channel(), amount: receipt.amount() });
            }
            Err(refusal) => tracing::warn!(payer = %receipt.channel().payer, %refusal, "a receipt was not redeemed"),
        }
    }
    // If this is lost, the ledger says next time that the receipt was redeemed.
    match journal.ask(move |journal| journal.commit(&records)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a redemption was not noted"),
        Err(error) => tracing::warn!(%error, "a redemption was not noted"),
    }
    Ok(paid)
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
