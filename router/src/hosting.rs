//! A router that serves the community's ledger itself, as `waybill ledger serve` does: in a thread of its own, so that a slow disk
//! holds up no link.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use ledger_client::server::{ServeError, Server, Settings, self_signed};
use ledger_client::{Embedded, system_clock};
use tokio::sync::oneshot;

use crate::cli::Failure;
use crate::config::ServeOptions;
use crate::identity;

/// Where the newest checkpoint is kept that others have seen, for a ledger's file.
pub(crate) fn published(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".published");
    name.into()
}

/// A ledger being served, until this is dropped.
pub(crate) struct Hosted {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hosted {
    /// Opens the ledger's file, hashes what is not yet hashed, and serves it.
    ///
    /// # Errors
    /// What kept it from being served, with the next step.
    pub(crate) fn start(path: &Path, options: &ServeOptions) -> Result<Self, Failure> {
        let secret = identity::load(&options.key_file)?.tls_secret();
        let tls = self_signed(&secret).map_err(|error| Failure::new(error, "name another key file in serve_key"))?;
        let mut ledger = Embedded::open(path, system_clock()).map_err(|error| not_served(&error.into()))?;
        ledger.hash_records(|_| ()).map_err(|error| not_served(&error.into()))?;
        drop(ledger);
        let no_thread = |error| Failure::new(format!("cannot start the ledger's server: {error}"), "free some memory");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(no_thread)?;
        let bound = runtime.block_on(async {
            let settings = Settings::default();
            let server = Server::bind(options.listen, Some(tls), path, system_clock, &secret, settings).await;
            server.and_then(|server| server.keep_published(&published(path), false))
        });
        let server = bound.map_err(|error| not_served(&error))?;
        tracing::info!(listen = %options.listen, key = %server.key(), "the ledger is served");
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            runtime.block_on(server.run(async {
                // Told, or dropped.
                let _stop = stopped.await;
            }));
        };
        let thread = std::thread::Builder::new().name("ledger server".to_owned()).spawn(run).map_err(no_thread)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the ledger's server had panicked");
        }
    }
}

fn not_served(error: &ServeError) -> Failure {
    let next = match error {
        ServeError::Ledger(_) | ServeError::Published { .. } => {
            "`waybill ledger serve` on the same file says more, and has options for a ledger that was put back"
        }
        ServeError::Key(_) => "name another key file with serve_key in [ledger]",
        ServeError::Listen { .. } => "set another serve in [ledger], or stop what listens there",
    };
    Failure::new(format!("cannot serve the ledger: {error}"), next)
}
