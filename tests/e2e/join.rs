//! A community made by the program's own commands alone: founded, joined by invitation, and left again.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Background, Host, Lab, now, secs, until};

/// A machine with a router of the community, made by `waybill community create` or `waybill join`.
struct Home<'a> {
    lab: &'a Lab,
    host: Host,
    dir: PathBuf,
    router: Option<Background>,
}

impl<'a> Home<'a> {
    fn new(lab: &'a Lab, host: &Host, name: &str) -> Self {
        let dir = lab.dir().join(name);
        std::fs::create_dir(&dir).expect("a directory");
        Self { lab, host: host.clone(), dir, router: None }
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("a path of ASCII").to_owned()
    }

    /// What places its things here.
    fn places(&self) -> [String; 6] {
        let [directory, state, socket] = ["etc", "state", "control.sock"].map(|name| self.file(name));
        ["--directory".to_owned(), directory, "--state".to_owned(), state, "--socket".to_owned(), socket]
    }

    fn run(&self, command: &[&str]) -> Result<String, String> {
        let (waybill, state) = (self.lab.waybill(), format!("XDG_STATE_HOME={}", self.file("xdg")));
        self.host.run(&[&["env", &state, waybill.to_str().expect("a path of ASCII")], command].concat())
    }

    fn must(&self, command: &[&str]) -> String {
        self.run(command).unwrap_or_else(|error| panic!("{error}"))
    }

    fn config(&self) -> String {
        self.file("etc/waybill.toml")
    }

    /// Founds the community.
    fn create(&self, more: &[&str]) {
        let places = self.places();
        let places = places.each_ref().map(String::as_str);
        self.must(&[&["community", "create", "Hilltop"][..], &places, more].concat());
    }

    /// Joins, and starts the router in the same command.
    fn join(&mut self, code: &str, name: &str) {
        let (waybill, places) = (self.lab.waybill(), self.places());
        let places = places.each_ref().map(String::as_str);
        let waybill = waybill.to_str().expect("a path of ASCII");
        let line = [&[waybill, "join", code, "--name", name, "--up"][..], &places].concat();
        self.router = Some(self.host.start(&self.dir.join("router.log"), &line));
    }

    fn up(&mut self) {
        let (waybill, config) = (self.lab.waybill(), self.config());
        let line = [waybill.to_str().expect("a path of ASCII"), "up", "--config", &config];
        self.router = Some(self.host.start(&self.dir.join("router.log"), &line));
    }

    /// An invitation by this router, with the founder's key as issuer.
    fn invite(&self, founder: &Home<'_>, endpoint: &str, more: &[&str]) -> String {
        let (config, issuer) = (self.config(), founder.file("etc/issuer.key"));
        let line = ["invite", "--config", &config, "--issuer", &issuer, "--endpoint", endpoint, "--json"];
        let said: Value = serde_json::from_str(&self.must(&[&line[..], more].concat())).expect("JSON");
        said["invitation"].as_str().expect("a code").to_owned()
    }

    fn show(&self, what: &str) -> Result<Value, String> {
        let socket = self.file("control.sock");
        serde_json::from_str(&self.run(&[what, "--json", "--socket", &socket])?).map_err(|error| error.to_string())
    }

    fn is_member(&self) -> Result<(), String> {
        let status = self.show("status")?;
        if status["membership"]["member"] == Value::Bool(true) { Ok(()) } else { Err(status.to_string()) }
    }

    /// What it waits for, in words.
    fn waits_for(&self, words: &str) -> Result<(), String> {
        let status = self.show("status")?;
        let waits = status["membership"]["waits"].as_str().unwrap_or_default();
        if waits.contains(words) { Ok(()) } else { Err(status.to_string()) }
    }

    fn address(&self) -> String {
        let status = self.show("status").unwrap_or_else(|error| panic!("{error}"));
        status["mesh_address"].as_str().expect("an address").to_owned()
    }

    fn account(&self) -> String {
        let status = self.show("status").unwrap_or_else(|error| panic!("{error}"));
        status["id"].as_str().expect("an account").to_owned()
    }

    fn reaches(&self, address: &str) -> Result<(), String> {
        self.host.run(&["ping", "-c", "1", "-W", "1", address]).map(drop)
    }

    fn is_cut_off_from(&self, address: &str) -> Result<(), String> {
        match self.reaches(address) {
            Ok(()) => Err("it is reached".to_owned()),
            Err(said) if said.contains("prohibited") || said.contains("100% packet loss") => Ok(()),
            Err(said) => Err(said),
        }
    }

    /// As an issuer.
    fn community(&self, command: &[&str]) -> String {
        self.must(
            &[&["community"], command, &["--config", &self.config(), "--issuer", &self.file("etc/issuer.key")]]
                .concat(),
        )
    }
}

/// Far less than anybody waits for.
const SOON: Duration = secs(60);

#[test]
fn a_community_is_founded_joined_and_left_by_commands_alone() {
    let Some(mut lab) = Lab::open("a_community_is_founded_joined_and_left_by_commands_alone", &["ping"]) else {
        return;
    };
    let [on_roof, in_attic, in_barn, at_fence] = ["roof", "attic", "barn", "fence"].map(|name| lab.host(name));
    let (roof_at, _) = lab.cable(&on_roof, &in_attic);
    let (attic_at, _) = lab.cable(&in_attic, &in_barn);
    let (attic_by_the_fence, _) = lab.cable(&in_attic, &at_fence);
    let lab = &lab;
    let [mut roof, mut attic, mut barn, mut fence] =
        [(&on_roof, "roof"), (&in_attic, "attic"), (&in_barn, "barn"), (&at_fence, "fence")]
            .map(|(host, name)| Home::new(lab, host, name));
    let at = |address: &str| format!("{address}:51820");

    roof.create(&["--name", "roof", "--endpoint", &at(&roof_at)]);
    let again =
        roof.run(&[&["community", "create", "Hilltop"][..], &roof.places().each_ref().map(String::as_str)].concat());
    assert!(again.expect_err("it is there").contains("is there already"));
    roof.up();
    until("the founder is a member", SOON, || roof.is_member());

    // The first is a neighbour of the founder's, which has never heard of it; the second reaches the ledger through the first alone.
    let code = roof.invite(&roof, &at(&roof_at), &[]);
    let began = now();
    attic.join(&code, "attic");
    until("attic is a member", SOON, || attic.is_member());
    let first = began.elapsed();
    let roof_is = roof.address();
    until("attic reaches the ledger", SOON, || attic.reaches(&roof_is));
    let code = attic.invite(&roof, &at(&attic_at), &[]);
    let began = now();
    barn.join(&code, "barn");
    until("barn is a member", SOON, || barn.is_member());
    let second = began.elapsed();
    let [attic_is, barn_is] = [&attic, &barn].map(Home::address);
    until("barn reaches attic", SOON, || barn.reaches(&attic_is));
    until("barn reaches roof", SOON, || barn.reaches(&roof_is));
    let whole = began.elapsed();

    // What is used up opens nothing: but for the ledger, which is asked what it says of the code.
    at_fence.must(&["ip", "route", "add", &attic_at, "via", &attic_by_the_fence]);
    // It wants a name that somebody has.
    fence.join(&code, "attic");
    until("fence hears that the code is used", SOON, || fence.waits_for("EnrolmentAlreadyUsed"));
    until("fence does not reach the ledger's machine but for the ledger", SOON, || fence.is_cut_off_from(&roof_is));
    until("fence does not reach attic", SOON, || fence.is_cut_off_from(&attic_is));
    until("fence does not reach barn", SOON, || fence.is_cut_off_from(&barn_is));
    assert!(barn.is_cut_off_from(&fence.address()).is_ok(), "nor is it reached");
    // Another code, given to the router while it runs.
    let code = attic.invite(&roof, &at(&attic_by_the_fence), &[]);
    fence.must(&[&["join", &code][..], &fence.places().each_ref().map(String::as_str)].concat());
    until("fence is a member", SOON, || fence.is_member());
    until("fence reaches barn", SOON, || fence.reaches(&barn_is));
    until("the others have the names they wanted, and fence hears that it has none", SOON, || {
        let (names, status) = (roof.must(&["names", "list", "--config", &roof.config()]), fence.show("status")?);
        let has = |name: &str, address: &str| {
            names.lines().any(|line| line.starts_with(&format!("{name}.mesh ")) && line.contains(address))
        };
        let all = [("roof", &roof_is), ("attic", &attic_is), ("barn", &barn_is)];
        let heard = status["warnings"].to_string().contains("NameTaken");
        let done = heard && names.lines().count() == 4 && all.iter().all(|(name, address)| has(name, address));
        if done { Ok(()) } else { Err(format!("{names}{status}")) }
    });

    // Put out, and taken in again.
    let account = barn.account();
    let began = now();
    roof.community(&["revoke", &account]);
    until("barn is cut off", SOON, || barn.is_cut_off_from(&attic_is));
    let out = began.elapsed();
    until("barn hears so from the ledger, which is open to it", SOON, || barn.waits_for("until an issuer takes it in"));
    let began = now();
    roof.community(&["renew", &account]);
    until("barn is back", SOON, || barn.reaches(&attic_is));
    let back = began.elapsed();
    let members = roof.community(&["members"]);
    assert_eq!(members.lines().filter(|line| line.contains(" yes ")).count(), 4, "{members}");

    // Who is a member is remembered while the ledger is away.
    roof.router = None;
    attic.router = None;
    attic.up();
    until("barn and attic, without the ledger", SOON, || barn.reaches(&attic_is));
    let status = attic.show("status").expect("attic runs");
    lab.figures(&format!(
        "a neighbour of the founder's is a member {first:.1?} after `waybill join`, one behind it {second:.1?}, and both reach each \
         other {whole:.1?}; put out, cut off after {out:.1?}; taken in again, back after {back:.1?}; without the ledger: {}",
        status["membership"]
    ));
}

#[test]
fn a_newcomer_whose_wireguard_is_blocked_from_the_beginning_becomes_a_member_by_quic() {
    let name = "a_newcomer_whose_wireguard_is_blocked_from_the_beginning_becomes_a_member_by_quic";
    let Some(mut lab) = Lab::open(name, &["ping", "nft"]) else { return };
    let [on_roof, in_attic] = ["roof", "attic"].map(|name| lab.host(name));
    let (roof_at, _) = lab.cable(&on_roof, &in_attic);
    let lab = &lab;
    let [mut roof, mut attic] =
        [(&on_roof, "roof"), (&in_attic, "attic")].map(|(host, name)| Home::new(lab, host, name));
    let endpoint = format!("{roof_at}:51820");
    roof.create(&["--name", "roof", "--endpoint", &endpoint]);
    let config = std::fs::read_to_string(roof.config()).expect("a config");
    std::fs::write(roof.config(), config.replace("\"[::]:443\"", "\"[::]:4433\"")).expect("a config");
    roof.up();
    until("the founder is a member", SOON, || roof.is_member());
    in_attic.must(&[
        "nft",
        "table inet blocked { chain output { type filter hook output priority 0; udp dport 51820 drop; }; \
         chain input { type filter hook input priority 0; udp sport 51820 drop; udp dport 51820 drop; }; }",
    ]);

    let code = roof.invite(&roof, &endpoint, &[]);
    let began = now();
    attic.join(&code, "attic");
    until("attic is a member", SOON, || attic.is_member());
    let member = began.elapsed();
    let roof_is = roof.address();
    until("attic reaches roof", SOON, || attic.reaches(&roof_is));
    let carrier = |home: &Home<'_>| -> Result<String, String> {
        let line = home.show("neighbours")?;
        Ok(line[0]["carrier"].as_str().ok_or_else(|| line.to_string())?.to_owned())
    };
    assert_eq!([&attic, &roof].map(carrier), ["quic"; 2].map(|name| Ok(name.to_owned())));

    // It was met with both keys proven: WireGuard takes over once it passes.
    in_attic.must(&["nft", "delete table inet blocked"]);
    let began = now();
    until("WireGuard", SOON, || match (carrier(&attic)?, carrier(&roof)?) {
        (ours, theirs) if ours == "wireguard" && theirs == "wireguard" => Ok(()),
        (ours, theirs) => Err(format!("{ours} {theirs}")),
    });
    let back = began.elapsed();
    assert!(attic.reaches(&roof_is).is_ok());
    lab.figures(&format!(
        "a member {member:.1?} after `waybill join`, by QUIC alone; by WireGuard {back:.1?} after it passes"
    ));
}
