//! What a package is, before it is written in one of the two formats.

use std::collections::{BTreeMap, BTreeSet};

use crate::scripts::Scripts;

/// One package, for one kind of processor.
#[derive(Clone, Debug)]
pub struct Package {
    /// What people install.
    pub name: String,
    /// Version and release, such as `0.1.0-r1`.
    pub version: String,
    /// OpenWrt's name of the processor, such as `mipsel_24kc`, or [`Package::ANY_ARCH`].
    pub arch: String,
    /// One of OpenWrt's sections, such as `net`.
    pub section: String,
    /// What it is, in a sentence or two.
    pub description: String,
    /// SPDX.
    pub license: String,
    /// Who packs it.
    pub maintainer: String,
    /// Where its source lies, inside the project.
    pub origin: String,
    /// Where one reads about it; empty where there is no such place.
    pub url: String,
    /// Other packages it needs.
    pub depends: BTreeSet<String>,
    /// Other packages that it stands for, in its own version.
    pub provides: BTreeSet<String>,
    /// Packages that cannot be there beside it.
    pub conflicts: BTreeSet<String>,
    /// The one to take where several provide the same.
    pub is_default: bool,
    /// A user that it needs, with a group of the same name; OpenWrt's scripts make both where they are missing.
    pub user: Option<String>,
    /// Files that are the owner's: an upgrade leaves them as they are.
    pub conffiles: BTreeSet<String>,
    /// What is installed, by its path without the first slash.
    pub files: BTreeMap<String, File>,
    /// Directories that are not 0755, with their mode; they are there even if nothing is in them.
    pub directories: BTreeMap<String, u32>,
    /// What runs on the router at installation and removal.
    pub scripts: Scripts,
    /// The time of everything in it, in seconds of Unix.
    pub time: u64,
}

/// One file of a package.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// Its permissions.
    pub mode: u32,
    /// What it holds.
    pub content: Vec<u8>,
}

impl Package {
    /// The `arch` of what runs on every processor.
    pub const ANY_ARCH: &'static str = "all";

    /// All directories, the root (an empty path) among them, with their modes, in the order of their names.
    pub(crate) fn all_directories(&self) -> BTreeMap<String, u32> {
        let mut all = BTreeMap::from([(String::new(), 0o755)]);
        for path in self.files.keys().map(String::as_str).chain(self.directories.keys().map(String::as_str)) {
            for (at, _) in path.match_indices('/') {
                all.insert(path[..at].to_owned(), 0o755);
            }
        }
        all.extend(self.directories.clone());
        all
    }
}
