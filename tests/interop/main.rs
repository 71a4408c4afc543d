//! Interoperability: our speaker beside babeld and BIRD, on real kernels' network stacks.
//!
//! Each test builds a small network in a [`lab::Lab`], starts a daemon on each [`machine::Machine`], and looks at their
//! tables, the kernels' and pings. The tests run one at a time, print what they measured, and say in one line what is
//! missing where they cannot run.

// The lab: what tests are built from.
#[expect(dead_code, reason = "these tests need only a part of the lab")]
#[path = "../e2e/lab.rs"]
mod lab;
mod machine;
mod pulse;

// The tests, by theme.
mod families;
mod pair;
mod ring;
mod secret;
mod tunnel;
