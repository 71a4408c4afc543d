//! A community for the tests of these commands: a ledger's file, and people with keys.

use std::path::PathBuf;

use ledger_client::{Embedded, Genesis, Ledger, UnixTime, fresh_nonce, system_clock};
use metering::NodeId;
use tempfile::TempDir;

use crate::config::Amount;
use crate::identity;

pub(super) struct Hilltop {
    pub(super) directory: TempDir,
    pub(super) path: PathBuf,
}

impl Hilltop {
    pub(super) fn founded() -> Self {
        Self::founded_at(system_clock()())
    }

    pub(super) fn founded_at(time: UnixTime) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let this = Self { path: directory.path().join("hilltop.ledger"), directory };
        let (treasurer, clock) = (this.account("treasurer"), system_clock());
        let genesis = Genesis::new("Hilltop", "WAY", 6, treasurer, time, fresh_nonce().unwrap()).unwrap();
        Embedded::create(&this.path, &genesis, clock).unwrap();
        this
    }

    /// Somebody's key file.
    pub(super) fn key(&self, who: &str) -> PathBuf {
        let path = self.directory.path().join(format!("{who}.key"));
        identity::load_or_create(&path).unwrap();
        path
    }

    pub(super) fn account(&self, who: &str) -> NodeId {
        identity::load(&self.key(who)).unwrap().node_id()
    }

    /// What receipts name as the contract.
    pub(super) fn id(&self) -> NodeId {
        self.opened("treasurer").domain().contract
    }

    pub(super) fn opened(&self, who: &str) -> Embedded {
        let key = identity::load(&self.key(who)).unwrap();
        Embedded::open(&self.path, system_clock()).unwrap().signed_by(key.account().clone())
    }

    pub(super) fn mint(&self, who: &str, amount: &str) {
        let amount = amount.parse::<Amount>().unwrap().in_base_units(6).unwrap();
        self.opened("treasurer").mint(self.account(who), amount).unwrap();
    }
}
