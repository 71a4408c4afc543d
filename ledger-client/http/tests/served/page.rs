//! The page for people, in a real browser.

use std::path::Path;
use std::process::Command as Program;

use crate::place::{Place, SIZE, settings};

/// What stands on the page once it has asked all it wants, or `None` where there is no browser.
fn shown(profile: &Path, url: &str) -> Option<String> {
    let said = Program::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=10000"])
        .arg(format!("--user-data-dir={}", profile.display()))
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
