//! A node's journal: what of settlement outlives a crash.

use std::collections::{BTreeMap, VecDeque};

use metering::{ChannelId, NodeId, Receipt, Tokens};
use node::LinkId;

/// What is on the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    /// Starts of the node.
    pub(crate) boots: u32,
    ceilings: BTreeMap<ChannelId, Tokens>,
    held: BTreeMap<ChannelId, Receipt>,
}

/// One write.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Write {
    /// No receipt above the ceiling is signed on the channel.
    Ceiling(LinkId, ChannelId, Tokens),
    /// A receipt to be redeemed.
    Held(LinkId, Receipt),
}

impl Records {
    /// The highest ceiling on the newest channel between the two.
    pub(crate) fn ceiling(&self, payer: NodeId, payee: NodeId) -> Option<(ChannelId, Tokens)> {
        newest(&self.ceilings, payer, payee)
    }

    /// The highest receipt on the newest channel between the two.
    pub(crate) fn held(&self, payer: NodeId, payee: NodeId) -> Option<Receipt> {
        newest(&self.held, payer, payee).map(|(_, receipt)| receipt)
    }

    /// Every receipt to be redeemed.
    pub(crate) fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.held.values()
    }

    fn apply(&mut self, write: &Write) {
        match *write {
            Write::Ceiling(_, channel, ceiling) => {
                let known = self.ceilings.entry(channel).or_default();
                *known = ceiling.max(*known);
            }
            Write::Held(_, receipt) => {
                let known = self.held.entry(receipt.channel()).or_insert(receipt);
                if known.amount() < receipt.amount() {
                    *known = receipt;
                }
            }
        }
    }
}

fn newest<T: Copy>(records: &BTreeMap<ChannelId, T>, payer: NodeId, payee: NodeId) -> Option<(ChannelId, T)> {
    let [first, last] = [0, u64::MAX].map(|nonce| ChannelId { payer, payee, nonce });
    records.range(first..=last).next_back().map(|(channel, record)| (*channel, *record))
}

/// The disk, and the writes on their way to it: done in order, and acknowledged only when done.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) durable: Records,
    waiting: VecDeque<Write>,
}

impl Journal {
    pub(crate) fn begin(&mut self, write: Write) {
        self.waiting.push_back(write);
    }

    /// The oldest write is done.
    pub(crate) fn finish(&mut self) -> Option<Write> {
        let write = self.waiting.pop_front()?;
        self.durable.apply(&write);
        Some(write)
    }

    /// The power fails. Of what was not acknowledged, some may have reached the disk, in order, and the rest has not.
    pub(crate) fn crash(&mut self, dice: &mut fastrand::Rng) {
        let landed = dice.usize(0..=self.waiting.len());
        for write in self.waiting.drain(..).take(landed) {
            self.durable.apply(&write);
        }
    }
}
