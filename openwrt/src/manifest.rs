//! `package.toml`: what is packed, and how, from a directory of files.
//!
//! The files lie in trees below the manifest, at the paths they have on the router. Who made them decides nothing: a file is
//! 0755 if the manifest calls its path executable, 0600 if it is the owner's (a conffile), else 0644. `scripts/` beside the
//! manifest may hold `preinst`, `postinst`, `prerm` and `postrm`: lines that run after those every package has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::lmo;
use crate::package::{File, Package};
use crate::scripts::Scripts;
use crate::tar::PATH_MAX;

/// A manifest, as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// One of OpenWrt's sections, such as `net`.
    pub section: String,
    /// What it is, in a sentence or two.
    pub description: String,
    /// Who packs it.
    pub maintainer: String,
    /// Counts what changes while the program's version does not.
    pub release: u32,
    /// Other packages it needs.
    #[serde(default)]
    pub depends: BTreeSet<String>,
    /// Where the program goes, if there is one: it is built for each processor, and given to the builder.
    pub program: Option<String>,
    /// Directories of files below the manifest, and where they go on the router.
    #[serde(default)]
    pub trees: BTreeMap<String, String>,
    /// Paths that are executable; one that ends with a slash stands for all below it.
    #[serde(default)]
    pub executable: BTreeSet<String>,
    /// A user that it needs, with a group of the same name.
    pub user: Option<String>,
    /// Files that are the owner's: an upgrade leaves them as they are.
    #[serde(default)]
    pub conffiles: BTreeSet<String>,
    /// Directories that are there even if nothing is in them, with their modes, such as `"0700"`.
    #[serde(default)]
    pub directories: BTreeMap<String, String>,
    /// What LuCI calls the catalogue of `po/LANGUAGE/NAME.po`, if the package has pages in several languages.
    pub translations: Option<String>,
    /// What is packed: the same files under several names, each with a program of its own.
    #[serde(rename = "variant")]
    pub variants: Vec<Variant>,
}

/// One of the packages that are made of a manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// What people install.
    pub name: String,
    /// What its program is built with: features of Cargo, separated by commas.
    pub features: Option<String>,
    /// Packages that it stands for, and that cannot be there beside it.
    #[serde(default)]
    pub instead_of: BTreeSet<String>,
    /// The one to take where nobody chose.
    #[serde(default)]
    pub default: bool,
}

/// Why nothing is packed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is not what it should be.
    #[error("{}: {what}", .path.display())]
    Manifest {
        /// Which manifest.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// A file cannot be packed.
    #[error("{}: {what}", .path.display())]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// Why not.
        what: &'static str,
    },
}

/// For what a package is made.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// OpenWrt's name of the processor, such as `mipsel_24kc`.
    pub arch: &'a str,
    /// The program's version.
    pub version: &'a str,
    /// The time of everything in it, in seconds of Unix.
    pub time: u64,
}

impl Manifest {
    /// Reads `package.toml` of a directory.
    ///
    /// # Errors
    /// [`ManifestError::File`], or [`ManifestError::Manifest`] with the line.
    pub fn read(directory: &Path) -> Result<Self, ManifestError> {
        let path = directory.join("package.toml");
        let text = fs::read_to_string(&path).map_err(|source| ManifestError::File { path: path.clone(), source })?;
        let manifest: Self = toml::from_str(&text)
            .map_err(|error| ManifestError::Manifest { path: path.clone(), what: error.to_string() })?;
        manifest.check().map_err(|what| ManifestError::Manifest { path, what })?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let names = self.variants.iter().flat_map(|variant| std::iter::once(&variant.name).chain(&variant.instead_of));
        for name in names.chain(&self.depends) {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_+.".contains(c);
            if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(fits) {
                return Err(format!("`{name}` is no name of a package: letters, digits and -_+. only"));
            }
        }
        let is_user = |name: &String| {
            name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
        };
        if let Some(user) = self.user.as_ref().filter(|user| !is_user(user)) {
            return Err(format!("`{user}` is no name of a user: small letters, digits, - and _ only"));
        }
        for path in
            self.conffiles.iter().chain(self.program.as_ref()).chain(self.directories.keys()).chain(&self.executable)
        {
            if !path.starts_with('/') || path.contains("//") || path.contains("/../") {
                return Err(format!("`{path}` is no path on the router: it begins with a slash"));
            }
        }
        for (path, mode) in &self.directories {
            if mode_of(mode).is_none() {
                return Err(format!("`{mode}` is no mode of the directory {path}: write one like \"0700\""));
            }
        }
        Ok(())
    }

    /// Reads the files and makes one of the packages. `program` is the program's content, where the manifest has a place for one.
    ///
    /// # Errors
    /// [`ManifestError`]: a file that cannot be read or packed, a conffile that is not there.
    pub fn package(
        &self,
        directory: &Path,
        variant: &Variant,
        program: Option<Vec<u8>>,
        target: &Target<'_>,
    ) -> Result<Package, ManifestError> {
        let mut files = BTreeMap::new();
        for (tree, place) in &self.trees {
            let place = place.trim_matches('/');
            read_tree(&directory.join(tree), place, &mut |path, content| {
                let mode = self.mode(&path);
                files.insert(path, File { mode, content });
            })?;
        }
        if let Some(name) = &self.translations {
            read_tree(&directory.join("po"), "", &mut |path, content| {
                if let Some(language) = path.strip_suffix(&format!("/{name}.po")) {
                    let place = format!("usr/lib/lua/luci/i18n/{name}.{language}.lmo");
                    files.insert(place, File { mode: 0o644, content });
                }
            })?;
            for (path, file) in files.iter_mut().filter(|(path, _)| path.ends_with(".lmo")) {
                file.content = lmo::compile(&String::from_utf8_lossy(&file.content)).map_err(|error| {
                    ManifestError::Manifest { path: directory.join("po").join(path), what: error.to_string() }
                })?;
            }
        }
        if let (Some(path), Some(content)) = (&self.program, program) {
            files.insert(path.trim_start_matches('/').to_owned(), File { mode: 0o755, content });
        }
        if let Some(missing) = self.conffiles.iter().find(|path| !files.contains_key(path.trim_start_matches('/'))) {
            let path = directory.join("package.toml");
            return Err(ManifestError::Manifest { path, what: format!("conffile {missing} is in none of the trees") });
        }
        let modes = self
            .directories
            .iter()
            .filter_map(|(path, mode)| Some((path.trim_matches('/').to_owned(), mode_of(mode)?)));
        Ok(Package {
            name: variant.name.clone(),
            version: format!("{}-r{}", target.version, self.release),
            arch: if self.program.is_some() { target.arch } else { Package::ANY_ARCH }.to_owned(),
            section: self.section.clone(),
            description: self.description.trim().to_owned(),
            license: "Apache-2.0".to_owned(),
            maintainer: self.maintainer.clone(),
            origin: format!("openwrt/{}", directory.file_name().unwrap_or_default().to_string_lossy()),
            url: String::new(),
            depends: self.depends.clone(),
            provides: variant.instead_of.clone(),
            conflicts: variant.instead_of.clone(),
            is_default: variant.default,
            user: self.user.clone(),
            conffiles: self.conffiles.clone(),
            directories: modes.collect(),
            scripts: scripts(&directory.join("scripts"))?,
            files,
            time: target.time,
        })
    }

    fn mode(&self, path: &str) -> u32 {
        let path = format!("/{path}");
        let is_executable = |each: &String| if each.ends_with('/') { path.starts_with(each) } else { path == *each };
        if self.executable.iter().any(is_executable) {
            0o755
        } else if self.conffiles.contains(&path) {
            0o600
        } else {
            0o644
        }
    }
}

fn mode_of(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| text.len() == 4 && *mode <= 0o777)
}

/// Hands over every file below a directory, by its path on the router.
fn read_tree(directory: &Path, place: &str, take: &mut impl FnMut(String, Vec<u8>)) -> Result<(), ManifestError> {
    let failed = |source| ManifestError::File { path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let unfit = |what| ManifestError::Unfit { path: path.clone(), what };
        let name = entry.file_name().into_string().map_err(|_| unfit("its name is not UTF-8"))?;
        if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(unfit("opkg's lists have no room for a blank in a name"));
        }
        if name.ends_with('~') || name.starts_with('.') {
            return Err(unfit("what begins with a dot or ends with ~ is an editor's, not the router's; remove it"));
        }
        let there = if place.is_empty() { name } else { format!("{place}/{name}") };
        if there.len() + "./".len() + "/".len() > PATH_MAX {
            return Err(unfit("its path on the router is too long, a package has 96 bytes for it"));
        }
        let kind = entry.file_type().map_err(|source| ManifestError::File { path: path.clone(), source })?;
        if kind.is_dir() {
            read_tree(&path, &there, take)?;
        } else if kind.is_file() {
            take(there, fs::read(&path).map_err(|source| ManifestError::File { path: path.clone(), source })?);
        } else {
            return Err(unfit("only files and directories are packed, no links or devices"));
        }
    }
    Ok(())
}

fn scripts(directory: &Path) -> Result<Scripts, ManifestError> {
    let read = |name: &str| {
        let path = directory.join(name);
        match fs::read_to_string(&path) {
            // Each begins with a first line of its own, for shellcheck; here they are parts of another.
            Ok(text) => {
                Ok(Some(text.lines().filter(|line| !line.starts_with("#!")).map(|line| format!("{line}\n")).collect()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ManifestError::File { path, source }),
        }
    };
    Ok(Scripts {
        preinst: read("preinst")?,
        postinst: read("postinst")?,
        prerm: read("prerm")?,
        postrm: read("postrm")?,
    })
}
