//! Machines that route, by our speaker, by babeld or by BIRD: told the same things and asked the same questions.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Background, Host, Lab, now, secs, until};

/// Who routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Babeld,
    Bird,
}

/// A machine, its addresses and its routing daemon.
pub(crate) struct Machine {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) host: Host,
    /// Its own address, which it announces as a /128.
    pub(crate) address: String,
    /// The interfaces the daemon runs on, each with options in its own words.
    interfaces: Vec<(String, String)>,
    /// Further options of the daemon, in its own words.
    pub(crate) options: Vec<String>,
    dir: PathBuf,
    daemon: Option<Background>,
}

/// A route in use, as its daemon sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) interface: String,
    pub(crate) next_hop: String,
    pub(crate) metric: u32,
    /// Ours alone know prices.
    pub(crate) price: Option<u64>,
}

/// A neighbour, as a daemon sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Neighbour {
    pub(crate) interface: String,
    pub(crate) is_up: bool,
    pub(crate) rtt: Option<Duration>,
}

/// Two interfaces that are joined, each with the machine's place in the network.
#[derive(Clone, Debug)]
pub(crate) struct Cable {
    pub(crate) ends: [(usize, String); 2],
    /// Where it can be cut: for a tunnel, the interfaces below.
    pub(crate) below: [String; 2],
}

/// Between Hellos and updates, the same for all daemons of a network.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// What each does by itself.
    Stock,
    /// A Hello each second, which all three can do; full updates every four.
    Brisk,
}

/// The metric of what cannot be reached.
const INFINITY: u32 = 65_535;

impl Kind {
    /// Options of an interface on a cable, or in a tunnel.
    pub(crate) fn interface_options(self, pace: Pace, tunnel: bool) -> &'static str {
        match (self, pace, tunnel) {
            // Ours sends Hellos each second by itself.
            (Self::Ours, Pace::Stock | Pace::Brisk, _) => "tunnel",
            (Self::Babeld, Pace::Stock, false) => "type wired",
            (Self::Babeld, Pace::Stock, true) => "type tunnel",
            (Self::Babeld, Pace::Brisk, false) => "type wired hello-interval 1 update-interval 4",
            (Self::Babeld, Pace::Brisk, true) => "type tunnel hello-interval 1 update-interval 4",
            (Self::Bird, Pace::Stock, _) => "type wired;",
            (Self::Bird, Pace::Brisk, _) => "type wired; hello interval 1 s; update interval 4 s;",
        }
    }
}

impl Machine {
    /// Adds a machine with the address `fd00:6:NUMBER::1`.
    pub(crate) fn new(lab: &mut Lab, kind: Kind, number: usize) -> Self {
        let prefix = match kind {
            Kind::Ours => "ours",
            Kind::Babeld => "babeld",
            Kind::Bird => "bird",
        };
        let name = format!("{prefix}{number}");
        let host = lab.host(&name);
        let dir = lab.dir().join(&name);
        fs::create_dir(&dir).expect("a new directory");
        let address = format!("fd00:6:{number}::1");
        let machine =
            Self { kind, name, host, address, interfaces: Vec::new(), options: Vec::new(), dir, daemon: None };
        machine.take_address(&machine.home());
        machine
    }

    /// What it announces.
    pub(crate) fn home(&self) -> String {
        format!("{}/128", self.address)
    }

    /// Adds an address of its own. babeld and BIRD announce it by themselves.
    pub(crate) fn take_address(&self, prefix: &str) {
        self.host.must(&["ip", "address", "add", prefix, "dev", "lo"]);
    }

    pub(crate) fn drop_address(&self, prefix: &str) {
        self.host.must(&["ip", "address", "del", prefix, "dev", "lo"]);
    }

    /// Runs its daemon on an interface, from its next start on.
    pub(crate) fn use_interface(&mut self, name: &str, options: &str) {
        self.interfaces.push((name.to_owned(), options.to_owned()));
    }

    /// Starts the daemon.
    pub(crate) fn start(&mut self) {
        self.set_forwarding(true);
        // What a killed daemon left behind: babeld would not start over it, and we must not believe it.
        for left in ["pid", "socket", "status"] {
            let _ = fs::remove_file(self.file(left));
        }
        let line = match self.kind {
            Kind::Ours => self.speaker_line(),
            Kind::Babeld => self.babeld_line(),
            Kind::Bird => self.bird_line(),
        };
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        self.daemon = Some(self.host.start(&self.dir.join("log"), &line));
    }

    /// Power loss: the daemon is gone without a word, and nothing is forwarded. Ours has to find out at its start what it
    /// left in the kernel; babeld leaves it there for ever, so that its kernel has to forget as well.
    pub(crate) fn kill(&mut self) {
        self.set_forwarding(false);
        self.daemon = None;
        let protocol = match self.kind {
            Kind::Ours => return,
            Kind::Babeld => "babel",
            Kind::Bird => "bird",
        };
        self.host.must(&["ip", "-6", "route", "flush", "proto", protocol]);
    }

    fn set_forwarding(&self, on: bool) {
        let value = u8::from(on);
        for setting in ["ipv6/conf/all/forwarding", "ipv4/ip_forward"] {
            self.host.must(&["sh", "-c", &format!("echo {value} > /proc/sys/net/{setting}")]);
        }
    }

    /// Asks the daemon to end, and waits for that.
    pub(crate) fn end(&mut self) {
        let mut daemon = self.daemon.take().expect("a running daemon");
        daemon.signal("TERM");
        daemon.ended(secs(20));
    }

    pub(crate) fn daemon(&self) -> &Background {
        self.daemon.as_ref().expect("a running daemon")
    }

    /// Withdraws its own prefix.
    pub(crate) fn withdraw(&self) {
        match self.kind {
            Kind::Ours => self.daemon().signal("USR1"),
            Kind::Babeld | Kind::Bird => self.drop_address(&self.home()),
        }
    }

    /// Announces its own prefix again.
    pub(crate) fn announce(&self) {
        match self.kind {
            Kind::Ours => self.daemon().signal("USR2"),
            Kind::Babeld | Kind::Bird => self.take_address(&self.home()),
        }
    }

    fn speaker_line(&self) -> Vec<String> {
        let mut line = vec![env!("CARGO_BIN_EXE_speaker").to_owned(), "--status".to_owned(), self.file("status")];
        line.extend(["--announce".to_owned(), self.home()]);
        for (name, options) in &self.interfaces {
            line.extend(["--interface".to_owned(), format!("{name},{options}")]);
        }
        line.extend(self.options.iter().cloned());
        line
    }

    /// A new name at each start, since a killed babeld forgets its seqno: with the old name, neighbours would not
    /// believe it for minutes.
    fn babeld_line(&self) -> Vec<String> {
        let mut config = format!(
            "random-id true\nstate-file {}\npid-file {}\nlocal-path-readwrite {}\n",
            self.file("state"),
            self.file("pid"),
            self.file("socket"),
        );
        // An interface can only name a key that is there.
        for line in &self.options {
            config += &format!("{line}\n");
        }
        for (name, options) in &self.interfaces {
            config += &format!("interface {name} {options}\n");
        }
        // Addresses of its own, not those of the cables.
        config += "redistribute local if lo allow\nredistribute local deny\n";
        fs::write(self.file("config"), config).expect("room for a small file");
        ["babeld", "-c", &self.file("config")].map(str::to_owned).to_vec()
    }

    fn bird_line(&self) -> Vec<String> {
        let number = self.host_number();
        let mut config = format!(
            "router id 10.255.0.{number};\nlog stderr all;\nprotocol device {{ scan time 1; }}\n\
             protocol direct {{ ipv4; ipv6; interface \"lo\"; }}\n\
             protocol kernel {{ ipv4 {{ export where source = RTS_BABEL; }}; }}\n\
             protocol kernel {{ ipv6 {{ export where source = RTS_BABEL; }}; }}\n\
             protocol babel {{\n randomize router id;\n ipv4 {{ import all; export all; }};\n \
             ipv6 {{ import all; export all; }};\n"
        );
        for (name, options) in &self.interfaces {
            config += &format!(" interface \"{name}\" {{ {options} }};\n");
        }
        for line in &self.options {
            config += &format!(" {line}\n");
        }
        config += "}\n";
        fs::write(self.file("config"), config).expect("room for a small file");
        ["bird", "-f", "-c", &self.file("config"), "-s", &self.file("socket")].map(str::to_owned).to_vec()
    }

    fn host_number(&self) -> &str {
        self.name.trim_start_matches(char::is_alphabetic)
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("a path of ASCII").to_owned()
    }
}

/// Questions.
impl Machine {
    /// Routes in use, by prefix; `TO from FROM` for source-specific ones.
    pub(crate) fn routes(&self) -> Result<BTreeMap<String, Route>, String> {
        match self.kind {
            Kind::Ours => Ok(routes_of_speaker(&self.status()?)),
            Kind::Babeld => Ok(self.dump()?.iter().filter_map(|line| route_of_babeld(line)).collect()),
            Kind::Bird => Ok(routes_of_bird(&self.birdc("show route")?)),
        }
    }

    pub(crate) fn route(&self, prefix: &str) -> Result<Route, String> {
        let mut routes = self.routes()?;
        routes.remove(prefix).ok_or_else(|| format!("{} has no route to {prefix}, but {routes:?}", self.name))
    }

    pub(crate) fn neighbours(&self) -> Result<Vec<Neighbour>, String> {
        match self.kind {
            Kind::Ours => Ok(neighbours_of_speaker(&self.status()?)),
            Kind::Babeld => Ok(self.dump()?.iter().filter_map(|line| neighbour_of_babeld(line)).collect()),
            Kind::Bird => Ok(neighbours_of_bird(&self.birdc("show babel neighbors")?)),
        }
    }

    /// Whether it could send to a neighbour on an interface.
    pub(crate) fn has_neighbour_on(&self, interface: &str) -> Result<bool, String> {
        Ok(self.neighbours()?.iter().any(|neighbour| neighbour.interface == interface && neighbour.is_up))
    }

    /// The interface the kernel sends by.
    pub(crate) fn way_to(&self, address: &str) -> Result<String, String> {
        let family = if address.contains(':') { "-6" } else { "-4" };
        let answer = self.host.run(&["ip", family, "route", "get", address])?;
        let mut words = answer.split_whitespace().skip_while(|word| *word != "dev");
        words.nth(1).map(str::to_owned).ok_or(answer)
    }

    /// The answer to one ping, from its own address.
    pub(crate) fn ping(&self, to: &str) -> Result<(), String> {
        self.host.run(&["ping", "-n", "-c", "1", "-W", "1", "-I", &self.address, to]).map(drop)
    }

    /// Ours: the state it keeps in its status file.
    fn status(&self) -> Result<Value, String> {
        let text = fs::read_to_string(self.file("status")).map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("{error} in {text}"))
    }

    /// babeld: the lines of its local interface's dump.
    pub(crate) fn dump(&self) -> Result<Vec<String>, String> {
        let failed = |error: std::io::Error| format!("{} does not answer: {error}", self.name);
        let mut socket = UnixStream::connect(self.file("socket")).map_err(failed)?;
        socket.set_read_timeout(Some(secs(5))).map_err(failed)?;
        socket.write_all(b"dump\n").map_err(failed)?;
        let mut lines = Vec::new();
        let mut answers = 0; // one to our coming, one to the dump
        for line in BufReader::new(socket).lines() {
            let line = line.map_err(failed)?;
            answers += u8::from(line == "ok");
            if answers == 2 {
                return Ok(lines);
            }
            lines.push(line);
        }
        Err(format!("{} broke off after {lines:?}", self.name))
    }

    fn birdc(&self, question: &str) -> Result<String, String> {
        let socket = self.file("socket");
        let line: Vec<&str> = ["birdc", "-s", &socket].into_iter().chain(question.split(' ')).collect();
        self.host.run(&line)
    }
}

fn routes_of_speaker(status: &Value) -> BTreeMap<String, Route> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let routes = status["routes"].as_array().into_iter().flatten();
    let used = routes.filter(|route| route["selected"] == true && route["neighbour"].is_string());
    used.map(|route| {
        let to = text(&route["to"]);
        let pair = route["from"].as_str().map_or(to.clone(), |from| format!("{to} from {from}"));
        let view = Route {
            interface: text(&route["interface"]),
            next_hop: text(&route["next_hop"]),
            metric: route["metric"].as_u64().and_then(|metric| metric.try_into().ok()).unwrap_or(u32::MAX),
            price: route["price"].as_u64(),
        };
        (pair, view)
    })
    .collect()
}

fn neighbours_of_speaker(status: &Value) -> Vec<Neighbour> {
    let neighbours = status["neighbours"].as_array().into_iter().flatten();
    neighbours
        .map(|neighbour| Neighbour {
            interface: neighbour["interface"].as_str().unwrap_or_default().to_owned(),
            is_up: neighbour["cost"] != INFINITY,
            rtt: neighbour["rtt_us"].as_u64().map(Duration::from_micros),
        })
        .collect()
}

/// What is unreachable is installed too, as such.
///
/// `add route 56.. prefix fd00::1/128 from ::/0 installed yes id a3.. metric 96 refmetric 0 via fe80::1 if cable1a`
fn route_of_babeld(line: &str) -> Option<(String, Route)> {
    line.strip_prefix("add route ").filter(|line| line.contains(" installed yes "))?;
    let (to, from) = (word_after(line, "prefix")?, word_after(line, "from")?);
    let pair = if from.ends_with("/0") { to.to_owned() } else { format!("{to} from {from}") };
    let route = Route {
        interface: word_after(line, "if")?.to_owned(),
        next_hop: word_after(line, "via")?.to_owned(),
        metric: word_after(line, "metric")?.parse().ok()?,
        price: None,
    };
    Some((pair, route)).filter(|(_, route)| route.metric < INFINITY)
}

/// `add neighbour 56.. address fe80::1 if cable1a reach ffff ureach 0000 rxcost 96 txcost 96 rtt 0.123 ... cost 96`
fn neighbour_of_babeld(line: &str) -> Option<Neighbour> {
    line.strip_prefix("add neighbour ")?;
    let rtt = word_after(line, "rtt").and_then(|rtt| rtt.parse::<f64>().ok());
    Some(Neighbour {
        interface: word_after(line, "if")?.to_owned(),
        is_up: word_after(line, "cost").is_some_and(|cost| cost != "65535"),
        rtt: rtt.map(|rtt_ms| Duration::from_secs_f64(rtt_ms / 1000.0)),
    })
}

/// ```text
/// fd00:6:1::1/128      unicast [babel1 09:12:18.357] * (130/192) [a0:62:54:b9:21:eb:7f:52]
///         via fe80::347c:9eff:fe13:b356 on cable2b
/// ```
fn routes_of_bird(text: &str) -> BTreeMap<String, Route> {
    let mut routes = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let used = line.contains(" unicast [babel") && line.contains(" * (");
        let Some(way) = lines.peek().filter(|_| used) else { continue };
        let metric = line.split_once('/').and_then(|_| line.split(['/', ')']).rev().nth(1)?.parse().ok());
        let (Some(to), Some(next_hop), Some(interface)) =
            (line.split_whitespace().next(), word_after(way, "via"), word_after(way, "on"))
        else {
            continue;
        };
        let (interface, next_hop) = (interface.to_owned(), next_hop.to_owned());
        routes.insert(to.to_owned(), Route { interface, next_hop, metric: metric.unwrap_or(u32::MAX), price: None });
    }
    routes
}

/// ```text
/// IP address                Interface  Metric Routes Hellos Expires
/// fe80::f07a:34ff:fe42:6346 cable1a        96      2     16   6.400
/// ```
fn neighbours_of_bird(text: &str) -> Vec<Neighbour> {
    let rows = text.lines().filter(|line| line.starts_with("fe80:"));
    rows.filter_map(|row| {
        let mut words = row.split_whitespace().skip(1);
        let interface = words.next()?.to_owned();
        Some(Neighbour { interface, is_up: words.next() != Some("65535"), rtt: None })
    })
    .collect()
}

fn word_after<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    line.split_whitespace().skip_while(|other| *other != word).nth(1)
}

/// A network of machines, by their places.
pub(crate) struct Network {
    pub(crate) machines: Vec<Machine>,
    pub(crate) cables: Vec<Cable>,
}

impl Network {
    pub(crate) fn new(lab: &mut Lab, kinds: &[Kind]) -> Self {
        let machines = kinds.iter().enumerate().map(|(place, kind)| Machine::new(lab, *kind, place + 1)).collect();
        Self { machines, cables: Vec::new() }
    }

    /// Joins two machines by a cable, and runs their daemons on it.
    pub(crate) fn join(&mut self, lab: &mut Lab, a: usize, b: usize, pace: Pace) {
        let (in_a, in_b) = lab.link_local_cable(&self.machines[a].host, &self.machines[b].host);
        let below = [in_a.clone(), in_b.clone()];
        self.use_cable(Cable { ends: [(a, in_a), (b, in_b)], below }, pace, false);
    }

    /// Runs the daemons at both ends on what joins them.
    pub(crate) fn use_cable(&mut self, cable: Cable, pace: Pace, tunnel: bool) {
        for (place, interface) in &cable.ends {
            let machine = &mut self.machines[*place];
            machine.use_interface(interface, machine.kind.interface_options(pace, tunnel));
        }
        self.cables.push(cable);
    }

    /// Joins each to the next.
    pub(crate) fn make_line(&mut self, lab: &mut Lab, pace: Pace) {
        for place in 1..self.machines.len() {
            self.join(lab, place - 1, place, pace);
        }
    }

    /// Joins neighbours, and the last one to the first: cable `n` leads from `n` to the next.
    pub(crate) fn close_ring(&mut self, lab: &mut Lab, pace: Pace) {
        let count = self.machines.len();
        for place in 0..count {
            self.join(lab, place, (place + 1) % count, pace);
        }
    }

    pub(crate) fn start(&mut self) {
        self.machines.iter_mut().for_each(Machine::start);
    }

    /// Waits until every daemon has a route to every other machine, and says how long that took.
    pub(crate) fn all_know_all(&self, patience: Duration) -> Duration {
        let began = now();
        until("routes from all to all", patience, || {
            for machine in &self.machines {
                let routes = machine.routes()?;
                let mut others = self.machines.iter().filter(|other| other.address != machine.address);
                if let Some(other) = others.find(|other| !routes.contains_key(&other.home())) {
                    return Err(format!("{} has no route to {}: {routes:?}", machine.name, other.name));
                }
            }
            Ok(())
        });
        began.elapsed()
    }

    /// Pings from every machine to every other.
    pub(crate) fn all_reach_all(&self, patience: Duration) {
        for from in &self.machines {
            for to in self.machines.iter().filter(|to| to.address != from.address) {
                until(&format!("answer from {} to {}", to.name, from.name), patience, || from.ping(&to.address));
            }
        }
    }

    /// Nothing arrives any more at either end, and nobody is told.
    pub(crate) fn cut_silently(&self, cable: usize) {
        let Cable { ends, below } = &self.cables[cable];
        for ((place, _), interface) in ends.iter().zip(below) {
            let rules = format!(
                "table inet cut {{ chain arriving {{ type filter hook prerouting priority -300; iifname {interface} drop; }}; }}"
            );
            self.machines[*place].host.must(&["nft", &rules]);
        }
    }

    pub(crate) fn mend(&self, cable: usize) {
        for (place, _) in &self.cables[cable].ends {
            self.machines[*place].host.must(&["nft", "delete table inet cut"]);
        }
    }

    /// The interface at one end of a cable goes down or up; the kernel at both ends knows.
    pub(crate) fn set_end(&self, cable: usize, end: usize, state: &str) {
        let (place, interface) = &self.cables[cable].ends[end];
        self.machines[*place].host.must(&["ip", "link", "set", interface, state]);
    }

    /// Whether the kernel at one end of a cable sends through it to a machine.
    pub(crate) fn sends_by(&self, cable: usize, end: usize, to: &Machine) -> Result<(), String> {
        let (from, interface) = &self.cables[cable].ends[end];
        let from = &self.machines[*from];
        match from.way_to(&to.address)? {
            way if way == *interface => Ok(()),
            way => Err(format!("{} sends to {} by {way}", from.name, to.name)),
        }
    }

    /// Waits until the kernels at the ends of a cable send through it, and says how long each took.
    pub(crate) fn used_by(&self, who: Who, cable: usize, patience: Duration) -> [Option<Duration>; 2] {
        let began = now();
        let mut seen = [None; 2];
        let waits_for = |end: usize| match who {
            Who::Both => true,
            Who::Ours => self.machines[self.cables[cable].ends[end].0].kind == Kind::Ours,
        };
        until("traffic on the short path", patience, || {
            for (end, seen) in seen.iter_mut().enumerate() {
                let (other, _) = self.cables[cable].ends[1 - end];
                *seen =
                    self.sends_by(cable, end, &self.machines[other]).ok().and(seen.or_else(|| Some(began.elapsed())));
            }
            let all = [0, 1].into_iter().all(|end| seen[end].is_some() || !waits_for(end));
            if all { Ok(()) } else { Err(format!("{seen:?}")) }
        });
        seen
    }
}

/// Whom to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    Both,
    /// babeld can take a minute to come back to a path.
    Ours,
}
