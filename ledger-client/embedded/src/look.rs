//! What a server tells of a ledger, each read in one transaction: how it stands, what stands under an account.

use ledger_core::fact::Fact;
use ledger_core::name::{Holder, Name, NameListing, Named, OwnName, all_names, name_at};
use ledger_core::registry::Listing;
use ledger_core::role::{Held, Role};
use ledger_core::signer::Signer;
use ledger_core::{Account, Channel, ChannelRecord, ExecuteError, Head, Records, Totals, UnixTime, channel_signer};
use metering::{ChannelId, NodeId};

use crate::error::{Error, Fault};
use crate::transaction::Transaction;
use crate::{Embedded, MAX_PAGE};

/// How a ledger stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The log's head.
    pub head: Head,
    /// The time of the newest entry.
    pub time: UnixTime,
    /// Where all tokens are.
    pub totals: Totals,
}

impl Embedded {
    /// How the ledger stands.
    ///
    /// # Errors
    /// [`Error`]
    pub fn standing(&mut self) -> Result<Standing, Error> {
        self.read(|records| Ok(Standing { head: records.head(), time: records.time(), totals: records.totals() }))
    }

    /// All that stands under an account. One that was never heard of has nothing.
    ///
    /// # Errors
    /// [`Error`]
    pub fn account(&mut self, account: NodeId) -> Result<Account, Error> {
        self.read(|records| {
            let mut roles = Vec::new();
            for role in [Role::Issuer, Role::Auditor] {
                if fact::<Held>(records, &(role, account))?.is_some_and(|Held(held)| held) {
                    roles.push(role);
                }
            }
            Ok(Account {
                account,
                balance: records.balance(account)?,
                sequence: records.sequence(account)?,
                signer: fact::<Signer>(records, &account)?.map_or(account, |Signer(signer)| signer),
                membership: fact(records, &account)?,
                roles,
                registration: fact::<Listing>(records, &account)?.and_then(|Listing(listed)| listed),
                name: fact::<OwnName>(records, &account)?.and_then(|OwnName(name)| name),
                shares: fact(records, &account)?,
            })
        })
    }

    /// Who has a name.
    ///
    /// # Errors
    /// [`Error`]
    pub fn named(&mut self, name: Name) -> Result<Option<Holder>, Error> {
        self.read(|records| Ok(fact::<NameListing>(records, &name)?.and_then(|NameListing(holder)| holder)))
    }

    /// A page of the names that somebody has, in order: those behind `after`, at most `limit` and at most [`MAX_PAGE`].
    ///
    /// # Errors
    /// [`Error`]
    pub fn names(&mut self, after: Option<Name>, limit: usize) -> Result<Vec<Named>, Error> {
        let [first, end] = all_names();
        let after = after.map_or(first, |name| NameListing::place(&name));
        self.read(|records| {
            let page = records.facts_between(&after, &end, limit.min(MAX_PAGE))?;
            let named = |(place, value): (Vec<u8>, Vec<u8>)| {
                let named = name_at(&place).zip(NameListing::decode(&value).and_then(|NameListing(holder)| holder));
                let (name, holder) = named.ok_or_else(|| Fault::damaged("a record does not read"))?;
                Ok(Named { name, holder })
            };
            page.into_iter().map(named).collect()
        })
    }

    /// A channel's record with its signer.
    ///
    /// # Errors
    /// [`Error`]
    pub fn signed_channel(&mut self, id: ChannelId) -> Result<Option<ChannelRecord>, Error> {
        self.read(|records| match records.channel(id)? {
            Some(channel) => Ok(Some(signed(records, id, channel)?)),
            None => Ok(None),
        })
    }

    /// A page of the channels an account pays or is paid on, closed ones too, in order of their ids: those behind `after`,
    /// at most `limit` and at most [`MAX_PAGE`]. It takes as long as the page is, however many there are.
    ///
    /// # Errors
    /// [`Error`]
    pub fn channels_page(
        &mut self,
        account: NodeId,
        after: Option<ChannelId>,
        limit: usize,
    ) -> Result<Vec<ChannelRecord>, Error> {
        self.read(|records| {
            let page = records.channels_behind(account, after, limit.min(MAX_PAGE))?;
            page.into_iter().map(|(id, channel)| signed(records, id, channel)).collect()
        })
    }
}

fn signed(records: &Transaction<'_>, channel: ChannelId, record: Channel) -> Result<ChannelRecord, Fault> {
    match channel_signer(records, channel) {
        Ok(signer) => Ok(ChannelRecord { channel, signer, record }),
        Err(ExecuteError::Records(fault)) => Err(fault),
        Err(error) => Err(Fault::Damaged(format!("who signs on a channel: {error}"))),
    }
}

fn fact<F: Fact>(records: &Transaction<'_>, key: &F::Key) -> Result<Option<F>, Fault> {
    let place = F::place(key);
    let Some(value) = records.fact(&place)? else { return Ok(None) };
    F::decode(&value).map(Some).ok_or_else(|| Fault::damaged("a record does not read"))
}
