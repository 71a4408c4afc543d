//! The keys of an interface and the MAC they make (RFC 8967, section 4.1).

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use thiserror::Error;

/// How a MAC is made. Both ends must take the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MacAlgorithm {
    /// HMAC-SHA256, 32 octets; every implementation has it.
    HmacSha256,
    /// BLAKE2s in keyed mode, 16 octets; quicker, and shorter on the air.
    Blake2s128,
}

impl MacAlgorithm {
    /// The longest key. HMAC would hash a longer one to 32 octets first: nothing is gained, and babeld
    /// refuses it. BLAKE2s has no room for more (RFC 7693, section 2.1).
    #[must_use]
    pub fn key_len_max(self) -> usize {
        match self {
            Self::HmacSha256 => 64,
            Self::Blake2s128 => 32,
        }
    }
}

/// Why octets are no key; the operator must give others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MacKeyError {
    /// A MAC of no key can be made by anybody.
    #[error("the MAC key is empty")]
    Empty,
    /// Beyond [`MacAlgorithm::key_len_max`].
    #[error("the MAC key has {len} octets, at most {max} fit its algorithm")]
    TooLong {
        /// Octets given.
        len: usize,
        /// Octets allowed.
        max: usize,
    },
}

/// A key shared by everybody on a link. Whoever has it can speak for all of them.
///
/// It should be 32 random octets: a key that can be guessed is found from one packet overheard. The
/// octets are not kept, only the algorithm's state with the key taken in; that is not wiped from memory.
#[derive(Clone)]
pub struct MacKey {
    keyed: Keyed,
}

#[derive(Clone)]
enum Keyed {
    HmacSha256(Hmac<Sha256>),
    Blake2s128(Blake2sMac<U16>),
}

impl MacKey {
    /// Takes 1 to [`MacAlgorithm::key_len_max`] octets.
    ///
    /// # Errors
    /// [`MacKeyError`]: their number is another.
    pub fn new(algorithm: MacAlgorithm, key: &[u8]) -> Result<Self, MacKeyError> {
        let (len, max) = (key.len(), algorithm.key_len_max());
        if key.is_empty() {
            return Err(MacKeyError::Empty);
        }
        let too_long = MacKeyError::TooLong { len, max };
        if len > max {
            return Err(too_long);
        }
        // Neither algorithm refuses a length that has come this far.
        let keyed = match algorithm {
            MacAlgorithm::HmacSha256 => Mac::new_from_slice(key).map(Keyed::HmacSha256),
            MacAlgorithm::Blake2s128 => Mac::new_from_slice(key).map(Keyed::Blake2s128),
        };
        keyed.map(|keyed| Self { keyed }).map_err(|_| too_long)
    }

    /// Its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> MacAlgorithm {
        match self.keyed {
            Keyed::HmacSha256(_) => MacAlgorithm::HmacSha256,
            Keyed::Blake2s128(_) => MacAlgorithm::Blake2s128,
        }
    }

    /// The MAC of one after the other.
    pub(super) fn mac(&self, pseudo_header: &[u8], signed: &[u8]) -> Vec<u8> {
        match &self.keyed {
            Keyed::HmacSha256(mac) => finish(mac.clone(), pseudo_header, signed),
            Keyed::Blake2s128(mac) => finish(mac.clone(), pseudo_header, signed),
        }
    }

    /// Octets of its MAC.
    pub(super) fn mac_len(&self) -> usize {
        match self.algorithm() {
            MacAlgorithm::HmacSha256 => 32,
            MacAlgorithm::Blake2s128 => 16,
        }
    }
}

fn finish(mac: impl Mac, pseudo_header: &[u8], signed: &[u8]) -> Vec<u8> {
    mac.chain_update(pseudo_header).chain_update(signed).finalize().into_bytes().to_vec()
}

/// Says which algorithm, and nothing of the key.
impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MacKey").field("algorithm", &self.algorithm()).finish_non_exhaustive()
    }
}

/// Why keys do not make a set; the operator must give more or fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MacKeysError {
    /// Nobody could be believed.
    #[error("no MAC key is given")]
    NoKey,
    /// Beyond [`MacKeys::MAX`].
    #[error("{count} MAC keys are given, an interface takes at most {max}", max = MacKeys::MAX)]
    TooMany {
        /// Keys given.
        count: usize,
    },
}

/// The keys of an interface: usually one, and two while the old one is replaced on router after router
/// (RFC 8967, section 5). Every packet carries a MAC of each; a packet with a MAC of any is believed.
#[derive(Clone, Debug)]
pub struct MacKeys(Vec<MacKey>);

impl MacKeys {
    /// Two keys, old and new, of both algorithms. Each takes up to 34 octets of every packet.
    pub const MAX: usize = 4;

    /// Takes 1 to [`MacKeys::MAX`] keys.
    ///
    /// # Errors
    /// [`MacKeysError`]: their number is another.
    pub fn new(keys: Vec<MacKey>) -> Result<Self, MacKeysError> {
        match keys.len() {
            0 => Err(MacKeysError::NoKey),
            1..=Self::MAX => Ok(Self(keys)),
            count => Err(MacKeysError::TooMany { count }),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &MacKey> {
        self.0.iter()
    }
}

impl From<MacKey> for MacKeys {
    fn from(key: MacKey) -> Self {
        Self(vec![key])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::octets;
    use super::*;

    fn mac(algorithm: MacAlgorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
        let key = MacKey::new(algorithm, key).unwrap();
        let mac = key.mac(&[], message);
        assert_eq!(mac.len(), key.mac_len());
        mac
    }

    /// RFC 4231, sections 4.2 and 4.3.
    #[test]
    fn hmac_sha256_is_that_of_rfc_4231() {
        assert_eq!(
            mac(MacAlgorithm::HmacSha256, &[0x0b; 20], b"Hi There"),
            octets("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
        );
        assert_eq!(
            mac(MacAlgorithm::HmacSha256, b"Jefe", b"what do ya want for nothing?"),
            octets("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        );
    }

    /// Made by Python, whose BLAKE2 is the reference implementation:
    ///
    /// ```text
    /// from hashlib import blake2s
    /// blake2s(b"Hi There", key=b"\x0b" * 20, digest_size=16).hexdigest()
    /// blake2s(b"", key=b"k", digest_size=16).hexdigest()
    /// blake2s(bytes(range(200)), key=bytes(range(32)), digest_size=16).hexdigest()
    /// ```
    #[test]
    fn blake2s_is_keyed_and_has_16_octets() {
        let mac = |key: &[u8], message: &[u8]| mac(MacAlgorithm::Blake2s128, key, message);
        assert_eq!(mac(&[0x0b; 20], b"Hi There"), octets("86bd6e709a50dc78906f06e6ea30a441"));
        assert_eq!(mac(b"k", b""), octets("5175c87d8aa9480d45ba9a546f2a436f"));
        let (key, message): (Vec<u8>, Vec<u8>) = ((0..32).collect(), (0..200).collect());
        assert_eq!(mac(&key, &message), octets("42a6f8ff590af21b512e9e088257aa34"));
    }

    /// Made by Python: `hmac.new(bytes(range(64)), bytes(range(200)), "sha256").hexdigest()`.
    #[test]
    fn the_longest_hmac_key_is_used_as_it_is() {
        let (key, message): (Vec<u8>, Vec<u8>) = ((0..64).collect(), (0..200).collect());
        assert_eq!(
            mac(MacAlgorithm::HmacSha256, &key, &message),
            octets("45f8fa81cfb242288196f6a27ce22896c8f0c3946640698a5743ab0ae9ce72e6")
        );
    }

    #[test]
    fn keys_of_impossible_length_are_refused() {
        let refused = |algorithm, key: &[u8]| MacKey::new(algorithm, key).unwrap_err();
        assert_eq!(refused(MacAlgorithm::HmacSha256, &[]), MacKeyError::Empty);
        assert_eq!(refused(MacAlgorithm::Blake2s128, &[]), MacKeyError::Empty);
        assert_eq!(refused(MacAlgorithm::HmacSha256, &[1; 65]), MacKeyError::TooLong { len: 65, max: 64 });
        assert_eq!(refused(MacAlgorithm::Blake2s128, &[1; 33]), MacKeyError::TooLong { len: 33, max: 32 });
    }

    #[test]
    fn an_interface_has_one_to_four_keys() {
        let key = MacKey::new(MacAlgorithm::HmacSha256, b"secret").unwrap();
        assert_eq!(MacKeys::new(vec![]).unwrap_err(), MacKeysError::NoKey);
        assert_eq!(MacKeys::new(vec![key.clone(); 5]).unwrap_err(), MacKeysError::TooMany { count: 5 });
        assert_eq!(MacKeys::new(vec![key; 4]).unwrap().iter().count(), 4);
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = MacKey::new(MacAlgorithm::HmacSha256, b"secret").unwrap();
        assert_eq!(format!("{key:?}"), "MacKey { algorithm: HmacSha256, .. }");
        assert_eq!(format!("{:?}", MacKeys::from(key)), "MacKeys([MacKey { algorithm: HmacSha256, .. }])");
    }
}
