//! Terms: what a provider signed.

use std::convert::Infallible;
use std::marker::PhantomData;

use minicbor::{Decoder, decode, encode};

use crate::cbor::{self, Statement, Writer};
use crate::eip712::{self, Word, keccak256};
use crate::identity::SignatureError;
use crate::{AccountKey, Bytes, LedgerDomain, NodeId, Price, Signature, Tokens, Unverified, Verified};

/// What one end of a link is to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Is paid for both directions.
    Provider,
    /// Pays for both directions.
    Subscriber,
    /// Neither pays; both count.
    Peer,
}

/// What a provider asks. Prices are the provider's choice; the payer only compares them with its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// For what the payer sends.
    pub price_up: Price,
    /// For what the payer receives.
    pub price_down: Price,
    /// How much the provider carries on trust before the next receipt.
    pub window: Bytes,
    /// Parts per million of what the provider sends that may be lost before it counts as unpaid.
    pub loss_allowance_ppm: u32,
}

/// One provider's terms for one payer, signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedTerms<S = Verified> {
    terms: Terms,
    signature: Signature,
    state: PhantomData<S>,
}

/// What is signed. The ledger and its token are the EIP-712 domain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether the two are peers; else the signer provides and the other subscribes.
    pub peers: bool,
    /// Who signs and is paid; between peers the one with the lower id.
    pub provider: NodeId,
    /// Who pays.
    pub payer: NodeId,
    /// For what the payer sends.
    pub price_up: Price,
    /// For what the payer receives.
    pub price_down: Price,
    /// How much the provider carries on trust before the next receipt.
    pub window: Bytes,
    /// Parts per million of what the provider sends that may be lost before it counts as unpaid.
    pub loss_allowance_ppm: u32,
    /// The provider's session: terms of an earlier one are void.
    pub seq: u64,
}

impl Offer {
    /// Nothing asked, nothing limited: what peers agree on, and free mode.
    pub const FREE: Self = Self {
        price_up: Price::FREE,
        price_down: Price::FREE,
        window: Bytes::from_mebibytes(64),
        loss_allowance_ppm: 0,
    };

    /// The loss a provider bears without asking: links that lose more than one packet in twenty are hardly usable.
    pub const DEFAULT_LOSS_ALLOWANCE_PPM: u32 = 50_000;
}

impl Terms {
    /// The offer within.
    #[must_use]
    pub const fn offer(&self) -> Offer {
        Offer {
            price_up: self.price_up,
            price_down: self.price_down,
            window: self.window,
            loss_allowance_ppm: self.loss_allowance_ppm,
        }
    }

    /// Whether anything is to be paid at all.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.price_up.max(self.price_down) == Price::FREE
    }

    /// What `bytes` cost in the dearer direction, at most [`Tokens::MAX`].
    #[must_use]
    pub fn value_of(&self, bytes: Bytes) -> Tokens {
        self.price_up.max(self.price_down).of(bytes).unwrap_or(Tokens::MAX)
    }

    /// How many bytes can be carried for `amount` in the dearer direction, rounded down; all there are when it is free.
    #[must_use]
    pub fn carried_for(&self, amount: Tokens) -> Bytes {
        let price = u128::from(self.price_up.max(self.price_down).get());
        // Below 2^96 + 2^30: it fits.
        let bytes = (amount.get() << 30).checked_div(price).and_then(|bytes| u64::try_from(bytes).ok());
        bytes.map_or(Bytes::MAX, Bytes::new)
    }

    /// The window in money. One base unit is added, the grain of money: at a price so low that a window is worth less
    /// than a base unit, nothing could be paid for otherwise.
    #[must_use]
    pub fn window_value(&self) -> Tokens {
        const BASE_UNIT: Tokens = Tokens::new(1).expect("1 is below 2^96");
        if self.is_free() {
            return Tokens::MAX;
        }
        self.value_of(self.window).saturating_add(BASE_UNIT)
    }

    /// The EIP-712 digest: what is signed, and what names the terms.
    #[must_use]
    pub fn digest(&self, domain: &LedgerDomain) -> Word {
        let terms = eip712::hash_struct(
            "Terms(bool peers,address provider,address payer,uint64 priceUp,uint64 priceDown,\
             uint64 window,uint32 lossAllowancePpm,uint64 seq)",
            &[
                eip712::uint(self.peers.into()),
                eip712::address(self.provider),
                eip712::address(self.payer),
                eip712::uint(self.price_up.get().into()),
                eip712::uint(self.price_down.get().into()),
                eip712::uint(self.window.get().into()),
                eip712::uint(self.loss_allowance_ppm.into()),
                eip712::uint(self.seq.into()),
            ],
        );
        eip712::digest(&domain.separator(), &terms)
    }

    /// The name of the segment these terms start when the payer's session is `payer_session`: Keccak-256 of
    /// `abi.encodePacked("waybill segment v1", bytes32 termsDigest, uint64 payerSession)`.
    #[must_use]
    pub fn segment(&self, domain: &LedgerDomain, payer_session: u64) -> Word {
        keccak256(&[b"waybill segment v1", &self.digest(domain), &payer_session.to_be_bytes()])
    }

    /// Signs.
    ///
    /// # Panics
    /// If `key` is not the provider's.
    #[must_use]
    pub fn sign(self, key: &AccountKey, domain: &LedgerDomain) -> SignedTerms {
        assert_eq!(key.node_id(), self.provider, "only the provider signs terms");
        SignedTerms { terms: self, signature: key.sign_digest(&self.digest(domain)), state: PhantomData }
    }
}

impl SignedTerms<Unverified> {
    /// Checks that the provider signed them for this ledger.
    ///
    /// # Errors
    /// [`SignatureError`]
    pub fn verify(self, domain: &LedgerDomain) -> Result<SignedTerms, SignatureError> {
        self.signature.verify(&self.terms.digest(domain), self.terms.provider)?;
        Ok(SignedTerms { terms: self.terms, signature: self.signature, state: PhantomData })
    }
}

impl SignedTerms {
    /// The terms as any stranger would see them.
    #[must_use]
    pub const fn into_unverified(self) -> SignedTerms<Unverified> {
        SignedTerms { terms: self.terms, signature: self.signature, state: PhantomData }
    }
}

impl<S> SignedTerms<S> {
    /// What was signed.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }
}

impl<S> Statement for SignedTerms<S> {
    const WHAT: &'static str = "terms";

    fn write(&self, to: &mut Writer) -> Result<(), encode::Error<Infallible>> {
        let terms = &self.terms;
        to.array(9)?
            .bool(terms.peers)?
            .bytes(&terms.provider.0)?
            .bytes(&terms.payer.0)?
            .u64(terms.price_up.get())?
            .u64(terms.price_down.get())?
            .u64(terms.window.get())?
            .u32(terms.loss_allowance_ppm)?
            .u64(terms.seq)?
            .bytes(&self.signature.0)?;
        Ok(())
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        cbor::array(from, 9)?;
        Ok(Self {
            terms: Terms {
                peers: from.bool()?,
                provider: NodeId(cbor::bytes(from)?),
                payer: NodeId(cbor::bytes(from)?),
                price_up: Price::new(from.u64()?),
                price_down: Price::new(from.u64()?),
                window: Bytes::new(from.u64()?),
                loss_allowance_ppm: from.u32()?,
                seq: from.u64()?,
            },
            signature: Signature(cbor::bytes(from)?),
            state: PhantomData,
        })
    }
}
