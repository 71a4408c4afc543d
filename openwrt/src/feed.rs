//! A directory that routers install from: packages in both formats for one processor, both indexes, and the public keys.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::apk;
use crate::ipk;
use crate::keys::Keys;
use crate::package::Package;

/// A feed, ready to be written.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Every file, by its name: the packages, the indexes, the public keys, and `sha256sums` of them all.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", .path.display())]
pub struct FeedError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Feed {
    /// Packs everything.
    #[must_use]
    pub fn new(packages: &[Package], keys: &Keys) -> Self {
        let ipks: Vec<ipk::Ipk> = packages.iter().map(ipk::build).collect();
        let apks: Vec<apk::Apk> = packages.iter().map(|package| apk::build(package, &keys.apk)).collect();
        let index = ipk::index(&ipks, &keys.usign);
        let mut files = vec![
            ("Packages".to_owned(), index.text.into_bytes()),
            ("Packages.gz".to_owned(), index.compressed),
            ("Packages.sig".to_owned(), index.signature.into_bytes()),
            ("packages.adb".to_owned(), apk::index(&apks, &keys.apk)),
            // For `opkg-key add`, and for /etc/apk/keys.
            ("waybill.pub".to_owned(), keys.usign.public_file().into_bytes()),
            ("waybill.pem".to_owned(), keys.apk.public_file().into_bytes()),
        ];
        files.extend(ipks.into_iter().map(|ipk| (ipk.file_name, ipk.content)));
        files.extend(apks.into_iter().map(|apk| (apk.file_name, apk.content)));
        files.sort_unstable();
        let sums = files.iter().map(|(name, content)| format!("{}  {name}\n", hex::encode(Sha256::digest(content))));
        let sums: String = sums.collect();
        files.push(("sha256sums".to_owned(), sums.into_bytes()));
        Self { files }
    }

    /// Writes all files into a directory, which is made; what else is there stays.
    ///
    /// # Errors
    /// [`FeedError`], with the file.
    pub fn write(&self, directory: &Path) -> Result<(), FeedError> {
        fs::create_dir_all(directory).map_err(|source| FeedError { path: directory.to_owned(), source })?;
        for (name, content) in &self.files {
            let path = directory.join(name);
            fs::write(&path, content).map_err(|source| FeedError { path, source })?;
        }
        Ok(())
    }
}
