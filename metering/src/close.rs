//! The end of a channel by agreement: the payer says what the payee has of it in all, and the payee takes that to the
//! ledger at once, instead of the payer giving notice and waiting.

use std::convert::Infallible;
use std::marker::PhantomData;

use minicbor::{Decoder, decode, encode};

use crate::cbor::{self, DecodeError, Statement, Writer, decode_statement, encode_statement};
use crate::eip712::{self, Word};
use crate::identity::SignatureError;
use crate::{AccountKey, ChannelId, LedgerDomain, NodeId, Signature, Tokens, Unverified, Verified};

/// The payer's offer to end `channel` with `total` for the payee, cumulative as in a receipt, and the rest for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<S = Verified> {
    pub(crate) channel: ChannelId,
    pub(crate) total: Tokens,
    pub(crate) signature: Signature,
    pub(crate) state: PhantomData<S>,
}

impl Close {
    /// Signs an offer.
    ///
    /// # Panics
    /// If `key` is not the payer's: such an offer would not be one.
    #[must_use]
    pub fn sign(key: &AccountKey, domain: &LedgerDomain, channel: ChannelId, total: Tokens) -> Self {
        assert_eq!(key.node_id(), channel.payer, "only the payer offers to close");
        Self::sign_by(key, domain, channel, total)
    }

    /// Signs an offer with the key that signs for the channel's payer, where the ledger says that it is another than the one
    /// the payer is named after.
    #[must_use]
    pub fn sign_by(key: &AccountKey, domain: &LedgerDomain, channel: ChannelId, total: Tokens) -> Self {
        let signature = key.sign_digest(&digest(domain, &channel, total));
        Self { channel, total, signature, state: PhantomData }
    }
}

impl Close<Unverified> {
    /// Reads an offer whose signature nobody has checked.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_statement(bytes)
    }

    /// Checks that the payer signed it for this ledger.
    ///
    /// # Errors
    /// [`SignatureError`]; an offer altered, or made for another ledger, is one by the wrong signer.
    pub fn verify(self, domain: &LedgerDomain) -> Result<Close, SignatureError> {
        self.verify_by(domain, self.channel.payer)
    }

    /// Checks that `signer`, who signs for the channel's payer, signed it for this ledger.
    ///
    /// # Errors
    /// As [`Close::verify`].
    pub fn verify_by(self, domain: &LedgerDomain, signer: NodeId) -> Result<Close, SignatureError> {
        self.signature.verify(&digest(domain, &self.channel, self.total), signer)?;
        Ok(Close { channel: self.channel, total: self.total, signature: self.signature, state: PhantomData })
    }
}

impl<S> Close<S> {
    /// The account whose key signed it for this ledger. For an offer that was altered, or made for another ledger, it is none
    /// that the offer is worth anything by.
    ///
    /// # Errors
    /// [`SignatureError`], all but `WrongSigner`.
    pub fn signer(&self, domain: &LedgerDomain) -> Result<NodeId, SignatureError> {
        self.signature.recover(&digest(domain, &self.channel, self.total))
    }

    /// Which channel.
    #[must_use]
    pub const fn channel(&self) -> ChannelId {
        self.channel
    }

    /// What the payee has of it in all.
    #[must_use]
    pub const fn total(&self) -> Tokens {
        self.total
    }

    /// The offer in deterministic CBOR: `[payer, payee, nonce, total, signature]`, the total as 12 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_statement(self)
    }

    /// The same offer as any stranger would see it.
    #[must_use]
    pub const fn into_unverified(self) -> Close<Unverified> {
        Close { channel: self.channel, total: self.total, signature: self.signature, state: PhantomData }
    }
}

fn digest(domain: &LedgerDomain, channel: &ChannelId, total: Tokens) -> Word {
    let close = eip712::hash_struct(
        "Close(address payer,address payee,uint64 nonce,uint96 total)",
        &[
            eip712::address(channel.payer),
            eip712::address(channel.payee),
            eip712::uint(channel.nonce.into()),
            eip712::uint(total.get()),
        ],
    );
    eip712::digest(&domain.separator(), &close)
}

impl<S> Statement for Close<S> {
    const WHAT: &'static str = "close";

    fn write(&self, to: &mut Writer) -> Result<(), encode::Error<Infallible>> {
        to.array(5)?
            .bytes(&self.channel.payer.0)?
            .bytes(&self.channel.payee.0)?
            .u64(self.channel.nonce)?
            .bytes(&self.total.to_be_bytes12())?
            .bytes(&self.signature.0)?;
        Ok(())
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        cbor::array(from, 5)?;
        let payer = NodeId(cbor::bytes(from)?);
        let payee = NodeId(cbor::bytes(from)?);
        Ok(Self {
            channel: ChannelId { payer, payee, nonce: from.u64()? },
            total: Tokens::from_be_bytes12(cbor::bytes(from)?),
            signature: Signature(cbor::bytes(from)?),
            state: PhantomData,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, Seed};

    #[test]
    fn an_offer_is_good_for_its_payer_channel_total_and_ledger_only() {
        let payer = Identity::new(&Seed::from_bytes([1; 32]));
        let domain = LedgerDomain { chain_id: 1, contract: NodeId([2; 20]) };
        let channel = ChannelId { payer: payer.node_id(), payee: NodeId([3; 20]), nonce: 4 };
        let close = Close::sign(payer.account(), &domain, channel, Tokens::new(5).unwrap());
        assert_eq!(close.into_unverified().verify(&domain), Ok(close));
        assert_eq!(Close::decode(&close.encode()), Ok(close.into_unverified()));
        let other = LedgerDomain { chain_id: 2, ..domain };
        assert!(close.into_unverified().verify(&other).is_err());
        for altered in [
            Close { total: Tokens::new(4).unwrap(), ..close },
            Close { channel: ChannelId { nonce: 5, ..channel }, ..close },
            Close { channel: ChannelId { payee: NodeId([4; 20]), ..channel }, ..close },
            Close { channel: ChannelId { payer: NodeId([4; 20]), ..channel }, ..close },
        ] {
            assert!(altered.into_unverified().verify(&domain).is_err());
        }
    }
}
