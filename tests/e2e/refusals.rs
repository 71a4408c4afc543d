//! What keeps a router from starting, and what it then tells its owner: the cause and the next step.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};

use crate::lab::{Lab, here, now, say, secs, until};
use crate::ledger::Ledger;
use crate::router::{BY_ROUTES, PEERS, Router, join, text, write_private};

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

/// The owner of the gateway changes one thing after the other, and nobody starts anything again.
#[test]
fn a_gateway_for_members_tells_who_is_none_and_sessions_follow_the_file_while_routers_run() {
    let name = "a_gateway_for_members_tells_who_is_none_and_sessions_follow_the_file_while_routers_run";
    let Some(mut lab) = Lab::open(name, &["nft"]) else { return };
    let ledger = Ledger::create(&lab);
    let mut routers = ["house", "relay", "gateway"].map(|name| Router::new(&mut lab, name));
    routers.iter_mut().for_each(|router| router.join_community(&ledger, "0"));
    let [mut house, mut relay, mut gateway] = routers;
    join(&mut lab, &mut house, &mut relay, BY_ROUTES);
    join(&mut lab, &mut relay, &mut gateway, BY_ROUTES);
    gateway
        .options
        .tables
        .push("[community]\nmembers_only = true\n\n[gateway]\ncontact = \"one@hill.example\"\n".to_owned());
    house.options.tables.push(format!("[internet]\ngateways = [\"{}\"]\n", gateway.address));
    for router in [&mut relay, &mut gateway, &mut house] {
        router.start();
    }
    let refused = |house: &Router, contact: &str| {
        let why = "it serves members of its community alone, and knows this router as none; ask";
        let status = house.show("status")?;
        let said = status["internet"]["refused"][0] == format!("{}: {why} {contact}", gateway.address);
        if said { Ok(()) } else { Err(status.to_string()) }
    };
    until("a refusal", secs(40), || refused(&house, "one@hill.example"));
    let status = here(&[text(&house.waybill), "status", "--socket", text(&house.control_socket())]);
    assert!(status.contains("nothing leaves; 0 of 1 gateways ready; ") && status.contains("as none"), "{status}");

    let began = now();
    let edit = |router: &Router, from: &str, to: &str| {
        let before = fs::read_to_string(router.config_file()).expect("a config file");
        assert!(before.contains(from), "{before}");
        fs::write(router.config_file(), before.replace(from, to)).expect("room for a config file");
        router.show("reload")
    };
    let all = edit(&gateway, "one@hill.example", "two@hill.example").expect("it reads the file");
    assert_eq!(all["at_next_start"].as_array().map(Vec::len), Some(0), "{all}");
    until("another contact", secs(5), || match &gateway.show("gateway")?["contact"] {
        contact if *contact == "two@hill.example" => Ok(()),
        other => Err(other.to_string()),
    });
    // What the kernel is set up for, beside something that has to wait.
    let rest = edit(
        &gateway,
        "[gateway]\n",
        "[quic]\nlisten = \"[::]:4443\"\n\n[gateway]\nrefuse = [\"tcp/25\"]\nipv4_pool = \"172.20.0.0/16\"\n",
    );
    assert_eq!(rest.expect("it reads the file")["at_next_start"], serde_json::json!(["[quic]"]));
    let shows = |wanted: &str| {
        let state = gateway.show("gateway").expect("a gateway");
        assert_eq!((&state["pool"], &state["refuse"][0]), (&wanted.into(), &"tcp/25".into()), "{state}");
        let rules = gateway.host.must(&["nft", "list", "table", "inet", "waybill"]);
        assert!(rules.contains("tcp dport 25") && rules.contains("counter name \"not_carried\" reject"), "{rules}");
    };
    until("a gateway again", secs(5), || match gateway.show("gateway")?["pool"].as_str() {
        Some(pool) if !pool.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    shows("172.20.0.0/16");
    until("a refusal by the new sessions", secs(20), || refused(&house, "two@hill.example"));
    // What cannot be changes nothing.
    let error = edit(&gateway, "172.20.0.0/16", "10.0.0.0/8").expect_err("the cables have addresses of it");
    assert!(error.contains("the sessions go on as they were") && error.contains("10.0.0.0/8"), "{error}");
    shows("172.20.0.0/16");
    edit(&house, &format!("gateways = [\"{}\"]", gateway.address), &format!("gateways = [\"{}\"]", relay.address))
        .expect("it reads the file");
    until("another gateway", secs(5), || match &house.show("internet")?["gateways"][0]["name"] {
        name if *name == relay.address => Ok(()),
        other => Err(other.to_string()),
    });
    assert!(house.host.must(&["ip", "rule"]).contains("8720:"), "the way out stays closed");
    let took = began.elapsed();
    for mut router in [house, gateway, relay] {
        router.stop();
        assert_eq!(router.host.must(&["nft", "list", "tables"]), "");
    }
    lab.figures(&format!("an unknown account was told why, and four changes of the files took {took:.1?}"));
}
