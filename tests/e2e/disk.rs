//! Disks of their own for routers: in memory, or an ext4 file system in a file.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::lab::{Lab, here};
use crate::router::{Router, text};

/// A file system where a router keeps its journal. It goes when this is dropped.
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    /// A disk in memory of so many bytes, or with K or M.
    pub(crate) fn in_memory(router: &Router, size: &str) -> Self {
        Self::mount(router, &["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
    }

    /// An ext4 file system of 64 MiB in a file.
    pub(crate) fn ext4(lab: &Lab, router: &Router) -> Self {
        let image = lab.dir().join(format!("{}.img", router.name));
        here(&["truncate", "-s", "64M", text(&image)]);
        // What mkfs leaves to be done later would be counted as the router's.
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        here(&["mkfs.ext4", "-q", "-E", now, text(&image)]);
        // Without lazytime an ext4 writes three blocks of its own after each write, to say when it was; what routers have
        // (jffs2, ubifs) does not.
        Self::mount(router, &["-o", "loop,noatime,lazytime,errors=remount-ro", text(&image)])
    }

    fn mount(router: &Router, what: &[&str]) -> Self {
        let at = router.state_dir();
        fs::create_dir(&at).expect("a new directory");
        here(&[&["mount"], what, &[text(&at)]].concat());
        Self { at }
    }

    /// The device below it, such as `loop3`.
    pub(crate) fn device(&self) -> String {
        let device = here(&["findmnt", "-n", "-o", "SOURCE", text(&self.at)]);
        device.trim_start_matches("/dev/").to_owned()
    }

    /// Bytes written to the device so far, by whomever.
    pub(crate) fn written(&self) -> u64 {
        here(&["sync", "-f", text(&self.at)]);
        let stat = fs::read_to_string(format!("/sys/block/{}/stat", self.device())).expect("a block device");
        // The seventh number: sectors of 512 bytes (Documentation/block/stat.rst).
        let sectors = stat.split_whitespace().nth(6).and_then(|sectors| sectors.parse::<u64>().ok());
        sectors.expect("a number") * 512
    }

    /// Fills it to the last byte, by another file.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.at.join("filler");
        let mut file = fs::File::create(&path).expect("a new file");
        for block in [64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![0; block]).is_ok() {}
        }
        assert!(!has_room(&self.at), "there is room left on {}", self.at.display());
        path
    }
}

fn has_room(directory: &Path) -> bool {
    let path = directory.join("more");
    let written = fs::write(&path, [1]).is_ok();
    let _ = fs::remove_file(path);
    written
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A router may still have files open on it.
        here(&["umount", "-l", text(&self.at)]);
    }
}
