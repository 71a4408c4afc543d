//! What a served ledger says of accounts, channels and totals, taken only with its proof.

use ledger_core::checkpoint;
use ledger_core::fact::Fact;
use ledger_core::membership::Membership;
use ledger_core::merkle::{leaf_hash, verify_inclusion};
use ledger_core::name::{Holder, Name, NameListing, Named, OwnName};
use ledger_core::note::Note;
use ledger_core::place::{Funds, Overall};
use ledger_core::registry::Listing;
use ledger_core::role::{Held, Role};
use ledger_core::signer::{ChannelSigner, Signer};
use ledger_core::{Channel, Entry, Hash, Head, Totals};
use ledger_http::client::ClientError;
use ledger_http::wire::{Account, Inclusion, MAX_PLACES, Names, NumberedBytes, Pair, ProvenRecords, places_query};
use metering::{ChannelId, NodeId};

use super::{Remote, RemoteError};

/// How often it is asked again where something happened between two questions that belong together.
const MAX_TRIES: u32 = 4;

impl Remote {
    /// What stands at each of these places, proven against a checkpoint that continues all that were seen before.
    fn records(&mut self, places: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, RemoteError> {
        let mut values = Vec::with_capacity(places.len());
        for asked in places.chunks(MAX_PLACES) {
            values.extend(self.proven(asked)?);
        }
        Ok(values)
    }

    /// As many as are told of one head.
    fn proven(&mut self, asked: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, RemoteError> {
        let seen = self.view.head().map_or(0, |head| head.size);
        let path = format!("/v1/records?places={}&old_size={seen}", places_query(asked));
        let told: ProvenRecords = match self.client.get(&path) {
            Err(ClientError::Problem { problem, .. }) if problem.title == "UnknownSize" => {
                // It is shorter than it was, and has to say so with its signature.
                self.newest()?;
                return Err(self.contradiction("it does not know a size that it had".to_owned()));
            }
            told => told?,
        };
        let note: Note =
            told.checkpoint.parse().map_err(|error| self.contradiction(format!("its checkpoint: {error}")))?;
        let root = checkpoint::records(&note);
        self.take(note, &told.growth)?;
        let root = root.ok_or_else(|| self.contradiction("its checkpoint says nothing of the records".to_owned()))?;
        if told.records.len() != asked.len() {
            return Err(self.contradiction("it tells of other records than it was asked for".to_owned()));
        }
        let mut values = Vec::with_capacity(asked.len());
        for (place, record) in asked.iter().zip(told.records) {
            let value = record.value.map(|value| value.0);
            if record.place.0 != *place || !record.proof.shows(&root, place, value.as_deref()) {
                return Err(self.contradiction("nothing proves what it says of a record".to_owned()));
            }
            values.push(value);
        }
        Ok(values)
    }

    fn read<F: Fact>(&self, value: Option<Vec<u8>>) -> Result<Option<F>, RemoteError> {
        let unread = || self.contradiction("a record of its does not read".to_owned());
        value.map(|value| F::decode(&value).ok_or_else(unread)).transpose()
    }

    fn record<F: Fact>(&mut self, key: &F::Key) -> Result<Option<F>, RemoteError> {
        let value = self.records(&[F::place(key)])?.pop().flatten();
        self.read(value)
    }

    /// What an account holds, and the number of its newest order.
    pub(super) fn funds(&mut self, account: NodeId) -> Result<Funds, RemoteError> {
        Ok(self.record(&account)?.unwrap_or_default())
    }

    /// All that stands under an account.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub fn account(&mut self, account: NodeId) -> Result<Account, RemoteError> {
        const ROLES: [Role; 2] = [Role::Issuer, Role::Auditor];
        let [issuer, auditor] = ROLES.map(|role| Held::place(&(role, account)));
        let places = [
            Funds::place(&account),
            Signer::place(&account),
            Membership::place(&account),
            Listing::place(&account),
            ledger_core::share::Pool::place(&account),
            OwnName::place(&account),
            issuer,
            auditor,
        ];
        let values = self.records(&places)?;
        let value = |at: usize| values.get(at).cloned().flatten();
        let funds: Funds = self.read(value(0))?.unwrap_or_default();
        let mut roles = Vec::new();
        for (at, role) in (6..).zip(ROLES) {
            if self.read(value(at))?.is_some_and(|Held(held)| held) {
                roles.push(role);
            }
        }
        Ok(Account {
            account,
            balance: funds.balance,
            sequence: funds.sequence,
            signer: self.read(value(1))?.map_or(account, |Signer(signer)| signer),
            membership: self.read(value(2))?,
            roles,
            registration: self.read(value(3))?.and_then(|Listing(listed)| listed),
            name: self.read(value(5))?.and_then(|OwnName(name)| name),
            shares: self.read(value(4))?,
        })
    }

    /// The memberships of accounts, in their order.
    pub(super) fn proven_memberships(&mut self, accounts: &[NodeId]) -> Result<Vec<Option<Membership>>, RemoteError> {
        let places: Vec<_> = accounts.iter().map(Membership::place).collect();
        let values = self.records(&places)?;
        values.into_iter().map(|value| self.read(value)).collect()
    }

    /// Who has these names, in their order. It is proven that the ledger says so, and by the accounts' signatures that they do.
    pub(super) fn proven_holders(&mut self, names: &[Name]) -> Result<Vec<Option<Holder>>, RemoteError> {
        let places: Vec<_> = names.iter().map(NameListing::place).collect();
        let values = self.records(&places)?;
        let domain = self.genesis.domain();
        let holder = |(name, value): (&Name, _)| {
            let holder = self.read(value)?.and_then(|NameListing(holder)| holder);
            if holder.is_some_and(|holder: Holder| holder.verify(&domain, name).is_err()) {
                let what = format!("it gives the name {name} to a node that its account has not signed for");
                return Err(self.contradiction(what));
            }
            Ok(holder)
        };
        names.iter().zip(values).map(holder).collect()
    }

    /// The names behind one: those that the ledger tells of, each proven. One that was given up meanwhile is left out.
    pub(super) fn proven_names(&mut self, after: Option<Name>) -> Result<Vec<Named>, RemoteError> {
        let mut after = after;
        for _ in 0..MAX_TRIES {
            let behind = after.map(|name| format!("&after={name}")).unwrap_or_default();
            let told: Names = self.client.get(&format!("/v1/names?limit={MAX_PLACES}{behind}"))?;
            let names: Vec<Name> = told.names.iter().map(|named| named.name).collect();
            let in_order = after.iter().chain(&names).is_sorted_by(|one, next| one < next);
            if !in_order || names.len() > MAX_PLACES {
                return Err(self.contradiction("its names are not those that were asked for".to_owned()));
            }
            let holders = self.proven_holders(&names)?;
            let named = |(name, holder): (&Name, Option<Holder>)| Some(Named { name: *name, holder: holder? });
            let page: Vec<Named> = names.iter().zip(holders).filter_map(named).collect();
            // An empty page is the end, and that they were all given up meanwhile is not.
            if !page.is_empty() || names.is_empty() {
                return Ok(page);
            }
            after = names.last().copied();
        }
        Err(self.contradiction("it tells of names that nobody has".to_owned()))
    }

    /// A channel's record, and the account whose key signs on it.
    pub(super) fn signed_channel(&mut self, id: ChannelId) -> Result<Option<(Channel, NodeId)>, RemoteError> {
        let mut values = self.records(&[Channel::place(&id), ChannelSigner::place(&id)])?.into_iter();
        let (channel, signer) = (values.next().flatten(), values.next().flatten());
        let Some(channel) = self.read(channel)? else { return Ok(None) };
        let signer = self.read(signer)?.map_or(id.payer, |ChannelSigner(signer)| signer);
        Ok(Some((channel, signer)))
    }

    /// The records of channels that it has told of.
    pub(super) fn channels(&mut self, told: &[ChannelId]) -> Result<Vec<Channel>, RemoteError> {
        let places: Vec<_> = told.iter().map(Channel::place).collect();
        let values = self.records(&places)?;
        let channel = |value| {
            let channel = self.read(value)?;
            channel.ok_or_else(|| self.contradiction("it tells of a channel that it does not have".to_owned()))
        };
        values.into_iter().map(channel).collect()
    }

    /// The highest nonce of a pair's channels: the ledger names it, and proves that this channel is there and the next is not.
    pub(super) fn proven_nonce(&mut self, payer: NodeId, payee: NodeId) -> Result<Option<u64>, RemoteError> {
        for _ in 0..MAX_TRIES {
            let pair: Pair = self.client.get(&format!("/v1/channels/{payer}/{payee}"))?;
            let (latest, next) = match pair.latest_nonce {
                None => (None, 1),
                Some(latest) => match latest.checked_add(1).filter(|_| latest > 0) {
                    Some(next) => (Some(latest), next),
                    None => return Err(self.contradiction(format!("no channel has the nonce {latest}"))),
                },
            };
            let nonces = latest.into_iter().chain([next]);
            let places: Vec<_> = nonces.map(|nonce| Channel::place(&ChannelId { payer, payee, nonce })).collect();
            let values = self.records(&places)?;
            let Some((after, named)) = values.split_last() else { continue };
            if named.iter().any(Option::is_none) {
                return Err(self.contradiction("it names a channel that it does not have".to_owned()));
            }
            if after.is_none() {
                return Ok(latest);
            }
            // Another was opened meanwhile, or it hides one.
        }
        Err(self.contradiction("it names an older channel than the pair's newest".to_owned()))
    }

    /// The time of the newest entry, and where all tokens are.
    pub(super) fn overall(&mut self) -> Result<Overall, RemoteError> {
        let overall = self.record(&())?;
        overall.ok_or_else(|| self.contradiction("it proves that it has no totals".to_owned()))
    }

    /// The log's head, and what it says that all records hash to there.
    pub(super) fn signed_records(&mut self) -> Result<(Head, Hash), RemoteError> {
        self.overall()?;
        let newest = self.view.newest();
        let signed = self.view.head().zip(newest.and_then(checkpoint::records));
        signed.ok_or_else(|| self.contradiction("its checkpoint says nothing of the records".to_owned()))
    }

    pub(super) fn proven_totals(&mut self) -> Result<Totals, RemoteError> {
        Ok(self.overall()?.totals)
    }

    /// The entry that an account's order of this number made, which the ledger must have where the number is used.
    pub(super) fn ordered(&mut self, account: NodeId, sequence: u64) -> Result<Entry, RemoteError> {
        let head = self.newest()?;
        let path = format!("/v1/accounts/{account}/orders/{sequence}?size={}", head.size);
        let told: Inclusion<NumberedBytes> = match self.client.get(&path) {
            Err(ClientError::Problem { problem, .. }) if problem.status == 404 => {
                return Err(self.contradiction(format!("it does not show which order had the number {sequence}")));
            }
            told => told?,
        };
        if !verify_inclusion(&head, told.entry.number, &leaf_hash(&told.entry.bytes.0), &told.proof) {
            return Err(
                self.contradiction(format!("nothing proves that entry {} stands in its log", told.entry.number))
            );
        }
        let entry = self.decoded(&told.entry)?;
        let is_it = entry.order().is_some_and(|made| (made.account(), made.seal().sequence) == (account, sequence));
        if is_it {
            Ok(entry)
        } else {
            Err(self.contradiction(format!("entry {} is not order {sequence} of {account}", told.entry.number)))
        }
    }
}
