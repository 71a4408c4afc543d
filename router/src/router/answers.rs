//! What the router answers when asked: status, tables, redemption.

use std::time::{Duration, Instant};

use ledger_client::{Error, Ledger, Phase};
use metering::{ChannelId, NodeId, Receipt, Role, Snapshot, SortedMap, Tokens};
use node::ways::WayView;
use node::{Access, DropReason, LinkId, PrefixPair};
use tokio::sync::oneshot;

use super::history::civil;
use super::money::NAME_A_LEDGER;
use super::strangers::Origin;
use super::{Control, Known};
use crate::config;
use crate::control::{
    Direction, KeptBy, KeptLine, LinkState, Meter, Meters, Neighbour, ReceiptLine, Receipts, Refusal, Request,
    Response, Route, Routes, Status, TermsLine, Unit, Wallet, WalletChannel, Way, Why, WhyDay,
};
use crate::journal::{Day, Journal, Record, Totals};

impl Control {
    pub(super) fn handle_request(&mut self, now: Instant, request: Request, answer: oneshot::Sender<Response>) {
        let response = match request {
            Request::Status => Response::Status(Box::new(self.status(now))),
            Request::Neighbours => Response::Neighbours(self.neighbours(now)),
            Request::Routes => Response::Routes(self.routes()),
            Request::Meters => Response::Meters(self.meters()),
            Request::Why { neighbour, days } => match self.account_of(&neighbour) {
                Some(peer) => return self.why(peer, days, answer),
                None => no_neighbour(&neighbour),
            },
            Request::Statement { month } => return self.statement(month, answer),
            Request::Receipts => return self.receipts(answer),
            Request::Wallet => return self.wallet(answer),
            Request::Redeem { neighbour: None } => return self.redeem(now, None, Some(answer)),
            Request::Redeem { neighbour: Some(name) } => match self.account_of(&name) {
                Some(payer) => return self.redeem(now, Some(payer), Some(answer)),
                None => no_neighbour(&name),
            },
            Request::Close { neighbour } => match self.account_of(&neighbour) {
                Some(payee) => return self.close(now, payee, answer),
                None => no_neighbour(&neighbour),
            },
            Request::Gateway | Request::Internet | Request::Reload | Request::Shutdown => {
                Response::Failed(Refusal { cause: "only `waybill up` can do this".to_owned(), next: None })
            }
        };
        // Whoever asked may have gone.
        let _gone = answer.send(response);
    }

    fn account_of(&self, name: &str) -> Option<NodeId> {
        let id: Option<NodeId> = name.parse().ok();
        let peers = self.links.values().filter_map(|known| known.peer.as_ref());
        peers
            .map(|peer| (peer.card.account(), &peer.name))
            .find(|(account, known)| *known == name || Some(*account) == id)
            .map(|(account, _)| account)
    }

    fn status(&self, now: Instant) -> Status {
        let snapshots: Vec<Snapshot> = self.node.links().filter_map(|link| link.settlement).collect();
        let sum = |of: &dyn Fn(&Snapshot) -> Tokens| {
            snapshots.iter().fold(Tokens::ZERO, |sum, snapshot| sum.saturating_add(of(snapshot)))
        };
        let drops = &self.shared.drops;
        let counted = DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), drops.packets(*reason)));
        Status {
            name: self.name.clone(),
            id: self.node.id(),
            mesh_address: self.node.address(),
            prefix: {
                let (prefix, len) = metering::mesh_prefix(&self.identity.wireguard_key());
                format!("{prefix}/{len}")
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.saturating_duration_since(self.started).as_secs(),
            links_up: count(self.node.links().filter(|link| link.up && link.admitted).count()),
            links: count(self.links.len()),
            routes: count(self.node.routes().filter(|route| route.selected).count()),
            unit: self.money.unit.clone(),
            owed_by_us: sum(&|snapshot| snapshot.owed_by_us),
            owed_to_us: sum(&|snapshot| snapshot.owed_to_us),
            value_at_risk: sum(&Snapshot::at_risk_in_all),
            drops: counted.filter(|(_, packets)| *packets > 0).collect(),
            // It was opened at the start, and has not failed since.
            ledger_reachable: self.ledger.as_ref().map(|_| self.ledger_reachable.unwrap_or(true)),
            ledger_distrusted: self.witness.found(),
            membership: self.members.state(),
            gateway: None,
            internet: None,
            warnings: super::clock::wrong().into_iter().chain(self.warnings.iter().cloned()).collect(),
        }
    }

    fn neighbours(&self, now: Instant) -> Vec<Neighbour> {
        #[cfg(feature = "quic")]
        let is_cut_off = Known::is_cut_off;
        #[cfg(not(feature = "quic"))]
        let is_cut_off = |_: &Known| false;
        let views: SortedMap<LinkId, node::LinkView> = self.node.links().map(|view| (view.link, view)).collect();
        let heard = self.node.neighbours().filter(|view| view.cost.is_finite());
        let heard: SortedMap<u32, node::NeighbourView> = heard.map(|view| (view.interface.0, view)).collect();
        let lines = self.links.iter().map(|(link, known)| {
            let view = views.get(link);
            let admitted = view.is_some_and(|view| view.admitted && view.up);
            Neighbour {
                name: known.name.clone(),
                id: known.account(),
                link: known.kind().name().to_owned(),
                carrier: if self.shared.by_quic(*link) { "quic" } else { "wireguard" }.to_owned(),
                endpoint: known.status.endpoint.map(|endpoint| endpoint.to_string()),
                state: match (
                    known.status.up && !is_cut_off(known),
                    admitted && (known.neighbour_up || known.is_leaf()),
                ) {
                    (false, _) => LinkState::Down,
                    (true, false) => LinkState::Connecting,
                    (true, true) => LinkState::Up,
                },
                role: self.role(*link, known).to_owned(),
                cost: heard.get(&link.0).map(|view| view.cost.get()),
                rtt_us: self.quic_rtt(*link).or(heard.get(&link.0).and_then(|view| view.rtt)).map(whole_micros),
                last_heard_s: known.last_heard.map(|at| now.saturating_duration_since(at).as_secs()),
                mtu: view.map_or(self.mtu, |view| view.mtu),
                admitted,
                visitor: known.access.is_some_and(|(access, _)| access == Access::Visitor),
                met: known.origin != Origin::Written,
                ways: self.shared.ways(*link).iter().map(way).collect(),
            }
        });
        lines.collect()
    }

    #[cfg(feature = "quic")]
    fn quic_rtt(&self, link: LinkId) -> Option<Duration> {
        self.shared.quic.load().as_ref()?.counters(link)?.rtt
    }

    #[cfg(not(feature = "quic"))]
    fn quic_rtt(&self, _link: LinkId) -> Option<Duration> {
        None
    }

    fn routes(&self) -> Routes {
        let mut routes: Vec<(PrefixPair, Route)> = Vec::new();
        for view in self.node.routes() {
            let via = view.neighbour.map(|(interface, _)| self.name_of(LinkId(interface.0)));
            let route = Route {
                prefix: view.pair.to_string(),
                via,
                metric: view.metric.0,
                price: view.price.map(|price| u64::from(price.get())),
                router_id: view.router_id.to_string(),
                selected: view.selected,
            };
            routes.push((view.pair, route));
        }
        routes.sort_by_key(|(pair, route)| (*pair, !route.selected, route.metric));
        Routes { unit: self.money.unit.clone(), routes: routes.into_iter().map(|(_, route)| route).collect() }
    }

    fn meters(&self) -> Meters {
        let lines = self.node.links().filter_map(|view| {
            let known = self.links.get(&view.link)?;
            let totals = self.totals_with(view.link, known);
            let snapshot = view.settlement;
            let theirs = snapshot.filter(|snapshot| snapshot.agreed).map(|snapshot| snapshot.theirs);
            let amount = |of: &dyn Fn(&Snapshot) -> Tokens| snapshot.as_ref().map_or(Tokens::ZERO, of);
            let at_risk = amount(&Snapshot::at_risk_in_all);
            Some(Meter {
                neighbour: known.name.clone(),
                id: known.account(),
                role: self.role(view.link, known).to_owned(),
                sent_bytes: totals.sent,
                received_bytes: totals.received,
                reported_sent_bytes: theirs.map(|theirs| theirs.sent),
                reported_received_bytes: theirs.map(|theirs| theirs.received),
                owed_by_us: amount(&|snapshot| snapshot.owed_by_us),
                owed_to_us: amount(&|snapshot| snapshot.owed_to_us),
                signed: amount(&|snapshot| snapshot.signed),
                receipts_signed: snapshot.map_or(0, |snapshot| snapshot.receipts_signed),
                receipts_verified: snapshot.map_or(0, |snapshot| snapshot.receipts_verified),
                value_at_risk: at_risk,
                sentence: self.sentence(snapshot.as_ref()),
            })
        });
        Meters { unit: self.money.unit.clone(), meters: lines.collect() }
    }

    /// What each day with a neighbour came to.
    fn why(&mut self, peer: NodeId, days: u32, answer: oneshot::Sender<Response>) {
        self.look_at_history();
        let (today, line) = self.history.today(peer);
        let Some((link, known)) = self.links.iter().find(|(_, known)| known.account() == peer) else { return };
        let snapshot = self.node.links().find(|view| view.link == *link).and_then(|view| view.settlement);
        let terms = snapshot.and_then(|snapshot| {
            let terms = snapshot.terms?;
            Some(TermsLine {
                agreed: snapshot.agreed,
                price_up: terms.price_up.get(),
                price_down: terms.price_down.get(),
                loss_allowance_ppm: terms.loss_allowance_ppm,
            })
        });
        let mut why = Why {
            unit: self.money.unit.clone(),
            neighbour: known.name.clone(),
            id: peer,
            role: self.role(*link, known).to_owned(),
            terms,
            arrears: snapshot.map_or(Tokens::ZERO, |snapshot| snapshot.arrears),
            window: snapshot.map_or(Tokens::ZERO, |snapshot| snapshot.window),
            sentence: self.sentence(snapshot.as_ref()),
            days: Vec::new(),
        };
        let first = today.saturating_sub(days.saturating_sub(1));
        let earlier = self.journal.ask(move |journal| -> Vec<(u32, Day)> {
            let with_peer = journal.days().rev().filter(|(_, known, _)| *known == peer);
            let days = with_peer.map(|(day, _, line)| (day, line));
            // A clock that was ahead has left days that are still to come.
            days.filter(|(day, _)| *day >= first && *day != today).collect()
        });
        tokio::spawn(async move {
            let response = match earlier.await {
                Ok(earlier) => {
                    let lines = [(today, line)].into_iter().filter(|(_, line)| *line != Day::default()).chain(earlier);
                    why.days = lines.map(|(day, line)| why_day(day, &line)).collect();
                    Response::Why(Box::new(why))
                }
                Err(error) => Response::Failed(Refusal { cause: error.to_string(), next: None }),
            };
            let _gone = answer.send(response);
        });
    }

    /// Both sides' worst case, in words (DESIGN section 7).
    fn sentence(&self, snapshot: Option<&Snapshot>) -> String {
        let Unit { symbol, decimals } = &self.money.unit;
        snapshot.map_or_else(
            || "nothing is settled with this neighbour".to_owned(),
            |snapshot| snapshot.worst_case(*decimals, symbol),
        )
    }

    /// Billed bytes with this neighbour, in this run and all earlier ones.
    fn totals_with(&self, link: LinkId, known: &Known) -> Totals {
        let before =
            known.peer.as_ref().and_then(|peer| self.totals.get(&peer.card.account()).copied()).unwrap_or_default();
        let count = self.shared.meters.read(link);
        Totals {
            sent: before.sent.saturating_add(count.sent.saturating_sub(known.since.sent)),
            received: before.received.saturating_add(count.received.saturating_sub(known.since.received)),
        }
    }

    /// How those stand who pay us. What is known of others is empty, and costs nothing to write.
    pub(super) fn standing_records(&self) -> Vec<Record> {
        let settled = self.node.links().filter_map(|view| view.settlement);
        settled.map(|snapshot| Record::Standing { peer: snapshot.peer, standing: snapshot.standing }).collect()
    }

    pub(super) fn totals_records(&self) -> Vec<Record> {
        let lines = self.links.iter().filter_map(|(link, known)| {
            // Of whoever is no member nothing is kept: anybody can make accounts.
            known.access.filter(|(_, trades)| *trades)?;
            let peer = known.peer.as_ref()?.card.account();
            let Totals { sent, received } = self.totals_with(*link, known);
            Some(Record::Totals { peer, sent, received })
        });
        lines.collect()
    }

    fn receipts(&self, answer: oneshot::Sender<Response>) {
        let names = self.names();
        let unit = self.money.unit.clone();
        let us = self.node.id();
        let mut lines: SortedMap<ChannelId, ReceiptLine> = SortedMap::new();
        for snapshot in self.node.links().filter_map(|link| link.settlement) {
            let Some(channel) = snapshot.channel else { continue };
            let direction = if channel.payer == us { Direction::WePay } else { Direction::WeArePaid };
            let line = ReceiptLine {
                neighbour: name_in(&names, snapshot.peer),
                channel,
                direction,
                amount: snapshot.signed,
                durable: Tokens::ZERO,
                redeemed: Tokens::ZERO,
                kept_by: Vec::new(),
                receipt: None,
            };
            lines.insert(channel, line);
        }
        let mut kept: SortedMap<ChannelId, Vec<KeptBy>> = SortedMap::new();
        for (link, channel, amount) in self.node.kept() {
            kept.entry(channel).or_default().push(KeptBy { neighbour: self.name_of(link), amount });
        }
        let keeping = self.keeping.all().map(|(receipt, durable)| KeptLine {
            payee: self.person(receipt.channel().payee),
            payer: self.person(receipt.channel().payer),
            channel: receipt.channel(),
            amount: receipt.amount(),
            durable,
            receipt: hex(receipt),
        });
        let keeping = keeping.collect();
        let asked = self.journal.ask(move |journal| with_journal(journal, us, &names, lines));
        tokio::spawn(async move {
            let response = match asked.await {
                Ok(mut receipts) => {
                    for line in &mut receipts {
                        line.kept_by = kept.remove(&line.channel).unwrap_or_default();
                    }
                    Response::Receipts(Receipts { unit, receipts, keeping })
                }
                Err(error) => Response::Failed(Refusal { cause: error.to_string(), next: None }),
            };
            let _gone = answer.send(response);
        });
    }

    fn wallet(&self, answer: oneshot::Sender<Response>) {
        let Some(ledger) = &self.ledger else {
            let next = Some(NAME_A_LEDGER.to_owned());
            let refusal = Refusal { cause: "no ledger is configured".to_owned(), next };
            let _gone = answer.send(Response::Failed(refusal));
            return;
        };
        let (us, unit, names) = (self.node.id(), self.money.unit.clone(), self.names());
        let earned =
            self.node.links().filter_map(|link| link.settlement).filter(|snapshot| snapshot.role == Role::Provider);
        let signed: Vec<(ChannelId, Tokens)> =
            earned.filter_map(|snapshot| Some((snapshot.channel?, snapshot.signed))).collect();
        let asked = ledger.ask(move |ledger| wallet(ledger, us, unit, &names, &signed));
        tokio::spawn(async move {
            let failed = |cause: String| {
                let next = Some("is the ledger's file there and readable?".to_owned());
                Response::Failed(Refusal { cause, next })
            };
            let response = match asked.await {
                Ok(Ok(wallet)) => Response::Wallet(wallet),
                Ok(Err(error)) => failed(error.to_string()),
                Err(error) => failed(error.to_string()),
            };
            let _gone = answer.send(response);
        });
    }

    /// What a neighbour is to us at present.
    pub(super) fn role(&self, link: LinkId, known: &Known) -> &'static str {
        match (&known.peer, self.node.role(link)) {
            (Some(_), Some(Role::Provider)) => config::Role::Subscriber.name(),
            (Some(_), Some(Role::Subscriber)) => config::Role::Provider.name(),
            (Some(_), Some(Role::Peer)) => config::Role::Peer.name(),
            (Some(peer), None) => peer.role.name(),
            (None, _) if known.is_leaf() => "leaf",
            (None, _) => "babel",
        }
    }

    fn names(&self) -> SortedMap<NodeId, String> {
        self.links.values().filter_map(Known::named).collect()
    }
}

impl Known {
    /// The neighbour's account; a leaf has none and shows as zero.
    fn account(&self) -> NodeId {
        self.peer.as_ref().map_or(NodeId([0; 20]), |peer| peer.card.account())
    }
}

fn no_neighbour(name: &str) -> Response {
    let next = Some("`waybill neighbours` lists them".to_owned());
    Response::Failed(Refusal { cause: format!("there is no neighbour {name}"), next })
}

fn why_day(day: u32, line: &Day) -> WhyDay {
    WhyDay {
        day: date(day),
        sent_bytes: line.ours.sent,
        reported_received_bytes: line.theirs.received,
        reported_sent_bytes: line.theirs.sent,
        received_bytes: line.ours.received,
        earned: line.earned,
        spent: line.spent,
        written_off: line.written_off,
        paid_late: line.paid_late,
        agreements: line.segments,
    }
}

/// The day of the Gregorian calendar that is so many days after 1970-01-01.
pub(super) fn date(day: u32) -> String {
    let (year, month, day) = civil(day);
    format!("{year:04}-{month:02}-{day:02}")
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn name_in(names: &SortedMap<NodeId, String>, id: NodeId) -> String {
    names.get(&id).cloned().unwrap_or_else(|| id.to_string())
}

/// Adds what the journal knows, of channels in use and of earlier ones.
fn with_journal(
    journal: &mut Journal,
    us: NodeId,
    names: &SortedMap<NodeId, String>,
    mut lines: SortedMap<ChannelId, ReceiptLine>,
) -> Vec<ReceiptLine> {
    let held = journal.held().map(|receipt| (receipt.channel(), receipt.amount()));
    for (channel, durable) in held.chain(journal.ceilings()) {
        let direction = if channel.payer == us { Direction::WePay } else { Direction::WeArePaid };
        let other = if channel.payer == us { channel.payee } else { channel.payer };
        let known = if direction == Direction::WePay { Tokens::ZERO } else { durable };
        let line = lines.entry(channel).or_insert_with(|| ReceiptLine {
            neighbour: name_in(names, other),
            channel,
            direction,
            amount: known,
            durable,
            redeemed: Tokens::ZERO,
            kept_by: Vec::new(),
            receipt: None,
        });
        line.durable = durable;
        line.receipt = journal.held_on(&channel).map(hex);
        line.amount = line.amount.max(known);
        line.redeemed = journal.redeemed(&channel);
    }
    lines.into_values().collect()
}

/// The receipt as it goes over the wire, in hexadecimal.
fn hex(receipt: &Receipt) -> String {
    receipt.encode().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn wallet(
    ledger: &mut Box<dyn Ledger>,
    us: NodeId,
    unit: Unit,
    names: &SortedMap<NodeId, String>,
    signed: &[(ChannelId, Tokens)],
) -> Result<Wallet, Error> {
    let balance = ledger.balance(us)?;
    let (mut locked, mut earned, mut channels) = (Tokens::ZERO, Tokens::ZERO, Vec::new());
    for (id, channel) in ledger.channels_of(us)? {
        let (direction, other) =
            if id.payer == us { (Direction::WePay, id.payee) } else { (Direction::WeArePaid, id.payer) };
        match direction {
            Direction::WePay => locked = locked.saturating_add(channel.locked()),
            Direction::WeArePaid => {
                let signed = signed.iter().find(|(known, _)| *known == id).map_or(Tokens::ZERO, |(_, amount)| *amount);
                earned = earned.saturating_add(signed.saturating_sub(channel.redeemed));
            }
        }
        channels.push(WalletChannel {
            neighbour: name_in(names, other),
            channel: id,
            direction,
            deposit: channel.deposit,
            redeemed: channel.redeemed,
            exit_time_s: match channel.phase {
                Phase::Closing { exit } => Some(exit.seconds()),
                Phase::Open | Phase::Closed => None,
            },
        });
    }
    Ok(Wallet {
        unit,
        community: ledger.genesis().community().to_owned(),
        account: us,
        balance,
        locked_in_channels: locked,
        earned_unredeemed: earned,
        channels,
    })
}

fn whole_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn way(view: &WayView) -> Way {
    Way {
        endpoint: view.at.to_string(),
        in_use: view.in_use,
        rtt_us: view.round_trip.map(whole_micros),
        lost_per_mille: view.lost_per_mille,
    }
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn days_are_dates() {
        let dates = [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (20_783, "2026-11-26"),
            (47_540, "2100-02-28"),
        ];
        for (day, text) in dates {
            assert_eq!(date(day), text);
        }
        assert_eq!(date(47_541), "2100-03-01");
    }
}
