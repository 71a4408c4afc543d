//! `waybill demo`
mod host;
use crate::cli::DemoOptions;
use std::process::ExitCode;
/// x
pub fn run(_o: DemoOptions) -> ExitCode {
    ExitCode::FAILURE
}
