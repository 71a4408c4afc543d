//! Guards what a reviewer would tire of checking: which crate may import which, what a pure core may touch, what may
//! stand at the top level, and words that must not land.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each package, its folder and its level: every import points to a lower number (README, "Where things live").
const LEVELS: &[(&str, &str, u8)] = &[
    ("babel", "router/babel", 0),
    ("metering", "metering", 0),
    ("node", "router/node", 1),
    ("ledger-core", "ledger-client/core", 1),
    ("ledger-embedded", "ledger-client/embedded", 2),
    ("ledger-http", "ledger-client/http", 3),
    ("ledger-client", "ledger-client", 4),
    ("openwrt-pack", "openwrt", 0),
    ("waybill", "router", 5),
    ("sim", "tests", 5),
];

/// Cores: they take bytes and time and are asked what they want.
const PURE: &[&str] = &["babel", "metering", "node", "ledger-core"];

/// Crates that bring sockets, clocks, files, tasks or real randomness.
const IMPURE_CRATES: &[&str] = &[
    "tokio",
    "quinn",
    "rustls",
    "rusqlite",
    "mio",
    "socket2",
    "libc",
    "getrandom",
    "boringtun",
    "netlink-sys",
    "tempfile",
];

/// Words of the standard library that do the same.
const IMPURE_WORDS: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "UdpSocket",
    "TcpStream",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "println!",
    "HashMap::iter",
];

/// What may stand at the top level, beside dot-files.
const TOP_LEVEL: &[&str] =
    &["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "ledger-client", "metering", "openwrt", "router", "tests"];

/// Words that say that something is not finished, or silence a failing test.
const UNFINISHED: &[&str] = &["todo!(", "unimplemented!(", "FIXME", "XXX", "#[ignore", "dbg!("];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf()
}

fn manifest(folder: &str) -> String {
    fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("every package has a Cargo.toml")
}

/// Names in a manifest's section, `[dependencies]` and the like.
fn names_in<'a>(manifest: &'a str, section: &str) -> Vec<&'a str> {
    let header = format!("[{section}]");
    manifest
        .lines()
        .skip_while(|line| *line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['.', '=', ' ']).next().filter(|name| !name.is_empty()))
        .collect()
}

/// Every tracked or new file below a folder, as git sees it.
fn files(folder: &str) -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--", folder])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    let listing = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    listing.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect()
}

/// Source without its tests: a module marked `#[cfg(test)]` ends the file (STYLE: tests last).
fn source_without_tests(path: &Path) -> String {
    let text = fs::read_to_string(root().join(path)).expect("source is UTF-8");
    let end = text.find("\n#[cfg(test)]").unwrap_or(text.len());
    text[..end].to_owned()
}

/// Test code in a file of its own: below a folder of tests, or declared as `#[cfg(test)] mod name;`.
fn is_test_file(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/tests/") || text.ends_with("tests.rs") || text.contains("/examples/") || is_test_module(path)
}

fn is_test_module(path: &Path) -> bool {
    let (Some(name), Some(folder)) = (path.file_stem(), path.parent()) else { return false };
    let declaration = format!("#[cfg(test)]\nmod {};", name.to_string_lossy());
    let declares =
        |file: &str| fs::read_to_string(root().join(folder).join(file)).is_ok_and(|text| text.contains(&declaration));
    declares("lib.rs") || declares("mod.rs")
}

#[test]
fn every_import_points_to_a_lower_level() {
    let levels: BTreeMap<&str, u8> = LEVELS.iter().map(|(name, _, level)| (*name, *level)).collect();
    for (name, folder, level) in LEVELS {
        let manifest = manifest(folder);
        for section in ["dependencies", "dev-dependencies"] {
            for import in names_in(&manifest, section) {
                if let Some(below) = levels.get(import) {
                    assert!(below < level, "{name} (level {level}) imports {import} (level {below}) in [{section}]");
                }
            }
        }
    }
}

#[test]
fn every_workspace_member_has_a_level_and_the_shared_lints() {
    let listed: Vec<String> = manifest("")
        .lines()
        .skip_while(|line| *line != "members = [")
        .skip(1)
        .take_while(|line| *line != "]")
        .map(|line| line.trim().trim_matches(['"', ',']).to_owned())
        .collect();
    let mut known: Vec<&str> = LEVELS.iter().map(|(_, folder, _)| *folder).collect();
    known.sort_unstable();
    assert_eq!(listed, known, "a new package needs a level in tests/tidy.rs");
    for (_, folder, _) in LEVELS {
        assert!(manifest(folder).contains("[lints]\nworkspace = true"), "{folder} does not use the shared lints");
    }
}

#[test]
fn cores_are_pure() {
    for (name, folder, _) in LEVELS.iter().filter(|(name, ..)| PURE.contains(name)) {
        let manifest = manifest(folder);
        for import in names_in(&manifest, "dependencies") {
            assert!(!IMPURE_CRATES.contains(&import), "{name} is a pure core and imports {import}");
        }
        let library = fs::read_to_string(root().join(folder).join("src/lib.rs")).expect("a core is a library");
        assert!(library.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
        for path in files(&format!("{folder}/src")).iter().filter(|path| path.extension().is_some_and(|e| e == "rs")) {
            if is_test_file(path) {
                continue;
            }
            for (line, text) in source_without_tests(path).lines().enumerate() {
                let code = text.split("//").next().unwrap_or_default();
                for word in IMPURE_WORDS {
                    assert!(!code.contains(word), "{}:{}: a pure core says {word}", path.display(), line + 1);
                }
            }
        }
    }
}

#[test]
fn nothing_else_stands_at_the_top_level() {
    for path in files(".") {
        let first = path.iter().next().expect("a path has a first part").to_string_lossy().into_owned();
        assert!(first.starts_with('.') || TOP_LEVEL.contains(&first.as_str()), "{first} at the top level");
    }
}

#[test]
fn nothing_unfinished_lands() {
    for path in files(".") {
        let is_source = path.extension().is_some_and(|extension| extension == "rs" || extension == "sh");
        if !is_source || path.ends_with("tests/tidy.rs") {
            continue;
        }
        let text = fs::read_to_string(root().join(&path)).expect("source is UTF-8");
        for (line, text) in text.lines().enumerate() {
            for word in UNFINISHED {
                assert!(!text.contains(word), "{}:{}: {word}", path.display(), line + 1);
            }
        }
    }
}

/// 32-bit MIPS, which half of all home routers are, has no 64-bit atomics: the standard library's do not exist there.
#[test]
fn sixty_four_bit_atomics_are_portable() {
    for (_, folder, _) in LEVELS.iter().filter(|(name, ..)| *name != "sim") {
        for path in files(&format!("{folder}/src")).iter().filter(|path| path.extension().is_some_and(|e| e == "rs")) {
            if is_test_file(path) {
                continue;
            }
            for (line, text) in source_without_tests(path).lines().enumerate() {
                let standard =
                    text.contains("sync::atomic::") && (text.contains("AtomicU64") || text.contains("AtomicI64"));
                assert!(!standard, "{}:{}: take it from portable_atomic", path.display(), line + 1);
            }
        }
    }
}

#[test]
fn the_program_never_sleeps_and_hopes() {
    for (_, folder, _) in LEVELS.iter().filter(|(name, ..)| *name != "sim") {
        for path in files(&format!("{folder}/src")).iter().filter(|path| path.extension().is_some_and(|e| e == "rs")) {
            if !is_test_file(path) {
                assert!(!source_without_tests(path).contains("thread::sleep"), "{} sleeps", path.display());
            }
        }
    }
}
