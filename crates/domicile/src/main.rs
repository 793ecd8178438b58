//! `domicile`: every user's data at home.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Wrong use ends here, with clap's words and exit code 2.
    let cli = domicile::cli::Cli::parse();
    match domicile::commands::run(&cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}
