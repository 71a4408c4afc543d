//! The page for people, in a real browser.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command as Program;

use ledger_core::Command;

use crate::place::{Place, SIZE, id, settings};

/// What stands on the page once it has asked all it wants, or `None` where there is no browser.
fn shown(profile: &Path, url: &str) -> Option<String> {
    let said = Program::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=10000"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg("--host-resolver-rules=MAP ledger.test 127.0.0.1")
        .args(["--dump-dom", url])
        .output()
        .ok()?;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let dom = String::from_utf8(said.stdout).unwrap();
    // Without the page's own words.
    Some(dom.split_once("<script>").unwrap().0.to_owned())
}

#[test]
fn the_page_verifies_what_it_shows_and_runs_nothing_that_a_name_brings_along() {
    let place = Place::plain(settings());
    let head = place.get("/").head;
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'sha256-"), "{head}");
    let profile = tempfile::tempdir().unwrap();
    let url = format!("http://{}/", place.address);
    let Some(first) = shown(profile.path(), &url) else {
        println!("skipped: the_page_verifies_what_it_shows_and_runs_nothing_that_a_name_brings_along: no chromium");
        return;
    };
    assert!(!first.contains("This ledger contradicts itself"), "{first}");
    assert!(first.contains("Hill&lt;img src=x onerror=alert(1)&gt;") && !first.contains("<img"), "{first}");
    assert!(first.contains("first visit from this browser"), "{first}");
    assert!(first.contains("Notice given for"), "{first}");
    for number in [0, 11, SIZE - 1] {
        let entry = shown(profile.path(), &format!("{url}#entry/{number}")).unwrap();
        let verified = format!("Verified here: this entry stands in the log of {SIZE} entries.");
        assert!(entry.contains(&verified) && entry.contains("class=\"good\""), "{entry}");
        assert!(entry.contains("it has only grown since your last visit"), "{entry}");
    }
}

#[test]
fn the_page_shows_accounts_channels_and_older_entries_and_says_what_it_cannot_verify() {
    let place = Place::plain(settings());
    let profile = tempfile::tempdir().unwrap();
    let url = format!("http://{}/", place.address);
    let [alice, bob] = [id(0xa1), id(0xb0)];
    for (view, words) in [
        (
            format!("#account/{bob}"),
            &[
                "member until",
                "a gateway at",
                "attic.mesh",
                "100, which have earned",
                "ends at",
                "10.000465",
                "Verified here: so it stands",
            ][..],
        ),
        (format!("#account/{}", bob.to_string().to_lowercase()), &["member until"]),
        (format!("#account/{}", id(0xee)), &["treasurer, issuer", "None here."]),
        (
            format!("#channel/{alice}/{bob}/1"),
            &["Channel 1", "Locked", "1.25", "ends at", "Verified here: so it stands after"],
        ),
        (format!("#channel/{alice}/{bob}/9"), &["never opened", "Verified here: so it stands after"]),
        ("#name/attic".to_owned(), &["attic.mesh", "Node of", "BwcHBwcH", "Verified here: so it stands after"]),
        ("#name/barn".to_owned(), &["Nobody has this name", "Verified here: so it stands after"]),
        ("#name/<img src=x>".to_owned(), &["There is nothing to show: a name has small letters"]),
        ("#entry/6".to_owned(), &["named its node", "attic.mesh", "Verified here"]),
        ("#entries/23".to_owned(), &["Entries 3 to 22", "Older", "Newer", "took in", "issued a voucher"]),
        ("#entries/3".to_owned(), &["Entries 0 to 2", "was founded"]),
        (format!("#entry/{SIZE}"), &["the log of this size has no such entry"]),
        ("#account/0x<img src=x>".to_owned(), &["There is nothing to show: an account in the path"]),
        ("#channel/".to_owned(), &["There is nothing to show"]),
    ] {
        let Some(shown) = shown(profile.path(), &format!("{url}{view}")) else {
            println!("skipped: the_page_shows_accounts_channels_and_older_entries: no chromium");
            return;
        };
        for words in words {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        assert!(!shown.contains("contradicts itself") && !shown.contains("<img"), "{shown}");
        // What is left out is left out, and not written.
        assert!(!shown.contains("null") && !shown.contains("undefined"), "{shown}");
    }
    let insecure = format!("http://ledger.test:{}/#entry/0", place.address.port());
    let insecure = shown(profile.path(), &insecure).unwrap();
    assert!(
        insecure.contains("Not verified: a browser computes hashes only for pages that come over HTTPS"),
        "{insecure}"
    );
    assert!(insecure.contains("was founded") && !insecure.contains("contradicts itself"), "{insecure}");
}

/// Passes bytes on, and alters those of the answers that are these.
fn liar(upstream: SocketAddr, true_words: &'static str, lie: &'static str) -> SocketAddr {
    assert_eq!(true_words.len(), lie.len());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut server = TcpStream::connect(upstream).unwrap();
            let (mut asks, mut is_asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut asks, &mut is_asked));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = server.read(&mut buffer) {
                    let said = String::from_utf8_lossy(&buffer[..read]).replace(true_words, lie);
                    if client.write_all(said.as_bytes()).is_err() {
                        break;
                    }
                }
                let _gone = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_record_that_is_not_proven_is_shown_in_red() {
    let place = Place::plain(settings());
    let profile = tempfile::tempdir().unwrap();
    // 1.25 tokens are locked in the channel, and a little more is said to be.
    let address = liar(place.address, "0000001312d0", "0000001312d1");
    let url = format!("http://{address}/#channel/{}/{}/1", id(0xa1), id(0xb0));
    let Some(lied) = shown(profile.path(), &url) else {
        println!("skipped: a_record_that_is_not_proven_is_shown_in_red: no chromium");
        return;
    };
    assert!(lied.contains("1.250001") && lied.contains("The proof is wrong"), "{lied}");
    assert!(lied.contains("This ledger contradicts itself"), "{lied}");
}

#[test]
fn a_ledger_that_was_put_back_to_an_older_copy_is_shown_in_red() {
    let mut place = Place::plain(settings());
    let profile = tempfile::tempdir().unwrap();
    let url = format!("http://{}/", place.address);
    let skip = |number| place.order(0xee, number, Command::Skip);
    let orders = [5, 6].map(skip);
    let other = place.order(0xb0, 5, Command::Skip);
    let mut older = Vec::new();
    place.tamper(|file| older = std::fs::read(file).unwrap());
    assert!(orders.iter().all(|order| place.post("/v1/requests", order).status == 200));
    if shown(profile.path(), &url).is_none() {
        println!("skipped: a_ledger_that_was_put_back_to_an_older_copy_is_shown_in_red: no chromium");
        return;
    }
    place.tamper(|file| std::fs::write(file, &older).unwrap());
    let shorter = shown(profile.path(), &url).unwrap();
    let fewer = format!("Its log has {SIZE} entries, and had {} on your last visit.", SIZE + 2);
    assert!(shorter.contains("This ledger contradicts itself") && shorter.contains(&fewer), "{shorter}");
    // It goes on from the older copy until it is as long, and longer.
    assert_eq!(place.post("/v1/requests", &other).status, 200);
    assert_eq!(place.post("/v1/requests", &orders[0]).status, 200);
    for _ in 0..2 {
        let forked = shown(profile.path(), &url).unwrap();
        assert!(forked.contains("Its log is not the one of your last visit"), "{forked}");
        let more = place.post("/v1/requests", &orders[1]);
        assert_eq!(more.status, 200);
    }
}
