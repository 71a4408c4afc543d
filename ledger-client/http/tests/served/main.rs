//! A served ledger from outside: people who mean harm, other people's programs, and a browser.
#![cfg(all(feature = "client", feature = "server"))]
#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

mod conforms;
mod hostile;
mod page;
mod place;
