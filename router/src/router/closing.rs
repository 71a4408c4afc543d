//! How channels end that we pay on: by agreement at the owner's word; by notice where the payee does not answer, or where a
//! channel has not been used for a month. What a notice gives back is taken when it is over.

use std::time::{Duration, Instant};

use ledger_client::{Channel, Error, Ledger, Phase, UnixTime};
use metering::{ChannelId, Close, NodeId, Role, SortedSet, Tokens};
use node::LinkId;
use tokio::sync::oneshot;

use super::money::{NAME_A_LEDGER, desk_failed, one_by_one, refuse};
use super::{Control, Done, history};
use crate::control::{Closed, Response};
use crate::journal::{Journal, Record};

/// How long it is waited for the payee's report and for what is still to be signed.
const SETTLE_WITHIN: Duration = Duration::from_secs(6);
/// How long the payee has to take the offer to the ledger. Then notice is given.
const AGREE_WITHIN: Duration = Duration::from_secs(10);
/// How often the ledger is asked whether it has.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Days after which a channel that was not used is closed.
const UNUSED_DAYS: u32 = 30;

/// A channel whose owner waits for its end.
pub(super) struct Closing {
    link: LinkId,
    channel: ChannelId,
    began: Instant,
    look_at: Instant,
    offered: bool,
    answer: oneshot::Sender<Response>,
}

/// What became of a channel that is ended without the payee.
pub(super) enum Ending {
    /// Notice was given.
    Notice(UnixTime),
    /// The notice is over, and so much came back.
    Back(Tokens),
}

impl Control {
    /// Ends our channel to a neighbour, and answers when it has ended or notice was given.
    pub(super) fn close(&mut self, now: Instant, payee: NodeId, answer: oneshot::Sender<Response>) {
        if self.ledger.is_none() {
            return refuse(Some(answer), "no ledger is configured".to_owned(), NAME_A_LEDGER);
        }
        let link = self.link_to(payee);
        let view = self.node.links().find(|view| Some(view.link) == link);
        let up = view.as_ref().is_some_and(|view| view.up && view.admitted);
        let paying = view.and_then(|view| view.settlement).filter(|known| known.role == Role::Subscriber);
        match (link, paying.and_then(|known| known.channel)) {
            (Some(link), Some(channel)) if up => {
                self.node.handle_flush(now);
                self.closings.push(Closing { link, channel, began: now, look_at: now, offered: false, answer });
            }
            // Nobody to agree with.
            (link, channel) => {
                self.give_notice(payee, answer);
                if let Some((link, channel)) = link.zip(channel) {
                    self.look_up(link, channel);
                }
            }
        }
    }

    /// Goes on with the channels whose owner waits.
    pub(super) fn look_at_closings(&mut self, now: Instant) {
        let unsettled = self.node.links().filter(|view| view.settlement.is_some_and(|known| !known.settled));
        let owing: SortedSet<LinkId> = unsettled.map(|view| view.link).collect();
        let mut late = Vec::new();
        for closing in std::mem::take(&mut self.closings) {
            let mut closing = closing;
            if !closing.offered && (!owing.contains(&closing.link) || now >= closing.began + SETTLE_WITHIN) {
                closing.offered = self.node.handle_close(now, closing.link);
            }
            if closing.offered && now >= closing.look_at {
                closing.look_at = now + LOOK_AGAIN;
                self.look_up(closing.link, closing.channel);
            }
            if now >= closing.began + AGREE_WITHIN { late.push(closing) } else { self.closings.push(closing) }
        }
        for closing in late {
            self.give_notice(closing.channel.payee, closing.answer);
            // In this order at the ledger's desk: the exchange learns what became of it.
            self.look_up(closing.link, closing.channel);
        }
    }

    /// The ledger has closed a channel.
    pub(super) fn handle_closed(&mut self, now: Instant, link: LinkId, id: ChannelId, channel: &Channel) {
        if self.parties(link) == Some((id.payer, id.payee)) {
            self.node.handle_channel_closed(now, link, id.nonce);
        }
        let refunded = channel.deposit.saturating_sub(channel.redeemed);
        for closing in self.closings.extract_if(.., |closing| closing.channel == id).collect::<Vec<_>>() {
            let closed = self.closed(id, Some(refunded), None);
            // Whoever asked may have gone.
            let _gone = closing.answer.send(Response::Closed(closed));
        }
    }

    /// Takes a payer's offer to the ledger: what it offers is no less than what we hold.
    ///
    /// A router that has just lost its journal waits until its neighbours have said what they keep of that channel: the offer comes
    /// again.
    pub(super) fn accept_close(&mut self, now: Instant, link: LinkId, close: Close) {
        if self.keeping.doubts(now, &close.channel()) {
            return self.node.handle_close_failed(now, link);
        }
        let Some(desk) = &self.ledger else { return };
        let (journal, channel, total) = (self.journal.clone(), close.channel(), close.total());
        let asked = desk.ask(move |ledger| {
            ledger.mutual_close(close)?;
            ledger.channel(channel)
        });
        self.spawn(
            async move {
                let answer = asked.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                let record = Record::Redeemed { channel, amount: total };
                // If this is lost, the ledger says next time that the channel is closed.
                let written = journal.ask(move |journal: &mut Journal| journal.commit(&[record])).await;
                if !matches!(written, Ok(Ok(()))) {
                    tracing::warn!(payer = %channel.payer, payee = %channel.payee, channel.nonce, "the end of a channel was not noted");
                }
                Ok(answer)
            },
            move |answer: Result<Option<Channel>, String>| match answer {
                Ok(found) => found.map(|state| Done::Closed { link, channel, state }),
                Err(error) => Some(Done::CloseFailed { link, channel, error }),
            },
        );
    }

    fn give_notice(&self, payee: NodeId, answer: oneshot::Sender<Response>) {
        let Some(desk) = &self.ledger else { return };
        let us = self.node.id();
        let asked = desk.ask(move |ledger| noticed(ledger, us, payee));
        let empty = self.closed(ChannelId { payer: us, payee, nonce: 0 }, None, None);
        tokio::spawn(async move {
            let refused = |cause: String| {
                let next = "`waybill wallet` lists the channels; try again when the ledger is reachable";
                Response::Failed(crate::control::Refusal { cause, next: Some(next.to_owned()) })
            };
            let response = match asked.await {
                Ok(Ok(Some((channel, Ending::Notice(exit))))) => {
                    Response::Closed(Closed { channel, notice_until: Some(exit.seconds()), ..empty })
                }
                Ok(Ok(Some((channel, Ending::Back(amount))))) => {
                    Response::Closed(Closed { channel, refunded: Some(amount), ..empty })
                }
                Ok(Ok(None)) => refused("there is no open channel to this neighbour".to_owned()),
                Ok(Err(error)) => refused(error.to_string()),
                Err(error) => refused(error.to_string()),
            };
            let _gone = answer.send(response);
        });
    }

    fn closed(&self, channel: ChannelId, refunded: Option<Tokens>, notice_until: Option<u64>) -> Closed {
        let neighbour =
            self.link_to(channel.payee).map_or_else(|| channel.payee.to_string(), |link| self.name_of(link));
        Closed { unit: self.money.unit.clone(), neighbour, channel, refunded, notice_until }
    }

    /// Gives notice on channels that were not used for a month, and takes back what notices have set free.
    pub(super) fn look_at_unused(&self) {
        let Some(desk) = self.ledger.clone() else { return };
        let (us, today) = (self.node.id(), history::today());
        // Whoever is configured may be back tomorrow, whatever the clock says.
        let in_use: SortedSet<NodeId> = self.links.values().filter_map(|known| Some(known.named()?.0)).collect();
        let known = self.journal.ask(move |journal| used_since(journal, today.saturating_sub(UNUSED_DAYS)));
        self.spawn(
            async move {
                let mut used = known.await.map_err(|error| error.to_string())?;
                used.iter_mut().for_each(|used| used.extend(in_use.iter().copied()));
                let all = desk.ask_later(move |ledger| ledger.channels_of(us)).await;
                let mut all = all.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                all.retain(|(id, _)| id.payer == us);
                let (ended, failed) = one_by_one(&desk, all, move |ledger, (id, channel)| {
                    end_unused(ledger, *id, channel.phase, used.as_ref())
                })
                .await;
                let ended: Vec<_> = ended.into_iter().flatten().collect();
                match failed {
                    Some(error) if ended.is_empty() => Err(error),
                    Some(_) | None => Ok(ended),
                }
            },
            |ended: Result<Vec<(ChannelId, Ending)>, String>| {
                let done = ended.map_or_else(
                    |error| desk_failed("cannot end channels that are not used", &error),
                    |ended| Done::Unused { ended },
                );
                Some(done)
            },
        );
    }

    /// Tells the owner of them.
    pub(super) fn handle_unused(&mut self, ended: Vec<(ChannelId, Ending)>) {
        for (channel, what) in ended {
            self.refresh_channel(channel);
            let decimals = self.money.unit.decimals;
            let to = self.closed(channel, None, None).neighbour;
            self.warn(match what {
                Ending::Notice(until) => format!(
                    "the channel to {to} was not used for {UNUSED_DAYS} days: notice was given, and what is in it comes back \
                     after {} UTC",
                    history::moment(until.seconds())
                ),
                Ending::Back(amount) => {
                    format!("{} {} came back from the channel to {to}", amount.display(decimals), self.money.unit.symbol)
                }
            });
        }
    }
}

/// With whom anything was agreed since a day. `None`: the journal does not reach back that far.
fn used_since(journal: &Journal, first: u32) -> Option<SortedSet<NodeId>> {
    let (oldest, ..) = journal.days().next()?;
    let since = journal.days().filter(|(day, ..)| *day >= first);
    (oldest < first).then(|| since.map(|(_, peer, _)| peer).collect())
}

/// Gives notice, or takes back what is free because an earlier notice is over.
fn noticed(ledger: &mut Box<dyn Ledger>, us: NodeId, payee: NodeId) -> Result<Option<(ChannelId, Ending)>, Error> {
    let Some(nonce) = ledger.latest_nonce(us, payee)? else { return Ok(None) };
    let id = ChannelId { payer: us, payee, nonce };
    match ledger.channel(id)?.map(|channel| channel.phase) {
        Some(Phase::Open) => Ok(Some((id, Ending::Notice(ledger.start_close(id)?)))),
        Some(Phase::Closing { exit }) => match ledger.finalize(id) {
            Ok(amount) => Ok(Some((id, Ending::Back(amount)))),
            Err(Error::Refused(_)) => Ok(Some((id, Ending::Notice(exit)))),
            Err(error) => Err(error),
        },
        Some(Phase::Closed) | None => Ok(None),
    }
}

/// Gives notice on a channel of ours that is not used, or takes back what is free. Without knowing who was used, only what is closing
/// already is taken back.
fn end_unused(
    ledger: &mut Box<dyn Ledger>,
    id: ChannelId,
    phase: Phase,
    used: Option<&SortedSet<NodeId>>,
) -> Result<Option<(ChannelId, Ending)>, Error> {
    match phase {
        Phase::Open if used.is_some_and(|used| !used.contains(&id.payee)) => match ledger.start_close(id) {
            Ok(exit) => Ok(Some((id, Ending::Notice(exit)))),
            // The others may still be ended.
            Err(Error::Refused(refusal)) => {
                tracing::warn!(payer = %id.payer, payee = %id.payee, id.nonce, %refusal, "no notice was given");
                Ok(None)
            }
            Err(error) => Err(error),
        },
        Phase::Closing { .. } => match ledger.finalize(id) {
            Ok(amount) => Ok(Some((id, Ending::Back(amount)))),
            // The notice is not over.
            Err(Error::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        },
        Phase::Open | Phase::Closed => Ok(None),
    }
}

#[cfg(all(test, feature = "ledger-host"))]
mod tests {
    use ledger_client::{Embedded, Genesis, system_clock};
    use metering::{AccountKey, LedgerDomain};

    use super::*;
    use crate::journal::Day;

    const USED: NodeId = NodeId([2; 20]);
    const UNUSED: NodeId = NodeId([3; 20]);

    fn tokens(amount: u128) -> Tokens {
        Tokens::new(amount).expect("small")
    }

    fn all_ended(
        ledger: &mut Box<dyn Ledger>,
        us: NodeId,
        used: Option<&SortedSet<NodeId>>,
    ) -> Vec<(ChannelId, Ending)> {
        let all = ledger.channels_of(us).expect("it is there").into_iter().filter(|(id, _)| id.payer == us);
        all.filter_map(|(id, channel)| end_unused(ledger, id, channel.phase, used).expect("it is there")).collect()
    }

    #[test]
    fn only_channels_nobody_uses_are_ended_and_what_is_in_them_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let [treasurer, us, unused] = [9, 1, 3].map(|seed| AccountKey::from_bytes(&[seed; 32]).unwrap());
        let genesis = Genesis::new("Hilltop", "HILL", 6, treasurer.node_id(), system_clock()(), [1; 16]).unwrap();
        let path = directory.path().join("ledger");
        let created = Embedded::create(&path, &genesis.with_close_notice(0), system_clock()).unwrap();
        let mut treasurer = created.signed_by(treasurer);
        let [us_id, unused_id] = [us.node_id(), unused.node_id()];
        for account in [us_id, unused_id] {
            treasurer.mint(account, tokens(100)).unwrap();
        }
        let open = |key| Embedded::open(&path, system_clock()).unwrap().signed_by(key);
        let mut ledger: Box<dyn Ledger> = Box::new(open(us));
        ledger.open_channel(USED, tokens(30)).unwrap();
        ledger.open_channel(unused_id, tokens(20)).unwrap();
        // Theirs to end, not ours.
        open(unused).open_channel(us_id, tokens(10)).unwrap();
        assert!(all_ended(&mut ledger, us_id, None).is_empty(), "a young journal cannot tell");
        let used = SortedSet::from([USED]);
        let ended = all_ended(&mut ledger, us_id, Some(&used));
        assert!(matches!(&ended[..], [(id, Ending::Notice(_))] if id.payee == unused_id));
        // What its owner closed comes back however young the journal is.
        let ended = all_ended(&mut ledger, us_id, None);
        assert!(matches!(&ended[..], [(id, Ending::Back(amount))] if id.payee == unused_id && *amount == tokens(20)));
        assert!(all_ended(&mut ledger, us_id, Some(&used)).is_empty());
        assert_eq!(ledger.balance(us_id).unwrap(), tokens(70));
    }

    #[test]
    fn a_journal_that_does_not_reach_back_a_month_says_nothing_about_use() {
        let directory = tempfile::tempdir().unwrap();
        let domain = LedgerDomain { chain_id: 0, contract: NodeId([0; 20]) };
        let (mut journal, _) = Journal::open(&directory.path().join("journal"), &domain).unwrap();
        let line = Day { segments: 1, ..Day::default() };
        assert_eq!(used_since(&journal, 100), None);
        journal.commit(&[Record::Day { day: 100, peer: USED, line }]).unwrap();
        assert_eq!(used_since(&journal, 100), None);
        journal.commit(&[Record::Day { day: 99, peer: UNUSED, line }]).unwrap();
        assert_eq!(used_since(&journal, 100), Some(SortedSet::from([USED])));
    }
}
