//! The exchange between two neighbours: its messages from any bytes, and the whole of it from a script.
//!
//! The script drives a [`Pair`], which holds two real exchanges against the plain truth after each step. It may do all that a
//! link, a disk, a ledger, an owner and a neighbour can do: carry and lose packets, lose, repeat, delay and reorder messages,
//! crash, be slow to write, replace the channel, ask another price, pay each other in turn or not at all, close the channel by
//! agreement or be refused that by the ledger, hand in noise, send old messages again, and alter a message and sign it anew with
//! the sender's own key. In the end comes a quiet time, after which honest neighbours have settled.

use std::time::Duration;

use metering::meter::{Counts, meter_hash};
use metering::wire::{Message, ReceiptMessage, Resume, TermsMessage};
use metering::{Bytes, Close, LedgerDomain, NodeCard, Offer, Price, Receipt, Role, Terms, Tokens, Unverified, watch};

use crate::pair::{DOMAIN, Fate, PAYER, PROVIDER, Pair, identity};

/// Steps beyond these are not read: what takes so many is found with fewer.
const STEPS_MAX: usize = 400;

/// What the payer pays at most, base units for a GiB.
const LIMIT: Price = Price::new(1 << 42);

/// What a provider may ask: as usual, nothing, so little that a window is worth less than a base unit, one direction only,
/// very much, and more than the payer will pay.
const OFFERS: [Offer; 6] = [
    offer(1 << 20, 1 << 20, 1, Offer::DEFAULT_LOSS_ALLOWANCE_PPM),
    Offer::FREE,
    offer(1, 3, 4, 0),
    offer(0, 1 << 30, 2, 0),
    offer(1 << 42, 1 << 40, 8, 200_000),
    offer(1 << 43, 1, 1, 0),
];

const fn offer(up: u64, down: u64, window_mib: u32, loss_allowance_ppm: u32) -> Offer {
    let (price_up, price_down) = (Price::new(up), Price::new(down));
    Offer { price_up, price_down, window: Bytes::from_mebibytes(window_mib), loss_allowance_ppm }
}

/// Any bytes as each thing that a neighbour sends to be read: what is read has one encoding.
///
/// # Panics
/// If it has another.
pub fn metering_wire(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(message.encode(), bytes);
    }
    if let Ok(message) = watch::Message::decode(bytes) {
        assert_eq!(message.encode(), bytes);
    }
    if let Ok(receipt) = Receipt::decode(bytes) {
        assert_eq!(receipt.encode(), bytes);
        let _ = receipt.verify(&DOMAIN);
    }
    if let Ok(card) = NodeCard::decode(bytes) {
        assert_eq!(card.encode(), bytes);
        let _ = card.verify();
    }
}

/// A script, and what must hold after each of its steps and in the end.
///
/// # Panics
/// If it does not.
pub fn exchange(bytes: &[u8]) {
    let [offer, deposit, rest @ ..] = bytes else { return };
    let offer = OFFERS[usize::from(*offer) % OFFERS.len()];
    let deposit = Tokens::new(1 << (deposit % 64));
    let mut pair = Pair::new(1, offer, LIMIT, deposit.filter(|deposit| deposit.get() > 1));
    let mut rest = rest;
    for _ in 0..STEPS_MAX {
        let Some(step) = Step::read(&mut rest) else { break };
        step.play(&mut pair);
    }
    pair.settle();
}

enum Step<'a> {
    Wait(Duration),
    /// Who sends, how many bytes, whether they are lost.
    Carry(usize, u64, bool),
    /// What becomes of the next message to somebody.
    Fate(usize, Fate),
    Crash(usize, Duration),
    Writes(Duration),
    TopUp(u8),
    NextChannel,
    Closing(bool),
    Redeem,
    Ask(Offer),
    Limit(Price),
    Flush,
    LinkLoss(u32),
    Noise(usize, &'a [u8]),
    Replay(u8),
    /// Somebody takes itself for something, and the other for something else after a while.
    Roles(usize, [Option<Role>; 2], Duration),
    Close,
    RefuseToClose(bool),
    Alter {
        heard: u8,
        field: u8,
        number: u64,
    },
}

impl<'a> Step<'a> {
    /// Two bytes are a step, so that small changes to them are small changes to the play; noise and alterations have more.
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let [kind, number, behind @ ..] = *rest else { return None };
        *rest = behind;
        let (number, who) = (*number, usize::from(number % 2));
        let late = Duration::from_millis(u64::from(number / 8) * 200);
        Some(match kind % 22 {
            0 => Self::Wait(Duration::from_millis(u64::from(number) * 7)),
            1 => Self::Wait(Duration::from_millis(u64::from(number) * 100)),
            2 => Self::Carry(PAYER, u64::from(number) << 12, false),
            3 => Self::Carry(PROVIDER, u64::from(number) << 12, false),
            4 => Self::Carry(who, u64::from(number) << 8, true),
            5 => Self::Fate(who, [Fate::Lost, Fate::Late(late), Fate::Twice(late)][usize::from(number / 2 % 3)]),
            6 => Self::Crash(who, Duration::from_millis(u64::from(number) * 20)),
            7 => Self::Writes(Duration::from_millis(u64::from(number) * 20)),
            8 => Self::TopUp(number),
            9 => Self::NextChannel,
            10 => Self::Closing(number % 4 == 0),
            11 => Self::Redeem,
            12 => Self::Ask(OFFERS[usize::from(number) % OFFERS.len()]),
            13 => Self::Limit(Price::new(LIMIT.get() << (number % 3))),
            14 => Self::Flush,
            15 => Self::LinkLoss(u32::from(number) * 4000),
            16 => {
                let (body, behind) = rest.split_at(usize::from(number / 2).min(rest.len()));
                *rest = behind;
                Self::Noise(who, body)
            }
            17 => Self::Replay(number),
            18 => {
                let roles = match number / 2 % 8 {
                    0 | 1 => [Some(Role::Provider), Some(Role::Subscriber)],
                    2 | 3 => [Some(Role::Subscriber), Some(Role::Provider)],
                    4 | 5 => [Some(Role::Peer); 2],
                    6 => [Some(Role::Subscriber), None],
                    _ => [Some(Role::Provider), None],
                };
                Self::Roles(who, roles, Duration::from_millis(u64::from(number / 16) * 50))
            }
            19 if number % 4 == 0 => Self::RefuseToClose(number % 8 == 0),
            19 => Self::Close,
            _ => {
                let [field, base, shift, behind @ ..] = *rest else { return None };
                *rest = behind;
                Self::Alter { heard: number, field: *field, number: u64::from(*base) << (shift % 64) }
            }
        })
    }

    fn play(self, pair: &mut Pair) {
        match self {
            Self::Wait(pause) => pair.wait(pause),
            Self::Carry(from, bytes, lost) => {
                pair.carry(from, bytes, lost);
            }
            Self::Fate(to, fate) => pair.fates[to].push_back(fate),
            Self::Crash(who, pause) => pair.crash(who, pause),
            Self::Writes(take) => pair.weather.write = take,
            Self::TopUp(bits) => pair.change_ledger(|_, channel| {
                let more = Tokens::new(1 << (bits % 64)).expect("below 2^96");
                channel.deposit = channel.deposit.saturating_add(more);
            }),
            Self::NextChannel => pair.change_ledger(|_, channel| {
                (channel.nonce, channel.redeemed, channel.closing) = (channel.nonce + 1, Tokens::ZERO, false);
            }),
            Self::Closing(closing) => pair.change_ledger(|_, channel| channel.closing = closing),
            Self::Redeem => pair.redeem(),
            Self::Ask(offer) => pair.ask(offer),
            Self::Limit(most) => pair.limit(most),
            Self::Flush => pair.flush(),
            Self::LinkLoss(ppm) => pair.lose(ppm),
            Self::Noise(to, bytes) => {
                let _ = pair.tell_hostile(to, bytes);
            }
            Self::Replay(back) => {
                if let Some((to, bytes)) = said(pair, back) {
                    let _ = pair.tell(to, &bytes);
                }
            }
            Self::Roles(who, [role, other], after) => {
                role.into_iter().for_each(|role| pair.turn(who, role, Duration::ZERO));
                other.into_iter().for_each(|role| pair.turn(1 - who, role, after));
            }
            Self::Close => pair.close(),
            Self::RefuseToClose(refuses) => pair.refuse_to_close(refuses),
            Self::Alter { heard, field, number } => {
                let Some((to, bytes)) = said(pair, heard) else { return };
                let Ok(message) = Message::decode(&bytes) else { return };
                let _ = pair.tell_hostile(to, &altered(message, 1 - to, field, number).encode());
            }
        }
    }
}

/// What was said so many messages ago, and to whom.
fn said(pair: &Pair, back: u8) -> Option<(usize, Vec<u8>)> {
    let len = pair.heard.len();
    len.checked_sub(1 + usize::from(back)).map(|at| pair.heard[at].clone())
}

/// The message with one thing in it changed, and signed anew if it is the sender's to sign.
fn altered(message: Message, by: usize, field: u8, number: u64) -> Message {
    match message {
        Message::Resume(resume) => Message::Resume(altered_resume(resume, field, number)),
        Message::Terms(message) => Message::Terms(altered_terms(message, by, field, number)),
        Message::MeterReport(mut report) => {
            report.counts = altered_counts(report.counts, field, number);
            Message::MeterReport(report)
        }
        Message::Receipt(message) => Message::Receipt(altered_receipt(message, by, field, number)),
        Message::Close(close) => Message::Close(altered_close(close, by, field, number)),
    }
}

fn altered_resume(mut resume: Resume, field: u8, number: u64) -> Resume {
    match field % 6 {
        0 => resume.session = resume.session.saturating_add(number),
        1 => resume.session = number,
        2 => resume.echo = number,
        3 => resume.ask = !resume.ask,
        4 => resume.receipt = None,
        _ => {
            if let Some(note) = &mut resume.channel {
                note.nonce = note.nonce.saturating_add(number);
            }
        }
    }
    resume
}

fn altered_terms(message: TermsMessage, by: usize, field: u8, number: u64) -> TermsMessage {
    let mut terms: Terms = *message.terms.terms();
    match field % 6 {
        0 => terms.price_up = Price::new(number),
        1 => terms.price_down = Price::new(number),
        2 => terms.window = Bytes::new(number),
        3 => terms.seq = terms.seq.saturating_add(number),
        4 => terms.peers = !terms.peers,
        _ => terms.loss_allowance_ppm = u32::try_from(number).unwrap_or(u32::MAX),
    }
    let key = identity(by);
    let terms = Terms { provider: key.node_id(), ..terms }.sign(key.account(), &DOMAIN).into_unverified();
    TermsMessage { terms, ..message }
}

fn altered_counts(counts: Counts, field: u8, number: u64) -> Counts {
    let number = Bytes::new(number);
    let changed =
        |count: Bytes| if field & 2 == 0 { count.saturating_add(number) } else { count.saturating_sub(number) };
    match field & 1 {
        0 => Counts { sent: changed(counts.sent), ..counts },
        _ => Counts { received: changed(counts.received), ..counts },
    }
}

fn altered_receipt(mut message: ReceiptMessage, by: usize, field: u8, number: u64) -> ReceiptMessage {
    let (mut channel, mut amount) = (message.receipt.channel(), message.receipt.amount());
    let mut domain = DOMAIN;
    let tokens = Tokens::new(number.into()).expect("64 bits");
    match field % 8 {
        0 => amount = amount.saturating_add(tokens),
        1 => amount = amount.saturating_sub(tokens),
        2 | 3 => message.payer = altered_counts(message.payer, field / 8, number),
        4 => message.provider = altered_counts(message.provider, field / 8, number),
        5 => channel.nonce = channel.nonce.wrapping_add(number),
        6 => domain = LedgerDomain { chain_id: number, ..DOMAIN },
        _ => message.segment[0] ^= 1,
    }
    if by == PAYER {
        let meter = meter_hash(&message.segment, message.provider, message.payer);
        message.receipt = Receipt::sign(identity(by).account(), &domain, channel, amount, meter).into_unverified();
    }
    message
}

fn altered_close(close: Close<Unverified>, by: usize, field: u8, number: u64) -> Close<Unverified> {
    let (mut channel, mut total) = (close.channel(), close.total());
    let tokens = Tokens::new(number.into()).expect("64 bits");
    match field % 4 {
        0 => total = total.saturating_add(tokens),
        1 => total = total.saturating_sub(tokens),
        2 => channel.nonce = channel.nonce.wrapping_add(number),
        _ => std::mem::swap(&mut channel.payer, &mut channel.payee),
    }
    let key = identity(by).account();
    if key.node_id() == channel.payer { Close::sign(key, &DOMAIN, channel, total).into_unverified() } else { close }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checks are of no use if scripts lead nowhere.
    #[test]
    fn a_script_of_waits_and_packets_is_a_business_that_settles() {
        let mut pair = Pair::new(1, OFFERS[0], LIMIT, Tokens::new(1 << 40));
        let script =
            [[1, 20], [2, 50], [3, 100], [1, 60], [6, 1], [1, 60], [3, 200], [1, 60], [11, 0], [1, 60]].concat();
        let mut rest = script.as_slice();
        while let Some(step) = Step::read(&mut rest) {
            step.play(&mut pair);
        }
        pair.settle();
        let [up_sent, up, down] = pair.carried();
        assert_eq!((up_sent, up, down), (50 << 12, 50 << 12, 300 << 12));
        // At 2^20 base units a GiB, each KiB is one.
        assert_eq!((pair.worth(), pair.paid(), pair.signed()), (350 << 2, 350 << 2, 350 << 2));
    }
}
