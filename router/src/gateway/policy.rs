//! What the gateway's owner allows: hours, caps on bytes, and what is not carried.

use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::FromStr;

use metering::{SortedMap, WireguardKey};

/// Clients whose use is remembered. Beyond them, whoever used least this month is forgotten.
const CLIENTS_MAX: usize = 4096;

/// Hours of the day, UTC. They may go over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Minutes since midnight: open from here...
    pub(super) from: u16,
    /// ...until before here.
    pub(super) until: u16,
}

impl Hours {
    /// Whether they hold this minute of the day.
    #[must_use]
    pub fn hold(self, minute: u16) -> bool {
        if self.from < self.until {
            (self.from..self.until).contains(&minute)
        } else {
            minute >= self.from || minute < self.until
        }
    }
}

impl FromStr for Hours {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (from, until) = text.split_once('-').ok_or("this is not two times with a hyphen between")?;
        let (from, until) = (minute(from)?, minute(until)?);
        if from % 1440 == until % 1440 {
            return Err("this is either always or never; leave it out for always");
        }
        Ok(Self { from: from % 1440, until })
    }
}

fn minute(text: &str) -> Result<u16, &'static str> {
    const WRONG: &str = "a time is four digits with a colon between, such as 08:00";
    let (hour, minute) = text.split_once(':').filter(|_| text.len() == 5).ok_or(WRONG)?;
    let digits =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u16>().ok()).flatten();
    let (hour, minute) = (digits(hour).ok_or(WRONG)?, digits(minute).ok_or(WRONG)?);
    if hour > 24 || minute > 59 || (hour == 24 && minute > 0) {
        return Err("there is no such time of day");
    }
    Ok(hour * 60 + minute)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [from, until] = [self.from, self.until].map(|at| (at / 60, at % 60));
        write!(f, "{:02}:{:02}-{:02}:{:02} UTC", from.0, from.1, until.0, until.1)
    }
}

/// Bytes that are carried at most, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// For all clients, in a day.
    pub day: Option<u64>,
    /// For all clients, in a month.
    pub month: Option<u64>,
    /// For each client that is known, and for all together that are not, in a day.
    pub client_day: Option<u64>,
    /// The same, in a month.
    pub client_month: Option<u64>,
}

/// What a gateway does not carry: packets to some ports, to some addresses, or to some ports of some addresses. As people write
/// it: "tcp/25", "udp/6881-6999", "198.51.100.0/24", "udp/53@192.0.2.1".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotCarried {
    /// "tcp" or "udp", the first port and the last.
    ports: Option<(&'static str, u16, u16)>,
    /// A prefix: address and length.
    to: Option<(IpAddr, u8)>,
}

impl NotCarried {
    /// The condition as nftables has it, which counts what it holds for.
    pub(super) fn condition(self) -> String {
        let mut text = String::new();
        if let Some((to, len)) = self.to {
            let family = if to.is_ipv4() { "ip" } else { "ip6" };
            let _infallible = write!(text, "{family} daddr {to}/{len} ");
        }
        if let Some((transport, first, last)) = self.ports {
            let _infallible = write!(text, "{transport} dport {first}-{last} ");
        }
        text
    }
}

impl FromStr for NotCarried {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_ports = |text: &str| text.starts_with("tcp/") || text.starts_with("udp/");
        let (ports, to) = match text.split_once('@') {
            Some((ports, to)) => (Some(ports), Some(to)),
            None if is_ports(text) => (Some(text), None),
            None => (None, Some(text)),
        };
        Ok(Self { ports: ports.map(ports_of).transpose()?, to: to.map(prefix_of).transpose()? })
    }
}

fn ports_of(text: &str) -> Result<(&'static str, u16, u16), &'static str> {
    const WRONG: &str = "ports are tcp/PORT or udp/PORT, or tcp/FIRST-LAST";
    let (transport, ports) = text.split_once('/').ok_or(WRONG)?;
    let transport = ["tcp", "udp"].into_iter().find(|name| *name == transport).ok_or(WRONG)?;
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && !text.starts_with('+')).ok_or(WRONG);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (port(first)?, port(last)?);
    if first > last { Err("the first port is above the last") } else { Ok((transport, first, last)) }
}

fn prefix_of(text: &str) -> Result<(IpAddr, u8), &'static str> {
    const WRONG: &str = "this is neither ports, such as tcp/25, nor an address or prefix, such as 198.51.100.0/24";
    let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
    let address: IpAddr = address.parse().map_err(|_| WRONG)?;
    let (bits, all) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let len = len.map_or(Ok(all), |len| len.parse::<u8>().map_err(|_| WRONG))?;
    if len > all || len == 0 {
        return Err("the length of an IPv4 prefix is 1 to 32, of an IPv6 prefix 1 to 128");
    }
    let beyond = bits.checked_shl(len.into()).unwrap_or(0);
    if beyond == 0 { Ok((address, len)) } else { Err("this has bits beyond its length") }
}

impl fmt::Display for NotCarried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((transport, first, last)) = self.ports {
            write!(f, "{transport}/{first}")?;
            if first < last {
                write!(f, "-{last}")?;
            }
        }
        let Some((to, len)) = self.to else { return Ok(()) };
        if self.ports.is_some() {
            f.write_str("@")?;
        }
        let is_one = len == if to.is_ipv4() { 32 } else { 128 };
        if is_one { write!(f, "{to}") } else { write!(f, "{to}/{len}") }
    }
}

/// Whose caps those count against whom nobody knows: no key at all.
pub(super) const ANYBODY: WireguardKey = WireguardKey([0; 32]);

/// A moment as caps and hours count it, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Days since 1970-01-01.
    pub(super) day: u32,
    /// Months since the year 0.
    pub(super) month: u32,
    /// Minutes since midnight.
    pub(super) minute: u16,
}

/// Bytes used in the present day and month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    day: u64,
    month: u64,
}

impl Used {
    fn add(&mut self, bytes: u64) {
        self.day = self.day.saturating_add(bytes);
        self.month = self.month.saturating_add(bytes);
    }

    fn left(self, day: Option<u64>, month: Option<u64>) -> Option<u64> {
        let left = |cap: Option<u64>, used: u64| cap.map(|cap| cap.saturating_sub(used));
        [left(day, self.day), left(month, self.month)].into_iter().flatten().min()
    }
}

/// What was used, against the caps. It is written down now and then, and read at the next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    day: u32,
    month: u32,
    all: Used,
    clients: SortedMap<[u8; 32], Used>,
}

impl Usage {
    pub(super) fn new(now: Moment) -> Self {
        Self { day: now.day, month: now.month, all: Used::default(), clients: SortedMap::new() }
    }

    /// A new day or month begins with nothing used. The clock may have been set back: what is counted stays.
    pub(super) fn handle_time(&mut self, now: Moment) {
        if now.month > self.month {
            *self = Self::new(now);
        } else if now.day > self.day {
            self.day = now.day;
            self.all.day = 0;
            self.clients.values_mut().for_each(|used| used.day = 0);
        }
    }

    pub(super) fn add(&mut self, client: &WireguardKey, bytes: u64) {
        if self.clients.len() >= CLIENTS_MAX
            && !self.clients.contains_key(&client.0)
            && let Some(least) = self.clients.iter().min_by_key(|(_, used)| used.month).map(|(key, _)| *key)
        {
            self.clients.remove(&least);
        }
        self.clients.entry(client.0).or_default().add(bytes);
        self.all.add(bytes);
    }

    /// What a client may still use; `None` where nothing bounds it.
    pub(super) fn left(&self, client: &WireguardKey, caps: &Caps) -> Option<u64> {
        let own = self.clients.get(&client.0).copied().unwrap_or_default();
        let bounds = [own.left(caps.client_day, caps.client_month), self.left_of_all(caps)];
        bounds.into_iter().flatten().min()
    }

    /// What all clients together may still use.
    pub(super) fn left_of_all(&self, caps: &Caps) -> Option<u64> {
        self.all.left(caps.day, caps.month)
    }

    /// Lines to be written to a file.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("waybill gateway 1 {} {} {} {}\n", self.day, self.month, self.all.day, self.all.month);
        for (key, used) in &self.clients {
            let _infallible = writeln!(text, "{} {} {}", hex::encode(key), used.day, used.month);
        }
        text
    }

    /// What [`Usage::to_text`] wrote; `None` if it is not that.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut head = lines.next()?.strip_prefix("waybill gateway 1 ")?.split(' ');
        let mut next = || head.next()?.parse::<u64>().ok();
        let (day, month) = (u32::try_from(next()?).ok()?, u32::try_from(next()?).ok()?);
        let all = Used { day: next()?, month: next()? };
        let mut clients = SortedMap::new();
        for line in lines.take(CLIENTS_MAX) {
            let mut words = line.split(' ');
            let key: [u8; 32] = hex::decode(words.next()?).ok()?.try_into().ok()?;
            let used = Used { day: words.next()?.parse().ok()?, month: words.next()?.parse().ok()? };
            clients.insert(key, used);
        }
        Some(Self { day, month, all, clients })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: WireguardKey = WireguardKey([1; 32]);
    const OTHER: WireguardKey = WireguardKey([2; 32]);

    fn at(day: u32, month: u32) -> Moment {
        Moment { day, month, minute: 0 }
    }

    #[test]
    fn hours_may_go_over_midnight() {
        let hours = |text: &str| text.parse::<Hours>().unwrap();
        let day = hours("08:00-22:00");
        assert_eq!([479, 480, 1319, 1320].map(|minute| day.hold(minute)), [false, true, true, false]);
        let night = hours("22:00-06:30");
        assert_eq!(
            [0, 389, 390, 1319, 1320, 1439].map(|minute| night.hold(minute)),
            [true, true, false, false, true, true]
        );
        let evening = hours("18:00-24:00");
        assert_eq!([0, 1079, 1080, 1439].map(|minute| evening.hold(minute)), [false, false, true, true]);
        assert_eq!(hours("24:00-06:00"), hours("00:00-06:00"));
        assert_eq!(evening.to_string(), "18:00-24:00 UTC");
        for wrong in
            ["", "08:00", "8-22", "08:00-08:00", "00:00-24:00", "25:00-26:00", "08:60-09:00", "+8:00-09:00", "ü8:0-1"]
        {
            assert!(wrong.parse::<Hours>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_carried_is_written_as_people_do_and_read_back() {
        let read = |text: &str| text.parse::<NotCarried>();
        for (text, condition) in [
            ("tcp/25", "tcp dport 25-25 "),
            ("udp/6881-6999", "udp dport 6881-6999 "),
            ("198.51.100.0/24", "ip daddr 198.51.100.0/24 "),
            ("192.0.2.1", "ip daddr 192.0.2.1/32 "),
            ("udp/53@192.0.2.1", "ip daddr 192.0.2.1/32 udp dport 53-53 "),
            ("tcp/80@2001:db8::/32", "ip6 daddr 2001:db8::/32 tcp dport 80-80 "),
        ] {
            let what = read(text).unwrap();
            assert_eq!((what.condition().as_str(), what.to_string().as_str()), (condition, text));
        }
        assert_eq!(read("192.0.2.1/32").unwrap().to_string(), "192.0.2.1");
        for wrong in [
            "",
            "tcp",
            "tcp/",
            "tcp/0",
            "tcp/+25",
            "tcp/65536",
            "tcp/30-20",
            "sctp/5",
            "tcp/25@",
            "@192.0.2.1",
            "192.0.2.1/24",
            "0.0.0.0/0",
            "::/0",
            "192.0.2.0/33",
            "2001:db8::/129",
            "25",
            "smtp",
            "tcp/25; drop",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_nearest_cap_counts_and_days_and_months_begin_anew() {
        let caps = Caps { day: Some(1000), month: Some(5000), client_day: Some(600), client_month: Some(700) };
        let mut usage = Usage::new(at(10, 3));
        assert_eq!(usage.left(&KEY, &caps), Some(600));
        usage.add(&KEY, 500);
        assert_eq!((usage.left(&KEY, &caps), usage.left(&OTHER, &caps)), (Some(100), Some(500)));
        usage.add(&OTHER, 450);
        assert_eq!((usage.left(&KEY, &caps), usage.left(&OTHER, &caps)), (Some(50), Some(50)));
        usage.handle_time(at(11, 3));
        assert_eq!((usage.left(&KEY, &caps), usage.left(&OTHER, &caps)), (Some(200), Some(250)));
        usage.handle_time(at(9, 2));
        usage.add(&KEY, u64::MAX);
        assert_eq!(usage.left(&KEY, &caps), Some(0), "a clock that is set back gives nothing");
        usage.handle_time(at(40, 4));
        assert_eq!(usage.left(&KEY, &caps), Some(600));
        assert_eq!(usage.left(&KEY, &Caps::default()), None);
    }

    #[test]
    fn what_was_used_is_read_back_and_nothing_else_is() {
        let mut usage = Usage::new(at(20_000, 24_323));
        usage.add(&KEY, 5);
        usage.handle_time(at(20_001, 24_323));
        usage.add(&OTHER, 7);
        let text = usage.to_text();
        assert_eq!(Usage::from_text(&text), Some(usage));
        for wrong in ["", "waybill gateway 2 1 1 1 1", "waybill gateway 1 1 1 1", &format!("{text}zz 1 1")] {
            assert_eq!(Usage::from_text(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn of_too_many_clients_those_that_used_least_are_forgotten() {
        let mut usage = Usage::new(at(1, 1));
        for number in 0..=CLIENTS_MAX {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(number as u64).to_be_bytes());
            usage.add(&WireguardKey(key), 10 + number as u64);
        }
        assert_eq!(usage.clients.len(), CLIENTS_MAX);
        assert!(!usage.clients.contains_key(&[0; 32]));
    }
}
