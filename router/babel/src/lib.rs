//! babel
