//! `waybill ledger backup`, `restore`, `export` and `audit --export`: copies of a ledger, and what they are worth.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ledger_client::{
    Audit, CreateError, Embedded, EmbeddedError, Entry, Error, Event, ExportError, FileVerdict, Head, LogKey, Note,
    Progress, RestoreError, Totals, audit_export, checkpoint, system_clock,
};
use serde_json::json;

use super::{entries, failure, with_sources};
use crate::cli::Failure;
use crate::control::Unit;
use crate::identity::plain;

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The ledger's file; it may be in use
    #[arg(long, value_name = "FILE")]
    path: PathBuf,
    /// The copy, to be made
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The copy; it is only read
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The ledger's file, to be made
    #[arg(long, value_name = "FILE")]
    path: PathBuf,
    /// A checkpoint that the ledger has published: the copy must have all that was in the log then
    #[arg(long, value_name = "FILE", requires = "ledger_key")]
    published: Option<PathBuf>,
    /// The served ledger's key, which signed the checkpoint
    #[arg(long, value_name = "KEY", requires = "published")]
    ledger_key: Option<LogKey>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The ledger's file; it may be in use
    #[arg(long, value_name = "FILE")]
    path: PathBuf,
    /// Where the log goes: a new file, or - for standard output
    #[arg(long, value_name = "FILE|-", default_value = "-")]
    out: PathBuf,
    /// Print one JSON object that says how much was written to the file
    #[arg(long, requires = "out")]
    json: bool,
}

pub(super) fn backup(Backup { path, to, json }: &Backup) -> Result<String, Failure> {
    let mut ledger = Embedded::open(path, system_clock()).map_err(|error| failure(error.into()))?;
    let head = ledger.backup(to, shown("copied")).map_err(|error| match error {
        CreateError::Exists { .. } => Failure::new(error, "name a new file with --to: a copy is never written over"),
        CreateError::Failed(error) => not_copied(error),
    })?;
    if *json {
        let object = json!({ "path": to.display().to_string(), "entries": head.size, "root": head.root.to_string() });
        return Ok(format!("{object:#}\n"));
    }
    Ok(format!(
        "copied {} to {}: whoever has it can look at everything, and order nothing\n",
        entries(head.size),
        to.display()
    ))
}

fn not_copied(error: EmbeddedError) -> Failure {
    if let EmbeddedError::DiskFull { .. } = error {
        return Failure::new(error, "make room there, or name a file on another disk");
    }
    failure(Error::from(error))
}

const PATIENCE: Duration = Duration::from_secs(2);

/// Says how far it is, to a person who has waited for two seconds.
pub(super) fn shown(what: &'static str) -> impl FnMut(Progress) {
    #[expect(clippy::disallowed_methods, reason = "how long a person has waited")]
    let began = std::time::Instant::now();
    let mut last = None;
    move |Progress { done, of }| {
        let percent = done.saturating_mul(100) / of.max(1);
        if began.elapsed() < PATIENCE || last == Some(percent) || !io::stderr().is_terminal() {
            return;
        }
        last = Some(percent);
        let end = if done >= of { "\n" } else { "" };
        // Whoever started us may not be looking.
        let _unseen = write!(io::stderr(), "\r{what} {percent} %{end}");
    }
}

/// Says how many entries were counted of how many, and how fast, to a person who has waited for two seconds.
pub(super) fn counted() -> impl FnMut(u64, u64) {
    #[expect(clippy::disallowed_methods, reason = "how long a person has waited")]
    let began = std::time::Instant::now();
    move |done, of| {
        let waited = began.elapsed();
        if waited < PATIENCE || !io::stderr().is_terminal() {
            return;
        }
        let end = if done >= of { "\n" } else { "" };
        // Whoever started us may not be looking.
        let _unseen = write!(io::stderr(), "\r{}{end}", so_far(done, of, waited));
    }
}

fn so_far(done: u64, of: u64, waited: Duration) -> String {
    let rate = u128::from(done).saturating_mul(1000) / waited.as_millis().max(1);
    format!("replayed {done} of {of} entries, {rate} a second ")
}

pub(super) fn restore(arguments: &Restore) -> Result<String, Failure> {
    let Restore { from, path, published, ledger_key, json } = arguments;
    let published = match (published, ledger_key) {
        (Some(file), Some(key)) => Some(read_checkpoint(file, key)?),
        _ => None,
    };
    let audit =
        Embedded::restore(from, path, published.as_ref(), shown("copied")).map_err(|error| not_restored(&error))?;
    let Audit { head, .. } = audit;
    if *json {
        let object = json!({
            "path": path.display().to_string(),
            "entries": head.size,
            "root": head.root.to_string(),
            "continues": published.map(|head| head.size),
        });
        return Ok(format!("{object:#}\n"));
    }
    let newest = match published {
        Some(published) => format!("it continues the {} that were published", entries(published.size)),
        None => "whether it is the newest copy, only a checkpoint tells: see --published".to_owned(),
    };
    Ok(format!("restored {} to {}, and every rule was kept in it; {newest}\n", entries(head.size), path.display()))
}

fn read_checkpoint(path: &Path, key: &LogKey) -> Result<Head, Failure> {
    let bad = |why: String| {
        let next = "name a file with what the ledger answers at /v1/checkpoint, or the `checkpoint` that a router or `waybill ledger` keeps of it";
        Failure::new(format!("{} is no checkpoint of this ledger: {why}", path.display()), next)
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(plain(&error)))?;
    let note: Note = text.parse().map_err(|error| bad(format!("{error}")))?;
    checkpoint::verify(&note, key).map_err(|error| bad(error.to_string()))
}

fn not_restored(error: &RestoreError) -> Failure {
    let next = match error {
        RestoreError::Exists { .. } => "move it away first, or name another file with --path",
        RestoreError::Broken { .. } => "take another copy; keep this one to find out what happened to it",
        RestoreError::Failed(EmbeddedError::Rewound { .. }) => {
            "find a newer copy: going on with this one would undo what people saw"
        }
        RestoreError::Failed(EmbeddedError::Forked { .. }) => {
            "find the right copy: this one tells another story than was published"
        }
        RestoreError::Failed(_) => {
            "name the copy with --from, and a file in a directory that may be written to with --path"
        }
    };
    Failure::new(with_sources(error), next)
}

pub(super) fn export(Export { path, out, json }: &Export) -> Result<String, Failure> {
    let mut ledger = Embedded::open(path, system_clock()).map_err(|error| failure(error.into()))?;
    let not_written = |error: &io::Error| {
        let cause = format!("cannot write {}: {}", out.display(), plain(error));
        Failure::new(cause, "name a new file with --out, in a directory that may be written to and has space left")
    };
    let failed = |error| match error {
        ExportError::Write(error) => not_written(&error),
        ExportError::Failed(error) => failure(Error::from(error)),
    };
    if out == Path::new("-") {
        ledger.export(&mut BufWriter::new(io::stdout().lock())).map_err(failed)?;
        return Ok(String::new());
    }
    let new = File::options().write(true).create_new(true).mode(0o600).open(out);
    let file = new.map_err(|error| not_written(&error))?;
    let head = ledger.export(&mut BufWriter::new(&file)).map_err(failed)?;
    file.sync_all().map_err(|error| not_written(&error))?;
    if *json {
        let object = json!({ "path": out.display().to_string(), "entries": head.size, "root": head.root.to_string() });
        return Ok(format!("{object:#}\n"));
    }
    Ok(format!("wrote {} to {}; root {}\n", entries(head.size), out.display(), head.root))
}

/// What an exported log comes to, in the token that it is about.
pub(super) fn audit(export: &Path) -> Result<(Unit, Head, Totals), Failure> {
    let mut from: Box<dyn BufRead> = if export == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(export).map_err(|error| unread(export, &error))?))
    };
    // The founding is in the first line, and read again with all the others.
    let mut first = Vec::new();
    from.by_ref().take(FIRST_LINE_MAX).read_until(b'\n', &mut first).map_err(|error| unread(export, &error))?;
    let unit = token(&first).unwrap_or_else(|| Unit { symbol: String::new(), decimals: 0 });
    match audit_export(first.as_slice().chain(from)).map_err(|error| unread(export, &error))? {
        FileVerdict::Kept(Audit { head, totals, .. }) => Ok((unit, head, totals)),
        FileVerdict::Broken(difference) => Err(Failure::new(
            format!("the log in {} is broken: {difference}", export.display()),
            "get it anew; if it is the same again, the ledger it came from is not to be believed",
        )),
    }
}

/// No entry's line is longer: 1,024 bytes in hexadecimal, and its end.
const FIRST_LINE_MAX: u64 = 2049;

fn token(line: &[u8]) -> Option<Unit> {
    let entry = Entry::decode(&hex::decode(line.trim_ascii_end()).ok()?).ok()?;
    if let Event::Founded(genesis) = entry.event { Some(super::unit(&genesis)) } else { None }
}

fn unread(export: &Path, error: &io::Error) -> Failure {
    let cause = format!("cannot read {}: {}", export.display(), plain(error));
    Failure::new(cause, "name what `waybill ledger export` wrote, or - for standard input")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ledger::story::Hilltop;

    #[test]
    fn an_audit_says_how_many_entries_and_how_fast() {
        let said = so_far(1200, 5000, Duration::from_secs(3));
        assert_eq!(said, "replayed 1200 of 5000 entries, 400 a second ");
    }

    #[test]
    fn copy_is_made_restored_and_its_log_audited_by_anybody() {
        let hilltop = Hilltop::founded();
        hilltop.mint("attic", "100");
        let file = |name: &str| hilltop.directory.path().join(name);
        let copies = |to: &str| backup(&Backup { path: hilltop.path.clone(), to: file(to), json: false });
        assert!(copies("copy").unwrap().starts_with("copied 2 entries to "));
        assert!(copies("copy").unwrap_err().to_string().contains("never written over"));
        let restores = |path: &str| {
            let (from, path) = (file("copy"), file(path));
            restore(&Restore { from, path, published: None, ledger_key: None, json: false })
        };
        assert!(restores("new").unwrap().contains("every rule was kept"));
        assert!(restores("new").unwrap_err().to_string().contains("move it away first"));
        export(&Export { path: file("new"), out: file("log"), json: false }).unwrap();
        assert_eq!(audit(&file("log")).unwrap().1.size, 2);
        let cut = std::fs::read_to_string(file("log")).unwrap();
        std::fs::write(file("cut"), &cut[..cut.len() - 2]).unwrap();
        assert!(audit(&file("cut")).unwrap_err().to_string().contains("is broken"));
    }
}
