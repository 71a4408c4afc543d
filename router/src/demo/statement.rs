//! What the demo shows: a table while it runs, and at the end a statement that can be checked by hand.

use std::time::{Duration, Instant};

use ledger_client::Totals;
use metering::{Bytes, NodeId, SortedMap, Tokens};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::mesh::{Carried, DECIMALS, Download, Link, Mesh, Name, SYMBOL, unit};
use super::{Cut, clock};
use crate::cli::table::{Side, Table, amount};
use crate::cli::{DemoOptions, Failure};
use crate::control::Direction;

/// The table while it runs; remembers the last one for the rates.
#[derive(Default)]
pub(super) struct Live {
    last: SortedMap<Name, (Instant, u64)>,
}

impl Live {
    pub(super) async fn table(&mut self, mesh: &Mesh, download: &Download, file: u64) -> String {
        let mut table = Table::new(&[
            ("NODE", Side::Left),
            ("RATE", Side::Right),
            ("CARRIED FOR", Side::Left),
            ("OWED TO IT", Side::Right),
            ("SIGNED TO IT", Side::Right),
        ]);
        for name in mesh.names() {
            let carried = mesh.carried(name).await;
            let all = carried.values().map(|carried| carried.bytes).sum();
            let (owed, signed) = mesh.claims(name).await;
            let earns = name.role() != "household";
            let money = |tokens: Tokens| if earns { amount(tokens, &unit()) } else { String::new() };
            let works = match download.clients.iter().find(|client| client.name == name) {
                Some(client) => format!("itself, {} of {}", Bytes::new(client.reached()), Bytes::new(file)),
                None if !mesh.has_power(name) => "nobody: no power".to_owned(),
                None => carried_for(mesh, name, &carried),
            };
            table.row([name.to_string(), self.rate(name, all), works, money(owed), money(signed)]);
        }
        table.render()
    }

    fn rate(&mut self, name: Name, bytes: u64) -> String {
        let now = clock();
        let Some((at, before)) = self.last.insert(name, (now, bytes)) else { return String::new() };
        let micros = u64::try_from(now.saturating_duration_since(at).as_micros()).unwrap_or(u64::MAX).max(1);
        let per_second = u128::from(bytes.saturating_sub(before)) * 1_000_000 / u128::from(micros);
        format!("{}/s", Bytes::new(u64::try_from(per_second).unwrap_or(u64::MAX)))
    }
}

/// Whom a node carries for: its subscribers.
fn carried_for(mesh: &Mesh, name: Name, carried: &SortedMap<Name, Carried>) -> String {
    let subscribers = mesh.links.iter().filter(|link| link.provider == name).map(|link| link.subscriber);
    let each = subscribers.map(|subscriber| {
        let bytes = carried.get(&subscriber).map_or(0, |carried| carried.bytes);
        format!("{subscriber} {}", Bytes::new(bytes))
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The end of the play, in figures.
pub(super) struct Statement {
    seed: u64,
    nodes: Vec<NodeLine>,
    links: Vec<LinkLine>,
    receipts: Receipts,
    totals: Totals,
    minted_by_hand: Tokens,
    file: u64,
    sha256: String,
    hashes: Vec<(Name, bool)>,
    cut: Name,
    outage: Option<Duration>,
    elapsed: Duration,
    audit: Option<String>,
}

struct NodeLine {
    name: Name,
    id: NodeId,
    carried: u64,
    granted: Tokens,
    earned: Tokens,
    spent: Tokens,
    balance: Tokens,
    locked: Tokens,
}

struct LinkLine {
    link: Link,
    bytes: u64,
    paid: Tokens,
}

#[derive(Default)]
struct Receipts {
    signed: u64,
    verified: u64,
    redeemed: u64,
    signed_amount: Tokens,
    redeemed_amount: Tokens,
}

impl Statement {
    pub(super) async fn draw_up(
        mesh: &mut Mesh,
        options: DemoOptions,
        hashes: &[(Name, Option<[u8; 32]>)],
        cut: Cut,
        elapsed: Duration,
    ) -> Result<Self, Failure> {
        let names: Vec<Name> = mesh.names().collect();
        let ids: SortedMap<NodeId, Name> = names.iter().map(|name| (mesh.id(*name), *name)).collect();
        let (mut nodes, mut receipts, mut paid) = (Vec::new(), Receipts::default(), SortedMap::new());
        let mut carried = SortedMap::new();
        for name in &names {
            let id = mesh.id(*name);
            let (mut earned, mut spent, mut locked) = (Tokens::ZERO, Tokens::ZERO, Tokens::ZERO);
            for (channel, record) in mesh.channels(id)? {
                if channel.payee == id {
                    earned = earned.saturating_add(record.redeemed);
                    receipts.redeemed += u64::from(record.redeemed > Tokens::ZERO);
                    receipts.redeemed_amount = receipts.redeemed_amount.saturating_add(record.redeemed);
                    if let Some(payer) = ids.get(&channel.payer) {
                        let sum: &mut Tokens = paid.entry((*payer, *name)).or_insert(Tokens::ZERO);
                        *sum = sum.saturating_add(record.redeemed);
                    }
                } else {
                    spent = spent.saturating_add(record.redeemed);
                    locked = locked.saturating_add(record.locked());
                }
            }
            let held = mesh.receipts(*name).await.map(|held| held.receipts).unwrap_or_default();
            for receipt in held.iter().filter(|receipt| receipt.direction == Direction::WeArePaid) {
                receipts.signed_amount = receipts.signed_amount.saturating_add(receipt.amount);
            }
            let with = mesh.carried(*name).await;
            receipts.signed += with.values().map(|carried| carried.signed).sum::<u64>();
            receipts.verified += with.values().map(|carried| carried.verified).sum::<u64>();
            nodes.push(NodeLine {
                name: *name,
                id,
                carried: subscribers(mesh, *name).filter_map(|other| with.get(&other)).map(|with| with.bytes).sum(),
                granted: mesh.granted(*name),
                earned,
                spent,
                balance: mesh.balance(id)?,
                locked,
            });
            carried.insert(*name, with);
        }
        let links = mesh.links.iter().map(|link| LinkLine {
            link: *link,
            bytes: carried.get(&link.provider).and_then(|with| with.get(&link.subscriber)).map_or(0, |with| with.bytes),
            paid: paid.get(&(link.subscriber, link.provider)).copied().unwrap_or(Tokens::ZERO),
        });
        let links = links.collect();
        let sha256: [u8; 32] = Sha256::digest(&mesh.file).into();
        let minted_by_hand = nodes.iter().fold(Tokens::ZERO, |sum, node| sum.saturating_add(node.granted));
        Ok(Self {
            seed: options.seed,
            nodes,
            links,
            receipts,
            totals: mesh.totals()?,
            minted_by_hand,
            file: mesh.file.len() as u64,
            hashes: hashes.iter().map(|(name, hash)| (*name, *hash == Some(sha256))).collect(),
            sha256: hex::encode(sha256),
            cut: cut.relay,
            outage: cut.outage,
            elapsed,
            audit: mesh.audit()?,
        })
    }

    /// What does not add up, in words.
    pub(super) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for node in &self.nodes {
            let has = node.balance.saturating_add(node.locked).saturating_add(node.spent);
            let had = node.granted.saturating_add(node.earned);
            if has != had {
                broken.push(format!("{}: had {had} base units in all, and accounts for {has}", node.name));
            }
        }
        let total = self.held().saturating_add(self.locked());
        if total != self.minted_by_hand || self.totals.minted != self.minted_by_hand || !self.totals.conserved() {
            broken.push(format!("{} base units were minted and {total} are there", self.totals.minted));
        }
        if self.receipts.redeemed_amount != self.receipts.signed_amount || self.receipts.redeemed == 0 {
            let Receipts { redeemed_amount, signed_amount, .. } = self.receipts;
            broken
                .push(format!("receipts over {signed_amount} base units are held and {redeemed_amount} were redeemed"));
        }
        let differ = self.hashes.iter().filter(|(_, same)| !same);
        broken.extend(differ.map(|(name, _)| format!("{name} received another file than was sent, or not all of it")));
        if self.outage.is_none() {
            broken.push(format!("traffic did not leave {} when it lost power", self.cut));
        }
        broken.extend(self.audit.iter().map(|difference| format!("the ledger's audit found: {difference}")));
        broken
    }

    fn held(&self) -> Tokens {
        self.nodes.iter().fold(Tokens::ZERO, |sum, node| sum.saturating_add(node.balance))
    }

    fn locked(&self) -> Tokens {
        self.nodes.iter().fold(Tokens::ZERO, |sum, node| sum.saturating_add(node.locked))
    }

    pub(super) fn to_text(&self) -> String {
        let money = |tokens: Tokens| amount(tokens, &unit());
        let mut nodes = Table::new(&[
            ("NODE", Side::Left),
            ("CARRIED", Side::Right),
            ("BEGAN WITH", Side::Right),
            ("+ EARNED", Side::Right),
            ("- SPENT", Side::Right),
            ("= BALANCE", Side::Right),
            ("+ LOCKED", Side::Right),
        ]);
        let sum = |of: &dyn Fn(&NodeLine) -> Tokens| {
            self.nodes.iter().fold(Tokens::ZERO, |sum, node| sum.saturating_add(of(node)))
        };
        for node in &self.nodes {
            nodes.row([
                node.name.to_string(),
                Bytes::new(node.carried).to_string(),
                money(node.granted),
                money(node.earned),
                money(node.spent),
                money(node.balance),
                money(node.locked),
            ]);
        }
        nodes.row([
            "all".to_owned(),
            String::new(),
            money(sum(&|node| node.granted)),
            money(sum(&|node| node.earned)),
            money(sum(&|node| node.spent)),
            money(self.held()),
            money(self.locked()),
        ]);
        let mut links = Table::new(&[
            ("LINK", Side::Left),
            ("KIND", Side::Left),
            ("BILLED BYTES", Side::Right),
            ("PER GIB", Side::Right),
            ("REDEEMED", Side::Right),
        ]);
        for line in &self.links {
            let Link { subscriber, provider, .. } = line.link;
            let price = Tokens::new(provider.price().get().into()).unwrap_or(Tokens::ZERO);
            links.row([
                format!("{subscriber} to {provider}"),
                line.link.kind().to_owned(),
                line.bytes.to_string(),
                money(price),
                money(line.paid),
            ]);
        }
        let outage = self.outage.map_or_else(|| "never".to_owned(), |time| format!("{:.1} s", time.as_secs_f32()));
        let whole = if self.hashes.iter().all(|(_, same)| *same) { "equal at both ends" } else { "NOT equal" };
        format!(
            "Statement, in {SYMBOL} with {DECIMALS} decimals\n\n{}\n{}\n\
             A link's amount is its bytes / 2^30 * price, rounded down for each direction and run of the link; what {cut}\n\
             had carried and not yet been signed for when it lost power is written off.\n\n\
             minted {} = balances {} + locked in channels {}\n\
             receipts: {} signed, {} verified, {} channels redeemed\n\
             file: {} bytes for each household, SHA-256 {} {whole}\n\
             rerouted around {cut} after {outage}; {:.1} s in all; seed {}\n",
            nodes.render(),
            links.render(),
            money(self.totals.minted),
            money(self.held()),
            money(self.locked()),
            self.receipts.signed,
            self.receipts.verified,
            self.receipts.redeemed,
            self.file,
            self.sha256,
            self.elapsed.as_secs_f32(),
            self.seed,
            cut = self.cut,
        )
    }

    pub(super) fn to_json(&self) -> String {
        let nodes: Vec<Value> = self.nodes.iter().map(NodeLine::to_json).collect();
        let links: Vec<Value> = self.links.iter().map(LinkLine::to_json).collect();
        let object = json!({
            "nodes": nodes,
            "links": links,
            "receipts": {
                "signed": self.receipts.signed,
                "verified": self.receipts.verified,
                "redeemed": self.receipts.redeemed,
                "signed_amount": number(self.receipts.signed_amount),
                "redeemed_amount": number(self.receipts.redeemed_amount),
            },
            "tokens": {
                "minted": number(self.totals.minted),
                "held": number(self.held()),
                "locked": number(self.locked()),
                "conserved": self.totals.conserved() && self.held().checked_add(self.locked()) == Some(self.totals.minted),
                "symbol": SYMBOL,
                "decimals": DECIMALS,
            },
            "payload": { "bytes": self.file, "sha256": self.sha256, "sha256_ok": self.hashes.iter().all(|(_, same)| *same) },
            "cut": self.cut.to_string(),
            "rerouted": self.outage.is_some(),
            "outage_s": self.outage.map(|outage| outage.as_secs_f64()),
            "seed": self.seed,
            "elapsed_s": self.elapsed.as_secs_f64(),
            "ok": self.broken().is_empty(),
        });
        format!("{object:#}\n")
    }
}

fn subscribers(mesh: &Mesh, name: Name) -> impl Iterator<Item = Name> + use<'_> {
    mesh.links.iter().filter(move |link| link.provider == name).map(|link| link.subscriber)
}

impl NodeLine {
    fn to_json(&self) -> Value {
        json!({
            "name": self.name.to_string(),
            "id": self.id.to_string(),
            "role": self.name.role(),
            "carried_bytes": self.carried,
            "earned": number(self.earned),
            "spent": number(self.spent),
            "balance": number(self.balance),
            "locked": number(self.locked),
        })
    }
}

impl LinkLine {
    fn to_json(&self) -> Value {
        json!({
            "a": self.link.subscriber.to_string(),
            "b": self.link.provider.to_string(),
            "kind": self.link.kind(),
            "bytes": self.bytes,
            "price_per_gib": self.link.provider.price().get(),
            "redeemed": number(self.paid),
        })
    }
}

/// Base units as a JSON number: the demo mints far less than 2^53.
fn number(tokens: Tokens) -> u64 {
    u64::try_from(tokens.get()).unwrap_or(u64::MAX)
}
