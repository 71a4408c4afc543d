//! The recipe of images, `openwrt/image`, with a builder that stands in for OpenWrt's: it has the same targets of `make` and the same
//! files, and writes down what it is told and given. What OpenWrt's own Makefiles say to the recipe is in `openwrt/README.md`.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use openwrt_pack::Keys;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// As OpenWrt's of both kinds: it makes an image of `toy_one`, knows every package but `no-such-thing`, and leaves what it was given.
const BUILDER: &str = r#"
info:
	@printf '%s\n' 'Current Target: "toy/generic"' 'Current Revision: "r1-abc"' 'Available Profiles:' '' \
		'toy_one:' '    Toy One' 'toy_two:' '    Toy Two' 'other:' '    Other'
image:
	@[ -z "$(findstring no-such-thing,$(PACKAGES))" ] || { echo "Collected errors:"; \
		echo " * opkg_install_cmd: Cannot install package no-such-thing."; exit 1; }
	@[ -z "$(findstring no-such-apk,$(PACKAGES))" ] || { echo "ERROR: unable to select packages:"; \
		echo "  no-such-apk (no such package):"; echo "    required by: world[no-such-apk]"; exit 1; }
	@[ ! -e no-luci-ssl ] || [ -z "$(findstring luci-ssl,$(PACKAGES))" ] || { echo " * opkg_install_cmd: Cannot install package luci-ssl."; exit 1; }
	@[ -z "$(findstring broken,$(PACKAGES))" ] || { echo "something is broken"; exit 1; }
	@[ -z "$(findstring large,$(PACKAGES))" ] || { echo "WARNING: Image file x.bin is too big: 9 > 8"; }
	@mkdir -p build_dir/target-toy/root-toy; cp -fpR '$(FILES)'/. build_dir/target-toy/root-toy/
	@[ -z "$(findstring elsewhere,$(PACKAGES))" ] || mv build_dir/target-toy/root-toy build_dir/target-toy/toy
	@[ -z "$(findstring leaky,$(PACKAGES))" ] || chmod -R a+r build_dir/target-toy/root-toy
	@echo 'profile $(PROFILE)' >'$(BIN_DIR)/told.txt'; echo 'packages $(PACKAGES)' >>'$(BIN_DIR)/told.txt'
	@tar -C '$(FILES)' -cf '$(BIN_DIR)/files.archive' .; tar -cf '$(BIN_DIR)/builder.archive' keys repositories*
	@sed -n 's,^file://\(.*\)/packages.adb$$,\1,p; s,^src/gz waybill file://,,p' repositories* >feed; ls "$$(cat feed)" >'$(BIN_DIR)/feed.txt'
	@echo 'base-files - 1' >'$(BIN_DIR)/toy.manifest'; [ -n "$(findstring large,$(PACKAGES))" ] || echo sysupgrade >'$(BIN_DIR)/toy-squashfs-sysupgrade.bin'
"#;

const CONFIG: &str = "CONFIG_SIGNATURE_CHECK=y\nCONFIG_TARGET_ARCH_PACKAGES=\"mipsel_24kc\"\n";
const CODE: &str = "waybill-invite1:abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
const KINDS: [&str; 2] = ["apk", "opkg"];

/// A directory with both builders, a feed, and a `waybill` that knows one invitation.
struct Recipe {
    place: TempDir,
}

impl Recipe {
    /// None where something is not installed that every Debian has that is to build images.
    fn new() -> Option<Self> {
        for program in ["bash", "make", "tar", "od", "base64", "iconv"] {
            if matches!(Command::new(program).arg("--version").output(), Err(error) if error.kind() == ErrorKind::NotFound)
            {
                println!("skipped: no {program}");
                return None;
            }
        }
        let recipe = Self { place: tempfile::tempdir().expect("a place for the test") };
        for kind in KINDS {
            recipe.put(&format!("{kind}/Makefile"), BUILDER);
            recipe.put(&format!("{kind}/.config"), CONFIG);
            recipe.put(&format!("{kind}/keys/openwrt"), "OpenWrt's\n");
        }
        recipe.put("apk/repositories", "https://downloads.example/packages.adb\n");
        recipe.put("opkg/repositories.conf", "src imagebuilder file:packages\noption check_signature\n");
        recipe.put(
            "program",
            "#!/bin/sh\nread -r code\ncase \"$1 $2 $code\" in\n\
             'join - waybill-invite1:abc'*) printf '{\\n  \"community\": \"Hilltop\",\\n  \"symbol\": \"WAY\"\\n}\\n' ;;\n\
             *) echo 'error: it is no invitation' >&2; exit 1 ;;\nesac\n",
        );
        fs::set_permissions(recipe.path("program"), Permissions::from_mode(0o755)).expect("its mode");
        recipe.put("invitation.txt", &format!("{CODE}\n"));
        recipe.put("password.txt", "let me  in\n");
        recipe.packages("feed", "mipsel_24kc", "");
        Some(recipe)
    }

    /// A feed of one small program, and of pages if `luci` names their package.
    fn packages(&self, feed: &str, arch: &str, luci: &str) {
        let manifest = |name: &str, program: &str| {
            format!(
                "section = \"net\"\ndescription = \"It is.\"\nmaintainer = \"Nobody\"\nrelease = 1\n{program}\
                 trees = {{ files = \"/\" }}\nexecutable = []\n\n[[variant]]\nname = \"{name}\"\ndefault = true\n"
            )
        };
        self.put(&format!("{feed}.src/waybill/package.toml"), &manifest("waybill", "program = \"/usr/bin/waybill\"\n"));
        self.put(&format!("{feed}.src/waybill/files/etc/one"), "one\n");
        if !luci.is_empty() {
            self.put(&format!("{feed}.src/{luci}/package.toml"), &manifest(luci, ""));
            self.put(&format!("{feed}.src/{luci}/files/www/view.js"), "one\n");
        }
        let pack = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_openwrt-pack"));
            let output = command.args(arguments).current_dir(self.place.path()).output().expect("the builder runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        if !self.path("keys").exists() {
            pack(&["keys", "keys"]);
        }
        let sources = format!("{feed}.src");
        pack(&[
            "feed",
            "--arch",
            arch,
            "--packages",
            &sources,
            "--keys",
            "keys",
            "--out",
            feed,
            "--program",
            "waybill=program",
        ]);
    }

    fn path(&self, path: &str) -> PathBuf {
        self.place.path().join(path)
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("directories are made");
        fs::write(path, content).expect("a file is written");
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}")).permissions().mode() & 0o777
    }

    /// Runs the recipe, with a directory of its own for what it works in.
    fn image(&self, arguments: &str, more: &[&str]) -> Output {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("image");
        let mut command = Command::new(recipe);
        // In place of OpenWrt's.
        if self.path("known").exists() {
            command.env("IMAGE_KEYS", self.path("known"));
        }
        command
            .args(arguments.split_whitespace())
            .args(more)
            .current_dir(self.place.path())
            .env("BUILDER_TOOLS", "none")
            .env("IMAGE_WORK", self.path("work"))
            .env("WAYBILL", self.path("program"))
            .output()
            .expect("bash runs")
    }

    fn succeeds(&self, arguments: &str, more: &[&str]) -> String {
        let output = self.image(arguments, more);
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        self.left_nothing_behind();
        String::from_utf8(output.stdout).expect("text")
    }

    /// What it says when it fails, and that it leaves nothing.
    fn fails(&self, arguments: &str, more: &[&str]) -> String {
        let output = self.image(arguments, more);
        assert!(!output.status.success(), "{arguments} succeeds");
        assert!(!self.path("out").exists(), "{arguments}: an image that is none");
        self.left_nothing_behind();
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains("error: "), "{said}");
        said
    }

    /// Besides a log and what was downloaded.
    fn left_nothing_behind(&self) {
        let left = fs::read_dir(self.path("work")).into_iter().flatten().filter_map(Result::ok);
        let left: Vec<_> =
            left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with("work.")).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The files of an archive among what came out: their modes and owners, and their names.
    fn listed(&self, archive: &str) -> Vec<(String, String)> {
        let output = Command::new("tar").arg("-tvf").arg(self.path(archive)).output().expect("tar runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        let mut files: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with('-'))
            .filter_map(|line| {
                Some((line.split_whitespace().last()?.trim_start_matches("./").to_owned(), line[..10].to_owned()))
            })
            .collect();
        files.sort();
        files
    }

    fn inside(&self, archive: &str, name: &str) -> String {
        let output = Command::new("tar").arg("-xOf").arg(self.path(archive)).arg(name).output().expect("tar runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// What `usign` would call the feed's key.
    fn fingerprint(&self) -> String {
        let line = self.text("feed/waybill.pub");
        line.lines().next().and_then(|line| line.rsplit(' ').next()).expect("a fingerprint").to_owned()
    }
}

/// What all images of these tests have in common.
fn plain(kind: &str) -> String {
    format!("--builder {kind} --profile toy_one --feed feed --out out")
}

#[test]
fn an_image_has_the_packages_the_key_and_the_communitys_wishes_and_no_secret_that_others_may_read() {
    let Some(recipe) = Recipe::new() else { return };
    for kind in KINDS {
        let wishes = ["--community", "Höhe & 'Tal'", "--ssid", "Hügel netz"];
        let rest = "--invitation invitation.txt --wifi-password-file password.txt --country DE --language de \
                    --feed-url https://feed.example.org/x/ --package tcpdump --package -ppp";
        let said = recipe.succeeds(&format!("{} {rest}", plain(kind)), &wishes);
        assert!(said.contains("toy-squashfs-sysupgrade.bin") && said.contains("Give them to nobody else"), "{said}");
        assert_eq!(recipe.text("out/told.txt"), "profile toy_one\npackages waybill tcpdump -ppp\n");

        let files = recipe.listed("out/files.archive");
        let (key, source) = match kind {
            "apk" => ("etc/apk/keys/waybill.pem".to_owned(), "etc/apk/repositories.d/waybill.list"),
            _ => (format!("etc/opkg/keys/{}", recipe.fingerprint()), "etc/opkg/waybill.conf"),
        };
        let (plain, run, closed) = ("-rw-r--r--", "-rwxr-xr-x", "-rw-------");
        let expected = [
            (key.as_str(), plain),
            (source, plain),
            ("etc/hotplug.d/ieee80211/20-waybill-preset", run),
            ("etc/uci-defaults/90-waybill-preset", run),
            ("usr/libexec/waybill-preset", run),
            ("usr/share/waybill-preset/shadow", closed),
        ];
        let mut expected = expected.map(|(name, mode)| (name.to_owned(), mode.to_owned()));
        expected.sort();
        assert_eq!(files, expected, "{kind}");
        assert_eq!(
            recipe.inside("out/files.archive", "./usr/share/waybill-preset/shadow"),
            format!(
                "community Höhe & 'Tal'\ninvitation {CODE}\nlanguage de\ncountry DE\nssid Hügel netz\npassword let me  in\n"
            )
        );
        let address = recipe.inside("out/files.archive", &format!("./{source}"));
        assert_eq!(
            address,
            match kind {
                "apk" => "https://feed.example.org/x/packages.adb\n",
                _ => "src/gz waybill https://feed.example.org/x\n",
            }
        );

        // The builder trusts the feed by its key, and the feed's files are there.
        let trusted: Vec<_> = recipe.listed("out/builder.archive").into_iter().map(|(name, _)| name).collect();
        assert!(
            trusted.iter().any(|name| name.starts_with("keys/") && key.ends_with(&name["keys".len()..])),
            "{trusted:?}"
        );
        let feed = recipe.text("out/feed.txt");
        let ending = if kind == "apk" { ".apk" } else { ".ipk" };
        assert!(feed.lines().any(|line| line.starts_with("waybill") && line.ends_with(ending)), "{feed}");
        if kind == "opkg" {
            let sources = recipe.inside("out/builder.archive", "repositories.conf");
            assert!(sources.contains("\noption check_signature\n"), "{sources}");
        }

        // What goes to people.
        let manifest = recipe.text("out/waybill-image.txt");
        for line in [
            "profile: toy_one",
            "revision: r1-abc",
            "asked for: waybill tcpdump -ppp",
            "community: Höhe & 'Tal'",
            "invitation: there is one in it, so it is for ONE router",
            "Wi-Fi: Hügel netz, with a password",
            "base-files - 1",
        ] {
            assert!(manifest.lines().any(|found| found == line), "{line} is not in {manifest}");
        }
        assert!(!manifest.contains("let me") && !manifest.contains("invite1"), "{manifest}");
        let sums = recipe.text("out/sha256sums");
        let image = fs::read(recipe.path("out/toy-squashfs-sysupgrade.bin")).expect("the image");
        assert!(
            sums.contains(&format!("{}  toy-squashfs-sysupgrade.bin\n", hex::encode(Sha256::digest(image)))),
            "{sums}"
        );
        for (path, mode) in
            [("out", 0o700), ("out/toy-squashfs-sysupgrade.bin", 0o600), ("out/waybill-image.txt", 0o600)]
        {
            assert_eq!(recipe.mode(path), mode, "{path}");
        }

        // The builder is as it was, and what is there is not overwritten.
        assert!(!recipe.path(&format!("{kind}/build_dir")).exists());
        assert_eq!(fs::read_dir(recipe.path(&format!("{kind}/keys"))).expect("keys").count(), 1);
        let again = recipe.image(&format!("--builder {kind} --profile toy_one --feed feed --out out"), &[]);
        assert!(String::from_utf8_lossy(&again.stderr).contains("out is there already"), "{again:?}");
        fs::remove_dir_all(recipe.path("out")).expect("the image");
    }
}

#[test]
fn without_secrets_an_image_is_for_all_and_pages_come_where_the_feed_has_them() {
    let Some(recipe) = Recipe::new() else { return };
    recipe.packages("pages", "mipsel_24kc", "luci-app-waybill");
    recipe.succeeds("--builder apk --profile toy_two --feed pages --out out --language pt-br", &[]);
    assert_eq!(
        recipe.text("out/told.txt"),
        "profile toy_two\npackages waybill luci luci-ssl luci-app-waybill luci-i18n-base-pt-br\n"
    );
    assert_eq!(recipe.inside("out/files.archive", "./usr/share/waybill-preset/shadow"), "language pt-br\n");
    assert_eq!(recipe.mode("out/toy-squashfs-sysupgrade.bin"), 0o644);
    assert_eq!(recipe.text("work/log"), "");
    fs::remove_dir_all(recipe.path("out")).expect("the image");

    // Not every builder has pages by HTTPS.
    recipe.put("opkg/no-luci-ssl", "");
    let said = recipe.succeeds("--builder opkg --profile toy_two --feed pages --out out", &[]);
    assert!(said.contains("the builder has no luci-ssl"), "{said}");
    assert_eq!(recipe.text("out/told.txt"), "profile toy_two\npackages waybill luci luci-app-waybill\n");
    fs::remove_dir_all(recipe.path("out")).expect("the image");

    // The community's name is the invitation's, unless it is said.
    recipe.succeeds(&plain("opkg"), &["--invitation", "invitation.txt"]);
    let wishes = recipe.inside("out/files.archive", "./usr/share/waybill-preset/shadow");
    assert_eq!(wishes, format!("community Hilltop\ninvitation {CODE}\n"));
}

#[test]
fn a_builder_named_by_a_link_stays_as_it_is_too() {
    let Some(recipe) = Recipe::new() else { return };
    std::os::unix::fs::symlink("opkg", recipe.path("link")).expect("a link");
    let before = recipe.text("opkg/repositories.conf");
    recipe.succeeds(&plain("link"), &["--invitation", "invitation.txt"]);
    assert!(!recipe.path("opkg/build_dir").exists());
    assert_eq!(fs::read_dir(recipe.path("opkg/keys")).expect("keys").count(), 1);
    assert_eq!(recipe.text("opkg/repositories.conf"), before);
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_left() {
    let Some(recipe) = Recipe::new() else { return };
    recipe.put("bad.txt", "waybill-invite1:nothing_of_ours_but_of_its_form_and_quite_long_enough_for_one_0123456789\n");
    recipe.put("short.txt", "short\n");
    recipe.put("odd/Makefile", "all:\n");
    recipe.put("odd/.config", CONFIG);
    recipe.put("trusting/Makefile", BUILDER);
    recipe.put("trusting/.config", &CONFIG.replace("=y", "=n"));
    recipe.put("trusting/repositories", "");
    recipe.packages("arm", "arm_cortex-a7", "");
    recipe.packages("changed", "mipsel_24kc", "");
    recipe.put("changed/packages.adb", "other\n");
    let base = "--feed feed --out out";
    for (arguments, expected) in [
        ("", "--builder is missing"),
        ("--builder apk", "--profile is missing"),
        ("--builder apk --profile", "--profile needs a value"),
        ("--builder apk --profile toy_one --colour red", "no option is called --colour"),
        ("--builder apk --profile toy_on", "the builder knows no router called toy_on; there are\n  toy_one toy_two"),
        ("--builder apk --profile x;y", "--profile is no name of a device"),
        ("--builder nowhere --profile toy_one", "there is no nowhere"),
        ("--builder odd --profile toy_one", "odd is no ImageBuilder"),
        ("--builder trusting --profile toy_one", "trusting checks no signatures"),
        ("--builder program --profile toy_one", "program is no archive of an ImageBuilder"),
        ("--builder 24.10.5 --profile toy_one", "--target is missing"),
        ("--builder 24.10.5 --profile toy_one --target ../x", "--target is no target of OpenWrt"),
        (
            "--builder 24.10.5 --profile toy_one --target toy/generic --mirror http://a.example",
            "--mirror is no https address",
        ),
        (
            "--builder apk --profile toy_one --feed empty",
            "empty has no packages for mipsel_24kc\n  make them first:  openwrt/build mipsel_24kc",
        ),
        (
            "--builder apk --profile toy_one --feed arm",
            "the packages of arm are for arm_cortex-a7, and the router is for mipsel_24kc",
        ),
        ("--builder apk --profile toy_one --feed changed", "the files of changed are not what its sha256sums says"),
        ("--builder apk --profile toy_one --package no-such-apk", "there is no package called no-such-apk"),
        ("--builder opkg --profile toy_one --package no-such-thing", "there is no package called no-such-thing"),
        ("--builder opkg --profile toy_one --package $(id)", "--package is no name of a package"),
        ("--builder opkg --profile toy_one --package broken", "the builder failed; its last words are above"),
        ("--builder opkg --profile toy_one --package large", "it does not fit into this router's flash"),
        (
            "--builder opkg --profile toy_one --package leaky",
            "the builder made what is secret in the image readable for all",
        ),
        (
            "--builder opkg --profile toy_one --package elsewhere",
            "what the builder put into the image is not where it is looked for",
        ),
        ("--builder opkg --profile toy_one --builder-key password.txt", "--builder-key is for a version alone"),
        ("--builder opkg --profile toy_one --package waybill-full", "feed has no package called waybill-full"),
        ("--builder apk --profile toy_one --invitation bad.txt", "bad.txt holds no invitation: it is no invitation"),
        ("--builder apk --profile toy_one --invitation short.txt", "short.txt holds no invitation"),
        ("--builder apk --profile toy_one --invitation nowhere", "cannot read nowhere"),
        (
            "--builder apk --profile toy_one --ssid hill --wifi-password-file short.txt",
            "short.txt is no password for Wi-Fi",
        ),
        ("--builder apk --profile toy_one --wifi-password-file password.txt", "--wifi-password-file without --ssid"),
        ("--builder apk --profile toy_one --country de", "--country is two capital letters"),
        ("--builder apk --profile toy_one --language German", "--language is a word such as de"),
        ("--builder apk --profile toy_one --feed-url ftp://x", "--feed-url is no address of a web server"),
    ] {
        let whole = if arguments.contains("--feed ") {
            format!("--out out {arguments}")
        } else {
            format!("{base} {arguments}")
        };
        let said = recipe.fails(&whole, &[]);
        assert!(said.contains(expected), "{arguments}: {said}");
    }
    for (option, value, expected) in [
        ("--community", "two\nlines", "--community has a line break"),
        ("--ssid", "0123456789012345678901234567890123", "--ssid is longer than 32 bytes"),
        ("--ssid", "a\nsection 'x'", "--ssid has a line break"),
        ("--package", "a\nb", "--package is no name of a package"),
    ] {
        let said = recipe.fails(&plain("apk"), &[option, value]);
        assert!(said.contains(expected), "{option}: {said}");
    }
}

#[test]
fn a_builder_of_a_version_is_downloaded_once_and_used_only_if_it_is_what_the_list_says() {
    let Some(recipe) = Recipe::new() else { return };
    for (program, argument) in [("curl", "--version"), ("openssl", "version")] {
        if matches!(Command::new(program).arg(argument).output(), Err(error) if error.kind() == ErrorKind::NotFound) {
            println!("skipped: no {program}");
            return;
        }
    }
    let name = "openwrt-imagebuilder-24.10.5-toy-generic.Linux-x86_64";
    let directory = recipe.path("mirror/releases/24.10.5/targets/toy/generic");
    fs::create_dir_all(&directory).expect("directories");
    fs::rename(recipe.path("apk"), recipe.path(name)).expect("the builder");
    // tar sees for itself what is compressed and what is not.
    let archive = directory.join(format!("{name}.tar.zst"));
    let status = Command::new("tar").arg("-C").arg(recipe.place.path()).arg("-cf").arg(&archive).arg(name).status();
    assert!(status.expect("tar runs").success());
    let sum = hex::encode(Sha256::digest(fs::read(&archive).expect("the archive")));
    let ours = Keys::generate().expect("random numbers").usign;
    let write = |list: &str, signature: &str| {
        fs::write(directory.join("sha256sums"), list).expect("the list");
        fs::write(directory.join("sha256sums.sig"), signature).expect("its signature");
    };
    let list = |sum: &str| {
        let list = format!("{sum} *{name}.tar.zst\n");
        write(&list, &ours.signature_file(list.as_bytes()));
    };
    let mirror = format!("file://{}", recipe.path("mirror").display());
    let arguments =
        format!("--builder 24.10.5 --target toy/generic --profile toy_one --feed feed --out out --mirror {mirror}");

    let said = recipe.fails(&arguments, &[]);
    assert!(said.contains("cannot download") && said.contains("/sha256sums"), "{said}");
    // Somebody's list on OpenWrt's server is no list of OpenWrt's.
    list(&sum);
    let said = recipe.fails(&arguments, &[]);
    let expected = format!(
        "are not signed by OpenWrt's key of 24.10, d310c6f2833e97f7, but by key {}\n  the wrong key, or somebody changed them",
        ours.fingerprint()
    );
    assert!(said.contains(&expected), "{said}");
    let said = recipe.fails(&arguments.replace("24.10.5", "23.05.5"), &[]);
    assert!(said.contains("OpenWrt's key of 23.05 is not known here; known are those of: 24.10 25.12"), "{said}");
    assert!(said.contains("name its file with --builder-key"), "{said}");
    // Nor is one whose signature says OpenWrt's number, or that is another's than what was signed.
    recipe.put("known/24.10.pub", &ours.public_file());
    for (list, signature) in [
        ("other\n", ours.signature_file(b"one\n")),
        ("one\n", "untrusted comment: x\nAAAA\n".to_owned()),
        ("one\n", String::new()),
    ] {
        write(list, &signature);
        let said = recipe.fails(&arguments, &[]);
        assert!(said.contains("are not signed by OpenWrt's key of 24.10"), "{said}");
    }
    fs::remove_file(directory.join("sha256sums.sig")).expect("its signature");
    assert!(recipe.fails(&arguments, &[]).contains("nobody signed the checksums"));

    list(&"0".repeat(64));
    let said = recipe.fails(&arguments, &[]);
    assert!(said.contains(&format!("sha256 is {sum}")) && said.contains("nothing was unpacked"), "{said}");
    assert!(!recipe.path("work/downloads").join(format!("{name}.tar.zst")).exists(), "it was thrown away");
    write("\n", &ours.signature_file(b"\n"));
    assert!(recipe.fails(&arguments, &[]).contains("has no ImageBuilder in its list"));

    list(&sum);
    let said = recipe.succeeds(&arguments, &[]);
    let manifest = recipe.text("out/waybill-image.txt");
    for words in [
        format!("\nverified: the builder has the sha256 of the list, {sum}\n"),
        format!("\nverified: the list is signed by OpenWrt's key of 24.10, {}\n", ours.fingerprint()),
    ] {
        assert!(said.contains(&words) && manifest.contains(&words), "{said}");
    }
    assert!(recipe.text("out/waybill-image.txt").contains(&format!("builder: 24.10.5 for toy/generic, sha256 {sum}")));
    fs::remove_dir_all(recipe.path("out")).expect("the image");
    // What was downloaded is checked again.
    fs::remove_file(&archive).expect("the archive");
    recipe.succeeds(&arguments, &[]);
    fs::remove_dir_all(recipe.path("out")).expect("the image");
    let downloaded = recipe.path("work/downloads").join(format!("{name}.tar.zst"));
    fs::write(&downloaded, "something else").expect("the archive");
    assert!(recipe.fails(&arguments, &[]).contains("is not what the list says"));
    assert!(!downloaded.exists());

    // An archive of one's own is checked against nothing, and that is said, with what one can compare.
    let mine = recipe.path("mine.tar.zst");
    let status = Command::new("tar").arg("-C").arg(recipe.place.path()).arg("-cf").arg(&mine).arg(name).status();
    assert!(status.expect("tar runs").success());
    let said = recipe.succeeds(&plain("mine.tar.zst"), &[]);
    let sum = hex::encode(Sha256::digest(fs::read(&mine).expect("the archive")));
    assert!(said.contains("\nNOT verified: whether mine.tar.zst is OpenWrt's"), "{said}");
    assert!(said.contains(&format!("\nits sha256 is {sum}: compare that")), "{said}");
    fs::remove_dir_all(recipe.path("out")).expect("the image");

    // Who builds OpenWrt itself has a key of its own.
    recipe.put("openwrt.pub", "untrusted comment: public key\nRWQAAAAA\n");
    assert!(
        recipe.fails(&arguments, &["--builder-key", "openwrt.pub"]).contains("openwrt.pub is no public key of usign")
    );
    let other = Keys::generate().expect("random numbers").usign;
    recipe.put("openwrt.pub", &other.public_file());
    let said = recipe.fails(&arguments, &["--builder-key", "openwrt.pub"]);
    assert!(said.contains("are not signed by openwrt.pub, but by key"), "{said}");
    let list = format!("{} *{name}.tar.zst\n", "0".repeat(64));
    write(&list, &other.signature_file(list.as_bytes()));
    let said = recipe.fails(&arguments, &["--builder-key", "openwrt.pub"]);
    assert!(said.contains("cannot download") || said.contains("is not what the list says"), "{said}");
}

#[test]
fn openwrts_keys_are_those_of_its_keyring() {
    // As other projects noted them down, too: `openwrt/README.md`.
    for (file, expected) in [
        ("24.10.pub", "e3624aa9be785362a172595b4919b233268871c4365a9b8da2b42ac41745ad95"),
        ("25.12.pub", "d7ac10f9ed1b38033855f3d27c9327d558444fca804c685b17d9dcfb0648228f"),
    ] {
        let content = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("keys").join(file)).expect("a key");
        assert_eq!(hex::encode(Sha256::digest(content)), expected, "{file}");
    }
}
