use std::collections::BTreeMap;

use metering::Seed;

use super::*;

const EXAMPLE: &str = include_str!("../../waybill.example.toml");

fn identity(number: u8) -> Identity {
    Identity::new(&Seed::from_bytes([number; 32]))
}

fn card(number: u8) -> String {
    identity(number).card().to_string()
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    Config::parse(Path::new("waybill.toml"), text).map_err(mistakes)
}

fn mistakes(error: ConfigError) -> Vec<String> {
    match error {
        ConfigError::Refused { mistakes, .. } => mistakes.iter().map(ToString::to_string).collect(),
        ConfigError::Unreadable { .. } | ConfigError::NotText { .. } => panic!("{error}"),
    }
}

fn refused(text: &str) -> Vec<String> {
    parse(text).expect_err("the text is refused")
}

/// The example with every option in effect: `#key = value` and `#[table]` lose their `#`, prose after `# ` stays.
fn everything_switched_on() -> String {
    let switched = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(option) if option.starts_with(|first: char| first.is_ascii_lowercase() || first == '[') => option,
        _ => line,
    });
    switched.collect::<Vec<_>>().join("\n")
}

#[test]
#[cfg(all(feature = "ledger-host", feature = "quic"))]
fn the_example_is_a_config_as_it_stands_and_with_everything_switched_on() {
    let bare = parse(EXAMPLE).unwrap();
    assert_eq!(bare.node.name, "attic");
    assert!(bare.quic.is_none() && bare.ledger.is_none() && bare.peers.is_empty() && bare.leaves.is_empty());

    // A ledger is in a file or served.
    let without = |keys: &[&str]| {
        let text = everything_switched_on();
        let said = |line: &&str| !keys.iter().any(|key| line.starts_with(&format!("{key} = ")));
        parse(&text.lines().filter(said).collect::<Vec<_>>().join("\n")).unwrap()
    };
    let served = without(&["path", "serve", "serve_key"]).ledger.map(|ledger| ledger.place);
    assert!(matches!(&served, Some(LedgerPlace::Served(place)) if place.founding.is_some()), "{served:?}");
    assert_eq!(refused(&everything_switched_on()).len(), 1, "which of both is meant is not guessed");

    let full = without(&["url", "key", "founding", "authorities"]);
    assert_eq!(full.peers.len(), 2);
    assert_eq!(full.peers[0].card, *identity(1).card());
    assert_eq!(full.peers[1].link, LinkKind::Quic);
    assert_eq!(full.leaves.len(), 2);
    assert_eq!(full.leaves[0].wireguard_key, identity(3).wireguard_key());
    assert!(full.leaves[1].babel && full.leaves[1].addresses.is_empty());
    full.check_identity(&identity(4)).unwrap();
    assert!(full.ledger.is_some_and(|ledger| ledger.serve.is_some()));

    for (without, mistake) in [
        (["path", "serve_key"], "give both, or neither"),
        (["path", "authorities"], "only the ledger in a file of this machine"),
    ] {
        let said = |line: &&str| !without.iter().any(|key| line.starts_with(&format!("{key} = ")));
        let text = everything_switched_on();
        let mistakes = refused(&text.lines().filter(said).collect::<Vec<_>>().join("\n"));
        assert!(mistakes.iter().any(|found| found.to_string().contains(mistake)), "{mistakes:?}");
    }
    let mistakes = refused("[node]\nname = \"attic\"\n[community]\nmembers_only = true\n");
    assert!(mistakes[0].to_string().contains("who is a member stands in the ledger"), "{mistakes:?}");
}

#[test]
fn the_example_shows_every_option_with_the_default_the_program_has() {
    let text = everything_switched_on();
    let mut shown: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut table = "";
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.split_once(" = ") {
            None => table = line,
            Some((key, value)) => {
                shown.entry((table.to_owned(), key.to_owned())).or_default().push(value.to_owned());
            }
        }
    }
    for option in OPTIONS {
        let values = shown.remove(&(option.table.to_owned(), option.key.to_owned())).unwrap_or_default();
        assert!(!values.is_empty(), "the example lacks {} {}", option.table, option.key);
        if let (Some(default), false) = (option.default, option.table.starts_with("[[")) {
            assert_eq!(values, [default], "{} {}", option.table, option.key);
        }
    }
    assert_eq!(shown, BTreeMap::new(), "the example has options the program does not know");
}

#[test]
fn the_example_explains_the_defaults_of_peers_in_words() {
    for option in OPTIONS.iter().filter(|option| option.table.starts_with("[[")) {
        if let Some(default) = option.default {
            assert!(EXAMPLE.contains(&format!("Default {default}.")), "{} {}", option.table, option.key);
        }
    }
}

#[test]
fn a_name_is_enough_and_the_rest_has_its_documented_default() {
    let config = parse("[node]\nname = \"attic\"").unwrap();
    assert_eq!(
        config.node,
        NodeOptions {
            name: "attic".to_owned(),
            key_file: "/etc/waybill/key".into(),
            state_dir: "/var/lib/waybill".into(),
            control_socket: "/run/waybill/control.sock".into(),
            tun: "waybill0".to_owned(),
            mtu: 1420,
            announce: Vec::new(),
            offloads: true,
            workers: 0,
            log: LogLevel::Info,
        }
    );
    assert_eq!(config.wireguard.listen, "[::]:51820".parse().unwrap());
    assert_eq!(config.routing.hello_interval, Duration::from_secs(1));
    assert_eq!(config.routing.update_interval, Duration::from_secs(60));
    assert!(config.price.ask.is_zero() && config.price.max.is_zero());
    assert_eq!(config.price.window, Bytes::new(64 << 20));
}

#[test]
#[cfg(all(feature = "ledger-host", feature = "quic"))]
fn every_default_can_be_read() {
    let text = format!(
        "[node]\nname = \"a\"\n[quic]\nlisten = \"[::]:443\"\n[ledger]\npath = \"/l\"\n[[peer]]\nname = \"b\"\ncard = \"{}\"",
        card(1)
    );
    let config = parse(&text).unwrap();
    let peer = &config.peers[0];
    assert_eq!((peer.link, peer.role, peer.cost, &peer.endpoint), (LinkKind::Auto, Role::Auto, 96, &None));
    assert_eq!(config.ledger.unwrap().deposit.to_string(), "1");
}

#[test]
fn mistakes_come_all_at_once_with_place_option_and_what_is_allowed() {
    let text = "[node]\nnmae = \"attic\"\nmtu = 90000\nlisten = \"x\"\n[wireguard]\nlisten = \"é\" # ü\n[prices]\n\
                [[peer]]\nlink = \"quick\"\ncard = 5\nx = 1\n";
    assert_eq!(
        refused(text),
        [
            "line 1, column 2: [node] has no `name`; it is 1 to 63 letters, digits and hyphens, beginning with a \
             letter or digit, but not with 0x",
            "line 2, column 1: [node] has no option `nmae`; did you mean `name`?",
            "line 3, column 7: [node] mtu: 90000 is out of bounds; allowed is 1280 to 65000",
            "line 4, column 1: [node] has no option `listen`; it belongs in [wireguard]",
            "line 6, column 10: [wireguard] listen: this is not an IP address and a port; allowed is an IP address and \
             a port, such as \"[::]:51820\"",
            "line 7, column 2: unknown table `prices`; did you mean `price`?",
            "line 8, column 1: [[peer]] has no `name`; it is 1 to 63 letters, digits and hyphens, beginning with a \
             letter or digit, but not with 0x",
            "line 9, column 8: [[peer]] link: this is no kind of link; allowed is \"auto\", \"wireguard\" or \"quic\"",
            "line 10, column 8: [[peer]] card: this is a number, not a text in quotes; allowed is what `waybill key` \
             prints on that router, \"waybill-card1:...\"",
            "line 11, column 1: [[peer]] has no option `x`; allowed are name, card, endpoint, quic_endpoint, link, role, cost, sensing",
        ]
    );
}

#[test]
fn the_message_names_the_file_and_the_command_that_tries_again() {
    let error = Config::parse(Path::new("/etc/w.toml"), "[node]\nname = 5").unwrap_err();
    assert_eq!(
        Failure::from(error).to_string(),
        "error: /etc/w.toml has a mistake\n  \
         line 2, column 8: [node] name: this is a number, not a text in quotes; allowed is 1 to 63 letters, digits and \
         hyphens, beginning with a letter or digit, but not with 0x\n  \
         correct it, then try it with `waybill up --config /etc/w.toml --check`"
    );
}

#[test]
fn what_is_not_toml_is_said_alone() {
    assert_eq!(refused("[node\nname = 5"), ["line 1, column 6: this is not TOML: unclosed table, expected `]`"]);
    assert_eq!(refused("[node]\nname = \"a\"\nname = \"b\"").len(), 1);
}

#[test]
fn values_out_of_bounds_are_refused() {
    for (option, value) in [
        ("[node]\nname", "\"0xattic\""),
        ("[node]\nname", "\"-attic\""),
        ("[node]\nname", "\"\""),
        ("[node]\nkey_file", "\"key\""),
        ("[node]\nkey_file", "\"/a\\u0000b\""),
        ("[node]\ntun", "\"sixteen-letters-\""),
        ("[node]\ntun", "\"a/b\""),
        ("[node]\ntun", "\"..\""),
        ("[node]\nmtu", "1279"),
        ("[node]\nmtu", "1420.0"),
        ("[node]\nmtu", "-1"),
        ("[node]\nmtu", "99999999999999999999999"),
        ("[node]\nmtu", "\"1420\""),
        ("[node]\nannounce", "[\"fe80::/64\"]"),
        ("[node]\nannounce", "[\"ff02::/16\"]"),
        ("[node]\nannounce", "[\"2001:db8::1/64\"]"),
        ("[node]\nannounce", "\"2001:db8::/64\""),
        ("[node]\nlog", "\"loud\""),
        ("[wireguard]\nlisten", "\"[::]:0\""),
        ("[wireguard]\nlisten", "\"[ff02::1]:51820\""),
        ("[wireguard]\nlisten", "51820"),
        ("[routing]\nhello_interval", "\"99ms\""),
        ("[routing]\nhello_interval", "\"61s\""),
        ("[routing]\nupdate_interval", "\"601 s\""),
        ("[price]\nask", "0.25"),
        ("[price]\nask", "\"-1\""),
        ("[price]\nwindow", "\"1 KiB\""),
        ("[price]\nwindow", "\"65 GiB\""),
        ("[ledger]\ndeposit", "\"0.00\""),
        ("[[peer]]\ncost", "0"),
        ("[[peer]]\ncost", "65535"),
        ("[[peer]]\nendpoint", "\"mesh.example.org\""),
        ("[[leaf]]\nwireguard_key", "\"short\""),
        ("[[leaf]]\nipv4", "\"fd00::1\""),
        ("[[leaf]]\nipv4", "\"198.51.100.7\""),
        ("[[leaf]]\nipv4", "\"100.64.0.7\""),
    ] {
        let text = format!("{option} = {value}\n");
        let key = option.split_once('\n').unwrap().1;
        let said = refused(&text);
        let hit = |mistake: &String| mistake.starts_with("line 2, ") && mistake.contains(&format!(" {key}: "));
        assert!(said.iter().any(hit), "{text}{said:#?}");
    }
    assert!(parse("[node]\nname = \"a\"\nmtu = 0x5_dc\nannounce = [\"::/0\"]").is_ok(), "TOML's notations are fine");
}

#[test]
fn tables_of_the_wrong_kind_are_refused() {
    let said = refused("node = 5");
    assert_eq!(said[0], "line 1, column 1: [node] is a table, not a number", "besides its missing name");
    let said = refused("peer = [1]\n[node]\nname = \"a\"");
    assert_eq!(said, ["line 1, column 9: [[peer]] is a table, not a number"]);
    let said = refused("[node]\nname = \"a\"\n[peer]\nname = \"b\"");
    assert_eq!(said, ["line 3, column 2: write [[peer]] in double brackets, once for each peer"]);
    let said = refused("name = \"a\"");
    assert!(said[0].contains("unknown option outside of a table `name`"), "{said:#?}");
}

#[test]
fn neighbours_and_leaves_do_not_share_names_keys_or_addresses() {
    let (one, two) = (card(1), card(2));
    let key = identity(1).wireguard_key();
    let text = format!(
        "[node]\nname = \"attic\"\n\
         [[peer]]\nname = \"roof\"\ncard = \"{one}\"\n\
         [[peer]]\nname = \"roof\"\ncard = \"{two}\"\n\
         [[peer]]\nname = \"attic\"\ncard = \"{one}\"\n\
         [[leaf]]\nname = \"phone\"\nwireguard_key = \"{key}\"\naddresses = [\"fd00:1::/64\", \"fd00:2::/64\"]\n\
         [[leaf]]\nname = \"laptop\"\nwireguard_key = \"{}\"\naddresses = [\"fd00:1::5/128\"]\n\
         [[leaf]]\nname = \"tv\"\nwireguard_key = \"{}\"\naddresses = []\n",
        identity(8).wireguard_key(),
        identity(9).wireguard_key(),
    );
    assert_eq!(
        refused(&text),
        [
            "line 7, column 8: [[peer]] name: another peer is called \"roof\" already",
            "line 10, column 8: [[peer]] name: this router is called \"attic\" already",
            "line 11, column 8: [[peer]] card: \"roof\" has the same card or key already",
            "line 14, column 17: [[leaf]] wireguard_key: \"roof\" has the same key already",
            "line 19, column 13: [[leaf]] addresses: fd00:1::5/128 of \"laptop\" overlaps fd00:1::/64 of \"phone\"",
            "line 23, column 13: [[leaf]] addresses: a leaf without an address cannot be reached; give it one, or babel = true",
        ]
    );
}

#[test]
fn an_ipv4_address_is_one_leaf_s_and_no_router_s() {
    let leaf = |name: &str, seed: u8, more: &str| {
        let key = identity(seed).wireguard_key();
        format!("[[leaf]]\nname = \"{name}\"\nwireguard_key = \"{key}\"\nipv4 = \"172.30.87.1\"\n{more}\n")
    };
    let phone = leaf("phone", 1, "addresses = [\"fd00:1::1/128\"]");
    let text = |second: &str| format!("[node]\nname = \"attic\"\n{phone}{second}");
    assert_eq!(parse(&text("")).unwrap().leaves[0].ipv4, Some([172, 30, 87, 1].into()));
    assert_eq!(
        refused(&text(&leaf("tv", 2, "addresses = [\"fd00:1::2/128\"]"))),
        ["line 11, column 8: [[leaf]] ipv4: \"phone\" has this address already"]
    );
    assert!(
        refused(&text(&leaf("old", 2, "babel = true"))).concat().contains("[[leaf]] ipv4: a leaf with babel = true")
    );
}

#[test]
#[cfg(feature = "ledger-host")]
fn what_is_asked_is_said_once() {
    let text = "[node]\nname = \"a\"\n[ledger]\npath = \"/l\"\n[price]\nask = \"1\"\nfee = \"0.5\"\n";
    assert_eq!(
        refused(text),
        [
            "line 7, column 7: [price] fee: what is asked is either `ask` or what the own way out costs and `fee`; leave one \
          out"
        ]
    );
    let price = parse(&text.replace("ask = \"1\"\n", "budget_month = \"30\"\n")).unwrap().price;
    assert!(price.fee.is_some() && price.budget_month.is_some() && price.budget_day.is_none());
}

#[test]
fn a_forged_card_is_refused() {
    let mut forged = card(1).into_bytes();
    let middle = forged.len() / 2;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let said = refused(&format!("[node]\nname = \"a\"\n[[peer]]\nname = \"b\"\ncard = \"{forged}\""));
    assert!(said.len() == 1 && said[0].starts_with("line 5, column 8: [[peer]] card: "), "{said:#?}");
}

#[test]
#[cfg(feature = "quic")]
fn where_a_neighbour_is_reached_by_quic_follows_from_where_it_is_reached() {
    let peer = |quic: &str, lines: &str| {
        let card = card(1);
        parse(&format!("[node]\nname = \"a\"\n{quic}[[peer]]\nname = \"b\"\ncard = \"{card}\"\n{lines}")).map(
            |mut config| {
                let peer = config.peers.remove(0);
                (peer.link, peer.by_quic().map(|at| at.to_string()), peer.by_wireguard().map(ToString::to_string))
            },
        )
    };
    let (quic, here) = ("[quic]\nlisten = \"[::]:443\"\n", Some("b.example:9".to_owned()));
    let endpoint = "endpoint = \"b.example:9\"\n";
    let at = |text: &str| Some(text.to_owned());
    assert_eq!(peer(quic, endpoint).unwrap(), (LinkKind::Auto, at("b.example:443"), here.clone()));
    assert_eq!(peer("", endpoint).unwrap(), (LinkKind::Wireguard, None, here.clone()));
    assert_eq!(peer(quic, &format!("{endpoint}link = \"quic\"")).unwrap(), (LinkKind::Quic, here.clone(), None));
    let elsewhere = "quic_endpoint = \"[2001:db8::1]:4433\"\n";
    assert_eq!(peer(quic, elsewhere).unwrap(), (LinkKind::Auto, at("[2001:db8::1]:4433"), None));
    assert!(peer("", elsewhere).is_err(), "it would never be used");
}

#[test]
#[cfg(all(feature = "ledger-host", feature = "quic"))]
fn money_needs_a_ledger_and_quic_links_need_a_port() {
    assert_eq!(
        refused("[node]\nname = \"a\"\n[price]\nask = \"0.10\"\nmax = \"1\""),
        [
            "line 4, column 7: [price] ask: without a [ledger] nothing can be paid; add one, or set \"0\"",
            "line 5, column 7: [price] max: without a [ledger] nothing can be paid; add one, or set \"0\"",
        ]
    );
    let peer = format!("[node]\nname = \"a\"\n[[peer]]\nname = \"b\"\nlink = \"quic\"\ncard = \"{}\"\n", card(1));
    assert_eq!(refused(&peer), ["line 5, column 8: [[peer]] link: \"quic\" needs a [quic] table with `listen`"]);
    assert_eq!(
        refused("[node]\nname = \"a\"\n[quic]\nlisten = \"[::]:51820\""),
        ["line 4, column 10: [quic] listen: port 51820 is WireGuard's already; give QUIC another"]
    );
}

#[test]
#[cfg(not(any(feature = "ledger-host", feature = "quic")))]
fn a_small_build_refuses_the_tables_it_cannot_honour() {
    let small = "[node]\nname = \"a\"\n[quic]\nlisten = \"[::]:443\"\n[ledger]\npath = \"/l\"\n";
    assert_eq!(
        refused(small),
        [
            "line 3, column 2: [quic]: this waybill was built without QUIC links",
            "line 5, column 2: [ledger]: this waybill was built without a ledger",
        ]
    );
}

#[test]
fn a_name_server_that_is_this_router_is_refused() {
    let names = |listen: &str, upstream: &str| {
        parse(&format!(
            "[node]\nname = \"a\"\n[names]\nlisten = [\"{listen}\"]\nupstream = [\"9.9.9.9\", \"{upstream}\"]\n"
        ))
    };
    for (listen, upstream) in [
        ("192.168.1.1:53", "192.168.1.1"),
        ("0.0.0.0:53", "127.0.0.1"),
        ("[::]:53", "::1"),
        ("127.0.0.1:5353", "0.0.0.0"),
    ] {
        let refused = names(listen, upstream).unwrap_err();
        let problem = format!("line 5, column 12: [names] upstream: {upstream} is this router, which would ask itself");
        assert_eq!(refused, [problem]);
    }
    for (listen, upstream) in
        [("192.168.1.1:5353", "192.168.1.1"), ("192.168.1.1:53", "127.0.0.1"), ("[::]:5353", "::1")]
    {
        assert_eq!(names(listen, upstream).unwrap().names.unwrap().upstream.len(), 2, "{listen} {upstream}");
    }
}

#[test]
fn own_keys_and_foreign_addresses_are_refused_once_the_key_is_known() {
    let own = identity(1);
    let refused = |text: &str| mistakes(parse(text).unwrap().check_identity(&own).unwrap_err());
    let peer = format!("[node]\nname = \"a\"\n[[peer]]\nname = \"b\"\ncard = \"{}\"\n", card(1));
    assert_eq!(refused(&peer), ["line 5, column 8: [[peer]] card: this is this router's own card"]);

    let itself = mesh_address(&own.wireguard_key());
    let names = |names: &str| format!("[node]\nname = \"a\"\n[names]\nupstream = [\"9.9.9.9\", \"{itself}\"]\n{names}");
    assert_eq!(
        refused(&names("")),
        ["line 3, column 2: [names] upstream: this router's own address is among them, and it would ask itself"]
    );
    parse(&names("port = 5353")).unwrap().check_identity(&own).unwrap();

    let (home, _) = mesh_prefix(&own.wireguard_key());
    let leaf = format!(
        "[node]\nname = \"a\"\n\
         [[leaf]]\nname = \"c\"\nwireguard_key = \"{}\"\naddresses = [\"fd00:1::/64\", \"{home}/64\"]\n",
        own.wireguard_key(),
    );
    assert_eq!(
        refused(&leaf),
        [
            "line 5, column 17: [[leaf]] wireguard_key: this is this router's own key".to_owned(),
            format!("line 6, column 13: [[leaf]] addresses: fd00:1::/64 is not part of this router's {home}/48"),
            format!(
                "line 6, column 13: [[leaf]] addresses: {home}/64 holds this router's own address {}",
                own.card().mesh_address()
            ),
        ]
    );
}

#[test]
fn files_that_cannot_be_configs_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("w.toml");
    let load = || Config::load(&path).unwrap_err().to_string().replace(&path.display().to_string(), "FILE");
    assert_eq!(load(), "cannot read FILE: no such file or directory");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(load(), "FILE is no config file: it is not UTF-8 text");
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(load(), "FILE is no config file: it is larger than 1 MiB");
}

#[test]
fn no_text_makes_the_reader_panic() {
    let example = everything_switched_on();
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = example.clone().into_bytes();
        for _ in 0..rng.usize(1..20) {
            let at = rng.usize(..bytes.len());
            match rng.u8(..3) {
                0 => bytes[at] = rng.u8(..),
                1 => drop(bytes.drain(at..(at + rng.usize(..40)).min(bytes.len()))),
                _ => bytes.insert(at, *rng.choice(b"\"[]={}.,#\n'0-").unwrap()),
            }
        }
        if let Err(error) = Config::parse(Path::new("f"), &String::from_utf8_lossy(&bytes)) {
            assert!(!mistakes(error).is_empty(), "seed {seed}");
        }
    }
    let nested = format!("x = {}", "[".repeat(100_000));
    assert!(parse(&nested).is_err());
}

#[test]
fn mistakes_about_the_internet_are_named_with_what_is_allowed() {
    let said = |tables: &str| refused(&format!("[node]\nname = \"attic\"\n{tables}")).join("\n");
    let mistakes = [
        ("[gateway]\nipv4_pool = \"8.0.0.0/8\"", "line 4, column 13: [gateway] ipv4_pool: this is not a private range"),
        ("[gateway]\nhours = \"8-22\"", "a time is four digits with a colon between"),
        ("[gateway]\nhours = \"08:00-08:00\"", "this is either always or never"),
        ("[gateway]\nclients_max = 0", "0 is out of bounds; allowed is 1 to 1000"),
        ("[gateway]\ncap_day = \"much\"", "[gateway] cap_day"),
        ("[gateway]\ndns = [\"127.0.0.53\"]", "clients can only be sent to an IPv4 address"),
        ("[gateway]\ncontact = \"a\\nb\"", "not one line of text"),
        (
            "[gateway]\nrefuse = [\"tcp/25\", \"smtp\"]",
            "entry 2: this is neither ports, such as tcp/25, nor an address",
        ),
        (&format!("[gateway]\nrefuse = [{}]", "\"tcp/25\",".repeat(17)), "this is more than 16"),
        ("[gateway]\ntun = \"a b\"", "this cannot be the name of a device"),
        ("[internet]", "[internet] has no `gateways`"),
        ("[internet]\ngateways = []", "give 1 to 8 gateways, each once"),
        ("[internet]\ngateways = [\"fd00::1\", \"fd00::1\"]", "give 1 to 8 gateways, each once"),
        ("[internet]\ngateways = [\"roof\"]", "entry 1: there is no [[peer]] of this name"),
        ("[internet]\ngateways = [\"2001:db8::1\"]", "those begin with fd"),
    ];
    for (tables, wanted) in mistakes {
        let mistake = said(tables);
        assert!(mistake.contains(wanted), "{tables}: {mistake}");
    }
    for table in ["[gateway]", "[internet]\ngateways = [\"fd00::1\"]"] {
        let mistake = refused(&format!("[node]\nname = \"attic\"\nmtu = 1359\n{table}")).join("");
        assert!(mistake.contains("sessions need an mtu of at least 1360"), "{mistake}");
    }
}

#[test]
fn a_router_is_a_gateway_or_uses_gateways_and_a_gateway_is_a_peer_or_an_address() {
    let card = identity(1).card().to_string();
    let text = format!(
        "[node]\nname = \"attic\"\n[internet]\ngateways = [\"roof\", \"fd00::1\"]\n[[peer]]\nname = \"roof\"\ncard = \"{card}\"\n"
    );
    let config = parse(&text).unwrap();
    config.check_ends().unwrap();
    let gateways = config.internet.unwrap().gateways;
    assert_eq!(gateways[0].key, Some(identity(1).wireguard_key()));
    assert_eq!(gateways[0].address, mesh_address(&identity(1).wireguard_key()));
    assert_eq!((gateways[1].key, gateways[1].name.as_str()), (None, "fd00::1"));
    let both = parse(&format!("{text}[gateway]\n")).unwrap().check_ends().unwrap_err().to_string();
    assert!(both.contains("line 3, column 2: [internet]: a router with a [gateway]"), "{both}");
    let gateway =
        parse("[node]\nname = \"attic\"\n[gateway]\nhours = \"22:00-06:00\"\nclient_cap_day = \"5 GiB\"").unwrap();
    let gateway = gateway.gateway.unwrap();
    assert_eq!((gateway.clients_max, gateway.caps.client_day, gateway.caps.day), (256, Some(5 << 30), None));
    assert!(gateway.hours.is_some_and(|hours| hours.hold(0) && !hours.hold(720)));
    let said = |text: &str| parse(&format!("[node]\nname = \"attic\"\n[gateway]\n{text}")).unwrap().gateway.unwrap();
    let refuses = said("refuse = [\"tcp/25\", \"198.51.100.0/24\"]");
    assert_eq!(refuses.refuse.iter().map(ToString::to_string).collect::<Vec<_>>(), ["tcp/25", "198.51.100.0/24"]);
    assert!(!refuses.is_in_kernel_as(&said("")) && !said("uplink = \"eth0\"").is_in_kernel_as(&said("")));
    assert!(said("hours = \"08:00-09:00\"\ncap_day = \"1 GiB\"\ncontact = \"us\"").is_in_kernel_as(&said("")));
}
