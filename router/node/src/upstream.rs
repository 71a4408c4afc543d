//! Questions of the own household for names outside of the mesh, as they are asked of a name server, and what counts as its
//! answer (RFC 1035, RFC 5452).
//!
//! [`Asked::read`] takes a question that is to be asked elsewhere; [`Asked::numbered`] is what to send, [`Asked::check`] looks whether
//! what came back is an answer, [`Asked::screen`] at what it says, and [`Asked::answer`] is what whoever asked is told. Of the question
//! nothing is passed on but the name, its type and whether signatures are wished for: not who asked. [`Cache`] keeps answers for as
//! long as they say that they hold.

use std::ops::Range;
use std::time::{Duration, Instant};

use metering::SortedMap;

use crate::names::{HEADER_LEN, QUESTION_LENGTH_MAX, Question, SOA};

mod screen;

pub use screen::{Unfit, is_unwilling};

/// The longest answer that is taken by UDP: in one piece on every network (RFC 9715, and the DNS flag day of 2020).
pub const UDP_LENGTH_MAX: usize = 1232;
/// The longest that is taken by TCP.
pub const TCP_LENGTH_MAX: usize = 16 << 10;

/// What one who does not say how much it takes does take (RFC 1035, section 4.2.1).
const PLAIN_LENGTH_MAX: usize = 512;
const CLASS_IN: u16 = 1;
/// Types that are no record's, but for the one that asks for all: whole zones and signatures of messages are nobody's business.
const META: std::ops::RangeInclusive<u16> = 249..=254;
/// The type of the record that says more about a message (RFC 6891), with the root's name before it.
const OPT: [u8; 3] = [0, 0, 41];
const OPT_LEN: usize = 11;
/// In the flags' second byte: no validation wished for, and validated.
const ABOUT_SIGNATURES: u8 = 0x30;
const RECURSION_DESIRED: u8 = 0x01;
const CUT_OFF: u8 = 0x02;
const FAILED: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
/// Answers that are kept, the longest of them, and how long one is kept at most: longer than most say, and no longer than a mistake
/// may last.
const KEPT_MAX: usize = 256;
const KEPT_LENGTH_MAX: usize = 2048;
const KEPT_SECONDS_MAX: u32 = 3600;
/// That there is no such thing is kept for less (RFC 2308, section 5, lets it be three hours).
const DENIED_SECONDS_MAX: u32 = 300;
/// Zones that no name server out there has (RFC 6761, RFC 6762, RFC 7686), and ours.
const NOWHERE: [&str; 5] = ["mesh", "local", "localhost", "invalid", "onion"];

/// A question that is to be asked of a name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// As it is sent, with zero for its number.
    message: Vec<u8>,
    /// Its number at whoever asked.
    number: [u8; 2],
    /// Where the name ends and where the question does.
    name_end: usize,
    end: usize,
    /// The longest answer by UDP that whoever asked takes.
    udp_length_max: usize,
}

impl Asked {
    /// Reads a message. `None`: it is nothing to be asked elsewhere.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let header: [u8; HEADER_LEN] = *message.first_chunk()?;
        let [a, b, flags, more, counts @ ..] = header;
        let plain = flags & !(CUT_OFF | 0x04) == RECURSION_DESIRED && message.len() <= QUESTION_LENGTH_MAX;
        if !plain || counts[..7] != [0, 1, 0, 0, 0, 0, 0] || counts[7] > 1 {
            return None;
        }
        let question = Question::read(message)?;
        if question.class != CLASS_IN || META.contains(&question.kind) || !is_elsewhere(&question.labels) {
            return None;
        }
        let end = HEADER_LEN + question.bytes.len();
        let says_more = message.get(end..end + OPT_LEN).filter(|opt| counts[7] == 1 && opt[..3] == OPT && opt[6] == 0);
        let mut sent = vec![0, 0, RECURSION_DESIRED, more & ABOUT_SIGNATURES, 0, 1, 0, 0, 0, 0, 0, 0];
        sent.extend(question.bytes);
        let mut udp_length_max = PLAIN_LENGTH_MAX;
        if let Some(opt) = says_more {
            sent[HEADER_LEN - 1] = 1;
            sent.extend(OPT);
            sent.extend((UDP_LENGTH_MAX as u16).to_be_bytes());
            // Of the flags, whether signatures are wished for.
            sent.extend([0, 0, opt[7] & 0x80, 0, 0, 0]);
            let takes = usize::from(u16::from_be_bytes([opt[3], opt[4]]));
            udp_length_max = takes.clamp(PLAIN_LENGTH_MAX, UDP_LENGTH_MAX);
        }
        Some(Self { message: sent, number: [a, b], name_end: end - 4, end, udp_length_max })
    }

    /// What to send to a name server. The number has to be one that nobody can guess.
    #[must_use]
    pub fn numbered(&self, number: [u8; 2]) -> Vec<u8> {
        let mut message = self.message.clone();
        message[..2].copy_from_slice(&number);
        message
    }

    /// Looks at what came back to the question of this number. `None`: it is no answer to it. Else whether it is whole; one that
    /// is cut off has to be asked for by TCP.
    #[must_use]
    pub fn check(&self, number: [u8; 2], answer: &[u8]) -> Option<bool> {
        let header: [u8; HEADER_LEN] = *answer.first_chunk()?;
        let is_answer = header[2] & 0xf8 == 0x80 && header[..2] == number && header[4..6] == [0, 1];
        let name =
            answer.get(HEADER_LEN..self.name_end)?.eq_ignore_ascii_case(self.message.get(HEADER_LEN..self.name_end)?);
        let kind = answer.get(self.name_end..self.end)? == self.message.get(self.name_end..self.end)?;
        (is_answer && name && kind).then_some(header[2] & CUT_OFF == 0)
    }

    /// What whoever asked is told: an answer that [`Asked::check`] found right. What is too long for UDP is cut off behind the
    /// question, so that it is asked for by TCP.
    #[must_use]
    pub fn answer(&self, mut answer: Vec<u8>, by_udp: bool) -> Vec<u8> {
        if by_udp && answer.len() > self.udp_length_max {
            answer.truncate(self.end);
            if let Some([flags, _, counts @ ..]) = answer.get_mut(2..HEADER_LEN) {
                *flags |= CUT_OFF;
                counts.copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            }
        }
        self.put_question(answer)
    }

    /// What whoever asked is told when no name server has answered.
    #[must_use]
    pub fn failed(&self) -> Vec<u8> {
        self.said(FAILED)
    }

    /// An answer of our own with no records.
    fn said(&self, code: u8) -> Vec<u8> {
        let mut answer = self.message.clone();
        answer.truncate(self.end);
        answer[2..HEADER_LEN].copy_from_slice(&[0x80 | RECURSION_DESIRED, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0]);
        self.put_question(answer)
    }

    /// What makes it the same question: all that is sent, in small letters.
    fn key(&self) -> Vec<u8> {
        let mut key = self.message.clone();
        key[HEADER_LEN..self.name_end].make_ascii_lowercase();
        key
    }

    /// With the number and the letters it was asked with.
    fn put_question(&self, mut answer: Vec<u8>) -> Vec<u8> {
        if let (Some(number), Some(question)) = (answer.get(..2), self.message.get(HEADER_LEN..self.end))
            && number.len() == 2
            && answer.len() >= self.end
        {
            answer[..2].copy_from_slice(&self.number);
            answer[HEADER_LEN..self.end].copy_from_slice(question);
        }
        answer
    }
}

/// Answers, kept for as long as they say that they hold, for the same question from anybody of the household: yes and no (RFC 1035,
/// section 7.4; RFC 2308). Bounded in number and bytes; the one that ends soonest makes room.
#[derive(Debug, Default)]
pub struct Cache {
    kept: SortedMap<Vec<u8>, Kept>,
}

#[derive(Debug)]
struct Kept {
    answer: Vec<u8>,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// What is known of a question, as [`Asked::answer`] says it to whoever asked: what it says of time has passed by then.
    #[must_use]
    pub fn answer(&self, now: Instant, asked: &Asked, by_udp: bool) -> Option<Vec<u8>> {
        let kept = self.kept.get(&asked.key()).filter(|kept| now < kept.until)?;
        let passed = u32::try_from(now.saturating_duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut answer = kept.answer.clone();
        let places: Vec<(usize, u32)> =
            records(&answer, asked.end)?.iter().map(|record| (record.ttl_at, record.ttl)).collect();
        for (at, ttl) in places {
            answer[at..at + 4].copy_from_slice(&ttl.saturating_sub(passed).to_be_bytes());
        }
        Some(asked.answer(answer, by_udp))
    }

    /// Keeps an answer that [`Asked::check`] found right and whole, if it says that it may be kept.
    pub fn keep(&mut self, now: Instant, asked: &Asked, answer: &[u8]) {
        let Some(seconds) = keeps(answer, asked.end).filter(|seconds| *seconds > 0) else { return };
        let key = asked.key();
        if self.kept.len() >= KEPT_MAX && !self.kept.contains_key(&key) {
            self.kept.retain(|_, kept| now < kept.until);
        }
        if self.kept.len() >= KEPT_MAX
            && !self.kept.contains_key(&key)
            && let Some(first) = self.kept.iter().min_by_key(|(_, kept)| kept.until).map(|(key, _)| key.clone())
        {
            self.kept.remove(&first);
        }
        let until = now + Duration::from_secs(seconds.into());
        self.kept.insert(key, Kept { answer: answer.to_vec(), since: now, until });
    }

    /// How many answers are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

/// A record of an answer, as far as it says how long it holds.
struct Record {
    ttl_at: usize,
    ttl: u32,
    kind: u16,
    /// Where what it says stands.
    data: Range<usize>,
    /// Of who answers for the zone: how long a no holds (RFC 2308, section 4).
    minimum: Option<u32>,
}

/// What stands behind the name of a record.
fn record_at(message: &[u8], at: usize) -> Option<Record> {
    let [a, b, _, _, ttl @ .., c, d] = *message.get(at..)?.first_chunk::<10>()?;
    let (kind, ttl) = (u16::from_be_bytes([a, b]), u32::from_be_bytes(ttl));
    let data = at + 10..at + 10 + usize::from(u16::from_be_bytes([c, d]));
    let minimum = message.get(data.clone())?.last_chunk().filter(|_| kind == SOA).map(|last| u32::from_be_bytes(*last));
    // With the highest bit it is none (RFC 2181, section 8).
    Some(Record { ttl_at: at + 4, ttl: if ttl >> 31 == 0 { ttl } else { 0 }, kind, data, minimum })
}

/// For how many seconds an answer may be kept; `None`: it may not.
fn keeps(answer: &[u8], question_end: usize) -> Option<u32> {
    let header: [u8; HEADER_LEN] = *answer.first_chunk()?;
    let (code, is_cut) = (header[3] & 0xf, header[2] & CUT_OFF != 0);
    if answer.len() > KEPT_LENGTH_MAX || is_cut || ![0, NO_SUCH_NAME].contains(&code) {
        return None;
    }
    let records = records(answer, question_end)?;
    let least = records.iter().map(|record| record.ttl).min()?;
    // Without one who says for how long, a no is not kept.
    let no_longer = records.iter().filter_map(|record| record.minimum).min();
    let is_no = code == NO_SUCH_NAME || header[6..8] == [0, 0];
    Some(match (is_no, no_longer) {
        (true, no_longer) => no_longer?.min(least).min(DENIED_SECONDS_MAX),
        // An alias of what there is not.
        (false, Some(no_longer)) => no_longer.min(least).min(DENIED_SECONDS_MAX),
        (false, None) => least.min(KEPT_SECONDS_MAX),
    })
}

/// All records behind the question but the one that says more about the message. `None`: they are not what the header says.
fn records(answer: &[u8], question_end: usize) -> Option<Vec<Record>> {
    let counts =
        answer.get(6..HEADER_LEN)?.chunks_exact(2).map(|pair| usize::from(u16::from_be_bytes([pair[0], pair[1]])));
    let (mut at, mut records) = (question_end, Vec::new());
    for _ in 0..counts.sum() {
        let record = record_at(answer, name_end(answer, at)?)?;
        at = record.data.end;
        if record.kind != u16::from(OPT[2]) {
            records.push(record);
        }
    }
    (at == answer.len()).then_some(records)
}

/// Where the name at a place ends, which may end in another's.
fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + length,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Whether a name server out there can know it: not what has one label, which is a machine in somebody's house, nor what belongs to an
/// address of the mesh.
fn is_elsewhere(labels: &[String]) -> bool {
    let ends_with = |end: &[&str]| {
        labels.len() >= end.len() && labels.iter().rev().zip(end.iter().rev()).all(|(label, other)| label == other)
    };
    let of_mesh = [["c", "f", "ip6", "arpa"], ["d", "f", "ip6", "arpa"]].iter().any(|end| ends_with(end));
    labels.len() > 1 && !of_mesh && !labels.last().is_some_and(|last| NOWHERE.contains(&last.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::AAAA;

    fn question(name: &str, kind: u16, opt: &[u8]) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, u8::from(!opt.is_empty())];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message.extend(opt);
        message
    }

    /// An OPT record that takes so much, wishes for signatures and has an option: where whoever asks is.
    fn opt(takes: u16) -> Vec<u8> {
        let [a, b] = takes.to_be_bytes();
        vec![0, 0, 41, a, b, 0, 0, 0x80, 0, 0, 8, 0, 8, 0, 4, 0, 1, 24, 9]
    }

    fn answer_to(sent: &[u8], more: usize) -> Vec<u8> {
        let mut answer = sent.to_vec();
        (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
        answer.extend(vec![7; more]);
        answer
    }

    #[test]
    fn what_is_asked_elsewhere_says_the_name_and_nothing_of_who_asks() {
        let asked = Asked::read(&question("www.Example.org", AAAA, &opt(4096))).unwrap();
        let mut expected = question("www.Example.org", AAAA, &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
        (expected[0], expected[1]) = (7, 9);
        assert_eq!(asked.numbered([7, 9]), expected);
        let plain = Asked::read(&question("www.example.org", AAAA, &[])).unwrap();
        assert_eq!(plain.numbered([0x12, 0x34]), question("www.example.org", AAAA, &[]));
    }

    #[test]
    fn what_is_ours_or_nobody_s_is_not_asked_elsewhere() {
        for name in
            ["attic.mesh", "mesh", "laptop", "printer.local", "x.onion", "1.0.d.f.ip6.arpa", "b.a.localhost", "x.MESH"]
        {
            assert_eq!(Asked::read(&question(name, AAAA, &[])), None, "{name}");
        }
        assert!(Asked::read(&question("7.2.0.192.in-addr.arpa", 12, &[])).is_some());
        for (at, byte, why) in [
            (2, 0x81, "an answer"),
            (2, 0x00, "no recursion wished for"),
            (2, 0x29, "an update"),
            (5, 2, "two questions"),
            (7, 1, "with an answer"),
            (11, 2, "with two more records"),
        ] {
            let mut message = question("www.example.org", AAAA, &[]);
            message[at] = byte;
            assert_eq!(Asked::read(&message), None, "{why}");
        }
        assert_eq!(Asked::read(&question("example.org", 252, &[])), None, "a whole zone");
        let whole = question("www.example.org", AAAA, &[]);
        assert!((0..whole.len()).all(|len| Asked::read(&whole[..len]).is_none()));
    }

    #[test]
    fn only_an_answer_to_the_question_counts() {
        let asked = Asked::read(&question("www.example.org", 65, &[])).unwrap();
        let sent = asked.numbered([7, 9]);
        let right = answer_to(&sent, 30);
        assert_eq!(asked.check([7, 9], &right), Some(true));
        let mut other_letters = right.clone();
        other_letters[13..16].copy_from_slice(b"WwW");
        assert_eq!(asked.check([7, 9], &other_letters), Some(true));
        assert_eq!(asked.answer(other_letters, true)[12..], right[12..], "as it was asked");
        let mut cut = right.clone();
        cut[2] |= CUT_OFF;
        assert_eq!(asked.check([7, 9], &cut), Some(false));
        assert_eq!(asked.check([7, 8], &right), None, "another number");
        assert_eq!(asked.check([7, 9], &sent), None, "a question");
        let kind = sent.len() - 3;
        for (at, byte, why) in [(13, b'x', "another name"), (kind, 97, "another type"), (5, 0, "no question")] {
            let mut answer = right.clone();
            answer[at] = byte;
            assert_eq!(asked.check([7, 9], &answer), None, "{why}");
        }
        assert!((0..sent.len()).all(|len| asked.check([7, 9], &right[..len]).is_none()));
    }

    #[test]
    fn who_asked_gets_its_own_number_and_no_more_than_it_takes() {
        for (opt, takes) in [(vec![], 512), (opt(700), 700), (opt(100), 512), (opt(9000), 1232)] {
            let asked = Asked::read(&question("www.example.org", AAAA, &opt)).unwrap();
            let sent = asked.numbered([7, 9]);
            let fits = answer_to(&sent, takes - sent.len());
            assert_eq!(asked.answer(fits.clone(), true)[..4], [0x12, 0x34, 0x81, 0x80]);
            assert_eq!(asked.answer(fits.clone(), true)[4..], fits[4..]);
            let long = answer_to(&sent, takes + 1 - sent.len());
            assert_eq!(asked.answer(long.clone(), false).len(), takes + 1, "by TCP all of it");
            let cut = asked.answer(long, true);
            assert_eq!(cut[..12], [0x12, 0x34, 0x83, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
            assert_eq!(cut[12..], question("www.example.org", AAAA, &[])[12..]);
            let failed = asked.failed();
            assert_eq!(failed[..4], [0x12, 0x34, 0x81, 0x82]);
            assert_eq!(failed[4..], cut[4..]);
        }
    }

    /// What is said of `www.example.org`: a code, and records of a type with so many seconds and this data, in answers and authorities.
    fn said(asked: &Asked, code: u8, answers: &[(u16, u32, &[u8])], authorities: &[(u16, u32, &[u8])]) -> Vec<u8> {
        let mut message = asked.numbered([7, 9]);
        message.truncate(asked.end);
        let count = |records: &[(u16, u32, &[u8])]| u8::try_from(records.len()).unwrap();
        (message[2], message[3], message[7], message[9], message[11]) =
            (0x81, 0x80 | code, count(answers), count(authorities), 1);
        for (kind, ttl, data) in [answers, authorities].concat() {
            message.extend([0xc0, 0x0c]);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1]);
            message.extend(ttl.to_be_bytes());
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(data);
        }
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        message
    }

    /// Who answers for a zone, and how long a no holds.
    fn soa(minimum: u32) -> Vec<u8> {
        let mut data = vec![0, 0];
        for number in [1, 3600, 600, 86_400, minimum] {
            data.extend(u32::to_be_bytes(number));
        }
        data
    }

    #[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn an_answer_is_kept_as_long_as_it_says_and_says_less_and_less() {
        let (now, mut cache) = (start(), Cache::default());
        let after = |seconds| now + Duration::from_secs(seconds);
        let asked = Asked::read(&question("www.example.org", AAAA, &opt(4096))).unwrap();
        let right = said(&asked, 0, &[(5, 90, &[0]), (AAAA, 60, &[9; 16])], &[]);
        cache.keep(now, &asked, &right);
        // Others ask with other letters and numbers.
        let mut again = question("WWW.example.org", AAAA, &opt(1232));
        again[0] = 0x77;
        let again = Asked::read(&again).unwrap();
        let told = cache.answer(after(25), &again, true).unwrap();
        assert_eq!(told[..2], [0x77, 0x34]);
        assert_eq!(told[HEADER_LEN..][..4], *b"\x03WWW");
        let ttls: Vec<u32> = records(&told, again.end).unwrap().iter().map(|record| record.ttl).collect();
        assert_eq!((ttls, told.len()), (vec![65, 35], right.len()));
        assert!(cache.answer(after(59), &again, true).is_some() && cache.answer(after(60), &again, true).is_none());
        // Other questions are others: another type, and no wish for signatures.
        for other in [question("www.example.org", 1, &opt(4096)), question("www.example.org", AAAA, &[])] {
            assert_eq!(cache.answer(now, &Asked::read(&other).unwrap(), true), None);
        }
    }

    #[test]
    fn a_no_is_kept_as_long_as_its_zone_says_and_what_says_nothing_not_at_all() {
        let now = start();
        let asked = Asked::read(&question("www.example.org", AAAA, &[])).unwrap();
        let kept = |answer: &[u8]| {
            let mut cache = Cache::default();
            cache.keep(now, &asked, answer);
            (0..4000).find(|seconds| cache.answer(now + Duration::from_secs(*seconds), &asked, true).is_none()).unwrap()
        };
        let address: (u16, u32, &[u8]) = (AAAA, 7200, &[9; 16]);
        let (long, short) = (soa(900), soa(40));
        for (why, answer, seconds) in [
            ("a day", said(&asked, 0, &[address], &[]), 3600),
            ("no such name", said(&asked, 3, &[], &[(SOA, 60, &short)]), 40),
            ("the zone's own time is shorter", said(&asked, 3, &[], &[(SOA, 30, &short)]), 30),
            ("no such type", said(&asked, 0, &[], &[(SOA, 900, &long)]), 300),
            ("an alias of nothing", said(&asked, 0, &[(5, 900, &[0])], &[(SOA, 900, &short)]), 40),
            ("nobody says how long", said(&asked, 3, &[], &[]), 0),
            ("nor here", said(&asked, 3, &[], &[(2, 60, &[0])]), 0),
            ("not at all", said(&asked, 0, &[(AAAA, 0, &[9; 16]), address], &[]), 0),
            ("less than nothing", said(&asked, 0, &[(AAAA, 1 << 31, &[9; 16])], &[]), 0),
            ("a failure", said(&asked, FAILED, &[], &[(SOA, 60, &short)]), 0),
            ("refused", said(&asked, 5, &[], &[(SOA, 60, &short)]), 0),
            ("something follows", [said(&asked, 0, &[address], &[]), vec![0]].concat(), 0),
            ("too long", said(&asked, 0, &[address, (16, 60, &[7; KEPT_LENGTH_MAX])], &[]), 0),
        ] {
            assert_eq!(kept(&answer), seconds, "{why}");
            // What is cut anywhere is not kept, and not read either.
            assert!((asked.end..answer.len()).all(|len| seconds == 0 || kept(&answer[..len]) == 0), "{why}");
        }
        let mut cut = said(&asked, 0, &[address], &[]);
        cut[2] |= CUT_OFF;
        assert_eq!(kept(&cut), 0, "cut off");
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_ends_soonest_makes_room() {
        let (now, mut cache) = (start(), Cache::default());
        let asked = |n: u32| Asked::read(&question(&format!("x{n}.example.org"), AAAA, &[])).unwrap();
        for n in 0..2000 {
            let asked = asked(n);
            cache.keep(now, &asked, &said(&asked, 0, &[(AAAA, 60 + n, &[9; 16])], &[]));
            assert!(cache.len() <= KEPT_MAX);
        }
        let known = |n: u32| cache.answer(now, &asked(n), true).is_some();
        assert!(known(1999) && known(1999 - 255) && !known(1999 - 256) && !cache.is_empty());
    }

    #[test]
    fn hostile_messages_are_survived() {
        let mut rng = fastrand::Rng::with_seed(9);
        for _ in 0..100_000 {
            let mut message = question("www.example.org", rng.u16(..), &opt(rng.u16(..)));
            for _ in 0..rng.usize(0..5) {
                let at = rng.usize(0..message.len());
                message[at] = rng.u8(..);
            }
            let Some(asked) = Asked::read(&message) else { continue };
            let mut answer = answer_to(&asked.numbered([1, 2]), rng.usize(0..1500));
            for _ in 0..rng.usize(0..5) {
                let at = rng.usize(0..answer.len());
                answer[at] = rng.u8(..);
            }
            answer.truncate(rng.usize(0..=answer.len()));
            let _any = asked.check([1, 2], &answer);
            let mut cache = Cache::default();
            cache.keep(start(), &asked, &answer);
            let _any = (cache.answer(start(), &asked, true), asked.screen(answer.clone(), &[]), is_unwilling(&answer));
            assert!(asked.answer(answer, true).len() <= UDP_LENGTH_MAX);
        }
    }
}
