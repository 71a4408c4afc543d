//! The ubus object of `openwrt/waybill/files/usr/share/rpcd/ucode/waybill.uc`.
//!
//! It runs in the real ucode, `$UCODE` or the one in the path, where there is one: it has to do the same in those of before and of
//! after March 2026, which have it otherwise about line breaks in patterns. Programs that it runs are one that writes down its words.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{can_run, root};

const PATH: &str = "openwrt/waybill/files/usr/share/rpcd/ucode/waybill.uc";

fn source() -> String {
    fs::read_to_string(root().join(PATH)).expect("the object")
}

/// A router of files: settings, programs that only say what they were told to, and the object between them.
struct Router {
    dir: tempfile::TempDir,
}

/// Programs of a router, and what they are called in a [`Router`].
const PROGRAMS: [(&str, &str); 6] = [
    ("/usr/bin/waybill", "waybill"),
    ("/etc/init.d/waybill", "init"),
    ("/usr/libexec/waybill-join", "waybill-join"),
    ("/usr/libexec/waybill-leaf", "waybill-leaf"),
    ("/bin/busybox", "busybox"),
    ("/sbin/wifi", "wifi"),
];

impl Router {
    fn new(settings: &str) -> Option<Self> {
        let ucode = std::env::var_os("UCODE").unwrap_or_else(|| "ucode".into());
        if Command::new(ucode).args(["-e", ""]).output().is_err() {
            println!("skipped: no ucode");
            return None;
        }
        let router = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        for directory in ["run", "config", "delta", "says"] {
            fs::create_dir(router.path(directory)).expect("a directory");
        }
        router.write("config/waybill", settings);
        router.write("config/wireless", "");
        router.write("shadow", "root:x:0:0:99999:7:::\n");
        let mut object = source();
        for (path, name) in PROGRAMS {
            router.write(name, &format!(
                "#!/bin/sh\ncd '{}'\n{{ printf '{name}'; printf ' [%s]' \"$@\"; echo; }} >>told\n[ ! -e says/{name}.sh ] || . says/{name}.sh\n",
                router.dir.path().display()
            ));
            fs::set_permissions(router.path(name), fs::Permissions::from_mode(0o755)).expect("a program");
            object = object.replace(&format!("'{path}'"), &format!("'{}'", router.path(name).display()));
        }
        for (path, name) in [("/var/run/waybill", "run"), ("/etc/shadow", "shadow")] {
            object = object.replace(path, &router.path(name).display().to_string());
        }
        let (config, delta) = (router.path("config"), router.path("delta"));
        object = object.replace("cursor()", &format!("cursor('{}', '{}')", config.display(), delta.display()));
        router.write("object.uc", &object);
        router.write(
            "driver.uc",
            "let object = loadfile(ARGV[0])();\n\
             for (let each in json(ARGV[1])) printf('%J\\n', object.waybill[each[0]].call({ args: each[1] }));\n",
        );
        Some(router)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What the object says to each of these, in one go.
    fn calls(&self, calls: &Value) -> Vec<Value> {
        let ucode = std::env::var_os("UCODE").unwrap_or_else(|| "ucode".into());
        let output = Command::new(ucode)
            .arg(self.path("driver.uc"))
            .arg(self.path("object.uc"))
            .arg(calls.to_string())
            .current_dir(self.dir.path())
            .output()
            .expect("ucode runs");
        let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && why.is_empty(), "{said}{why}");
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
    }

    fn call(&self, method: &str, args: &Value) -> Value {
        self.calls(&json!([[method, args]])).pop().expect("an answer")
    }

    /// What the programs were told since this was last asked.
    fn told(&self) -> String {
        let told = self.read("told");
        _ = fs::remove_file(self.path("told"));
        told
    }
}

const ACCOUNT: &str = "0xa09cBd48280d5B18176B8D027AbC099bDa2D781F";

/// Each argument that is a text, with a value that is right.
fn arguments() -> Vec<(&'static str, &'static str, Value)> {
    let leaf = json!({ "name": "anna", "endpoint": "[2001:db8::1]:51820", "dns": "9.9.9.9" });
    let done = json!({ "name": "attic", "policy": "price", "price": "0.05" });
    vec![
        ("statement", "month", json!({ "month": "2026-11" })),
        ("why", "account", json!({ "account": ACCOUNT })),
        ("redeem", "account", json!({ "account": ACCOUNT })),
        ("join", "code", json!({ "code": "waybill-invite1:abc_-", "name": "attic" })),
        ("join", "name", json!({ "code": "waybill-invite1:abc_-", "name": "attic" })),
        ("leaf_add", "name", leaf.clone()),
        ("leaf_add", "endpoint", leaf.clone()),
        ("leaf_add", "dns", leaf),
        ("leaf_remove", "name", json!({ "name": "anna" })),
        ("setup_done", "name", done.clone()),
        ("setup_done", "policy", done.clone()),
        ("setup_done", "price", done),
    ]
}

#[test]
fn no_argument_of_a_caller_is_run_or_reaches_a_program_with_anything_beside_it() {
    let Some(router) = Router::new("config setup 'setup'\n\toption pending '1'\nconfig ledger 'ledger'\n") else {
        return;
    };
    let marker = router.path("marker").display().to_string();
    let mut calls = Vec::new();
    for (method, name, args) in arguments() {
        let good = args[name].as_str().expect("a text");
        let first = &good[..1];
        for bad in [
            format!("{good}\ntouch {marker} #"),
            format!("{good}\n'; touch {marker}; : '"),
            format!("touch {marker}\n{good}"),
            format!("{good}\n"),
            format!("\n{good}"),
            format!("{good}\r"),
            format!("{good}\u{7f}"),
            format!("{first}\n'; touch {marker}; : '"),
            format!("'; touch {marker}; : '"),
            format!("$(touch {marker})"),
            format!("{good} {good}"),
            format!("--{good}"),
            "\n".to_owned(),
            "-".to_owned(),
        ] {
            // An invitation is no word of a command line, and the program looks at it.
            if (method, name) == ("join", "code") && bad.starts_with('-') {
                continue;
            }
            let mut args = args.clone();
            args[name] = json!(bad);
            calls.push(json!([method, args]));
        }
        for bad in [json!(7), json!([good]), json!({ "a": good }), json!(true)] {
            let mut args = args.clone();
            args[name] = bad;
            calls.push(json!([method, args]));
        }
    }
    let answers = router.calls(&json!(calls));
    for (call, answer) in calls.iter().zip(&answers) {
        assert!(answer["error"].is_string(), "{call}: {answer}");
    }
    assert_eq!(router.told(), "", "nothing was run");
    assert!(!router.path("marker").exists());
}

#[test]
fn the_socket_in_the_settings_is_no_command() {
    for socket in ["/x\ntouch marker #", "/x; touch marker", "x\n/y", "/x'; touch marker; : '"] {
        let quoted = socket.replace('\'', "'\\''");
        let Some(router) = Router::new(&format!("config node 'node'\n\toption control_socket '{quoted}'\n")) else {
            return;
        };
        router.call("routes", &json!({}));
        assert!(!router.path("marker").exists(), "{socket}");
        assert!(!router.told().contains("touch"), "{socket}");
    }
}

#[test]
fn what_is_right_reaches_the_programs_word_for_word() {
    let Some(router) = Router::new("") else { return };
    router.write("says/waybill-join.sh", "cat >code; echo '{}'");
    let socket = router.path("run/control.sock").display().to_string();
    router.call("statement", &json!({ "month": "2026-11" }));
    assert_eq!(router.told(), format!("waybill [statement] [--month] [2026-11] [--json] [--socket] [{socket}]\n"));
    router.call("why", &json!({ "account": ACCOUNT }));
    assert_eq!(router.told(), format!("waybill [why] [{ACCOUNT}] [--json] [--socket] [{socket}]\n"));
    assert_eq!(router.call("join", &json!({ "code": "waybill-invite1:abc", "name": "attic" })), json!({}));
    assert_eq!(router.told(), "waybill-join [attic]\n");
    assert_eq!(router.read("code"), "waybill-invite1:abc\n");
    assert_eq!(fs::read_dir(router.path("run")).expect("a directory").count(), 0, "the invitation is gone");
    for name in ["0xabc", "-a", "a_b", &"a".repeat(64)] {
        assert!(
            router.call("join", &json!({ "code": "waybill-invite1:abc", "name": name }))["error"].is_string(),
            "{name}"
        );
    }
}

/// What `uci` has of a file that the real libuci wrote.
fn has_leaf(router: &Router) -> bool {
    router.read("config/waybill").contains("config leaf")
}

#[test]
fn a_phone_gets_its_config_of_many_lines_and_one_whose_config_is_lost_is_not_let_in() {
    let Some(router) = Router::new("config leaf\n\toption name 'anna'\n") else { return };
    router.write(
        "says/waybill-leaf.sh",
        "printf '{\\n  \"name\": \"anna\",\\n  \"config\": \"a\\\\nb\"\\n}\\n<svg>\\n<path/>\\n</svg>\\n'",
    );
    let args = json!({ "name": "anna", "endpoint": "roof.example.org:51820", "internet": true, "dns": "fd00::1" });
    let answer = router.call("leaf_add", &args);
    assert_eq!(answer, json!({ "name": "anna", "config": "a\nb", "qr": "<svg>\n<path/>\n</svg>\n" }));
    assert_eq!(
        router.told(),
        "waybill-leaf [anna] [--endpoint] [roof.example.org:51820] [--dns] [fd00::1] [--internet]\n"
    );
    assert!(has_leaf(&router));
    // Without a picture it is as good.
    router.write("says/waybill-leaf.sh", "echo '{ \"name\": \"anna\" }'");
    assert_eq!(router.call("leaf_add", &args), json!({ "name": "anna", "qr": "" }));
    // What failed let nobody in, and takes nobody out.
    router.write("says/waybill-leaf.sh", "echo 'error: there is an anna'; exit 1");
    assert_eq!(router.call("leaf_add", &args), json!({ "error": "there is an anna" }));
    assert!(has_leaf(&router));
    router.write("says/waybill-leaf.sh", "echo '{ \"name\": \"an'");
    assert!(router.call("leaf_add", &args)["error"].is_string());
    assert!(!has_leaf(&router), "nobody has its key");
}

/// What an image brings, with radios that it left off.
const PENDING: &str = "config setup 'setup'\n\toption pending '1'\n\tlist radios 'radio0'\n\tlist radios 'radio2'\n";

const RADIOS: &str = "config wifi-device 'radio0'\n\toption disabled '1'\nconfig wifi-device 'radio1'\n\toption disabled '1'\n\
     config wifi-iface 'radio2'\n\toption disabled '1'\n";

#[test]
fn the_first_start_ends_once_with_a_password_and_switches_on_the_radios_that_the_image_left_off() {
    let Some(router) = Router::new(PENDING) else { return };
    router.write("config/wireless", RADIOS);
    let done = json!({ "name": "attic", "policy": "free" });
    let refused = |args: &Value| {
        let before = (router.read("config/waybill"), router.read("config/wireless"));
        let answer = router.call("setup_done", args);
        assert!(answer["error"].is_string(), "{args}: {answer}");
        assert_eq!((router.read("config/waybill"), router.read("config/wireless")), before, "{args}");
        assert_eq!(router.read("delta/waybill"), "", "{args}");
        assert!(!router.told().contains("wifi"), "{args}");
    };
    router.write("shadow", "daemon:*:0:0:99999:7:::\nroot::0:0:99999:7:::\n");
    refused(&done);
    router.write("shadow", "daemon:*:0:0:99999:7:::\nroot:$1$x:0:0:99999:7:::\n");
    // No name for the daemon, and no price without a community.
    refused(&json!({ "name": "0xabc", "policy": "free" }));
    refused(&json!({ "name": "attic", "policy": "price", "price": "0.05" }));
    // What the daemon would not take is said before it is in the settings.
    let sees = format!("cat '{}' >>seen; echo 'waybill.node.mtu: no'; exit 1", router.path("delta/waybill").display());
    router.write("says/init.sh", &sees);
    refused(&done);
    assert!(router.read("seen").contains("waybill.node.name='attic'"), "{}", router.read("seen"));
    router.write("says/init.sh", "");

    assert_eq!(router.call("setup_done", &done), json!({ "done": true }));
    assert_eq!(router.told(), "init [check]\nwifi [reload]\ninit [reload]\n");
    let settings = router.read("config/waybill");
    assert!(settings.contains("option name 'attic'") && settings.contains("option ask '0'"), "{settings}");
    assert!(!settings.contains("setup"), "{settings}");
    let wireless = router.read("config/wireless");
    assert_eq!(wireless.matches("disabled").count(), 2, "{wireless}");
    assert!(
        wireless.contains("config wifi-device 'radio0'\n\nconfig wifi-device 'radio1'\n\toption disabled"),
        "{wireless}"
    );
    // Once, and not on a router that somebody has set up.
    refused(&done);
}

#[test]
fn roots_password_is_set_here_at_the_first_start_alone_and_where_there_is_none() {
    let Some(router) = Router::new(PENDING) else { return };
    let password = json!({ "password": "correct ' horse" });
    let sets = format!("cat >typed; sed -i 's/^root::/root:x:/' '{}'", router.path("shadow").display());
    router.write("says/busybox.sh", &sets);
    assert!(router.call("setup_password", &password)["error"].is_string(), "there is one");
    router.write("shadow", "root::0:0:99999:7:::\n");
    let long = "a".repeat(121);
    for bad in
        [json!("short"), json!("two\nlines here"), json!("tab\tin it"), json!(long), json!(12_345_678), Value::Null]
    {
        assert!(router.call("setup_password", &json!({ "password": bad }))["error"].is_string(), "{bad}");
    }
    router.write("config/waybill", "");
    assert!(router.call("setup_password", &password)["error"].is_string(), "it is set up");
    assert_eq!(router.told(), "");
    router.write("config/waybill", PENDING);
    assert_eq!(router.call("setup_password", &password), json!({ "done": true }));
    // It is on no command line.
    assert_eq!(router.told(), "busybox [passwd] [root]\n");
    assert_eq!(router.read("typed"), "correct ' horse\ncorrect ' horse\n");
    // One that did not take it is not believed.
    router.write("shadow", "root::0:0:99999:7:::\n");
    router.write("says/busybox.sh", "cat >/dev/null");
    assert!(router.call("setup_password", &password)["error"].is_string());
}

#[test]
fn redeeming_is_not_waited_for_and_goes_on_once_at_a_time() {
    let Some(router) = Router::new("") else { return };
    let args = json!({ "account": ACCOUNT });
    let ended = || {
        for _ in 0..200 {
            let answer = router.call("redeemed", &json!({}));
            if answer != json!({ "running": true }) {
                return answer;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("it does not end");
    };
    router.write("says/waybill.sh", "while [ ! -e go ]; do sleep 0.05; done; printf '{\\n \"redeemed\": []\\n}\\n'");
    assert_eq!(router.call("redeem", &args), json!({ "started": true }));
    assert_eq!(router.call("redeem", &json!({})), json!({ "running": true }));
    assert_eq!(router.call("redeemed", &json!({})), json!({ "running": true }));
    router.write("go", "");
    assert_eq!(ended(), json!({ "redeemed": [] }));
    let socket = router.path("run/control.sock").display().to_string();
    assert_eq!(router.told(), format!("waybill [redeem] [{ACCOUNT}] [--json] [--socket] [{socket}]\n"));
    // What went wrong is said, and the next can begin.
    router.write("says/waybill.sh", "echo 'error: the ledger is away' >&2; exit 1");
    assert_eq!(router.call("redeem", &json!({ "account": "" })), json!({ "started": true }));
    assert_eq!(ended(), json!({ "error": "the ledger is away" }));
    assert_eq!(router.told(), format!("waybill [redeem] [--json] [--socket] [{socket}]\n"));
}

#[test]
fn mistakes_are_said_with_their_option() {
    let Some(router) = Router::new("") else { return };
    router.write("says/init.sh", "printf 'waybill.node.mtu: 12: no\\nwaybill is: no\\nwhat\\n'; exit 1");
    let expected = json!({ "mistakes": [
        { "option": "waybill.node.mtu", "problem": "12: no" },
        { "option": "waybill", "problem": "waybill is: no" },
        { "option": "waybill", "problem": "what" },
    ] });
    assert_eq!(router.call("check", &json!({})), expected);
}

#[test]
fn every_word_of_a_command_line_is_quoted_and_no_pattern_tells_good_from_bad() {
    let object = source();
    let lines: Vec<&str> = object.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
    for line in &lines {
        for word in ["match(", "regexp(", "wildcard(", "=~", ", /", "(/", " /^", "system(", "exec("] {
            assert!(!line.contains(word), "{line}");
        }
        if line.starts_with("import") {
            continue;
        }
        // A command is a list of words, and a line is made of one at a single place.
        for (begin, after) in [("popen(", "`"), ("run(", "["), ("ask(", "[")] {
            let defined = format!("function {begin}");
            for part in line.split(begin).skip(1).filter(|_| !line.contains(&defined)) {
                let is_list = part.starts_with(after) || part.starts_with("words") || part.starts_with("question(");
                assert!(is_list, "{line}");
            }
        }
        if line.contains("popen(") || line.starts_with("const told = ") {
            for part in line.split("${").skip(1) {
                assert!(["line(", "shellquote(", "told}"].iter().any(|made| part.starts_with(made)), "{line}");
            }
        }
    }
    assert!(object.contains("return join(' ', map(words, shellquote));"));
}

#[test]
fn a_new_object_is_read_on_a_router_and_in_an_image_nothing_is_told_to_anybody() {
    if !can_run() {
        return;
    }
    for (image, status, expected) in [("", 0, "-HUP rpcd\n"), ("", 1, "-HUP rpcd\n"), ("/image", 0, "")] {
        let place = tempfile::tempdir().expect("a temporary directory");
        let script = root().join("openwrt/waybill/scripts/postinst");
        let command = format!("killall() {{ echo \"$*\" >>told; return {status}; }}\nset -e\n. '{}'", script.display());
        let output = Command::new("busybox")
            .args(["ash", "-c", &command])
            .env("IPKG_INSTROOT", image)
            .current_dir(place.path())
            .output()
            .expect("busybox runs");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read_to_string(place.path().join("told")).unwrap_or_default(), expected);
    }
}
