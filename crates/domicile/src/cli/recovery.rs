//! `guard` and `resolve`: for a site whose database may have gone back in time.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Json, reason};

/// `guard`
#[derive(Debug, Args)]
pub struct Guard {
    /// What to do with it
    #[command(subcommand)]
    pub command: GuardCommand,
}

/// What can be done with the guard.
#[derive(Debug, Subcommand)]
pub enum GuardCommand {
    /// Show whether each site was compared with its peers since its server started, and whose guard is closed until then
    Status(GuardStatus),
    /// Break-glass: open a site that was not compared with all its peers
    Open(GuardTurn),
    /// Break-glass: refuse every write of the application at a site
    Close(GuardTurn),
}

/// `guard status`
#[derive(Debug, Args)]
pub struct GuardStatus {
    /// This site only
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `guard open`, `guard close`
#[derive(Debug, Args)]
#[command(after_help = "\
A site's daemon opens it by itself once every peer has told what it knows. Who opens it without that says that nothing \
is missing from its database: if a peer knows better, a user may be written at two sites until it is heard. Closing wants \
after_restart = \"closed\" of the site; writes of transactions that began before are waited for. Both are recorded for good.")]
pub struct GuardTurn {
    /// At this site
    #[arg(long, value_name = "SITE")]
    pub site: String,
    /// Of this service only
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Why; recorded for good
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `resolve`
#[derive(Debug, Args)]
#[command(after_help = "\
A batch in doubt is resolved by its target's answer, which `apply` and the daemons ask for by themselves; `resolve BATCH` asks \
now. Where the target's site is destroyed for good, two operators state that, each with a key of his own ([operators] of the \
configuration):\n  \
resolve BATCH --destroyed SITE --reason TEXT --key ALICE.key --statement FILE   makes FILE, and does nothing else\n  \
resolve BATCH --key BOB.key --statement FILE                                    adds the second signature\n  \
resolve BATCH --statement FILE                                                  opens the batch's users here again\n\
All other sites are heard before. docs/restores.md says what is lost, and what happens where the site comes back.\n\n\
A lost user is one whom a peer sent to this site, and whom its database, which went back in time, does not know. --here \
opens him with the rows that stand here; --to gives him to a site that still has his rows, where he is then lost until \
he is resolved there with --here. Either way under an epoch above all that were seen.")]
pub struct Resolve {
    /// The batch, as `status` names it
    #[arg(
        value_name = "BATCH",
        conflicts_with = "lost",
        required_unless_present = "lost"
    )]
    pub batch: Option<String>,
    /// The target's site, which is destroyed for good: makes the statement
    #[arg(long, value_name = "SITE", requires_all = ["batch", "reason", "key", "statement"])]
    pub destroyed: Option<String>,
    /// Signs the statement with this operator's key
    #[arg(long, value_name = "FILE", requires = "statement")]
    pub key: Option<PathBuf>,
    /// The statement: made with --destroyed, signed with --key, carried out without either
    #[arg(long, value_name = "FILE", requires = "batch")]
    pub statement: Option<PathBuf>,
    /// Lost users at --site: `all`, or a file with one key a line, or keys with commas between
    #[arg(
        long,
        value_name = "all|FILE|ID,…",
        requires = "site",
        requires = "reason"
    )]
    pub lost: Option<String>,
    /// The site at which they are lost
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// Of this service; needed where the site has several
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// They live here, with the rows that stand here
    #[arg(long, requires = "lost", conflicts_with = "to")]
    pub here: bool,
    /// They live at that site, with the rows that stand there
    #[arg(long, value_name = "SITE", requires = "lost")]
    pub to: Option<String>,
    /// Why; recorded for good
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}
