//! A ledger for tests that answers when it is let, and as it is told to.

use std::sync::mpsc::{Receiver, Sender, channel};

use ledger_client::{Channel, Code, Error, Genesis, Head, Ledger, Membership, Refusal, Totals, UnixTime, Verdict};
use ledger_client::{Entry, Holder, Name, Named, Unavailable};
use metering::{ChannelId, Close, NodeId, Receipt, Signature, SortedMap, Tokens};

/// One record for all channels, one refusal for all receipts.
pub(super) struct Stub {
    genesis: Genesis,
    pub(super) record: Option<Channel>,
    pub(super) refusal: Option<Refusal>,
    /// Of whom it is asked; others have none.
    pub(super) memberships: SortedMap<NodeId, Option<Membership>>,
    /// Who has which name.
    pub(super) names: SortedMap<Name, Holder>,
    /// Whether a code was used: for a year from now.
    pub(super) enrolled: bool,
    /// Is told that a question has come, and waited for before it is answered.
    gate: Option<(Sender<()>, Receiver<()>)>,
}

/// The other side of a gate.
pub(super) struct Gate {
    pub(super) asked: Receiver<()>,
    pub(super) answer: Sender<()>,
}

impl Stub {
    pub(super) fn new(record: Option<Channel>, refusal: Option<Refusal>) -> Self {
        let founded = UnixTime::from_seconds(1_000_000);
        let genesis = Genesis::new("Hilltop", "HILL", 6, NodeId([9; 20]), founded, [1; 16]).expect("these are good");
        Self {
            genesis,
            record,
            refusal,
            memberships: SortedMap::new(),
            names: SortedMap::new(),
            enrolled: false,
            gate: None,
        }
    }

    /// One that answers each question when it is let. A gate that is dropped is open.
    pub(super) fn behind_a_gate(record: Option<Channel>) -> (Self, Gate) {
        let ((tell, asked), (answer, answers)) = (channel(), channel());
        (Self { gate: Some((tell, answers)), ..Self::new(record, None) }, Gate { asked, answer })
    }

    fn wait(&self) {
        if let Some((tell, answers)) = &self.gate {
            let _open = tell.send(());
            let _open = answers.recv();
        }
    }
}

fn no<T>() -> Result<T, Error> {
    Err(Unavailable { retry: false, reason: "this is not asked in these tests".into() }.into())
}

impl Ledger for Stub {
    fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    fn balance(&mut self, _: NodeId) -> Result<Tokens, Error> {
        no()
    }

    fn channel(&mut self, _: ChannelId) -> Result<Option<Channel>, Error> {
        self.wait();
        Ok(self.record)
    }

    fn channel_signer(&mut self, channel: ChannelId) -> Result<NodeId, Error> {
        Ok(channel.payer)
    }

    fn channels_of(&mut self, _: NodeId) -> Result<Vec<(ChannelId, Channel)>, Error> {
        no()
    }

    fn latest_nonce(&mut self, _: NodeId, _: NodeId) -> Result<Option<u64>, Error> {
        Ok(self.record.map(|_| 1))
    }

    fn totals(&mut self) -> Result<Totals, Error> {
        no()
    }

    fn head(&mut self) -> Result<Head, Error> {
        no()
    }

    fn entries(&mut self, _: u64) -> Result<Vec<Entry>, Error> {
        no()
    }

    fn mint(&mut self, _: NodeId, _: Tokens) -> Result<(), Error> {
        no()
    }

    fn memberships(&mut self, accounts: &[NodeId]) -> Result<Vec<Option<Membership>>, Error> {
        Ok(accounts.iter().map(|account| self.memberships.get(account).copied().flatten()).collect())
    }

    fn enrol(&mut self, _: &Code) -> Result<UnixTime, Error> {
        if let Some(refusal) = self.refusal {
            return Err(Error::Refused(refusal));
        }
        self.enrolled = true;
        let until = UnixTime::from_seconds(super::history::unix_seconds() + 365 * 86_400);
        self.memberships.values_mut().for_each(|ours| *ours = Some(Membership { until, revoked: false }));
        Ok(until)
    }

    fn named(&mut self, name: Name) -> Result<Option<Holder>, Error> {
        Ok(self.names.get(&name).copied())
    }

    fn names(&mut self, after: Option<Name>) -> Result<Vec<Named>, Error> {
        let behind = self.names.iter().filter(|(name, _)| Some(**name) > after);
        Ok(behind.take(2).map(|(name, holder)| Named { name: *name, holder: *holder }).collect())
    }

    fn claim_name(&mut self, name: Name, wireguard: [u8; 32]) -> Result<(), Error> {
        if let Some(refusal) = self.refusal {
            return Err(Error::Refused(refusal));
        }
        let holder = Holder { account: NodeId([1; 20]), wireguard, claim: Signature([0; 65]) };
        self.names.insert(name, holder);
        Ok(())
    }

    fn transfer(&mut self, _: NodeId, _: Tokens) -> Result<(), Error> {
        no()
    }

    fn open_channel(&mut self, _: NodeId, _: Tokens) -> Result<ChannelId, Error> {
        no()
    }

    fn top_up(&mut self, _: ChannelId, _: Tokens) -> Result<(), Error> {
        no()
    }

    fn redeem(&mut self, receipt: Receipt) -> Result<Tokens, Error> {
        self.wait();
        self.refusal.map_or(Ok(receipt.amount()), |refusal| Err(Error::Refused(refusal)))
    }

    fn redeem_many(&mut self, receipts: &[Receipt]) -> Result<Vec<Result<Tokens, Refusal>>, Error> {
        self.wait();
        Ok(receipts.iter().map(|receipt| self.refusal.map_or(Ok(receipt.amount()), Err)).collect())
    }

    fn start_close(&mut self, _: ChannelId) -> Result<UnixTime, Error> {
        no()
    }

    fn finalize(&mut self, _: ChannelId) -> Result<Tokens, Error> {
        no()
    }

    fn mutual_close(&mut self, _: Close) -> Result<(), Error> {
        no()
    }

    fn audit(&mut self) -> Result<Verdict, Error> {
        no()
    }
}
