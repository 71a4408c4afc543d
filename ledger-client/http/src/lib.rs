//! A community's ledger over HTTPS, in JSON: what goes over the wire, a server and a client.
//!
//! [`wire`] has the bodies of all questions and answers; `openapi.json` beside it says the same for programs that are not
//! written in Rust, and the server gives it out. With the feature `server`, [`server::Server`] answers from a ledger's
//! SQLite file; with `client`, [`client::Client`] asks. Neither is believed for having answered: what an account wants is
//! signed, and a log's head is a signed checkpoint with proofs for what stands in it (`RULEBOOK.md`).
//!
//! One Ed25519 key, the ledger's key, signs checkpoints and, where no certificate was bought, is the TLS key too. Its
//! public half is all that a member has to know besides the address; see [`trust`].
#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod server;
pub mod trust;
pub mod wire;
