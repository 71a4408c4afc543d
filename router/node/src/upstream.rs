//! Questions of the own household for names outside of the mesh, as they are asked of a name server, and what counts as its
//! answer (RFC 1035, RFC 5452).
//!
//! [`Asked::read`] takes a question that is to be asked elsewhere; [`Asked::numbered`] is what to send, [`Asked::check`] looks at
//! what came back, and [`Asked::answer`] is what whoever asked is told. Of the question nothing is passed on but the name, its type
//! and whether signatures are wished for: not who asked.

use crate::names::{QUESTION_LENGTH_MAX, Question};

/// The longest answer that is taken by UDP: in one piece on every network (RFC 9715, and the DNS flag day of 2020).
pub const UDP_LENGTH_MAX: usize = 1232;
/// The longest that is taken by TCP.
pub const TCP_LENGTH_MAX: usize = 16 << 10;

/// What one who does not say how much it takes does take (RFC 1035, section 4.2.1).
const PLAIN_LENGTH_MAX: usize = 512;
const HEADER_LEN: usize = 12;
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
        let mut answer = self.message.clone();
        answer.truncate(self.end);
        answer[2..HEADER_LEN].copy_from_slice(&[0x80 | RECURSION_DESIRED, 0x80 | FAILED, 0, 1, 0, 0, 0, 0, 0, 0]);
        self.put_question(answer)
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

    const AAAA: u16 = 28;

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
            assert!(asked.answer(answer, true).len() <= UDP_LENGTH_MAX);
        }
    }
}
