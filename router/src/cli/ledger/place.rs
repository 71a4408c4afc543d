//! Where a ledger is: a file of this machine, or an address at which another machine serves it.

use std::path::{Path, PathBuf};

use clap::Args;
use ledger_client::{
    Account, Address, Command, Embedded, Entry, Error, Ledger, LogKey, Remote, Request, State, system_clock,
};
use metering::{AccountKey, NodeId};

use super::refused::failure_in;
use super::{failure, unit};
use crate::cli::Failure;
use crate::config::LedgerPlace;
use crate::control::Unit;
use crate::identity;
use crate::served::served;

/// A ledger's file, or its address and key.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct Place {
    /// The ledger's file
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
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

/// A ledger that something is to be written to.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct Writing {
    #[command(flatten)]
    pub(super) place: Place,
    /// The machine's clock is right, although the ledger's newest entry is more than 400 days older
    #[arg(long, conflicts_with = "url")]
    pub(super) accept_time: bool,
}

/// A ledger, and in whose name something is written to it.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct Acting {
    #[command(flatten)]
    pub(super) writing: Writing,
    /// The account that the key signs for, where `waybill ledger rotate` has named it; without, the key's own
    #[arg(long, value_name = "ACCOUNT")]
    pub(super) account: Option<NodeId>,
}

impl Writing {
    /// Opens it to write what needs no key.
    pub(super) fn open(&self) -> Result<Opened, Failure> {
        Ok(self.accepted(self.place.open()?))
    }

    fn accepted(&self, mut opened: Opened) -> Opened {
        if let (true, Opened::File(file)) = (self.accept_time, &mut opened) {
            file.accept_time(system_clock()());
        }
        opened
    }
}

impl Acting {
    /// Opens it to act with the key in this file, and says in whose name.
    pub(super) fn open(&self, key: &Path) -> Result<(NodeId, Opened), Failure> {
        let key = identity::load(key)?;
        let account = self.account.unwrap_or(key.node_id());
        Ok((account, self.writing.accepted(self.writing.place.open_for(account, key.account())?)))
    }
}

#[cfg(test)]
impl Writing {
    pub(super) fn file(path: &Path) -> Self {
        Self { place: Place::file(path), accept_time: false }
    }
}

#[cfg(test)]
impl Acting {
    pub(super) fn file(path: &Path) -> Self {
        Self { writing: Writing::file(path), account: None }
    }
}

/// An opened ledger, wherever it is.
pub(crate) enum Opened {
    File(Box<Embedded>),
    Served(Box<Remote>),
}

impl Place {
    #[cfg(test)]
    pub(super) fn file(path: &Path) -> Self {
        Self { path: Some(path.to_owned()), url: None, ledger_key: None, authorities: None, state: None }
    }

    #[cfg(test)]
    pub(super) const fn nowhere() -> Self {
        Self { path: None, url: None, ledger_key: None, authorities: None, state: None }
    }

    /// The ledger of a router's config.
    pub(super) fn of(place: &LedgerPlace) -> Self {
        let nowhere = Self { path: None, url: None, ledger_key: None, authorities: None, state: None };
        match place {
            LedgerPlace::File(path) => Self { path: Some(path.clone()), ..nowhere },
            LedgerPlace::Served(place) => Self {
                url: Some(place.address.clone()),
                ledger_key: Some(place.key.clone()),
                authorities: place.authorities.clone(),
                ..nowhere
            },
        }
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

    /// Whether one is named at all.
    pub(super) const fn is_named(&self) -> bool {
        self.path.is_some() || self.url.is_some()
    }

    /// Opens it to act in the name of an account that this key signs for.
    pub(super) fn open_for(&self, account: NodeId, key: &AccountKey) -> Result<Opened, Failure> {
        self.opened(Some((account, key)))
    }

    fn opened(&self, key: Option<(NodeId, &AccountKey)>) -> Result<Opened, Failure> {
        if let Some(path) = &self.path {
            let file = Embedded::open(path, system_clock()).map_err(|error| failure(error.into()))?;
            return Ok(Opened::File(Box::new(match key {
                Some((account, key)) => file.acting_for(account, key.clone()),
                None => file,
            })));
        }
        let (Some(address), Some(ledger_key)) = (&self.url, &self.ledger_key) else {
            return Err(Failure::new("no ledger is named", "name its file with --path, or its --url and --ledger-key"));
        };
        let of_router = self.state.as_deref().and_then(Path::parent);
        let served = served(address, ledger_key, None, self.authorities.as_deref(), of_router)?;
        let state = match &self.state {
            Some(state) => state.clone(),
            None => default_state()?.join(ledger_key.name().replace('/', "-")),
        };
        let remote = Remote::open(served, &state).map_err(|error| failure(error.into()))?;
        Ok(Opened::Served(Box::new(match key {
            Some((account, key)) => remote.acting_for(account, key.clone()),
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

    /// What amounts are counted in.
    pub(super) fn unit(&mut self) -> Unit {
        unit(self.ledger().genesis())
    }

    /// All that stands under an account.
    pub(super) fn account(&mut self, account: NodeId) -> Result<Account, Failure> {
        match self {
            Self::File(file) => file.account(account).map_err(failure),
            Self::Served(served) => served.account(account).map_err(|error| failure(error.into())),
        }
    }

    /// Shows every entry of the log, from the founding on.
    pub(super) fn read_log(&mut self, mut each: impl FnMut(&Entry)) -> Result<(), Failure> {
        let mut next = 0;
        loop {
            let page = self.ledger().entries(next).map_err(failure)?;
            if page.is_empty() {
                return Ok(());
            }
            page.iter().for_each(&mut each);
            next += page.len() as u64;
        }
    }

    /// Replays the log by the rules, showing every entry: what comes out is what is, whatever a server says.
    pub(super) fn replay(&mut self, mut each: impl FnMut(&Entry)) -> Result<State, Failure> {
        let mut state = State::found(self.ledger().genesis().clone());
        let mut broken = None;
        self.read_log(|entry| {
            each(entry);
            if !matches!(entry.event, ledger_client::Event::Founded(_)) && broken.is_none() {
                broken = state.replay(&entry.encode()).err();
            }
        })?;
        match broken {
            None => Ok(state),
            Some(error) => Err(Failure::new(
                format!("the ledger's log does not keep its rules: {error}"),
                "see where with `waybill ledger audit`, and do not believe it until then",
            )),
        }
    }

    /// Has the account that it was opened for command something.
    pub(super) fn act(&mut self, command: Command) -> Result<Entry, Failure> {
        self.order(command).map_err(|error| failure_in(&self.unit(), error))
    }

    /// Asks for what carries its own proof.
    pub(super) fn request(&mut self, request: &Request) -> Result<Entry, Error> {
        match self {
            Self::File(file) => file.request(request),
            Self::Served(served) => served.request(request),
        }
    }

    /// Has the account that it was opened for command something, where a refusal or a gone link is for the caller to explain.
    pub(super) fn order(&mut self, command: Command) -> Result<Entry, Error> {
        match self {
            Self::File(file) => file.order(command),
            Self::Served(served) => served.order(command),
        }
    }
}
