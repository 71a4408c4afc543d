//! `waybill ledger serve`: a community's ledger for all who have its address and key.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use ledger_client::server::{Places, Rate, ServeError, Server, Settings};
use ledger_client::{Embedded, UnixTime, pin_text, server, system_clock};
use tokio::signal::unix::{SignalKind, signal};

use super::copies::shown;
use super::with_sources;
use crate::cli::Failure;
use crate::config::LogLevel;
use crate::identity;

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The ledger's file
    #[arg(long, value_name = "FILE")]
    path: PathBuf,
    /// The ledger's key file, as `waybill key --file` makes it: it signs checkpoints and proves to clients who answers
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    listen: SocketAddr,
    /// A certificate that was bought, with its chain, in PEM; without one, clients know the server by the ledger's key
    #[arg(long, value_name = "FILE", requires = "certificate_key")]
    certificate: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    certificate_key: Option<PathBuf>,
    /// Plain HTTP, for a proxy or a program on this machine; only on a loopback address
    #[arg(long, conflicts_with_all = ["certificate", "certificate_key"])]
    plain: bool,
    /// How many may be connected at a time
    #[arg(long, value_name = "N", default_value_t = Settings::default().places.total)]
    connections: usize,
    /// How many of them from one address
    #[arg(long, value_name = "N", default_value_t = Settings::default().places.per_owner)]
    connections_per_address: usize,
    /// How many questions one address may ask in a second, and ten times as many at once
    #[arg(long, value_name = "N", default_value_t = Settings::default().per_owner.per_second)]
    rate: u32,
    /// The machine's clock is right, although the ledger's newest entry is more than 400 days older
    #[arg(long)]
    accept_time: bool,
    /// How many requests one key may have signed in a second, and ten times as many at once
    #[arg(long, value_name = "N", default_value_t = Settings::default().per_key.per_second)]
    rate_per_key: u32,
}

pub(super) fn serve(arguments: &Serve) -> Result<String, Failure> {
    let identity = identity::load(&arguments.key)?;
    if arguments.plain && !arguments.listen.ip().is_loopback() {
        return Err(Failure::new(
            format!("plain HTTP at {} could be read and answered by anybody between", arguments.listen),
            "listen at 127.0.0.1 or [::1] with --listen, or leave --plain away",
        ));
    }
    let secret = identity.tls_secret();
    let tls = match (&arguments.certificate, &arguments.certificate_key) {
        _ if arguments.plain => None,
        (Some(chain), Some(key)) => Some(server::certified(&read(chain)?, &read(key)?).map_err(unusable)?),
        _ => Some(server::self_signed(&secret).map_err(unusable)?),
    };
    let rate = |per_second: u32| Rate { per_second, burst: per_second.saturating_mul(10) };
    let settings = Settings {
        places: Places { total: arguments.connections, per_owner: arguments.connections_per_address },
        per_owner: rate(arguments.rate),
        per_key: rate(arguments.rate_per_key),
        accepted: if arguments.accept_time { system_clock()() } else { UnixTime::default() },
        ..Settings::default()
    };
    // What was written without being served was not hashed; who asks first is not to wait for it.
    let mut ledger = Embedded::open(&arguments.path, system_clock()).map_err(|error| not_served(&error.into()))?;
    ledger.hash_records(shown("hashed")).map_err(|error| not_served(&error.into()))?;
    drop(ledger);
    crate::daemon::start_log(LogLevel::Info);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}"), "free some memory"))?;
    runtime.block_on(async {
        let no_signals = |error: io::Error| Failure::new(format!("cannot receive signals: {error}"), "");
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        let opened = Server::bind(arguments.listen, tls, &arguments.path, system_clock, &secret, settings).await;
        let server = opened.map_err(|error| not_served(&error))?;
        let address = server.address().map_err(|error| Failure::new(error, ""))?;
        let scheme = if arguments.plain { "http" } else { "https" };
        let pin = match arguments.certificate {
            None if !arguments.plain => format!("for curl    -k --pinnedpubkey {}\n", pin_text(&identity.tls_key())),
            _ => String::new(),
        };
        let founding = metering::json::hex_text(&server.founding());
        let said =
            format!("serving     {scheme}://{address}\nits key     {}\nfounding    {founding}\n{pin}", server.key());
        // Whoever started us may not be listening.
        let _unheard = io::stdout().lock().write_all(said.as_bytes()).and_then(|()| io::stdout().lock().flush());
        tracing::info!(%address, key = %server.key(), "the ledger is served");
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server.run(stop).await;
        tracing::info!("the ledger is closed");
        Ok(String::new())
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display()), "name a PEM file"))
}

fn unusable(error: server::TlsError) -> Failure {
    Failure::new(with_sources(&error), "name a certificate and its key, both in PEM, or leave both away")
}

fn not_served(error: &ServeError) -> Failure {
    let next = match error {
        ServeError::Ledger(_) => "name the ledger's file with --path; `waybill ledger create` makes a new one",
        ServeError::Key(_) => "name another key file with --key",
        ServeError::Listen { .. } => "listen somewhere else with --listen, or stop what listens there",
    };
    Failure::new(with_sources(error), next)
}
