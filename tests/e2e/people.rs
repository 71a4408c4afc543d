//! What people do on a ledger that another machine serves: papers, members and shares, from a machine that has nothing of it but
//! its address and its key.

use ledger_core::voucher::Paper;
use ledger_core::{Command, Order};
use metering::{ChannelId, Identity, LedgerDomain, NodeId, Receipt, Seed, Tokens, WireguardKey};
use serde_json::{Value, json};

use crate::lab::{Host, Lab, here, now, secs, until};
use crate::ledger::{Ledger, Served, TOKEN};

/// The machine that everybody acts from.
struct Shop<'a> {
    lab: &'a Lab,
    host: Host,
    served: Served,
    domain: LedgerDomain,
}

/// Somebody with a key, and with a directory of what its program remembers.
struct Person {
    name: &'static str,
    key: String,
    identity: Identity,
}

impl Person {
    fn new(lab: &Lab, name: &'static str) -> Self {
        let key = lab.dir().join(format!("{name}.key")).to_str().expect("a path of ASCII").to_owned();
        here(&[lab.waybill().to_str().expect("a path of ASCII"), "key", "--file", &key]);
        Self::of(name, key)
    }

    /// Whoever has this key file.
    fn of(name: &'static str, key: String) -> Self {
        let text = std::fs::read_to_string(&key).expect("a key file");
        // A seed is written as `wg` writes a key.
        let seed: WireguardKey = text.trim().parse().expect("32 bytes of base64");
        Self { name, key, identity: Identity::new(&Seed::from_bytes(seed.0)) }
    }

    fn id(&self) -> NodeId {
        self.identity.node_id()
    }
}

impl Shop<'_> {
    fn run(&self, by: &Person, command: &[&str]) -> Result<String, String> {
        self.served.command(&self.host, &self.lab.dir().join(by.name), command)
    }

    fn must(&self, by: &Person, command: &[&str]) -> String {
        self.run(by, command).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Refused by this rule.
    fn refused(&self, by: &Person, command: &[&str], rule: &str) {
        let error = self.run(by, command).expect_err(rule);
        assert!(error.contains(&format!("({rule})")), "{error}");
    }

    fn curl(&self, path: &str, more: &[&str]) -> Value {
        let url = format!("{}{path}", self.served.url);
        let pinned: Vec<&str> = self.served.curl.split(' ').collect();
        let said = self.host.must(&[&["curl", "-sSg"], &pinned[..], more, &[&*url]].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// A question that curl asks.
    fn post(&self, body: &Value) -> Value {
        self.curl("/v1/requests", &["-H", "content-type: application/json", "--data", &body.to_string()])
    }

    fn account(&self, of: &Person) -> Value {
        self.curl(&format!("/v1/accounts/{}", of.id()), &[])
    }

    fn balance(&self, of: &Person) -> u128 {
        crate::ledger::base_units(&self.account(of)["balance"]).expect("an amount")
    }
}

#[test]
fn vouchers_members_and_shares_need_nothing_but_the_served_ledgers_key() {
    let name = "vouchers_members_and_shares_need_nothing_but_the_served_ledgers_key";
    let Some(mut lab) = Lab::open(name, &["curl"]) else { return };
    let [community, host] = ["community", "shop"].map(|name| lab.host(name));
    let (in_community, in_shop) = lab.link_local_cable(&community, &host);
    let address = "fd00::1";
    for (host, device, address) in [(&community, &in_community, address), (&host, &in_shop, "fd00::2")] {
        host.must(&["ip", "address", "add", &format!("{address}/64"), "dev", device, "nodad"]);
    }
    let ledger = Ledger::create(&lab);
    let served = ledger.serve(&lab, &community, address);
    let mut shop = Shop { lab: &lab, host, served, domain: LedgerDomain { chain_id: 0, contract: NodeId([0; 20]) } };
    shop.domain = serde_json::from_value(shop.curl("/v1/ledger", &[])["domain"].clone()).expect("a domain");
    let treasurer = Person::of("treasurer", ledger.treasurer().to_owned());
    let [seller, buyer, router] = ["seller", "buyer", "router"].map(|name| Person::new(&lab, name));
    let began = now();
    for person in [&seller, &router] {
        let to = person.id().to_string();
        shop.must(&treasurer, &["mint", "--treasurer", &treasurer.key, "--to", &to, "--amount", "100"]);
    }
    vouchers(&shop, &seller, &buyer);
    members(&shop, &treasurer, &seller, &buyer);
    shares(&shop, &seller, &router, &buyer);

    // By one who has never asked before.
    let auditor = Person::of("auditor", buyer.key.clone());
    let audit = shop.must(&auditor, &["audit"]);
    assert!(audit.starts_with("every rule was kept in all "), "{audit}");
    let took = began.elapsed();
    let totals = ledger.audit();
    assert_eq!(totals.minted, 200 * TOKEN);
    lab.figures(&format!("vouchers, members, shares and an audit over HTTPS in {:.1} s", took.as_secs_f64()));
}

fn vouchers(shop: &Shop<'_>, seller: &Person, buyer: &Person) {
    let issue = ["voucher", "issue", "--key", &seller.key, "--amount", "5", "--until", "30d", "--count", "3"];
    let papers = shop.must(seller, &issue);
    let papers: Vec<&str> = papers.lines().collect();
    let [first, second, third] = papers[..] else { panic!("{papers:?}") };
    let (check, to) = (|paper: &str| shop.must(buyer, &["voucher", "check", paper]), buyer.id().to_string());
    assert!(check(first).contains("good: nobody has redeemed it"), "{}", check(first));
    shop.must(buyer, &["voucher", "redeem", first, "--to", &to]);
    assert!(check(first).contains(&format!("spent: redeemed for {to}")), "{}", check(first));
    let thief = seller.id().to_string();
    shop.refused(seller, &["voucher", "redeem", first, "--to", &thief], "VoucherAlreadySpent");

    // Curl alone, with the document's JSON.
    let paper: Paper = second.parse().expect("a paper");
    let claim = paper.claim(&shop.domain, buyer.id()).expect("a good paper");
    let signature = format!("0x{}", hex(&claim.signature().0));
    let [issuer, voucher] = [claim.issuer(), claim.voucher()].map(|id| id.to_string());
    let claim = |to: &str| json!({ "issuer": issuer, "voucher": voucher, "to": to, "signature": signature });
    let stolen = shop.post(&json!({ "redeem_voucher": { "claim": claim(&thief) } }));
    assert_eq!(stolen["title"], "ClaimSignatureInvalid", "{stolen}");
    let redeemed = shop.post(&json!({ "redeem_voucher": { "claim": claim(&to) } }));
    assert_eq!(redeemed["entry"]["event"]["voucher_redeemed"]["amount"], (5 * TOKEN).to_string(), "{redeemed}");
    assert_eq!(shop.balance(buyer), 10 * TOKEN);
    assert!(check(third).contains("good: nobody has redeemed it"), "{}", check(third));
    assert_eq!(shop.balance(seller), 85 * TOKEN, "what no paper has brought is locked");
}

fn members(shop: &Shop<'_>, treasurer: &Person, issuer: &Person, newcomer: &Person) {
    let (to, of) = (issuer.id().to_string(), newcomer.id().to_string());
    let offer = ["enrol", "offer", "--issuer", &issuer.key, "--until", "365d"];
    shop.refused(issuer, &offer, "NotIssuer");
    shop.must(treasurer, &["appoint", "--treasurer", &treasurer.key, "--role", "issuer", "--to", &to]);
    let code = shop.must(issuer, &offer);
    let shown = || shop.must(newcomer, &["member", "show", &of]);
    assert!(shown().contains("member   no\n"), "{}", shown());
    shop.must(newcomer, &["enrol", "take", &code, "--key", &newcomer.key]);
    assert!(shown().contains("member   until "), "{}", shown());
    let second = ["enrol", "take", &code, "--key", &treasurer.key];
    shop.refused(treasurer, &second, "EnrolmentAlreadyUsed");
    // Until a moment later, which passes.
    shop.must(issuer, &["member", "add", "--issuer", &issuer.key, "--of", &of, "--until", "1s"]);
    until("the end of a membership", secs(10), || {
        let shown = shown();
        if shown.contains("member   no: it ended at ") { Ok(()) } else { Err(shown) }
    });
    shop.must(issuer, &["member", "add", "--issuer", &issuer.key, "--of", &of, "--until", "30d"]);
    shop.must(issuer, &["member", "remove", "--issuer", &issuer.key, "--of", &of]);
    assert!(shown().contains("member   no: put out by an issuer"), "{}", shown());
}

/// A router of three shares, of which another holds one, earns 100 base units and then 2 more.
fn shares(shop: &Shop<'_>, payer: &Person, router: &Person, holder: &Person) {
    let to = holder.id().to_string();
    shop.must(router, &["shares", "issue", "--key", &router.key, "--shares", "3"]);
    shop.must(router, &["shares", "give", "--key", &router.key, "--shares", "1", "--to", &to]);

    let channel = ChannelId { payer: payer.id(), payee: router.id(), nonce: 1 };
    let sequence = shop.account(payer)["sequence"].as_u64().expect("a number") + 1;
    let deposit = Tokens::new(1000).expect("an amount");
    let command = Command::OpenChannel { payee: router.id(), deposit };
    let order = Order::sign(payer.identity.account(), &shop.domain, payer.id(), sequence, command);
    let opened = shop.post(&json!({ "order": {
        "account": payer.id().to_string(),
        "sequence": sequence,
        "command": { "open_channel": { "payee": router.id().to_string(), "deposit": "1000" } },
        "signature": format!("0x{}", hex(&order.seal().signature.0)),
    } }));
    assert_eq!(opened["entry"]["event"]["channel_opened"]["deposit"], "1000", "{opened}");
    let redeem = |total: u128| {
        let amount = Tokens::new(total).expect("an amount");
        let receipt = Receipt::sign(payer.identity.account(), &shop.domain, channel, amount, [0xab; 32]);
        shop.post(&json!({ "redeem": { "receipt": {
            "channel": { "payer": payer.id().to_string(), "payee": router.id().to_string(), "nonce": 1 },
            "amount": total.to_string(),
            "meter": format!("0x{}", "ab".repeat(32)),
            "signature": format!("0x{}", hex(&receipt.signature().0)),
        } } }))
    };
    let claim = |by: &Person| {
        let of = router.id().to_string();
        let said = shop.must(by, &["shares", "claim", "--key", &by.key, "--router", &of, "--json"]);
        let said: Value = serde_json::from_str(&said).expect("JSON");
        crate::ledger::base_units(&said["amount"]).unwrap_or_else(|| panic!("{said}"))
    };
    let before = [router, holder].map(|person| shop.balance(person));
    assert_eq!(redeem(100)["entry"]["event"]["redeemed"]["paid"], "100");
    assert_eq!(redeem(100)["title"], "ReceiptAlreadyRedeemed");
    assert_eq!(claim(holder), 33, "a third of it, in whole units");
    assert_eq!(redeem(102)["entry"]["event"]["redeemed"]["paid"], "2");
    assert_eq!([router, holder].map(claim), [68, 1]);
    let router_id = router.id().to_string();
    for person in [router, holder] {
        let again = ["shares", "claim", "--key", &person.key, "--router", &router_id];
        shop.refused(person, &again, "NothingToClaim");
    }
    assert_eq!([router, holder].map(|person| shop.balance(person)), [before[0] + 68, before[1] + 34]);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
