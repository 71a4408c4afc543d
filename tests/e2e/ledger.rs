//! The community's ledger: one file on this machine that all routers of a lab share.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::{Background, Host, Lab, here, secs, until};
use crate::router::Router;

/// Base units of one token.
pub(crate) const TOKEN: u128 = 1_000_000;

/// A ledger and its treasurer.
pub(crate) struct Ledger {
    waybill: String,
    path: PathBuf,
    treasurer: String,
}

/// Where all tokens are, in base units, as an audit found them by replaying the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) minted: u128,
    pub(crate) held: u128,
    pub(crate) locked: u128,
}

/// A ledger that a machine serves.
pub(crate) struct Served {
    waybill: String,
    pub(crate) process: Background,
    pub(crate) url: String,
    pub(crate) key: String,
    /// What makes curl believe it.
    pub(crate) curl: String,
    /// What a router's config says of it.
    pub(crate) config: String,
}

impl Served {
    /// What `waybill ledger COMMAND` says on another machine.
    pub(crate) fn command(&self, from: &Host, state: &Path, command: &[&str]) -> Result<String, String> {
        let state = state.to_str().expect("a path of ASCII");
        let place = ["--url", &self.url, "--ledger-key", &self.key, "--state", state];
        from.run(&[&[&self.waybill, "ledger"], command, &place].concat())
    }
}

impl Ledger {
    pub(crate) fn create(lab: &Lab) -> Self {
        Self::create_with_notice(lab, "72h")
    }

    /// With so long a notice before a payer gets back what is left in a channel.
    pub(crate) fn create_with_notice(lab: &Lab, notice: &str) -> Self {
        let text = |path: &Path| path.to_str().expect("a path of ASCII").to_owned();
        let path = lab.dir().join("community.ledger");
        let treasurer = text(&lab.dir().join("treasurer.key"));
        let ledger = Self { waybill: text(&lab.waybill()), path, treasurer };
        here(&[&ledger.waybill, "key", "--file", &ledger.treasurer]);
        let named = ["--community", "Lab", "--symbol", "WAY", "--short-notice", "--close-notice", notice];
        ledger.command("create", &[&named[..], &["--treasurer", &ledger.treasurer]].concat());
        ledger
    }

    /// The one that a router founded with its community.
    pub(crate) fn founded_by(founder: &Router) -> Self {
        let text = |path: &Path| path.to_str().expect("a path of ASCII").to_owned();
        let path = founder.state_dir().join("community.ledger");
        Self { waybill: text(&founder.waybill), path, treasurer: text(&founder.dir.join("treasurer.key")) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The treasurer's key file.
    pub(crate) fn treasurer(&self) -> &str {
        &self.treasurer
    }

    /// Another file with the same entries, which goes on by itself: what an operator needs to tell two stories.
    pub(crate) fn copied(&self, lab: &Lab, name: &str) -> Self {
        let copy = lab.dir().join(name);
        self.command("backup", &["--to", copy.to_str().expect("a path of ASCII")]);
        Self { waybill: self.waybill.clone(), path: copy, treasurer: self.treasurer.clone() }
    }

    /// Makes routers members for a year, by an issuer who is the treasurer too.
    pub(crate) fn add_members(&self, routers: &[Router]) {
        let issuer: Value = serde_json::from_str(&here(&[&self.waybill, "key", "--json", "--file", &self.treasurer]))
            .expect("`waybill key --json` prints JSON");
        let issuer = issuer["account"].as_str().expect("a key has an account");
        self.command("appoint", &["--treasurer", &self.treasurer, "--role", "issuer", "--to", issuer]);
        let path = self.path.to_str().expect("a path of ASCII");
        for router in routers {
            let line = [&self.waybill, "ledger", "member", "add", "--path", path, "--issuer", &self.treasurer];
            here(&[&line[..], &["--of", &router.id, "--until", "365d"]].concat());
        }
    }

    /// Makes whole tokens for a router.
    pub(crate) fn mint(&self, to: &Router, tokens: u32) {
        let amount = tokens.to_string();
        self.command("mint", &["--treasurer", &self.treasurer, "--to", &to.id, "--amount", &amount]);
    }

    /// Replays the log; every rule was kept and nothing was lost or made.
    pub(crate) fn audit(&self) -> Totals {
        let said = self.command("audit", &[]);
        let audit: Value = serde_json::from_str(&said).expect("an audit in JSON");
        let amount = |name: &str| base_units(&audit[name]).unwrap_or_else(|| panic!("no {name} in {said}"));
        let totals = Totals { minted: amount("minted"), held: amount("held"), locked: amount("locked") };
        assert_eq!(audit["conserved"], true, "{said}");
        assert_eq!(totals.minted, totals.held + totals.locked, "{said}");
        totals
    }

    /// Redeems all receipts of a file that `waybill receipts --json` wrote, and returns what each brought, in base units.
    pub(crate) fn redeem(&self, receipts: &Path) -> Vec<Option<u128>> {
        let said = self.command("redeem", &["--receipts", receipts.to_str().expect("a path of ASCII")]);
        let answer: Value = serde_json::from_str(&said).expect("redemptions in JSON");
        let lines = answer["receipts"].as_array().unwrap_or_else(|| panic!("{said}"));
        lines.iter().map(|line| base_units(&line["paid"])).collect()
    }

    /// Serves it from a machine, for others to reach at `address`.
    pub(crate) fn serve(&self, lab: &Lab, host: &Host, address: &str) -> Served {
        let key = lab.dir().join("ledger.key");
        let key = key.to_str().expect("a path of ASCII");
        here(&[&self.waybill, "key", "--file", key]);
        let log = lab.dir().join("served.log");
        let _earlier = std::fs::remove_file(&log);
        let path = self.path.to_str().expect("a path of ASCII");
        let line = [&self.waybill, "ledger", "serve", "--path", path, "--key", key, "--listen", "[::]:8443"];
        let process = host.start(&log, &line);
        let said = until("served ledger", secs(20), || {
            let said = process.log();
            if said.contains("is served") { Ok(said) } else { Err(said) }
        });
        let word = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {said}")).trim().to_owned()
        };
        let (url, key) = (format!("https://[{address}]:8443"), word("its key"));
        let config = format!("url = \"{url}\"\nkey = \"{key}\"\nfounding = \"{}\"", word("founding"));
        Served { waybill: self.waybill.clone(), process, url, key, curl: word("for curl"), config }
    }

    fn command(&self, command: &str, arguments: &[&str]) -> String {
        let path = self.path.to_str().expect("a path of ASCII");
        let mut line = vec![self.waybill.as_str(), "ledger", command, "--path", path, "--json"];
        line.extend(arguments);
        here(&line)
    }
}

/// An amount as the program prints it for programs: a string that counts base units.
pub(crate) fn base_units(value: &Value) -> Option<u128> {
    value.as_str()?.parse().ok()
}
