//! Orders: commands signed by the account they concern.

use std::marker::PhantomData;

use metering::eip712::{self, Word};
use metering::identity::SignatureError;
use metering::{AccountKey, ChannelId, LedgerDomain, NodeId, Signature, Unverified, Verified};
use serde::{Deserialize, Serialize};

use crate::Command;
use crate::registry::Registration;

/// A command, numbered and signed (EIP-712, for one ledger) by the account in whose name it is done.
///
/// An account's first order has sequence 1, and each further one the next number, so an order happens once. Sending the
/// same order again, to the last byte, is safe: the ledger answers with the entry it made the first time. An order that was refused has used
/// up no number and stays good; who gives up on it lets another order have its number, [`Command::Skip`] if there is nothing
/// else to order, and it can never happen.
///
/// [`Order::sign`] makes one; [`Order::verify`] is the only way from what a stranger sent to an `Order<Verified>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order<S = Verified> {
    account: NodeId,
    command: Command,
    seal: Seal,
    state: PhantomData<S>,
}

/// What makes a command an order: its number and the account's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Which order of the account's it is, counted from 1.
    pub sequence: u64,
    /// The account's signature of the order's digest.
    pub signature: Signature,
}

impl Order {
    /// Signs a command in the name of `account`, whose signing key is `key`.
    #[must_use]
    pub fn sign(key: &AccountKey, domain: &LedgerDomain, account: NodeId, sequence: u64, command: Command) -> Self {
        Self::sign_with(key, domain, account, sequence, command, &[])
    }

    /// The same, told by `extra` from any other order of the same words: the signature is another one. Two programs that sign
    /// for one account and do not know of each other draw it at random, so that each has an order of its own.
    #[must_use]
    pub fn sign_with(
        key: &AccountKey,
        domain: &LedgerDomain,
        account: NodeId,
        sequence: u64,
        command: Command,
        extra: &[u8],
    ) -> Self {
        let signature = key.sign_digest_with(&digest(domain, account, sequence, &command), extra);
        Self { account, command, seal: Seal { sequence, signature }, state: PhantomData }
    }

    /// The same order as any stranger would see it.
    #[must_use]
    pub const fn into_unverified(self) -> Order<Unverified> {
        Order::new(self.account, self.command, self.seal)
    }
}

impl Order<Unverified> {
    /// An order whose signature nobody has checked.
    #[must_use]
    pub const fn new(account: NodeId, command: Command, seal: Seal) -> Self {
        Self { account, command, seal, state: PhantomData }
    }

    /// Checks that `signer`, the account's signing key, signed it for this ledger.
    ///
    /// # Errors
    /// [`SignatureError`]; an order altered, or made for another ledger, is one by the wrong signer.
    pub fn verify(self, domain: &LedgerDomain, signer: NodeId) -> Result<Order, SignatureError> {
        self.seal.signature.verify(&self.digest(domain), signer)?;
        Ok(Order { account: self.account, command: self.command, seal: self.seal, state: PhantomData })
    }
}

impl<S> Order<S> {
    /// In whose name.
    #[must_use]
    pub const fn account(&self) -> NodeId {
        self.account
    }

    /// What.
    #[must_use]
    pub const fn command(&self) -> &Command {
        &self.command
    }

    /// Which of the account's orders, and its signature.
    #[must_use]
    pub const fn seal(&self) -> Seal {
        self.seal
    }

    /// The account whose key signed it for this ledger. For an order that was altered, or made for another ledger, it is none
    /// that the order counts for.
    ///
    /// # Errors
    /// [`SignatureError`], all but `WrongSigner`.
    pub fn signer(&self, domain: &LedgerDomain) -> Result<NodeId, SignatureError> {
        self.seal.signature.recover(&self.digest(domain))
    }

    /// What the account signs: the EIP-712 digest of everything but the signature, and what an order brings along.
    #[must_use]
    pub fn digest(&self, domain: &LedgerDomain) -> Word {
        digest(domain, self.account, self.seal.sequence, &self.command)
    }
}

/// Each kind of command has an EIP-712 type of its own, so that a wallet shows what is signed, field by field.
fn digest(domain: &LedgerDomain, account: NodeId, sequence: u64, command: &Command) -> Word {
    let (kind, fields) = typed(command);
    let words = [&[eip712::address(account), eip712::uint(sequence.into())], &fields[..]].concat();
    eip712::digest(&domain.separator(), &eip712::hash_struct(kind, &words))
}

fn typed(command: &Command) -> (&'static str, Vec<Word>) {
    match command {
        Command::Mint { to, amount } => (
            "Mint(address account,uint64 sequence,address to,uint96 amount)",
            vec![eip712::address(*to), eip712::uint(amount.get())],
        ),
        Command::Burn { amount } => {
            ("Burn(address account,uint64 sequence,uint96 amount)", vec![eip712::uint(amount.get())])
        }
        Command::Transfer { to, amount } => (
            "Transfer(address account,uint64 sequence,address to,uint96 amount)",
            vec![eip712::address(*to), eip712::uint(amount.get())],
        ),
        Command::OpenChannel { payee, deposit } => (
            "OpenChannel(address account,uint64 sequence,address payee,uint96 deposit)",
            vec![eip712::address(*payee), eip712::uint(deposit.get())],
        ),
        Command::TopUp { channel, amount } => (
            "TopUp(address account,uint64 sequence,address payer,address payee,uint64 nonce,uint96 amount)",
            [&words(channel)[..], &[eip712::uint(amount.get())]].concat(),
        ),
        Command::StartClose { channel } => (
            "StartClose(address account,uint64 sequence,address payer,address payee,uint64 nonce)",
            words(channel).to_vec(),
        ),
        Command::MutualClose { close } => (
            "MutualClose(address account,uint64 sequence,address payer,address payee,uint64 nonce,uint96 total)",
            [&words(&close.channel())[..], &[eip712::uint(close.total().get())]].concat(),
        ),
        Command::IssueVoucher { voucher, amount, until } => (
            "IssueVoucher(address account,uint64 sequence,address voucher,uint96 amount,uint40 until)",
            vec![eip712::address(*voucher), eip712::uint(amount.get()), eip712::uint(until.seconds().into())],
        ),
        Command::ReclaimVoucher { voucher } => {
            ("ReclaimVoucher(address account,uint64 sequence,address voucher)", vec![eip712::address(*voucher)])
        }
        Command::IssueShares { shares } => {
            ("IssueShares(address account,uint64 sequence,uint64 shares)", vec![eip712::uint((*shares).into())])
        }
        Command::TransferShares { router, to, shares } => (
            "TransferShares(address account,uint64 sequence,address router,address to,uint64 shares)",
            vec![eip712::address(*router), eip712::address(*to), eip712::uint((*shares).into())],
        ),
        Command::ClaimRevenue { router } => {
            ("ClaimRevenue(address account,uint64 sequence,address router)", vec![eip712::address(*router)])
        }
        Command::Appoint { role, to } => (
            "Appoint(address account,uint64 sequence,uint8 role,address to)",
            vec![eip712::uint(role.number().into()), eip712::address(*to)],
        ),
        Command::Dismiss { role, from } => (
            "Dismiss(address account,uint64 sequence,uint8 role,address from)",
            vec![eip712::uint(role.number().into()), eip712::address(*from)],
        ),
        Command::IssueMembership { to, until } => (
            "IssueMembership(address account,uint64 sequence,address to,uint40 until)",
            vec![eip712::address(*to), eip712::uint(until.seconds().into())],
        ),
        Command::RevokeMembership { of } => {
            ("RevokeMembership(address account,uint64 sequence,address of)", vec![eip712::address(*of)])
        }
        Command::OfferEnrolment { enrolment, until, expires } => (
            "OfferEnrolment(address account,uint64 sequence,address enrolment,uint40 until,uint40 expires)",
            vec![
                eip712::address(*enrolment),
                eip712::uint(until.seconds().into()),
                eip712::uint(expires.seconds().into()),
            ],
        ),
        Command::WithdrawEnrolment { issuer, enrolment } => (
            "WithdrawEnrolment(address account,uint64 sequence,address issuer,address enrolment)",
            vec![eip712::address(*issuer), eip712::address(*enrolment)],
        ),
        Command::Enrol { issuer, enrolment, .. } => (
            "Enrol(address account,uint64 sequence,address issuer,address enrolment)",
            vec![eip712::address(*issuer), eip712::address(*enrolment)],
        ),
        Command::Register { registration: Registration { station, price_up, price_down, terms } } => (
            "Register(address account,uint64 sequence,uint8 kind,uint64 priceUp,uint64 priceDown,bytes32 terms)",
            vec![
                eip712::uint(station.number().into()),
                eip712::uint(price_up.get().into()),
                eip712::uint(price_down.get().into()),
                *terms,
            ],
        ),
        Command::Unregister => ("Unregister(address account,uint64 sequence)", Vec::new()),
        Command::ClaimName { name, wireguard, .. } => (
            "ClaimName(address account,uint64 sequence,string name,bytes32 wireguard)",
            vec![eip712::text(name.as_str()), *wireguard],
        ),
        Command::ReleaseName { name } => {
            ("ReleaseName(address account,uint64 sequence,string name)", vec![eip712::text(name.as_str())])
        }
        Command::Attest { head } => (
            "Attest(address account,uint64 sequence,uint64 size,bytes32 root)",
            vec![eip712::uint(head.size.into()), head.root.0],
        ),
        Command::Skip => ("Skip(address account,uint64 sequence)", Vec::new()),
        Command::ChangeSigner { signer, .. } => {
            ("ChangeSigner(address account,uint64 sequence,address signer)", vec![eip712::address(*signer)])
        }
    }
}

fn words(channel: &ChannelId) -> [Word; 3] {
    [eip712::address(channel.payer), eip712::address(channel.payee), eip712::uint(channel.nonce.into())]
}

#[cfg(test)]
mod tests {
    use metering::{Close, Price, Tokens};

    use super::*;
    use crate::registry::Station;
    use crate::role::Role;
    use crate::{Hash, Head, UnixTime};

    const DOMAIN: LedgerDomain = LedgerDomain { chain_id: 0, contract: NodeId([0xc0; 20]) };

    /// Digests computed with `eth_account` from the types above, and its signature of the first.
    #[test]
    fn digests_are_what_ethereum_tools_compute_and_the_rulebook_has_their_types() {
        let key = AccountKey::from_bytes(&[0xa1; 32]).unwrap();
        let (account, bob) = (key.node_id(), NodeId([0xb0; 20]));
        let channel = ChannelId { payer: account, payee: bob, nonce: 3 };
        let amount = Tokens::new((1 << 95) + 12345).unwrap();
        let close = Close::sign(&key, &DOMAIN, channel, amount).into_unverified();
        let (until, terms) = (UnixTime::MAX, [0x4a; 32]);
        let registration =
            Registration { station: Station::Gateway, price_up: Price::new(5), price_down: Price::new(6), terms };
        let orders = [
            (Command::Mint { to: bob, amount }, "e6ed1a25980ebf0e45a74c28b55036ef6066d786d6e53dae236737e47b299969"),
            (Command::Transfer { to: bob, amount }, "86fc88426f09e1c562b35121e1d8dfd6cdba6fdb4c97b2d850bb14326a964855"),
            (
                Command::OpenChannel { payee: bob, deposit: amount },
                "2a6866c8c722b63e24628bc0c981c6259a73e587274ceaf38b709425bc2c94e9",
            ),
            (Command::TopUp { channel, amount }, "7848ac668c1a93b443ce18dbc30e4af84aae33f1b91ae54155d9f8cd30ec0d91"),
            (Command::StartClose { channel }, "e413c0c0e93b392b8574cafd655266479c716af10fcac8d988b6707487f38cfa"),
            (Command::MutualClose { close }, "4bf5c095e1a63bb3e31ae41a02d2624af9c24f7db90f234e944113612d26af32"),
            (Command::Burn { amount }, "ea0bf7d2d52adbfa0118dbcdeb58e2342f2e8566659269840ab8655ae59427d4"),
            (
                Command::IssueVoucher { voucher: bob, amount, until },
                "e339a3cbb1ef8b9fb90bdb64505c5018b2b8c5e47c03353f2b120a197cf4a1a2",
            ),
            (
                Command::ReclaimVoucher { voucher: bob },
                "f836a3bf06ef351ef8dfae863fc7e3bd5e11fa9c87932102e4688c7a88da78fa",
            ),
            (
                Command::ChangeSigner { signer: bob, consent: Signature([0; 65]) },
                "e9c664cd7dd57db0188a3c18d7479548a0f23596a971bd9d9117ff7d24c0a9a5",
            ),
            (Command::IssueShares { shares: 10 }, "fb6603d26ab993bda7c88ccf3c6f90fce57314e887f3037da3371e3643e93373"),
            (
                Command::TransferShares { router: bob, to: account, shares: 3 },
                "cbac76f22e924c49f3bee5034836f86dd1995f4f4b66000f8e60923da4b4473c",
            ),
            (Command::ClaimRevenue { router: bob }, "d574fbec596c8af2196dc6cf4f40c2d47e9e03348f824eac81da50ac7fe49bb1"),
            (
                Command::Appoint { role: Role::Issuer, to: bob },
                "82a5008dd37dc80844f14182300e0800a7839312e0e25c9588e6e1a285aeffdf",
            ),
            (
                Command::Dismiss { role: Role::Auditor, from: bob },
                "d656e0583b4a92f1dc3e93324b57c3ed7b70ad0a5fb8d49fbb1ebcd63e6e6617",
            ),
            (
                Command::IssueMembership { to: bob, until },
                "5cd1e206aa8a670f4c441c33fb383382160f572dd425bd5a08c34a33dd4a6dee",
            ),
            (Command::RevokeMembership { of: bob }, "5652c57e21010dfe558973e7cfcf49ba22d522618e83bbb2d2c3e39a7cb6361a"),
            (
                Command::OfferEnrolment { enrolment: bob, until, expires: UnixTime::from_seconds(77) },
                "f185449907ac98ec51323c677ba1ffbcca7e22f9dea7e252ad96a95ec96ab0d9",
            ),
            (
                Command::WithdrawEnrolment { issuer: account, enrolment: bob },
                "9afdee240afdc3e7370834b113614622092c4570c496c4091756216e23a4fdb5",
            ),
            (
                Command::Enrol { issuer: account, enrolment: bob, claim: Signature([0; 65]) },
                "423087e8cc5a2c145c2eb0eb9d9da67a713cab1af7968fdbd4a8e0b6f01d9a56",
            ),
            (Command::Register { registration }, "7467dc328ea2af1f51327f2452ef24170b410353a2c85390a8e1203167b5f7cb"),
            (Command::Unregister, "39920161419b9851efbf0874566d6acac3660c4cf65a317e8b11b05b503ffc3a"),
            (
                Command::ClaimName { name: "roof-3".parse().unwrap(), wireguard: terms, claim: Signature([0; 65]) },
                "9cb27e652345b38ad533193783bdcd001ad15e242e28d8f440e27903c96c7a9d",
            ),
            (
                Command::ReleaseName { name: "roof-3".parse().unwrap() },
                "8a4da09ae62ebd99627ab467e9b08b5127dc856b07f7bc402c8285509daa5342",
            ),
            (Command::Skip, "d69116d2c56dcddda00a23d946c1e74ef9e588f886bad20bbf198614896a9650"),
            (
                Command::Attest { head: Head { size: 9, root: Hash(terms) } },
                "fdd6108bfcdd87acbaf7897fc63a23d2ff69c0ea9d7c1aaa3ff82205002e2ece",
            ),
        ];
        let rulebook = include_str!("../../RULEBOOK.md");
        for (command, expected) in orders {
            let kind = typed(&command).0;
            assert!(rulebook.contains(kind), "{kind} is not in RULEBOOK.md");
            let rule = format!("| `{}` |", kind.split('(').next().unwrap());
            assert!(rulebook.contains(&rule), "what {kind} does is not in RULEBOOK.md");
            let order = Order::sign(&key, &DOMAIN, account, 7, command);
            assert_eq!(Hash(order.digest(&DOMAIN)).to_string(), expected, "{command:?}");
            assert_eq!(order.into_unverified().verify(&DOMAIN, account), Ok(order));
        }
        let Seal { signature, .. } = Order::sign(&key, &DOMAIN, account, 7, orders[0].0).seal();
        assert_eq!(
            format!("{signature:?}"),
            "Signature(1a6964bd7a2270bd7ec7e977c664844067b026c65fb2a4f2c49ab1da02288f7c\
             0b41e29f8cf504da4dfda2ad4950807f208da8f644297078d1e1a950f09344191b)"
        );
    }
}
