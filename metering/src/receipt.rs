//! Receipts: the payer's signed statement of what it owes on a channel.

use std::convert::Infallible;
use std::marker::PhantomData;

use minicbor::{Decoder, decode, encode};
use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError, Statement, Writer, decode_statement, encode_statement};
use crate::eip712::{self, Word};
use crate::identity::SignatureError;
use crate::{AccountKey, NodeId, Signature, Tokens, Unverified, Verified};

/// The ledger a receipt is good on, as its EIP-712 domain: a receipt for one ledger is worthless on any other.
///
/// The embedded ledger has chain id 0, and the first 20 bytes of its genesis hash in place of a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerDomain {
    /// EIP-155 chain id; 0 for an embedded ledger.
    pub chain_id: u64,
    /// The contract, or what stands for it.
    pub contract: NodeId,
}

/// One channel: tokens the payer locked that only the payee can redeem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelId {
    /// Who locked the tokens and signs receipts.
    pub payer: NodeId,
    /// Who redeems them.
    pub payee: NodeId,
    /// The channel's epoch: the next channel between the two has the next number.
    pub nonce: u64,
}

/// The payer's statement: in all, `amount` is owed on `channel`.
///
/// Amounts are cumulative and are the only order among receipts: the highest one is worth all that came before.
/// [`Receipt::verify`] is the only way from what a neighbour sent to a `Receipt<Verified>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt<S = Verified> {
    pub(crate) channel: ChannelId,
    pub(crate) amount: Tokens,
    pub(crate) meter: [u8; 32],
    pub(crate) signature: Signature,
    pub(crate) state: PhantomData<S>,
}

impl LedgerDomain {
    /// The EIP-712 domain separator.
    #[must_use]
    pub fn separator(&self) -> Word {
        eip712::ledger_domain(self.chain_id, self.contract)
    }
}

impl ChannelId {
    /// The channel's key on the ledger: Keccak-256 of `abi.encode(payer, payee, nonce)`.
    #[must_use]
    pub fn hash(&self) -> Word {
        eip712::keccak256(&[self.words().as_flattened()])
    }

    fn words(&self) -> [Word; 3] {
        [eip712::address(self.payer), eip712::address(self.payee), eip712::uint(self.nonce.into())]
    }
}

impl Receipt {
    /// Signs a receipt. `meter` is the hash of what it is owed for.
    ///
    /// # Panics
    /// If `key` is not the payer's: such a receipt would not be one.
    #[must_use]
    pub fn sign(key: &AccountKey, domain: &LedgerDomain, channel: ChannelId, amount: Tokens, meter: [u8; 32]) -> Self {
        assert_eq!(key.node_id(), channel.payer, "only the payer signs receipts");
        Self::sign_by(key, domain, channel, amount, meter)
    }

    /// Signs a receipt with the key that signs for the channel's payer, where the ledger says that it is another than the
    /// one the payer is named after.
    #[must_use]
    pub fn sign_by(
        key: &AccountKey,
        domain: &LedgerDomain,
        channel: ChannelId,
        amount: Tokens,
        meter: [u8; 32],
    ) -> Self {
        Self {
            channel,
            amount,
            meter,
            signature: key.sign_digest(&digest(domain, &channel, amount, &meter)),
            state: PhantomData,
        }
    }
}

impl Receipt<Unverified> {
    /// Reads a receipt whose signature nobody has checked.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_statement(bytes)
    }

    /// Checks that the payer signed it for this ledger.
    ///
    /// # Errors
    /// [`SignatureError`]; a receipt altered, or made for another ledger, is one by the wrong signer.
    pub fn verify(self, domain: &LedgerDomain) -> Result<Receipt, SignatureError> {
        self.verify_by(domain, self.channel.payer)
    }

    /// Checks that `signer`, who signs for the channel's payer, signed it for this ledger.
    ///
    /// # Errors
    /// As [`Receipt::verify`].
    pub fn verify_by(self, domain: &LedgerDomain, signer: NodeId) -> Result<Receipt, SignatureError> {
        let digest = digest(domain, &self.channel, self.amount, &self.meter);
        self.signature.verify(&digest, signer)?;
        Ok(Receipt {
            channel: self.channel,
            amount: self.amount,
            meter: self.meter,
            signature: self.signature,
            state: PhantomData,
        })
    }
}

impl<S> Receipt<S> {
    /// The account whose key signed it for this ledger. For a receipt that was altered, or made for another ledger, it is
    /// none that the receipt is worth anything by.
    ///
    /// # Errors
    /// [`SignatureError`], all but `WrongSigner`.
    pub fn signer(&self, domain: &LedgerDomain) -> Result<NodeId, SignatureError> {
        self.signature.recover(&digest(domain, &self.channel, self.amount, &self.meter))
    }

    /// The channel it is redeemed on.
    #[must_use]
    pub const fn channel(&self) -> ChannelId {
        self.channel
    }

    /// What is owed on the channel in all.
    #[must_use]
    pub const fn amount(&self) -> Tokens {
        self.amount
    }

    /// The hash of both ends' counts and the terms.
    #[must_use]
    pub const fn meter(&self) -> [u8; 32] {
        self.meter
    }

    /// The payer's signature.
    #[must_use]
    pub const fn signature(&self) -> Signature {
        self.signature
    }

    /// The receipt in deterministic CBOR: `[payer, payee, nonce, amount, meter, signature]`, the amount as 12 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_statement(self)
    }

    /// The same receipt as any stranger would see it.
    #[must_use]
    pub const fn into_unverified(self) -> Receipt<Unverified> {
        Receipt {
            channel: self.channel,
            amount: self.amount,
            meter: self.meter,
            signature: self.signature,
            state: PhantomData,
        }
    }
}

fn digest(domain: &LedgerDomain, channel: &ChannelId, amount: Tokens, meter: &[u8; 32]) -> Word {
    let [payer, payee, nonce] = channel.words();
    let receipt = eip712::hash_struct(
        "Receipt(address payer,address payee,uint64 nonce,uint96 amount,bytes32 meter)",
        &[payer, payee, nonce, eip712::uint(amount.get()), *meter],
    );
    eip712::digest(&domain.separator(), &receipt)
}

impl<S> Statement for Receipt<S> {
    const WHAT: &'static str = "receipt";

    fn write(&self, to: &mut Writer) -> Result<(), encode::Error<Infallible>> {
        to.array(6)?
            .bytes(&self.channel.payer.0)?
            .bytes(&self.channel.payee.0)?
            .u64(self.channel.nonce)?
            .bytes(&self.amount.to_be_bytes12())?
            .bytes(&self.meter)?
            .bytes(&self.signature.0)?;
        Ok(())
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        cbor::array(from, 6)?;
        Ok(Self {
            channel: ChannelId {
                payer: NodeId(cbor::bytes(from)?),
                payee: NodeId(cbor::bytes(from)?),
                nonce: from.u64()?,
            },
            amount: Tokens::from_be_bytes12(cbor::bytes(from)?),
            meter: cbor::bytes(from)?,
            signature: Signature(cbor::bytes(from)?),
            state: PhantomData,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, Seed};

    const DOMAIN: LedgerDomain = LedgerDomain { chain_id: 31337, contract: NodeId([0xc0; 20]) };

    fn payer() -> Identity {
        Identity::new(&Seed::from_bytes(std::array::from_fn(|i| i as u8)))
    }

    fn channel() -> ChannelId {
        ChannelId { payer: payer().node_id(), payee: Identity::new(&Seed::from_bytes([7; 32])).node_id(), nonce: 3 }
    }

    fn receipt() -> Receipt {
        let amount = Tokens::new((1 << 95) + 12345).unwrap();
        Receipt::sign(payer().account(), &DOMAIN, channel(), amount, [0xab; 32])
    }

    /// Computed with `eth_account`, `eth_abi` and `cbor2`.
    #[test]
    fn digest_signature_and_encoding_are_what_ethereum_tools_compute() {
        let receipt = receipt();
        assert_eq!(hex::encode(DOMAIN.separator()), "938d1a3791047461cd0a58ee4ac53f4fa7519fbd92b644ad327e05392a0337eb");
        let (channel, amount, meter) = (receipt.channel(), receipt.amount(), receipt.meter());
        assert_eq!(
            hex::encode(digest(&DOMAIN, &channel, amount, &meter)),
            "0d11064d57577395cfb537e7f00d0c911473f35ba86ff684b4586a2c423725d3"
        );
        let signature = "a653a47356ca96d26ad8fa4e35acdf6a7c744ea1e843ea67cd0d4d356e43eb55\
            2920995c4d61f7960da9b11001e37ebae8833706a178d1cd6690ad66e000ad7c1b";
        assert_eq!(hex::encode(receipt.signature().0), signature);
        assert_eq!(hex::encode(channel.hash()), "ba8f95651f09b7df5d7851e45e9ec1b1ef7eabddae823ce24e07ac207586aa2c");
        let encoded = [
            "8654b3d923a1ba78b4d588685afe459904cc1848d4805457ca1c5f80496bbe685996573d6d4947065a613e",
            "034c8000000000000000000030395820",
            "abababababababababababababababababababababababababababababababab5841",
            signature,
        ];
        assert_eq!(hex::encode(receipt.encode()), encoded.concat());
    }

    #[test]
    fn a_receipt_is_read_back_and_every_altered_byte_is_noticed() {
        let receipt = receipt();
        let bytes = receipt.encode();
        let read = |bytes: &[u8]| Receipt::<Unverified>::decode(bytes).map(|r| r.verify(&DOMAIN));
        assert_eq!(read(&bytes), Ok(Ok(receipt)));
        for i in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[i] ^= 1;
            assert!(!matches!(read(&altered), Ok(Ok(_))), "byte {i}");
            assert!(read(&bytes[..i]).is_err());
        }
    }

    #[test]
    fn a_receipt_is_worthless_on_another_ledger() {
        let other_chain = LedgerDomain { chain_id: 1, ..DOMAIN };
        let other_contract = LedgerDomain { contract: NodeId([1; 20]), ..DOMAIN };
        for domain in [other_chain, other_contract] {
            let verified = receipt().into_unverified().verify(&domain);
            assert!(matches!(verified, Err(SignatureError::WrongSigner { .. })));
        }
    }

    #[test]
    fn one_receipt_has_one_encoding() {
        let mut bytes = receipt().encode();
        let nonce = 1 + 21 + 21;
        assert_eq!(bytes[nonce], 3);
        bytes.splice(nonce..=nonce, [0x18, 3]);
        assert_eq!(Receipt::<Unverified>::decode(&bytes), Err(DecodeError::NotDeterministic { what: "receipt" }));
    }
}
