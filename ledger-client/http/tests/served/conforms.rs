//! Schemathesis, which reads the document and asks what it says and what it does not say: no answer of the server's breaks
//! the document, and none is a failure of the server's own.

use std::path::{Path, PathBuf};
use std::process::Command as Program;

use ledger_http::server::{Places, Settings};

use crate::place::{Place, SIZE, settings};

/// `$SCHEMATHESIS`, else where `tests/run` puts it, else in the path.
fn schemathesis() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let named = std::env::var_os("SCHEMATHESIS").map(PathBuf::from);
    let found = named.unwrap_or_else(|| root.join("target/tools/bin/schemathesis"));
    let runs = |program: &Path| Program::new(program).arg("--version").output().is_ok_and(|said| said.status.success());
    [found, PathBuf::from("schemathesis")].into_iter().find(|program| runs(program))
}

#[test]
fn whatever_is_asked_the_answer_is_one_that_the_document_has() {
    let Some(program) = schemathesis() else {
        println!("skipped: whatever_is_asked_the_answer_is_one_that_the_document_has: no schemathesis");
        return;
    };
    let places = Places { total: 1000, per_owner: 1000 };
    let place = Place::plain(Settings { places, ..settings() });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/served");
    let out = tempfile::tempdir().unwrap();
    let said = Program::new(program)
        .arg("--config-file")
        .arg(folder.join("schemathesis.toml"))
        .args(["run", &format!("http://{}/v1/openapi.json", place.address), "--no-color"])
        .current_dir(out.path())
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "accounts")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    println!("{text}");
    // Nobody there has a key, but receipts and notices need none.
    assert_eq!(place.size(), SIZE);
}
