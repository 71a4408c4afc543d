//! The format of opkg: a gzipped tar of `debian-binary`, the files and what is known about them; and its index, `Packages`.

use sha2::{Digest, Sha256};

use crate::compress::gzip;
use crate::keys::UsignKey;
use crate::package::Package;
use crate::tar::Tar;

/// A package file and what the index says of it.
#[derive(Clone, Debug)]
pub struct Ipk {
    /// What the file is called.
    pub file_name: String,
    /// What it holds.
    pub content: Vec<u8>,
    control: String,
    description: String,
}

/// Writes a package.
#[must_use]
pub fn build(package: &Package) -> Ipk {
    let data = files(package);
    let control = control(package, data.len());
    let description = description(package);
    let mut known = Tar::new(package.time);
    known.directory("./", 0o755);
    if !package.conffiles.is_empty() {
        let lines: String = package.conffiles.iter().map(|path| format!("{path}\n")).collect();
        known.file("./conffiles", 0o644, lines.as_bytes());
    }
    known.file("./control", 0o644, format!("{control}{description}").as_bytes());
    for (name, script) in package.scripts.of_ipk() {
        known.file(&format!("./{name}"), 0o755, script.as_bytes());
    }
    let mut whole = Tar::new(package.time);
    whole.file("./debian-binary", 0o644, b"2.0\n");
    whole.file("./data.tar.gz", 0o644, &gzip(&data));
    whole.file("./control.tar.gz", 0o644, &gzip(&known.finish()));
    Ipk {
        file_name: format!("{}_{}_{}.ipk", package.name, package.version, package.arch),
        content: gzip(&whole.finish()),
        control,
        description,
    }
}

fn files(package: &Package) -> Vec<u8> {
    let mut tar = Tar::new(package.time);
    // With a slash at its end, a directory comes before what is in it.
    let directories = package.all_directories().into_iter();
    let mut entries: Vec<(String, Option<&[u8]>, u32)> = directories
        .map(|(path, mode)| (if path.is_empty() { "./".to_owned() } else { format!("./{path}/") }, None, mode))
        .chain(package.files.iter().map(|(path, file)| (format!("./{path}"), Some(file.content.as_slice()), file.mode)))
        .collect();
    entries.sort_unstable();
    for (path, content, mode) in entries {
        match content {
            Some(content) => tar.file(&path, mode, content),
            None => tar.directory(&path, mode),
        }
    }
    tar.finish()
}

/// What is known about it, save its description, which stands last.
fn control(package: &Package, installed_size: usize) -> String {
    let list = |names: &std::collections::BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    let fields = [
        ("Package", package.name.clone()),
        ("Version", package.version.clone()),
        ("Depends", list(&package.depends)),
        ("Conflicts", list(&package.conflicts)),
        ("Provides", list(&package.provides)),
        ("Source", package.origin.clone()),
        ("SourceName", package.origin.rsplit('/').next().unwrap_or_default().to_owned()),
        ("License", package.license.clone()),
        ("Section", package.section.clone()),
        ("Require-User", package.user.as_ref().map(|user| format!("{user}:{user}")).unwrap_or_default()),
        ("SourceDateEpoch", package.time.to_string()),
        ("URL", package.url.clone()),
        ("Maintainer", package.maintainer.clone()),
        ("Architecture", package.arch.clone()),
        ("Installed-Size", installed_size.to_string()),
    ];
    fields.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}: {value}\n")).collect()
}

fn description(package: &Package) -> String {
    format!("Description: {}\n", package.description.lines().collect::<Vec<_>>().join("\n "))
}

/// The index of packages, and its signature.
#[must_use]
pub fn index(packages: &[Ipk], key: &UsignKey) -> Index {
    let mut packages: Vec<&Ipk> = packages.iter().collect();
    packages.sort_unstable_by_key(|package| &package.file_name);
    let stanzas: Vec<String> = packages.into_iter().map(stanza).collect();
    let text = stanzas.join("\n");
    Index { compressed: gzip(text.as_bytes()), signature: key.signature_file(text.as_bytes()), text }
}

fn stanza(package: &Ipk) -> String {
    format!(
        "{}Filename: {}\nSize: {}\nSHA256sum: {}\n{}",
        package.control,
        package.file_name,
        package.content.len(),
        hex::encode(Sha256::digest(&package.content)),
        package.description
    )
}

/// The three files that opkg reads first.
#[derive(Clone, Debug)]
pub struct Index {
    /// `Packages`.
    pub text: String,
    /// `Packages.gz`.
    pub compressed: Vec<u8>,
    /// `Packages.sig`.
    pub signature: String,
}
