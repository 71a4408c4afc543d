//! The `waybill` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    waybill::fault::watch();
    waybill::cli::run(std::env::args_os())
}
