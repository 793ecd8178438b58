//! `domicile`: every user's data at home.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Wrong use ends here, with clap's words and exit code 2.
    let cli = match domicile::cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    match domicile::commands::run(&cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}
