//! What a router with OpenWrt runs besides the program: the scripts of `openwrt/waybill/files`, in BusyBox's shell.
//!
//! Each file of `good/` is an /etc/config/waybill, and the config file that comes of it beside it; the program itself has to accept
//! that. Each file of `broken/` has beside it what is said about it, by the names of the options. `functions.sh` stands in for
//! OpenWrt's own; what it makes of a file is compared with the real `uci` where that is installed.
//!
//! The program under test is `$WAYBILL`, else the one built beside these tests.

mod luci;
mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of its own, in which the scripts' absolute paths are.
struct Place {
    dir: tempfile::TempDir,
}

/// Paths of a router, and where they are in a [`Place`].
const MOVED: [(&str, &str); 6] = [
    ("/var/run/waybill", "run"),
    ("/etc/waybill", "etc"),
    ("/etc/capabilities", "capabilities"),
    ("/sbin/ujail", "ujail"),
    ("/etc/passwd", "passwd"),
    ("/dev/net/tun", "tun-driver"),
];

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        let program = waybill();
        let files_of = root().join("openwrt/waybill/files");
        for path in files(&files_of) {
            let mut text = fs::read_to_string(&path).expect("text");
            text = text.replace("/usr/bin/waybill", program.to_str().expect("a path in UTF-8"));
            for (from, to) in MOVED {
                text = text.replace(from, &place.path(to));
            }
            let to = place.dir.path().join("root").join(path.strip_prefix(&files_of).expect("below it"));
            fs::create_dir_all(to.parent().expect("a file is in a directory")).expect("directories");
            fs::write(to, text).expect("a script");
        }
        place
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Says what /etc/config/waybill is; a file that is none is one that cannot be read.
    fn settings(&self, uci: &[u8]) {
        let path = self.path("export");
        match export(uci) {
            Ok(text) => fs::write(path, text).expect("the export"),
            Err(()) => _ = fs::remove_file(path),
        }
    }

    /// Runs a script in BusyBox's shell, with OpenWrt's functions standing by.
    fn shell(&self, script: &str) -> Output {
        let script = format!(". {}/tests/openwrt/functions.sh\n{script}", root().display());
        Command::new("busybox")
            .args(["ash", "-c", &script])
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("IPKG_INSTROOT", self.path("root"))
            .env("EXPORT", self.path("export"))
            .env("TOLD_PROCD", self.path("procd"))
            .output()
            .expect("busybox runs")
    }

    /// The config file that comes of these settings, and what is said against them.
    fn render(&self, uci: &[u8]) -> (String, String) {
        self.settings(uci);
        let output = self.shell(
            ". $IPKG_INSTROOT/lib/functions/waybill.sh\n\
             waybill_render out.toml && waybill_check out.toml && cat out.toml",
        );
        let said = String::from_utf8(output.stderr).expect("what is said is UTF-8");
        let text = String::from_utf8(output.stdout).expect("a config file is UTF-8");
        assert_eq!(output.status.success(), said.is_empty(), "{said}");
        (self.as_on_a_router(text), self.as_on_a_router(said))
    }

    fn as_on_a_router(&self, mut text: String) -> String {
        for (to, from) in MOVED {
            text = text.replace(&self.path(from), to);
        }
        text
    }

    /// What procd was told since it was last asked.
    fn told(&self) -> Vec<String> {
        let path = self.path("procd");
        let text = fs::read_to_string(&path).unwrap_or_default();
        _ = fs::remove_file(path);
        text.lines().map(|line| self.as_on_a_router(line.to_owned())).collect()
    }

    /// Does to the service what `service waybill ACTION` does.
    fn service(&self, action: &str) -> Output {
        self.shell(&format!(". $IPKG_INSTROOT/etc/init.d/waybill\n[ {action} != reload ] || action=reload_service\n${{action:-{action}}}"))
    }
}

/// What BusyBox is needed for is not tried without it.
fn can_run() -> bool {
    let there = Command::new("busybox").arg("true").output().is_ok();
    if !there {
        println!("skipped: no busybox");
    }
    there
}

fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        println!("skipped in part: no {program}");
    }
    there
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

fn waybill() -> PathBuf {
    if let Some(path) = std::env::var_os("WAYBILL") {
        return fs::canonicalize(path).expect("WAYBILL names a file");
    }
    let test = std::env::current_exe().expect("a running program has a path");
    // TARGET/PROFILE/deps/openwrt-HASH
    let target = test.ancestors().nth(3).expect("cargo puts tests three levels deep");
    let candidates = [target.join("release/waybill"), target.join("debug/waybill")];
    let found = candidates.into_iter().find(|path| path.is_file());
    found.expect("no program to test: build it first: cargo build --release")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The files of one kind of settings: their names, what is in them, and where what is expected of them is.
fn corpus(kind: &str, expected: &str) -> Vec<(String, Vec<u8>, PathBuf)> {
    let all = files(&root().join("tests/openwrt").join(kind));
    let settings = all.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "uci"));
    settings
        .map(|path| {
            let name = format!("{kind}/{}", path.file_stem().expect("a name").to_string_lossy());
            (name, fs::read(&path).expect("settings"), path.with_extension(expected))
        })
        .collect()
}

/// Compares with the file, or writes it where `BLESS` is set: then it is read by a person before it is committed.
fn assert_is(name: &str, found: &str, expected: &Path) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(expected, found).expect("a file of the corpus");
    }
    let expected = fs::read_to_string(expected).unwrap_or_default();
    assert_eq!(found, expected, "{name}");
}

/// What `uci -n export` says of a file: unnamed sections have a name of their own, and all values are in single quotes.
fn export(file: &[u8]) -> Result<Vec<u8>, ()> {
    let mut text = b"package waybill\n".to_vec();
    let mut sections = 0;
    for words in statements(file)? {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let mut say = |indent: &str, keyword: &str, first: &[u8], second: &[u8]| {
            text.extend([indent.as_bytes(), keyword.as_bytes()].concat());
            text.extend([b" ", first, b" ", &*quoted(second), b"\n"].concat());
        };
        match words[..] {
            // Nothing is what is not there.
            [b"option", _, b""] => {}
            [b"config", kind] => {
                sections += 1;
                say("\n", "config", kind, format!("cfg{sections:02x}0a1b").as_bytes());
            }
            [b"config", kind, name] => {
                sections += 1;
                say("\n", "config", kind, name);
            }
            [b"option", name, value] => say("\t", "option", name, value),
            [b"list", name, value] => say("\t", "list", name, value),
            _ => return Err(()),
        }
    }
    text.push(b'\n');
    Ok(text)
}

fn quoted(text: &[u8]) -> Vec<u8> {
    let mut out = b"'".to_vec();
    for byte in text {
        match byte {
            b'\'' => out.extend(b"'\\''"),
            _ => out.push(*byte),
        }
    }
    out.push(b'\'');
    out
}

/// The words of each line, with quotes taken off as uci does it.
fn statements(file: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, ()> {
    let (mut all, mut words, mut word) = (Vec::new(), Vec::new(), None::<Vec<u8>>);
    let mut bytes = file.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'#' if word.is_none() => while bytes.next_if(|byte| *byte != b'\n').is_some() {},
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next().ok_or(())? {
                        b'\'' => break,
                        byte => word.push(byte),
                    }
                }
            }
            b'\\' => word.get_or_insert_default().push(bytes.next().ok_or(())?),
            b'\n' | b' ' | b'\t' => {
                words.extend(word.take());
                if byte == b'\n' && !words.is_empty() {
                    all.push(std::mem::take(&mut words));
                }
            }
            byte => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    all.extend(Some(words).filter(|words| !words.is_empty()));
    Ok(all)
}

#[test]
fn good_settings_become_a_config_file_that_the_program_accepts() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    for (name, uci, expected) in corpus("good", "toml") {
        let (text, said) = place.render(&uci);
        assert_eq!(said, "", "{name}");
        assert_is(&name, &text, &expected);
    }
    assert!(!Path::new(&place.path("owned")).exists(), "a value was run");
}

#[test]
fn broken_settings_are_refused_by_the_options_names() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    for (name, uci, expected) in corpus("broken", "txt") {
        let (_, said) = place.render(&uci);
        assert!(said.lines().all(|line| line.starts_with("waybill")), "{name}: {said}");
        assert!(!said.is_empty(), "{name}");
        assert_is(&name, &said, &expected);
    }
    assert!(!Path::new(&place.path("owned")).exists(), "a value was run");
}

#[test]
fn whatever_a_value_is_it_stands_in_the_file_as_it_is_or_is_refused_by_name() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let mut random = fastrand::Rng::with_seed(8);
    let pieces = [
        "'",
        "\"",
        "\\",
        "$(touch owned)",
        "`touch owned`",
        "${HOME}",
        "*",
        ";",
        "#",
        "é",
        "]",
        "\t",
        "\n",
        "%s",
        "-n",
        "\u{7f}",
    ];
    for _ in 0..40 {
        let value: String = (0..random.usize(1..6)).map(|_| pieces[random.usize(..pieces.len())]).collect();
        let mut uci =
            b"config node 'node'\n\toption name 'attic'\nconfig gateway 'gateway'\n\toption contact ".to_vec();
        uci.extend(quoted(value.as_bytes()));
        uci.push(b'\n');
        let (text, said) = place.render(&uci);
        if value.chars().any(char::is_control) {
            assert!(said.starts_with("waybill.gateway.contact: "), "{value:?}: {said}");
            continue;
        }
        assert_eq!(said, "", "{value:?}");
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
        assert!(text.contains(&format!("\ncontact = \"{escaped}\"\n")), "{value:?}: {text}");
    }
    assert!(!Path::new(&place.path("owned")).exists(), "a value was run");
}

/// The options of `waybill.example.toml`, which a test of the program keeps equal to those it reads, by table.
fn options() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("router/waybill.example.toml")).expect("the example");
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut table = String::new();
    for line in text.lines().map(|line| line.trim_start_matches('#')) {
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && !line.starts_with(' ')
        {
            tables.entry(table.clone()).or_default().insert(key.to_owned());
        }
    }
    tables
}

#[test]
fn each_option_of_the_program_is_an_option_of_uci() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    for (table, mut options) in options() {
        let kind = match table.as_str() {
            "price" => "policy",
            "discovery" => "interface",
            other => other,
        };
        let (_, said) = place.render(format!("config {kind} 'it'\n\toption nonsense '1'\n").as_bytes());
        let line =
            said.lines().find(|line| line.starts_with("waybill.it.nonsense: ")).unwrap_or_else(|| panic!("{said}"));
        let (_, known) = line.split_once("; there are ").unwrap_or_else(|| panic!("{line}"));
        let known: BTreeSet<String> = known.split(", ").map(str::to_owned).collect();
        // What UCI says in its own way.
        options.insert("enabled".to_owned());
        match kind {
            "interface" => options = ["enabled", "network", "device"].map(str::to_owned).into(),
            "gateway" => _ = options.insert("network".to_owned()),
            _ => {}
        }
        assert_eq!(known, options, "{kind}");
    }
}

const ATTIC: &str = "config node 'node'\n\toption enabled '1'\n\toption name 'attic'\n";
const PEER: &str = "config peer 'roof'\n\toption endpoint '192.0.2.1:51820'\n\toption card ";

/// A card of somebody.
fn card() -> String {
    let text = fs::read_to_string(root().join("router/waybill.example.toml")).expect("the example");
    let (_, rest) = text.split_once("card = \"").expect("the example has a card");
    rest.split('"').next().expect("a card ends").to_owned()
}

/// What tells procd whether the instance is another.
fn settings_of(told: &[String]) -> String {
    let environment = told.iter().find(|line| line.starts_with("env ")).unwrap_or_else(|| panic!("{told:?}"));
    environment.clone()
}

#[test]
fn a_change_of_neighbours_is_a_signal_and_a_change_of_anything_else_another_instance() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    place.settings(ATTIC.as_bytes());
    assert!(place.service("start").status.success());
    let first = place.told();
    let command = format!("command {} up --config /var/run/waybill-root/waybill.toml", waybill().display());
    assert!(first.contains(&command) && first.contains(&"respawn 3600 5 0".to_owned()), "{first:?}");
    assert!(first.contains(&"set".to_owned()) && first.contains(&"trigger waybill".to_owned()), "{first:?}");

    place.settings(format!("{ATTIC}{PEER}'{}'\n", card()).as_bytes());
    assert!(place.service("reload").status.success());
    let told = place.told();
    assert_eq!(settings_of(&told), settings_of(&first), "procd sees no change");
    assert_eq!(told.last().map(String::as_str), Some("signal waybill * HUP"));

    assert!(place.service("reload").status.success());
    assert!(!place.told().iter().any(|line| line.starts_with("signal")), "nothing has changed");

    let gateway =
        |cap: &str| format!("{ATTIC}config gateway 'gateway'\n\toption cap_day '{cap}'\n{PEER}'{}'\n", card());
    place.settings(gateway("1 GiB").as_bytes());
    assert!(place.service("reload").status.success());
    let told = place.told();
    assert_ne!(settings_of(&told), settings_of(&first), "a gateway where there was none");
    place.settings(gateway("2 GiB").as_bytes());
    assert!(place.service("reload").status.success());
    let again = place.told();
    assert_eq!(settings_of(&again), settings_of(&told), "what a gateway allows it allows at once");
    assert_eq!(again.last().map(String::as_str), Some("signal waybill * HUP"));

    place.settings(format!("{ATTIC}\toption mtu '1400'\n{PEER}'{}'\n", card()).as_bytes());
    assert!(place.service("reload").status.success());
    let told = place.told();
    assert_ne!(settings_of(&told), settings_of(&first), "procd starts it anew");
    assert!(!told.iter().any(|line| line.starts_with("signal")), "{told:?}");
}

#[test]
fn settings_with_a_mistake_leave_the_running_daemon_as_it_is() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    place.settings(format!("{ATTIC}\toption mtu '12'\n").as_bytes());
    place.service("start");
    assert_eq!(place.told(), ["set", "trigger waybill"], "nothing runs yet, and nothing is started");

    place.settings(ATTIC.as_bytes());
    assert!(place.service("start").status.success());
    let first = place.told();
    let text = fs::read_to_string(place.path("run-root/waybill.toml")).expect("the config file");

    place.settings(format!("{ATTIC}\toption mtu '12'\n").as_bytes());
    for action in ["reload", "restart", "check"] {
        let output = place.service(action);
        assert!(!output.status.success(), "{action}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("waybill.node.mtu: 12 is out of bounds"), "{action}: {said}");
        assert_eq!(place.told(), Vec::<String>::new(), "{action}");
    }
    // Without an instance procd would stop the one that runs.
    assert!(place.service("start").status.success());
    assert_eq!(place.told(), first);
    assert_eq!(fs::read_to_string(place.path("run-root/waybill.toml")).expect("the config file"), text);

    place.settings(b"config node 'node'\n\toption enabled '0'\n");
    assert!(place.service("reload").status.success());
    assert_eq!(place.told(), ["set", "trigger waybill"], "no instance: switched off");
    assert!(!Path::new(&place.path("run-root/waybill.toml")).exists());
}

#[test]
fn key_and_config_file_are_for_nobody_else_to_read_and_state_without_a_ledger_is_not_on_the_flash() {
    use std::os::unix::fs::PermissionsExt as _;

    if !can_run() {
        return;
    }
    let place = Place::new();
    place.settings(ATTIC.as_bytes());
    // As a restored backup leaves it.
    fs::create_dir(place.path("etc")).expect("a directory");
    fs::set_permissions(place.path("etc"), fs::Permissions::from_mode(0o755)).expect("its mode");
    assert!(place.service("start").status.success());
    for (path, mode) in [
        ("etc/key", 0o600),
        ("run-root/waybill.toml", 0o600),
        ("run-root", 0o700),
        ("run", 0o700),
        ("etc", 0o700),
        ("run/state", 0o700),
    ] {
        let found =
            fs::metadata(place.path(path)).unwrap_or_else(|error| panic!("{path}: {error}")).permissions().mode();
        assert_eq!(found & 0o777, mode, "{path}");
    }
    let address = fs::read_to_string(place.path("run-root/address")).expect("the mesh address");
    assert!(address.starts_with("fd"), "{address}");
}

#[test]
fn files_of_the_ledger_are_in_the_jail() {
    use std::os::unix::fs::PermissionsExt as _;

    if !can_run() {
        return;
    }
    let place = Place::new();
    fs::write(place.path("ujail"), "").expect("a jail");
    fs::set_permissions(place.path("ujail"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let mounts = |settings: &str, enabled: &str| {
        place.settings(format!("{ATTIC}config ledger 'ledger'\n\toption enabled '{enabled}'\n{settings}").as_bytes());
        // Whether this program has a ledger of its own is not what is tried here.
        let output = place
            .shell(". $IPKG_INSTROOT/etc/init.d/waybill\nwaybill_check() { :; }\nmake_places() { :; }\nstart_service");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        place.told().into_iter().filter(|line| line.starts_with("mount")).collect::<Vec<_>>()
    };
    for name in ["authorities.pem", "serve.key"] {
        fs::write(place.path(name), "").expect("a file");
    }
    fs::create_dir(place.path("usb")).expect("a directory");
    let (usb, authorities, key) = (place.path("usb"), place.path("authorities.pem"), place.path("serve.key"));
    let settings = format!(
        "\toption path '{usb}/community.ledger'\n\toption authorities '{authorities}'\n\toption serve_key '{key}'\n"
    );
    let told = mounts(&settings, "1");
    for mount in [format!("mount_rw {usb}"), format!("mount {authorities}"), format!("mount {key}")] {
        assert!(told.contains(&mount), "{mount} is not in {told:?}");
    }
    let without = mounts(&settings, "0");
    assert!(!without.iter().any(|line| line.contains("usb") || line.contains("serve.key")), "{without:?}");
    // What is with the router's own key, or among the authorities of all, is there already.
    let within =
        "\toption path '/etc/waybill/hill.ledger'\n\toption authorities '/etc/ssl/certs/ca-certificates.crt'\n";
    let within = mounts(&within.replace("/etc/waybill", &place.path("etc")), "1");
    assert!(!within.iter().any(|line| line.ends_with(".crt")), "{within:?}");
    // A directory that is not there would be a jail that never starts: it is said, and what runs goes on.
    for (option, missing) in [("path", "nowhere/community.ledger"), ("serve_key", "nowhere.key")] {
        let settings = format!(
            "{ATTIC}config ledger 'ledger'\n\toption path '{usb}/community.ledger'\n\toption {option} '{}'\n",
            place.path(missing)
        );
        place.settings(settings.as_bytes());
        fs::remove_file(place.path("run-root/told")).unwrap_or_default();
        fs::remove_file(place.path("run-root/waybill.toml")).unwrap_or_default();
        let output = place.shell(". $IPKG_INSTROOT/etc/init.d/waybill\nwaybill_check() { :; }\nstart_service");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.starts_with(&format!("waybill.ledger.{option}: there is no ")),
            "{said}"
        );
        assert_eq!(place.told(), Vec::<String>::new());
    }
}

#[test]
fn the_daemon_is_a_user_of_its_own_whose_files_are_its_own_and_nobody_elses_are() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

    if !can_run() {
        return;
    }
    let place = Place::new();
    let path = |name: &str| place.path(name);
    let write = |name: &str, content: &str| fs::write(path(name), content).expect("a file");
    write("probe", "");
    if chown(path("probe"), Some(4242), Some(4243)).is_err() {
        println!("skipped: only root gives files away");
        return;
    }
    let owner = |name: &str| {
        let its = fs::symlink_metadata(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        (its.uid(), its.gid(), its.mode() & 0o777)
    };
    write("ujail", "");
    fs::set_permissions(path("ujail"), fs::Permissions::from_mode(0o755)).expect("its mode");
    write("passwd", "root:x:0:0:root:/root:/bin/ash\nwaybill:x:4242:4243:waybill:/var/run/waybill:/bin/false\n");
    // As a daemon that was root, or a backup, left them; and what somebody with the daemon's rights may have laid there before.
    for directory in ["etc/state/mirror", "somebody", "open", "open/state"] {
        fs::create_dir_all(path(directory)).expect("a directory");
    }
    fs::set_permissions(path("open"), fs::Permissions::from_mode(0o777)).expect("its mode");
    for file in ["etc/state/journal.sqlite", "etc/state/mirror/checkpoint", "secret", "other", "inner/nothing"] {
        fs::create_dir_all(Path::new(&path(file)).parent().expect("a directory")).expect("a directory");
        write(file, "SQLite format 3\0");
    }
    std::os::unix::fs::symlink(path("secret"), path("etc/state/link")).expect("a link");
    std::os::unix::fs::symlink(path("inner"), path("etc/state/away")).expect("a link");
    fs::hard_link(path("other"), path("etc/state/name")).expect("a second name");
    let start = |state: &str| {
        place.settings(format!("{ATTIC}\toption state_dir '{}'\n", path(state)).as_bytes());
        let output = place.service("start");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        place.told().contains(&"user waybill".to_owned())
    };
    let yes = |private: u32| (4242, 4243, private);
    assert!(start("etc/state"));
    for (name, expected) in [
        ("etc", (0, 4243, 0o750)),
        ("etc/key", yes(0o600)),
        ("etc/state", yes(0o700)),
        ("etc/state/journal.sqlite", yes(0o644)),
        ("etc/state/mirror", yes(0o755)),
        ("etc/state/mirror/checkpoint", yes(0o644)),
        ("run", yes(0o700)),
        ("run-root", (0, 4243, 0o750)),
        ("run-root/waybill.toml", (0, 4243, 0o640)),
    ] {
        assert_eq!(owner(name), expected, "{name}");
    }
    let nobody_elses = || {
        for name in ["secret", "other", "inner", "inner/nothing", "somebody", "open/state"] {
            assert_eq!((owner(name).0, owner(name).1), (0, 0), "{name}");
        }
    };
    nobody_elses();
    // What the settings name and the daemon never had is not given away; nor where others could change what is given.
    for state in ["somebody", "open/state", "etc"] {
        assert!(!start(state), "{state}");
        nobody_elses();
        assert_eq!(owner("etc/key").0, 0, "root in its jail reads what is root's");
    }
    // The socket of a daemon that was another user would be in the way.
    let socket = std::os::unix::net::UnixListener::bind(path("run/control.sock")).expect("a socket");
    let ended = format!(
        "ubus() {{ case \"$*\" in *'service delete'*) echo \"$*\" >>{}; rm -f {} ;; esac; }}\n",
        path("ended"),
        path("run/control.sock")
    );
    place.settings(format!("{ATTIC}\toption state_dir '{}'\n", path("etc/state")).as_bytes());
    let output = place.shell(&format!("{ended}. $IPKG_INSTROOT/etc/init.d/waybill\nstart"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(place.told().contains(&"user waybill".to_owned()));
    let ended = fs::read_to_string(path("ended")).expect("it was ended");
    assert_eq!(ended.trim(), "-t 5 call service delete {\"name\":\"waybill\"}");
    drop(socket);
    // What somebody else has left there while it runs, such as an invitation, is its own after it has ended.
    let runs = |with: &str| {
        for name in ["ended", "run/control.sock"] {
            fs::remove_file(path(name)).unwrap_or_default();
        }
        let ends = format!("ubus() {{ case \"$*\" in *'service delete'*) echo >>{} ;; esac; }}\n", path("ended"));
        let script = format!("{ends}. $IPKG_INSTROOT/etc/init.d/waybill\n{with}\nstart");
        let output = place.shell(&script);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (place.told().contains(&"user waybill".to_owned()), fs::read_to_string(path("ended")).unwrap_or_default().len())
    };
    let until_ended = format!("waybill_is_running() {{ [ ! -e {} ]; }}", path("ended"));
    fs::remove_file(path("etc/state/name")).expect("the second name");
    write("etc/state/enrolment", "code");
    assert_eq!(runs(&until_ended), (true, 1));
    assert_eq!((owner("etc/state/enrolment").0, runs(&until_ended)), (4242, (true, 0)), "and then it goes on");
    // On a file system without owners it is root, and is not ended again by each reload.
    let socket = std::os::unix::net::UnixListener::bind(path("root.sock")).expect("a socket");
    let with_socket =
        format!("chown() {{ return 1; }}\nln {} {}\nsleep() {{ :; }}", path("root.sock"), path("run/control.sock"));
    fs::set_permissions(path("etc/state"), fs::Permissions::from_mode(0o700)).expect("its mode");
    chown(path("etc/state"), Some(0), Some(0)).expect("root's");
    assert_eq!(runs(&with_socket), (false, 1));
    assert_eq!(runs(&with_socket), (false, 0));
    chown(path("etc/state"), Some(4242), Some(4243)).expect("the daemon's");
    drop(socket);
    fs::remove_file(path("run/control.sock")).expect("its socket");
    // A link where its state is in memory leads nowhere, and makes it no root.
    place.settings(ATTIC.as_bytes());
    std::os::unix::fs::symlink(path("somebody"), path("run/state")).expect("a link");
    assert_eq!(runs(""), (true, 0));
    assert_eq!((owner("run/state"), owner("somebody").0), (yes(0o700), 0));
    assert!(start("new") && owner("new") == yes(0o700), "one that is not there is made for it");
    assert!(start("etc/state"));
    // Without the user it is root, and so are its files again.
    write("passwd", "root:x:0:0:root:/root:/bin/ash\n");
    assert!(!start("etc/state"));
    assert_eq!((owner("etc/key"), owner("etc")), ((0, 0, 0o600), (0, 0, 0o700)));
    assert_eq!((owner("etc/state").0, owner("etc/state/journal.sqlite").0), (0, 0));
}

#[test]
fn the_lan_has_its_prefix_of_the_upper_half_of_this_routers_48() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    for (address, prefix) in [
        ("fd5b:976c:5dd7:0:7943:c8be:4302:cb5a", "fd5b:976c:5dd7:8000::/49"),
        ("fd5b:976c:0:0:7943:c8be:4302:cb5a", "fd5b:976c:0:8000::/49"),
        ("fd5b:976c::7943:c8be:4302:cb5a", "fd5b:976c:0:8000::/49"),
        ("fd5b::7943:c8be:4302:cb5a", "fd5b:0:0:8000::/49"),
        ("fd5b:0:5dd7::1", "fd5b:0:5dd7:8000::/49"),
    ] {
        let script = format!("INCLUDE_ONLY=1\n. $IPKG_INSTROOT/lib/netifd/proto/waybill.sh\nwaybill_prefix {address}");
        let output = place.shell(&script);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), prefix, "{address}");
    }
}

#[test]
fn what_stands_in_for_uci_says_what_uci_says() {
    if !has("uci") {
        return;
    }
    let unnamed = |text: Vec<u8>| {
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut parts = text.split("'cfg");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + "'cfg" + part.get(6..).unwrap_or_default())
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, uci, _) in [corpus("good", "toml"), corpus("broken", "txt")].concat() {
        fs::write(dir.path().join("waybill"), &uci).expect("settings");
        let output = Command::new("uci").arg("-c").arg(dir.path()).args(["-n", "export", "waybill"]).output();
        let output = output.expect("uci runs");
        match export(&uci) {
            Ok(text) => assert_eq!(unnamed(text), unnamed(output.stdout), "{name}"),
            Err(()) => assert!(!output.status.success(), "{name}"),
        }
    }
}

/// What `waybill-join` would change in the settings, given a config file that `waybill join` has written. `in_community`: the router
/// was in one already.
fn imported(config: &str, in_community: bool) -> Vec<String> {
    let place = Place::new();
    fs::write(place.path("config.toml"), config).expect("a file");
    let output = place.shell(&format!(
        "uci() {{
             case \"$*\" in
             '-q show waybill') printf '%s\\n' waybill.node=node \"waybill.node.name='attic'\" waybill.roof=peer \"waybill.roof.card='card-of-roof'\" ;;
             '-q get waybill.node.name') echo attic ;;
             'add waybill peer') echo cfg01 ;;
             'set '*) printf '%s\\n' \"${{2#waybill.}}\" ;;
             *) return 1 ;;
             esac
         }}
         sed -n '/^value_of() {{/,/^}}/p; /^import() {{/,/^}}/p' $IPKG_INSTROOT/usr/libexec/waybill-join >functions
         . ./functions
         wb_ledger={}
         import config.toml",
        u8::from(in_community)
    ));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn an_invitation_brings_a_community_and_a_second_one_neighbours_and_nothing_else() {
    if !can_run() {
        return;
    }
    let peer = |name: &str| {
        format!("[[peer]]\nname = \"{name}\"\ncard = \"card-of-{name}\"\nendpoint = \"{name}.example:51820\"\n")
    };
    let first = "[node]\nname = \"other\"\nkey_file = \"/tmp/key\"\n\n[ledger]\nurl = \"https://a.example\"\n\n[community]\nmembers_only = true\n\n";
    let came = imported(&[first, &peer("mill")].concat(), false);
    let mill = ["cfg01.name=mill", "cfg01.card=card-of-mill", "cfg01.endpoint=mill.example:51820"];
    let community =
        ["ledger=ledger", "ledger.url=https://a.example", "community=community", "community.members_only=1"];
    assert_eq!(came, [&community[..], &mill, &["node.enabled=1"]].concat());

    // All that such a router may have, and roof, which is known.
    let all = fs::read_to_string(root().join("tests/openwrt/good/all.toml")).expect("a file of the corpus");
    let (before, _) = all.split_once("[[peer]]").expect("neighbours come last");
    let leaf = "[[leaf]]\nname = \"phone\"\naddresses = [\"fd00::1/128\"]\n\n";
    let came = imported(&[before, &peer("roof"), leaf, &peer("mill")].concat(), true);
    assert_eq!(came, [&mill[..], &["node.enabled=1"]].concat());
}

/// What `waybill-leaf` says, and what it does to the settings, where the daemon cannot be told. `unsaved`: what somebody has changed
/// and not committed.
fn let_in(arguments: &str, unsaved: &str) -> (Output, String) {
    let place = Place::new();
    place.settings(format!("{ATTIC}\toption key_file '{}/key'\n", place.path("etc")).as_bytes());
    let output = place.shell(&format!(
        "uci() {{
             case \"$*\" in
             'export waybill') cat \"$EXPORT\" ;;
             '-q changes waybill') printf '%s' '{unsaved}' ;;
             'add waybill leaf') echo cfg01 ;;
             'set '* | 'add_list '* | 'commit '* | 'revert '*) printf '%s\\n' \"$*\" >>told ;;
             *) return 1 ;;
             esac
         }}
         logger() {{ :; }}
         . $IPKG_INSTROOT/lib/functions/waybill.sh
         mkdir etc && $WAYBILL_PROG key --file etc/key >/dev/null
         sed 's|^\\. /lib/.*||; s|^/etc/init.d/waybill reload|{{ echo down; false; }}|' $IPKG_INSTROOT/usr/libexec/waybill-leaf >leaf
         set -- {arguments}
         . ./leaf"
    ));
    (output, fs::read_to_string(place.path("told")).unwrap_or_default())
}

#[test]
fn a_phone_is_let_in_by_the_settings_and_its_secret_is_kept_nowhere() {
    if !can_run() {
        return;
    }
    let (output, told) = let_in("anna --endpoint roof.example.org --internet", "");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (answer, picture) = said.split_at(said.find("<svg").expect("a picture of the config"));
    let answer: serde_json::Value = serde_json::from_str(answer).expect("what the program says");
    let of = |key: &str| answer[key].as_str().unwrap_or_else(|| panic!("{key}: {answer}")).to_owned();
    assert_eq!(
        told.lines().collect::<Vec<_>>(),
        [
            "set waybill.cfg01.name=anna".to_owned(),
            format!("set waybill.cfg01.wireguard_key={}", of("wireguard_key")),
            format!("add_list waybill.cfg01.addresses={}/128", of("address")),
            format!("set waybill.cfg01.ipv4={}", of("ipv4")),
            "commit waybill".to_owned(),
        ]
    );
    assert!(of("config").contains("PrivateKey = ") && picture.trim_end().ends_with("</svg>"), "{answer}");

    for (arguments, unsaved, why) in [
        ("attic --endpoint 192.0.2.1", "", "\"attic\" is taken in /etc/config/waybill"),
        ("anna --endpoint 192.0.2.1", "waybill.node.name=x", "there are unsaved changes of waybill"),
        ("", "", "how is it called?"),
    ] {
        let (output, told) = let_in(arguments, unsaved);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.starts_with(why), "{arguments}: {said}");
        assert_eq!(told, "", "{arguments}");
    }
}

/// Settings as `functions.sh` and `uci.sh` have them, a line for each section and each option, and what scripts make of them.
struct Settings {
    place: Place,
}

/// What every router has before Waybill comes.
const ROUTER: &str = "network.lan=interface\nnetwork.lan.proto=static\nnetwork.wan=interface\nnetwork.wan.proto=dhcp\n\
     firewall.lan=zone\nfirewall.lan.name=lan\nfirewall.wan=zone\nfirewall.wan.name=wan\n";

impl Settings {
    fn new(lines: &str) -> Self {
        let place = Place::new();
        for name in ["uci", "uci.saved"] {
            fs::write(place.path(name), lines).expect("settings");
        }
        fs::create_dir_all(place.path("config")).expect("a directory");
        for name in ["firewall", "waybill", "wireless"] {
            fs::write(place.path(&format!("config/{name}")), "").expect("a file");
        }
        Self { place }
    }

    /// Runs a script where `uci` has a memory and /lib/functions.sh is what the tests have.
    fn run(&self, script: &str) -> Output {
        let tests = root().join("tests/openwrt");
        let path = |name: &str| self.place.path(name);
        let functions = format!(
            "UCI={}\n. {}/functions.sh\n. {}/uci.sh\nubus() {{ echo \"ubus $*\" >>{}; \
             ! command -v answer >/dev/null || answer \"$@\"; }}\n",
            path("uci"),
            tests.display(),
            tests.display(),
            path("log")
        );
        fs::write(path("root/lib/functions.sh"), functions).expect("a file");
        self.place.shell(&format!(". $IPKG_INSTROOT/lib/functions.sh\n{script}"))
    }

    /// Runs a file of the package, or of an image, as the router would; its absolute paths are in the place.
    fn script(&self, path: &str, before: &str, arguments: &str) -> Output {
        let text = fs::read_to_string(root().join("openwrt").join(path)).expect("a script");
        let moved = [
            ("/etc/config/", self.place.path("config/")),
            ("/etc/waybill/", self.place.path("etc/")),
            ("/etc/shadow", self.place.path("passwords")),
            ("/usr/share/waybill-preset", self.place.path("preset")),
            ("/usr/libexec/waybill-preset", "preset".to_owned()),
            ("/etc/init.d/waybill", "initd".to_owned()),
            ("/etc/init.d/network", "network".to_owned()),
            ("/etc/init.d/firewall", "firewall".to_owned()),
            ("/var/run/waybill", self.place.path("run")),
            (". /lib/", ". $IPKG_INSTROOT/lib/".to_owned()),
        ];
        let text = moved.iter().fold(text, |text, (from, to)| text.replace(from, to));
        fs::write(self.place.path("script"), text).expect("a script");
        let log = self.place.path("log");
        let services: String = [("initd", "service"), ("network", "network"), ("firewall", "firewall")]
            .map(|(name, said)| format!("{name}() {{ echo \"{said} $*\" >>{log}; }}\n"))
            .concat();
        self.run(&format!("{services}{before}\nset -- {arguments}\n. ./script"))
    }

    fn succeeds(&self, path: &str, before: &str, arguments: &str) {
        let output = self.script(path, before, arguments);
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What is saved, a line for each section and each option.
    fn lines(&self) -> BTreeSet<String> {
        let saved = fs::read_to_string(self.place.path("uci.saved")).expect("settings");
        let now = fs::read_to_string(self.place.path("uci")).expect("settings");
        let set = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(set(&now), set(&saved), "nothing is left unsaved");
        set(&saved)
    }

    fn has(&self, line: &str) -> bool {
        self.lines().contains(line)
    }
}

const DEFAULTS: &str = "waybill/files/etc/uci-defaults/80-waybill";

#[test]
fn the_first_boot_makes_a_network_a_zone_and_rules_and_the_second_nothing() {
    if !can_run() {
        return;
    }
    let settings = Settings::new(ROUTER);
    settings.succeeds(DEFAULTS, "", "");
    let lines = settings.lines();
    for line in [
        "waybill.node.enabled=0",
        "network.mesh.proto=waybill",
        "firewall.waybill_mesh.name=mesh",
        "firewall.waybill_mesh.+network=mesh",
        "firewall.waybill_mesh.+device=waybill0",
        "firewall.waybill_mesh.input=REJECT",
        "firewall.waybill_lan_mesh.dest=mesh",
        "firewall.waybill_links.src=*",
        "firewall.waybill_links.dest_port=51820 443",
        "firewall.waybill_names.enabled=0",
        "firewall.waybill_clients.+device=waybill-gw0",
        "firewall.waybill_mesh_out.dest=meshout",
    ] {
        assert!(lines.contains(line), "{line} is not in {lines:#?}");
    }
    // Nothing leads from the mesh to the LAN.
    assert!(!lines.iter().any(|line| line.ends_with(".dest=lan")), "{lines:#?}");
    settings.succeeds(DEFAULTS, "", "");
    assert_eq!(settings.lines(), lines);
    // What people changed stays.
    assert!(settings.run("uci set firewall.waybill_names.enabled=1\nuci commit firewall").status.success());
    settings.succeeds(DEFAULTS, "", "");
    assert!(settings.has("firewall.waybill_names.enabled=1"));
}

#[test]
fn what_others_called_mesh_is_left_alone_and_waybill_has_its_own_beside_it() {
    if !can_run() {
        return;
    }
    // A mesh of another kind: its network and its zone.
    let others = format!(
        "{ROUTER}network.mesh=interface\nnetwork.mesh.proto=batadv\nfirewall.z=zone\nfirewall.z.name=mesh\n\
         firewall.z.+network=mesh\n"
    );
    let settings = Settings::new(&others);
    settings.succeeds(DEFAULTS, "", "");
    let lines = settings.lines();
    for line in others.lines().chain([
        "network.waybill.proto=waybill",
        "firewall.waybill_mesh.name=waybill",
        "firewall.waybill_mesh.+network=waybill",
        "firewall.waybill_ledger.src=waybill",
        "firewall.waybill_lan_mesh.dest=waybill",
        "firewall.waybill_mesh_out.src=waybill",
        "firewall.waybill_links.src=*",
        "firewall.waybill_clients.name=meshclients",
    ]) {
        assert!(lines.contains(line), "{line} is not in {lines:#?}");
    }
    settings.succeeds(DEFAULTS, "", "");
    assert_eq!(settings.lines(), lines);

    // A network with our protocol under a name that somebody chose, and no name left for a zone.
    let taken = format!(
        "{ROUTER}network.hill=interface\nnetwork.hill.proto=waybill\nfirewall.a=zone\nfirewall.a.name=mesh\n\
         firewall.b=zone\nfirewall.b.name=waybill\nfirewall.c=zone\nfirewall.c.name=meshclients\n"
    );
    let settings = Settings::new(&taken);
    settings.succeeds(DEFAULTS, "", "");
    let lines = settings.lines();
    assert!(
        lines.contains("firewall.waybill_links.src=*") && lines.contains("firewall.waybill_out.name=meshout"),
        "{lines:#?}"
    );
    for line in &lines {
        let ours = [
            "network.mesh",
            "network.waybill",
            "firewall.waybill_mesh",
            "firewall.waybill_clients",
            "firewall.waybill_ping",
        ];
        assert!(!ours.iter().any(|name| line.starts_with(name)), "{line}");
    }
}

const WISHES: &str = "community Höhe & 'Tal'\ninvitation waybill-invite1:abc\nlanguage pt-br\ncountry DE\nssid Hügel \"netz\"\npassword let me in\n";
const RADIOS: &str = "wireless.radio0=wifi-device\nwireless.radio0.disabled=1\nwireless.default_radio0=wifi-iface\n\
     wireless.default_radio0.device=radio0\nwireless.default_radio0.ssid=OpenWrt\nwireless.default_radio0.encryption=none\n\
     wireless.radio1=wifi-device\nwireless.radio1.country=AT\nwireless.mine=wifi-iface\nwireless.mine.device=radio1\n\
     wireless.mine.ssid=mine\n";

fn preset(lines: &str, wishes: &str) -> Settings {
    use std::os::unix::fs::PermissionsExt as _;

    let settings = Settings::new(lines);
    fs::create_dir(settings.place.path("preset")).expect("a directory");
    let shadow = settings.place.path("preset/shadow");
    fs::write(&shadow, wishes).expect("the wishes");
    fs::set_permissions(shadow, fs::Permissions::from_mode(0o600)).expect("their mode");
    fs::write(settings.place.path("passwords"), "root:$5$abc:0:0:99999:7:::\ndaemon:*:0:0:99999:7:::\n")
        .expect("passwords");
    settings
}

const PRESET: &str = "preset/usr/libexec/waybill-preset";

#[test]
fn a_new_router_begins_with_what_its_community_wants() {
    use std::os::unix::fs::PermissionsExt as _;

    if !can_run() {
        return;
    }
    let settings = preset(&format!("{ROUTER}{RADIOS}luci.main=core\nluci.main.lang=auto\n"), WISHES);
    settings.succeeds(PRESET, "", "");
    let lines = settings.lines();
    for line in [
        "waybill.setup=setup",
        "waybill.setup.pending=1",
        "waybill.setup.community=Höhe & 'Tal'",
        "waybill.setup.invitation=waybill-invite1:abc",
        "waybill.setup.language=pt-br",
        "luci.main.lang=pt_br",
        "wireless.radio0.country=DE",
        "wireless.radio1.country=AT",
        "wireless.default_radio0.ssid=Hügel \"netz\"",
        "wireless.default_radio0.encryption=psk2",
        "wireless.default_radio0.key=let me in",
        "wireless.mine.ssid=mine",
    ] {
        assert!(lines.contains(line), "{line} is not in {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.ends_with(".disabled=1")), "{lines:#?}");
    let mode = |name: &str| fs::metadata(settings.place.path(name)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode("config/waybill"), 0o600, "the invitation is in it");
    assert_eq!(mode("config/wireless"), 0o600, "the password is in it");
    // What is left is for radios that come later, and no invitation.
    assert_eq!(mode("preset/shadow"), 0o600);
    let left = fs::read_to_string(settings.place.path("preset/shadow")).expect("what is left");
    assert_eq!(left, "country DE\nssid Hügel \"netz\"\nsecured 1\n", "the password is in the settings");

    // A radio comes.
    let hotplug = "preset/etc/hotplug.d/ieee80211/20-waybill-preset";
    let late = "wireless.radio2=wifi-device\nwireless.late=wifi-iface\nwireless.late.device=radio2\nwireless.late.ssid=OpenWrt\n";
    for name in ["uci", "uci.saved"] {
        let path = settings.place.path(name);
        fs::write(&path, fs::read_to_string(&path).expect("settings") + late).expect("settings");
    }
    settings.succeeds(PRESET, "", "wireless");
    assert!(settings.has("wireless.late.ssid=Hügel \"netz\"") && settings.has("wireless.radio2.country=DE"));
    assert!(settings.has("wireless.late.key=let me in") && settings.has("wireless.late.encryption=psk2"));
    let log = || fs::read_to_string(settings.place.path("log")).expect("what was called");
    assert_eq!(log(), "ubus -t 5 call network reload\n");
    for action in ["remove", "add"] {
        settings.succeeds(hotplug, &format!("preset() {{ ubus preset \"$@\"; }}\nACTION={action}"), "");
    }
    assert_eq!(log(), "ubus -t 5 call network reload\nubus preset wireless\n");

    // With a key it is not new: the next image, or the next boot, changes nothing, and the password goes.
    let before = settings.lines();
    fs::create_dir_all(settings.place.path("etc")).expect("a directory");
    fs::write(settings.place.path("etc/key"), "").expect("a key");
    fs::write(settings.place.path("preset/shadow"), WISHES.replace("Hügel", "Tal")).expect("the wishes");
    settings.succeeds(PRESET, "", "");
    assert_eq!(settings.lines(), before);
    assert!(!Path::new(&settings.place.path("preset/shadow")).exists());
    settings.succeeds(PRESET, "", "");
}

#[test]
fn the_password_of_radios_leaves_the_wishes_with_the_first_radio_and_a_full_flash_loses_nothing() {
    if !can_run() {
        return;
    }
    let add = |settings: &Settings, lines: &str| {
        for name in ["uci", "uci.saved"] {
            let path = settings.place.path(name);
            fs::write(&path, fs::read_to_string(&path).expect("settings") + lines).expect("settings");
        }
    };
    let radio = |name: &str| {
        format!(
            "wireless.{name}=wifi-device\nwireless.i{name}=wifi-iface\nwireless.i{name}.device={name}\nwireless.i{name}.ssid=OpenWrt\n"
        )
    };
    // No radio yet.
    let settings = preset(ROUTER, WISHES);
    let wishes = || fs::read_to_string(settings.place.path("preset/shadow")).expect("the wishes");
    settings.succeeds(PRESET, "", "");
    assert_eq!(wishes(), "country DE\nssid Hügel \"netz\"\npassword let me in\n");
    add(&settings, &radio("r0"));
    settings.succeeds(PRESET, "", "wireless");
    assert!(settings.has("wireless.ir0.key=let me in"));
    assert_eq!(wishes(), "country DE\nssid Hügel \"netz\"\nsecured 1\n");
    // Somebody has called that one otherwise: the password is gone, and the next is no network for all.
    assert!(settings.run("uci set wireless.ir0.ssid=mine\nuci commit wireless").status.success());
    add(&settings, &radio("r1"));
    settings.succeeds(PRESET, "", "wireless");
    assert!(settings.has("wireless.ir1.ssid=OpenWrt") && !settings.has("wireless.ir1.encryption=none"));

    // Nothing more can be written.
    let settings = preset(ROUTER, WISHES);
    let full = "rm() { case $2 in *.left) ;; *) command rm \"$@\" ;; esac; }";
    std::os::unix::fs::symlink("/dev/full", settings.place.path("preset/shadow.left")).expect("a link");
    settings.succeeds(PRESET, full, "");
    let shadow = settings.place.path("preset/shadow");
    assert!(!Path::new(&shadow).is_symlink(), "what was not written took the place of the wishes");
    assert_eq!(fs::read_to_string(shadow).expect("the wishes"), WISHES);
}

#[test]
fn radios_stay_off_until_root_has_a_password() {
    if !can_run() {
        return;
    }
    let settings = preset(&format!("{ROUTER}{RADIOS}"), WISHES);
    let passwords = settings.place.path("passwords");
    fs::write(&passwords, "root::0:0:99999:7:::\ndaemon:*:0:0:99999:7:::\n").expect("passwords");
    // A radio may be there before the first boot gets to its own.
    settings.succeeds(PRESET, "", "wireless");
    settings.succeeds(PRESET, "", "");
    let late = "wireless.radio2=wifi-device\nwireless.late=wifi-iface\nwireless.late.device=radio2\nwireless.late.ssid=OpenWrt\n";
    for name in ["uci", "uci.saved"] {
        let path = settings.place.path(name);
        fs::write(&path, fs::read_to_string(&path).expect("settings") + late).expect("settings");
    }
    settings.succeeds(PRESET, "", "wireless");
    let lines = settings.lines();
    for line in [
        "waybill.setup.pending=1",
        "waybill.setup.invitation=waybill-invite1:abc",
        "waybill.setup.+radios=radio0",
        "waybill.setup.+radios=radio2",
        "wireless.radio0.disabled=1",
        "wireless.radio2.disabled=1",
        "wireless.default_radio0.key=let me in",
        "wireless.late.key=let me in",
    ] {
        assert!(lines.contains(line), "{line} is not in {lines:#?}");
    }
    assert_eq!(lines.iter().filter(|line| line.contains(".disabled=") || line.contains("radios=")).count(), 4);

    // By hand, where there is no page: not without a password, and with one those radios and no others.
    let wifi = format!("wifi() {{ echo \"wifi $*\" >>{}; }}", settings.place.path("log"));
    let output = settings.script(PRESET, &wifi, "on");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("root has no password yet"), "{output:?}");
    assert_eq!(settings.lines(), lines);
    fs::write(&passwords, "root:$5$abc:0:0:99999:7:::\n").expect("passwords");
    settings.succeeds(PRESET, &wifi, "on");
    let now = settings.lines();
    let gone: Vec<_> = lines.difference(&now).map(String::as_str).collect();
    assert_eq!(
        gone,
        [
            "waybill.setup.+radios=radio0",
            "waybill.setup.+radios=radio2",
            "wireless.radio0.disabled=1",
            "wireless.radio2.disabled=1",
        ]
    );
    assert!(fs::read_to_string(settings.place.path("log")).expect("what was called").ends_with("wifi reload\n"));
}

#[test]
fn without_wishes_the_page_of_the_first_setup_is_all_and_the_daemon_does_not_mind_it() {
    if !can_run() {
        return;
    }
    let settings = preset(&format!("{ROUTER}{RADIOS}waybill.node=node\nwaybill.node.enabled=0\n"), "");
    let before = settings.lines();
    settings.succeeds(PRESET, "", "");
    let lines = settings.lines();
    let new: Vec<_> = lines.difference(&before).map(String::as_str).collect();
    assert_eq!(new, ["waybill.setup.pending=1", "waybill.setup=setup"]);
    assert!(!Path::new(&settings.place.path("preset/shadow")).exists(), "nothing is left to do");

    let (text, said) = settings.place.render(
        b"config setup 'setup'\n\toption pending '1'\n\toption invitation 'waybill-invite1:abc'\n\tlist odd 'x'\n\
          config node 'node'\n\toption name 'attic'\n",
    );
    assert_eq!(said, "");
    assert!(!text.contains("setup") && !text.contains("pending") && !text.contains("invite"), "{text}");
}

#[test]
fn an_invitation_takes_a_router_into_a_community_and_a_wrong_one_changes_nothing() {
    use std::os::unix::fs::PermissionsExt as _;

    if !can_run() {
        return;
    }
    let join = "waybill/files/usr/libexec/waybill-join";
    let settings = Settings::new(&format!(
        "{ROUTER}waybill.node=node\nwaybill.node.enabled=0\nwaybill.setup=setup\nwaybill.setup.invitation=waybill-invite1:x\n"
    ));
    let path = |name: &str| settings.place.path(name);
    let before = settings.lines();
    for wrong in ["", "hello", "waybill-invite1:AAAA"] {
        fs::write(path("code"), wrong).expect("a file");
        let output = settings.script(join, "exec <code", "attic");
        assert!(!output.status.success(), "{wrong}");
        assert!(!output.stderr.is_empty(), "{wrong}");
        assert_eq!(settings.lines(), before, "{wrong}");
    }
    assert!(!Path::new(&path("log")).exists(), "the service was left alone");

    // Of a real community. Where the program cannot keep a ledger this ends here.
    let places = |command: &mut Command, of: &str| {
        _ = command.args(["--directory", &path(of), "--state", &path(of), "--socket", &path("no-socket")]);
    };
    let mut create = Command::new(waybill());
    create.args(["community", "create", "Hilltop", "--name", "roof", "--endpoint", "192.0.2.1:51820"]);
    places(&mut create, "roof");
    if !create.output().expect("the program runs").status.success() {
        println!("skipped in part: this program founds no community");
        return;
    }
    let invite =
        Command::new(waybill()).args(["invite", "--config", &path("roof/waybill.toml")]).output().expect("it runs");
    assert!(invite.status.success(), "{}", String::from_utf8_lossy(&invite.stderr));
    fs::write(path("code"), &invite.stdout).expect("a file");
    // netifd's word of what it has: nothing of ours, which was installed just now; and what its reload makes of it.
    let netifd = |protocols: &str| {
        format!(
            "exec <code\nanswer() {{ case \"$5\" in dump) printf '{{\\n\"proto\": \"static\"\\n'; \
             ! grep -q ^network log || printf '\"proto\": \"waybill\"\\n' ;; \
             get_proto_handlers) echo '{protocols}' ;; *) return 1 ;; esac; }}"
        )
    };
    let output = settings.script(join, &netifd("\"waybill\": {"), "attic");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["community"], "Hilltop");
    assert_eq!(said["config"], path("config/waybill"));
    let lines = settings.lines();
    for line in
        ["waybill.node.enabled=1", "waybill.node.name=attic", "waybill.ledger=ledger", "waybill.community=community"]
    {
        assert!(lines.contains(line), "{line} is not in {lines:#?}");
    }
    assert!(lines.iter().any(|line| line.ends_with(".endpoint=192.0.2.1:51820")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("waybill-invite1")), "the code is in no settings");
    for name in ["etc/key", "etc/state/enrolment"] {
        let mode = fs::metadata(path(name)).unwrap_or_else(|error| panic!("{name}: {error}")).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    let log = || {
        let log = fs::read_to_string(path("log")).expect("what was called");
        log.lines().filter(|line| !line.starts_with("ubus")).map(|line| format!("{line}\n")).collect::<String>()
    };
    let first = log();
    assert_eq!(first, "service enabled\nservice reload\nnetwork reload\nfirewall reload\n");
    // What is in force is left alone; a netifd that has not looked for protocols since is no secret.
    let again = settings.script(join, &netifd(""), "");
    assert!(again.status.success() && again.stderr.is_empty(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(log(), format!("{first}service enabled\nservice reload\n"));
    // Whoever joins may be connected by what a restart of netifd would interrupt: none is made, and none is asked for.
    fs::write(path("log"), "").expect("a file");
    let before = format!(
        "SSH_CONNECTION='192.0.2.1 9 192.0.2.2 22'\nnetwork() {{ echo \"network $*\" >>other; }}\n{}",
        netifd("\"dhcp\": {")
    );
    let again = settings.script(join, &before, "");
    assert!(again.status.success() && again.stderr.is_empty(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(fs::read_to_string(path("other")).expect("what was called"), "network reload\n");
    assert_eq!(
        fs::read_dir(path("run-root"))
            .expect("a directory")
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_dir())
            .count(),
        0
    );

    // Unsaved changes are somebody's.
    assert!(settings.run("uci set waybill.node.mtu=1400").status.success());
    let output = settings.script(join, "exec <code", "attic");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("there are unsaved changes of waybill"));
}

#[test]
fn netifd_is_told_when_the_daemons_device_comes_and_goes_and_of_no_other() {
    if !can_run() {
        return;
    }
    let settings = Settings::new(&format!("{ROUTER}network.mesh=interface\nnetwork.mesh.proto=waybill\n"));
    let hotplug = "waybill/files/etc/hotplug.d/net/80-waybill";
    fs::create_dir_all(settings.place.path("run-root")).expect("a directory");
    fs::create_dir_all(settings.place.path("root/lib/netifd")).expect("a directory");
    // Of netifd: what the protocol's handler says to it.
    let netifd = format!(
        "say() {{ echo \"$*\" >>{}; }}\nproto_init_update() {{ say init \"$@\"; }}\nproto_add_ipv6_address() {{ say address \"$@\"; }}\n\
         proto_add_ipv6_prefix() {{ say prefix \"$@\"; }}\nproto_send_update() {{ say send \"$@\"; }}\n",
        settings.place.path("netifd")
    );
    fs::write(settings.place.path("root/lib/netifd/netifd-proto.sh"), netifd).expect("a file");
    let foreach = "config_get() { eval \"$1=\\$(uci -q get network.$2.$3)\"; }\n\
         config_foreach() { for section in lan wan mesh; do $1 $section; done; }\nconfig_load() { :; }\n";
    let told = |before: &str| {
        let path = settings.place.path("netifd");
        _ = fs::remove_file(&path);
        settings.succeeds(hotplug, &format!("{foreach}{before}"), "");
        fs::read_to_string(path).unwrap_or_default()
    };
    assert_eq!(told("ACTION=add INTERFACE=lo"), "", "no daemon has been here");
    fs::write(settings.place.path("run-root/tun"), "lo\n").expect("a file");
    fs::write(settings.place.path("run-root/address"), "fd01:2:3::9\n").expect("a file");
    assert_eq!(told("ACTION=add INTERFACE=eth0"), "");
    assert_eq!(told("ACTION=change INTERFACE=lo"), "");
    // `lo` is a device that every machine has.
    assert_eq!(
        told("ACTION=add INTERFACE=lo"),
        "init lo 1 1\naddress fd01:2:3::9 128\nprefix fd01:2:3:8000::/49\nsend mesh\n"
    );
    // A netifd that started before the protocol was there does not know it: the LAN has its prefix by an interface beside it.
    let asked = |action: &str, before: &str| {
        let log = settings.place.path("log");
        _ = fs::remove_file(&log);
        let old = "answer() { case \"$5\" in get_proto_handlers) echo '{ \"dhcp\": { } }' ;; status) return ${gone:-1} ;; esac; }";
        assert_eq!(told(&format!("{old}\n{before}\nACTION={action} INTERFACE=lo")), "", "it would not understand");
        let log = fs::read_to_string(log).unwrap_or_default();
        log.lines().filter(|line| line.contains("add_dynamic")).map(str::to_owned).collect::<String>()
    };
    let add = "ubus -t 5 call network add_dynamic {\"name\":\"waybill_now\",\"proto\":\"static\",\"device\":\"lo\",\
               \"ip6prefix\":[\"fd01:2:3:8000::/49\"]}";
    assert_eq!(asked("add", ""), add);
    assert_eq!(asked("add", "gone=0"), "", "it is there");
    assert_eq!(asked("remove", ""), "", "the prefix stays this router's");
    assert_eq!(asked("add", "uci delete network.mesh"), "", "nobody wants it");
    assert!(settings.run("uci set network.mesh=interface; uci set network.mesh.proto=waybill").status.success());
    assert_eq!(asked("add", "uci set network.waybill_now=interface"), "", "somebody has that name");
    fs::write(settings.place.path("run-root/tun"), "nosuchdevice\n").expect("a file");
    assert_eq!(told("ACTION=remove INTERFACE=nosuchdevice"), "init * 0\nsend mesh\n");
}

#[test]
fn scripts_and_data_files_are_well_formed() {
    let trees = ["openwrt/waybill/files", "openwrt/preset", "openwrt/luci-app-waybill/root"];
    let all = trees.map(|tree| files(&root().join(tree))).concat();
    let mut shell = vec![root().join("tests/openwrt/functions.sh"), root().join("tests/openwrt/uci.sh")];
    for path in &all {
        let text = fs::read_to_string(path).expect("text");
        if text.starts_with("#!/bin/sh") || text.contains("# shellcheck shell=") {
            shell.push(path.clone());
        } else if path.extension().is_some_and(|extension| extension == "json") {
            let _: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        } else if path.extension().is_some_and(|extension| extension == "uc") && has("ucode") {
            let output = Command::new("ucode").args(["-c", "-o", "/dev/null"]).arg(path).output().expect("ucode runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(shell.len() >= 9, "{shell:?}");
    for path in &shell {
        if can_run() {
            let output = Command::new("busybox").args(["ash", "-n"]).arg(path).output().expect("busybox runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    if has("shellcheck") {
        let output = Command::new("shellcheck").args(&shell).output().expect("shellcheck runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn who_may_ask_may_ask_what_there_is() {
    let files = root().join("openwrt/waybill/files");
    let acl = fs::read_to_string(files.join("usr/share/rpcd/acl.d/waybill.json")).expect("the list of rights");
    let acl: serde_json::Value = serde_json::from_str(&acl).expect("JSON");
    let object = fs::read_to_string(files.join("usr/share/rpcd/ucode/waybill.uc")).expect("the object");
    let methods: BTreeSet<&str> = object
        .lines()
        .filter_map(|line| line.strip_prefix('\t')?.strip_suffix(": {"))
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        .collect();
    let allowed = |kind: &str| {
        let list = acl["waybill"][kind]["ubus"]["waybill"].as_array().expect("methods").clone();
        list.into_iter().filter_map(|name| name.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let (read, write) = (allowed("read"), allowed("write"));
    let changes = ["join", "redeem", "redeemed", "leaf_add", "leaf_remove", "setup", "setup_password", "setup_done"];
    assert_eq!(write, changes, "what changes something, or shows what only its owner may see");
    let all: BTreeSet<&str> = read.iter().chain(&write).map(String::as_str).collect();
    assert_eq!(all, methods);
}
