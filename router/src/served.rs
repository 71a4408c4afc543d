//! How a ledger that another machine serves is reached.

use std::path::Path;

use ledger_client::{Address, LogKey, Served};

use crate::cli::Failure;
use crate::router::clock;

/// The ledger at `address`, known by its key or, where a file of authorities is named, by its certificate. What was known of the time
/// is in `state_dir`, if a router has one.
///
/// # Errors
/// Where the file of authorities does not read.
pub(crate) fn served(
    address: &Address,
    key: &LogKey,
    founding: Option<&[u8]>,
    authorities: Option<&Path>,
    state_dir: Option<&Path>,
) -> Result<Served, Failure> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| {
            let cause = format!("cannot read {}: {error}", path.display());
            Failure::new(cause, "on Debian and OpenWrt the authorities are in /etc/ssl/certs/ca-certificates.crt")
        })
    };
    let authorities = authorities.map(read).transpose()?;
    let (address, key, founding) = (address.clone(), key.clone(), founding.map(<[u8]>::to_vec));
    state_dir.into_iter().for_each(clock::remember);
    Ok(Served { address, key, founding, authorities, clock: clock::for_certificates, patience: Served::PATIENCE })
}
