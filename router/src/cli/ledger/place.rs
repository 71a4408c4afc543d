//! Where a ledger is: a file of this machine, or an address at which another machine serves it.

use std::path::PathBuf;

use clap::Args;
use ledger_client::{Address, Command, Embedded, Entry, Error, Ledger, LogKey, Remote, system_clock};
use metering::AccountKey;

use super::failure;
use crate::cli::Failure;
use crate::served::served;

/// A ledger's file, or its address and key.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct Place {
    /// The ledger's file
    #[arg(long, value_name = "FILE", required_unless_present = "url", conflicts_with = "url")]
    pub(super) path: Option<PathBuf>,
    /// Where another machine serves the ledger, such as https://ledger.example:8443
    #[arg(long, value_name = "URL", requires = "ledger_key")]
    url: Option<Address>,
    /// The served ledger's key, as `waybill ledger serve` says it: waybill/0x...+...+...
    #[arg(long, value_name = "KEY", requires = "url", help_heading = "A served ledger")]
    ledger_key: Option<LogKey>,
    /// Believe the certificate authorities in this PEM file, instead of the ledger's key, that it is the right server
    #[arg(long, value_name = "FILE", requires = "url", help_heading = "A served ledger")]
    authorities: Option<PathBuf>,
    /// Where to remember the served ledger's newest checkpoint and an order without an answer
    #[arg(long, value_name = "DIR", requires = "url", help_heading = "A served ledger")]
    state: Option<PathBuf>,
}

/// An opened ledger, wherever it is.
pub(crate) enum Opened {
    File(Box<Embedded>),
    Served(Box<Remote>),
}

impl Place {
    #[cfg(test)]
    pub(super) fn file(path: &std::path::Path) -> Self {
        Self { path: Some(path.to_owned()), url: None, ledger_key: None, authorities: None, state: None }
    }

    /// How it is called in what a person reads.
    pub(super) fn name(&self) -> String {
        match (&self.path, &self.url) {
            (Some(path), _) => path.display().to_string(),
            (None, Some(url)) => url.to_string(),
            (None, None) => "the ledger".to_owned(),
        }
    }

    /// Opens it to look.
    pub(super) fn open(&self) -> Result<Opened, Failure> {
        self.opened(None)
    }

    /// Opens it to act with an account's key.
    pub(super) fn open_as(&self, key: &AccountKey) -> Result<Opened, Failure> {
        self.opened(Some(key))
    }

    fn opened(&self, key: Option<&AccountKey>) -> Result<Opened, Failure> {
        if let Some(path) = &self.path {
            let file = Embedded::open(path, system_clock()).map_err(|error| failure(error.into()))?;
            return Ok(Opened::File(Box::new(match key {
                Some(key) => file.signed_by(key.clone()),
                None => file,
            })));
        }
        let (Some(address), Some(ledger_key)) = (&self.url, &self.ledger_key) else {
            return Err(Failure::new("no ledger is named", "name its file with --path, or its --url and --ledger-key"));
        };
        let served = served(address, ledger_key, None, self.authorities.as_deref())?;
        let state = match &self.state {
            Some(state) => state.clone(),
            None => default_state()?.join(ledger_key.name().replace('/', "-")),
        };
        let remote = Remote::open(served, &state).map_err(|error| failure(error.into()))?;
        Ok(Opened::Served(Box::new(match key {
            Some(key) => remote.signed_by(key.clone()),
            None => remote,
        })))
    }
}

/// `$XDG_STATE_HOME/waybill`, as the XDG base directory specification has it.
fn default_state() -> Result<PathBuf, Failure> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let none = || Failure::new("there is no home directory to remember the ledger in", "name a directory with --state");
    Ok(state.ok_or_else(none)?.join("waybill"))
}

impl Opened {
    /// The ledger, for what every engine can do.
    pub(super) fn ledger(&mut self) -> &mut dyn Ledger {
        match self {
            Self::File(file) => file.as_mut(),
            Self::Served(served) => served.as_mut(),
        }
    }

    /// Has the account whose key it was opened with command something.
    pub(super) fn order(&mut self, command: Command) -> Result<Entry, Error> {
        match self {
            Self::File(file) => file.order(command),
            Self::Served(served) => served.order(command),
        }
    }
}
