//! What a journal knows, and the rows it is written down in.

use std::sync::Arc;

use metering::{Bytes, ChannelId, LedgerDomain, NodeId, Receipt, SortedMap, Standing, Tokens, Unverified};
use sha2::{Digest, Sha256};

use super::anchor::Anchor;
use super::day::Day;
use super::{KnownChannel, Record, Totals};

/// The version of what the rows mean. A newer one is refused, for its rows cannot be judged.
/// Version 2 added channels and days, version 3 how payers stand and what of a day was paid late, version 4 what is kept for
/// others.
pub(super) const VERSION: u16 = 4;

/// Kinds of rows.
pub(super) const JOURNAL: &str = "journal";
pub(super) const BOOT: &str = "boot";
pub(super) const SEQNO: &str = "seqno";
pub(super) const CEILING: &str = "ceiling";
pub(super) const HELD: &str = "held";
pub(super) const REDEEMED: &str = "redeemed";
pub(super) const TOTALS: &str = "totals";
pub(super) const CHANNEL: &str = "channel";
pub(super) const DAY: &str = "day";
pub(super) const STANDING: &str = "standing";
pub(super) const KEPT: &str = "kept";
/// Room in the file; there for a moment while a journal is opened, and longer when power fails in it.
pub(super) const SPARE: &str = "spare";

/// One row of the table, before it is sealed.
pub(super) struct Row {
    pub(super) kind: &'static str,
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Row {
    pub(super) fn new(kind: &'static str, key: &[u8], value: &[u8]) -> Self {
        Self { kind, key: key.to_owned(), value: value.to_owned() }
    }
}

/// All rows, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Of what the rows mean where they stand.
    pub(super) version: u16,
    pub(super) boot: u64,
    pub(super) seqno: Option<u16>,
    pub(super) ceilings: SortedMap<ChannelId, Tokens>,
    pub(super) held: SortedMap<ChannelId, Receipt>,
    pub(super) redeemed: SortedMap<ChannelId, Tokens>,
    pub(super) totals: SortedMap<NodeId, Totals>,
    /// By payer and payee, the newest between them: a payer can open as many as it likes.
    pub(super) channels: SortedMap<(NodeId, NodeId), (u64, KnownChannel)>,
    /// Shared, for it is large, and a commit copies the rest.
    pub(super) days: Arc<SortedMap<(u32, NodeId), Day>>,
    pub(super) standings: SortedMap<NodeId, Standing>,
    pub(super) kept: SortedMap<ChannelId, Receipt>,
}

impl State {
    /// Takes a record in; says whether it was news.
    pub(super) fn learn(&mut self, record: &Record) -> bool {
        match *record {
            Record::Ceiling { channel, amount } => raise(&mut self.ceilings, channel, amount),
            Record::Redeemed { channel, amount } => raise(&mut self.redeemed, channel, amount),
            Record::Held { receipt } => take(&mut self.held, receipt),
            Record::Kept { receipt } => take(&mut self.kept, receipt),
            Record::Totals { peer, sent, received } => {
                let known = self.totals.get(&peer).copied();
                let Totals { sent: sent_before, received: received_before } = known.unwrap_or_default();
                let totals = Totals { sent: sent.max(sent_before), received: received.max(received_before) };
                self.totals.insert(peer, totals);
                known != Some(totals)
            }
            Record::Seqno { seqno } => self.seqno.replace(seqno) != Some(seqno),
            Record::Channel { channel, known } => {
                let pair = (channel.payer, channel.payee);
                let newer = self.channels.get(&pair).is_some_and(|(nonce, _)| *nonce > channel.nonce);
                !newer && self.channels.insert(pair, (channel.nonce, known)) != Some((channel.nonce, known))
            }
            Record::Day { day, peer, line } => {
                let is_news = self.days.get(&(day, peer)) != Some(&line);
                if is_news {
                    Arc::make_mut(&mut self.days).insert((day, peer), line);
                }
                is_news
            }
            Record::Standing { peer, standing } => {
                let known = self.standings.get(&peer).copied().unwrap_or_default();
                if known != standing {
                    self.standings.insert(peer, standing);
                }
                known != standing
            }
        }
    }

    /// The row that holds what is known about the record's subject.
    pub(super) fn row(&self, record: &Record) -> Row {
        match record {
            Record::Ceiling { channel, amount } => {
                let amount = self.ceilings.get(channel).unwrap_or(amount);
                Row::new(CEILING, &channel_to_bytes(channel), &amount.to_be_bytes12())
            }
            Record::Redeemed { channel, amount } => {
                let amount = self.redeemed.get(channel).unwrap_or(amount);
                Row::new(REDEEMED, &channel_to_bytes(channel), &amount.to_be_bytes12())
            }
            Record::Held { receipt } => {
                let receipt = self.held.get(&receipt.channel()).unwrap_or(receipt);
                Row::new(HELD, &channel_to_bytes(&receipt.channel()), &receipt.encode())
            }
            Record::Kept { receipt } => {
                let receipt = self.kept.get(&receipt.channel()).unwrap_or(receipt);
                Row::new(KEPT, &channel_to_bytes(&receipt.channel()), &receipt.encode())
            }
            Record::Totals { peer, .. } => {
                let totals = self.totals.get(peer).copied().unwrap_or_default();
                let value = [totals.sent.get().to_be_bytes(), totals.received.get().to_be_bytes()].concat();
                Row::new(TOTALS, &peer.0, &value)
            }
            Record::Seqno { seqno } => Row::new(SEQNO, &[], &seqno.to_be_bytes()),
            Record::Channel { channel, known } => {
                let key = [channel.payer.0, channel.payee.0].concat();
                Row::new(CHANNEL, &key, &[&channel.nonce.to_be_bytes()[..], &known.to_bytes()].concat())
            }
            Record::Day { day, peer, line } => Row::new(DAY, &day_key(*day, peer), &line.to_bytes()),
            Record::Standing { peer, standing } => Row::new(STANDING, &peer.0, &standing_to_bytes(standing)),
        }
    }

    /// All rows of a journal that knows just this.
    pub(super) fn rows(&self, domain: &LedgerDomain) -> Vec<Row> {
        let ceilings = self.ceilings.iter().map(|(&channel, &amount)| Record::Ceiling { channel, amount });
        let redeemed = self.redeemed.iter().map(|(&channel, &amount)| Record::Redeemed { channel, amount });
        let held = self.held.values().map(|&receipt| Record::Held { receipt });
        let totals =
            self.totals.iter().map(|(&peer, &Totals { sent, received })| Record::Totals { peer, sent, received });
        let seqno = self.seqno.map(|seqno| Record::Seqno { seqno });
        let channels = self.channels.iter().map(|(&(payer, payee), &(nonce, known))| {
            let channel = ChannelId { payer, payee, nonce };
            Record::Channel { channel, known }
        });
        let days = self.days.iter().map(|(&(day, peer), &line)| Record::Day { day, peer, line });
        let standings = self.standings.iter().map(|(&peer, &standing)| Record::Standing { peer, standing });
        let records = ceilings.chain(redeemed).chain(held).chain(totals).chain(seqno).chain(channels).chain(days);
        let kept = self.kept.values().map(|&receipt| Record::Kept { receipt });
        let records = records.chain(standings).chain(kept);
        let mut rows = vec![Row::new(JOURNAL, &[], &heading(domain)), Row::new(BOOT, &[], &self.boot.to_be_bytes())];
        rows.extend(records.map(|record| self.row(&record)));
        rows
    }

    pub(super) fn with_anchor(mut self, anchor: Option<&Anchor>) -> Self {
        let Some(anchor) = anchor else { return self };
        self.boot = self.boot.max(anchor.boot);
        for (&channel, &amount) in &anchor.ceilings {
            raise(&mut self.ceilings, channel, amount);
        }
        self
    }

    pub(super) fn entries_max(&self) -> usize {
        let lens = [
            self.ceilings.len(),
            self.held.len(),
            self.redeemed.len(),
            self.totals.len(),
            self.channels.len(),
            self.days.len(),
            self.standings.len(),
            self.kept.len(),
        ];
        lens.into_iter().max().unwrap_or(0)
    }

    /// Forgets all that is about one channel, and returns the kinds of rows that were.
    pub(super) fn forget(&mut self, channel: &ChannelId) -> Vec<&'static str> {
        let known = [
            (CEILING, self.ceilings.remove(channel).is_some()),
            (HELD, self.held.remove(channel).is_some()),
            (REDEEMED, self.redeemed.remove(channel).is_some()),
            (KEPT, self.kept.remove(channel).is_some()),
        ];
        known.into_iter().filter_map(|(kind, was)| was.then_some(kind)).collect()
    }

    /// Understands one row whose seal is intact.
    pub(super) fn read_row(&mut self, kind: &str, key: &[u8], value: &[u8], domain: &LedgerDomain) -> Option<()> {
        let record = match kind {
            // The heading was read before.
            JOURNAL | SPARE => return Some(()),
            BOOT => {
                self.boot = u64::from_be_bytes(value.try_into().ok()?);
                return Some(());
            }
            SEQNO => Record::Seqno { seqno: u16::from_be_bytes(value.try_into().ok()?) },
            CEILING => Record::Ceiling {
                channel: channel_from_bytes(key.try_into().ok()?),
                amount: Tokens::from_be_bytes12(value.try_into().ok()?),
            },
            REDEEMED => Record::Redeemed {
                channel: channel_from_bytes(key.try_into().ok()?),
                amount: Tokens::from_be_bytes12(value.try_into().ok()?),
            },
            HELD => Record::Held { receipt: read_receipt(key, value, domain)? },
            KEPT => Record::Kept { receipt: read_receipt(key, value, domain)? },
            TOTALS => {
                let (sent, received) = value.split_first_chunk()?;
                let received = u64::from_be_bytes(received.try_into().ok()?);
                Record::Totals {
                    peer: NodeId(key.try_into().ok()?),
                    sent: Bytes::new(u64::from_be_bytes(*sent)),
                    received: Bytes::new(received),
                }
            }
            CHANNEL => {
                let (payer, payee) = key.split_first_chunk()?;
                let (nonce, known) = value.split_first_chunk()?;
                let channel = ChannelId {
                    payer: NodeId(*payer),
                    payee: NodeId(payee.try_into().ok()?),
                    nonce: u64::from_be_bytes(*nonce),
                };
                Record::Channel { channel, known: KnownChannel::from_bytes(known)? }
            }
            DAY => {
                let (day, peer) = key.split_first_chunk()?;
                Record::Day {
                    day: u32::from_be_bytes(*day),
                    peer: NodeId(peer.try_into().ok()?),
                    line: Day::from_bytes(value)?,
                }
            }
            STANDING => Record::Standing { peer: NodeId(key.try_into().ok()?), standing: standing_from_bytes(value)? },
            _ => return None,
        };
        self.learn(&record);
        Some(())
    }
}

fn read_receipt(key: &[u8], value: &[u8], domain: &LedgerDomain) -> Option<Receipt> {
    let receipt = Receipt::<Unverified>::decode(value).ok()?.verify(domain).ok()?;
    (channel_to_bytes(&receipt.channel()) == key).then_some(receipt)
}

/// The higher receipt of a channel counts.
fn take(receipts: &mut SortedMap<ChannelId, Receipt>, receipt: Receipt) -> bool {
    let is_news = receipts.get(&receipt.channel()).is_none_or(|known| receipt.amount() > known.amount());
    if is_news {
        receipts.insert(receipt.channel(), receipt);
    }
    is_news
}

fn raise(amounts: &mut SortedMap<ChannelId, Tokens>, channel: ChannelId, amount: Tokens) -> bool {
    let is_news = amounts.get(&channel).is_none_or(|known| amount > *known);
    if is_news {
        amounts.insert(channel, amount);
    }
    is_news
}

/// The key of a day with a neighbour; in order of days.
pub(super) fn day_key(day: u32, peer: &NodeId) -> Vec<u8> {
    [&day.to_be_bytes()[..], &peer.0].concat()
}

impl KnownChannel {
    fn to_bytes(self) -> Vec<u8> {
        [&self.deposit.to_be_bytes12()[..], &self.redeemed.to_be_bytes12(), &[self.closing.into()]].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (deposit, rest) = bytes.split_first_chunk()?;
        let (redeemed, closing) = rest.split_first_chunk()?;
        let closing = match closing {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let amount = |bytes: &[u8; 12]| Tokens::from_be_bytes12(*bytes);
        Some(Self { deposit: amount(deposit), redeemed: amount(redeemed), closing })
    }
}

/// A standing as a value: arrears, unpaid, paid lately, signed (12 bytes each), nonce (8).
fn standing_to_bytes(standing: &Standing) -> Vec<u8> {
    let Standing { arrears, unpaid, paid_lately, nonce, signed } = standing;
    let amounts = [arrears, unpaid, paid_lately, signed].map(|amount| amount.to_be_bytes12());
    [&amounts.concat()[..], &nonce.to_be_bytes()].concat()
}

fn standing_from_bytes(bytes: &[u8]) -> Option<Standing> {
    let (amounts, nonce) = bytes.split_at_checked(4 * 12)?;
    let amount = |at: usize| Some(Tokens::from_be_bytes12(amounts.get(12 * at..12 * at + 12)?.try_into().ok()?));
    Some(Standing {
        arrears: amount(0)?,
        unpaid: amount(1)?,
        paid_lately: amount(2)?,
        signed: amount(3)?,
        nonce: u64::from_be_bytes(nonce.try_into().ok()?),
    })
}

/// Binds a row's parts to each other and to the ledger, against flipped bits and not against a thief: SQLite has no
/// checksum of its own. The first 8 bytes of SHA-256.
pub(super) fn seal(domain: Option<&LedgerDomain>, kind: &str, key: &[u8], value: &[u8]) -> [u8; 8] {
    let mut hash = Sha256::new();
    if let Some(domain) = domain {
        hash.update(domain.chain_id.to_be_bytes());
        hash.update(domain.contract.0);
    }
    for part in [kind.as_bytes(), key, value] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    [a, b, c, d, e, f, g, h]
}

/// The heading's value: version, chain id, contract.
pub(super) fn heading(domain: &LedgerDomain) -> Vec<u8> {
    [&VERSION.to_be_bytes()[..], &domain.chain_id.to_be_bytes(), &domain.contract.0].concat()
}

pub(super) fn read_heading_value(value: &[u8]) -> Option<(u16, LedgerDomain)> {
    let (version, rest) = value.split_first_chunk()?;
    let (chain_id, contract) = rest.split_first_chunk()?;
    let domain = LedgerDomain {
        chain_id: u64::from_be_bytes(*chain_id),
        contract: NodeId(contract.get(..20)?.try_into().ok()?),
    };
    Some((u16::from_be_bytes(*version), domain))
}

/// A channel as a key: payer, payee, nonce.
pub(super) fn channel_to_bytes(channel: &ChannelId) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..20].copy_from_slice(&channel.payer.0);
    bytes[20..40].copy_from_slice(&channel.payee.0);
    bytes[40..].copy_from_slice(&channel.nonce.to_be_bytes());
    bytes
}

pub(super) fn channel_from_bytes(bytes: &[u8; 48]) -> ChannelId {
    let mut channel = ChannelId { payer: NodeId([0; 20]), payee: NodeId([0; 20]), nonce: 0 };
    channel.payer.0.copy_from_slice(&bytes[..20]);
    channel.payee.0.copy_from_slice(&bytes[20..40]);
    let mut nonce = [0; 8];
    nonce.copy_from_slice(&bytes[40..]);
    channel.nonce = u64::from_be_bytes(nonce);
    channel
}
