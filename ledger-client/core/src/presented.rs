//! Requests whose signatures were looked at before the rules are asked.

use metering::{LedgerDomain, NodeId, Unverified};

use crate::membership::claimed_by;
use crate::name;
use crate::signer::consenting;
use crate::{Command, Entry, Order, ReplayError, Request};

/// A request, and whose keys signed it for a ledger.
///
/// A signature and what it is over give the account that signed, without anything that the ledger knows. To find it is
/// nearly all the work of an answer, so it is done before, on as many cores as there are, and the rules only compare it
/// with the account that must have signed. [`Presented::recover`] is the only way to one; it keeps the request and the ledger that it
/// was found for, so nothing else can be asked with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    domain: LedgerDomain,
    request: Request,
    /// Who signed the order, the receipt or the claim. None where nobody can have, or nobody has to.
    signer: Option<NodeId>,
    /// Who signed the offer to close, the consent or the claim that an order brings along.
    agreeing: Option<NodeId>,
}

impl Presented {
    /// Finds who signed a request.
    #[must_use]
    pub fn recover(domain: &LedgerDomain, request: Request) -> Self {
        let (signer, agreeing) = match &request {
            Request::Order(order) => (order.signer(domain).ok(), agreeing(domain, order)),
            Request::Redeem { receipt } => (receipt.signer(domain).ok(), None),
            Request::RedeemVoucher { claim } => (claim.signer(domain).ok(), None),
            Request::Finalize { .. } => (None, None),
        };
        Self { domain: *domain, request, signer, agreeing }
    }

    /// What is asked.
    #[must_use]
    pub const fn request(&self) -> &Request {
        &self.request
    }

    /// Whose key signed the order, the receipt or the claim; none where nobody has to, or nobody can have.
    #[must_use]
    pub const fn signer(&self) -> Option<NodeId> {
        self.signer
    }

    /// The same request for a ledger, whichever it was looked at for.
    pub(crate) fn on(&self, domain: &LedgerDomain) -> Self {
        if self.domain == *domain { *self } else { Self::recover(domain, self.request) }
    }

    /// Something, where this account signed the order, the receipt or the claim.
    pub(crate) fn signed_by(&self, account: NodeId) -> Option<()> {
        (self.signer == Some(account)).then_some(())
    }

    /// Something, where this account signed the offer to close, the consent or the claim that the order brings along.
    pub(crate) fn agreed_by(&self, account: NodeId) -> Option<()> {
        (self.agreeing == Some(account)).then_some(())
    }
}

/// An entry of a log as it reads, and the request that it answers, presented: nearly all the work of a replay, and the
/// part that needs nothing of what was before. [`Logged::read`] is the only way to one, so the request is the entry's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    entry: Entry,
    presented: Presented,
}

impl Logged {
    /// Reads an entry behind the founding, and finds who signed what it answers.
    ///
    /// # Errors
    /// [`ReplayError::Entry`] and [`ReplayError::Founding`]
    pub fn read(domain: &LedgerDomain, entry: &[u8]) -> Result<Self, ReplayError> {
        let entry = Entry::decode(entry)?;
        let request = entry.request().ok_or(ReplayError::Founding)?;
        Ok(Self { presented: Presented::recover(domain, request), entry })
    }

    /// What the log says.
    #[must_use]
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The same, for whoever is done with it.
    #[must_use]
    pub fn into_entry(self) -> Entry {
        self.entry
    }

    /// What it answers.
    #[must_use]
    pub const fn presented(&self) -> &Presented {
        &self.presented
    }
}

/// Who signed what an order brings along, where it brings something.
fn agreeing(domain: &LedgerDomain, order: &Order<Unverified>) -> Option<NodeId> {
    if let Command::MutualClose { close } = order.command() {
        close.signer(domain).ok()
    } else if let Command::ChangeSigner { signer, consent } = order.command() {
        consenting(consent, domain, order.account(), order.seal().sequence, *signer).ok()
    } else if let Command::Enrol { issuer, enrolment, claim } = order.command() {
        claimed_by(claim, domain, *issuer, *enrolment, order.account()).ok()
    } else if let Command::ClaimName { name, wireguard, claim } = order.command() {
        name::claimed_by(claim, domain, name, order.account(), wireguard).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use metering::{AccountKey, Close, Receipt};
    use proptest::prelude::*;

    use super::*;
    use crate::membership::verify_claim;
    use crate::signer::{consent, verify_consent};
    use crate::story::{Story, Who, alice, bob, carol, id, tokens};
    use crate::voucher::Claim;
    use crate::{ExecuteError, Records, Refusal, UnixTime};

    fn elsewhere() -> LedgerDomain {
        LedgerDomain { chain_id: 0, contract: NodeId([9; 20]) }
    }

    #[test]
    fn what_was_found_for_another_ledger_is_found_again() {
        let mut story = Story::with_channel();
        let now = UnixTime::from_seconds(1000);
        let domain = story.state.genesis().domain();
        let good = Presented::recover(&elsewhere(), story.receipt(10));
        assert!(story.state.execute_presented(now, &good).is_ok());
        let stolen = Receipt::sign(&alice(), &elsewhere(), story.channel, tokens(20), [7; 32]).into_unverified();
        let stolen = Presented::recover(&elsewhere(), Request::Redeem { receipt: stolen });
        assert_eq!(stolen.signed_by(id(alice)), Some(()));
        assert_eq!(stolen.on(&domain).signed_by(id(alice)), None);
        let refused = story.state.execute_presented(now, &stolen);
        assert_eq!(refused, Err(ExecuteError::Refused(Refusal::ReceiptSignatureInvalid)));
    }

    /// A request, by one key for one ledger, with one bit of it turned or none.
    fn request() -> impl Strategy<Value = Request> {
        let who = || prop::sample::select(vec![alice as Who, bob, carol]);
        let domain = prop_oneof![4 => Just(Story::begin().state.genesis().domain()), 1 => Just(elsewhere())];
        let turned = prop_oneof![1 => Just(None), 1 => (0..520_usize).prop_map(Some)];
        (0..8_u8, who(), who(), domain, 0..5_u64, turned).prop_map(|(kind, signer, other, domain, number, turned)| {
            let channel = Story::begin().channel;
            let (key, amount): (AccountKey, _) = (signer(), tokens(number.into()));
            let turn = |mut signature: metering::Signature| {
                if let Some(bit) = turned {
                    signature.0[bit / 8] ^= 1 << (bit % 8);
                }
                signature
            };
            let order = |command| {
                let order = Order::sign(&key, &domain, id(alice), number, command);
                let seal = crate::Seal { signature: turn(order.seal().signature), ..order.seal() };
                Request::Order(Order::new(id(alice), command, seal))
            };
            match kind {
                0 => order(Command::Transfer { to: id(other), amount }),
                1 => order(Command::MutualClose {
                    close: Close::sign_by(&other(), &domain, channel, amount).into_unverified(),
                }),
                2 => order(Command::ChangeSigner {
                    signer: id(carol),
                    consent: turn(consent(&other(), &domain, id(alice), number)),
                }),
                3 => {
                    let receipt = Receipt::sign_by(&key, &domain, channel, amount, [7; 32]);
                    let mut bytes = receipt.encode();
                    let at = bytes.len() - 65;
                    bytes[at..].copy_from_slice(&turn(receipt.signature()).0);
                    Request::Redeem { receipt: Receipt::decode(&bytes).unwrap() }
                }
                4 => {
                    let claim = Claim::sign(&key, &domain, id(alice), id(bob));
                    let claim = Claim::new(id(alice), id(other), id(bob), turn(claim.signature()));
                    Request::RedeemVoucher { claim }
                }
                5 => order(Command::Enrol {
                    issuer: id(bob),
                    enrolment: id(carol),
                    claim: turn(crate::membership::claim(&other(), &domain, id(bob), id(alice))),
                }),
                6 => order(Command::ClaimName {
                    name: "roof".parse().unwrap(),
                    wireguard: [7; 32],
                    claim: turn(name::claim(&other(), &domain, &"roof".parse().unwrap(), &[7; 32])),
                }),
                _ => Request::Finalize { channel },
            }
        })
    }

    /// What the rules would ask of a presented request, asked of its statements themselves.
    fn compare(domain: &LedgerDomain, request: Request) {
        let presented = Presented::recover(domain, request);
        let (signed, agreed) = (|by| presented.signed_by(by).is_some(), |by| presented.agreed_by(by).is_some());
        let everybody = [alice as Who, bob, carol].map(id);
        match request {
            Request::Order(order) => {
                everybody
                    .into_iter()
                    .for_each(|by| assert_eq!(signed(by), order.verify(domain, by).is_ok(), "{request:?}"));
                if let Command::MutualClose { close } = *order.command() {
                    everybody
                        .into_iter()
                        .for_each(|by| assert_eq!(agreed(by), close.verify_by(domain, by).is_ok(), "{request:?}"));
                } else if let Command::ChangeSigner { signer, consent } = *order.command() {
                    let verified = verify_consent(&consent, domain, order.account(), order.seal().sequence, signer);
                    assert_eq!(agreed(signer), verified.is_ok(), "{request:?}");
                } else if let Command::Enrol { issuer, enrolment, claim } = *order.command() {
                    let verified = verify_claim(&claim, domain, issuer, enrolment, order.account());
                    assert_eq!(agreed(enrolment), verified.is_ok(), "{request:?}");
                } else if let Command::ClaimName { name, wireguard, claim } = *order.command() {
                    let account = order.account();
                    let verified = name::Holder { account, wireguard, claim }.verify(domain, &name);
                    assert_eq!(agreed(account), verified.is_ok(), "{request:?}");
                } else {
                    everybody.into_iter().for_each(|by| assert!(!agreed(by), "{request:?}"));
                }
            }
            Request::Redeem { receipt } => {
                everybody
                    .into_iter()
                    .for_each(|by| assert_eq!(signed(by), receipt.verify_by(domain, by).is_ok(), "{request:?}"));
            }
            Request::RedeemVoucher { claim } => {
                assert_eq!(signed(claim.voucher()), claim.verify(domain).is_ok(), "{request:?}");
            }
            Request::Finalize { .. } => {
                everybody.into_iter().for_each(|by| assert!(!signed(by), "nobody has to sign it"));
            }
        }
    }

    proptest! {
        #[test]
        fn who_signed_is_who_a_check_of_the_signature_lets_pass(requests in prop::collection::vec(request(), 1..12)) {
            let domain = Story::begin().state.genesis().domain();
            requests.into_iter().for_each(|request| compare(&domain, request));
        }

        #[test]
        fn answers_are_the_same_whenever_the_signatures_were_looked_at(requests in prop::collection::vec(request(), 1..30)) {
            let (mut at_once, mut before) = (Story::with_channel(), Story::with_channel());
            let (domain, now) = (at_once.state.genesis().domain(), UnixTime::from_seconds(1000));
            let recover = |(n, request): (usize, &Request)| {
                let domain = if n % 5 == 4 { elsewhere() } else { domain };
                Presented::recover(&domain, *request)
            };
            let presented: Vec<Presented> = requests.iter().enumerate().map(recover).collect();
            for (request, presented) in requests.iter().zip(&presented) {
                let answer = before.state.execute_presented(now, presented);
                prop_assert_eq!(at_once.state.execute(now, request), answer);
                prop_assert_eq!(at_once.state.head(), before.state.head());
            }
        }
    }
}
