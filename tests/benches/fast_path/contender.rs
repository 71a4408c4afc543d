//! Who is compared: where each program is found, which version it is, and how to install one that is not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

/// A program that carries packets.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// The whole path, so that it is the same one in every namespace.
    pub(crate) program: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) version: String,
}

/// How a line of it is built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Waybill,
    /// A WireGuard device in user space. The kernel forwards between its peers.
    WireGuard {
        options: &'static [&'static str],
    },
    Yggdrasil,
}

/// A program that is looked for on the PATH.
struct Other {
    program: &'static str,
    kind: Kind,
    /// Prints its version.
    version: &'static [&'static str],
    install: &'static str,
}

const OTHERS: [Other; 4] = [
    Other {
        program: "wireguard-go",
        kind: Kind::WireGuard { options: &["--foreground"] },
        version: &["wireguard-go", "--version"],
        install: "apt-get install --no-install-recommends wireguard-go",
    },
    Other {
        program: "boringtun-cli",
        kind: Kind::WireGuard { options: &["--foreground", "--disable-drop-privileges"] },
        version: &["boringtun-cli", "--version"],
        install: "cargo install --root DIR boringtun-cli; PATH=DIR/bin:$PATH",
    },
    Other {
        program: "gotatun",
        kind: Kind::WireGuard { options: &["--foreground", "--disable-drop-privileges"] },
        version: &["gotatun", "--version"],
        install: "cargo install --root DIR gotatun-cli; PATH=DIR/bin:$PATH",
    },
    Other {
        program: "yggdrasil",
        kind: Kind::Yggdrasil,
        // Debian's does not know its own version.
        version: &["dpkg-query", "-W", "-f", "${Package} ${Version}", "yggdrasil"],
        install: "apt-get install --no-install-recommends yggdrasil",
    },
];

impl Contender {
    /// The release build of Waybill: `$WAYBILL`, else the one beside this bench.
    pub(crate) fn waybill() -> Result<Self, String> {
        let program = match std::env::var_os("WAYBILL") {
            Some(path) => PathBuf::from(path),
            // TARGET/release/deps/fast_path-HASH
            None => {
                let bench = std::env::current_exe().map_err(|error| error.to_string())?;
                bench.ancestors().nth(3).expect("cargo puts benches three levels deep").join("release/waybill")
            }
        };
        Self::waybill_at("waybill", &program)
    }

    /// Another build of Waybill.
    pub(crate) fn waybill_at(name: &'static str, program: &Path) -> Result<Self, String> {
        let version = first_line(Command::new(program).arg("--version"));
        Self::new(name, Kind::Waybill, program, &version).map_err(|error| {
            format!("no Waybill at {}: {error}\n  build it first: cargo build --release", program.display())
        })
    }

    /// All others that are installed, and of those that are not, how to install them.
    pub(crate) fn others() -> (Vec<Self>, Vec<String>) {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for Other { program: name, kind, version, install } in OTHERS {
            let version = first_line(Command::new(version[0]).args(&version[1..]));
            let contender = on_the_path(name).map(|program| Self::new(name, kind, &program, &version));
            match contender {
                Some(Ok(contender)) => found.push(contender),
                Some(Err(_)) | None => missing.push(format!("{name} is not on the PATH: {install}")),
            }
        }
        (found, missing)
    }

    /// A version names a program only together with its hash: builds between versions say the same.
    fn new(name: &'static str, kind: Kind, program: &Path, version: &str) -> io::Result<Self> {
        let program = fs::canonicalize(program)?;
        let hash: String =
            Sha256::digest(fs::read(&program)?).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { name, program, kind, version: format!("{version}, SHA-256 {hash}...") })
    }
}

/// The first line a program prints about itself.
pub(crate) fn first_line(command: &mut Command) -> String {
    let said = command.output().map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.lines().next().unwrap_or("version not known").trim().to_owned()
}

fn on_the_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}
