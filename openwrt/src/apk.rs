//! The format of apk 3: one ADB that says everything, a block for each file, deflate around all; and its index, `packages.adb`.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::adb::{self, Adb, Schema, Value};
use crate::compress::deflate;
use crate::keys::ApkKey;
use crate::package::{File, Package};

/// A package file and what the index says of it.
#[derive(Clone, Debug)]
pub struct Apk {
    /// What the file is called.
    pub file_name: String,
    /// What it holds.
    pub content: Vec<u8>,
    package: Package,
    installed_size: u64,
    /// Of the database, which has those of all files.
    hash: [u8; 32],
}

/// Writes a package.
#[must_use]
pub fn build(package: &Package, key: &ApkKey) -> Apk {
    let files = with_lists(package);
    let mut adb = Adb::new();
    let mut info = info(&mut adb, package);
    let mut data = Vec::new();
    let mut directories = Vec::new();
    for (number, (directory, mode)) in (1_u32..).zip(directories_of(package, &files)) {
        let inside = inside(&files, &directory);
        directories.push(directory_entry(&mut adb, &directory, mode, &inside, package.time));
        for (place, (_, file)) in (1_u32..).zip(&inside) {
            if !file.content.is_empty() {
                data.push([&number.to_le_bytes(), &place.to_le_bytes(), file.content.as_slice()].concat());
            }
        }
    }
    let installed_size = files.values().map(|file| file.content.len() as u64).sum::<u64>().max(1);
    info[field::INSTALLED_SIZE] = adb.integer(installed_size);
    let (value, id) = adb.unique_id();
    info[field::HASHES] = value;
    let info = adb.object(&info[1..]);
    let directories = adb.object(&directories);
    let scripts = package.scripts.of_apk(&package.name).map(|script| adb.text(&script.unwrap_or_default()));
    let scripts = adb.object(&scripts);
    let root = adb.object(&[info, directories, scripts]);
    let database = adb.finish(root, Some(id));
    Apk {
        file_name: format!("{}-{}.apk", package.name, package.version),
        content: compressed(&adb::file(Schema::Package, &database, key, &data)),
        package: package.clone(),
        installed_size,
        hash: Sha256::digest(&database).into(),
    }
}

/// The index of packages: what they say of themselves, the hashes of their databases and their sizes.
#[must_use]
pub fn index(packages: &[Apk], key: &ApkKey) -> Vec<u8> {
    let mut packages: Vec<&Apk> = packages.iter().collect();
    packages.sort_unstable_by_key(|apk| &apk.package.name);
    let mut adb = Adb::new();
    let mut entries = Vec::new();
    for apk in packages {
        let mut info = info(&mut adb, &apk.package);
        info[field::INSTALLED_SIZE] = adb.integer(apk.installed_size);
        info[field::FILE_SIZE] = adb.integer(apk.content.len() as u64);
        info[field::HASHES] = adb.blob(&apk.hash);
        entries.push(adb.object(&info[1..]));
    }
    let entries = adb.object(&entries);
    let root = adb.object(&[Value::NULL, entries]);
    let database = adb.finish(root, None);
    compressed(&adb::file(Schema::Index, &database, key, &[]))
}

/// Numbers of a package's fields.
mod field {
    pub(super) const NAME: usize = 1;
    pub(super) const VERSION: usize = 2;
    pub(super) const HASHES: usize = 3;
    pub(super) const DESCRIPTION: usize = 4;
    pub(super) const ARCH: usize = 5;
    pub(super) const LICENSE: usize = 6;
    pub(super) const ORIGIN: usize = 7;
    pub(super) const MAINTAINER: usize = 8;
    pub(super) const URL: usize = 9;
    pub(super) const INSTALLED_SIZE: usize = 12;
    pub(super) const FILE_SIZE: usize = 13;
    pub(super) const PRIORITY: usize = 14;
    pub(super) const DEPENDS: usize = 15;
    pub(super) const PROVIDES: usize = 16;
    pub(super) const COUNT: usize = 17;
}

/// What a package says of itself.
fn info(adb: &mut Adb, package: &Package) -> [Value; field::COUNT] {
    /// What OpenWrt gives the variant that is taken where nobody chose.
    const PRIORITY_OF_DEFAULT: u64 = 100;
    let mut info = [Value::NULL; field::COUNT];
    info[field::NAME] = adb.text(&package.name);
    info[field::VERSION] = adb.text(&package.version);
    info[field::DESCRIPTION] = adb.text(&package.description.lines().collect::<Vec<_>>().join(" "));
    info[field::ARCH] = adb.text(if package.arch == Package::ANY_ARCH { "noarch" } else { &package.arch });
    info[field::LICENSE] = adb.text(&package.license);
    info[field::ORIGIN] = adb.text(&package.origin);
    info[field::MAINTAINER] = adb.text(&package.maintainer);
    info[field::URL] = adb.text(&package.url);
    if package.is_default {
        info[field::PRIORITY] = adb.integer(PRIORITY_OF_DEFAULT);
    }
    info[field::DEPENDS] = names(adb, &package.depends, None);
    info[field::PROVIDES] = names(adb, &package.provides, Some(&package.version));
    info
}

fn names(adb: &mut Adb, names: &BTreeSet<String>, version: Option<&str>) -> Value {
    let each: Vec<Value> = names
        .iter()
        .map(|name| {
            let fields = [adb.text(name), adb.text(version.unwrap_or_default())];
            adb.object(&fields)
        })
        .collect();
    adb.object(&each)
}

/// The package's files and the lists that OpenWrt's scripts look for: of the files, of those that are the owner's, and of users.
fn with_lists(package: &Package) -> BTreeMap<String, File> {
    let mut files = package.files.clone();
    let mut add = |ending: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let path = format!("lib/apk/packages/{}.{ending}", package.name);
            files.insert(path, File { mode: 0o644, content: (lines.join("\n") + "\n").into_bytes() });
        }
    };
    add("list", package.files.keys().map(|path| format!("/{path}")).collect());
    add("conffiles", package.conffiles.iter().cloned().collect());
    add("rusers", package.user.iter().map(|user| format!("{user}:{user}")).collect());
    let hash_of = |path: &String| {
        let file = package.files.get(path.trim_start_matches('/'))?;
        Some(format!("{path} {}", hex::encode(Sha256::digest(&file.content))))
    };
    add("conffiles_static", package.conffiles.iter().filter_map(hash_of).collect());
    files
}

fn directories_of(package: &Package, files: &BTreeMap<String, File>) -> BTreeMap<String, u32> {
    Package { files: files.clone(), ..package.clone() }.all_directories()
}

/// The files in a directory, but not below it, by their names.
fn inside<'a>(files: &'a BTreeMap<String, File>, directory: &str) -> BTreeMap<&'a str, &'a File> {
    files
        .iter()
        .filter_map(|(path, file)| {
            let (of, name) = path.rsplit_once('/').unwrap_or(("", path));
            (of == directory).then_some((name, file))
        })
        .collect()
}

fn directory_entry(adb: &mut Adb, path: &str, mode: u32, inside: &BTreeMap<&str, &File>, time: u64) -> Value {
    let mut files = Vec::new();
    for (name, file) in inside {
        let name = adb.text(name);
        let hash = adb.blob(&Sha256::digest(&file.content));
        let time = adb.integer(time);
        let size = adb.integer(file.content.len() as u64);
        let access = access(adb, file.mode);
        files.push(adb.object(&[name, access, size, time, hash]));
    }
    let name = adb.text(path);
    let access = access(adb, mode);
    let files = adb.object(&files);
    adb.object(&[name, access, files])
}

fn access(adb: &mut Adb, mode: u32) -> Value {
    let fields = [adb.integer(mode.into()), adb.text("root"), adb.text("root")];
    adb.object(&fields)
}

fn compressed(file: &[u8]) -> Vec<u8> {
    [b"ADBd".as_slice(), &deflate(file)].concat()
}
