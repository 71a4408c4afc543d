//! A village of six, from the first command to the last: what a community does with its routers, and what happens to it.
//!
//! ```text
//!     internet --- gate --- hill --- school --- nat --- barn        hill founded the community and serves its ledger;
//!                            |        |                 |           gate has the only way out;
//!                           shop    mill             phone          barn and mill are households, shop is put out later.
//! ```

use std::fs;

use serde_json::Value;

use crate::capture::{Capture, Captured};
use crate::fallback::{block, carried_by};
use crate::internet::{IPV4, IPV6, Internet, NAME, NAME_SERVER, TEXT, holds, uses};
use crate::lab::{Background, Host, Lab, here, now, secs, until};
use crate::leaf::Phone;
use crate::ledger::Ledger;
use crate::line::conserved;
use crate::names::ASK;
use crate::router::{Router, TUN, settled, text};
use crate::traffic::{WebServer, reachable};

/// Tokens that the treasurer makes for each router.
const TOKENS: u32 = 20;
/// The ledger is asked every 20 seconds; the rest is for the answer.
const OUT_MAX: std::time::Duration = secs(25);

#[test]
fn a_village_of_six_is_online_is_paid_and_talks_whatever_happens_to_it() {
    let tools =
        ["ping", "curl", "python3", "nft", "tcpdump", "wireguard-go", "wg", "openssl", "prosody", "go-sendxmpp"];
    let Some(mut lab) = Lab::open("a_village_of_six_is_online_is_paid_and_talks_whatever_happens_to_it", &tools) else {
        return;
    };
    let began = now();
    let [on_hill, at_gate, in_school, in_barn, in_mill, in_shop, nat, in_street] =
        ["hill", "gate", "school", "barn", "mill", "shop", "nat", "street"].map(|name| lab.host(name));
    let (hill_by_gate, _) = lab.cable(&on_hill, &at_gate);
    let (hill_by_school, _) = lab.cable(&on_hill, &in_school);
    let (hill_by_shop, _) = lab.cable(&on_hill, &in_shop);
    let (school_by_mill, _) = lab.cable(&in_school, &in_mill);
    let (school_by_nat, _) = lab.cable(&in_school, &nat);
    let (nat_by_barn, _) = lab.cable(&nat, &in_barn);
    let (barn_in_street, _) = lab.cable(&in_barn, &in_street);
    translate(&nat, "cable5b");
    in_barn.must(&["ip", "route", "add", "default", "via", &nat_by_barn]);
    let internet = Internet::start(&mut lab);
    let uplink = internet.way_out(&mut lab, &at_gate);
    let visitor = lab.host("visitor");
    let (gate_by_visitor, _) = lab.cable(&at_gate, &visitor);

    // One founds it, and asks five hundredths of a token per GiB on top of what the way out costs.
    let endpoint = format!("{hill_by_school}:51820");
    let mut hill = Router::made_by(
        &lab,
        "hill",
        &on_hill,
        &["community", "create", "Hilltop", "--endpoint", &endpoint, "--max", "1"],
    );
    edit(&hill, "ask = \"0\"", "fee = \"0.05\"");
    hill.up();
    until("the founder is a member", secs(30), || is_member(&hill));
    let ledger = Ledger::founded_by(&hill);
    ledger.mint(&hill, TOKENS);

    // The others have nothing but an invitation, made by whichever member is near.
    let mut joining = Vec::new();
    let mut join = |name, host: &Host, by: &Router, at: &str, owner_sets: &[(&str, &str)]| {
        let code = invitation(&hill, by, at);
        let mut router = Router::made_by(&lab, name, host, &["join", &code]);
        owner_sets.iter().for_each(|(from, to)| edit(&router, from, to));
        let began = now();
        router.up();
        until(&format!("{name} is a member"), secs(60), || is_member(&router));
        joining.push(began.elapsed());
        ledger.mint(&router, TOKENS);
        router
    };
    let gateway = format!(
        "[gateway]\nuplink = \"{uplink}\"\ndns = [\"{NAME_SERVER}\"]\ncontact = \"abuse@gate.example\"\n\n[price]\nask = \"0.1\""
    );
    let gate = join("gate", &at_gate, &hill, &hill_by_gate, &[("[price]", &gateway)]);
    let relay = "[price]\nfee = \"0.05\"";
    let school = join("school", &in_school, &hill, &hill_by_school, &[("[price]", relay)]);
    let shop = join("shop", &in_shop, &hill, &hill_by_shop, &[]);
    let mill = join("mill", &in_mill, &school, &school_by_mill, &[]);
    let household = format!("[internet]\ngateways = [\"{}\"]\n\n[price]", gate.address);
    let barn = join("barn", &in_barn, &school, &school_by_nat, &[("[price]", &household)]);
    let mut village = [hill, gate, school, barn, mill, shop];
    for router in &village {
        for other in &village {
            reachable(&router.host, &other.address, secs(60));
        }
    }
    let whole = began.elapsed();
    let [hill, gate, school, barn, mill, _] = &village;
    // Names that hold everywhere: each has claimed its own, and whoever answers for names asks the ledger.
    let called = now();
    for (router, others) in [(barn, [mill, school, hill]), (mill, [barn, school, gate]), (school, [barn, mill, hill])] {
        for other in others {
            until(&format!("{} at {}", other.name, router.name), secs(30), || calls(router, other));
        }
    }
    let called = called.elapsed();

    // The household behind the NAT reads a page by its name. Those who carry it for money see none of it.
    until("a lease", secs(30), || uses(barn, &gate.address));
    // What a relay opens is what the mesh's device carries; what is on its cables is sealed once more.
    let captures = [(&barn.host, TUN), (&school.host, "cable2b")]
        .map(|(host, device)| Capture::start(&lab, host, device, "ip or ip6"));
    let resolver = fs::read_to_string(barn.state_dir().join("resolv.conf")).expect("the gateway's name servers");
    for version in ["-4", "-6"] {
        let page =
            with_resolver(&lab, &barn.host, &resolver, &["curl", version, "-sf", &format!("http://{NAME}/page")]);
        assert_eq!(page.lines().filter(|line| *line == TEXT).count(), 5000, "by IPv{version}");
    }
    let state = barn.show("internet").expect("an answer");
    let inside = state["ipv4"].as_str().and_then(|ip| ip.parse::<std::net::Ipv4Addr>().ok()).expect("an address");
    for captured in captures.map(Capture::end) {
        assert!(captured.packets.iter().map(|packet| packet.length).sum::<u64>() > 400_000, "both pages pass here");
        is_sealed(&captured, &inside.octets());
    }

    // A phone of that household is in the street, with what `leaf add` prints and a stock WireGuard. It reads what the mill offers, and
    // the page on the Internet, both by their names. None of it is seen at the household's uplink but in links.
    let phone = now();
    let uplink = Capture::start(&lab, &barn.host, "cable6b", "(ip or ip6) and not udp port 51820");
    let let_in = |router: &Router, endpoint: &str| {
        let config = router.config_file();
        let leaf = ["leaf", "add", "phone", "--endpoint", endpoint, "--internet", "--json"];
        let leaf = here(&[&[text(&router.waybill)], &leaf[..], &["--config", text(&config)]].concat());
        let leaf: Value = serde_json::from_str(&leaf).expect("JSON");
        leaf["config"].as_str().expect("a config").to_owned()
    };
    let leaf = let_in(barn, &barn_in_street);
    let _phone = Phone::start(&lab, &in_street, &leaf);
    let page = WebServer::start(&lab, &mill.host, &mill.address, 1_000_000);
    reachable(&in_street, &mill.address, secs(20));
    let resolver = leaf.lines().find_map(|line| line.strip_prefix("DNS = ")).expect("a resolver");
    let asks = |line: &str| with_resolver(&lab, &in_street, &format!("nameserver {resolver}"), &["sh", "-c", line]);
    assert_eq!(asks("curl -sf http://mill.mesh:8080/file | wc -c"), page.content.bytes.to_string());
    for version in ["-4", "-6"] {
        let page = asks(&format!("curl {version} -sf --max-time 10 http://{NAME}/page"));
        assert_eq!(page.lines().filter(|line| *line == TEXT).count(), 5000, "by IPv{version}");
    }
    let phone = phone.elapsed();

    // And so does a phone of the gateway's own household.
    let leaf = let_in(gate, &gate_by_visitor);
    let _visitor = Phone::start(&lab, &visitor, &leaf);
    reachable(&visitor, &mill.address, secs(20));
    let resolver = leaf.lines().find_map(|line| line.strip_prefix("DNS = ")).expect("a resolver");
    for version in ["-4", "-6"] {
        let read = ["curl", version, "-sf", "--max-time", "10", &format!("http://{NAME}/page")];
        let page = with_resolver(&lab, &visitor, &format!("nameserver {resolver}"), &read);
        assert_eq!(page.lines().filter(|line| *line == TEXT).count(), 5000, "by IPv{version}");
    }

    // WireGuard stops passing at the mill.
    carried_by("wireguard", mill, school, secs(5));
    let blocked = now();
    block(&[&mill.host]);
    carried_by("quic", mill, school, secs(20));
    let by_quic = blocked.elapsed();
    reachable(&mill.host, &barn.address, secs(5));
    let blocked = (by_quic, blocked.elapsed());

    // Everybody on the way is paid.
    barn.host.must(&["curl", "-sf", "-o", "/dev/null", &format!("http://{IPV4}/large")]);
    let mut paid = Vec::new();
    for (payer, payee) in [(barn, school), (school, hill), (hill, gate)] {
        let receipt = settled(payer, payee);
        let before = payee.wallet().0;
        let redeemed = payee.redeem();
        // And a little more: asking the gateway how it is costs something too.
        assert!(redeemed + receipt.redeemed >= receipt.amount, "{} to {}", payer.name, payee.name);
        assert_eq!(payee.wallet().0, before + redeemed);
        paid.push(receipt.amount);
    }
    assert!(paid.iter().all(|paid| *paid > 0), "{paid:?}");
    conserved(&ledger, &village);

    // The gateway loses its power. The village has no Internet, and talks.
    village[1].kill();
    let [hill, _, school, barn, mill, shop] = &village;
    for at in [IPV4.to_owned(), format!("[{IPV6}]")] {
        let page = in_street.run(&["curl", "-sf", "--max-time", "0.5", &format!("http://{at}/page")]);
        assert!(page.is_err(), "the page without a gateway");
    }
    let seen = uplink.end();
    assert!(seen.packets.is_empty(), "in the clear: {:?}", seen.packets);
    let (ann, bob) = (Chat::start(&lab, barn, "ann"), Chat::start(&lab, mill, "bob"));
    let heard = ann.listen();
    let said = now();
    until("the message at the barn", secs(40), || {
        bob.send(&ann, "the mill has flour")?;
        if heard.log().contains("the mill has flour") { Ok(()) } else { Err(heard.log() + &bob.server.log()) }
    });
    let said = said.elapsed();

    // The shop is put out.
    let out = now();
    hill.host.must(&[text(&hill.waybill), "community", "revoke", &shop.id, "--config", text(&hill.config_file())]);
    for router in [hill, school, barn, mill] {
        until("the shop is cut off", OUT_MAX, || {
            match shop.host.run(&["ping", "-c", "1", "-W", "1", &router.address]) {
                Ok(_) => Err(format!("it reaches {}", router.name)),
                Err(_) => Ok(()),
            }
        });
    }
    let out = out.elapsed();
    assert!(out <= OUT_MAX, "{out:?}");
    reachable(&mill.host, &barn.address, secs(5));

    lab.figures(&format!(
        "members after {joining:.1?}, the whole mesh after {whole:.1?}, their names in {called:.1?} more; a phone had read a page of the \
         Internet {phone:.1?} after it was let in; QUIC {blocked:.1?} after WireGuard was blocked; paid {paid:?} base units; a chat's first \
         message took {said:.1?}; put out, cut off after {out:.1?}; all in {:.1?}",
        began.elapsed()
    ));
}

/// As the box of an Internet provider does it: whoever is inside calls out, and nobody calls in.
fn translate(nat: &Host, outside: &str) {
    nat.must(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    let rules = format!(
        "table ip box {{ chain leave {{ type nat hook postrouting priority srcnat; oifname {outside} masquerade; }}; \
         chain pass {{ type filter hook forward priority 0; ct state established,related accept; iifname {outside} drop; }}; }}"
    );
    nat.must(&["nft", &rules]);
}

/// Changes a line of a config file, as its owner does with an editor.
fn edit(router: &Router, from: &str, to: &str) {
    let file = router.config_file();
    let before = fs::read_to_string(&file).expect("a config file");
    assert_eq!(before.matches(from).count(), 1, "{from} in {before}");
    fs::write(file, before.replace(from, to)).expect("room for a config file");
}

/// An invitation with the founder's key as issuer's.
fn invitation(founder: &Router, by: &Router, at: &str) -> String {
    let (config, issuer, state) =
        (by.config_file(), founder.dir.join("issuer.key"), format!("XDG_STATE_HOME={}", text(&by.dir)));
    let endpoint = format!("{at}:51820");
    let line = ["env", &state, text(&by.waybill), "invite", "--config", text(&config), "--issuer", text(&issuer)];
    by.host.must(&[&line[..], &["--endpoint", &endpoint]].concat())
}

fn is_member(router: &Router) -> Result<(), String> {
    let status = router.show("status")?;
    if status["membership"]["member"] == true { Ok(()) } else { Err(status.to_string()) }
}

/// Whether a router answers for another's name, as the community's ledger has it.
fn calls(router: &Router, other: &Router) -> Result<(), String> {
    let name = format!("{}.mesh", other.name);
    let said = router.host.run(&["python3", "-c", ASK, &router.address, "53", &name])?;
    if said.trim_end() == format!("{name} 0 {}", other.address) { Ok(()) } else { Err(said) }
}

/// Nothing of the page, its name or the household's address inside.
fn is_sealed(captured: &Captured, address: &[u8]) {
    for secret in [TEXT.as_bytes(), &NAME.as_bytes()[..8], address] {
        assert!(!holds(captured, secret), "{secret:?} is seen on the way");
    }
}

/// Runs a program that asks this resolver for names.
fn with_resolver(lab: &Lab, host: &Host, resolver: &str, line: &[&str]) -> String {
    let file = lab.dir().join("resolv.conf");
    fs::write(&file, resolver).expect("room for a file");
    let mount = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", text(&file));
    host.must(&[&["sh", "-c", &mount, "sh"], line].concat())
}

/// A household's chat server, stock prosody, and somebody who uses it.
struct Chat<'a> {
    lab: &'a Lab,
    router: &'a Router,
    person: &'static str,
    server: Background,
}

impl<'a> Chat<'a> {
    fn start(lab: &'a Lab, router: &'a Router, person: &'static str) -> Self {
        let dir = lab.dir().join(format!("chat-{}", router.name));
        fs::create_dir(&dir).expect("a new directory");
        let (at, domain) = (text(&dir), format!("{}.mesh", router.name));
        let files = [("key", "prosody.key"), ("certificate", "prosody.crt")]
            .map(|(what, file)| format!("{what} = \"{at}/{file}\""));
        let config = format!(
            "run_as_root = true\npidfile = \"{at}/pid\"\ndata_path = \"{at}\"\nlog = {{ debug = \"*console\" }}\n\
             modules_enabled = {{ \"roster\", \"saslauth\", \"tls\", \"dialback\", \"disco\" }}\nauthentication = \"internal_plain\"\n\
             s2s_secure_auth = false\ninterfaces = {{ \"::\" }}\nVirtualHost \"{domain}\"\nssl = {{ {} }}\n",
            files.join(", ")
        );
        let [config_file, resolver, key, certificate] =
            ["prosody.cfg.lua", "resolv.conf", "prosody.key", "prosody.crt"].map(|name| format!("{at}/{name}"));
        fs::write(&config_file, config).expect("room for a config");
        // The household's own router is who knows names.
        fs::write(&resolver, format!("nameserver {}\n", router.address)).expect("room for a file");
        let key = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            &key,
        ];
        here(&[&key[..], &["-out", &certificate, "-days", "2", "-subj", &format!("/CN={domain}")]].concat());
        here(&["prosodyctl", "--config", &config_file, "register", person, &domain, "secret"]);
        let mount = format!("mount --bind {resolver} /etc/resolv.conf && exec prosody --config {config_file} -F");
        let server = router.host.start(&dir.join("log"), &["sh", "-c", &mount]);
        until("a chat server", secs(20), || {
            if server.log().contains("Activated service 's2s' on") { Ok(()) } else { Err(server.log()) }
        });
        Self { lab, router, person, server }
    }

    fn who(&self) -> String {
        format!("{}@{}.mesh", self.person, self.router.name)
    }

    /// Prints what comes.
    fn listen(&self) -> Background {
        let who = self.who();
        let client = ["go-sendxmpp", "-l", "-n", "-u", &who, "-p", "secret", "-j", "[::1]:5222"];
        let client = self.router.host.start(&self.lab.dir().join(format!("{}.log", self.person)), &client);
        until("somebody who listens", secs(20), || {
            if self.server.log().contains("Authenticated as") { Ok(()) } else { Err(client.log()) }
        });
        client
    }

    fn send(&self, to: &Self, text_of_it: &str) -> Result<(), String> {
        let (file, who, to) = (self.lab.dir().join("message"), self.who(), to.who());
        fs::write(&file, text_of_it).expect("room for a message");
        let client = ["go-sendxmpp", "-n", "-u", &who, "-p", "secret", "-j", "[::1]:5222", "-m", text(&file), &to];
        self.router.host.run(&client).map(drop)
    }
}
