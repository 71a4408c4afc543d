//! Both formats, field by field, read with tools that share nothing with the builder: `tar`, `gzip`, `openssl`, a reader of its own.
//!
//! The real apk and opkg are not packaged for Debian. What they say of these packages is in `openwrt/README.md`.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openwrt_pack::Manifest;
use reader::AdbFile;
use sha2::{Digest, Sha256, Sha512};
use tempfile::TempDir;

const MANIFEST: &str = r#"
section = "net"
description = """
A router.
Of a mesh.
"""
maintainer = "Somebody"
release = 7
depends = ["kmod-tun", "kmod-nft-nat"]
program = "/usr/bin/waybill"
trees = { files = "/", pages = "/www" }
executable = ["/etc/init.d/", "/usr/libexec/one"]
user = "waybill"
conffiles = ["/etc/config/waybill"]
directories = { "/etc/waybill" = "0700" }
[[variant]]
name = "waybill"
default = true
[[variant]]
name = "waybill-full"
features = "ledger-serve"
instead_of = ["waybill"]
"#;
const FILES: &[(&str, &str)] = &[
    ("files/etc/config/waybill", "config node\n"),
    ("files/etc/init.d/waybill", "#!/bin/sh /etc/rc.common\n"),
    ("files/etc/empty", ""),
    ("files/usr/libexec/one", "#!/bin/sh\n"),
    ("files/usr/libexec/two", "data\n"),
    ("pages/view.js", "'use strict';\n"),
    ("scripts/postinst", "#!/bin/sh\necho installed\n"),
    ("scripts/prerm", "#!/bin/sh\necho removed\n"),
];
/// What is installed: mode, content.
fn expected(program: &str) -> BTreeMap<&'static str, (u32, String)> {
    BTreeMap::from([
        ("etc/config/waybill", (0o600, "config node\n".to_owned())),
        ("etc/empty", (0o644, String::new())),
        ("etc/init.d/waybill", (0o755, "#!/bin/sh /etc/rc.common\n".to_owned())),
        ("usr/bin/waybill", (0o755, program.to_owned())),
        ("usr/libexec/one", (0o755, "#!/bin/sh\n".to_owned())),
        ("usr/libexec/two", (0o644, "data\n".to_owned())),
        ("www/view.js", (0o644, "'use strict';\n".to_owned())),
    ])
}
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-r7");
/// 2026-09-21 14:13:20 UTC.
const TIME: &str = "1790000000";
/// 30 KB that can be compressed.
fn program() -> String {
    (0..3_000).map(|number| format!("{number:09}\n")).collect()
}

/// A directory with a package's source, keys, and a feed made of it.
struct Built {
    place: TempDir,
}

impl Built {
    fn new() -> Self {
        let built = Self { place: tempfile::tempdir().expect("a place for the test") };
        built.put("packages/waybill/package.toml", MANIFEST);
        for (path, content) in FILES {
            built.put(&format!("packages/waybill/{path}"), content);
        }
        built.put("program", &program());
        built
    }

    fn with_feed() -> Self {
        let built = Self::new();
        built.succeeds(&["keys", "keys"]);
        built.feed("feed");
        built
    }

    fn feed(&self, out: &str) {
        let arguments = ["feed", "--arch", "mipsel_24kc", "--packages", "packages", "--keys", "keys", "--out", out];
        self.succeeds(
            &[&arguments, ["--program", "waybill=program", "--program", "waybill-full=program"].as_slice()].concat(),
        );
    }

    fn path(&self, path: &str) -> PathBuf {
        self.place.path().join(path)
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("directories are made");
        fs::write(path, content).expect("a file is written");
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn text(&self, path: &str) -> String {
        String::from_utf8(self.read(path)).expect("it is text")
    }

    fn pack(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_openwrt-pack"))
            .args(arguments)
            .current_dir(self.place.path())
            .env("SOURCE_DATE_EPOCH", TIME)
            .output()
            .expect("the builder runs")
    }

    fn succeeds(&self, arguments: &[&str]) {
        let output = self.pack(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What it says when it fails.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.pack(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeds");
        String::from_utf8(output.stderr).expect("it is text")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.place.path())
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it is text")
    }
}

fn is_here(program: &str) -> bool {
    let here =
        !matches!(Command::new(program).arg("--version").output(), Err(error) if error.kind() == ErrorKind::NotFound);
    if !here {
        eprintln!("skipped: what needs {program}, which is not installed");
    }
    here
}

fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// The fields of a control file or of an index's stanza.
fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_once(": ")).collect()
}

#[test]
fn an_ipk_holds_what_the_manifest_says() {
    let built = Built::with_feed();
    let name = format!("feed/waybill_{VERSION}_mipsel_24kc.ipk");
    assert_eq!(built.run("tar", &["-tzf", &name]), "./debian-binary\n./data.tar.gz\n./control.tar.gz\n");
    fs::create_dir(built.path("outer")).expect("a directory");
    built.run("tar", &["-xzf", &name, "-C", "outer"]);
    assert_eq!(built.text("outer/debian-binary"), "2.0\n");

    let listing = built.run("tar", &["-tvzf", "outer/data.tar.gz", "--numeric-owner"]);
    let mut found: Vec<String> = Vec::new();
    for line in listing.lines() {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, size, day, time, path] = parts[..] else { panic!("{line}") };
        assert_eq!((owner, day, time), ("0/0", "2026-09-21", "14:13"), "{path}");
        found.push(format!("{mode} {size} {path}"));
    }
    let directories =
        ["./", "./etc/", "./etc/config/", "./etc/init.d/", "./usr/", "./usr/bin/", "./usr/libexec/", "./www/"];
    let mut wanted: Vec<String> = directories.iter().map(|path| format!("drwxr-xr-x 0 {path}")).collect();
    wanted.push("drwx------ 0 ./etc/waybill/".to_owned());
    let program = program();
    for (path, (mode, content)) in expected(&program) {
        let mode = match mode {
            0o755 => "-rwxr-xr-x",
            0o600 => "-rw-------",
            _ => "-rw-r--r--",
        };
        wanted.push(format!("{mode} {} ./{path}", content.len()));
    }
    let position = |path: &str| found.iter().position(|line| line.ends_with(path));
    assert!(position(" ./etc/") < position(" ./etc/config/waybill"), "a directory comes before what is in it");
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    fs::create_dir(built.path("root")).expect("a directory");
    built.run("tar", &["-xzf", "outer/data.tar.gz", "-C", "root"]);
    for (path, (_, content)) in expected(&program) {
        assert_eq!(built.text(&format!("root/{path}")), content, "{path}");
    }
}

#[test]
fn an_ipk_says_what_it_is_and_what_runs_when_it_comes_and_goes() {
    let built = Built::with_feed();
    for (package, extra) in [("waybill", ""), ("waybill-full", "Conflicts: waybill\nProvides: waybill\n")] {
        let name = format!("feed/{package}_{VERSION}_mipsel_24kc.ipk");
        fs::create_dir_all(built.path(package)).expect("a directory");
        built.run("tar", &["-xzf", &name, "-C", package]);
        built.run("tar", &["-xzf", &format!("{package}/control.tar.gz"), "-C", package]);
        let size = built.run("gzip", &["-dc", &format!("{package}/data.tar.gz")]).len();
        let wanted = format!(
            "Package: {package}\nVersion: {VERSION}\nDepends: kmod-nft-nat, kmod-tun\n{extra}Source: openwrt/waybill\n\
             SourceName: waybill\nLicense: Apache-2.0\nSection: net\nRequire-User: waybill:waybill\n\
             SourceDateEpoch: {TIME}\nMaintainer: Somebody\n\
             Architecture: mipsel_24kc\nInstalled-Size: {size}\nDescription: A router.\n Of a mesh.\n"
        );
        assert_eq!(built.text(&format!("{package}/control")), wanted);
    }
    assert_eq!(built.text("waybill/conffiles"), "/etc/config/waybill\n");
    let listing = built.run("tar", &["-tvzf", "waybill/control.tar.gz"]);
    let modes: Vec<(&str, &str)> =
        listing.lines().filter_map(|line| Some((line.get(..10)?, line.rsplit(' ').next()?))).collect();
    let scripts = ["postinst", "postinst-pkg", "prerm", "prerm-pkg"];
    for script in scripts {
        assert!(modes.contains(&("-rwxr-xr-x", &format!("./{script}"))), "{listing}");
        checked_script(&built, &format!("waybill/{script}"));
    }
    assert_eq!(modes.len(), scripts.len() + 3, "nothing but these, conffiles, control and the directory: {listing}");
    assert!(built.text("waybill/postinst").ends_with("\ndefault_postinst \"$0\" \"$@\"\n"));
    assert!(built.text("waybill/prerm").ends_with("\ndefault_prerm \"$0\" \"$@\"\n"));
    assert_eq!(built.text("waybill/postinst-pkg"), "#!/bin/sh\necho installed\n");
    assert_eq!(built.text("waybill/prerm-pkg"), "#!/bin/sh\necho removed\n");
}

/// Every script is one, and does nothing where no OpenWrt is.
fn checked_script(built: &Built, path: &str) {
    assert!(built.text(path).starts_with("#!/bin/sh\n"), "{path}");
    if is_here("shellcheck") {
        built.run("shellcheck", &["--shell=dash", "--exclude=SC1091", path]);
    }
    if !path.ends_with("-pkg") {
        assert_eq!(built.run("sh", &[path]), "", "{path} does something on a machine that is no router");
    }
}

#[test]
fn the_index_of_opkg_names_every_package_and_is_signed() {
    let built = Built::with_feed();
    let index = built.text("feed/Packages");
    assert_eq!(built.run("gzip", &["-dc", "feed/Packages.gz"]), index);
    let stanzas: Vec<&str> = index.split("\n\n").collect();
    assert_eq!(stanzas.len(), 2);
    for (stanza, name) in stanzas.iter().zip(["waybill-full", "waybill"]) {
        let said = fields(stanza);
        let file = format!("{name}_{VERSION}_mipsel_24kc.ipk");
        let content = built.read(&format!("feed/{file}"));
        assert_eq!((said["Package"], said["Filename"]), (name, file.as_str()));
        assert_eq!((said["Size"], said["SHA256sum"]), (content.len().to_string().as_str(), sha256(&content).as_str()));
        assert!(stanza.trim_end().ends_with("\nDescription: A router.\n Of a mesh."), "{stanza}");
    }
    let blob = |path: &str| STANDARD.decode(built.text(path).lines().nth(1).expect("two lines")).expect("base64");
    let (key, signature) = (blob("feed/waybill.pub"), blob("feed/Packages.sig"));
    assert_eq!((key.len(), signature.len()), (2 + 8 + 32, 2 + 8 + 64));
    assert_eq!((&key[..2], &key[..10]), (b"Ed".as_slice(), &signature[..10]), "the same key, by its fingerprint");
    if is_here("openssl") {
        let mut der = hex::decode("302a300506032b6570032100").expect("hex");
        der.extend_from_slice(&key[10..]);
        fs::write(built.path("ed25519.der"), der).expect("a file");
        fs::write(built.path("ed25519.sig"), &signature[10..]).expect("a file");
        let verify = ["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "ed25519.der", "-rawin", "-in"];
        let said = built.run("openssl", &[&verify, ["feed/Packages", "-sigfile", "ed25519.sig"].as_slice()].concat());
        assert!(said.contains("Signature Verified Successfully"), "{said}");
    }
}

/// What apk's documentation calls a package's information, by the numbers of its fields.
fn info_of(info: reader::Field<'_>) -> Vec<(usize, String)> {
    [1, 2, 4, 5, 6, 7, 8, 9].map(|number| (number, info.at(number).text().to_owned())).to_vec()
}

#[test]
fn an_apk_holds_what_the_manifest_says() {
    let built = Built::with_feed();
    let apk = AdbFile::read(&built.read(&format!("feed/waybill-{VERSION}.apk")));
    assert_eq!(&apk.schema, b"pckg");
    let (info, paths) = (apk.root().at(1), apk.root().at(2));
    let said: Vec<(usize, String)> = info_of(info);
    let wanted =
        ["waybill", VERSION, "A router. Of a mesh.", "mipsel_24kc", "Apache-2.0", "openwrt/waybill", "Somebody", ""];
    assert_eq!(said.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), wanted);
    assert_eq!(info.at(14).number(), 100, "the variant to take where nobody chose");
    let depends: Vec<String> = info.at(15).entries().map(reader::Field::dependency).collect();
    assert_eq!(depends, ["kmod-nft-nat", "kmod-tun"], "sorted");
    assert!(!info.at(16).is_set());

    let program = program();
    let mut wanted = expected(&program);
    let list: String = wanted.keys().map(|path| format!("/{path}\n")).collect();
    wanted.insert("lib/apk/packages/waybill.list", (0o644, list));
    wanted.insert("lib/apk/packages/waybill.conffiles", (0o644, "/etc/config/waybill\n".to_owned()));
    wanted.insert("lib/apk/packages/waybill.rusers", (0o644, "waybill:waybill\n".to_owned()));
    let hash = sha256(b"config node\n");
    wanted.insert("lib/apk/packages/waybill.conffiles_static", (0o644, format!("/etc/config/waybill {hash}\n")));
    let (mut found, mut directories, mut blocks) = (BTreeMap::new(), Vec::new(), 0);
    for (number, directory) in (1..).zip(paths.entries()) {
        let access = directory.at(2);
        assert_eq!((access.at(2).text(), access.at(3).text()), ("root", "root"));
        let path = directory.at(1).text();
        directories.push((path, access.at(1).number()));
        let mut last = "";
        for (place, file) in (1..).zip(directory.at(3).entries()) {
            let (name, access) = (file.at(1).text(), file.at(2));
            assert!(name > last, "files are sorted: {name} after {last}");
            last = name;
            let content = apk.data.get(&(number, place)).cloned().unwrap_or_default();
            blocks += usize::from(!content.is_empty());
            assert_eq!(file.at(3).number(), content.len() as u64, "{name}");
            assert_eq!(file.at(4).number().to_string(), TIME, "{name}");
            assert_eq!(hex::encode(file.at(5).bytes()), sha256(&content), "{name}");
            assert_eq!((access.at(2).text(), access.at(3).text()), ("root", "root"));
            let mode = u32::try_from(access.at(1).number()).expect("a mode");
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            found.insert(path, (mode, String::from_utf8(content).expect("text")));
        }
    }
    assert!(directories.is_sorted(), "{directories:?}");
    let all =
        ["", "etc", "etc/config", "etc/init.d", "etc/waybill", "lib", "lib/apk", "lib/apk/packages", "usr", "usr/bin"];
    let all: Vec<(&str, u64)> = all.into_iter().chain(["usr/libexec", "www"]).map(|path| (path, 0o755)).collect();
    let private = |(path, mode)| (path, if path == "etc/waybill" { 0o700 } else { mode });
    assert_eq!(directories, all.into_iter().map(private).collect::<Vec<_>>());
    assert_eq!(info.at(12).number(), wanted.values().map(|(_, content)| content.len() as u64).sum::<u64>());
    assert_eq!(found, wanted.into_iter().map(|(path, file)| (path.to_owned(), file)).collect());
    assert_eq!(blocks, apk.data.len(), "no block belongs to no file");

    let full = AdbFile::read(&built.read(&format!("feed/waybill-full-{VERSION}.apk")));
    let provides: Vec<String> = full.root().at(1).at(16).entries().map(reader::Field::dependency).collect();
    assert_eq!(provides, [format!("waybill={VERSION}")]);
    assert!(!full.root().at(1).at(14).is_set());
}

#[test]
fn an_apk_runs_what_every_package_of_openwrt_runs() {
    let built = Built::with_feed();
    let apk = AdbFile::read(&built.read(&format!("feed/waybill-{VERSION}.apk")));
    let scripts = apk.root().at(3);
    let names =
        ["trigger", "pre-install", "post-install", "pre-deinstall", "post-deinstall", "pre-upgrade", "post-upgrade"];
    let there: Vec<&str> =
        (1..).zip(names).filter(|(number, _)| scripts.at(*number).is_set()).map(|(_, name)| name).collect();
    assert_eq!(there, ["post-install", "pre-deinstall", "post-upgrade"]);
    for (number, name) in (1..).zip(names).filter(|(_, name)| there.contains(name)) {
        built.put(name, scripts.at(number).text());
        checked_script(&built, name);
        assert!(built.text(name).contains("\nexport pkgname=\"waybill\"\n"), "{name}");
    }
    let installed = built.text("post-install");
    assert!(installed.ends_with("\nadd_group_and_user\ndefault_postinst\necho installed\n"), "{installed}");
    assert!(built.text("pre-deinstall").ends_with("\ndefault_prerm\necho removed\n"));
    let upgraded = built.text("post-upgrade");
    let rest = upgraded.strip_prefix("#!/bin/sh\nexport PKG_UPGRADE=1\n").expect("it says that it is an upgrade");
    assert_eq!(installed, format!("#!/bin/sh\n{rest}"));

    // On a router, and in an image under construction, where the root is elsewhere.
    built.put(
        "image/lib/functions.sh",
        "add_group_and_user() { :; }\ndefault_postinst() { echo \"$pkgname in $root\"; }\n",
    );
    let image = built.path("image");
    let run =
        Command::new("sh").arg(built.path("post-install")).env("IPKG_INSTROOT", &image).output().expect("sh runs");
    assert_eq!(String::from_utf8_lossy(&run.stdout), format!("waybill in {}\ninstalled\n", image.display()));
}

#[test]
fn what_apk_reads_is_signed_and_named_by_its_hash() {
    let built = Built::with_feed();
    for name in [
        format!("feed/waybill-{VERSION}.apk"),
        format!("feed/waybill-full-{VERSION}.apk"),
        "feed/packages.adb".to_owned(),
    ] {
        let file = AdbFile::read(&built.read(&name));
        assert_eq!(file.signature[..2], [0, 4], "version 0, SHA-512");
        if is_here("openssl") {
            let mut message = file.schema.to_vec();
            message.extend_from_slice(&file.signature[..18]);
            message.extend_from_slice(&Sha512::digest(&file.database));
            fs::write(built.path("message"), message).expect("a file");
            fs::write(built.path("signature"), &file.signature[18..]).expect("a file");
            let verify = ["dgst", "-sha512", "-verify", "feed/waybill.pem", "-signature", "signature", "message"];
            assert_eq!(built.run("openssl", &verify), "Verified OK\n", "{name}");
            built.run("openssl", &["ec", "-pubin", "-in", "feed/waybill.pem", "-outform", "DER", "-out", "point"]);
            let der = built.read("point");
            assert_eq!(file.signature[2..18], Sha512::digest(&der[der.len() - 65..])[..16], "the key's id");
        }
    }
    let apk = AdbFile::read(&built.read(&format!("feed/waybill-{VERSION}.apk")));
    let id = apk.root().at(1).at(3).bytes();
    assert_eq!(id.len(), 20);
    let at = apk.database.windows(20).position(|window| window == id).expect("the id is in the database");
    let mut without = apk.database.clone();
    without[at..at + 20].fill(0);
    assert_eq!(id, &Sha256::digest(&without)[..20]);
}

#[test]
fn the_index_of_apk_says_of_each_package_what_it_says_itself() {
    let built = Built::with_feed();
    let index = AdbFile::read(&built.read("feed/packages.adb"));
    assert_eq!((&index.schema, index.data.len()), (b"indx", 0));
    let names: Vec<&str> = index.root().at(2).entries().map(|info| info.at(1).text()).collect();
    assert_eq!(names, ["waybill", "waybill-full"]);
    for info in index.root().at(2).entries() {
        let content = built.read(&format!("feed/{}-{VERSION}.apk", info.at(1).text()));
        let apk = AdbFile::read(&content);
        let itself = apk.root().at(1);
        assert_eq!(info_of(info), info_of(itself));
        assert_eq!(info.at(3).bytes(), Sha256::digest(&apk.database).as_slice());
        assert_eq!(info.at(13).number(), content.len() as u64);
        for number in [12, 14] {
            assert_eq!(info.at(number).number(), itself.at(number).number());
        }
        for number in [15, 16] {
            let list =
                |info: reader::Field<'_>| info.at(number).entries().map(reader::Field::dependency).collect::<Vec<_>>();
            assert_eq!(list(info), list(itself));
        }
    }
}

/// `apk mkpkg` 3.0.6 made this database of the same files and scripts, byte for byte. When it changes, ask apk again.
#[test]
fn the_database_is_that_of_apk_itself() {
    let built = Built::with_feed();
    let apk = AdbFile::read(&built.read(&format!("feed/waybill-full-{VERSION}.apk")));
    assert_eq!((apk.database.len(), sha256(&apk.database).as_str()), DATABASE_OF_APK);
}
const DATABASE_OF_APK: (usize, &str) = (2276, "16ed0c706bcb375e759156ca2bfa7679c5fa291de2c5328449dca7157ac22ef7");

#[test]
fn the_same_input_gives_the_same_bytes() {
    let built = Built::with_feed();
    for path in ["packages/waybill/files/etc/init.d/waybill", "packages/waybill/files/etc/config/waybill"] {
        fs::set_permissions(built.path(path), Permissions::from_mode(0o640)).expect("modes are set");
    }
    built.feed("again");
    let names = |directory: &str| {
        let entries =
            fs::read_dir(built.path(directory)).expect("a feed").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().expect("UTF-8")).collect();
        names.sort();
        names
    };
    assert_eq!(names("feed"), names("again"));
    for name in names("feed") {
        assert_eq!(built.read(&format!("feed/{name}")), built.read(&format!("again/{name}")), "{name}");
    }
    for line in built.text("feed/sha256sums").lines() {
        let (sum, name) = line.split_once("  ").expect("sum and name");
        assert_eq!(sum, sha256(&built.read(&format!("feed/{name}"))), "{name}");
    }
    assert_eq!(built.text("feed/sha256sums").lines().count() + 1, names("feed").len());
}

#[test]
fn keys_are_made_once_for_their_owner_alone() {
    let built = Built::new();
    let without =
        built.fails(&["feed", "--arch", "x86_64", "--packages", "packages", "--keys", "keys", "--out", "feed"]);
    assert!(without.contains("make them once with `cargo run -p openwrt-pack -- keys keys`"), "{without}");
    built.succeeds(&["keys", "keys"]);
    for (name, mode) in
        [("", 0o700), ("usign.sec", 0o600), ("apk.pem", 0o600), ("usign.pub", 0o644), ("apk.pub.pem", 0o644)]
    {
        let mode_found = fs::metadata(built.path("keys").join(name)).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode_found, mode, "{name}");
    }
    let before = built.text("keys/usign.sec");
    assert!(built.fails(&["keys", "keys"]).contains("is there already"));
    assert_eq!(built.text("keys/usign.sec"), before);
    if is_here("openssl") {
        let public = built.run("openssl", &["ec", "-in", "keys/apk.pem", "-pubout"]);
        assert_eq!(public, built.text("keys/apk.pub.pem"), "openssl reads the same key");
    }
    built.put("keys/usign.sec", "untrusted comment: no key\nAAAA\n");
    let broken =
        built.fails(&["feed", "--arch", "x86_64", "--packages", "packages", "--keys", "keys", "--out", "feed"]);
    assert!(broken.contains("usign.sec is no key of a feed"), "{broken}");
}

#[test]
fn keys_go_through_no_link_and_into_no_directory_that_others_may_open() {
    let built = Built::new();
    let closed = |name: &str| fs::metadata(built.path(name)).expect("it is there").permissions().mode() & 0o777;
    fs::create_dir(built.path("open")).expect("a directory");
    fs::set_permissions(built.path("open"), Permissions::from_mode(0o775)).expect("its mode");
    built.succeeds(&["keys", "open"]);
    assert_eq!(closed("open"), 0o700);

    fs::create_dir(built.path("elsewhere")).expect("a directory");
    symlink(built.path("elsewhere"), built.path("link")).expect("a link");
    for name in ["link", "link/"] {
        assert!(built.fails(&["keys", name]).contains("is a link: name the directory itself"), "{name}");
    }
    for name in ["usign.sec", "apk.pem", "usign.pub", "apk.pub.pem"] {
        let directory = format!("keys-{name}");
        fs::create_dir(built.path(&directory)).expect("a directory");
        symlink(built.path("elsewhere").join(name), built.path(&directory).join(name)).expect("a link to nowhere yet");
        assert!(built.fails(&["keys", &directory]).contains("is there already"), "{name}");
    }
    assert_eq!(fs::read_dir(built.path("elsewhere")).expect("a directory").count(), 0, "nothing was written there");
}

#[test]
fn what_no_router_could_install_is_not_packed() {
    type Spoil = fn(&Built);
    let cases: [(&str, Spoil); 6] = [
        ("no room for a blank", |built| built.put("packages/waybill/files/etc/two words", "")),
        ("an editor's", |built| built.put("packages/waybill/files/etc/config/waybill~", "")),
        ("too long", |built| built.put(&format!("packages/waybill/files/{}file", "long/".repeat(19)), "")),
        ("no links", |built| symlink("one", built.path("packages/waybill/files/usr/libexec/link")).expect("a link")),
        ("conffile /etc/config/waybill is in none", |built| {
            fs::remove_file(built.path("packages/waybill/files/etc/config/waybill")).expect("it is there");
        }),
        ("unknown field `depend`", |built| {
            built.put("packages/waybill/package.toml", &MANIFEST.replace("depends", "depend"));
        }),
    ];
    for (said, spoil) in cases {
        let built = Built::new();
        built.succeeds(&["keys", "keys"]);
        spoil(&built);
        let arguments = ["feed", "--arch", "x86_64", "--packages", "packages", "--keys", "keys", "--out", "feed"];
        let error = built.fails(&[&arguments, ["--program", "waybill=program"].as_slice()].concat());
        assert!(error.contains(said), "{error}");
        assert!(!built.path("feed").exists(), "nothing is written");
    }
}

#[test]
fn a_program_runs_without_what_no_kernel_reads() {
    let built = Built::new();
    built.succeeds(&["keys", "keys"]);
    let arguments =
        ["feed", "--arch", "x86_64", "--packages", "packages", "--keys", "keys", "--out", "feed", "--program"];
    let program = fs::canonicalize("/bin/sh").expect("there is a shell");
    built.succeeds(&[&arguments, [format!("waybill={}", program.display()).as_str()].as_slice()].concat());
    built.run("tar", &["-xzf", &format!("feed/waybill_{VERSION}_x86_64.ipk")]);
    built.run("tar", &["-xzf", "data.tar.gz", "./usr/bin/waybill"]);
    let size = |path: &Path| fs::metadata(path).expect("it is there").len();
    let installed = built.path("usr/bin/waybill");
    assert!(size(&installed) < size(&program));
    assert_eq!(built.run(installed.to_str().expect("UTF-8"), &["-c", "echo runs"]), "runs\n");
}

fn of_the_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// OpenWrt's own build system reads the Makefile, this builder the manifest.
#[test]
fn the_makefile_and_the_manifest_say_the_same() {
    let manifest = Manifest::read(&of_the_project("waybill")).expect("the manifest is good");
    let makefile = fs::read_to_string(of_the_project("waybill/Makefile")).expect("there is a Makefile");
    let Some(make) = Make::new() else { return };
    let value = |name: &str| make.run(&format!("print-{name}"), &[]).trim().to_owned();
    assert_eq!(value("PKG_VERSION"), env!("CARGO_PKG_VERSION"));
    assert_eq!(value("PKG_RELEASE"), manifest.release.to_string());
    assert_eq!(value("PKG_MAINTAINER"), manifest.maintainer);
    for variant in &manifest.variants {
        let block = |what: &str| {
            let begin = format!("define Package/{}{what}\n", variant.name);
            let from = makefile.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
            makefile[from..].split("\nendef").next().expect("a block ends").to_owned()
        };
        let of = |name: &str| {
            let common = makefile.split("define Package/waybill/Default\n").nth(1).expect("a common block");
            let common = common.split("\nendef").next().expect("a block ends");
            let text = format!("{common}\n{}", block(""));
            let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}:=")).map(str::to_owned));
            line.unwrap_or_default()
        };
        let depends: Vec<String> =
            of("DEPENDS").split_whitespace().filter_map(|word| word.strip_prefix('+').map(str::to_owned)).collect();
        assert_eq!(depends, manifest.depends.iter().cloned().collect::<Vec<_>>());
        assert_eq!(of("SECTION"), manifest.section);
        assert_eq!(Some(of("USERID")), manifest.user.as_ref().map(|user| format!("{user}:{user}")));
        let instead: Vec<String> = of("PROVIDES").split_whitespace().map(str::to_owned).collect();
        assert_eq!(instead, variant.instead_of.iter().cloned().collect::<Vec<_>>());
        assert_eq!(of("CONFLICTS"), of("PROVIDES"));
        assert_eq!(of("DEFAULT_VARIANT") == "1", variant.default);
        let conffiles: Vec<&str> =
            makefile.split("define Package/waybill/conffiles\n").nth(1).expect("conffiles").lines().collect();
        let conffiles: Vec<&str> = conffiles.into_iter().take_while(|line| *line != "endef").collect();
        assert_eq!(conffiles, manifest.conffiles.iter().map(String::as_str).collect::<Vec<_>>());
        let features = variant.features.as_deref().expect("each variant is built with features");
        assert!(makefile.contains(&format!("RUST_PKG_FEATURES:={features}\n")), "{features}");
    }
    let script = makefile.split("define Package/waybill/postinst\n").nth(1).expect("a script");
    let script = script.split("endef").next().expect("it ends").replace("$$", "$");
    assert_eq!(script, fs::read_to_string(of_the_project("waybill/scripts/postinst")).expect("a script"));
    for path in &manifest.executable {
        assert!(makefile.contains(path.as_str()), "the Makefile does not make {path} executable");
    }
}

/// LuCI's own part of that build system says the rest, and copies files with the modes that they have here.
#[test]
fn the_makefile_of_the_pages_and_their_manifest_say_the_same() {
    let manifest = Manifest::read(&of_the_project("luci-app-waybill")).expect("the manifest is good");
    let makefile = fs::read_to_string(of_the_project("luci-app-waybill/Makefile")).expect("there is a Makefile");
    let value = |name: &str| {
        let line = makefile.lines().find_map(|line| line.strip_prefix(&format!("{name}:=")));
        line.unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    assert_eq!(value("PKG_VERSION"), env!("CARGO_PKG_VERSION"));
    assert_eq!(value("PKG_RELEASE"), manifest.release.to_string());
    assert_eq!(value("LUCI_MAINTAINER"), manifest.maintainer);
    assert_eq!(value("LUCI_DESCRIPTION"), manifest.description.trim());
    assert_eq!(value("LUCI_URL"), "");
    let depends = value("LUCI_DEPENDS");
    let depends: Vec<&str> = depends.split_whitespace().map(|word| word.trim_start_matches('+')).collect();
    assert_eq!(depends, manifest.depends.iter().map(String::as_str).collect::<Vec<_>>());
    for path in &manifest.executable {
        let files = fs::read_dir(of_the_project(&format!("luci-app-waybill/root{path}"))).expect("a directory");
        for file in files {
            let file = file.expect("a file").path();
            let mode = fs::metadata(&file).expect("its mode").permissions().mode();
            assert_eq!(mode & 0o111, 0o111, "{}", file.display());
        }
    }
}

/// OpenWrt's build system, as far as the Makefile uses it.
struct Make {
    place: TempDir,
}

impl Make {
    fn new() -> Option<Self> {
        let place = tempfile::tempdir().expect("a place");
        let package = "INSTALL_DIR:=mkdir -p\nINSTALL_BIN:=install -m0755\nCP:=cp -fpR\n\
            define BuildPackage\ninstall-$(1):\n\t$(call Package/$(1)/install,$$(ROOT))\nendef\nprint-%:\n\t@echo $($*)\n";
        for (include, text) in
            [("rules.mk", ""), ("include/package.mk", package), ("feeds/packages/lang/rust/rust-package.mk", "")]
        {
            let path = place.path().join(include);
            fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
            fs::write(path, text).expect("a file");
        }
        is_here("make").then_some(Self { place })
    }

    fn run(&self, target: &str, variables: &[String]) -> String {
        let output = Command::new("make")
            .args(["-s", "-r", target])
            .args(variables)
            .current_dir(of_the_project("waybill"))
            .env("TOPDIR", self.place.path())
            .env("INCLUDE_DIR", self.place.path().join("include"))
            .output()
            .expect("make runs");
        assert!(output.status.success(), "{target}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

/// The project's own files, packed by both.
#[test]
fn the_makefile_installs_what_the_builder_packs() {
    let built = Built::new();
    built.succeeds(&["keys", "keys"]);
    let packages = of_the_project(".");
    let packages = packages.to_str().expect("UTF-8");
    let arguments = ["feed", "--arch", "x86_64", "--packages", packages, "--keys", "keys", "--out", "feed"];
    built.succeeds(
        &[&arguments, ["--program", "waybill=program", "--program", "waybill-full=program"].as_slice()].concat(),
    );
    let Some(make) = Make::new() else { return };
    built.put("installed/bin/waybill", &program());
    for package in ["waybill", "waybill-full"] {
        let variable = |name: &str, path: &str| format!("{name}={}", built.path(path).display());
        make.run(&format!("install-{package}"), &[variable("ROOT", package), variable("PKG_INSTALL_DIR", "installed")]);
        let manifest = Manifest::read(&of_the_project("waybill")).expect("the manifest is good");
        let ipk = format!("feed/{package}_{}-r{}_x86_64.ipk", env!("CARGO_PKG_VERSION"), manifest.release);
        let unpacked = format!("{package}.ipk");
        fs::create_dir(built.path(&unpacked)).expect("a directory");
        built.run("tar", &["-xzf", &ipk, "-C", &unpacked]);
        fs::create_dir(built.path(&format!("{unpacked}/root"))).expect("a directory");
        built.run("tar", &["-xpzf", &format!("{unpacked}/data.tar.gz"), "-C", &format!("{unpacked}/root")]);
        let files = |root: &str| {
            let listing = built.run("find", &[root, "-type", "f", "-printf", "%P %m %s\\n"]);
            listing.lines().map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let (theirs, ours) = (files(package), files(&format!("{unpacked}/root")));
        assert!(ours.len() > 2, "the program, its config, its service: {ours:?}");
        assert_eq!(theirs, ours, "{package}");
    }
}

/// What LuCI's parts may take of a router's flash, in bytes, packed.
const PAGES_MAX: usize = 60_000;

#[test]
fn the_pages_of_luci_fit_and_bring_their_translation() {
    let built = Built::new();
    built.succeeds(&["keys", "keys"]);
    let packages = of_the_project(".");
    let packages = packages.to_str().expect("UTF-8");
    built.succeeds(&["feed", "--arch", "x86_64", "--packages", packages, "--keys", "keys", "--out", "feed"]);
    let name = |end: &str| format!("feed/luci-app-waybill{end}");
    let version = format!("{}-r1", env!("CARGO_PKG_VERSION"));
    let ipk = name(&format!("_{version}_all.ipk"));
    for file in [ipk.clone(), name(&format!("-{version}.apk"))] {
        let size = built.read(&file).len();
        assert!(size <= PAGES_MAX, "{file} has {size} bytes");
    }
    fs::create_dir(built.path("unpacked")).expect("a directory");
    built.run("tar", &["-xzf", &ipk, "-C", "unpacked"]);
    let list = built.run("tar", &["-tzf", "unpacked/data.tar.gz"]);
    for path in [
        "./usr/lib/lua/luci/i18n/waybill.de.lmo",
        "./usr/share/luci/menu.d/luci-app-waybill.json",
        "./usr/share/rpcd/acl.d/luci-app-waybill.json",
        "./www/luci-static/resources/view/waybill/setup.js",
    ] {
        assert!(list.lines().any(|line| line == path), "{path}: {list}");
    }
    assert!(!list.contains(".po"), "{list}");
}
