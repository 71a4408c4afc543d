//! The LuCI pages of `openwrt/luci-app-waybill`.
//!
//! LuCI itself is not here: `luci/stub.js` stands in for what the pages use of it, and `luci/answers.json` for a router (what the
//! ubus object answered there, with a real daemon behind it). The pages are loaded, filled in and pressed in one run of a browser.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{Place, can_run, corpus, files, let_in, root, statements};

/// What a neighbour may call itself, if nothing stopped it.
const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\">";

fn app() -> PathBuf {
    root().join("openwrt/luci-app-waybill")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parsed(path: &Path) -> Value {
    serde_json::from_str(&text(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The pages and what they share, by the names LuCI has for them.
fn sources() -> BTreeMap<String, String> {
    let resources = app().join("htdocs/luci-static/resources");
    let name = |path: &Path| path.strip_prefix(&resources).expect("below it").display().to_string();
    files(&resources).iter().map(|path| (name(path), text(path))).collect()
}

/// What stands in `begin'...'` or `begin"..."`, everywhere in a text.
fn quoted_after<'a>(text: &'a str, begin: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for part in text.split(begin).skip(1) {
        let Some(quote) = part.chars().next().filter(|first| matches!(first, '\'' | '"')) else { continue };
        let (words, _) = part[1..].split_once(quote).unwrap_or_else(|| panic!("{part}: a text ends"));
        assert!(!words.contains('\\'), "{words}: no backslash, so that all who read it read the same");
        found.push(words);
    }
    found
}

/// A file of translations: each text, and what it is there.
fn catalogue(path: &Path) -> BTreeMap<String, String> {
    let text = text(path);
    let mut found = BTreeMap::new();
    let unquoted = |line: &str| line.trim_matches('"').replace("\\\"", "\"");
    for message in text.split("\n\n") {
        let of = |key: &str| message.lines().find_map(|line| line.strip_prefix(key)).map(unquoted);
        if let (Some(id), Some(said)) = (of("msgid "), of("msgstr ")) {
            assert!(found.insert(id.clone(), said).is_none(), "{id} is there twice");
        }
    }
    found.remove("");
    found
}

#[test]
fn every_text_of_the_pages_can_be_translated_and_is_in_german() {
    let mut texts: BTreeSet<String> = BTreeSet::new();
    for source in sources().values() {
        texts.extend(quoted_after(source, "_(").into_iter().map(str::to_owned));
    }
    for (file, key) in
        [("menu.d/luci-app-waybill.json", "title"), ("../rpcd/acl.d/luci-app-waybill.json", "description")]
    {
        let nodes = parsed(&app().join("root/usr/share/luci").join(file));
        let nodes = nodes.as_object().expect("an object").values();
        texts.extend(nodes.filter_map(|node| Some(node[key].as_str()?.to_owned())));
    }
    assert!(texts.len() > 200, "{texts:?}");
    let template: BTreeSet<String> = catalogue(&app().join("po/templates/waybill.pot")).into_keys().collect();
    assert_eq!(texts, template, "po/templates/waybill.pot");
    let german = catalogue(&app().join("po/de/waybill.po"));
    assert_eq!(texts, german.keys().cloned().collect(), "po/de/waybill.po");
    for (english, german) in &german {
        assert!(!german.is_empty(), "{english} is not translated");
        let places = |text: &str| text.matches("%s").count() * 100 + text.matches("%d").count();
        assert_eq!(places(english), places(german), "{english}: {german}");
    }
}

/// Which methods of which group stand in a list of rights, of one kind.
fn rights(acl: &Value, kind: &str) -> BTreeSet<String> {
    let groups = acl.as_object().expect("groups").values();
    let lists = groups.filter_map(|group| group[kind]["ubus"]["waybill"].as_array());
    lists.flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

#[test]
fn what_the_pages_ask_they_may_ask_and_what_changes_something_is_the_owners() {
    let of_pages = parsed(&app().join("root/usr/share/rpcd/acl.d/luci-app-waybill.json"));
    let of_daemon = parsed(&root().join("openwrt/waybill/files/usr/share/rpcd/acl.d/waybill.json"));
    let object = text(&root().join("openwrt/waybill/files/usr/share/rpcd/ucode/waybill.uc"));
    let sources = sources();
    let shared = &sources["waybill.js"];
    let asked: BTreeSet<String> = quoted_after(shared, "ask(").into_iter().map(str::to_owned).collect();
    let may = |acl: &Value| -> BTreeSet<String> { rights(acl, "read").union(&rights(acl, "write")).cloned().collect() };
    assert!(asked.is_subset(&may(&of_pages)), "{asked:?}");
    for method in may(&of_pages) {
        assert!(object.contains(&format!("\n\t{method}: {{\n")), "{method} is no method");
    }
    for acl in [&of_pages, &of_daemon] {
        let changes =
            ["join", "leaf_add", "leaf_remove", "redeem", "redeemed", "setup", "setup_done", "setup_password"];
        assert_eq!(rights(acl, "write"), changes.map(str::to_owned).into());
        assert!(rights(acl, "read").is_disjoint(&rights(acl, "write")));
        // The invitation that came with an image is in the settings.
        for group in acl.as_object().expect("groups").values() {
            assert_eq!(group["read"]["uci"], Value::Null, "who may only look does not read the settings");
        }
    }
    // Others than `waybill` are asked by name, each of them where it is allowed.
    for (name, source) in &sources {
        for other in quoted_after(source, "object: ") {
            assert_eq!(other, "waybill", "{name}");
        }
    }
    // Who sets the router up is its owner, and nobody here may become root by setting its password as LuCI does.
    for (name, group) in of_pages.as_object().expect("groups") {
        for kind in ["read", "write"] {
            let Some(ubus) = group[kind]["ubus"].as_object() else { continue };
            assert_eq!(ubus.keys().collect::<Vec<_>>(), ["waybill"], "{name}");
            let methods = ubus["waybill"].as_array().expect("methods");
            let of_owner =
                methods.iter().any(|method| method.as_str().is_some_and(|method| method.starts_with("setup")));
            assert_eq!(of_owner, name == "luci-app-waybill-owner", "{name}");
        }
    }
}

#[test]
fn the_pages_are_installed_while_the_feed_is_there() {
    let readme = text(&root().join("openwrt/README.md"));
    let (before, after) = readme.split_once("sed -i '\\,file:///tmp/feed,d'").expect("the feed is taken out again");
    assert!(before.contains("\nopkg install waybill luci-app-waybill\n"));
    assert!(!after.contains("opkg install") && !after.contains("apk add"), "there is no feed any more");
}

#[test]
fn each_page_of_the_menu_is_there_and_the_first_start_comes_first_while_it_is_pending() {
    let menu = parsed(&app().join("root/usr/share/luci/menu.d/luci-app-waybill.json"));
    let rights = parsed(&app().join("root/usr/share/rpcd/acl.d/luci-app-waybill.json"));
    let mut pages = BTreeSet::new();
    for (path, node) in menu.as_object().expect("nodes") {
        if node["action"]["type"] == "view" {
            pages.insert(format!("view/{}.js", node["action"]["path"].as_str().expect("a path")));
        }
        for group in node["depends"]["acl"].as_array().into_iter().flatten() {
            assert!(rights[group.as_str().expect("a name")].is_object(), "{path}: {group}");
        }
    }
    let there = sources().into_keys().filter(|name| name.starts_with("view/")).collect();
    assert_eq!(pages, there);
    let setup = &menu["admin/waybill-setup"];
    assert_eq!(setup["order"], 1, "LuCI's own first page has 10");
    assert_eq!(setup["depends"]["acl"], json!(["luci-app-waybill-owner"]), "who may only look begins elsewhere");
    assert_eq!(setup["depends"]["uci"], json!({ "waybill": { "@setup": { "pending": "1" } } }));
}

#[test]
fn nothing_that_a_page_shows_is_taken_for_markup_or_run() {
    for (name, source) in sources() {
        for word in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "rawhtml", "eval(", "new Function", "`"]
        {
            assert!(!source.contains(word) || (word == "`" && !source.contains("${")), "{name}: {word}");
        }
        // LuCI's E takes a text that is in no list for markup: only `node` calls it, with a list.
        let calls = source.matches("E(").count() - source.matches("LE(").count();
        assert_eq!(calls, usize::from(name == "waybill.js"), "{name}");
    }
}

/// The sections of a file of settings, as pages see them.
fn settings(uci: &[u8]) -> Vec<Value> {
    let mut sections: Vec<Value> = Vec::new();
    for words in statements(uci).expect("a good file") {
        let words: Vec<String> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        match (words[0].as_str(), sections.last_mut()) {
            ("config", _) => {
                let name = words.get(2).cloned().unwrap_or_else(|| format!("cfg{:06x}", sections.len()));
                sections.push(json!({ ".type": words[1], ".name": name }));
            }
            ("option", Some(section)) => section[&words[1]] = json!(words[2]),
            ("list", Some(section)) => match section[&words[1]].as_array_mut() {
                Some(list) => list.push(json!(words[2])),
                None => section[&words[1]] = json!([words[2]]),
            },
            _ => panic!("{words:?}"),
        }
    }
    sections
}

/// The same answers of a router whose neighbours chose their names with care.
fn hostile(answers: &Value) -> Value {
    match answers {
        Value::String(text) => {
            json!(text.replace("roof", HOSTILE).replace("Hilltop", HOSTILE).replace("anna", HOSTILE))
        }
        Value::Array(list) => list.iter().map(hostile).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), hostile(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => answers.clone(),
    }
}

/// Eighteen neighbours.
fn many(answers: &Value) -> Value {
    let one = &answers["neighbours"]["neighbours"][0];
    let named = |number: usize| {
        let mut one = one.clone();
        one["id"] = json!(format!("0x{number:040}"));
        one
    };
    json!({ "neighbours": (0..18).map(named).collect::<Vec<_>>() })
}

fn tests(answers: &Value) -> Vec<Value> {
    let evil = hostile(answers);
    let mut rich = answers["earnings"].clone();
    rich["wallet"]["balance"] = json!("9007199254740993000001");
    let off = json!({ "running": false, "enabled": false, "setup": true, "error": "no waybill is running" });
    let waits = json!({ "running": true, "links_up": 0, "links": 1, "unit": answers["status"]["unit"], "warnings": ["look here"],
        "membership": { "member": false, "until": null, "waits": "the ledger is away" }, "ledger_reachable": false,
        "internet": { "in_use": null, "gateways": 2, "refused": ["far: closed"] } });
    let mut alone = answers["status"].clone();
    alone["links_up"] = json!(0);
    // The ledger has not ended it yet, and its time is near or over.
    alone["membership"]["until"] = json!(1_700_000_000);
    alone["room_kib"] = json!(12);
    // As a router was whose image had an invitation of last month: refused first, and then taken in by another.
    let refusal = "the ledger refuses it (EnrolmentExpired): the enrolment ended at 1, and it is 2";
    let warned = format!("the ledger does not take the code of the invitation: {refusal}; ask for another one");
    let refused = json!({ "running": true, "links_up": 1, "links": 1, "routes": 2, "unit": answers["status"]["unit"], "warnings": [warned],
        "membership": { "member": false, "until": null, "waits": refusal } });
    let mut fresh = answers["neighbours"].clone();
    fresh["neighbours"][0]["role"] = json!("auto");
    let mut again = answers["status"].clone();
    again["warnings"] =
        json!([warned, "this router waits: for an issuer", "this router's membership ends at noon", "look here"]);
    let mut young = refused.clone();
    young["membership"]["waits"] = json!(null);
    young["warnings"] = json!([]);
    let stopped = json!({ "running": false, "room_kib": 4000, "enabled": true, "setup": false, "error": "no waybill is running" });
    let wrong = json!([{ "option": "waybill.node.mtu", "problem": "12 is out of bounds" }]);
    let open = json!({ "pending": true, "community": "", "invitation": false, "joined": false, "name": "attic", "password": true,
        "ask": "", "fee": "" });
    let away = json!({ "error": "no waybill is running" });
    let turns = json!({ "turns": [away, away, away, away, away, away, away, away, answers["why"]] });
    let running = json!({ "running": true });
    let slow = json!({ "turns": [running, answers["redeemed"]] });
    let mut all = vec![
        json!({ "name": "status", "page": "status" }),
        json!({ "name": "status-german", "page": "status", "german": true }),
        json!({ "name": "status-hostile", "page": "status", "answers": evil }),
        json!({ "name": "status-off", "page": "status", "answers": { "status": off } }),
        json!({ "name": "status-alone", "page": "status", "answers": { "status": alone } }),
        json!({ "name": "status-stopped", "page": "status", "answers": { "status": stopped } }),
        json!({ "name": "status-waits", "page": "status", "answers": { "status": waits, "check": { "mistakes": wrong } } }),
        json!({ "name": "status-refused", "page": "status", "answers": { "status": refused } }),
        json!({ "name": "status-again", "page": "status", "answers": { "status": again } }),
        json!({ "name": "status-young", "page": "status", "answers": { "status": young } }),
        json!({ "name": "neighbours", "page": "neighbours", "steps": [{ "press": "Days" }] }),
        json!({ "name": "neighbours-fresh", "page": "neighbours", "answers": { "neighbours": fresh } }),
        json!({ "name": "neighbours-stopped", "page": "neighbours", "answers": { "neighbours": away } }),
        json!({ "name": "neighbours-hostile", "page": "neighbours", "answers": evil, "steps": [{ "press": "Days" }] }),
        json!({ "name": "neighbours-many", "page": "neighbours", "answers": { "neighbours": many(answers), "why": turns }, "steps": [
            { "round": true }, { "round": true },
        ] }),
        json!({ "name": "earnings", "page": "earnings", "answers": { "redeemed": slow }, "steps": [{ "press": "Redeem" }] }),
        json!({ "name": "earnings-twice", "page": "earnings", "answers": { "redeem": running }, "steps": [{ "press": "Redeem" }] }),
        json!({ "name": "earnings-rich", "page": "earnings", "answers": { "earnings": rich } }),
        json!({ "name": "earnings-hostile", "page": "earnings", "answers": evil, "steps": [{ "press": "Redeem all" }] }),
        json!({ "name": "earnings-viewer", "page": "earnings", "owner": false }),
        json!({ "name": "join", "page": "join", "answers": { "status": off }, "steps": [
            { "field": 0, "words": " https://x.example/#waybill-invite1:abc_-\n" }, { "field": 1, "words": "attic" }, { "press": "Join" },
        ] }),
        json!({ "name": "join-hostile", "page": "join", "answers": evil, "steps": [
            { "field": 0, "words": "waybill-invite1:abc" }, { "press": "Join" },
        ] }),
        json!({ "name": "join-none", "page": "join", "steps": [{ "field": 0, "words": "hello; reboot" }, { "press": "Join" }] }),
        json!({ "name": "setup", "page": "setup", "steps": [
            { "field": 0, "words": "attic" }, { "choose": "price" }, { "field": 1, "words": "0.07" },
            { "field": 2, "words": "correct horse" }, { "field": 3, "words": "correct horse" }, { "press": "Finish" },
        ] }),
        json!({ "name": "setup-expired", "page": "setup", "answers": { "status": refused }, "steps": [
            { "field": 0, "words": "attic" }, { "field": 2, "words": "correct horse" }, { "field": 3, "words": "correct horse" },
            { "press": "Finish" }, { "round": true },
        ] }),
        json!({ "name": "setup-another", "page": "setup", "steps": [
            { "field": 0, "words": "attic" }, { "field": 2, "words": "correct horse" }, { "field": 3, "words": "correct horse" },
            { "press": "Use another" }, { "press": "Finish" },
        ] }),
        json!({ "name": "join-refused", "page": "join", "answers": { "status": refused } }),
        json!({ "name": "setup-mistakes", "page": "setup", "steps": [
            { "field": 0, "words": "my router" }, { "press": "Finish" }, { "field": 0, "words": "attic" }, { "press": "Finish" },
            { "field": 2, "words": "correct horse" }, { "press": "Finish" },
        ] }),
        json!({ "name": "setup-later", "page": "setup", "answers": { "setup": open }, "steps": [{ "choose": "free" }, { "press": "Finish" }] }),
        json!({ "name": "setup-refused", "page": "setup", "answers": { "setup": open, "join": { "error": "this invitation is used up" } },
            "steps": [{ "field": 1, "words": "waybill-invite1:abc" }, { "press": "Finish" }] }),
        json!({ "name": "setup-viewer", "page": "setup", "owner": false, "answers": { "setup": "denied" } }),
        json!({ "name": "setup-hostile", "page": "setup", "answers": evil }),
        json!({ "name": "phones", "page": "phones", "steps": [
            { "field": 0, "words": "bob" }, { "field": 1, "words": "roof.example.org" }, { "press": "Let it in" }, { "press": "Done" },
            { "press": "Remove" },
        ] }),
        json!({ "name": "phones-given", "page": "phones", "steps": [{ "field": 0, "words": "bob" }, { "press": "Let it in" }] }),
        json!({ "name": "phones-hostile", "page": "phones", "answers": evil, "steps": [{ "field": 0, "words": "bob" }, { "press": "Let it in" }] }),
    ];
    for (name, uci, _) in corpus("good", "toml") {
        // Values of that file are such as nobody writes in a page.
        if name != "good/hostile" {
            all.push(json!({ "name": format!("settings {name}"), "page": "settings", "settings": settings(&uci) }));
        }
    }
    let broken = settings(BROKEN.as_bytes());
    let hostile = json!([{ ".type": "peer", ".name": "a", "name": HOSTILE, "card": HOSTILE }]);
    all.push(json!({ "name": "settings-broken", "page": "settings", "settings": broken }));
    all.push(json!({ "name": "settings-hostile", "page": "settings", "settings": hostile, "answers": { "check": { "mistakes": wrong } } }));
    all
}

/// Each of these is refused on the page, and by waybill.sh or the daemon.
const BROKEN: &str = "
config node 'node'
\toption name '-attic'
\toption mtu '1e3'
\toption state_dir '/tmp/../x y'
\toption log 'loud'
\tlist announce 'fd00::1'
config policy 'policy'
\toption max '1,5'
\toption window '64 MB'
config gateway 'gateway'
\tlist dns 'nine'
\toption hours '8-22'
\toption cap_day 'much'
config routing 'routing'
\toption hello_interval '4'
config peer
\toption card 'roof'
\toption endpoint 'roof.example.org'
config leaf 'phone'
\toption wireguard_key 'abc'
";

/// What came of the pages in a browser, each by the name of its test; `None` without a browser.
fn shown() -> Option<&'static BTreeMap<String, String>> {
    static SHOWN: OnceLock<Option<BTreeMap<String, String>>> = OnceLock::new();
    let shown = SHOWN.get_or_init(browse).as_ref();
    if shown.is_none() {
        println!("skipped: no chromium");
    }
    shown
}

/// A QR code that the program has drawn, and what stands in it.
fn phone() -> Option<&'static (String, String)> {
    static PHONE: OnceLock<Option<(String, String)>> = OnceLock::new();
    let draw = || {
        let (output, _) = let_in("anna --endpoint roof.example.org", "");
        let said = String::from_utf8(output.stdout).expect("text");
        let (answer, picture) = said.split_at(said.find("<svg").expect("a picture of the config"));
        let answer: Value = serde_json::from_str(answer).expect("what the program says");
        (picture.to_owned(), answer["config"].as_str().expect("a config").to_owned())
    };
    PHONE.get_or_init(|| can_run().then(draw)).as_ref()
}

fn browse() -> Option<BTreeMap<String, String>> {
    let here = root().join("tests/openwrt/luci");
    let answers = parsed(&here.join("answers.json"));
    let mut tests = tests(&answers);
    if let Some((picture, _)) = phone() {
        tests.push(json!({ "name": "picture", "svg": picture }));
    }
    let names: Vec<&str> = tests.iter().filter_map(|test| test["name"].as_str()).collect();
    let translation = catalogue(&app().join("po/de/waybill.po"));
    let data = json!({ "sources": sources(), "answers": answers, "tests": tests, "translation": translation });
    // In a script nothing may look like its end.
    let data = data.to_string().replace('<', "\\u003c");
    let stub = text(&here.join("stub.js"));
    let page = format!(
        "<!DOCTYPE html><meta charset=utf-8><title>mine</title><main></main>\
         <script type=application/json id=data>{data}</script><script>{stub}</script>"
    );
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("page.html");
    fs::write(&path, page).expect("a page");
    let said = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=10000"])
        .arg(format!("--user-data-dir={}", place.path().join("profile").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", path.display()))
        .output()
        .ok()?;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let dom = String::from_utf8(said.stdout).expect("a document in UTF-8");
    let (dom, _) = dom.split_once("<script").expect("the page has scripts");
    assert!(!dom.contains("class=\"wrong\""), "{dom}");
    assert!(dom.contains("<p id=\"done\">") && dom.contains("<title>mine</title>"), "{dom}");
    assert!(!dom.contains("<img src=\"x\""), "a text has become markup: {dom}");
    // What is left out is left out, and not written.
    assert!(!dom.contains("undefined") && !dom.contains(">null") && !dom.contains("NaN"), "{dom}");
    let of = |name: &str| {
        let (_, rest) = dom.split_once(&format!("<article id=\"{name}\">")).unwrap_or_else(|| panic!("{name}: {dom}"));
        rest.split("</article>").next().unwrap_or_default().replace("&nbsp;", " ")
    };
    Some(names.into_iter().map(|name| (name.to_owned(), of(name))).collect())
}

/// Whether all this is shown on a page, and none of that.
fn assert_shows(name: &str, words: &[&str], others: &[&str]) {
    let Some(shown) = shown() else { return };
    let page = &shown[name];
    for words in words {
        assert!(page.contains(words), "{name}: {words}: {page}");
    }
    for words in others {
        assert!(!page.contains(words), "{name}: {words}: {page}");
    }
}

#[test]
fn the_overview_says_how_the_router_is_and_what_to_do() {
    assert_shows(
        "status",
        &["Hilltop", "attic", "until ", "1 of 1 links up, 2 destinations", "0.093756 WAY", "takes itself for our peer"],
        &["not set up", "Not a member", "ends soon", "No neighbour answers"],
    );
    assert_shows(
        "status-alone",
        &["No neighbour answers", "The membership ends soon", "another invitation", "The flash is nearly full"],
        &["Not a member"],
    );
    let another = "Ask whoever runs the community for another invitation";
    assert_shows("status-refused", &["Not a member", "EnrolmentExpired", another], &["has ended", "does not take"]);
    // What is over is not said, if the daemon still says it as this page knows it.
    assert_shows("status-again", &["look here"], &["does not take", "this router waits", "at noon"]);
    let says = text(&root().join("router/src/router/members.rs"));
    let begins = [
        "the ledger does not take the code of the invitation",
        "this router waits: ",
        "this router's membership ends",
        "the ledger does not answer: ",
    ];
    for begin in begins {
        assert!(says.contains(&format!("\"{begin}")), "{begin}");
    }
    assert_shows("status-young", &["Waiting for the ledger"], &[another, "has ended"]);
    assert_shows("status-stopped", &["no waybill is running", "System Log", "Startup"], &["Member", "is full"]);
    assert_shows("status-german", &["Gemeinschaft", "1 von 1 Verbindungen stehen, 2 Ziele"], &["Community"]);
    assert_shows(
        "status-off",
        &["This router is not set up yet", "href=\"/cgi-bin/luci/admin/waybill-setup\""],
        &["Member", "no waybill is running"],
    );
    assert_shows(
        "status-waits",
        &[
            "the ledger is away",
            "no link of 1 is up",
            "no gateway of 2 serves",
            "far: closed",
            "look here",
            "waybill.node.mtu",
            "12 is out of bounds",
        ],
        &[],
    );
    assert_shows("status-hostile", &["&lt;img src=x"], &[]);
}

#[test]
fn neighbours_are_shown_with_what_passes_what_it_costs_and_what_can_be_lost() {
    assert_shows("neighbours-fresh", &["WireGuard, who pays is not known yet"], &["auto"]);
    assert_shows("neighbours-stopped", &["no waybill is running", "href=\"/cgi-bin/luci/admin/waybill/status\""], &[]);
    assert_shows(
        "neighbours",
        &[
            "roof",
            "WireGuard, it pays us",
            "0.7 ms",
            "0.25 WAY",
            "32.5 MiB",
            "0.093756 WAY",
            "with this neighbour you can lose at most",
            "2026-11-28",
            "[fe80::1%eth1]:51820: 0.7 ms, lost: 0.3 %",
            "[fe80::2%phy0-mesh0]:51820 does not answer",
        ],
        &[],
    );
    // Of many a few are asked about at a time, each in its turn, and an answer that failed is not kept.
    if let Some(shown) = shown() {
        let page = &shown["neighbours-many"];
        assert_eq!(page.matches("\"method\":\"why\"").count(), 24);
        for number in 0..18 {
            let times = page.matches(&format!("{{\"account\":\"0x{number:040}\"}}")).count();
            assert_eq!(times, if number < 6 { 2 } else { 1 }, "{number}");
        }
        assert_eq!(page.matches("0.25 WAY").count(), 16, "{page}");
    }
    // The neighbour is asked about by its account, whatever its name is.
    assert_shows(
        "neighbours-hostile",
        &["{\"account\":\"0xa09cBd48280d5B18176B8D027AbC099bDa2D781F\"}", "&lt;img src=x"],
        &[],
    );
}

#[test]
fn amounts_are_exact_and_redeemed_by_who_may() {
    assert_shows(
        "earnings",
        &[
            "0.015755 WAY",
            "Redeemed: 0.015759 WAY",
            "\"method\":\"redeem\",\"values\":{\"account\":\"0xa09cBd48280d5B18176B8D027AbC099bDa2D781F\"}",
        ],
        &[],
    );
    // A ledger that takes its time is waited for.
    if let Some(shown) = shown() {
        assert_eq!(shown["earnings"].matches("Redeemed: ").count(), 1);
        assert!(!shown["earnings"].contains("under way"));
    }
    assert_shows("earnings-twice", &["Redeeming was still under way", "Redeemed: 0.015759 WAY"], &[]);
    assert_shows("earnings-rich", &["9007199254740993.000001 WAY"], &[]);
    assert_shows("earnings-viewer", &["disabled"], &[]);
    assert_shows("earnings-hostile", &["&lt;img src=x", "{\"account\":\"\"}"], &[]);
}

#[test]
fn an_invitation_is_taken_out_of_a_link_and_what_is_none_is_not_sent() {
    assert_shows("join", &["{\"code\":\"waybill-invite1:abc_-\",\"name\":\"attic\"}", "Waiting for the ledger"], &[]);
    assert_shows("join-none", &["This is no invitation"], &["\"method\":\"join\""]);
    assert_shows("join-hostile", &["&lt;img src=x"], &[]);
}

#[test]
fn the_first_start_asks_what_is_missing_and_does_one_after_the_other() {
    assert_shows(
        "setup",
        &[
            "{\"object\":\"waybill\",\"method\":\"setup_password\",\"values\":{\"password\":\"correct horse\"}}",
            "{\"object\":\"waybill\",\"method\":\"join\",\"values\":{\"code\":\"\",\"name\":\"attic\"}}",
            "{\"object\":\"waybill\",\"method\":\"setup_done\",\"values\":{\"name\":\"attic\",\"policy\":\"price\",\"price\":\"0.07\"}}",
        ],
        &[],
    );
    assert_shows("setup", &["Make a backup now"], &[]);
    // An invitation may be of no use when the image is flashed: that is said, and one can go on without it.
    assert_shows("setup-expired", &["EnrolmentExpired", "for another invitation", "Join a community"], &[]);
    assert_shows("setup-another", &["takes no part in a mesh", "\"method\":\"setup_done\""], &["\"method\":\"join\""]);
    assert_shows("join-refused", &["EnrolmentExpired", "for another invitation"], &[]);
    assert_shows("setup-mistakes", &["A name has 1 to 63", "8 characters", "not the same"], &["\"method\":"]);
    // A router that has a password is not asked for one, and one without an invitation joins later.
    assert_shows(
        "setup-later",
        &["\"policy\":\"free\"", "takes no part in a mesh"],
        &["\"password\"", "\"method\":\"join\"", "The same again"],
    );
    // What is refused is said, and the page stays.
    assert_shows("setup-refused", &["this invitation is used up", "Finish"], &["\"method\":\"setup_done\""]);
    assert_shows("setup-viewer", &["You may look at this router, and not change it."], &["Finish"]);
    assert_shows("setup-hostile", &["Set up this router for &lt;img src=x"], &[]);
}

#[test]
fn a_phone_gets_its_config_once_and_can_be_removed() {
    assert_shows("phones", &["fde6:d975:b311:1eaf::1/128", "Remove this phone?"], &["PrivateKey"]);
    assert_shows(
        "phones-given",
        &[
            "data:image/svg+xml;base64,",
            "PrivateKey = ",
            "{\"name\":\"bob\",\"endpoint\":\"roof.example.org\"".split(",\"e").next().unwrap_or_default(),
        ],
        &[],
    );
    assert_shows("phones-hostile", &["&lt;img src=x"], &[]);
}

#[test]
fn a_qr_code_is_read_out_of_a_picture_without_the_browsers_help() {
    let Some((_, text)) = phone() else { return };
    assert_shows("picture", &["<p>none</p>", &format!("<pre>{text}</pre>")], &[]);
}

/// What a page has of each section, and what was refused on it.
fn said(page: &str) -> Value {
    let (_, said) = page.rsplit_once("<pre>").expect("what was sent is said");
    let said = said.split("</pre>").next().unwrap_or_default();
    let said = said.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{said}: {error}"))
}

#[test]
fn the_settings_have_all_options_and_agree_on_what_is_right() {
    let Some(shown) = shown() else { return };
    for (name, page) in shown.iter().filter(|(name, _)| name.starts_with("settings good/")) {
        assert_eq!(said(page)["refused"], json!([]), "{name}");
    }
    let refused = said(&shown["settings-broken"])["refused"].clone();
    let refused: BTreeSet<&str> =
        refused.as_array().expect("a list").iter().filter_map(|line| line.as_str()?.split(": ").next()).collect();
    let mut expected = BTreeSet::new();
    for section in settings(BROKEN.as_bytes()) {
        let name = section[".name"].as_str().expect("a name").to_owned();
        expected.extend(
            section
                .as_object()
                .expect("options")
                .keys()
                .filter(|key| !key.starts_with('.'))
                .map(|key| format!("{name}.{key}")),
        );
        // A neighbour that has no name.
        if section[".type"] == "peer" {
            expected.insert(format!("{name}.name"));
        }
    }
    assert_eq!(refused, expected.iter().map(String::as_str).collect());

    if !can_run() {
        return;
    }
    let options = said(&shown["settings good/all"])["options"].clone();
    for (kind, found) in options.as_object().expect("sections") {
        let script = format!(". $IPKG_INSTROOT/lib/functions/waybill.sh; waybill_schema {kind} && echo $wb_schema");
        let schema = String::from_utf8(Place::new().shell(&script).stdout).expect("text");
        let widget = |option: &str| match option.split_once(':').unwrap_or_else(|| panic!("{option}")) {
            ("enabled", _) => "enabled:truth".to_owned(),
            (_, "list" | "truth") => option.to_owned(),
            (name, _) => format!("{name}:text"),
        };
        let known: BTreeSet<String> = schema.split_whitespace().map(widget).collect();
        let found = found.as_array().expect("options").iter().filter_map(|option| option.as_str());
        let found: BTreeSet<String> = found.map(|option| option.replace(":choice", ":text")).collect();
        assert_eq!(found, known, "{kind}");
    }
    assert_eq!(options.as_object().map(serde_json::Map::len), Some(13), "{options}");
}
