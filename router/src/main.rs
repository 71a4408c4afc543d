//! The `waybill` command.

use std::process::ExitCode;

use waybill::cli::{self, DemoOptions, Failure, Programs};

fn main() -> ExitCode {
    cli::run(std::env::args_os(), &Programs { demo, up })
}

fn demo(_: DemoOptions) -> ExitCode {
    eprintln!("error: this branch has no demo");
    ExitCode::FAILURE
}

fn up(_: waybill::config::Config, _: metering::Identity) -> Result<(), Failure> {
    Err(Failure::new("this branch has no daemon", ""))
}
