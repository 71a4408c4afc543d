//! `waybill demo`: a small mesh in one process, on loopback, without root.
//!
//! Households behind two relays download a file from a host behind a gateway. Each node is a full [`Router`] with its
//! own keys, worker, UDP sockets and journal; the links are real WireGuard and QUIC, the hosts `smoltcp` stacks. The
//! relay that carries most loses power on the way, comes back, and redeems what it holds; in the end every token is
//! accounted for, or the exit code is 1.

mod host;
mod mesh;
mod statement;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use metering::Tokens;

use crate::cli::{DemoOptions, Failure};
use crate::control::{Request, Response};

use mesh::{Download, Mesh, Name};
use statement::{Live, Statement};

/// When the mesh is given up if it has not formed: ten times what it takes on a loaded machine.
const FORM_TIME: Duration = Duration::from_secs(30);
/// When a download is given up that makes no progress: the reroute takes seconds, TCP's backoff some more.
const STALL_TIME: Duration = Duration::from_secs(60);
/// When the last receipts are given up: the provider's tick is 5 s.
const SETTLE_TIME: Duration = Duration::from_secs(30);
/// What is still owed after this long, with reports all the while, was lost on the way.
const LOST_TIME: Duration = Duration::from_secs(6);
/// How often the table is drawn on a terminal, and how often it is printed elsewhere.
const DRAW_INTERVAL: Duration = Duration::from_millis(500);
const PRINT_INTERVAL: Duration = Duration::from_secs(3);
/// How often it is looked whether something is due.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The downloads wait at this share of the file until a relay has been cut, however small the file is.
const CUT_AT_PERCENT: u64 = 40;
/// The relay's power comes back at this share.
const BACK_AT_PERCENT: u64 = 80;

/// Runs the demo. The exit code is 1 if anything does not add up.
pub fn run(options: DemoOptions) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::new(format!("cannot start: {error}"), "")),
    };
    match runtime.block_on(Director::new(options).play()) {
        Ok(statement) => finish(&statement, options.json),
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    // Nobody reads the error stream: there is nothing left to tell.
    let _unread = writeln!(io::stderr(), "{failure}");
    ExitCode::FAILURE
}

fn finish(statement: &Statement, json: bool) -> ExitCode {
    let text = if json { statement.to_json() } else { statement.to_text() };
    let printed = io::stdout().lock().write_all(text.as_bytes());
    let broken = statement.broken();
    for difference in &broken {
        let _unread = writeln!(io::stderr(), "error: {difference}");
    }
    // A reader that has gone away, such as `head`, is no failure.
    let unread = printed.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe);
    if broken.is_empty() && !unread { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Leads the play: forms the mesh, lets the households download, cuts a relay, and settles.
struct Director {
    options: DemoOptions,
    started: Instant,
    screen: Screen,
}

impl Director {
    fn new(options: DemoOptions) -> Self {
        Self { options, started: clock(), screen: Screen::new(options.json) }
    }

    async fn play(mut self) -> Result<Statement, Failure> {
        let mut mesh = Mesh::start(self.options).await?;
        self.screen.say(&format!(
            "{} nodes: {} households, 2 relays, 1 gateway; the file is {}",
            mesh.names().count(),
            self.options.households,
            self.options.bytes
        ));
        self.form(&mesh).await?;
        let download = mesh.download();
        let cut = self.watch(&mut mesh, &download).await?;
        let hashes = download.finish();
        self.settle(&mesh).await?;
        let statement = Statement::draw_up(&mut mesh, self.options, &hashes, cut, clock() - self.started).await;
        mesh.stop().await;
        statement
    }

    /// Waits until every household has a route to the gateway over a link that may be used.
    async fn form(&mut self, mesh: &Mesh) -> Result<(), Failure> {
        let deadline = clock() + FORM_TIME;
        while !mesh.is_formed().await {
            if clock() > deadline {
                let next = "is UDP on 127.0.0.1 blocked, or the machine overloaded?";
                return Err(Failure::new("the mesh did not form within 30 seconds", next));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        self.screen.say(&format!("formed after {:.1} s", (clock() - self.started).as_secs_f32()));
        Ok(())
    }

    /// Lets the households download. Returns the relay that was cut, and whether traffic went on without it.
    async fn watch(&mut self, mesh: &mut Mesh, download: &Download) -> Result<Cut, Failure> {
        let file = self.options.bytes.get();
        let (mut cut, mut moved_at) = (None, clock());
        let (mut last, mut is_back) = (0, false);
        loop {
            let (least, all) = (download.least(), download.total());
            if all > last {
                (last, moved_at) = (all, clock());
            }
            match &mut cut {
                None if download.is_waiting() => {
                    let relay = mesh.busiest_relay().await;
                    mesh.cut(relay).await;
                    self.screen.say(&format!("{relay} loses power"));
                    cut = Some(Cut { relay, at: clock(), reached: download.each(), outage: None });
                    download.go_on();
                }
                Some(cut)
                    if cut.outage.is_none() && download.is_past(&cut.reached, file) && mesh.avoids(cut.relay).await =>
                {
                    let outage = clock() - cut.at;
                    cut.outage = Some(outage);
                    let seconds = outage.as_secs_f32();
                    self.screen
                        .say(&format!("every household receives again, around {}, after {seconds:.1} s", cut.relay));
                }
                Some(cut) if cut.outage.is_some() && !is_back && least >= file / 100 * BACK_AT_PERCENT => {
                    is_back = true;
                    mesh.restart(cut.relay).await?;
                    self.screen.say(&format!("{} has power again", cut.relay));
                }
                None | Some(_) => {}
            }
            // A small file may be complete before the others have noticed that the relay is gone.
            if download.is_finished() && cut.as_ref().is_none_or(|cut| cut.outage.is_some()) {
                break;
            }
            if clock() - moved_at > STALL_TIME {
                let next = "run it again with --seed 1; if it stalls again, please report the output";
                return Err(Failure::new("a download made no progress for a minute", next));
            }
            self.screen.draw(mesh, download, file).await;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        self.screen.say(&format!("all downloads are complete after {:.1} s", (clock() - self.started).as_secs_f32()));
        let cut = cut.ok_or_else(|| Failure::new("no relay was cut: the file is too small", "try --bytes 1MiB"))?;
        if !is_back {
            mesh.restart(cut.relay).await?;
            self.screen.say(&format!("{} has power again", cut.relay));
        }
        Ok(cut)
    }

    /// Waits until nothing is owed that can still be signed for, then redeems everything.
    async fn settle(&mut self, mesh: &Mesh) -> Result<(), Failure> {
        let deadline = clock() + SETTLE_TIME;
        let (mut owed, mut since) = (None, clock());
        // What was lost between two nodes is owed in the provider's eyes only, and nobody will sign for it.
        while owed != Some(Tokens::ZERO) && (owed.is_none() || clock() - since < LOST_TIME) {
            let unsigned = mesh.unsigned().await;
            if unsigned != owed {
                (owed, since) = (unsigned, clock());
            }
            if clock() > deadline {
                return Err(Failure::new("the last receipts were not signed within 30 seconds", "run it again"));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let names: Vec<Name> = mesh.names().collect();
        for name in names {
            if let Response::Failed(refusal) = mesh.ask(name, Request::Redeem { neighbour: None }).await {
                return Err(Failure::new(refusal.cause, refusal.next.unwrap_or_default()));
            }
        }
        self.screen.say("all receipts are redeemed\n");
        Ok(())
    }
}

/// A relay that lost power.
#[derive(Debug, Clone)]
struct Cut {
    relay: Name,
    at: Instant,
    /// Bytes that had arrived at each household.
    reached: Vec<u64>,
    /// How long it took until packets arrived by other ways.
    outage: Option<Duration>,
}

/// What the person sees while it runs: a table that redraws itself on a terminal, lines elsewhere, nothing with
/// `--json`.
struct Screen {
    silent: bool,
    terminal: bool,
    drawn: Option<Instant>,
    lines: usize,
    live: Live,
}

impl Screen {
    fn new(json: bool) -> Self {
        Self { silent: json, terminal: io::stdout().is_terminal(), drawn: None, lines: 0, live: Live::default() }
    }

    fn say(&mut self, line: &str) {
        self.print(&format!("{line}\n"));
        self.lines = 0;
    }

    async fn draw(&mut self, mesh: &Mesh, download: &Download, file: u64) {
        let interval = if self.terminal { DRAW_INTERVAL } else { PRINT_INTERVAL };
        let due = self.drawn.is_none_or(|at| clock() - at >= interval);
        if self.silent || !due {
            return;
        }
        self.drawn = Some(clock());
        let table = self.live.table(mesh, download, file).await;
        // Up to the first line of the last table, and clear what is below.
        let back = if self.terminal && self.lines > 0 { format!("\x1b[{}A\x1b[J", self.lines) } else { String::new() };
        self.print(&format!("{back}{table}"));
        self.lines = table.lines().count();
    }

    fn print(&self, text: &str) {
        if !self.silent {
            let mut out = io::stdout().lock();
            // A reader that has gone away does not stop the demo: its exit code may still be wanted.
            let _unread = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    }
}

/// A counter that a host's thread keeps.
fn reached(counter: &portable_atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[expect(clippy::disallowed_methods, reason = "the demo's one clock")]
fn clock() -> Instant {
    Instant::now()
}

/// The host threads share the file.
type File = Arc<[u8]>;
