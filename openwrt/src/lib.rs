//! Builds OpenWrt's packages without its SDK: `.ipk` for opkg (to 24.10) and `.apk` for apk 3 (from 25.12), with the index of a
//! feed for each, signed.
//!
//! A package is a directory with a [`Manifest`] (`package.toml`) and the files it installs; [`Package`] is what came of both.
//! [`ipk`] and [`apk`] write it down, [`Keys`] signs, [`feed`] makes a directory that routers install from. The same input gives
//! the same bytes, whoever builds.

#![forbid(unsafe_code)]

mod adb;
pub mod apk;
mod compress;
pub mod elf;
pub mod feed;
pub mod ipk;
pub mod keys;
pub mod lmo;
pub mod manifest;
pub mod package;
mod scripts;
mod tar;

pub use feed::Feed;
pub use keys::Keys;
pub use manifest::Manifest;
pub use package::Package;
