//! Names inside the mesh: what a small authoritative DNS server for `mesh.` answers (RFC 1035, RFC 2308, RFC 3596).
//!
//! `NAME.mesh` is a node or a leaf, and has its IPv6 addresses; what stands before it (`www.NAME.mesh`) is the same machine. Back from
//! an address to its name lead the zones of unique local addresses (RFC 4193, RFC 6303), which nobody on the Internet has. Anything
//! else in these zones does not exist, and other zones are refused. A question is one name of plain labels: nothing is
//! decompressed, followed or asked of others, and an answer is at most a few hundred bytes.

use std::net::Ipv6Addr;

use metering::SortedMap;

/// The longest question that is read.
pub const QUESTION_LENGTH_MAX: usize = 512;

/// The zone of names.
const ZONE: &str = "mesh";
/// Zones for the way back, last label first, down to `fc` and `fd`.
const BACK: [&str; 3] = ["arpa", "ip6", "f"];
/// How long an answer may be kept, in seconds, be it yes or no: names come and go with a reload.
const TTL_S: u32 = 60;
/// Names, and addresses of each, that are kept.
const NAMES_MAX: usize = 4096;
const ADDRESSES_MAX: usize = 8;
/// What stands before the question (RFC 1035, section 4.1.1).
pub(crate) const HEADER_LEN: usize = 12;
/// The longest name, as it is sent (RFC 1035, section 2.3.4).
pub(crate) const NAME_LEN_MAX: usize = 255;
/// Where the question's name begins, as a compressed name says it.
const QUESTION_NAME: [u8; 2] = [0xc0, 0x0c];
const CLASS_IN: u16 = 1;
const ANY: u16 = 255;

/// Types of records (RFC 1035, section 3.2.2; RFC 3596).
const NS: u16 = 2;
pub(crate) const SOA: u16 = 6;
const PTR: u16 = 12;
pub(crate) const AAAA: u16 = 28;

/// Answers (RFC 1035, section 4.1.1).
const NO_ERROR: u8 = 0;
const MALFORMED: u8 = 1;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// The zone. Fill it with [`Names::add`], then ask [`Names::answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Who answers.
    server: String,
    known: SortedMap<String, Vec<Ipv6Addr>>,
    /// Whose an address is; of several names, the first that was added.
    back: SortedMap<Ipv6Addr, String>,
}

/// The name in front of the zone that a message asks for, in small letters, if it asks for one.
#[must_use]
pub fn asked(message: &[u8]) -> Option<String> {
    let Question { mut labels, .. } = Question::read(message)?;
    labels.pop().filter(|last| last == ZONE)?;
    labels.pop()
}

/// Whether an answer says that the name does not exist.
#[must_use]
pub fn denies(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|code| code & 0xf == NO_SUCH_NAME)
}

/// A record of the question's name: its type and its data.
type Record = (u16, Vec<u8>);

/// A question, as far as it was read.
pub(crate) struct Question<'a> {
    pub(crate) labels: Vec<String>,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    /// As it was asked, for the answer to repeat.
    pub(crate) bytes: &'a [u8],
}

impl Names {
    /// The zone of a server with this name and address.
    #[must_use]
    pub fn new(server: &str, address: Ipv6Addr) -> Self {
        let mut names = Self { server: server.to_ascii_lowercase(), known: SortedMap::new(), back: SortedMap::new() };
        names.add(server, &[address]);
        names
    }

    /// Takes a name in, unless somebody has it already. Whether it was taken.
    pub fn add(&mut self, name: &str, addresses: &[Ipv6Addr]) -> bool {
        let name = name.to_ascii_lowercase();
        let fits = (1..=63).contains(&name.len()) && !name.contains('.') && !addresses.is_empty();
        if !fits || self.known.len() >= NAMES_MAX || self.known.contains_key(&name) {
            return false;
        }
        let addresses: Vec<Ipv6Addr> = addresses.iter().copied().take(ADDRESSES_MAX).collect();
        for address in &addresses {
            self.back.entry(*address).or_insert_with(|| name.clone());
        }
        self.known.insert(name, addresses);
        true
    }

    /// All names with their addresses, without the zone's.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Ipv6Addr])> {
        self.known.iter().map(|(name, addresses)| (name.as_str(), addresses.as_slice()))
    }

    /// The answer to a message. `None`: it is none that is answered at all.
    #[must_use]
    pub fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let header: [u8; HEADER_LEN] = *message.first_chunk()?;
        let is_answer = header[2] & 0x80 != 0;
        if is_answer || message.len() > QUESTION_LENGTH_MAX {
            return None;
        }
        let opcode = header[2] >> 3 & 0xf;
        if opcode != 0 {
            return Some(self.reply(&header, NOT_IMPLEMENTED, &[], None));
        }
        let counts: Vec<u16> = header[4..].chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        // One question; a record beside it may say how long an answer may be (RFC 6891), and all of ours are short.
        let question = if counts[..3] == [1, 0, 0] { Question::read(message) } else { None };
        let Some(question) = question else { return Some(self.reply(&header, MALFORMED, &[], None)) };
        Some(self.answer_question(&header, &question))
    }

    fn answer_question(&self, header: &[u8; HEADER_LEN], question: &Question<'_>) -> Vec<u8> {
        let of_zone = question.labels.last().is_some_and(|last| last == ZONE);
        if ![CLASS_IN, ANY].contains(&question.class) {
            return self.reply(header, REFUSED, &[], Some((question, &[])));
        }
        let asks = |kind: u16| question.kind == kind || question.kind == ANY;
        if !of_zone {
            let Some((zone, span)) = back(&question.labels) else {
                return self.reply(header, REFUSED, &[], Some((question, &[])));
            };
            let below = span.and_then(|(first, last)| Some((first == last, self.back.range(first..=last).next()?.1)));
            let (code, records) = match below {
                _ if question.labels.len() == zone.len() && asks(SOA) => (NO_ERROR, vec![(SOA, self.soa())]),
                Some((true, name)) if asks(PTR) => (NO_ERROR, vec![(PTR, labels(&[name, ZONE]))]),
                None if question.labels.len() > zone.len() => (NO_SUCH_NAME, Vec::new()),
                Some(_) | None => (NO_ERROR, Vec::new()),
            };
            return self.reply(header, code, &zone, Some((question, &records)));
        }
        let Some(name) = question.labels.len().checked_sub(2).and_then(|index| question.labels.get(index)) else {
            let soa = if asks(SOA) { vec![(SOA, self.soa())] } else { Vec::new() };
            let ns = if asks(NS) { vec![(NS, self.server_name())] } else { Vec::new() };
            return self.reply(header, NO_ERROR, &[ZONE], Some((question, &[soa, ns].concat())));
        };
        let Some(addresses) = self.known.get(name) else {
            return self.reply(header, NO_SUCH_NAME, &[ZONE], Some((question, &[])));
        };
        let records: Vec<Record> = match asks(AAAA) {
            true => addresses.iter().map(|address| (AAAA, address.octets().to_vec())).collect(),
            false => Vec::new(),
        };
        self.reply(header, NO_ERROR, &[ZONE], Some((question, &records)))
    }

    /// A message; where there are no records, with what says how long that is so (RFC 2308).
    fn reply(
        &self,
        header: &[u8; HEADER_LEN],
        code: u8,
        zone: &[&str],
        answer: Option<(&Question<'_>, &[Record])>,
    ) -> Vec<u8> {
        let of_zone = code == NO_ERROR || code == NO_SUCH_NAME;
        let authoritative = if of_zone { 0x04 } else { 0 };
        // What was asked, and whether others should be, stays as it was.
        let mut message = vec![header[0], header[1], 0x80 | header[2] & 0x79 | authoritative, code];
        let records = answer.map_or(&[][..], |(_, records)| records);
        let negative = of_zone && records.is_empty();
        let count = |count: usize| u16::try_from(count).unwrap_or(0).to_be_bytes();
        for section in [usize::from(answer.is_some()), records.len(), usize::from(negative), 0] {
            message.extend(count(section));
        }
        let Some((question, records)) = answer else { return message };
        message.extend(question.bytes);
        for (kind, data) in records {
            push_record(&mut message, &QUESTION_NAME, *kind, data);
        }
        if negative {
            push_record(&mut message, &labels(zone), SOA, &self.soa());
        }
        message
    }

    fn server_name(&self) -> Vec<u8> {
        labels(&[&self.server, ZONE])
    }

    /// Who answers, for how long a no holds, and numbers for secondary servers, of which there are none.
    fn soa(&self) -> Vec<u8> {
        let mut data = [self.server_name(), labels(&["hostmaster", &self.server, ZONE])].concat();
        for number in [1, 3600, 600, 86_400, TTL_S] {
            data.extend(number.to_be_bytes());
        }
        data
    }
}

/// The zone of unique local addresses that a name for the way back is in, and the first and the last address that stand below it;
/// `None`: what no address can be.
#[expect(clippy::type_complexity, reason = "one place makes it and one takes it apart")]
fn back(labels: &[String]) -> Option<([&'static str; 4], Option<(Ipv6Addr, Ipv6Addr)>)> {
    let mut nibbles = labels.iter().rev().map(String::as_str);
    if !BACK.iter().all(|label| nibbles.next() == Some(label)) {
        return None;
    }
    let (half, start) = match nibbles.next()? {
        "c" => ("c", 0xfc_u128 << 120),
        "d" => ("d", 0xfd << 120),
        _ => return None,
    };
    let span = nibbles.try_fold((start, 120_u32), |(first, shift), label| {
        let digit = u128::from_str_radix(label, 16).ok().filter(|_| label.len() == 1)?;
        let shift = shift.checked_sub(4)?;
        Some((first | digit << shift, shift))
    });
    let span = span.map(|(first, shift)| (first.into(), (first | ((1 << shift) - 1)).into()));
    Some(([half, "f", "ip6", "arpa"], span))
}

fn push_record(message: &mut Vec<u8>, name: &[u8], kind: u16, data: &[u8]) {
    message.extend(name);
    message.extend(kind.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message.extend(TTL_S.to_be_bytes());
    message.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    message.extend(data);
}

/// A name as it is sent.
fn labels(labels: &[&str]) -> Vec<u8> {
    let mut name = Vec::new();
    for label in labels {
        name.push(u8::try_from(label.len()).unwrap_or(0));
        name.extend(label.as_bytes());
    }
    name.push(0);
    name
}

impl<'a> Question<'a> {
    /// The first question behind the header; plain labels alone.
    pub(crate) fn read(message: &'a [u8]) -> Option<Self> {
        let all = message.get(HEADER_LEN..)?;
        let (mut rest, mut labels) = (all, Vec::new());
        loop {
            let (length, after) = rest.split_first()?;
            match usize::from(*length) {
                0 => {
                    rest = after;
                    break;
                }
                // Longer ones are pointers, which no question needs.
                length @ 1..=63 => {
                    let label = String::from_utf8_lossy(after.get(..length)?).to_ascii_lowercase();
                    labels.push(label);
                    rest = after.get(length..)?;
                }
                _ => return None,
            }
            if all.len() - rest.len() >= NAME_LEN_MAX {
                return None;
            }
        }
        let &[a, b, c, d, ..] = rest else { return None };
        let bytes = all.get(..all.len() - rest.len() + 4)?;
        Some(Self { labels, kind: u16::from_be_bytes([a, b]), class: u16::from_be_bytes([c, d]), bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Names {
        let mut names = Names::new("Roof", "fd00::1".parse().unwrap());
        assert!(names.add("attic", &["fd00::2".parse().unwrap(), "fd00::3".parse().unwrap()]));
        names
    }

    fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(labels(&name.split('.').filter(|label| !label.is_empty()).collect::<Vec<_>>()));
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message
    }

    /// Code, answers, authorities and the whole message.
    fn ask(name: &str, kind: u16) -> (u8, u8, u8, Vec<u8>) {
        let message = zone().answer(&question(name, kind)).unwrap();
        assert_eq!(&message[..2], &[0x12, 0x34]);
        assert_eq!(message[2] & 0x81, 0x81, "an answer, and recursion was wished for");
        (message[3], message[7], message[9], message)
    }

    #[test]
    fn a_node_has_its_addresses_whatever_stands_before_its_name() {
        for name in ["attic.mesh", "ATTIC.Mesh", "www.attic.mesh", "a.b.attic.mesh."] {
            let (code, answers, authorities, message) = ask(name, AAAA);
            assert_eq!((code, answers, authorities, message[2] & 0x04), (NO_ERROR, 2, 0, 0x04), "{name}");
            let address: Ipv6Addr = "fd00::3".parse().unwrap();
            assert!(message.ends_with(&address.octets()));
        }
        assert_eq!(ask("roof.mesh", AAAA).1, 1);
        assert_eq!(ask("roof.mesh", ANY).1, 1);
    }

    #[test]
    fn what_there_is_not_is_denied_with_the_zones_soa() {
        let (code, answers, authorities, message) = ask("cellar.mesh", AAAA);
        assert_eq!((code, answers, authorities), (NO_SUCH_NAME, 0, 1));
        assert!(message.ends_with(&TTL_S.to_be_bytes()));
        let (code, answers, authorities, _) = ask("attic.mesh", 1);
        assert_eq!((code, answers, authorities), (NO_ERROR, 0, 1), "no IPv4 address, but the name is there");
        assert_eq!(ask("mesh", SOA).1, 1);
        assert_eq!(ask("mesh", NS).1, 1);
        assert_eq!((ask("mesh", AAAA).0, ask("mesh", AAAA).2), (NO_ERROR, 1));
    }

    #[test]
    fn what_was_asked_for_is_told_of_the_zone_alone_and_what_was_denied_of_names_alone() {
        let name = |name: &str| asked(&question(name, AAAA));
        assert_eq!(name("www.ATTIC.mesh").as_deref(), Some("attic"));
        for other in ["mesh", "", "attic", "example.org"] {
            assert_eq!(name(other), None, "{other}");
        }
        assert!(denies(&ask("cellar.mesh", AAAA).3));
        for other in ["attic.mesh", "mesh", "example.org"] {
            assert!(!denies(&ask(other, AAAA).3), "{other}");
        }
        assert!(!denies(&[]));
        let whole = question("attic.mesh", AAAA);
        assert!((0..whole.len()).all(|len| asked(&whole[..len]).is_none()));
    }

    #[test]
    fn other_zones_are_refused() {
        for name in ["example.org", "attic", "", "mesh.example"] {
            let (code, answers, authorities, message) = ask(name, AAAA);
            assert_eq!((code, answers, authorities, message[2] & 0x04), (REFUSED, 0, 0, 0), "{name}");
        }
    }

    fn back_from(address: &str) -> String {
        let octets = address.parse::<Ipv6Addr>().unwrap().octets();
        let nibbles = octets.iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 0xf, octet >> 4));
        nibbles.collect::<String>() + "ip6.arpa"
    }

    #[test]
    fn an_address_of_the_mesh_leads_back_to_its_name_and_others_of_its_kind_to_none() {
        let (code, answers, authorities, message) = ask(&back_from("fd00::3"), PTR);
        assert_eq!((code, answers, authorities, message[2] & 0x04), (NO_ERROR, 1, 0, 0x04));
        assert!(message.ends_with(&labels(&["attic", ZONE])));
        assert_eq!(ask(&back_from("fd00::1"), ANY).1, 1);
        assert_eq!(ask(&back_from("fd00::1").to_uppercase(), PTR).1, 1);
        let no_type = ask(&back_from("fd00::3"), AAAA);
        assert_eq!((no_type.0, no_type.1, no_type.2), (NO_ERROR, 0, 1));
        for nobody in ["fd00::4", "fd12:3456:789a::1", "fc00::3", "fc12::7"] {
            let (code, answers, authorities, message) = ask(&back_from(nobody), PTR);
            assert_eq!((code, answers, authorities), (NO_SUCH_NAME, 0, 1), "{nobody}");
            assert!(denies(&message) && asked(&question(&back_from(nobody), PTR)).is_none());
        }
        // Above an address there is something, and below it there is nothing.
        let address = back_from("fd00::3");
        for above in [&address[2..], &address[40..], "0.d.f.ip6.arpa", "d.f.ip6.arpa"] {
            assert_eq!((ask(above, PTR).0, ask(above, PTR).2), (NO_ERROR, 1), "{above}");
        }
        for nothing in [
            &format!("1.{address}")[..],
            &format!("x.{address}"),
            "10.d.f.ip6.arpa",
            "+.d.f.ip6.arpa",
            "1.d.f.ip6.arpa",
        ] {
            assert_eq!(ask(nothing, PTR).0, NO_SUCH_NAME, "{nothing}");
        }
        assert_eq!(ask("d.f.ip6.arpa", SOA).1, 1);
        for other in ["8.b.d.0.1.0.0.2.ip6.arpa", "f.ip6.arpa", "e.f.ip6.arpa", "ip6.arpa", "7.2.0.192.in-addr.arpa"] {
            assert_eq!(ask(other, PTR).0, REFUSED, "{other}");
        }
    }

    #[test]
    fn a_name_is_taken_once() {
        let mut names = zone();
        assert!(!names.add("ATTIC", &["fd00::9".parse().unwrap()]));
        assert!(!names.add("a.b", &["fd00::9".parse().unwrap()]) && !names.add("", &["fd00::9".parse().unwrap()]));
        assert!(!names.add("nowhere", &[]));
        assert_eq!(names.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["attic", "roof"]);
    }

    #[test]
    fn hostile_messages_are_dropped_or_refused_and_answers_stay_short() {
        let names = zone();
        let whole = question("attic.mesh", AAAA);
        for cut in 0..whole.len() {
            let code = names.answer(&whole[..cut]).map(|answer| answer[3]);
            assert_eq!(code, (cut >= HEADER_LEN).then_some(MALFORMED), "{cut}");
        }
        let mut loops = whole.clone();
        loops[HEADER_LEN..HEADER_LEN + 2].copy_from_slice(&QUESTION_NAME);
        assert_eq!(names.answer(&loops).unwrap()[3], MALFORMED, "a name that points at itself");
        let long = question(&"x.".repeat(130), AAAA);
        assert_eq!(names.answer(&long).unwrap()[3], MALFORMED, "a name of more than 255 bytes");
        assert_eq!(names.answer(&vec![0; 600]), None);
        let mut answer = whole.clone();
        answer[2] |= 0x80;
        assert_eq!(names.answer(&answer), None, "answers are not answered");
        let mut update = whole.clone();
        update[2] = 5 << 3;
        assert_eq!(names.answer(&update).unwrap()[3], NOT_IMPLEMENTED);
        let mut two = whole;
        two[5] = 2;
        assert_eq!(names.answer(&two).unwrap()[3], MALFORMED);
        // Anything at all, from a fixed seed.
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..200_000 {
            let name = ["attic.mesh", "mesh", "x.org", "1.0.d.f.ip6.arpa"][random.usize(0..4)];
            let mut message = question(name, random.u16(0..40));
            for _ in 0..random.usize(0..6) {
                let at = random.usize(0..message.len());
                message[at] = random.u8(..);
            }
            let _name = asked(&message);
            if let Some(answer) = names.answer(&message) {
                assert!(answer.len() <= message.len() + 160, "{message:?}");
            }
        }
    }
}
