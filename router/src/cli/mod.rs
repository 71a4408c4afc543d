//! The `waybill` command line: what a person types, and what the person gets back.
//!
//! Each command makes a text and returns it; only [`run`] prints. A failure is a cause and a next step ([`Failure`]),
//! exit code 1; a command line nobody understands is exit code 2.

mod ask;
mod internet;
#[cfg(feature = "ledger-remote")]
mod join;
mod key;
mod lan;
mod leaf;
#[cfg(feature = "ledger-host")]
mod ledger;
mod names;
mod statement;
pub(crate) mod table;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use metering::Bytes;

use crate::config::{Config, parse_bytes};
use crate::control::Request;
use crate::identity::{self, KeyFileError};

/// Why a command did not do what it was asked: the cause, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    cause: String,
    next: String,
}

impl Failure {
    /// A failure with its cause and the next step; without a next step that line is left out.
    pub fn new(cause: impl fmt::Display, next: impl Into<String>) -> Self {
        Self { cause: cause.to_string(), next: next.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.cause.lines().map(table::harmless);
        write!(f, "error: {}", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| write!(f, "\n{line}"))?;
        if self.next.is_empty() { Ok(()) } else { write!(f, "\n  {}", table::harmless(&self.next)) }
    }
}

/// What `waybill demo` was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Size of the file each household downloads.
    pub bytes: Bytes,
    /// How many households download.
    pub households: u8,
    /// Seeds keys and payload.
    pub seed: u64,
    /// Print one JSON object instead of tables.
    pub json: bool,
}

/// Router software for community broadband meshes.
#[derive(Debug, Parser)]
#[command(
    name = "waybill",
    version,
    about = "Router software for community broadband meshes: carries traffic, counts it, and gets it paid.",
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Begin with `waybill demo`: a small mesh in one process, without root or network."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a small mesh in this process: real links, a real download, receipts, redemption
    #[command(after_help = "Example:\n  waybill demo --bytes 16MiB")]
    Demo(DemoArguments),
    /// Run this router
    #[command(after_help = "Examples:\n  waybill up --config /etc/waybill/waybill.toml --check\n  \
                            waybill up --config /etc/waybill/waybill.toml\n\n\
                            SIGHUP reads the file again; SIGTERM stops the router and leaves nothing behind.")]
    Up(UpArguments),
    /// Join a community by an invitation
    #[cfg(feature = "ledger-remote")]
    #[command(
        after_help = "Examples:\n  waybill join waybill-invite1:... --up\n  waybill join - --name attic < invitation.txt\n\n\
                            It makes a key and a config, and the running router becomes a member as soon as it reaches the \
                            ledger, through the members it is linked with."
    )]
    Join(Box<join::Join>),
    /// Show this router's keys and card, making them on first use; never the secret
    #[command(after_help = "Example:\n  waybill key --file /etc/waybill/key")]
    Key(KeyArguments),
    /// Show how the running router is
    #[command(after_help = "Example:\n  waybill status")]
    Status(Ask),
    /// Make the running router read its config file again, and say what has to wait
    #[command(after_help = "Example:\n  waybill reload")]
    Reload(Ask),
    /// Show the links to neighbours
    #[command(after_help = "Example:\n  waybill neighbours")]
    Neighbours(Ask),
    /// Show where packets go, and what that costs
    #[command(after_help = "Example:\n  waybill routes")]
    Routes(Ask),
    /// Show what was carried for whom, and the most that can be lost with each neighbour
    #[command(after_help = "Example:\n  waybill meters")]
    Meters(Ask),
    /// Show what each day with a neighbour came to, and what was signed for it
    #[command(after_help = "Examples:\n  waybill why roof\n  waybill why roof --days 90 --json")]
    Why(WhyArguments),
    /// Show what a month came to with each household, and share its cost among them
    #[command(after_help = "Examples:\n  waybill statement\n  \
                            waybill statement --month 2026-11 --cost 120 --currency EUR --page november.html\n  \
                            waybill statement --month 2026-11 --cost 120 --currency EUR --fee 5 --csv november.csv\n\n\
                            The cost is shared by all neighbours that are no providers: a part equally, the rest by the bytes \
                            carried for each. The parts add up to the cost to the last digit. The router's own household \
                            is not counted: take its part off the cost.")]
    Statement(statement::StatementArguments),
    /// Show the newest receipt of each channel
    #[command(after_help = "Example:\n  waybill receipts --json")]
    Receipts(Ask),
    /// Turn the receipts held into tokens
    #[command(after_help = "Examples:\n  waybill redeem\n  waybill redeem roof")]
    Redeem(RedeemArguments),
    /// End the channel to a neighbour that is paid, and take back what is left in it
    #[command(after_help = "Example:\n  waybill close roof")]
    Close(CloseArguments),
    /// Phones and laptops with a stock WireGuard client, behind this router
    #[command(subcommand, disable_help_subcommand = true)]
    Leaf(Box<leaf::Command>),
    /// Show how the machines of a LAN here get addresses of the mesh; changes nothing
    #[command(after_help = "Example:\n  waybill lan br-lan\n\n\
                            The system's own router advertisement server tells them; what is printed is for radvd.")]
    Lan(lan::LanArguments),
    /// Show the names inside the mesh that this router answers for, NAME.mesh
    #[command(after_help = "Examples:\n  waybill names\n  waybill names claim roof")]
    Names(Box<names::NamesArguments>),
    /// Show the tokens of this router
    #[command(after_help = "Example:\n  waybill wallet")]
    Wallet(Ask),
    /// Found a community, and say who is in it
    #[cfg(feature = "ledger-serve")]
    #[command(subcommand, disable_help_subcommand = true)]
    Community(Box<ledger::community::Community>),
    /// Make an invitation, which takes one router into the community
    #[cfg(feature = "ledger-serve")]
    #[command(
        after_help = "Examples:\n  waybill invite\n  waybill invite --until 365d --expires 2d --endpoint roof.example.org:51820\n\n\
                            Hand it over so that nobody else reads it: the first who takes it is the member."
    )]
    Invite(Box<ledger::community::Inviting>),
    /// Show whom this router leads to the Internet, and what each has left
    #[command(after_help = "Example:\n  waybill gateway")]
    Gateway(Ask),
    /// Show which gateway leads this router to the Internet, and why
    #[command(after_help = "Example:\n  waybill internet")]
    Internet(Ask),
    /// Make and inspect a community's ledger
    #[cfg(feature = "ledger-host")]
    #[command(subcommand, disable_help_subcommand = true)]
    Ledger(Box<ledger::Command>),
}

#[derive(Debug, Args)]
struct DemoArguments {
    /// Size of the file each household downloads
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = payload)]
    bytes: Bytes,
    /// How many households download
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    households: u8,
    /// Seeds the keys and the file's content
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct UpArguments {
    /// The config file; waybill.example.toml explains every option
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only say whether the config file is right
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
struct KeyArguments {
    /// The key file
    #[arg(long, value_name = "FILE", default_value = "/etc/waybill/key")]
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Ask {
    /// Print JSON; amounts are strings that count base units
    #[arg(long)]
    json: bool,
    /// The running router's control socket
    #[arg(long, value_name = "PATH", default_value = "/run/waybill/control.sock")]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct WhyArguments {
    /// The neighbour: its name or account
    neighbour: String,
    /// How many days, the last of them today
    #[arg(long, value_name = "N", default_value_t = 14, value_parser = clap::value_parser!(u32).range(1..=400))]
    days: u32,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Args)]
struct CloseArguments {
    /// The neighbour: its name or account
    neighbour: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Args)]
struct RedeemArguments {
    /// Only what this neighbour signed: its name or account
    neighbour: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

fn payload(text: &str) -> Result<Bytes, &'static str> {
    let bytes = parse_bytes(text)?;
    if (64 << 10..=1 << 30).contains(&bytes.get()) { Ok(bytes) } else { Err("allowed is 64 KiB to 1 GiB") }
}

/// Runs the command line, program name first, and prints what comes of it.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments.command,
        Err(usage) => {
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    match execute(command) {
        Ok(Outcome::Text(text)) => print(&text),
        Ok(Outcome::Exit(code)) => code,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "{failure}");
            ExitCode::FAILURE
        }
    }
}

/// What a command leaves to be done.
enum Outcome {
    Text(String),
    Exit(ExitCode),
}

fn execute(command: Command) -> Result<Outcome, Failure> {
    let text = match command {
        Command::Demo(DemoArguments { bytes, households, seed, json }) => {
            return demo(DemoOptions { bytes, households, seed, json });
        }
        Command::Up(arguments) if !arguments.check => {
            let config = Config::load(&arguments.config)?;
            config.check_ends()?;
            let identity = identity::load_or_create(&config.node.key_file)?;
            config.check_identity(&identity)?;
            crate::daemon::up(config, identity)?;
            return Ok(Outcome::Exit(ExitCode::SUCCESS));
        }
        Command::Up(arguments) => check(&arguments)?,
        #[cfg(feature = "ledger-remote")]
        Command::Join(arguments) => {
            let joined = join::join(&arguments)?;
            let Some(config) = joined.up else { return Ok(Outcome::Text(joined.said)) };
            print(&joined.said);
            return execute(Command::Up(UpArguments { config, check: false }));
        }
        Command::Key(arguments) => key::key(&arguments)?,
        Command::Status(arguments) => ask::ask(&arguments, &Request::Status)?,
        Command::Reload(arguments) => ask::ask(&arguments, &Request::Reload)?,
        Command::Neighbours(arguments) => ask::ask(&arguments, &Request::Neighbours)?,
        Command::Routes(arguments) => ask::ask(&arguments, &Request::Routes)?,
        Command::Meters(arguments) => ask::ask(&arguments, &Request::Meters)?,
        Command::Why(WhyArguments { neighbour, days, ask }) => ask::ask(&ask, &Request::Why { neighbour, days })?,
        Command::Statement(arguments) => statement::statement(&arguments)?,
        Command::Receipts(arguments) => ask::ask(&arguments, &Request::Receipts)?,
        Command::Redeem(RedeemArguments { neighbour, ask }) => ask::ask(&ask, &Request::Redeem { neighbour })?,
        Command::Close(CloseArguments { neighbour, ask }) => ask::ask(&ask, &Request::Close { neighbour })?,
        Command::Leaf(command) => leaf::execute(&command)?,
        Command::Lan(arguments) => lan::lan(&arguments)?,
        Command::Names(arguments) => names::list(&arguments)?,
        Command::Wallet(arguments) => ask::ask(&arguments, &Request::Wallet)?,
        #[cfg(feature = "ledger-serve")]
        Command::Community(command) => ledger::community::community(&command)?,
        #[cfg(feature = "ledger-serve")]
        Command::Invite(arguments) => ledger::community::invite(&arguments)?,
        Command::Gateway(arguments) => ask::ask(&arguments, &Request::Gateway)?,
        Command::Internet(arguments) => ask::ask(&arguments, &Request::Internet)?,
        #[cfg(feature = "ledger-host")]
        Command::Ledger(command) => ledger::execute(&command)?,
    };
    Ok(Outcome::Text(text))
}

/// `waybill up --check`: makes and changes nothing.
fn check(arguments: &UpArguments) -> Result<String, Failure> {
    let config = Config::load(&arguments.config)?;
    config.check_ends()?;
    let key = match identity::load(&config.node.key_file) {
        Ok(identity) => {
            config.check_identity(&identity)?;
            format!("key {}", config.node.key_file.display())
        }
        Err(KeyFileError::Missing { path }) => {
            format!("no key yet: the first start makes {}", path.display())
        }
        Err(error) => return Err(error.into()),
    };
    let count = |number: usize, one: &str, many: &str| format!("{number} {}", if number == 1 { one } else { many });
    let peers = count(config.peers.len(), "peer", "peers");
    let leaves = count(config.leaves.len(), "leaf", "leaves");
    Ok(format!("{} is right: {peers}, {leaves}; {key}\n", config.path.display()))
}

#[cfg(feature = "ledger-host")]
fn demo(options: DemoOptions) -> Result<Outcome, Failure> {
    Ok(Outcome::Exit(crate::demo::run(options)))
}

#[cfg(not(feature = "ledger-host"))]
fn demo(_options: DemoOptions) -> Result<Outcome, Failure> {
    Err(Failure::new("this build has no demo: it cannot host a ledger", "use a build with the feature `ledger-host`"))
}

/// Prints to standard output. A reader that has gone away, such as `head`, is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "error: cannot write to standard output: {}", identity::plain(&error));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests;
