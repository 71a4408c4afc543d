//! The `waybill` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    waybill::cli::run(std::env::args_os())
}
