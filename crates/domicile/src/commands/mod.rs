//! One file per command. A command reads the configuration, asks the rooms below, and hands what they
//! say to `render`.

pub mod abort;
pub mod apply;
pub mod check;
pub mod confirm;
pub mod demo;
pub mod destroyed;
pub mod erase;
pub mod export;
mod figures;
pub mod guard;
pub mod homes;
pub mod init;
pub mod install;
pub mod keys;
pub mod ledger;
mod log;
pub mod plan;
pub mod prove;
pub mod report;
pub mod resolve;
pub mod rollback;
pub mod routes;
mod running;
pub mod serve;
pub mod slot;
pub mod status;
pub mod steer;
pub mod suggest;
pub mod uninstall;
pub mod users;
pub mod verify;
pub mod whereabouts;

use std::time::Duration;

use crate::cli::{self, Cli, Command};
use crate::config::Config;
use crate::exit::{Exit, OrFail, Outcome};

/// A daemon has waited for what it waits for; work that never yields is not waited for again.
const LEFTOVERS: Duration = Duration::from_millis(200);

/// Carries out one command.
pub fn run(cli: &Cli) -> Outcome {
    let daemon = match &cli.command {
        Command::Serve(args) => Some(args),
        _ => None,
    };
    match daemon {
        Some(args) => log::of_daemon(args)?,
        None => log::of_command(),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .or_fail(Exit::Unreached, || "cannot start the runtime".into())?;
    let outcome = runtime.block_on(dispatch(cli));
    if daemon.is_some() {
        runtime.shutdown_timeout(LEFTOVERS);
    }
    outcome
}

async fn dispatch(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Init(args) => init::run(args).await,
        Command::Check(args) => check::run(&configuration(cli)?, args).await,
        Command::Plan(args) => plan::run(&configuration(cli)?, args).await,
        Command::Install(args) => install::run(&configuration(cli)?, args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Apply(args) => apply::run(&configuration(cli)?, args).await,
        Command::Uninstall(args) => uninstall::run(&configuration(cli)?, args).await,
        Command::Status(args) => status::run(&configuration(cli)?, args).await,
        Command::Pause(args) => steer::pause(&configuration(cli)?, args).await,
        Command::Resume(args) => steer::resume(&configuration(cli)?, args).await,
        Command::Throttle(args) => steer::throttle(&configuration(cli)?, args).await,
        Command::Abort(args) => abort::run(&configuration(cli)?, args).await,
        Command::Slot(args) => match &args.command {
            cli::SlotCommand::Drop(args) => slot::drop(&configuration(cli)?, args).await,
        },
        Command::Guard(args) => match &args.command {
            cli::GuardCommand::Status(args) => guard::status(&configuration(cli)?, args).await,
            cli::GuardCommand::Open(args) => guard::open(&configuration(cli)?, args).await,
            cli::GuardCommand::Close(args) => guard::close(&configuration(cli)?, args).await,
        },
        Command::Resolve(args) => resolve::run(&configuration(cli)?, args).await,
        Command::Where(args) => whereabouts::run(&configuration(cli)?, args).await,
        Command::Export(args) => export::run(&configuration(cli)?, args).await,
        Command::Verify(args) => verify::run(&configuration(cli)?, args).await,
        Command::Rollback(args) => rollback::run(&configuration(cli)?, args).await,
        Command::Keys(args) => match &args.command {
            cli::KeysCommand::New(args) => keys::new(|| configuration(cli), args),
            cli::KeysCommand::Show(args) => keys::show(&configuration(cli)?, args),
            cli::KeysCommand::Rotate(args) => keys::rotate(&configuration(cli)?, args),
        },
        Command::Erase(args) => erase::run(&configuration(cli)?, args).await,
        Command::Ledger(args) => match &args.command {
            // A file is checked where there is no configuration, too.
            cli::LedgerCommand::Verify(args) => ledger::verify::run(cli, args).await,
            cli::LedgerCommand::Export(args) => {
                ledger::export::run(&configuration(cli)?, args).await
            }
            cli::LedgerCommand::Seal(args) => ledger::seal::run(&configuration(cli)?, args).await,
        },
        Command::Prove(args) => prove::run(cli, args).await,
        Command::Report(args) => report::run(&configuration(cli)?, args).await,
        Command::Serve(args) => serve::run(cli, args).await,
    }
}

/// The configuration, with a line on standard error for everything in it that has no effect.
fn configuration(cli: &Cli) -> Outcome<Config> {
    let config = Config::load(&cli.config)?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(config)
}

/// Prints a result.
pub(crate) fn show(text: &str) -> Outcome<()> {
    crate::render::print(text).or_fail(Exit::Unreached, || "cannot write to standard output".into())
}
