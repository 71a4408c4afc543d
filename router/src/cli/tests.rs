use clap::CommandFactory;

use super::*;

fn help(path: &[&str]) -> String {
    let mut command = Arguments::command().term_width(100);
    command.build();
    let mut command = &mut command;
    for name in path {
        command = command.find_subcommand_mut(name).expect("the command exists");
    }
    command.render_long_help().to_string()
}

fn parse(line: &str) -> Result<Command, String> {
    Arguments::try_parse_from(line.split_whitespace())
        .map(|arguments| arguments.command)
        .map_err(|usage| usage.to_string())
}

#[test]
#[cfg(feature = "ledger-serve")]
fn help_is_one_screen_that_says_where_to_begin() {
    assert_eq!(
        help(&[]),
        "Router software for community broadband meshes: carries traffic, counts it, and gets it paid.

Usage: waybill <COMMAND>

Commands:
  demo        Run a small mesh in this process: real links, a real download, receipts, redemption
  up          Run this router
  join        Join a community by an invitation
  key         Show this router's keys and card, making them on first use; never the secret
  status      Show how the running router is
  reload      Make the running router read its config file again, and say what has to wait
  neighbours  Show the links to neighbours
  routes      Show where packets go, and what that costs
  meters      Show what was carried for whom, and the most that can be lost with each neighbour
  why         Show what each day with a neighbour came to, and what was signed for it
  statement   Show what a month came to with each household, and share its cost among them
  receipts    Show the newest receipt of each channel
  redeem      Turn the receipts held into tokens
  close       End the channel to a neighbour that is paid, and take back what is left in it
  leaf        Phones and laptops with a stock WireGuard client, behind this router
  lan         Show how the machines of a LAN here get addresses of the mesh; changes nothing
  names       Show the names inside the mesh that this router answers for, NAME.mesh
  wallet      Show the tokens of this router
  community   Found a community, and say who is in it
  invite      Make an invitation, which takes one router into the community
  gateway     Show whom this router leads to the Internet, and what each has left
  internet    Show which gateway leads this router to the Internet, and why
  ledger      Make and inspect a community's ledger

Options:
  -h, --help
          Print help

  -V, --version
          Print version

Begin with `waybill demo`: a small mesh in one process, without root or network.
"
    );
}

#[test]
fn every_command_has_an_example_and_json() {
    fn visit(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        if command.has_subcommands() {
            command.get_subcommands().for_each(|command| visit(command, &path));
            return;
        }
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(after.starts_with("Example"), "{path} has no example");
        assert!(after.contains(path.trim_start()), "{path}'s example is another command's: {after}");
        let has_json = command.get_arguments().any(|argument| argument.get_id() == "json");
        assert!(has_json || [" waybill up", " waybill ledger serve"].contains(&path.as_str()), "{path} has no --json");
    }
    visit(&Arguments::command(), "");
    Arguments::command().debug_assert();
}

#[test]
fn the_examples_of_the_help_are_command_lines() {
    for path in
        [&["demo"][..], &["up"], &["key"], &["redeem"], &["statement"], &["ledger", "create"], &["ledger", "mint"]]
    {
        if path[0] == "ledger" && !cfg!(feature = "ledger-host") {
            continue;
        }
        let text = help(path).replace("\\\n     ", "");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("  waybill ")).collect();
        assert!(!lines.is_empty(), "{text}");
        for line in lines {
            parse(line.trim()).unwrap_or_else(|usage| panic!("{line}: {usage}"));
        }
    }
}

#[test]
fn demo_takes_its_defaults_from_the_help() {
    let Ok(Command::Demo(demo)) = parse("waybill demo") else { panic!("demo is a command") };
    assert_eq!((demo.bytes, demo.households, demo.seed, demo.json), (Bytes::new(64 << 20), 2, 1, false));
    assert!(parse("waybill demo --bytes 0").unwrap_err().contains("allowed is 64 KiB to 1 GiB"));
    assert!(parse("waybill demo --bytes 64MB").unwrap_err().contains("KiB, MiB, GiB or TiB"));
    assert!(parse("waybill demo --households 17").is_err());
}

#[test]
fn redeem_takes_a_neighbour_or_none() {
    let neighbour = |line| match parse(line) {
        Ok(Command::Redeem(arguments)) => arguments.neighbour,
        other => panic!("{other:?}"),
    };
    assert_eq!(neighbour("waybill redeem"), None);
    assert_eq!(neighbour("waybill redeem roof --json").as_deref(), Some("roof"));
}

#[test]
fn a_failure_is_a_cause_and_a_next_step() {
    assert_eq!(Failure::new("a", "b").to_string(), "error: a\n  b");
    assert_eq!(Failure::new("a", "").to_string(), "error: a");
    let hostile = Failure::new("a\u{1b}[2J\n  b\r", "c\u{7}\nd").to_string();
    assert_eq!(hostile, "error: a\u{fffd}[2J\n  b\u{fffd}\n  c\u{fffd}\u{fffd}d");
}

#[test]
fn checking_a_config_makes_no_key() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("w.toml");
    let key = directory.path().join("key");
    std::fs::write(&config, format!("[node]\nname = \"attic\"\nkey_file = \"{}\"\n", key.display())).unwrap();
    let check = || check(&UpArguments { config: config.clone(), check: true }).unwrap();
    assert!(
        check()
            .ends_with(&format!("is right: 0 peers, 0 leaves; no key yet: the first start makes {}\n", key.display()))
    );
    assert!(!key.exists());
    let own = identity::load_or_create(&key).unwrap();
    assert!(check().ends_with(&format!("is right: 0 peers, 0 leaves; key {}\n", key.display())));

    let peer = format!("[[peer]]\nname = \"self\"\ncard = \"{}\"\n", own.card());
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}{peer}")).unwrap();
    let failure = super::check(&UpArguments { config, check: true }).unwrap_err().to_string();
    assert!(failure.contains("line 6, column 8: [[peer]] card: this is this router's own card"), "{failure}");
}
