//! Signed notes: a text and the signatures under it (c2sp.org/signed-note), with Ed25519 keys.
//!
//! A note says nothing until a key one trusts has signed its text. There are two kinds of signature here: a log's own
//! (type 0x01), and a witness's cosignature with its time (type 0x04, c2sp.org/tlog-cosignature).

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::UnixTime;

/// The longest note that is read, in bytes: a checkpoint with as many signatures as there may be.
pub const MAX_NOTE_BYTES: usize = 16 * 1024;
/// The most signatures of a note. A reader must take 16 (c2sp.org/signed-note); a community has fewer witnesses than this.
pub const MAX_SIGNATURES: usize = 64;

/// A text and the signatures under it, none of which has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Line>,
}

/// One signature line: whose, and the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    name: String,
    id: KeyId,
    signature: Vec<u8>,
}

type KeyId = [u8; 4];

/// What a key signs, and so what its signatures mean.
pub trait Purpose {
    /// The signature type of c2sp.org/signed-note.
    const TYPE: u8;
}

/// A log signs its own checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {}

/// A witness cosigns the newest checkpoint it has found to continue all it saw before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {}

impl Purpose for Log {
    const TYPE: u8 = 0x01;
}

impl Purpose for Witness {
    const TYPE: u8 = 0x04;
}

/// A public key and the name it signs under.
///
/// Text form, as every tool for notes writes it: `name+id+key`, the id in hexadecimal, type and key in base64.
#[derive(Clone, PartialEq, Eq)]
pub struct NoteKey<P> {
    name: String,
    id: KeyId,
    key: VerifyingKey,
    purpose: PhantomData<P>,
}

/// The secret to a [`NoteKey`].
#[derive(Clone)]
pub struct NoteSigner<P> {
    public: NoteKey<P>,
    key: SigningKey,
}

/// Why a text is not a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoteError {
    /// Longer than [`MAX_NOTE_BYTES`].
    #[error("a note of more than {MAX_NOTE_BYTES} bytes")]
    TooLong,
    /// A control character, no blank line in front of the signatures, or no text.
    #[error("not a signed note")]
    Malformed,
    /// A line that should be a signature is none.
    #[error("a signature line of a note does not read")]
    MalformedSignature,
    /// More than [`MAX_SIGNATURES`].
    #[error("a note with more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
}

/// Why a text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoteKeyError {
    /// A name is not empty and has no space and no plus.
    #[error("a name of a signer has no space and no `+`, and is not empty")]
    Name,
    /// Not `name+id+key`.
    #[error("a verifier key is written as name+id+key")]
    Malformed,
    /// A key of another type, or no key at all.
    #[error("not an Ed25519 key of type {expected}")]
    OtherKey {
        /// The type that was expected.
        expected: u8,
    },
    /// The id is not the one of this name and key: a character was mistyped.
    #[error("the id does not fit name and key; a character was mistyped")]
    Id,
}

/// Why a note does not count as signed by a key. It says nothing then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unsigned {
    /// There is no signature by the key.
    #[error("the note is not signed by this key")]
    Missing,
    /// There is one, and it is wrong: whoever gave us the note altered it.
    #[error("the note's signature is forged or damaged")]
    Wrong,
}

impl Note {
    /// A note without signatures, or `None` where the text does not end with a line break or has control characters.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        (text.ends_with('\n') && is_plain(&text)).then_some(Self { text, signatures: Vec::new() })
    }

    /// The text, with the line break at its end. Believe it only after the signature of a key you trust has been checked.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds a line, in place of an older one by the same key.
    fn add<P>(&mut self, key: &NoteKey<P>, signature: Vec<u8>) {
        self.signatures.retain(|line| !line.is_by(key));
        self.signatures.push(Line { name: key.name.clone(), id: key.id, signature });
    }

    /// The signature under this key's name and id. A note carries one by a key; the first counts.
    fn by<P>(&self, key: &NoteKey<P>) -> Result<&[u8], Unsigned> {
        let line = self.signatures.iter().find(|line| line.is_by(key));
        line.map(|line| &line.signature[..]).ok_or(Unsigned::Missing)
    }
}

impl Line {
    fn is_by<P>(&self, key: &NoteKey<P>) -> bool {
        self.name == key.name && self.id == key.id
    }
}

impl NoteSigner<Log> {
    /// Signs the note's text.
    pub fn sign(&self, note: &mut Note) {
        let signature = self.key.sign(note.text.as_bytes());
        note.add(&self.public, signature.to_bytes().to_vec());
    }
}

impl NoteKey<Log> {
    /// Checks that the log signed the note's text.
    ///
    /// # Errors
    /// [`Unsigned`]
    pub fn verify(&self, note: &Note) -> Result<(), Unsigned> {
        let signature = Signature::from_slice(note.by(self)?).map_err(|_| Unsigned::Wrong)?;
        self.key.verify_strict(note.text.as_bytes(), &signature).map_err(|_| Unsigned::Wrong)
    }
}

impl NoteSigner<Witness> {
    /// Cosigns the note's text: as of `at`, it is the newest checkpoint of its log that this witness has seen. Only for who
    /// has checked that.
    pub fn cosign(&self, note: &mut Note, at: UnixTime) {
        let signature = self.key.sign(&cosigned(note, at.seconds()));
        note.add(&self.public, [&at.seconds().to_be_bytes()[..], &signature.to_bytes()].concat());
    }
}

impl NoteKey<Witness> {
    /// Checks that the witness cosigned the note's text, and says when.
    ///
    /// # Errors
    /// [`Unsigned`]
    pub fn verify(&self, note: &Note) -> Result<UnixTime, Unsigned> {
        let (at, signature) = note.by(self)?.split_first_chunk().ok_or(Unsigned::Wrong)?;
        let (at, signature) = (u64::from_be_bytes(*at), Signature::from_slice(signature).map_err(|_| Unsigned::Wrong)?);
        self.key.verify_strict(&cosigned(note, at), &signature).map_err(|_| Unsigned::Wrong)?;
        Ok(UnixTime::from_seconds(at))
    }
}

/// What a witness signs (c2sp.org/tlog-cosignature, "Ed25519 signed message").
fn cosigned(note: &Note, at: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {at}\n{}", note.text).into_bytes()
}

impl<P: Purpose> NoteSigner<P> {
    /// The signer under this name with this secret (RFC 8032's 32-byte private key).
    ///
    /// # Errors
    /// [`NoteKeyError::Name`]
    pub fn new(name: &str, secret: &[u8; 32]) -> Result<Self, NoteKeyError> {
        let key = SigningKey::from_bytes(secret);
        Ok(Self { public: NoteKey::new(name, key.verifying_key())?, key })
    }

    /// What others check its signatures with.
    #[must_use]
    pub const fn key(&self) -> &NoteKey<P> {
        &self.public
    }
}

impl<P> fmt::Debug for NoteSigner<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoteSigner({})", self.public.name)
    }
}

impl<P: Purpose> NoteKey<P> {
    fn new(name: &str, key: VerifyingKey) -> Result<Self, NoteKeyError> {
        if !is_key_name(name) {
            return Err(NoteKeyError::Name);
        }
        Ok(Self { name: name.to_owned(), id: key_id(name, P::TYPE, &key), key, purpose: PhantomData })
    }

    /// The key under this name with this public key (RFC 8032).
    ///
    /// # Errors
    /// [`NoteKeyError::Name`], and [`NoteKeyError::OtherKey`] where the bytes are no key.
    pub fn from_public(name: &str, public: &[u8; 32]) -> Result<Self, NoteKeyError> {
        let key = VerifyingKey::from_bytes(public).map_err(|_| NoteKeyError::OtherKey { expected: P::TYPE })?;
        Self::new(name, key)
    }

    /// The name it signs under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Ed25519 public key (RFC 8032), which is the same under every name.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }
}

/// The first four bytes of a hash of name, type and key.
fn key_id(name: &str, kind: u8, key: &VerifyingKey) -> KeyId {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', kind]).chain_update(key.as_bytes()).finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c < ' ' && c != '\n')
}

impl<P: Purpose> fmt::Display for NoteKey<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[P::TYPE], &self.key.as_bytes()[..]].concat();
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.id), STANDARD.encode(key))
    }
}

impl<P: Purpose> fmt::Debug for NoteKey<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<P: Purpose> FromStr for NoteKey<P> {
    type Err = NoteKeyError;

    fn from_str(text: &str) -> Result<Self, NoteKeyError> {
        // Base64 has a plus of its own, so the key is all that follows the second.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteKeyError::Malformed);
        };
        let other = NoteKeyError::OtherKey { expected: P::TYPE };
        let bytes = STANDARD.decode(key).map_err(|_| NoteKeyError::Malformed)?;
        let key = bytes.strip_prefix(&[P::TYPE]).and_then(|key| key.try_into().ok()).ok_or(other)?;
        let key = Self::new(name, VerifyingKey::from_bytes(key).map_err(|_| other)?)?;
        // With the id, which follows from the rest.
        if key.to_string() == text { Ok(key) } else { Err(NoteKeyError::Id) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|Line { name, id, signature }| {
            writeln!(f, "\u{2014} {name} {}", STANDARD.encode([&id[..], signature].concat()))
        })
    }
}

impl FromStr for Note {
    type Err = NoteError;

    /// Takes a note with one signature or more.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        if text.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong);
        }
        // The last empty line separates; the text keeps its own line break.
        let split = text.rfind("\n\n").ok_or(NoteError::Malformed)?;
        let (text, lines) = (&text[..=split], &text[split + 2..]);
        let mut note = Self::new(text.to_owned()).filter(|_| is_plain(lines)).ok_or(NoteError::Malformed)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::MalformedSignature)?;
        for line in lines.split('\n') {
            if note.signatures.len() == MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            note.signatures.push(read_line(line).ok_or(NoteError::MalformedSignature)?);
        }
        Ok(note)
    }
}

fn read_line(line: &str) -> Option<Line> {
    let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let bytes = STANDARD.decode(signature).ok()?;
    let (id, signature) = bytes.split_first_chunk()?;
    let is_one = is_key_name(name) && !signature.is_empty();
    is_one.then(|| Line { name: name.to_owned(), id: *id, signature: signature.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "example.com/valley\n7\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    fn log() -> NoteSigner<Log> {
        NoteSigner::new("example.com/valley", &[7; 32]).unwrap()
    }

    fn witness() -> NoteSigner<Witness> {
        NoteSigner::new("example.com/attic", &[8; 32]).unwrap()
    }

    fn note() -> Note {
        let mut note = Note::new(TEXT.to_owned()).unwrap();
        log().sign(&mut note);
        witness().cosign(&mut note, UnixTime::from_seconds(1_679_315_147));
        note
    }

    /// The example of Go's `golang.org/x/mod/sumdb/note`, which c2sp.org/signed-note generalises.
    #[test]
    fn note_of_other_software_is_read_and_its_signature_holds() {
        let key: NoteKey<Log> = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
        let text = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\u{2014} PeterNeumann \
                    x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let note: Note = text.parse().unwrap();
        assert_eq!(key.verify(&note), Ok(()));
        assert_eq!(note.to_string(), text);
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    /// Computed with Python's `cryptography` and `hashlib`.
    #[test]
    fn keys_and_signatures_are_what_other_software_computes() {
        assert_eq!(log().key().to_string(), "example.com/valley+050cfb23+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs");
        assert_eq!(
            witness().key().to_string(),
            "example.com/attic+5cd90add+BBOY9ixtGkV8UbpqS189vS9p/KkyFiGNyJl+QWvRfZPK"
        );
        let text = note().to_string();
        let lines = [
            "\u{2014} example.com/valley BQz7Iwg2Zr0E3U7ne+Q35GPovmm4V1JpqFTninqzDt0/3SVfyO5jvg9qF8UD+lHPsxhGgeiXncYGRMAKYHe3xuJA6gI=",
            "\u{2014} example.com/attic XNkK3QAAAABkGFDLlX4q+QidCjajeRk84x/llwgcYspyYDRBN9cgheLJvUL8/JeC5poY5ghysaqcsck/LNRJ192i4ADp64nqwspCCQ==",
        ];
        assert_eq!(text, format!("{TEXT}\n{}\n{}\n", lines[0], lines[1]));
    }

    #[test]
    fn signatures_are_good_for_their_text_key_and_purpose_only() {
        let (log, witness) = (log(), witness());
        let read: Note = note().to_string().parse().unwrap();
        assert_eq!(read, note());
        assert_eq!(log.key().verify(&read), Ok(()));
        assert_eq!(witness.key().verify(&read), Ok(UnixTime::from_seconds(1_679_315_147)));

        let other = NoteSigner::<Log>::new("example.com/valley", &[9; 32]).unwrap();
        assert_eq!(other.key().verify(&read), Err(Unsigned::Missing));
        let renamed = NoteSigner::<Log>::new("example.com/hill", &[7; 32]).unwrap();
        assert_eq!(renamed.key().verify(&read), Err(Unsigned::Missing));
        // One key for both purposes: the ids tell the signatures apart.
        let as_log = NoteSigner::<Log>::new("example.com/attic", &[8; 32]).unwrap();
        assert_eq!(as_log.key().verify(&read), Err(Unsigned::Missing));

        let altered: Note = note().to_string().replacen("\n7\n", "\n8\n", 1).parse().unwrap();
        assert_eq!(log.key().verify(&altered), Err(Unsigned::Wrong));
        assert_eq!(witness.key().verify(&altered), Err(Unsigned::Wrong));
    }

    #[test]
    fn who_cosigns_again_has_one_line() {
        let mut note = note();
        witness().cosign(&mut note, UnixTime::from_seconds(1_679_315_148));
        assert_eq!(note.to_string().matches('\u{2014}').count(), 2);
        assert_eq!(witness().key().verify(&note), Ok(UnixTime::from_seconds(1_679_315_148)));
    }

    #[test]
    fn altered_character_of_a_note_is_noticed() {
        let text = note().to_string();
        for (at, _) in text.char_indices().filter(|(_, c)| c.is_ascii()) {
            let mut altered = text.clone().into_bytes();
            altered[at] ^= 1;
            let Ok(altered) = String::from_utf8(altered).unwrap().parse::<Note>() else { continue };
            let both = log().key().verify(&altered).and_then(|()| witness().key().verify(&altered));
            assert!(both.is_err(), "character {at}");
        }
    }

    #[test]
    fn what_is_no_note_is_refused_by_name() {
        let many = format!("a\n\n{}", "\u{2014} x AAAAAAA=\n".repeat(MAX_SIGNATURES + 1));
        for (text, expected) in [
            ("", NoteError::Malformed),
            ("a\n", NoteError::Malformed),
            ("a\r\n\n\u{2014} x AAAAAAA=\n", NoteError::Malformed),
            ("a\n\n", NoteError::MalformedSignature),
            ("a\n\n\u{2014} x AAAAAAA=", NoteError::MalformedSignature),
            ("a\n\n- x AAAAAAA=\n", NoteError::MalformedSignature),
            ("a\n\n\u{2014} x AAAAAA==\n", NoteError::MalformedSignature),
            ("a\n\n\u{2014} x+y AAAAAAA=\n", NoteError::MalformedSignature),
            ("a\n\n\u{2014} x AAAAAAA\n", NoteError::MalformedSignature),
            (&many, NoteError::TooManySignatures),
            (&"a".repeat(MAX_NOTE_BYTES + 1), NoteError::TooLong),
        ] {
            assert_eq!(text.parse::<Note>().map(|note| note.to_string()), Err(expected), "{text:?}");
        }
        assert_eq!(Note::new("no line break".to_owned()), None);
    }

    #[test]
    fn mistyped_key_is_refused_by_name() {
        let key = log().key().to_string();
        let parse = |text: &str| text.parse::<NoteKey<Log>>();
        assert_eq!(parse("example.com/valley"), Err(NoteKeyError::Malformed));
        assert_eq!(parse(&key.replace("valley", "valleys")), Err(NoteKeyError::Id));
        assert_eq!(parse(&key.replace("valley", "va ley")), Err(NoteKeyError::Name));
        assert_eq!(parse(&witness().key().to_string()), Err(NoteKeyError::OtherKey { expected: 1 }));
        assert!(NoteSigner::<Log>::new("", &[1; 32]).is_err());
    }
}
