//! What has happened, as it stands in the log.

use std::convert::Infallible;

use metering::json::word;
use metering::{ChannelId, Close, NodeId, Price, Receipt, Signature, Tokens, Unverified};
use minicbor::{Decoder, Encoder, decode, encode};
use serde::Serialize;
use thiserror::Error;

use crate::name::Name;
use crate::registry::{Registration, Station};
use crate::role::Role;
use crate::voucher::Claim;
use crate::{Command, Genesis, Hash, Head, Order, Request, Seal, UnixTime};

/// One line of the log: when, and what. Replaying all entries from the first gives every balance and channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When it happened by the clock of the machine that wrote it; never before the entry in front of it.
    pub at: UnixTime,
    /// What happened.
    pub event: Event,
    /// Number and signature of the order it happened by; none where it needed none.
    pub seal: Option<Seal>,
}

/// What happened. It says all that changed, and all that is needed to check that it was right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The ledger began. Always entry 0, and only that.
    Founded(Genesis),
    /// Tokens were made.
    Minted {
        /// The treasurer.
        by: NodeId,
        /// Who got them.
        to: NodeId,
        /// How many.
        amount: Tokens,
    },
    /// Tokens were given away.
    Transferred {
        /// Who gave.
        from: NodeId,
        /// Who got them.
        to: NodeId,
        /// How many.
        amount: Tokens,
    },
    /// Tokens were locked in a new channel.
    ChannelOpened {
        /// Its id, with the nonce the ledger gave it.
        channel: ChannelId,
        /// How many.
        deposit: Tokens,
    },
    /// More tokens were locked in a channel.
    ToppedUp {
        /// Which.
        channel: ChannelId,
        /// How many more.
        amount: Tokens,
    },
    /// A receipt was redeemed. It is kept whole, so that an auditor can check the payer's signature.
    Redeemed {
        /// The receipt.
        receipt: Receipt<Unverified>,
        /// What the payee got: the receipt's amount less all that was redeemed before.
        paid: Tokens,
    },
    /// Notice was given.
    CloseStarted {
        /// Of which channel.
        channel: ChannelId,
        /// When it is over.
        exit: UnixTime,
    },
    /// A channel ended after its notice.
    Finalized {
        /// Which.
        channel: ChannelId,
        /// What the payer got back.
        refunded: Tokens,
    },
    /// A channel ended by agreement. The payer's offer is kept whole, so that an auditor can check its signature.
    MutuallyClosed {
        /// Which, and all that the payee got out of it.
        close: Close<Unverified>,
        /// What of this the payee got at the end.
        paid: Tokens,
        /// What the payer got back.
        refunded: Tokens,
    },
    /// Tokens were unmade.
    Burned {
        /// Whose.
        by: NodeId,
        /// How many.
        amount: Tokens,
    },
    /// Tokens were locked for whoever knows a secret.
    VoucherIssued {
        /// Whose.
        by: NodeId,
        /// The account that the secret would be the key of.
        voucher: NodeId,
        /// How many.
        amount: Tokens,
        /// From when on they can be taken back.
        until: UnixTime,
    },
    /// A voucher's tokens went to whom its bearer named. The claim is kept whole, so that an auditor can check it.
    VoucherRedeemed {
        /// The claim.
        claim: Claim<Unverified>,
        /// How many.
        amount: Tokens,
    },
    /// A voucher's tokens went back.
    VoucherReclaimed {
        /// To its issuer.
        by: NodeId,
        /// Which voucher's.
        voucher: NodeId,
        /// How many.
        amount: Tokens,
    },
    /// A router's revenue was made its share holders'.
    SharesIssued {
        /// The router's account, which holds them all at first.
        router: NodeId,
        /// How many.
        shares: u64,
    },
    /// Shares were given away.
    SharesTransferred {
        /// Of which router.
        router: NodeId,
        /// Who gave.
        from: NodeId,
        /// Who got them.
        to: NodeId,
        /// How many.
        shares: u64,
    },
    /// A holder took out what its shares had earned.
    RevenueClaimed {
        /// Of which router.
        router: NodeId,
        /// Who.
        by: NodeId,
        /// How much.
        amount: Tokens,
    },
    /// An account was given a role.
    Appointed {
        /// The treasurer.
        by: NodeId,
        /// Which role.
        role: Role,
        /// Who has it.
        to: NodeId,
    },
    /// A role was taken away.
    Dismissed {
        /// The treasurer.
        by: NodeId,
        /// Which role.
        role: Role,
        /// Who had it.
        from: NodeId,
    },
    /// An account was taken into the community.
    MembershipIssued {
        /// The issuer.
        by: NodeId,
        /// Whom.
        to: NodeId,
        /// When it ends.
        until: UnixTime,
    },
    /// An account was put out of the community. What the registry had under it is gone.
    MembershipRevoked {
        /// The issuer.
        by: NodeId,
        /// Whom.
        of: NodeId,
    },
    /// A membership was offered to whoever knows a secret.
    EnrolmentOffered {
        /// The issuer.
        by: NodeId,
        /// The account that the secret would be the key of.
        enrolment: NodeId,
        /// When the membership ends.
        until: UnixTime,
        /// When the offer ends.
        expires: UnixTime,
    },
    /// An offer was taken back.
    EnrolmentWithdrawn {
        /// The issuer that did it.
        by: NodeId,
        /// The issuer that had made it.
        issuer: NodeId,
        /// Which of that issuer's.
        enrolment: NodeId,
    },
    /// An account took an offer and is a member.
    Enrolled {
        /// Which.
        account: NodeId,
        /// Whose offer.
        issuer: NodeId,
        /// Which of that issuer's.
        enrolment: NodeId,
        /// The secret's word for the account, kept for the auditor.
        claim: Signature,
        /// When its membership ends.
        until: UnixTime,
    },
    /// A member said what it runs.
    Registered {
        /// Which.
        account: NodeId,
        /// What.
        registration: Registration,
    },
    /// An account took back what it had said.
    Unregistered {
        /// Which.
        account: NodeId,
    },
    /// A member's node has a name.
    NameClaimed {
        /// Whose.
        account: NodeId,
        /// Which.
        name: Name,
        /// The node's WireGuard key.
        #[serde(with = "word")]
        wireguard: [u8; 32],
        /// The account's own word for it, kept for whoever looks the name up.
        claim: Signature,
        /// Who had the name until then, and was no member any more.
        before: Option<NodeId>,
    },
    /// A name is free again.
    NameReleased {
        /// Who gave it up, or the issuer that took it back.
        by: NodeId,
        /// Who had it.
        account: NodeId,
        /// Which.
        name: Name,
    },
    /// An auditor stated that it has replayed the log.
    Attested {
        /// The auditor.
        by: NodeId,
        /// Up to where.
        head: Head,
    },
    /// An account has used a sequence up, and nothing else.
    Skipped {
        /// Which.
        account: NodeId,
    },
    /// An account has another key.
    SignerChanged {
        /// Which account.
        account: NodeId,
        /// The account that the new key would be of.
        signer: NodeId,
        /// The new key's consent, kept for the auditor.
        consent: Signature,
    },
}

/// The longest encoding of an entry, in bytes. A reader refuses more before looking at it.
pub const MAX_ENTRY_BYTES: usize = 1024;

impl Event {
    /// Its name, for tables and programs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Founded(_) => "founded",
            Self::Minted { .. } => "minted",
            Self::Transferred { .. } => "transferred",
            Self::ChannelOpened { .. } => "channel-opened",
            Self::ToppedUp { .. } => "topped-up",
            Self::Redeemed { .. } => "redeemed",
            Self::CloseStarted { .. } => "close-started",
            Self::Finalized { .. } => "finalized",
            Self::MutuallyClosed { .. } => "mutually-closed",
            Self::Burned { .. } => "burned",
            Self::VoucherIssued { .. } => "voucher-issued",
            Self::VoucherRedeemed { .. } => "voucher-redeemed",
            Self::VoucherReclaimed { .. } => "voucher-reclaimed",
            Self::SharesIssued { .. } => "shares-issued",
            Self::SharesTransferred { .. } => "shares-transferred",
            Self::RevenueClaimed { .. } => "revenue-claimed",
            Self::Appointed { .. } => "appointed",
            Self::Dismissed { .. } => "dismissed",
            Self::MembershipIssued { .. } => "membership-issued",
            Self::MembershipRevoked { .. } => "membership-revoked",
            Self::EnrolmentOffered { .. } => "enrolment-offered",
            Self::EnrolmentWithdrawn { .. } => "enrolment-withdrawn",
            Self::Enrolled { .. } => "enrolled",
            Self::Registered { .. } => "registered",
            Self::Unregistered { .. } => "unregistered",
            Self::NameClaimed { .. } => "name-claimed",
            Self::NameReleased { .. } => "name-released",
            Self::Attested { .. } => "attested",
            Self::Skipped { .. } => "skipped",
            Self::SignerChanged { .. } => "signer-changed",
        }
    }

    /// In whose name this happened, by which command; or `None` where nobody had to order it.
    #[must_use]
    pub fn ordered(&self) -> Option<(NodeId, Command)> {
        Some(match *self {
            Self::Founded(_) | Self::Redeemed { .. } | Self::Finalized { .. } | Self::VoucherRedeemed { .. } => {
                return None;
            }
            Self::Minted { by, to, amount } => (by, Command::Mint { to, amount }),
            Self::Transferred { from, to, amount } => (from, Command::Transfer { to, amount }),
            Self::ChannelOpened { channel, deposit } => {
                (channel.payer, Command::OpenChannel { payee: channel.payee, deposit })
            }
            Self::ToppedUp { channel, amount } => (channel.payer, Command::TopUp { channel, amount }),
            Self::CloseStarted { channel, .. } => (channel.payer, Command::StartClose { channel }),
            Self::MutuallyClosed { close, .. } => (close.channel().payee, Command::MutualClose { close }),
            Self::Burned { by, amount } => (by, Command::Burn { amount }),
            Self::VoucherIssued { by, voucher, amount, until } => {
                (by, Command::IssueVoucher { voucher, amount, until })
            }
            Self::VoucherReclaimed { by, voucher, .. } => (by, Command::ReclaimVoucher { voucher }),
            Self::SharesIssued { router, shares } => (router, Command::IssueShares { shares }),
            Self::SharesTransferred { router, from, to, shares } => {
                (from, Command::TransferShares { router, to, shares })
            }
            Self::RevenueClaimed { router, by, .. } => (by, Command::ClaimRevenue { router }),
            Self::Appointed { by, role, to } => (by, Command::Appoint { role, to }),
            Self::Dismissed { by, role, from } => (by, Command::Dismiss { role, from }),
            Self::MembershipIssued { by, to, until } => (by, Command::IssueMembership { to, until }),
            Self::MembershipRevoked { by, of } => (by, Command::RevokeMembership { of }),
            Self::EnrolmentOffered { by, enrolment, until, expires } => {
                (by, Command::OfferEnrolment { enrolment, until, expires })
            }
            Self::EnrolmentWithdrawn { by, issuer, enrolment } => {
                (by, Command::WithdrawEnrolment { issuer, enrolment })
            }
            Self::Enrolled { account, issuer, enrolment, claim, .. } => {
                (account, Command::Enrol { issuer, enrolment, claim })
            }
            Self::Registered { account, registration } => (account, Command::Register { registration }),
            Self::Unregistered { account } => (account, Command::Unregister),
            Self::NameClaimed { account, name, wireguard, claim, .. } => {
                (account, Command::ClaimName { name, wireguard, claim })
            }
            Self::NameReleased { by, name, .. } => (by, Command::ReleaseName { name }),
            Self::Attested { by, head } => (by, Command::Attest { head }),
            Self::Skipped { account } => (account, Command::Skip),
            Self::SignerChanged { account, signer, consent } => (account, Command::ChangeSigner { signer, consent }),
        })
    }
}

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Longer than [`MAX_ENTRY_BYTES`], not CBOR, cut short, or of another shape.
    #[error("not a well-formed entry")]
    Malformed,
    /// The same entry has another, shorter encoding; or bytes follow it.
    #[error("an entry in an encoding that is not the deterministic one")]
    NotDeterministic,
}

impl Entry {
    /// The order this happened by, if it took one.
    #[must_use]
    pub fn order(&self) -> Option<Order<Unverified>> {
        let (account, command) = self.event.ordered()?;
        Some(Order::new(account, command, self.seal?))
    }

    /// What was asked of the ledger to make this happen, or `None` for the founding, which nobody asks for, and for an entry
    /// that lacks its seal.
    #[must_use]
    pub fn request(&self) -> Option<Request> {
        match self.event {
            Event::Redeemed { receipt, .. } => Some(Request::Redeem { receipt }),
            Event::Finalized { channel, .. } => Some(Request::Finalize { channel }),
            Event::VoucherRedeemed { claim, .. } => Some(Request::RedeemVoucher { claim }),
            Event::Founded(_)
            | Event::Minted { .. }
            | Event::Transferred { .. }
            | Event::ChannelOpened { .. }
            | Event::ToppedUp { .. }
            | Event::CloseStarted { .. }
            | Event::MutuallyClosed { .. }
            | Event::Burned { .. }
            | Event::VoucherIssued { .. }
            | Event::VoucherReclaimed { .. }
            | Event::SharesIssued { .. }
            | Event::SharesTransferred { .. }
            | Event::RevenueClaimed { .. }
            | Event::Appointed { .. }
            | Event::Dismissed { .. }
            | Event::MembershipIssued { .. }
            | Event::MembershipRevoked { .. }
            | Event::EnrolmentOffered { .. }
            | Event::EnrolmentWithdrawn { .. }
            | Event::Enrolled { .. }
            | Event::Registered { .. }
            | Event::Unregistered { .. }
            | Event::NameClaimed { .. }
            | Event::NameReleased { .. }
            | Event::Attested { .. }
            | Event::Skipped { .. }
            | Event::SignerChanged { .. } => self.order().map(Request::Order),
        }
    }

    /// The entry in deterministic CBOR (RFC 8949, section 4.2.1): `[at, kind, ...]`, with amounts as 12 bytes, a channel
    /// as `[payer, payee, nonce]`, a receipt or an offer to close as the byte string of its own encoding, and behind what
    /// was ordered `sequence, signature`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        written(|to| write_entry(self, to))
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// [`EntryError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(EntryError::Malformed);
        }
        let entry = read_entry(&mut Decoder::new(bytes)).map_err(|_| EntryError::Malformed)?;
        if entry.encode() == bytes { Ok(entry) } else { Err(EntryError::NotDeterministic) }
    }
}

impl Genesis {
    /// The genesis in deterministic CBOR: `[community, symbol, decimals, treasurer, close notice, founded, nonce]`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        written(|to| write_genesis(self, to))
    }
}

type Writer = Encoder<Vec<u8>>;
type Written = Result<(), encode::Error<Infallible>>;

fn written(write: impl FnOnce(&mut Writer) -> Written) -> Vec<u8> {
    let mut to = Encoder::new(Vec::new());
    write(&mut to).expect("a vector takes every write, and nothing here makes an error of its own");
    to.into_writer()
}

fn write_entry(entry: &Entry, to: &mut Writer) -> Written {
    let (kind, fields) = shape(&entry.event);
    let sealed = if entry.seal.is_some() { 2 } else { 0 };
    to.array(2 + fields + sealed)?.u64(entry.at.seconds())?.u8(kind)?;
    write_event(&entry.event, to)?;
    if let Some(Seal { sequence, signature }) = entry.seal {
        to.u64(sequence)?.bytes(&signature.0)?;
    }
    Ok(())
}

/// The number that stands for an event in the log, and how many fields follow it. Never reused.
const fn shape(event: &Event) -> (u8, u64) {
    match event {
        Event::Founded(_) => (0, 1),
        Event::Minted { .. } => (1, 3),
        Event::Transferred { .. } => (2, 3),
        Event::ChannelOpened { .. } => (3, 2),
        Event::ToppedUp { .. } => (4, 2),
        Event::Redeemed { .. } => (5, 2),
        Event::CloseStarted { .. } => (6, 2),
        Event::Finalized { .. } => (7, 2),
        Event::MutuallyClosed { .. } => (8, 3),
        Event::Burned { .. } => (9, 2),
        Event::VoucherIssued { .. } => (10, 4),
        Event::VoucherRedeemed { .. } => (11, 5),
        Event::VoucherReclaimed { .. } => (12, 3),
        Event::SignerChanged { .. } => (13, 3),
        Event::SharesIssued { .. } => (14, 2),
        Event::SharesTransferred { .. } => (15, 4),
        Event::RevenueClaimed { .. } => (16, 3),
        Event::Appointed { .. } => (17, 3),
        Event::Dismissed { .. } => (18, 3),
        Event::MembershipIssued { .. } => (19, 3),
        Event::MembershipRevoked { .. } => (20, 2),
        Event::EnrolmentOffered { .. } => (21, 4),
        Event::Enrolled { .. } => (22, 5),
        Event::Registered { .. } => (23, 5),
        Event::Unregistered { .. } => (24, 1),
        Event::Attested { .. } => (25, 3),
        Event::EnrolmentWithdrawn { .. } => (26, 3),
        Event::Skipped { .. } => (27, 1),
        Event::NameClaimed { .. } => (28, 5),
        Event::NameReleased { .. } => (29, 3),
    }
}

fn write_event(event: &Event, to: &mut Writer) -> Written {
    match event {
        Event::Founded(genesis) => write_genesis(genesis, to)?,
        Event::Minted { by: from, to: target, amount } | Event::Transferred { from, to: target, amount } => {
            to.bytes(&from.0)?.bytes(&target.0)?;
            write_amount(*amount, to)?;
        }
        Event::ChannelOpened { channel, deposit: amount }
        | Event::ToppedUp { channel, amount }
        | Event::Finalized { channel, refunded: amount } => {
            write_channel(channel, to)?;
            write_amount(*amount, to)?;
        }
        Event::Redeemed { receipt, paid } => {
            to.bytes(&receipt.encode())?;
            write_amount(*paid, to)?;
        }
        Event::CloseStarted { channel, exit } => {
            write_channel(channel, to)?;
            to.u64(exit.seconds())?;
        }
        Event::MutuallyClosed { close, paid, refunded } => {
            to.bytes(&close.encode())?;
            write_amount(*paid, to)?;
            write_amount(*refunded, to)?;
        }
        Event::Burned { by, amount } => {
            to.bytes(&by.0)?;
            write_amount(*amount, to)?;
        }
        Event::VoucherIssued { by, voucher, amount, until } => {
            to.bytes(&by.0)?.bytes(&voucher.0)?;
            write_amount(*amount, to)?;
            to.u64(until.seconds())?;
        }
        Event::VoucherRedeemed { claim, amount } => {
            let [issuer, voucher, target] = [claim.issuer(), claim.voucher(), claim.to()].map(|account| account.0);
            to.bytes(&issuer)?.bytes(&voucher)?.bytes(&target)?.bytes(&claim.signature().0)?;
            write_amount(*amount, to)?;
        }
        Event::VoucherReclaimed { by, voucher, amount } => {
            to.bytes(&by.0)?.bytes(&voucher.0)?;
            write_amount(*amount, to)?;
        }
        Event::SharesIssued { router, shares } => {
            to.bytes(&router.0)?.u64(*shares)?;
        }
        Event::SharesTransferred { router, from, to: target, shares } => {
            to.bytes(&router.0)?.bytes(&from.0)?.bytes(&target.0)?.u64(*shares)?;
        }
        Event::RevenueClaimed { router, by, amount } => {
            to.bytes(&router.0)?.bytes(&by.0)?;
            write_amount(*amount, to)?;
        }
        Event::Appointed { by, role, to: account } | Event::Dismissed { by, role, from: account } => {
            to.bytes(&by.0)?.u8(role.number())?.bytes(&account.0)?;
        }
        Event::MembershipIssued { by, to: member, until } => {
            to.bytes(&by.0)?.bytes(&member.0)?.u64(until.seconds())?;
        }
        Event::MembershipRevoked { by, of } => {
            to.bytes(&by.0)?.bytes(&of.0)?;
        }
        Event::EnrolmentOffered { by, enrolment, until, expires } => {
            to.bytes(&by.0)?.bytes(&enrolment.0)?.u64(until.seconds())?.u64(expires.seconds())?;
        }
        Event::EnrolmentWithdrawn { by, issuer, enrolment } => {
            to.bytes(&by.0)?.bytes(&issuer.0)?.bytes(&enrolment.0)?;
        }
        Event::Enrolled { account, issuer, enrolment, claim, until } => {
            to.bytes(&account.0)?.bytes(&issuer.0)?.bytes(&enrolment.0)?.bytes(&claim.0)?.u64(until.seconds())?;
        }
        Event::Registered { account, registration: Registration { station, price_up, price_down, terms } } => {
            to.bytes(&account.0)?.u8(station.number())?.u64(price_up.get())?.u64(price_down.get())?.bytes(terms)?;
        }
        Event::Unregistered { account } | Event::Skipped { account } => {
            to.bytes(&account.0)?;
        }
        Event::NameClaimed { account, name, wireguard, claim, before } => {
            to.bytes(&account.0)?.str(name.as_str())?.bytes(wireguard)?.bytes(&claim.0)?;
            to.bytes(before.as_ref().map_or(&[], |before| &before.0))?;
        }
        Event::NameReleased { by, account, name } => {
            to.bytes(&by.0)?.bytes(&account.0)?.str(name.as_str())?;
        }
        Event::Attested { by, head } => {
            to.bytes(&by.0)?.u64(head.size)?.bytes(&head.root.0)?;
        }
        Event::SignerChanged { account, signer, consent } => {
            to.bytes(&account.0)?.bytes(&signer.0)?.bytes(&consent.0)?;
        }
    }
    Ok(())
}

fn write_genesis(genesis: &Genesis, to: &mut Writer) -> Written {
    to.array(7)?
        .str(genesis.community())?
        .str(genesis.symbol())?
        .u8(genesis.decimals())?
        .bytes(&genesis.treasurer().0)?
        .u32(genesis.close_notice_s())?
        .u64(genesis.founded().seconds())?
        .bytes(genesis.nonce())?;
    Ok(())
}

fn write_channel(channel: &ChannelId, to: &mut Writer) -> Written {
    to.array(3)?.bytes(&channel.payer.0)?.bytes(&channel.payee.0)?.u64(channel.nonce)?;
    Ok(())
}

fn write_amount(amount: Tokens, to: &mut Writer) -> Written {
    to.bytes(&amount.to_be_bytes12())?;
    Ok(())
}

/// Reads one, leniently: [`Entry::decode`] compares it with what [`Entry::encode`] gives.
fn read_entry(from: &mut Decoder<'_>) -> Result<Entry, decode::Error> {
    from.array()?;
    let (at, event) = (read_time(from)?, read_event(from)?);
    let seal = event.ordered().map(|_| read_seal(from)).transpose()?;
    Ok(Entry { at, event, seal })
}

fn read_event(from: &mut Decoder<'_>) -> Result<Event, decode::Error> {
    Ok(match from.u8()? {
        0 => Event::Founded(read_genesis(from)?),
        1 => Event::Minted { by: read_account(from)?, to: read_account(from)?, amount: read_amount(from)? },
        2 => Event::Transferred { from: read_account(from)?, to: read_account(from)?, amount: read_amount(from)? },
        3 => Event::ChannelOpened { channel: read_channel(from)?, deposit: read_amount(from)? },
        4 => Event::ToppedUp { channel: read_channel(from)?, amount: read_amount(from)? },
        5 => Event::Redeemed { receipt: read_receipt(from)?, paid: read_amount(from)? },
        6 => Event::CloseStarted { channel: read_channel(from)?, exit: read_time(from)? },
        7 => Event::Finalized { channel: read_channel(from)?, refunded: read_amount(from)? },
        8 => Event::MutuallyClosed {
            close: Close::decode(from.bytes()?).map_err(decode::Error::message)?,
            paid: read_amount(from)?,
            refunded: read_amount(from)?,
        },
        9 => Event::Burned { by: read_account(from)?, amount: read_amount(from)? },
        10 => Event::VoucherIssued {
            by: read_account(from)?,
            voucher: read_account(from)?,
            amount: read_amount(from)?,
            until: read_time(from)?,
        },
        11 => Event::VoucherRedeemed {
            claim: Claim::new(
                read_account(from)?,
                read_account(from)?,
                read_account(from)?,
                Signature(read_bytes(from)?),
            ),
            amount: read_amount(from)?,
        },
        12 => Event::VoucherReclaimed {
            by: read_account(from)?,
            voucher: read_account(from)?,
            amount: read_amount(from)?,
        },
        13 => Event::SignerChanged {
            account: read_account(from)?,
            signer: read_account(from)?,
            consent: Signature(read_bytes(from)?),
        },
        14 => Event::SharesIssued { router: read_account(from)?, shares: from.u64()? },
        15 => Event::SharesTransferred {
            router: read_account(from)?,
            from: read_account(from)?,
            to: read_account(from)?,
            shares: from.u64()?,
        },
        16 => {
            Event::RevenueClaimed { router: read_account(from)?, by: read_account(from)?, amount: read_amount(from)? }
        }
        17 => Event::Appointed { by: read_account(from)?, role: read_role(from)?, to: read_account(from)? },
        18 => Event::Dismissed { by: read_account(from)?, role: read_role(from)?, from: read_account(from)? },
        19 => Event::MembershipIssued { by: read_account(from)?, to: read_account(from)?, until: read_time(from)? },
        20 => Event::MembershipRevoked { by: read_account(from)?, of: read_account(from)? },
        21 => Event::EnrolmentOffered {
            by: read_account(from)?,
            enrolment: read_account(from)?,
            until: read_time(from)?,
            expires: read_time(from)?,
        },
        22 => Event::Enrolled {
            account: read_account(from)?,
            issuer: read_account(from)?,
            enrolment: read_account(from)?,
            claim: Signature(read_bytes(from)?),
            until: read_time(from)?,
        },
        23 => Event::Registered { account: read_account(from)?, registration: read_registration(from)? },
        24 => Event::Unregistered { account: read_account(from)? },
        25 => {
            Event::Attested { by: read_account(from)?, head: Head { size: from.u64()?, root: Hash(read_bytes(from)?) } }
        }
        26 => Event::EnrolmentWithdrawn {
            by: read_account(from)?,
            issuer: read_account(from)?,
            enrolment: read_account(from)?,
        },
        27 => Event::Skipped { account: read_account(from)? },
        28 => Event::NameClaimed {
            account: read_account(from)?,
            name: read_name(from)?,
            wireguard: read_bytes(from)?,
            claim: Signature(read_bytes(from)?),
            before: match from.bytes()? {
                [] => None,
                before => Some(NodeId(before.try_into().map_err(|_| other_length())?)),
            },
        },
        29 => Event::NameReleased { by: read_account(from)?, account: read_account(from)?, name: read_name(from)? },
        _ => {
            return Err(decode::Error::message("an event of a kind that is not known"));
        }
    })
}

fn read_genesis(from: &mut Decoder<'_>) -> Result<Genesis, decode::Error> {
    from.array()?;
    let (community, symbol, decimals) = (from.str()?, from.str()?, from.u8()?);
    let (treasurer, close_notice_s) = (read_account(from)?, from.u32()?);
    let (founded, nonce) = (read_time(from)?, read_bytes(from)?);
    Genesis::new(community, symbol, decimals, treasurer, founded, nonce)
        .map(|genesis| genesis.with_close_notice(close_notice_s))
        .map_err(decode::Error::message)
}

fn read_receipt(from: &mut Decoder<'_>) -> Result<Receipt<Unverified>, decode::Error> {
    Receipt::decode(from.bytes()?).map_err(decode::Error::message)
}

fn read_role(from: &mut Decoder<'_>) -> Result<Role, decode::Error> {
    Role::from_number(from.u8()?).ok_or_else(|| decode::Error::message("a role that is not known"))
}

fn read_name(from: &mut Decoder<'_>) -> Result<Name, decode::Error> {
    from.str()?.parse().map_err(decode::Error::message)
}

fn read_registration(from: &mut Decoder<'_>) -> Result<Registration, decode::Error> {
    let unknown = || decode::Error::message("a station that is not known");
    Ok(Registration {
        station: Station::from_number(from.u8()?).ok_or_else(unknown)?,
        price_up: Price::new(from.u64()?),
        price_down: Price::new(from.u64()?),
        terms: read_bytes(from)?,
    })
}

fn read_time(from: &mut Decoder<'_>) -> Result<UnixTime, decode::Error> {
    Ok(UnixTime::from_seconds(from.u64()?))
}

fn read_seal(from: &mut Decoder<'_>) -> Result<Seal, decode::Error> {
    Ok(Seal { sequence: from.u64()?, signature: Signature(read_bytes(from)?) })
}

fn read_channel(from: &mut Decoder<'_>) -> Result<ChannelId, decode::Error> {
    from.array()?;
    Ok(ChannelId { payer: read_account(from)?, payee: read_account(from)?, nonce: from.u64()? })
}

fn read_account(from: &mut Decoder<'_>) -> Result<NodeId, decode::Error> {
    read_bytes(from).map(NodeId)
}

fn read_amount(from: &mut Decoder<'_>) -> Result<Tokens, decode::Error> {
    read_bytes(from).map(Tokens::from_be_bytes12)
}

fn read_bytes<const N: usize>(from: &mut Decoder<'_>) -> Result<[u8; N], decode::Error> {
    from.bytes()?.try_into().map_err(|_| other_length())
}

fn other_length() -> decode::Error {
    decode::Error::message("a byte string of another length")
}

#[cfg(test)]
mod tests {
    use metering::AccountKey;

    use super::*;

    const ALICE: NodeId = NodeId([1; 20]);
    const BOB: NodeId = NodeId([2; 20]);
    const CHANNEL: ChannelId = ChannelId { payer: ALICE, payee: BOB, nonce: 3 };

    fn tokens(n: u128) -> Tokens {
        Tokens::new(n).unwrap()
    }

    fn genesis() -> Genesis {
        Genesis::new("Hilltop", "HILL", 6, ALICE, UnixTime::from_seconds(1), [1; 16]).unwrap()
    }

    fn receipt() -> Receipt<Unverified> {
        let key = AccountKey::from_bytes(&[9; 32]).unwrap();
        let channel = ChannelId { payer: key.node_id(), ..CHANNEL };
        Receipt::sign(&key, &genesis().domain(), channel, tokens(5), [4; 32]).into_unverified()
    }

    fn close() -> Close<Unverified> {
        let key = AccountKey::from_bytes(&[9; 32]).unwrap();
        let channel = ChannelId { payer: key.node_id(), ..CHANNEL };
        Close::sign(&key, &genesis().domain(), channel, tokens(9)).into_unverified()
    }

    fn entry(event: Event) -> Entry {
        let seal = event.ordered().map(|_| Seal { sequence: 300, signature: Signature([8; 65]) });
        Entry { at: UnixTime::from_seconds(77), event, seal }
    }

    fn named(before: Option<NodeId>) -> Event {
        let name = "a-name-of-thirty-two-characters1".parse().unwrap();
        Event::NameClaimed { account: ALICE, name, wireguard: [5; 32], claim: Signature([4; 65]), before }
    }

    fn one_of_each() -> Vec<Event> {
        vec![
            Event::Founded(genesis().with_close_notice(7)),
            Event::Minted { by: ALICE, to: BOB, amount: Tokens::MAX },
            Event::Transferred { from: ALICE, to: BOB, amount: tokens(1) },
            Event::ChannelOpened { channel: CHANNEL, deposit: tokens(2) },
            Event::ToppedUp { channel: CHANNEL, amount: tokens(3) },
            Event::Redeemed { receipt: receipt(), paid: tokens(4) },
            Event::CloseStarted { channel: CHANNEL, exit: UnixTime::MAX },
            Event::Finalized { channel: CHANNEL, refunded: tokens(5) },
            Event::MutuallyClosed { close: close(), paid: tokens(2), refunded: tokens(1) },
            Event::Burned { by: ALICE, amount: tokens(6) },
            Event::VoucherIssued { by: ALICE, voucher: BOB, amount: tokens(7), until: UnixTime::MAX },
            Event::VoucherRedeemed { claim: Claim::new(ALICE, BOB, ALICE, Signature([7; 65])), amount: tokens(8) },
            Event::VoucherReclaimed { by: ALICE, voucher: BOB, amount: tokens(9) },
            Event::SharesIssued { router: ALICE, shares: 10 },
            Event::SharesTransferred { router: ALICE, from: ALICE, to: BOB, shares: 3 },
            Event::RevenueClaimed { router: ALICE, by: BOB, amount: tokens(4) },
            Event::Appointed { by: ALICE, role: Role::Issuer, to: BOB },
            Event::Dismissed { by: ALICE, role: Role::Auditor, from: BOB },
            Event::MembershipIssued { by: ALICE, to: BOB, until: UnixTime::MAX },
            Event::MembershipRevoked { by: ALICE, of: BOB },
            Event::EnrolmentOffered { by: ALICE, enrolment: BOB, until: UnixTime::MAX, expires: UnixTime::MAX },
            Event::EnrolmentWithdrawn { by: ALICE, issuer: BOB, enrolment: ALICE },
            Event::Enrolled {
                account: ALICE,
                issuer: BOB,
                enrolment: ALICE,
                claim: Signature([4; 65]),
                until: UnixTime::MAX,
            },
            Event::Registered {
                account: ALICE,
                registration: Registration {
                    station: Station::Gateway,
                    price_up: Price::new(1),
                    price_down: Price::new(u64::MAX),
                    terms: [5; 32],
                },
            },
            Event::Unregistered { account: ALICE },
            named(Some(BOB)),
            named(None),
            Event::NameReleased { by: BOB, account: ALICE, name: "roof".parse().unwrap() },
            Event::Attested { by: ALICE, head: Head { size: 400, root: Hash([6; 32]) } },
            Event::Skipped { account: ALICE },
            Event::SignerChanged { account: ALICE, signer: BOB, consent: Signature([6; 65]) },
        ]
    }

    #[test]
    fn every_event_reads_back_as_written() {
        for event in one_of_each() {
            let entry = entry(event);
            let bytes = entry.encode();
            assert!(bytes.len() <= MAX_ENTRY_BYTES);
            assert_eq!(Entry::decode(&bytes), Ok(entry));
        }
    }

    #[test]
    fn entry_that_lacks_its_seal_does_not_read() {
        for event in one_of_each().into_iter().filter(|event| event.ordered().is_some()) {
            let unsealed = Entry { seal: None, ..entry(event) };
            assert_eq!(Entry::decode(&unsealed.encode()), Err(EntryError::Malformed));
            assert_eq!(unsealed.request(), None);
        }
    }

    #[test]
    fn rulebook_has_every_kind_of_entry() {
        for event in one_of_each() {
            let line = format!("{} {}", shape(&event).0, event.name());
            assert!(include_str!("../../RULEBOOK.md").contains(&line), "{line} is not in RULEBOOK.md");
        }
    }

    #[test]
    fn largest_genesis_fits_an_entry() {
        let community = "\u{10348}".repeat(crate::genesis::MAX_COMMUNITY_CHARS);
        let symbol = "\u{10348}".repeat(crate::genesis::MAX_SYMBOL_CHARS);
        let genesis = Genesis::new(&community, &symbol, 18, ALICE, UnixTime::MAX, [1; 16]).unwrap();
        let entry = Entry { at: UnixTime::MAX, event: Event::Founded(genesis), seal: None };
        assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn damaged_entry_is_refused_or_is_another_entry() {
        for event in one_of_each() {
            let entry = entry(event);
            let bytes = entry.encode();
            for cut in 0..bytes.len() {
                assert_eq!(Entry::decode(&bytes[..cut]), Err(EntryError::Malformed), "cut at {cut}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Entry::decode(&longer), Err(EntryError::NotDeterministic));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(Entry::decode(&flipped).as_ref(), Ok(&entry), "bit {bit}");
            }
        }
        assert_eq!(Entry::decode(&[0; MAX_ENTRY_BYTES + 1]), Err(EntryError::Malformed));
    }
}
