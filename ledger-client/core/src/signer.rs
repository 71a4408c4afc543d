//! Who signs for an account: the key it is named after, until it names another.
//!
//! The account keeps its name, its tokens and its channels. What was promised stays good: a channel's receipts and offers
//! to close are signed by the key that signed for the payer when the channel was opened, as long as the channel lives.
//! A payee has accepted those receipts and must be able to redeem them, whatever became of the key since; and a thief of
//! the old key can give the payees of open channels no more than what was locked for them: nothing is added to such a channel.

use metering::eip712::{self, Word};
use metering::identity::SignatureError;
use metering::{AccountKey, ChannelId, LedgerDomain, NodeId, Signature};

use crate::fact::{Fact, Fields, Reader, kind};

/// The key that signs an account's orders since it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signer(pub NodeId);

/// The key that signs receipts on a channel, where it is not the one the payer is named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelSigner(pub NodeId);

/// The new key's own word that it signs for the account from the order with this sequence on, so that nobody locks an account
/// away by naming a key that is not there. It is good for that order alone: a key that was given up is not named again by
/// what it once agreed to.
#[must_use]
pub fn consent(key: &AccountKey, domain: &LedgerDomain, account: NodeId, sequence: u64) -> Signature {
    key.sign_digest(&digest(domain, account, sequence, key.node_id()))
}

/// Checks a new key's consent to the order with this sequence.
///
/// # Errors
/// [`SignatureError`]
pub fn verify_consent(
    consent: &Signature,
    domain: &LedgerDomain,
    account: NodeId,
    sequence: u64,
    signer: NodeId,
) -> Result<(), SignatureError> {
    consent.verify(&digest(domain, account, sequence, signer), signer)
}

/// The account whose key consented, with the order of this sequence, to sign for `account` as the key of `signer`: `signer`,
/// where the consent is good.
///
/// # Errors
/// [`SignatureError`], all but `WrongSigner`.
pub fn consenting(
    consent: &Signature,
    domain: &LedgerDomain,
    account: NodeId,
    sequence: u64,
    signer: NodeId,
) -> Result<NodeId, SignatureError> {
    consent.recover(&digest(domain, account, sequence, signer))
}

/// What the new key signs.
const KIND: &str = "SignerConsent(address account,uint64 sequence,address signer)";

fn digest(domain: &LedgerDomain, account: NodeId, sequence: u64, signer: NodeId) -> Word {
    let words = [eip712::address(account), eip712::uint(sequence.into()), eip712::address(signer)];
    eip712::digest(&domain.separator(), &eip712::hash_struct(KIND, &words))
}

impl Fact for Signer {
    type Key = NodeId;

    fn place(account: &NodeId) -> Vec<u8> {
        Fields::of(kind::SIGNER).account(*account).finish()
    }

    fn encode(&self) -> Vec<u8> {
        self.0.0.to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(NodeId).map(Self)
    }
}

impl Fact for ChannelSigner {
    type Key = ChannelId;

    fn place(channel: &ChannelId) -> Vec<u8> {
        let ChannelId { payer, payee, nonce } = *channel;
        Fields::of(kind::CHANNEL_SIGNER).account(payer).account(payee).number(nonce).finish()
    }

    fn encode(&self) -> Vec<u8> {
        self.0.0.to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let signer = from.account()?;
        from.end(Self(signer))
    }
}

#[cfg(test)]
mod tests {
    use metering::{Close, Receipt, Tokens, Unverified};

    use super::*;
    use crate::story::{Story, alice, bob, carol, id, tokens, treasurer};
    use crate::{Command, Event, Hash, Records, Refusal, Request, UnixTime};

    fn new_key() -> AccountKey {
        AccountKey::from_bytes(&[0xa2; 32]).unwrap()
    }

    fn domain(story: &Story) -> LedgerDomain {
        story.state.genesis().domain()
    }

    /// The number of an account's next order.
    fn next(story: &Story, account: NodeId) -> u64 {
        let Ok(last) = story.state.sequence(account);
        last + 1
    }

    fn change(story: &Story, to: &AccountKey) -> Command {
        let consent = consent(to, &domain(story), id(alice), next(story, id(alice)));
        Command::ChangeSigner { signer: to.node_id(), consent }
    }

    fn receipt(story: &Story, key: &AccountKey, nonce: u64, total: u128) -> Request {
        let channel = ChannelId { nonce, ..story.channel };
        let receipt = Receipt::sign_by(key, &domain(story), channel, tokens(total), [7; 32]);
        Request::Redeem { receipt: receipt.into_unverified() }
    }

    fn close(story: &Story, key: &AccountKey, nonce: u64, total: u128) -> Command {
        let channel = ChannelId { nonce, ..story.channel };
        let close: Close<Unverified> = Close::sign_by(key, &domain(story), channel, tokens(total)).into_unverified();
        Command::MutualClose { close }
    }

    /// Computed with `eth_account`.
    #[test]
    fn consent_is_what_ethereum_tools_compute() {
        let key = AccountKey::from_bytes(&[0xa1; 32]).unwrap();
        let domain = LedgerDomain { chain_id: 0, contract: NodeId([0xc0; 20]) };
        let digest = digest(&domain, NodeId([0xb0; 20]), 7, key.node_id());
        assert_eq!(Hash(digest).to_string(), "cad1a86e326ef217da62d105701988ed8cf658c66fe5f38b6aa1164489e6e787");
        assert_eq!(verify_consent(&consent(&key, &domain, id(bob), 7), &domain, id(bob), 7, key.node_id()), Ok(()));
        assert!(include_str!("../../RULEBOOK.md").contains(KIND), "{KIND} is not in RULEBOOK.md");
    }

    #[test]
    fn account_keeps_its_name_and_tokens_and_obeys_its_new_key_alone() {
        let mut story = Story::begin();
        let command = change(&story, &new_key());
        story.does(alice, command);
        let transfer = Command::Transfer { to: id(bob), amount: tokens(10) };
        assert_eq!(story.refuses(alice, transfer), Refusal::OrderSignatureInvalid { account: id(alice) });
        let by_new = story.order_by(&new_key(), id(alice), transfer);
        assert_eq!(story.makes(by_new), Event::Transferred { from: id(alice), to: id(bob), amount: tokens(10) });
        // The new key's own account is another one, with nothing in it.
        let own = story.order_by(&new_key(), new_key().node_id(), transfer);
        let poor =
            Refusal::InsufficientBalance { account: new_key().node_id(), balance: Tokens::ZERO, amount: tokens(10) };
        assert_eq!(story.rejects(own), poor);

        let back = story.order_by(&new_key(), id(alice), change(&story, &alice()));
        story.makes(back);
        story.does(alice, transfer);
        assert_eq!(story.holds(id(bob)), 20);
    }

    #[test]
    fn order_of_the_old_key_that_happened_is_still_answered() {
        let mut story = Story::begin();
        let order = story.order(alice, change(&story, &new_key()));
        let entry = story.state.execute(UnixTime::from_seconds(1000), &order).unwrap();
        assert_eq!(story.state.execute(UnixTime::from_seconds(1001), &order), Ok(entry));
    }

    #[test]
    fn no_key_signs_for_an_account_that_has_not_agreed_to() {
        let mut story = Story::begin();
        let signer = new_key().node_id();
        let invalid = Refusal::ConsentInvalid { signer };
        let sequence = next(&story, id(alice));
        for consent in [
            consent(&alice(), &domain(&story), id(alice), sequence),
            // For another account, another order, and on another ledger.
            consent(&new_key(), &domain(&story), id(bob), sequence),
            consent(&new_key(), &domain(&story), id(alice), sequence + 1),
            consent(&new_key(), &LedgerDomain { chain_id: 1, ..domain(&story) }, id(alice), sequence),
        ] {
            assert_eq!(story.refuses(alice, Command::ChangeSigner { signer, consent }), invalid);
        }
        let same = change(&story, &alice());
        assert_eq!(story.refuses(alice, same), Refusal::SignerUnchanged { signer: id(alice) });
        let by_thief = story.order_by(&carol(), id(alice), change(&story, &new_key()));
        assert_eq!(story.rejects(by_thief), Refusal::OrderSignatureInvalid { account: id(alice) });
    }

    #[test]
    fn key_that_was_given_up_is_not_named_again_by_what_it_once_agreed_to() {
        let mut story = Story::begin();
        let to_new = change(&story, &new_key());
        story.does(alice, to_new);
        let back = story.order_by(&new_key(), id(alice), change(&story, &alice()));
        story.makes(back);
        assert_eq!(story.refuses(alice, to_new), Refusal::ConsentInvalid { signer: new_key().node_id() });
    }

    #[test]
    fn nothing_is_added_to_a_channel_whose_receipts_an_old_key_signs() {
        let mut story = Story::with_channel();
        let top_up = Command::TopUp { channel: story.channel, amount: tokens(1) };
        let command = change(&story, &new_key());
        story.does(alice, command);
        let by_new = story.order_by(&new_key(), id(alice), top_up);
        assert_eq!(story.rejects(by_new), Refusal::ChannelSignerChanged { signer: id(alice) });
        // Where the new key opened the channel, it adds to it.
        let open = story.order_by(&new_key(), id(alice), Command::OpenChannel { payee: id(bob), deposit: tokens(10) });
        story.makes(open);
        let second = ChannelId { nonce: 2, ..story.channel };
        let by_new = story.order_by(&new_key(), id(alice), Command::TopUp { channel: second, amount: tokens(1) });
        story.makes(by_new);
        let back = story.order_by(&new_key(), id(alice), change(&story, &alice()));
        story.makes(back);
        story.does(alice, top_up);
        let second = Command::TopUp { channel: second, amount: tokens(1) };
        assert_eq!(story.refuses(alice, second), Refusal::ChannelSignerChanged { signer: new_key().node_id() });
    }

    #[test]
    fn receipts_stay_good_on_the_channels_they_were_signed_for() {
        let mut story = Story::with_channel();
        let before = receipt(&story, &alice(), 1, 10);
        let command = change(&story, &new_key());
        story.does(alice, command);
        story.makes(before);
        // The payee knows only the old key on this channel, and takes its receipts until the channel ends.
        let later = receipt(&story, &alice(), 1, 20);
        story.makes(later);
        let by_new = receipt(&story, &new_key(), 1, 30);
        assert_eq!(story.rejects(by_new), Refusal::ReceiptSignatureInvalid);
        let close_by_new = close(&story, &new_key(), 1, 30);
        assert_eq!(story.refuses(bob, close_by_new), Refusal::CloseSignatureInvalid);
        let closed = close(&story, &alice(), 1, 30);
        story.does(bob, closed);
        assert_eq!((story.holds(id(alice)), story.holds(id(bob))), (70, 30));
    }

    #[test]
    fn channels_that_are_opened_later_know_the_new_key_alone() {
        let mut story = Story::with_channel();
        let command = change(&story, &new_key());
        story.does(alice, command);
        let open = Command::OpenChannel { payee: id(bob), deposit: tokens(40) };
        let open = story.order_by(&new_key(), id(alice), open);
        story.makes(open);
        let by_old = receipt(&story, &alice(), 2, 10);
        assert_eq!(story.rejects(by_old), Refusal::ReceiptSignatureInvalid);
        let by_new = receipt(&story, &new_key(), 2, 10);
        story.makes(by_new);
        // The notice is ordered by the account, so by its new key, on the old channel too.
        let notice = Command::StartClose { channel: story.channel };
        assert_eq!(story.refuses(alice, notice), Refusal::OrderSignatureInvalid { account: id(alice) });
        let notice = story.order_by(&new_key(), id(alice), notice);
        story.makes(notice);
    }

    #[test]
    fn treasurer_with_a_new_key_goes_on_minting() {
        let mut story = Story::begin();
        let consent = consent(&new_key(), &domain(&story), id(treasurer), next(&story, id(treasurer)));
        story.does(treasurer, Command::ChangeSigner { signer: new_key().node_id(), consent });
        let mint = Command::Mint { to: id(bob), amount: tokens(5) };
        assert_eq!(story.refuses(treasurer, mint), Refusal::OrderSignatureInvalid { account: id(treasurer) });
        let by_new = story.order_by(&new_key(), id(treasurer), mint);
        story.makes(by_new);
        assert_eq!(story.holds(id(bob)), 5);
    }
}
