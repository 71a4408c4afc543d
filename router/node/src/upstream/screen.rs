//! What of a name server's answer whoever asked is told: what follows from the question, and nothing that leads into the house.
//!
//! A name out there that says an address of the house makes a page from out there one of the house's own for a browser (DNS
//! rebinding). Name servers of the Internet have no business with such addresses, but for names that the owner wrote down.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Asked, OPT, name_end, record_at};
use crate::names::{AAAA, HEADER_LEN, NAME_LEN_MAX};

/// Aliases behind a question: more than resolvers follow.
const ALIASES_MAX: usize = 16;
const A: u16 = 1;
const CNAME: u16 = 5;
const DNAME: u16 = 39;
const RRSIG: u16 = 46;
/// How a service is reached, which may say addresses (RFC 9460): the types, and the keys of addresses of both families.
const SERVICE: [u16; 2] = [64, 65];
const IPV4_HINT: u16 = 4;
const IPV6_HINT: u16 = 6;

/// Why an answer is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It cannot be read, or it speaks of other names than was asked for.
    Strange,
    /// It says an address that is none out there.
    Rebinding,
}

impl Asked {
    /// Looks through an answer that [`Asked::check`] found right and whole. What is left of it: answers of the name asked for and
    /// of what that is an alias of, and who says so. Names within `private` may have addresses of the house.
    pub fn screen(&self, mut answer: Vec<u8>, private: &[String]) -> Result<Vec<u8>, Unfit> {
        let name = self.message[HEADER_LEN..self.name_end].to_ascii_lowercase();
        let rest = said_by(&answer, self.end, name.clone()).ok_or(Unfit::Strange)?;
        if rest.rebinds && !private.iter().any(|zone| is_within(&name, &wire(zone))) {
            return Err(Unfit::Rebinding);
        }
        // What else servers say is for other servers; of it the record about the message is left.
        answer.truncate(rest.end);
        answer.extend(&rest.opt);
        answer[HEADER_LEN - 2..HEADER_LEN].copy_from_slice(&[0, u8::from(!rest.opt.is_empty())]);
        Ok(answer)
    }

    /// What whoever asked is told in place of [`Unfit::Rebinding`]: there is no such address.
    #[must_use]
    pub fn nothing(&self) -> Vec<u8> {
        self.said(0)
    }
}

/// Whether a server says that it cannot or will not: another one may.
#[must_use]
pub fn is_unwilling(answer: &[u8]) -> bool {
    // SERVFAIL, NOTIMP, REFUSED.
    answer.get(3).is_some_and(|code| [2, 4, 5].contains(&(code & 0xf)))
}

struct Said {
    /// Where what is said in answers and by authorities ends.
    end: usize,
    rebinds: bool,
    opt: Vec<u8>,
}

/// `None`: it cannot be read, or speaks of others.
fn said_by(message: &[u8], question_end: usize, name: Vec<u8>) -> Option<Said> {
    let count = |at: usize| Some(usize::from(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?])));
    let (mut said, mut answers) = (Said { end: question_end, rebinds: false, opt: Vec::new() }, Vec::new());
    let (of_answers, of_authorities) = (count(6)?, count(8)?);
    let mut at = question_end;
    for nth in 0..of_answers + of_authorities + count(10)? {
        let (owner, record) = (at, record_at(message, name_end(message, at)?)?);
        at = record.data.end;
        if nth < of_answers + of_authorities {
            said.end = at;
            said.rebinds |= says_inside(record.kind, &message[record.data.clone()]);
        } else if record.kind == u16::from(OPT[2]) && message[owner] == 0 {
            said.opt = message[owner..at].to_vec();
        }
        if nth < of_answers {
            answers.push((name_at(message, owner)?, record));
        }
    }
    let mut names = vec![name];
    // Each round finds a name that all before are aliases for; what is left then is of somebody else.
    while !answers.is_empty() {
        let (of_these, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(owner, record)| {
            let above = [DNAME, RRSIG].contains(&record.kind);
            names.iter().any(|name| name == owner || above && is_within(name, owner))
        });
        if of_these.is_empty() || names.len() > ALIASES_MAX {
            return None;
        }
        for (_, record) in of_these.iter().filter(|(_, record)| record.kind == CNAME).take(ALIASES_MAX) {
            names.push(name_at(message, record.data.start)?);
        }
        answers = others;
    }
    Some(said)
}

/// A name, wherever it goes on, in small letters and as it is sent. One that leads forth or in a circle is none.
fn name_at(message: &[u8], mut at: usize) -> Option<Vec<u8>> {
    let (mut name, mut before) = (Vec::new(), at);
    loop {
        let length = *message.get(at)?;
        match length {
            0..=63 => {
                let end = at + 1 + usize::from(length);
                name.extend(message.get(at..end)?.to_ascii_lowercase());
                if length == 0 || name.len() > NAME_LEN_MAX {
                    return (name.len() <= NAME_LEN_MAX).then_some(name);
                }
                at = end;
            }
            0xc0.. => {
                at = usize::from(u16::from_be_bytes([length & 0x3f, *message.get(at + 1)?]));
                if at >= before {
                    return None;
                }
                before = at;
            }
            _ => return None,
        }
    }
}

/// Whether a name is this one or below it, both as they are sent.
fn is_within(mut name: &[u8], zone: &[u8]) -> bool {
    while name != zone {
        let below = name.first().filter(|length| **length > 0).and_then(|length| name.get(1 + usize::from(*length)..));
        let Some(below) = below else { return false };
        name = below;
    }
    true
}

/// A name of the config file as it is sent.
fn wire(name: &str) -> Vec<u8> {
    let name = name.to_ascii_lowercase();
    let labels = name.split('.').map(str::as_bytes);
    labels.flat_map(|label| [&[label.len() as u8][..], label].concat()).chain([0]).collect()
}

/// Whether a record says an address that leads into the house, the mesh or this machine.
fn says_inside(kind: u16, data: &[u8]) -> bool {
    let (fours, sixteens) = (
        |data: &[u8]| data.as_chunks().0.iter().any(|octets: &[u8; 4]| is_inside((*octets).into())),
        |data: &[u8]| data.as_chunks().0.iter().any(|octets: &[u8; 16]| is_inside_v6((*octets).into())),
    );
    match kind {
        A => fours(data),
        AAAA => sixteens(data),
        _ if SERVICE.contains(&kind) => {
            let mut rest = name_end(data, 2).and_then(|end| data.get(end..)).unwrap_or_default();
            while let Some(([a, b, c, d], after)) = rest.split_first_chunk() {
                let Some((value, others)) = after.split_at_checked(u16::from_be_bytes([*c, *d]).into()) else { break };
                rest = others;
                match u16::from_be_bytes([*a, *b]) {
                    IPV4_HINT if fours(value) => return true,
                    IPV6_HINT if sixteens(value) => return true,
                    _ => {}
                }
            }
            false
        }
        _ => false,
    }
}

/// RFC 1918, RFC 6598, RFC 3927, this machine, what Linux takes for it, and what is of no one machine.
fn is_inside(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    ip.is_private() || ip.is_link_local() || [0, 127].contains(&a) || (a == 100 && b & 0xc0 == 64) || a >= 224
}

/// Unique local ones, among them the mesh's, link-local and site-local ones, this machine, and those that an IPv4 address is in.
fn is_inside_v6(ip: Ipv6Addr) -> bool {
    let [first @ .., e, f] = ip.segments();
    let [a, b] = e.to_be_bytes();
    let [c, d] = f.to_be_bytes();
    match first {
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => {
            is_inside([a, b, c, d].into())
        }
        // Of a network's own NAT64, whose form only it knows (RFC 8215).
        [0x64, 0xff9b, 1, ..] => true,
        // 6to4 (RFC 3056).
        [0x2002, a, b, ..] => is_inside(Ipv4Addr::from(u32::from(a) << 16 | u32::from(b))),
        [first, ..] => first & 0xfe00 == 0xfc00 || first & 0xff80 == 0xfe80 || first & 0xff00 == 0xff00,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &[u8] = b"\x03www\x07example\x03org\0";

    fn asked(kind: u16) -> Asked {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend([NAME, &kind.to_be_bytes(), &[0, 1]].concat());
        Asked::read(&message).unwrap()
    }

    /// A record: whose, of which type, and what it says.
    type Says<'a> = (&'a [u8], u16, &'a [u8]);

    fn said(asked: &Asked, sections: [&[Says<'_>]; 3]) -> Vec<u8> {
        let mut message = asked.numbered([7, 9]);
        (message[2], message[3]) = (0x81, 0x80);
        for (nth, records) in sections.into_iter().enumerate() {
            message[7 + 2 * nth] = records.len() as u8;
            for (owner, kind, data) in records {
                message.extend([*owner, &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 60]].concat());
                message.extend([&(data.len() as u16).to_be_bytes(), *data].concat());
            }
        }
        message
    }

    fn octets(text: &str) -> Vec<u8> {
        match text.parse().unwrap() {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        }
    }

    const SELF: &[u8] = b"\xc0\x0c";

    #[test]
    fn addresses_of_the_house_the_mesh_and_the_machine_are_refused_but_for_names_of_the_owner() {
        let of = |text: &str| {
            let (data, kind) = (octets(text), if text.contains(':') { AAAA } else { A });
            let asked = asked(kind);
            let answer = said(&asked, [&[(SELF, kind, &data)], &[], &[]]);
            let screened = asked.screen(answer.clone(), &[]);
            let [private, other] = ["Example.org", "ample.org"].map(|zone| [zone.to_owned()]);
            assert_eq!(asked.screen(answer.clone(), &private), Ok(answer.clone()), "{text}");
            assert_eq!(asked.screen(answer, &other), screened, "{text}");
            screened.map(drop)
        };
        for inside in [
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "127.0.0.1",
            "0.0.0.0",
            "169.254.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fd53:bcf5:19d6::1",
            "fc00::1",
            "::ffff:192.168.1.1",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "::ffff:127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b:1::909:909",
            "2002:c0a8:101::1",
            "ff02::fb",
            "224.0.0.251",
            "255.255.255.255",
        ] {
            assert_eq!(of(inside), Err(Unfit::Rebinding), "{inside}");
        }
        for outside in [
            "9.9.9.9",
            "172.32.0.1",
            "100.128.0.1",
            "192.169.0.1",
            "2001:db8::1",
            "::ffff:9.9.9.9",
            "64:ff9b::909:909",
            "2002:909:909::1",
            "fe00::1",
        ] {
            assert_eq!(of(outside), Ok(()), "{outside}");
        }
    }

    #[test]
    fn hints_of_services_are_addresses_too() {
        let asked = asked(SERVICE[1]);
        let service = |key: u8, value: &[u8]| {
            // Of the name itself, with a hint of protocols before it.
            let data = [&[0, 1, 0, 0, 1, 0, 3, 2, b'h', b'3', 0, key, 0, value.len() as u8][..], value].concat();
            asked.screen(said(&asked, [&[(SELF, SERVICE[1], &data)], &[], &[]]), &[]).map(drop)
        };
        assert_eq!(service(4, &octets("9.9.9.9")), Ok(()));
        assert_eq!(service(6, &octets("2001:db8::1")), Ok(()));
        assert_eq!(service(4, &[octets("9.9.9.9"), octets("10.0.0.1")].concat()), Err(Unfit::Rebinding));
        assert_eq!(service(6, &octets("fe80::1")), Err(Unfit::Rebinding));
    }

    #[test]
    fn records_of_other_names_than_follow_from_the_question_are_not_passed_on() {
        let (asked, address) = (asked(A), octets("9.9.9.9"));
        let fits = |records: &[Says<'_>]| asked.screen(said(&asked, [records, &[], &[]]), &[]).map(drop);
        let (first, second, other) = (&b"\x01a\x03net\0"[..], &b"\x01B\x03net\0"[..], &b"\x04bank\x03net\0"[..]);
        assert_eq!(fits(&[(b"\x03WWW\x07example\x03org\0", A, &address)]), Ok(()), "in any letters");
        assert_eq!(fits(&[(SELF, CNAME, first), (first, CNAME, second), (b"\x01b\x03net\0", A, &address)]), Ok(()));
        assert_eq!(
            fits(&[(second, A, &address), (first, CNAME, second), (SELF, CNAME, first)]),
            Ok(()),
            "in any order"
        );
        let renamed = b"\x03www\x01a\x03net\0";
        let dname: Says<'_> = (b"\x07example\x03org\0", DNAME, first);
        assert_eq!(fits(&[dname, (SELF, CNAME, renamed), (renamed, A, &address)]), Ok(()));
        for records in [
            &[(SELF, A, &address[..]), (other, A, &address)][..],
            &[(other, A, &address)],
            &[(SELF, CNAME, first), (other, A, &address)],
            &[(b"\x07example\x03org\0", A, &address)],
            &[(b"\x07xample\x03org\0", DNAME, first)],
            &[(b"\xc0\xff", A, &address)],
            &[(SELF, CNAME, b"\x01")],
        ] {
            assert_eq!(fits(records), Err(Unfit::Strange), "{records:?}");
        }
        // One more than is followed, the last first.
        let names: Vec<_> = (0..=ALIASES_MAX).map(|nth| vec![1, b'a' + nth as u8, 0]).collect();
        let mut long: Vec<Says<'_>> = names.windows(2).map(|pair| (&pair[0][..], CNAME, &pair[1][..])).collect();
        long.insert(0, (SELF, CNAME, &names[0]));
        long.reverse();
        assert_eq!(fits(&long), Err(Unfit::Strange));
        assert_eq!(fits(&long[1..]), Ok(()));
    }

    #[test]
    fn what_servers_say_besides_is_left_out_but_for_the_record_about_the_message() {
        let (asked, address) = (asked(A), octets("9.9.9.9"));
        let (other, inside) = (&b"\x02ns\xc0\x10"[..], octets("10.0.0.1"));
        let (answer, authority): (Says<'_>, Says<'_>) = ((SELF, A, &address), (b"\xc0\x10", 2, other));
        let opt: Says<'_> = (&[0], 41, &[]);
        let full = said(&asked, [&[answer], &[authority], &[(other, A, &inside), opt, (other, A, &inside)]]);
        let least = said(&asked, [&[answer], &[authority], &[opt]]);
        assert_eq!(asked.screen(full, &[]), Ok(least.clone()));
        assert_eq!(asked.screen(least.clone(), &[]), Ok(least));
        let within = said(&asked, [&[], &[(other, A, &inside)], &[]]);
        assert_eq!(asked.screen(within, &[]), Err(Unfit::Rebinding));
        let mut cut = said(&asked, [&[answer], &[], &[]]);
        cut[7] = 2;
        assert_eq!(asked.screen(cut, &[]), Err(Unfit::Strange));
        assert_eq!((asked.nothing()[3], asked.nothing().len()), (0x80, asked.failed().len()));
    }
}
