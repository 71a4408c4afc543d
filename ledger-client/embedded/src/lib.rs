//! ledger-embedded
