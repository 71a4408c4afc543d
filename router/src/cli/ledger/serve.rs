//! `waybill ledger serve`: a community's ledger for all who have its address and key.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use ledger_client::server::{Places, Rate, ServeError, Server, Settings};
use ledger_client::{Embedded, EmbeddedError, UnixTime, pin_text, server, system_clock};
use tokio::signal::unix::{SignalKind, signal};

use super::copies::shown;
use super::with_sources;
use crate::cli::Failure;
use crate::config::LogLevel;
use crate::{hosting, identity};

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
    /// How many entries one account may make in a day; the log keeps them for ever. The treasurer makes as many as it likes
    #[arg(long, value_name = "N", default_value_t = Settings::default().per_day)]
    entries_per_day: u32,
    /// Everybody may read /metrics, and not this machine alone
    #[arg(long)]
    open_metrics: bool,
    /// Where the newest checkpoint is kept that others have seen; FILE.published where nothing else is said. The ledger is served
    /// only if it continues this. Keep a copy elsewhere: it tells an old copy of the ledger from the newest
    #[arg(long, value_name = "FILE")]
    published: Option<PathBuf>,
    /// Serve the ledger although it does not continue what was published: who saw more will not trust it any more
    #[arg(long)]
    accept_rewound: bool,
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
    crate::daemon::start_log(LogLevel::Info);
    let rate = |per_second: u32| Rate { per_second, burst: per_second.saturating_mul(10) };
    let settings = Settings {
        places: Places { total: room_for(arguments.connections), per_owner: arguments.connections_per_address },
        per_owner: rate(arguments.rate),
        per_key: rate(arguments.rate_per_key),
        per_day: arguments.entries_per_day,
        open_metrics: arguments.open_metrics,
        accepted: if arguments.accept_time { system_clock()() } else { UnixTime::default() },
        ..Settings::default()
    };
    // What was written without being served was not hashed; who asks first is not to wait for it.
    let mut ledger = Embedded::open(&arguments.path, system_clock()).map_err(|error| not_served(&error.into()))?;
    ledger.hash_records(shown("hashed")).map_err(|error| not_served(&error.into()))?;
    drop(ledger);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}"), "free some memory"))?;
    runtime.block_on(async {
        let no_signals = |error: io::Error| Failure::new(format!("cannot receive signals: {error}"), "");
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        let opened = Server::bind(arguments.listen, tls, &arguments.path, system_clock, &secret, settings).await;
        let published = arguments.published.clone().unwrap_or_else(|| hosting::published(&arguments.path));
        let server = opened.and_then(|server| server.keep_published(&published, arguments.accept_rewound));
        let server = server.map_err(|error| not_served(&error))?;
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

/// Lets this program have as many files open as it takes, or says how many connections there can be.
fn room_for(connections: usize) -> usize {
    // The file's readers, the log, what the runtime has.
    const OTHERS: usize = 64;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "the standard library does not know limits")]
    // SAFETY: the pointer is to a whole `rlimit`, which outlives the call.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    let needed = connections.saturating_add(OTHERS);
    let fits = |files: libc::rlim_t| usize::try_from(files).is_ok_and(|files| files >= needed);
    if !known || fits(limit.rlim_cur) {
        return connections;
    }
    let wanted = libc::rlim_t::try_from(needed).unwrap_or(limit.rlim_max).min(limit.rlim_max);
    let raised = libc::rlimit { rlim_cur: wanted, ..limit };
    #[expect(unsafe_code, reason = "the standard library does not know limits")]
    // SAFETY: the pointer is to a whole `rlimit`, which outlives the call.
    let granted = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0;
    let files = if granted { wanted } else { limit.rlim_cur };
    let room = usize::try_from(files).unwrap_or(connections).saturating_sub(OTHERS).max(1);
    if room < connections {
        tracing::warn!(room, "this machine lets a program open {files} files: fewer connections than asked for");
    }
    room.min(connections)
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
        ServeError::Ledger(EmbeddedError::Rewound { .. } | EmbeddedError::Forked { .. }) => {
            "find the newest copy of the ledger; --accept-rewound serves this one all the same, and whoever saw more will not \
             trust it any more"
        }
        ServeError::Published { .. } => "name another file with --published, or see why this one cannot be used",
        ServeError::Ledger(_) => "name the ledger's file with --path; `waybill ledger create` makes a new one",
        ServeError::Key(_) => "name another key file with --key",
        ServeError::Listen { .. } => "listen somewhere else with --listen, or stop what listens there",
    };
    Failure::new(with_sources(error), next)
}
