//! `waybill ledger compare`: what two checkpoints show by themselves, to somebody who believes nothing but the ledger's key.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use ledger_client::witness::{Difference, Shown};
use ledger_client::{Evidence, LogKey};
use serde_json::json;

use crate::cli::Failure;
use crate::identity::plain;

/// Two notes and a few words are a tenth of it.
const LENGTH_MAX: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The evidence.json that a router has kept, or a checkpoint
    #[arg(value_name = "FILE")]
    first: PathBuf,
    /// Another checkpoint, where the first file is one
    #[arg(value_name = "NOTE")]
    second: Option<PathBuf>,
    // Everywhere else `--key` is a file with a secret, and this is how the ledger's key is called.
    /// The served ledger's key, as `waybill ledger serve` says it: waybill/0x...+...+...
    #[arg(long, value_name = "KEY", visible_alias = "key")]
    ledger_key: LogKey,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn compare(Compare { first, second, ledger_key, json }: &Compare) -> Result<String, Failure> {
    let evidence = match second {
        Some(second) => {
            let notes = [read(first)?, read(second)?];
            Evidence { difference: Difference::Forked, told_by: String::new(), notes }
        }
        None => serde_json::from_str(&read(first)?).map_err(|error| {
            let cause = format!("{} is no evidence: {error}", first.display());
            Failure::new(cause, "name a router's evidence.json, or two checkpoints, each in a file")
        })?,
    };
    let nothing = |why: String, next: &str| Err(Failure::new(format!("nothing is shown: {why}"), next));
    match evidence.check(ledger_key) {
        Ok(Shown::Fork { size }) if *json => Ok(format!("{:#}\n", json!({ "verdict": "fork", "entries": size }))),
        Ok(Shown::Fork { size }) => {
            Ok(format!("a fork is proven: this key has signed two different checkpoints of {}\n", super::entries(size)))
        }
        Ok(Shown::Same) => nothing("both say the same".to_owned(), ""),
        Ok(Shown::Sizes([one, other])) => nothing(
            format!("this key has signed a log of {} and one of {}", super::entries(one.size), other.size),
            "whether the longer continues the shorter, only the log shows: \
             `waybill ledger restore --published NOTE` tells it of a copy",
        ),
        Err(error) => nothing(error.to_string(), "name the key that the ledger was known by, and whole notes"),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let unread = |why: String| {
        let cause = format!("cannot read {}: {why}", path.display());
        Failure::new(cause, "name a router's evidence.json, or two checkpoints, each in a file")
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| unread(plain(&error)))?;
    let length = file.take(LENGTH_MAX + 1).read_to_string(&mut text).map_err(|error| unread(plain(&error)))?;
    if u64::try_from(length).is_ok_and(|length| length <= LENGTH_MAX) {
        Ok(text)
    } else {
        Err(unread(format!("it is longer than {LENGTH_MAX} bytes")))
    }
}

#[cfg(test)]
mod tests {
    use ledger_client::{Head, Ledger, LogSigner, checkpoint};

    use super::*;
    use crate::cli::ledger::story::Hilltop;

    const LEDGER: &str = "waybill/0x00";

    fn note(secret: u8, head: &Head) -> String {
        let signer = LogSigner::new(LEDGER, &[secret; 32]).unwrap();
        checkpoint::sign(&signer, LEDGER, head).unwrap().to_string()
    }

    /// The logs of two foundings, of two entries each, and one that is longer.
    fn heads() -> [Head; 3] {
        let [ours, theirs] = [Hilltop::founded(), Hilltop::founded()];
        let mint = |hilltop: &Hilltop| {
            hilltop.mint("attic", "1");
            hilltop.opened("treasurer").head().unwrap()
        };
        [mint(&ours), mint(&theirs), mint(&theirs)]
    }

    #[test]
    fn two_logs_of_one_size_are_a_fork_and_nothing_else_is() {
        let [ours, theirs, longer] = heads();
        let signed = [note(1, &ours), note(1, &theirs)];
        let forged = note(2, &theirs);
        let directory = tempfile::tempdir().unwrap();
        let ledger_key = LogSigner::new(LEDGER, &[1; 32]).unwrap().key().clone();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let told = |first: &Path, second: Option<&Path>, json| {
            let (first, second) = (first.to_owned(), second.map(Path::to_owned));
            compare(&Compare { first, second, ledger_key: ledger_key.clone(), json }).map_err(|error| error.to_string())
        };
        let evidence = |notes: [&String; 2]| {
            let (difference, notes) = (Difference::Forked, notes.map(Clone::clone));
            serde_json::to_string(&Evidence { difference, told_by: "roof".to_owned(), notes }).unwrap()
        };
        let [ours, theirs] = [file("ours", &signed[0]), file("theirs", &signed[1])];
        let fork = "a fork is proven: this key has signed two different checkpoints of 2 entries\n";
        assert_eq!(told(&ours, Some(&theirs), false).unwrap(), fork);
        let json: serde_json::Value = serde_json::from_str(&told(&ours, Some(&theirs), true).unwrap()).unwrap();
        assert_eq!(json, json!({ "verdict": "fork", "entries": 2 }));
        let kept = file("evidence.json", &evidence([&signed[0], &signed[1]]));
        assert_eq!(told(&kept, None, false).unwrap(), fork);

        let shows_nothing = |first: &Path, second: Option<&Path>, why: &str| {
            let said = told(first, second, false).unwrap_err();
            assert!(said.starts_with(&format!("error: {why}")), "{said}");
            assert_eq!(told(first, second, true).unwrap_err(), said);
        };
        shows_nothing(&ours, Some(&ours), "nothing is shown: both say the same");
        let longer = file("longer", &note(1, &longer));
        let sizes = "nothing is shown: this key has signed a log of 2 entries and one of 3";
        shows_nothing(&ours, Some(&longer), sizes);
        let unsigned = "nothing is shown: note 2 is no checkpoint signed by this ledger's key";
        shows_nothing(&ours, Some(&file("forged", &forged)), unsigned);
        // That somebody calls it a fork counts for nothing without the signatures.
        shows_nothing(&file("claimed", &evidence([&signed[0], &forged])), None, unsigned);

        shows_nothing(&ours, None, &format!("{} is no evidence: ", ours.display()));
        shows_nothing(&directory.path().join("none"), None, "cannot read ");
        let long = file("long", &" ".repeat(usize::try_from(LENGTH_MAX).unwrap() + 1));
        shows_nothing(&long, None, &format!("cannot read {}: it is longer than 65536 bytes", long.display()));
    }
}
