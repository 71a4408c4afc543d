//! Questions for names from anybody: whatever is asked, the answer is one, bounded, and no question again.

use std::net::Ipv6Addr;
use std::time::Duration;

use node::names::{Names, QUESTION_LENGTH_MAX, asked, denies};
use node::upstream::{Asked, Cache, UDP_LENGTH_MAX};

use crate::pair::start;

/// Eight addresses, or who answers for the zone and for how long a no holds.
const MORE_MAX: usize = 8 * 28 + 40;
/// How long an answer is kept at most.
const KEPT_AT_MOST: Duration = Duration::from_secs(3600);
/// A record that says how long an answer may be.
const OPT_LEN: usize = 11;

/// One message.
///
/// # Panics
/// If the answer is not to this message, longer than it by more than records may be, or would be answered itself.
pub fn names(bytes: &[u8]) {
    let address = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
    let mut zone = Names::new("roof", address(1));
    assert!(zone.add("attic", &(2..9).map(address).collect::<Vec<_>>()));
    elsewhere(bytes);
    let asked = asked(bytes);
    let Some(answer) = zone.answer(bytes) else { return };
    // What is denied was asked for by a name, or is the way back from an address.
    let is_back = bytes.to_ascii_lowercase().windows(9).any(|part| part == b"\x03ip6\x04arpa");
    assert!(!denies(&answer) || is_back || asked.is_some_and(|name| name != "roof" && name != "attic"));
    assert!(bytes.len() <= QUESTION_LENGTH_MAX && bytes[2] & 0x80 == 0, "no question");
    assert_eq!(answer[..2], bytes[..2], "to another");
    assert!(answer.len() <= bytes.len() + MORE_MAX, "{} of {}", answer.len(), bytes.len());
    assert_eq!(zone.answer(&answer), None, "two of them would answer each other for ever");
    let [code, answers] = [answer[3] & 0xf, answer[7]];
    assert!(code == 0 || answers == 0, "{answers} answers with code {code}");
}

/// A message is asked of others, and what comes back is any message.
fn elsewhere(bytes: &[u8]) {
    let (question, answer) = bytes.split_at(bytes.len() / 2);
    for (question, answer) in [(bytes, bytes), (question, answer)] {
        let Some(asked) = Asked::read(question) else { continue };
        let sent = asked.numbered([7, 9]);
        assert!(
            sent.len() <= question.len() + OPT_LEN && asked.check([7, 9], &sent).is_none(),
            "a question is no answer"
        );
        let mut whole = sent;
        whole[2] |= 0x80;
        whole.extend(answer);
        assert!(asked.check([7, 9], &whole).is_some() && asked.failed()[..2] == question[..2]);
        if let Ok(screened) = asked.screen(whole.clone(), &[]) {
            assert_eq!(asked.screen(screened.clone(), &[]), Ok(screened), "what is left of it is left again");
        }
        let mut cache = Cache::default();
        cache.keep(start(), &asked, &whole);
        if let Some(kept) = cache.answer(start(), &asked, false) {
            assert_eq!(kept[..], asked.answer(whole.clone(), false)[..], "at once it is the same");
        }
        assert!(cache.answer(start() + KEPT_AT_MOST, &asked, false).is_none(), "kept for ever");
        let told = asked.answer(whole, true);
        assert!(told.len() <= UDP_LENGTH_MAX && told[..2] == question[..2], "to another, or too long");
        let _any = (asked.check([7, 9], answer), asked.answer(answer.to_vec(), true));
    }
}

/// What stub resolvers ask, to begin with.
#[must_use]
pub fn names_examples() -> Vec<Vec<u8>> {
    let mut examples = Vec::new();
    for name in ["mesh", "roof.mesh", "www.attic.mesh", "nobody.mesh", "example.org", "2.0.d.f.ip6.arpa"] {
        for kind in [1_u16, 2, 6, 12, 28, 255] {
            let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in name.split('.') {
                message.extend(u8::try_from(label.len()));
                message.extend(label.as_bytes());
            }
            message.push(0);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1]);
            examples.push(message);
        }
    }
    examples
}
