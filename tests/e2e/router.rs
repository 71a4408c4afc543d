//! One router: its files, its process, and what it answers on its control socket.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::lab::{Background, Host, Lab, here, said, secs, until};
use crate::ledger::{Ledger, base_units};

/// The UDP ports all routers of a lab listen on.
pub(crate) const WIREGUARD_PORT: u16 = 51820;
pub(crate) const QUIC_PORT: u16 = 4433;

/// The TUN device of every router.
pub(crate) const TUN: &str = "waybill0";

/// A router on a machine of its own.
pub(crate) struct Router {
    pub(crate) name: &'static str,
    pub(crate) host: Host,
    /// Its account.
    pub(crate) id: String,
    /// Its mesh address.
    pub(crate) address: String,
    /// The first three groups of its /48, such as `fd71:e4c7:228b`.
    pub(crate) prefix: String,
    pub(crate) wireguard_key: String,
    /// The config, for a test to change before [`Router::start`] or [`Router::write_config`].
    pub(crate) options: Options,
    /// The program it runs.
    pub(crate) waybill: PathBuf,
    card: String,
    /// Where its files are.
    pub(crate) dir: PathBuf,
    process: Option<Background>,
}

/// What a router's config says besides names and places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Tokens asked per GiB.
    pub(crate) ask: &'static str,
    /// Lines of [price] instead of what is asked.
    pub(crate) price: Option<String>,
    /// Tokens per GiB for which a route may be a hop longer.
    pub(crate) hop_worth: &'static str,
    /// Tokens locked in a channel.
    pub(crate) deposit: &'static str,
    pub(crate) ledger: Option<PathBuf>,
    /// Lines of [ledger] that name a served one instead of a file.
    pub(crate) served: Option<String>,
    pub(crate) quic: bool,
    /// How much it logs, where that is not the usual.
    pub(crate) log: Option<&'static str>,
    /// The kernel is handed one packet at a time.
    pub(crate) without_offloads: bool,
    /// Prefixes it announces besides its own.
    pub(crate) announce: Vec<String>,
    /// `[[peer]]` and `[[leaf]]` tables.
    pub(crate) tables: Vec<String>,
}

/// How two routers are joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joint {
    /// "wireguard", "quic" or "auto".
    pub(crate) link: &'static str,
    /// What the second router is to the first: "provider", "subscriber" or "peer".
    pub(crate) second_is: &'static str,
    /// Babel's cost.
    pub(crate) cost: u16,
}

/// The first router pays the second for both directions.
pub(crate) const PAYS: Joint = Joint { link: "wireguard", second_is: "provider", cost: 96 };
/// Neither pays.
pub(crate) const PEERS: Joint = Joint { link: "wireguard", second_is: "peer", cost: 96 };
/// Who pays follows from the ways out of the mesh.
pub(crate) const BY_ROUTES: Joint = Joint { link: "wireguard", second_is: "auto", cost: 96 };

/// The count kept with one neighbour, in billed bytes; what is owed and not signed for yet, in base units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meter {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) owed_by_us: u128,
    pub(crate) owed_to_us: u128,
}

/// The newest receipt of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) nonce: u64,
    pub(crate) amount: u128,
    pub(crate) redeemed: u128,
}

impl Router {
    /// A router that has a key, on a new machine, joined to nobody.
    pub(crate) fn new(lab: &mut Lab, name: &'static str) -> Self {
        let host = lab.host(name);
        let dir = lab.dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&dir).expect("a new directory");
        Self::of(lab, name, host, dir)
    }

    /// One whose key and config the program itself makes: `command` is "community create" or "join" with what they need. Start it with
    /// [`Router::up`].
    pub(crate) fn made_by(lab: &Lab, name: &'static str, host: &Host, command: &[&str]) -> Self {
        let dir = lab.dir().join(name);
        let (state, socket) = (dir.join("state"), dir.join("run").join("control.sock"));
        let places =
            ["--name", name, "--directory", text(&dir), "--state", text(&state), "--socket", text(&socket), "--json"];
        host.must(&[&[text(&lab.waybill())], command, &places].concat());
        Self::of(lab, name, host.clone(), dir)
    }

    /// Whose things are in this directory.
    fn of(lab: &Lab, name: &'static str, host: Host, dir: PathBuf) -> Self {
        let waybill = lab.waybill();
        let key_file = dir.join("key");
        let said = here(&[text(&waybill), "key", "--json", "--file", text(&key_file)]);
        let key: Value = serde_json::from_str(&said).expect("`waybill key --json` prints JSON");
        let field = |name: &str| key[name].as_str().unwrap_or_else(|| panic!("no {name} in {said}")).to_owned();
        Self {
            name,
            host,
            id: field("account"),
            address: field("mesh_address"),
            prefix: field("prefix").trim_end_matches("::/48").to_owned(),
            wireguard_key: field("wireguard_key"),
            card: field("card"),
            options: Options { ask: "0", hop_worth: "0", deposit: "5", ..Options::default() },
            dir,
            waybill,
            process: None,
        }
    }

    /// Makes it a member of a community that has money.
    pub(crate) fn join_community(&mut self, ledger: &Ledger, ask: &'static str) {
        self.options.ledger = Some(ledger.path().to_owned());
        self.options.ask = ask;
    }

    /// What others know it by.
    pub(crate) fn card(&self) -> &str {
        &self.card
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.dir.join("key")
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.join("waybill.toml")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.dir.join("run").join("control.sock")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Everything it logged, over all its starts.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(crate) fn write_config(&self) {
        fs::write(self.config_file(), self.config()).expect("room for a config file");
    }

    /// The config file. The intervals are the shorter ones a community with short outages would choose.
    pub(crate) fn config(&self) -> String {
        let Options { ask, price, hop_worth, deposit, ledger, served, quic, log, without_offloads, announce, tables } =
            &self.options;
        let offloads = !without_offloads;
        let log = log.map(|level| format!("log = \"{level}\"\n")).unwrap_or_default();
        let mut config = format!(
            "[node]\nname = \"{}\"\nkey_file = \"{}\"\nstate_dir = \"{}\"\ncontrol_socket = \"{}\"\ntun = \"{TUN}\"\n\
             announce = {announce:?}\noffloads = {offloads}\n{log}\n[wireguard]\nlisten = \"[::]:{WIREGUARD_PORT}\"\n\n\
             [routing]\nhello_interval = \"1s\"\nupdate_interval = \"4s\"\n\n",
            self.name,
            text(&self.key_file()),
            text(&self.state_dir()),
            text(&self.control_socket()),
        );
        if *quic {
            config += &format!("[quic]\nlisten = \"[::]:{QUIC_PORT}\"\n\n");
        }
        if let Some(path) = ledger {
            let asked = price.clone().unwrap_or_else(|| format!("ask = \"{ask}\""));
            config += &format!("[price]\n{asked}\nmax = \"1000000\"\nhop_worth = \"{hop_worth}\"\n\n");
            let place = served.clone().unwrap_or_else(|| format!("path = \"{}\"", text(path)));
            config += &format!("[ledger]\n{place}\ndeposit = \"{deposit}\"\nredeem_at = \"1000000\"\n\n");
        }
        config + &tables.join("\n")
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// As [`Router::start`], behind other words of a command line: `sh -c ... exec "$@"` and the like.
    pub(crate) fn start_with(&mut self, before: &[&str]) {
        self.write_config();
        self.run(before);
    }

    /// Starts it with the config file as it is, and waits until it answers.
    pub(crate) fn up(&mut self) {
        self.run(&[]);
    }

    fn run(&mut self, before: &[&str]) {
        assert!(self.process.is_none(), "{} is running", self.name);
        let config = self.config_file();
        let mut line = before.to_vec();
        line.extend([text(&self.waybill), "up", "--config", text(&config)]);
        let mut process = self.host.start(&self.log_file(), &line);
        until(&format!("answer from {}", self.name), secs(15), || match self.show("status") {
            Ok(_) => Ok(()),
            Err(error) if process.is_running() => Err(error),
            Err(_) => panic!("{} ended:\n{}", self.name, process.log()),
        });
        self.process = Some(process);
    }

    pub(crate) fn process(&mut self) -> &mut Background {
        self.process.as_mut().unwrap_or_else(|| panic!("{} is not running", self.name))
    }

    /// As a power cut, except that the disk is whole.
    pub(crate) fn kill(&mut self) {
        self.process().signal("KILL");
        self.process().ended(secs(5));
        self.process = None;
    }

    /// Asks it to stop, which has to succeed.
    pub(crate) fn stop(&mut self) {
        self.process().signal("TERM");
        let status = self.process().ended(secs(10));
        assert!(status.success(), "{} stopped with {status}", self.name);
        self.process = None;
    }

    /// Reads the config file again.
    pub(crate) fn reload(&self) {
        let process = self.process.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name));
        process.signal("HUP");
    }

    /// Runs `waybill up` where it is expected to refuse, and returns what it says. `before` as in [`Router::start_with`].
    pub(crate) fn refusal(&self, before: &[&str]) -> String {
        let config = self.config_file();
        let mut line = before.to_vec();
        line.extend([text(&self.waybill), "up", "--config", text(&config)]);
        let output = self.host.bounded(secs(10), line[0]).args(&line[1..]).output().expect("ip starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line:?}: {}: {said}", output.status);
        said
    }

    /// The answer to `waybill WHAT --json`.
    pub(crate) fn show(&self, what: &str) -> Result<Value, String> {
        self.show_of(what, &[])
    }

    fn show_of(&self, what: &str, more: &[&str]) -> Result<Value, String> {
        let socket = self.control_socket();
        let mut line = vec![text(&self.waybill), what, "--json", "--socket", text(&socket)];
        line.extend(more);
        let output = Command::new(line[0]).args(&line[1..]).output().map_err(|error| error.to_string())?;
        let said = said(&line, &output)?;
        serde_json::from_str(&said).map_err(|error| format!("{line:?}: {error}: {said}"))
    }

    /// Packets dropped for a reason, by its name in `waybill status`.
    pub(crate) fn drops(&self, reason: &str) -> u64 {
        let status = self.show("status").unwrap_or_else(|error| panic!("{error}"));
        status["drops"][reason].as_u64().unwrap_or(0)
    }

    /// Whether its owner was told just this.
    pub(crate) fn warned(&self, of: &str) -> Result<(), String> {
        let status = self.show("status")?;
        let warnings = status["warnings"].as_array().into_iter().flatten();
        let found = warnings.filter_map(Value::as_str).any(|warning| warning == of);
        if found { Ok(()) } else { Err(format!("{status}")) }
    }

    pub(crate) fn neighbour(&self, name: &str) -> Result<Value, String> {
        self.neighbour_with("name", name)
    }

    /// The neighbour that another router is, whatever it is called here.
    pub(crate) fn link_to(&self, other: &Self) -> Result<Value, String> {
        self.neighbour_with("id", &other.id)
    }

    fn neighbour_with(&self, field: &str, value: &str) -> Result<Value, String> {
        let neighbours = self.show("neighbours")?;
        let mut lines = neighbours.as_array().into_iter().flatten();
        let line = lines.find(|line| line[field] == value).cloned();
        line.ok_or_else(|| format!("{} knows no {value}: {neighbours}", self.name))
    }

    /// Whether packets are carried for a neighbour.
    pub(crate) fn is_joined_to(&self, other: &Self) -> Result<(), String> {
        let line = self.link_to(other)?;
        let joined = line["state"] == "up" && line["admitted"] == true;
        if joined { Ok(()) } else { Err(format!("{} sees {line}", self.name)) }
    }

    /// Who the selected route to another router goes through.
    pub(crate) fn next_hop(&self, to: &Self) -> Result<String, String> {
        let answer = self.show("routes")?;
        let prefix = format!("{}::/48", to.prefix);
        let mut lines = answer["routes"].as_array().into_iter().flatten();
        let line = lines.find(|line| line["prefix"] == *prefix && line["selected"] == true);
        let via = line.and_then(|line| line["via"].as_str());
        via.map(str::to_owned).ok_or_else(|| format!("{} has no route to {}: {answer}", self.name, to.name))
    }

    /// Ends the channel to a neighbour.
    pub(crate) fn close(&self, payee: &Self) -> Result<Value, String> {
        self.show_of("close", &[payee.name])
    }

    /// What each day with a neighbour came to.
    pub(crate) fn why(&self, neighbour: &Self) -> Result<Value, String> {
        self.show_of("why", &[neighbour.name])
    }

    pub(crate) fn meter(&self, neighbour: &Self) -> Result<Meter, String> {
        let answer = self.show("meters")?;
        let mut lines = answer["meters"].as_array().into_iter().flatten();
        let line = lines.find(|line| line["id"] == neighbour.id);
        let meter = line.and_then(|line| {
            Some(Meter {
                sent: line["sent_bytes"].as_u64()?,
                received: line["received_bytes"].as_u64()?,
                owed_by_us: base_units(&line["owed_by_us"])?,
                owed_to_us: base_units(&line["owed_to_us"])?,
            })
        });
        meter.ok_or_else(|| format!("{} has no meter for {}: {answer}", self.name, neighbour.name))
    }

    /// The newest receipt this router signed for the other.
    pub(crate) fn signed_for(&self, payee: &Self) -> Result<Receipt, String> {
        self.receipt(payee, "we_pay")
    }

    /// The newest receipt this router holds from the other.
    pub(crate) fn held_from(&self, payer: &Self) -> Result<Receipt, String> {
        self.receipt(payer, "we_are_paid")
    }

    fn receipt(&self, neighbour: &Self, direction: &str) -> Result<Receipt, String> {
        let answer = self.show("receipts")?;
        let lines = answer["receipts"].as_array().into_iter().flatten();
        let party = if direction == "we_pay" { "payee" } else { "payer" };
        let of_both = lines.filter(|line| line["channel"][party] == neighbour.id && line["direction"] == direction);
        let nonce = |line: &&Value| line["channel"]["nonce"].as_str().and_then(|nonce| nonce.parse::<u64>().ok());
        let line = of_both.max_by_key(nonce);
        let receipt = line.and_then(|line| {
            Some(Receipt {
                nonce: line["channel"]["nonce"].as_str()?.parse().ok()?,
                amount: base_units(&line["amount"])?,
                redeemed: base_units(&line["redeemed"])?,
            })
        });
        receipt.ok_or_else(|| format!("{} has no receipt {direction} {}: {answer}", self.name, neighbour.name))
    }

    /// The table others write into their config for this router.
    fn as_neighbour(&self, at: &str, role: &str, joint: Joint) -> String {
        let Self { name, card, .. } = self;
        let Joint { link, cost, .. } = joint;
        let port = if link == "quic" { QUIC_PORT } else { WIREGUARD_PORT };
        let quic = if link == "auto" { format!("quic_endpoint = \"{at}:{QUIC_PORT}\"\n") } else { String::new() };
        format!(
            "[[peer]]\nname = \"{name}\"\ncard = \"{card}\"\nendpoint = \"{at}:{port}\"\nlink = \"{link}\"\n\
             role = \"{role}\"\ncost = {cost}\n{quic}"
        )
    }

    /// Free tokens and locked ones, in base units.
    pub(crate) fn wallet(&self) -> (u128, u128) {
        let wallet = self.show("wallet").unwrap_or_else(|error| panic!("{error}"));
        let amount = |name: &str| base_units(&wallet[name]).unwrap_or_else(|| panic!("no {name} in {wallet}"));
        (amount("balance"), amount("locked_in_channels"))
    }

    /// Turns all receipts held into tokens, and returns how many base units that were.
    pub(crate) fn redeem(&self) -> u128 {
        let answer = self.show("redeem").unwrap_or_else(|error| panic!("{error}"));
        let lines = answer["redeemed"].as_array().unwrap_or_else(|| panic!("{answer}"));
        lines.iter().map(|line| base_units(&line["paid"]).expect("an amount")).sum()
    }
}

/// Lays a cable between two routers and writes each into the other's config.
pub(crate) fn join(lab: &mut Lab, first: &mut Router, second: &mut Router, joint: Joint) {
    let (first_at, second_at) = lab.cable(&first.host, &second.host);
    join_at(first, second, joint, (&first_at, &second_at));
}

/// Writes each of two routers, whose underlay addresses are these, into the other's config.
pub(crate) fn join_at(first: &mut Router, second: &mut Router, joint: Joint, at: (&str, &str)) {
    let first_is = match joint.second_is {
        "provider" => "subscriber",
        "subscriber" => "provider",
        role => role,
    };
    let to_second = second.as_neighbour(at.1, joint.second_is, joint);
    let to_first = first.as_neighbour(at.0, first_is, joint);
    for (router, table) in [(first, to_second), (second, to_first)] {
        router.options.quic |= joint.link != "wireguard";
        router.options.tables.push(table);
    }
}

/// Two routers of one community, the first of which pays the second. They are not started yet.
pub(crate) fn paying_pair(
    lab: &mut Lab,
    ledger: &Ledger,
    (ask, tokens): (&'static str, u32),
    joint: Joint,
) -> [Router; 2] {
    let mut pair = ["r1", "r2"].map(|name| Router::new(lab, name));
    for router in &mut pair {
        router.join_community(ledger, ask);
        ledger.mint(router, tokens);
    }
    let [r1, r2] = &mut pair;
    join(lab, r1, r2, joint);
    pair
}

/// Two routers that reach each other through somebody else's machine, which does not say what does not fit. They are not started
/// yet. Its cable to the second is `cable2a` there, and `cable2b` at the second.
pub(crate) fn through_a_provider(lab: &mut Lab, joint: Joint) -> ([Router; 2], Host) {
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(lab, name));
    let provider = lab.host("provider");
    let (at_r1, _) = lab.cable(&r1.host, &provider);
    let (_, at_r2) = lab.cable(&provider, &r2.host);
    provider.must(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    r1.host.must(&["ip", "route", "add", "10.0.2.0/24", "via", "10.0.1.2"]);
    r2.host.must(&["ip", "route", "add", "10.0.1.0/24", "via", "10.0.2.1"]);
    provider.must(&[
        "nft",
        "table inet silent { chain output { type filter hook output priority 0; icmp type destination-unreachable drop; }; }",
    ]);
    join_at(&mut r1, &mut r2, joint, (&at_r1, &at_r2));
    ([r1, r2], provider)
}

/// Waits until two routers carry for each other.
pub(crate) fn joined(a: &Router, b: &Router) {
    until(&format!("link {}-{}", a.name, b.name), secs(30), || a.is_joined_to(b).and_then(|()| b.is_joined_to(a)));
}

/// Waits until both routers' kernels know the way to the other, without sending anything.
pub(crate) fn routed(a: &Router, b: &Router) {
    for (from, to) in [(a, b), (b, a)] {
        until(&format!("route from {} to {}", from.name, to.name), secs(30), || {
            let route = from.host.run(&["ip", "-6", "route", "get", &to.address])?;
            if route.contains(&format!("dev {TUN}")) { Ok(()) } else { Err(route) }
        });
    }
}

/// What a payer signed for all it owes, which is what the payee holds. To be called when the traffic has stopped.
///
/// A router reads its meters 20 times a second, so one look could show what was settled before the last packets.
pub(crate) fn settled(payer: &Router, payee: &Router) -> Receipt {
    let mut looks_alike = 0;
    until(&format!("settlement between {} and {}", payer.name, payee.name), secs(30), || {
        let (signed, held) = (payer.signed_for(payee)?, payee.held_from(payer)?);
        let (owes, is_owed) = (payer.meter(payee)?, payee.meter(payer)?);
        // What was redeemed the payee knows, not the payer.
        let same = (signed.nonce, signed.amount) == (held.nonce, held.amount);
        let all = same && owes.owed_by_us == 0 && is_owed.owed_to_us == 0;
        looks_alike = if all { looks_alike + 1 } else { 0 };
        if looks_alike > 3 { Ok(held) } else { Err(format!("{signed:?} {owes:?}, {held:?} {is_owed:?}")) }
    })
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ASCII")
}

/// A file only its owner reads, such as a key.
pub(crate) fn write_private(path: &Path, content: &[u8], mode: u32) {
    use std::io::Write as _;
    let _ = fs::remove_file(path);
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(path).expect("a new file");
    file.write_all(content).expect("room for a small file");
}
