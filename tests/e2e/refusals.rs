//! What keeps a router from starting, and what it then tells its owner: the cause and the next step.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};

use crate::lab::{Lab, say};
use crate::ledger::Ledger;
use crate::router::{PEERS, Router, join, write_private};

/// An account with no rights; "nobody" on every Linux.
const NOBODY: u32 = 65534;

#[test]
fn mistakes_in_the_config_are_named_with_file_line_and_option() {
    let Some(mut lab) = Lab::open("mistakes_in_the_config_are_named_with_file_line_and_option", &[]) else { return };
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, PEERS);
    let right = r1.config();
    let own_card = right.lines().find(|line| line.starts_with("card")).expect("a card").to_owned();
    let cut = format!("{}\"", &own_card[..own_card.len() - 10]);
    let mistakes: [(&str, String, &[&str]); 6] = [
        ("name = \"r1\"", "nmae = \"r1\"".to_owned(), &["nmae", "name"]),
        ("hello_interval = \"1s\"", "hello_interval = \"fast\"".to_owned(), &["hello_interval", "100ms"]),
        ("cost = 96", "cost = 96\ncolour = \"red\"".to_owned(), &["colour"]),
        ("role = \"peer\"", "role = \"friend\"".to_owned(), &["role", "provider"]),
        ("link = \"wireguard\"", "link = \"quic\"".to_owned(), &["quic"]),
        (&own_card, cut, &["card"]),
    ];
    let file = r1.config_file().file_name().expect("a name").to_string_lossy().into_owned();
    for (right_line, wrong, named) in &mistakes {
        let at = right.lines().position(|line| line == *right_line).unwrap_or_else(|| panic!("no {right_line}")) + 1;
        let at = if wrong.contains('\n') { at + 1 } else { at };
        fs::write(r1.config_file(), right.replace(right_line, wrong)).expect("room for a file");
        let said = r1.refusal(&[]);
        for word in named.iter().copied().chain([file.as_str(), at.to_string().as_str()]) {
            assert!(said.contains(word), "{wrong}: no {word} in: {said}");
        }
    }
    lab.figures(&format!("{} mistakes refused by file, line and option", mistakes.len()));
}

#[test]
fn a_key_file_of_wrong_length_or_mode_is_refused() {
    let Some(mut lab) = Lab::open("a_key_file_of_wrong_length_or_mode_is_refused", &[]) else { return };
    let r1 = Router::new(&mut lab, "r1");
    r1.write_config();
    let key = fs::read(r1.key_file()).expect("a key file");
    let attempts: [(&[u8], u32, &str); 5] = [
        (&key, 0o644, "chmod 600"),
        (&key, 0o640, "chmod 600"),
        (&key[..20], 0o600, "key"),
        (b"", 0o600, "key"),
        (&[key.clone(), key.clone()].concat(), 0o600, "key"),
    ];
    for (content, mode, named) in attempts {
        write_private(&r1.key_file(), content, 0o600);
        fs::set_permissions(r1.key_file(), Permissions::from_mode(mode)).expect("our own file");
        let said = r1.refusal(&[]);
        assert!(said.contains(named) && said.contains("r1/key"), "{said}");
        let secret = String::from_utf8_lossy(&key[..16]).into_owned();
        assert!(!said.contains(&secret), "the secret was shown");
    }
    lab.figures("wrong lengths and modes are refused, the secret is not shown");
}

#[test]
fn without_a_tun_device_or_the_permission_the_owner_is_told_what_to_do() {
    let tools = ["mount", "setpriv"];
    let test = "without_a_tun_device_or_the_permission_the_owner_is_told_what_to_do";
    let Some(mut lab) = Lab::open(test, &tools) else { return };
    let [r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    r1.write_config();
    let no_device = r1.refusal(&["sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"]);
    assert!(no_device.starts_with("error: cannot open /dev/net/tun"), "{no_device}");
    assert!(no_device.trim_end().lines().count() >= 2, "no next step: {no_device}");

    r2.write_config();
    // All files are readable to that user, so that only the permission is missing.
    let program = lab.dir().join("waybill");
    fs::copy(lab.waybill(), &program).expect("room for the program");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("our own file");
    fs::set_permissions(lab.dir(), Permissions::from_mode(0o711)).expect("our own directory");
    for path in [r2.dir.clone(), r2.key_file(), r2.config_file()] {
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    r2.waybill = program;
    let nobody = NOBODY.to_string();
    let no_permission = r2.refusal(&["setpriv", "--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
    assert!(no_permission.contains("CAP_NET_ADMIN"), "{no_permission}");
    assert!(no_permission.trim_end().lines().count() >= 2, "no next step: {no_permission}");
    for (what, said) in [("no TUN device", no_device), ("no permission", no_permission)] {
        say(&format!("{what}: {}", said.trim_end().replace('\n', " /")));
    }
}

#[test]
fn a_price_that_routing_cannot_count_is_refused_and_not_ignored() {
    let Some(mut lab) = Lab::open("a_price_that_routing_cannot_count_is_refused_and_not_ignored", &[]) else { return };
    let ledger = Ledger::create(&lab);
    let mut r1 = Router::new(&mut lab, "r1");
    r1.join_community(&ledger, "1");
    r1.options.hop_worth = "1000000";
    r1.write_config();
    let said = r1.refusal(&[]);
    for words in ["hop_worth in [price]", "too large", "4294967295 base units"] {
        assert!(said.contains(words), "{said}");
    }
    lab.figures(&said.replace('\n', " / "));
}
