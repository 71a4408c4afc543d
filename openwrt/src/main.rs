//! Builds Waybill's packages for OpenWrt. `openwrt/build` calls it; by hand: `cargo run -p openwrt-pack -- --help`.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use openwrt_pack::manifest::Target;
use openwrt_pack::{Feed, Keys, Manifest, Package, elf};

/// What a router's flash has room for, in bytes: the program as installed, and a package on its way there.
const PROGRAM_MAX: usize = 8 << 20;
const PACKAGE_TARGET: usize = 1_500_000;
const PACKAGE_MAX: usize = 2_500_000;

/// Builds packages for OpenWrt, without its SDK.
#[derive(Debug, Parser)]
#[command(name = "openwrt-pack", version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the keys that sign a feed, once
    #[command(after_help = "Example:\n  openwrt-pack keys ~/waybill-feed-keys\n\n\
                            Keep a copy elsewhere: routers trust a feed by these, and whoever has them is trusted.")]
    Keys {
        /// A new directory for them, outside the project
        directory: PathBuf,
    },
    /// Pack a feed for one kind of processor: .ipk and .apk, both indexes, signed
    #[command(
        after_help = "Example:\n  openwrt-pack feed --arch x86_64 --program waybill=target/release/waybill \\\n    \
                            --keys ~/waybill-feed-keys --out feed/x86_64\n\n\
                            The same input gives the same bytes; SOURCE_DATE_EPOCH is the time of all files, 1970 without it."
    )]
    Feed(FeedArguments),
    /// Print what the packages are called and what their programs are built with, one a line
    #[command(after_help = "Example:\n  openwrt-pack variants")]
    Variants {
        /// The directory that holds the packages' directories
        #[arg(long, default_value = "openwrt")]
        packages: PathBuf,
    },
}

#[derive(Debug, Args)]
struct FeedArguments {
    /// OpenWrt's name of the processor: `opkg print-architecture`, or the file /etc/apk/arch
    #[arg(long)]
    arch: String,
    /// A package and the program for it; what is not named is not packed, save packages without a program
    #[arg(long = "program", value_name = "PACKAGE=FILE", value_parser = program)]
    programs: Vec<(String, PathBuf)>,
    /// Where the keys are
    #[arg(long)]
    keys: PathBuf,
    /// Where the feed goes
    #[arg(long)]
    out: PathBuf,
    /// The directory that holds the packages' directories
    #[arg(long, default_value = "openwrt")]
    packages: PathBuf,
}

fn program(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("write PACKAGE=FILE")?;
    Ok((name.to_owned(), path.into()))
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Keys { directory } => keys(&directory),
        Command::Feed(arguments) => feed(&arguments),
        Command::Variants { packages } => variants(&packages),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn keys(directory: &Path) -> Result<(), Box<dyn Error>> {
    Keys::generate()?.write(directory)?;
    writeln!(io::stdout(), "keys are in {}; keep a copy elsewhere", directory.display())?;
    Ok(())
}

fn feed(arguments: &FeedArguments) -> Result<(), Box<dyn Error>> {
    let keys = Keys::read(&arguments.keys)?;
    let time = time()?;
    let mut packages = Vec::new();
    for (directory, manifest) in manifests(&arguments.packages)? {
        let target = Target { arch: &arguments.arch, version: env!("CARGO_PKG_VERSION"), time };
        for variant in &manifest.variants {
            let given = arguments.programs.iter().find(|(name, _)| *name == variant.name);
            if manifest.program.is_some() && given.is_none() {
                continue;
            }
            let program = given.map(|(_, path)| read(path).map(elf::trimmed)).transpose()?;
            packages.push(manifest.package(&directory, variant, program, &target)?);
        }
    }
    if let Some((name, _)) = arguments.programs.iter().find(|(name, _)| packages.iter().all(|each| each.name != *name))
    {
        return Err(format!("no package is called {name}: see `openwrt-pack variants`").into());
    }
    let feed = Feed::new(&packages, &keys);
    feed.write(&arguments.out)?;
    print_sizes(&feed, &packages)?;
    writeln!(io::stdout(), "feed: {}", arguments.out.display())?;
    Ok(())
}

/// By what all that builds reproducibly is told the time.
fn time() -> Result<u64, Box<dyn Error>> {
    match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().map_err(|_| format!("SOURCE_DATE_EPOCH is {text}, no number of seconds").into()),
        Err(_) => Ok(0),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()).into())
}

/// Every directory with a manifest, in the order of their names.
fn manifests(directory: &Path) -> Result<Vec<(PathBuf, Manifest)>, Box<dyn Error>> {
    let entries = fs::read_dir(directory).map_err(|error| format!("cannot read {}: {error}", directory.display()))?;
    let mut directories = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    directories.retain(|path| path.join("package.toml").is_file());
    directories.sort();
    if directories.is_empty() {
        return Err(format!("no package below {}: name the directory with --packages", directory.display()).into());
    }
    directories.into_iter().map(|path| Ok((path.clone(), Manifest::read(&path)?))).collect()
}

fn print_sizes(feed: &Feed, packages: &[Package]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for package in packages {
        for (path, file) in package.files.iter().filter(|(_, file)| file.content.len() > PACKAGE_TARGET / 10) {
            let size = file.content.len();
            let verdict = if size <= PROGRAM_MAX { "within the budget" } else { "OVER THE BUDGET" };
            writeln!(
                out,
                "{:<40} {size:>9} bytes installed, {verdict} of {PROGRAM_MAX}",
                format!("{}: /{path}", package.name)
            )?;
        }
    }
    for (name, content) in feed.files.iter().filter(|(name, _)| name.ends_with(".ipk") || name.ends_with(".apk")) {
        let size = content.len();
        let verdict = if size <= PACKAGE_TARGET {
            "within the target"
        } else if size <= PACKAGE_MAX {
            "over the target"
        } else {
            "OVER THE CAP"
        };
        writeln!(out, "{name:<40} {size:>9} bytes, {verdict} (target {PACKAGE_TARGET}, cap {PACKAGE_MAX})")?;
    }
    Ok(())
}

fn variants(packages: &Path) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    for (_, manifest) in manifests(packages)? {
        for variant in &manifest.variants {
            writeln!(out, "{} {}", variant.name, variant.features.as_deref().unwrap_or("-"))?;
        }
    }
    Ok(())
}
