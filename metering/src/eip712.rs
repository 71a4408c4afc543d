//! EIP-712: the digest of a typed statement, as every Ethereum wallet and contract computes it.
//!
//! Only what Waybill signs is here: flat structs of atomic fields, each one 32-byte word.

use sha3::{Digest, Keccak256};

use crate::NodeId;

/// One field of a struct, encoded as EIP-712 and the contract ABI encode it.
pub type Word = [u8; 32];

/// Keccak-256 of the concatenated parts.
#[must_use]
pub fn keccak256(parts: &[&[u8]]) -> Word {
    let mut hash = Keccak256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// The digest to sign: of a struct (by [`hash_struct`]) within a domain (by [`domain`]).
#[must_use]
pub fn digest(domain: &Word, hash_struct: &Word) -> Word {
    keccak256(&[b"\x19\x01", domain, hash_struct])
}

/// `hashStruct`: the hash of the type's text, then its fields in order.
#[must_use]
pub fn hash_struct(type_text: &str, fields: &[Word]) -> Word {
    keccak256(&[&keccak256(&[type_text.as_bytes()]), fields.as_flattened()])
}

/// The separator of the domain `Waybill`, version 1, of one ledger.
#[must_use]
pub fn ledger_domain(chain_id: u64, contract: NodeId) -> Word {
    hash_struct(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
        &[text("Waybill"), text("1"), uint(chain_id.into()), address(contract)],
    )
}

/// The separator of the domain `Waybill`, version 1, for what holds on every ledger.
#[must_use]
pub fn domain() -> Word {
    hash_struct("EIP712Domain(string name,string version)", &[text("Waybill"), text("1")])
}

/// A `string`: its hash stands for it.
#[must_use]
pub fn text(text: &str) -> Word {
    keccak256(&[text.as_bytes()])
}

/// An `address`, padded on the left.
#[must_use]
pub fn address(id: NodeId) -> Word {
    let mut word = [0; 32];
    word[12..].copy_from_slice(&id.0);
    word
}

/// A `uintN` with N at most 128, big-endian.
#[must_use]
pub fn uint(number: u128) -> Word {
    let mut word = [0; 32];
    word[16..].copy_from_slice(&number.to_be_bytes());
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AccountKey;

    /// The worked example "Ether Mail" of EIP-712 itself, `Example.sol` and `Example.js`.
    #[test]
    fn the_mail_example_of_the_eip_comes_out_to_the_bit() {
        let id = |hex: &str| hex.parse::<NodeId>().unwrap();
        let domain = hash_struct(
            "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
            &[text("Ether Mail"), text("1"), uint(1), address(id("0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"))],
        );
        assert_eq!(hex::encode(domain), "f2cee375fa42b42143804025fc449deafd50cc031ca257e0b194a650a912090f");
        let person = |name: &str, wallet: &str| {
            hash_struct("Person(string name,address wallet)", &[text(name), address(id(wallet))])
        };
        let mail = hash_struct(
            "Mail(Person from,Person to,string contents)Person(string name,address wallet)",
            &[
                person("Cow", "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"),
                person("Bob", "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"),
                text("Hello, Bob!"),
            ],
        );
        let digest = digest(&domain, &mail);
        assert_eq!(hex::encode(digest), "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2");
        let cow = AccountKey::from_bytes(&keccak256(&[b"cow"])).unwrap();
        let signature = cow.sign_digest(&digest);
        assert_eq!(
            hex::encode(signature.0),
            "4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d\
             07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b915621c"
        );
        assert_eq!(signature.recover(&digest), Ok(id("0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826")));
    }
}
