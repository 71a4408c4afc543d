//! `waybill key`: the public side of the key file.

use metering::{Identity, mesh_prefix};
use serde_json::json;

use super::table::facts;
use super::{Failure, KeyArguments};
use crate::identity::{self, KeyFileError};

pub(super) fn key(arguments: &KeyArguments) -> Result<String, Failure> {
    let (identity, is_new) = match identity::load(&arguments.file) {
        Err(KeyFileError::Missing { .. }) => (identity::load_or_create(&arguments.file)?, true),
        known => (known?, false),
    };
    let file = arguments.file.display().to_string();
    Ok(if arguments.json { as_json(&identity, &file, is_new) } else { as_text(&identity, &file, is_new) })
}

fn prefix(identity: &Identity) -> String {
    let (address, len) = mesh_prefix(&identity.wireguard_key());
    format!("{address}/{len}")
}

fn as_text(identity: &Identity, file: &str, is_new: bool) -> String {
    let mut text = facts(&[
        ("key file", if is_new { format!("{file} (new)") } else { file.to_owned() }),
        ("account", identity.node_id().to_string()),
        ("WireGuard key", identity.wireguard_key().to_string()),
        ("mesh address", identity.card().mesh_address().to_string()),
        ("prefix", prefix(identity)),
        ("card", identity.card().to_string()),
    ]);
    text.push_str("\nGive the card to your neighbours: it goes into their [[peer]] tables and holds no secret.\n");
    if is_new {
        text.push_str("Keep a copy of the key file in a safe place: who has it owns this router's tokens.\n");
    }
    text
}

fn as_json(identity: &Identity, file: &str, is_new: bool) -> String {
    let object = json!({
        "key_file": file,
        "new": is_new,
        "account": identity.node_id().to_string(),
        "wireguard_key": identity.wireguard_key().to_string(),
        "tls_key": identity.tls_key().to_string(),
        "mesh_address": identity.card().mesh_address().to_string(),
        "prefix": prefix(identity),
        "card": identity.card().to_string(),
    });
    format!("{object:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_use_makes_a_key_and_nothing_shows_the_secret() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let show = |json| key(&KeyArguments { file: file.clone(), json }).unwrap();
        let first = show(false);
        let second = show(false);
        let json = show(true);
        let secret = std::fs::read_to_string(&file).unwrap();

        assert!(first.contains("(new)") && !second.contains("(new)"), "{first}{second}");
        assert!(second.contains("waybill-card1:"), "{second}");
        for said in [&first, &second, &json] {
            assert!(!said.contains(secret.trim()), "the secret was shown");
        }
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["new"], false);
        let card: metering::NodeCard = object["card"].as_str().unwrap().parse().unwrap();
        assert_eq!(object["account"], card.account().to_string());
        assert_eq!(object["wireguard_key"], card.wireguard().to_string());
        assert_eq!(object["mesh_address"], card.mesh_address().to_string());
    }
}
