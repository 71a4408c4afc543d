//! `openapi.json` says what the types say: each is held against the other, in both directions.
#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::collections::BTreeSet;

use ledger_core::membership::Membership;
use ledger_core::registry::{Registration, Station};
use ledger_core::role::Role;
use ledger_core::voucher::Claim;
use ledger_core::{Entry, Event, Genesis, Hash, Head, Refusal, Request, Seal, UnixTime};
use ledger_http::wire::{
    About, Account, Channels, Done, Entries, EntryRecord, Growth, Inclusion, Named, Names, Outcome, Pair, Problem,
    ProvenRecords,
};
use metering::{AccountKey, ChannelId, Close, NodeId, Price, Receipt, Signature, Tokens};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

fn document() -> Value {
    serde_json::from_str(include_str!("../openapi.json")).unwrap()
}

/// What a `$ref` names, or the schema itself.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(to) => document.pointer(to.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{to} leads nowhere")),
        None => schema,
    }
}

/// Why a value is not of a schema: of what JSON Schema has, as much as the document uses, but for patterns.
fn mismatch(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let schema = resolved(document, schema);
    let wrong = |why: &str| Some(format!("{why}: {value}"));
    if schema.get("type").is_some_and(|kind| kind != kind_of(value)) {
        return wrong(&format!("is no {}", schema["type"]));
    }
    for (word, rule) in schema.as_object().unwrap() {
        let found = match (word.as_str(), rule) {
            ("oneOf" | "anyOf", Value::Array(branches)) => {
                let fit = branches.iter().filter(|branch| mismatch(document, branch, value).is_none()).count();
                if fit == 1 { None } else { wrong(&format!("fits {fit} branches of {}", schema["description"])) }
            }
            ("const", _) if rule != value => wrong("is not the one word"),
            ("enum", Value::Array(words)) if !words.contains(value) => wrong("is not one of the words"),
            ("minimum", _) if value.as_u64() < rule.as_u64() => wrong("is too small"),
            ("maximum", _) if value.as_u64() > rule.as_u64() => wrong("is too large"),
            ("maxItems", _) if value.as_array().unwrap().len() as u64 > rule.as_u64().unwrap() => wrong("is too long"),
            ("minItems", _) if (value.as_array().unwrap().len() as u64) < rule.as_u64().unwrap() => {
                wrong("is too short")
            }
            ("items", _) => value.as_array().unwrap().iter().find_map(|item| mismatch(document, rule, item)),
            ("required", Value::Array(names)) => {
                let missing = names.iter().find(|name| value.get(name.as_str().unwrap()).is_none());
                missing.and_then(|name| wrong(&format!("lacks {name}")))
            }
            ("properties", Value::Object(fields)) => value.as_object().unwrap().iter().find_map(|(name, value)| {
                let Some(field) = fields.get(name) else { return wrong(&format!("has a field {name}")) };
                mismatch(document, field, value)
            }),
            ("description" | "examples" | "pattern" | "minLength" | "maxLength" | "default" | "uniqueItems", _)
            | (
                "const" | "enum" | "type" | "minimum" | "maximum" | "maxItems" | "minItems" | "additionalProperties",
                _,
            ) => None,
            _ => panic!("this test does not know the word {word}"),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn schema<'a>(document: &'a Value, name: &str) -> &'a Value {
    &document["components"]["schemas"][name]
}

fn assert_fits(document: &Value, name: &str, value: &Value) {
    let mismatch = mismatch(document, schema(document, name), value);
    assert_eq!(mismatch, None, "{name}: {value}");
}

/// Values of a schema: every branch once, every field there.
fn samples(document: &Value, schema: &Value) -> Vec<Value> {
    let schema = resolved(document, schema);
    if let Some(branches) = schema.get("oneOf").or(schema.get("anyOf")) {
        return branches.as_array().unwrap().iter().flat_map(|branch| samples(document, branch)).collect();
    }
    if let Some(words) = schema.get("enum") {
        return words.as_array().unwrap().clone();
    }
    if let Some(word) = schema.get("const") {
        return vec![word.clone()];
    }
    match schema["type"].as_str().unwrap() {
        "object" => {
            let fields = schema["properties"].as_object().unwrap();
            let of_fields: Vec<_> = fields.iter().map(|(name, field)| (name, samples(document, field))).collect();
            let most = of_fields.iter().map(|(_, values)| values.len()).max().unwrap();
            let nth = |n: usize| {
                let fields = of_fields.iter().map(|(name, values)| ((*name).clone(), values[n % values.len()].clone()));
                Value::Object(fields.collect::<Map<_, _>>())
            };
            (0..most).map(nth).collect()
        }
        "array" => vec![Value::Array(samples(document, &schema["items"]))],
        "integer" => vec![schema["maximum"].clone()],
        "boolean" => vec![json!(true)],
        "string" => vec![json!(text_of(schema.get("pattern").and_then(Value::as_str).unwrap_or("")))],
        "null" => vec![Value::Null],
        kind => panic!("this test does not know the type {kind}"),
    }
}

/// A text of each pattern that the document has.
fn text_of(pattern: &str) -> String {
    let account = format!("0x{}", "00".repeat(20));
    match pattern {
        "" => "words".to_owned(),
        "^0x[0-9a-fA-F]{40}$" => account,
        "^(0|[1-9][0-9]{0,28})$" => Tokens::MAX.to_string(),
        "^(0|[1-9][0-9]{0,19})$" => u64::MAX.to_string(),
        "^(?!-|[0-9]+$|..--)[a-z0-9-]{0,31}[a-z0-9]$" => "roof-3".to_owned(),
        "^0x[0-9a-fA-F]{32}$" => format!("0x{}", "01".repeat(16)),
        "^0x[0-9a-fA-F]{64}$" => format!("0x{}", "ab".repeat(32)),
        "^0x[0-9a-fA-F]{130}$" => format!("0x{}", "cd".repeat(65)),
        "^0x([0-9a-f]{2}){0,1024}$" | "^0x([0-9a-f]{2}){1,1024}$" => "0x00ff".to_owned(),
        pattern if pattern.starts_with("^0x[0-9a-fA-F]{40}/") => format!("{account}/{account}/1"),
        pattern if pattern.starts_with("^[^+") => "waybill/0x00+00000000+AQ==".to_owned(),
        _ => panic!("this test does not know the pattern {pattern}"),
    }
}

/// What the document describes is read, field for field, and written again as it was.
fn reads_all_of<T: Serialize + DeserializeOwned>(document: &Value, name: &str) {
    for sample in samples(document, schema(document, name)) {
        let read: T =
            serde_json::from_value(sample.clone()).unwrap_or_else(|error| panic!("{name}: {error}: {sample}"));
        assert_eq!(serde_json::to_value(&read).unwrap(), sample, "{name}");
    }
}

/// The names of an enum's variants, as serde tells them to who gives a wrong one.
fn variants<T: DeserializeOwned>() -> BTreeSet<String> {
    let Err(error) = serde_json::from_str::<T>("\"?\"") else { panic!("`?` is a variant") };
    let error = error.to_string();
    let (_, names) = error.split_once("expected one of ").unwrap_or_else(|| panic!("{error}"));
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The names of the branches of a schema that stands for an enum.
fn branches(document: &Value, name: &str) -> BTreeSet<String> {
    let name_of = |branch: &Value| match branch.get("const") {
        Some(word) => word.as_str().unwrap().to_owned(),
        None => branch["required"][0].as_str().unwrap().to_owned(),
    };
    schema(document, name)["oneOf"].as_array().unwrap().iter().map(name_of).collect()
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_led_to() {
    let document = document();
    let mut led_to = BTreeSet::new();
    let mut seen = vec![&document];
    while let Some(value) = seen.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(to) = fields.get("$ref").and_then(Value::as_str) {
                    resolved(&document, value);
                    led_to.insert(to.to_owned());
                }
                seen.extend(fields.values());
            }
            Value::Array(items) => seen.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    for kind in ["schemas", "responses"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(led_to.contains(&format!("#/components/{kind}/{name}")), "nothing leads to {name}");
        }
    }
}

#[test]
fn every_object_is_described_to_its_last_field() {
    let document = document();
    let mut seen = vec![&document["components"]["schemas"]];
    while let Some(value) = seen.pop() {
        if let Value::Object(fields) = value {
            if let Some(properties) = fields.get("properties").filter(|_| value["type"] == "object") {
                let names: BTreeSet<_> = properties.as_object().unwrap().keys().map(String::as_str).collect();
                let required = value["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                assert_eq!(value["additionalProperties"], false, "{value}");
                assert_eq!(required.collect::<BTreeSet<_>>(), names, "{value}");
            }
            seen.extend(fields.values());
        } else if let Value::Array(items) = value {
            seen.extend(items);
        }
    }
}

#[test]
fn every_example_fits_its_schema() {
    let document = document();
    let mut count = 0;
    let mut seen = vec![&document["paths"], &document["components"]["responses"]];
    while let Some(value) = seen.pop() {
        if let Value::Object(fields) = value {
            if let Some(schema) = fields.get("schema") {
                let more = fields.get("examples").and_then(Value::as_object);
                let more = more.into_iter().flat_map(Map::values).map(|example| &example["value"]);
                for example in fields.get("example").into_iter().chain(more) {
                    assert_eq!(mismatch(&document, schema, example), None, "{example}");
                    count += 1;
                }
            }
            seen.extend(fields.values());
        } else if let Value::Array(items) = value {
            seen.extend(items);
        }
    }
    assert!(count > 30, "only {count} examples were found");
}

#[test]
fn the_entry_of_the_examples_is_an_entry() {
    let document = document();
    let example =
        &document["paths"]["/v1/entries"]["get"]["responses"]["200"]["content"]["application/json"]["example"];
    let page: Entries<ledger_http::wire::NumberedBytes> = serde_json::from_value(example.clone()).unwrap();
    let entry = page.entries[0].decode().unwrap();
    assert_eq!(serde_json::to_value(EntryRecord::new(1, entry)).unwrap(), example["entries"][0]);
}

#[test]
fn requests_commands_and_refusals_are_the_types_own() {
    let document = document();
    for (name, variants) in [
        ("Request", variants::<Request>()),
        ("Command", variants::<ledger_core::Command>()),
        ("Refusal", variants::<Refusal>()),
    ] {
        assert_eq!(branches(&document, name), variants, "{name}");
    }
    reads_all_of::<Request>(&document, "Request");
    reads_all_of::<ledger_core::Command>(&document, "Command");
    reads_all_of::<Refusal>(&document, "Refusal");
    let rules: Vec<_> = samples(&document, schema(&document, "Refusal"));
    let rules = rules.into_iter().map(|refusal| serde_json::from_value::<Refusal>(refusal).unwrap());
    let rules: BTreeSet<_> = rules.map(|refusal| refusal.rule().to_owned()).collect();
    let titles = schema(&document, "Refused")["properties"]["title"]["enum"].as_array().unwrap();
    assert_eq!(titles.iter().map(|title| title.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>(), rules);
}

#[test]
fn answers_are_the_types_own() {
    let document = document();
    reads_all_of::<About>(&document, "About");
    reads_all_of::<Account>(&document, "AccountRecord");
    reads_all_of::<Channels>(&document, "Channels");
    reads_all_of::<Names>(&document, "Names");
    reads_all_of::<Named>(&document, "Named");
    reads_all_of::<Pair>(&document, "Pair");
    reads_all_of::<Growth>(&document, "Growth");
    reads_all_of::<ProvenRecords>(&document, "ProvenRecords");
    reads_all_of::<Problem>(&document, "Problem");
    reads_all_of::<Problem>(&document, "Refused");
    reads_all_of::<Membership>(&document, "Membership");
}

const ALICE: NodeId = NodeId([1; 20]);
const BOB: NodeId = NodeId([2; 20]);

/// One of each event. That none is missing is seen by counting the kinds of RULEBOOK.md, which has them all.
fn events() -> Vec<Event> {
    let key = AccountKey::from_bytes(&[9; 32]).unwrap();
    let genesis = Genesis::new("Hilltop", "HILL", 6, ALICE, UnixTime::from_seconds(1), [1; 16]).unwrap();
    let channel = ChannelId { payer: key.node_id(), payee: BOB, nonce: 3 };
    let (amount, until, signature) = (Tokens::MAX, UnixTime::MAX, Signature([7; 65]));
    let receipt = Receipt::sign(&key, &genesis.domain(), channel, amount, [4; 32]).into_unverified();
    let close = Close::sign(&key, &genesis.domain(), channel, amount).into_unverified();
    let name = "roof".parse().unwrap();
    let registration =
        Registration { station: Station::Gateway, price_up: Price::new(1), price_down: Price::new(2), terms: [5; 32] };
    vec![
        Event::Founded(genesis),
        Event::Minted { by: ALICE, to: BOB, amount },
        Event::Transferred { from: ALICE, to: BOB, amount },
        Event::ChannelOpened { channel, deposit: amount },
        Event::ToppedUp { channel, amount },
        Event::Redeemed { receipt, paid: amount },
        Event::CloseStarted { channel, exit: until },
        Event::Finalized { channel, refunded: amount },
        Event::MutuallyClosed { close, paid: amount, refunded: amount },
        Event::Burned { by: ALICE, amount },
        Event::VoucherIssued { by: ALICE, voucher: BOB, amount, until },
        Event::VoucherRedeemed { claim: Claim::new(ALICE, BOB, ALICE, signature), amount },
        Event::VoucherReclaimed { by: ALICE, voucher: BOB, amount },
        Event::SharesIssued { router: ALICE, shares: 10 },
        Event::SharesTransferred { router: ALICE, from: ALICE, to: BOB, shares: 3 },
        Event::RevenueClaimed { router: ALICE, by: BOB, amount },
        Event::Appointed { by: ALICE, role: Role::Issuer, to: BOB },
        Event::Dismissed { by: ALICE, role: Role::Auditor, from: BOB },
        Event::MembershipIssued { by: ALICE, to: BOB, until },
        Event::MembershipRevoked { by: ALICE, of: BOB },
        Event::EnrolmentOffered { by: ALICE, enrolment: BOB, until, expires: until },
        Event::EnrolmentWithdrawn { by: ALICE, issuer: BOB, enrolment: ALICE },
        Event::Enrolled { account: ALICE, issuer: BOB, enrolment: ALICE, claim: signature, until },
        Event::Registered { account: ALICE, registration },
        Event::Unregistered { account: ALICE },
        Event::NameClaimed { account: ALICE, name, wireguard: [4; 32], claim: signature, before: None },
        Event::NameClaimed { account: ALICE, name, wireguard: [4; 32], claim: signature, before: Some(BOB) },
        Event::NameReleased { by: ALICE, account: BOB, name },
        Event::Attested { by: ALICE, head: Head { size: 400, root: Hash([6; 32]) } },
        Event::Skipped { account: ALICE },
        Event::SignerChanged { account: ALICE, signer: BOB, consent: signature },
    ]
}

#[test]
fn every_event_fits_the_document_and_the_document_has_no_other() {
    let document = document();
    let mut names = BTreeSet::new();
    for event in events() {
        names.insert(event.name().replace('-', "_"));
        let entry = Entry { at: UnixTime::MAX, event, seal: Some(Seal { sequence: 1, signature: Signature([8; 65]) }) };
        let record = EntryRecord::new(u64::MAX, entry);
        assert_fits(&document, "Entry", &serde_json::to_value(&record).unwrap());
        assert_fits(&document, "Done", &serde_json::to_value(Done { entry: record.clone() }).unwrap());
        let inclusion = Inclusion { entry: record.clone(), size: 1, proof: vec![Hash([1; 32])] };
        assert_fits(&document, "Inclusion", &serde_json::to_value(inclusion).unwrap());
        let entries = Entries { entries: vec![record.clone()], next: None };
        assert_fits(&document, "Entries", &serde_json::to_value(entries).unwrap());
        assert_fits(&document, "Outcome", &serde_json::to_value(Outcome::Done(record)).unwrap());
    }
    let refused: Outcome = Outcome::Refused(Problem::refused(Refusal::UnknownChannel));
    assert_fits(&document, "Outcome", &serde_json::to_value(refused).unwrap());
    assert_eq!(branches(&document, "Event"), names);
    // The log numbers its kinds without a gap: see RULEBOOK.md.
    let rulebook = include_str!("../../RULEBOOK.md");
    let kinds =
        rulebook.lines().filter(|line| line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit()));
    let kinds: usize = kinds.map(|line| line.split('|').nth(1).unwrap().split(',').count()).sum();
    assert_eq!(kinds, names.len(), "RULEBOOK.md has other kinds of entries than this test");
}
