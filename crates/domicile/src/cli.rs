//! The command line. Names and flags are a contract: scripts rely on them.

mod recovery;
mod serve;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use recovery::{Guard, GuardCommand, GuardStatus, GuardTurn, Resolve};
pub use serve::{Role, Serve};

use crate::config::scrub;

/// Every user's data at home: moves single users' rows live between PostgreSQL sites.
#[derive(Debug, Parser)]
#[command(
    name = "domicile",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_help = "\
Exit codes: 0 done; 1 finished, with users set aside, findings, mismatches or batches in doubt; \
2 wrong use or configuration, also a move already running; 3 a store was not reached, or refused us; \
4 stopped by a limit (WAL, disk, time), resumable.")]
pub struct Cli {
    /// The configuration
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "domicile.toml"
    )]
    pub config: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Reads the command line. Where there is nothing to run it prints the help, or what is wrong, and gives the exit code.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    Cli::try_parse_from(arguments).map_err(|error| {
        // clap repeats what it does not understand, and that may be a URL with a password in it.
        let text = error.render().to_string();
        let scrubbed = scrub(&text);
        match scrubbed == text {
            // If nobody reads it, the exit code says the same.
            true => drop(error.print()),
            false => eprint!("{scrubbed}"),
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    })
}

/// One command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read a schema and print a proposed configuration, every table classified
    Init(Init),
    /// Look at everything that a move needs; each finding says what to do
    Check(Check),
    /// Prepare the home databases: schema, role, guard, publication
    Install(Install),
    /// Take out what install put in; refuses while departed users would reopen
    Uninstall(Uninstall),
    /// Show who moves where and who stays, and why; changes nothing
    Plan(Plan),
    /// Carry the plan out; run it again to go on after an interruption
    Apply(Apply),
    /// Show moves and what is slow and why, batches in doubt, users set aside, slot and WAL
    Status(Status),
    /// Let running moves hold still; nobody changes home until `resume`
    Pause(Steer),
    /// Let paused moves go on
    Resume(Steer),
    /// Set how fast running moves may copy
    Throttle(Throttle),
    /// End a running move; whoever has not moved stays where he lives
    Abort(Abort),
    /// Whether sites were compared with their peers since their servers started; open or close them
    Guard(Guard),
    /// Resolve a batch in doubt, or users whom a database that went back in time has lost
    Resolve(Resolve),
    /// The replication slot that moves read
    Slot(Slot),
    /// Show where a user lives
    Where(Where),
    /// Compare all users' data and records at all sites, independently of the moves
    Verify(Verify),
    /// Move the users of a move home again
    Rollback(Rollback),
    /// Erase what departed users left at their old site
    Erase(Erase),
    /// Write everything that is kept of one user, in open formats, into a folder
    Export(Export),
    /// The keys by which sites know each other
    Keys(Keys),
    /// What happened, as each site signed it and the others countersigned it
    Ledger(Ledger),
    /// Show where a user's data is and since when, with proofs that anyone checks offline
    Prove(Prove),
    /// Show how long requests took and how many failed, by market, before and after its users moved
    Report(Report),
    /// Be a site's daemon: lead, hold the link to the other sites, and say how it is
    Serve(Serve),
    /// The whole story on this machine, with throwaway databases
    Demo(Demo),
}

/// `--json`, for every command that shows something.
#[derive(Clone, Copy, Debug, Args)]
pub struct Json {
    /// Print JSON: one document, or for a move one event per line
    #[arg(long)]
    pub json: bool,
}

/// `init`
#[derive(Debug, Args)]
#[command(after_help = "\
Prints TOML to standard output; save it as domicile.toml, answer every \"?\", and run `domicile check`. \
A URL with a password in it is not printed: an environment variable stands in its place.")]
pub struct Init {
    /// What to call the service
    #[arg(long, value_name = "NAME")]
    pub service: String,
    /// The table whose rows are the users
    #[arg(long, value_name = "TABLE")]
    pub user_table: String,
    /// Its column (or an SQL expression) that gives the user's market, as a rule the country
    #[arg(long, value_name = "COL")]
    pub market: Option<String>,
    /// A site and its home database; the first one is the origin, and its schema is read
    #[arg(long = "site", value_name = "SITE=URL", required = true, value_parser = site_url)]
    pub sites: Vec<SiteUrl>,
}

/// `check`
#[derive(Debug, Args)]
#[command(after_help = "Exits with 1 where a finding is a blocker.")]
pub struct Check {
    /// This site only
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `install`
#[derive(Debug, Args)]
#[command(after_help = "\
Can be run again at any time, and waits for no lock for long. Wants an owner of the tables or an \
administrator once; everything later runs as the role that the configuration names.")]
pub struct Install {
    /// This site only
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// Connect to this site's home databases with another URL, for this once
    #[arg(long, value_name = "SITE=URL", value_parser = site_url)]
    pub admin: Vec<SiteUrl>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `uninstall`
#[derive(Debug, Args)]
pub struct Uninstall {
    /// This site only
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// Connect to this site's home databases with another URL, for this once
    #[arg(long, value_name = "SITE=URL", value_parser = site_url)]
    pub admin: Vec<SiteUrl>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `plan`
#[derive(Debug, Args)]
#[command(after_help = "\
Where sites are linked the daemon of one site counts who leaves it, and asks the others what would stop `apply` and who comes from them: \
exits with 1 where something would, with 3 where a site does not answer.\n\n\
With --suggest it reads what the gateways of all sites counted in the last 30 days (see `report`), and proposes what is at least 10 % faster and \
was measured; with --phase, as if the phases up to that one were carried out.")]
pub struct Plan {
    /// This phase; without it the first that is not complete
    #[arg(long, value_name = "PHASE")]
    pub phase: Option<String>,
    /// Show instead, of the history of requests, which permitted home would serve each market faster
    #[arg(long, conflicts_with = "site")]
    pub suggest: bool,
    /// With linked sites: the site whose users are planned for. Not needed where one site alone has a daemon on this machine
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `apply`
#[derive(Debug, Args)]
#[command(after_help = "\
The application keeps running. A user who cannot be moved is set aside with the reason and stays where \
he lives (exit 1). Run it again, once the reason is mended, to try those users again; with --users, some of them.\n\n\
While it runs, `pause`, `resume`, `throttle` and `abort` steer it from another terminal. A paused move stays \
paused when it is run again, until `resume`.")]
pub struct Apply {
    /// This phase; without it the first that is not complete
    #[arg(long, value_name = "PHASE")]
    pub phase: Option<String>,
    /// Of the planned users only these: keys with commas between, or a file with one key a line
    #[arg(long, value_name = "FILE|ID,...")]
    pub users: Option<String>,
    /// Do not ask; without a terminal this is needed
    #[arg(long)]
    pub yes: bool,
    /// With linked sites: whose daemon carries its users away. Not needed where one site alone has a daemon on this machine
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `status`
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `pause` and `resume`
#[derive(Debug, Args)]
#[command(after_help = "\
A move pauses at the next safe point: a batch that is being handed off is handed off, a chunk that is being copied is \
copied from its beginning later. `apply` keeps running and follows the change stream, so that little WAL is kept back; \
if it is ended meanwhile, the slot keeps all WAL, and nobody looks at the cap limits.wal until it is run again. \
A paused move stays paused then, until `resume`.")]
pub struct Steer {
    /// This move only; without it every move that runs
    #[arg(long = "move", value_name = "MOVE")]
    pub r#move: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `throttle`
#[derive(Debug, Args)]
#[command(after_help = "\
Holds for the rest of the move, in place of limits.rate, and takes effect within about a second. It slows \
copying; batches that are handed off are not slowed.")]
pub struct Throttle {
    /// Bytes a second, as `20MiB/s`, or `unlimited`; `configured` for what the configuration says
    #[arg(value_name = "RATE")]
    pub rate: String,
    /// This move only; without it every move that runs
    #[arg(long = "move", value_name = "MOVE")]
    pub r#move: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `abort`
#[derive(Debug, Args)]
#[command(after_help = "\
What is half-way is given up: those users live where they did, and what was copied of them is deleted at the target. \
Users who have moved stay moved; `rollback MOVE` takes them back. Where `apply` runs it is told, does this at its next safe \
point, and this command waits for it; where none runs, this command does it. If it is interrupted, run it again.")]
pub struct Abort {
    /// The move, as `apply` and `status` name it
    #[arg(value_name = "MOVE")]
    pub r#move: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `slot`
#[derive(Debug, Args)]
pub struct Slot {
    /// What to do with it
    #[command(subcommand)]
    pub command: SlotCommand,
}

/// What can be done with the slot.
#[derive(Debug, Subcommand)]
pub enum SlotCommand {
    /// Break-glass: drop it, so that it keeps no WAL back; unfinished chunks start again from enrolment
    Drop(SlotDrop),
}

/// `slot drop`
#[derive(Debug, Args)]
#[command(after_help = "\
Refused while a move runs: abort it, or stop that process, first. The reason is recorded at the site. Nobody changes home \
by it; run `apply` to go on, or `abort`.")]
pub struct SlotDrop {
    /// Why; recorded for good
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
    /// Of this service
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// At this site
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `keys`
#[derive(Debug, Args)]
pub struct Keys {
    /// What to do with them
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a site's key, or an operator's, in a file that its owner alone may read
    New(KeysNew),
    /// Show the pins of a site's keys, for the configurations of its peers
    Show(KeysShow),
    /// Make a site's next key beside the present one; with --activate, put it in the present one's place
    Rotate(KeysRotate),
}

/// `keys new`
#[derive(Debug, Args)]
#[command(after_help = "\
Never writes over a file. Without --out the file is the one that the configuration names: key = { file = \"…\" } of the site.\n\n\
An operator's key signs what `domicile resolve --destroyed` states; its public half goes into [operators] of every site's \
configuration. It belongs to one person, and on no machine of a site.")]
pub struct KeysNew {
    /// The site
    #[arg(long, value_name = "SITE", required_unless_present = "operator")]
    pub site: Option<String>,
    /// An operator's key instead: his name
    #[arg(long, value_name = "NAME", conflicts_with = "site", requires = "out")]
    pub operator: Option<String>,
    /// Write the key to this file; no configuration is read then
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `keys show`
#[derive(Debug, Args)]
pub struct KeysShow {
    /// The site, whose key file must be on this machine
    #[arg(long, value_name = "SITE")]
    pub site: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `keys rotate`
#[derive(Debug, Args)]
#[command(after_help = "\
In this order a site is believed at every moment: 1. `keys rotate` makes the next key. 2. Both pins go into the site's \
`link.pins` in the configuration of every peer, and their daemons read it. 3. `keys rotate --activate`, and the site's daemon \
starts anew. 4. The old pin is taken out everywhere, and the old key file (FILE.previous) is deleted.")]
pub struct KeysRotate {
    /// The site, whose key file must be on this machine
    #[arg(long, value_name = "SITE")]
    pub site: String,
    /// Put the next key in the present one's place; every peer must have its pin by now
    #[arg(long)]
    pub activate: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `where`
#[derive(Debug, Args)]
pub struct Where {
    /// The user's key
    #[arg(value_name = "USER")]
    pub user: String,
    /// In this service; without it in each one
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `export`
#[derive(Debug, Args)]
#[command(after_help = "\
Reads at his home in each service, under one snapshot, without moving anything or keeping a writer waiting. The folder \
holds a file of JSON lines for each table and manifest.json with counts and BLAKE3 hashes; it appears when it is complete. \
It holds personal data: only its owner may read it.")]
pub struct Export {
    /// The user's key
    #[arg(value_name = "USER")]
    pub user: String,
    /// The folder to write; it must not exist yet
    #[arg(long, value_name = "FOLDER")]
    pub out: std::path::PathBuf,
    /// In this service; without it in each one
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `verify`
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 1 on a mismatch. Where sites are linked it reads the databases that are known here, and has the daemon of the site ask the \
others about the users who concern both; run it at each site. A site that does not answer is named, the rest is compared, and it exits with 3.")]
pub struct Verify {
    /// This service only
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// These users only: keys with commas between, or a file with one key a line
    #[arg(long, value_name = "FILE|ID,...")]
    pub users: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `rollback`
#[derive(Debug, Args)]
pub struct Rollback {
    /// The move, as `apply` and `status` name it
    #[arg(value_name = "MOVE")]
    pub r#move: String,
    /// With linked sites: where the users went, whose daemon takes them home. Not needed where one site alone has a daemon on this machine
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `erase`
#[derive(Debug, Args)]
#[command(after_help = "\
Erases nothing of a user before the site that he moved to has shown that it holds his data, nor before \
the configured time has passed, nor against a hold. Each run carries every erasure on as far as it can go: deleted, vacuumed \
(new table and index files, new statistics), purged (WAL, standbys, slots, archives and backups have passed), and says \
what the rest waits for.\n\n\
With --user and without --move the user is erased at his home as well, in every service: his right to be forgotten. That \
cannot be taken back.")]
pub struct Erase {
    /// Of this move only
    #[arg(long = "move", value_name = "MOVE")]
    pub r#move: Option<String>,
    /// This user: what he left elsewhere, and, without --move, at his home
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Do not wait for the time that the configuration says (`erase.after`)
    #[arg(long)]
    pub now: bool,
    /// Do not ask before a user is erased at his home
    #[arg(long)]
    pub yes: bool,
    /// Connect to SITE with this URL for vacuuming and looking at WAL; may be given for several sites
    #[arg(long, value_name = "SITE=URL", value_parser = site_url)]
    pub admin: Vec<SiteUrl>,
    /// Rewrite tables of any size, not only small ones; writers wait meanwhile
    #[arg(long)]
    pub rewrite: bool,
    /// Switch WAL segments until old ones are written over; for servers on which little is written
    #[arg(long)]
    pub turn_wal: bool,
    /// Write a receipt of each erasure into this folder, to be checked with `ledger verify --file`
    #[arg(long, value_name = "FOLDER")]
    pub receipt: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `ledger`
#[derive(Debug, Args)]
pub struct Ledger {
    /// What to do with it
    #[command(subcommand)]
    pub command: LedgerCommand,
}

/// What can be done with the ledger.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Check every site's entries against what it signed, and against what its peers countersigned
    Verify(LedgerVerify),
    /// Write all of it to a file, which `ledger verify --file` checks anywhere
    Export(LedgerExport),
    /// Take what happened into the ledgers, sign, and countersign; moves do it at their end
    Seal(LedgerSeal),
}

/// `ledger verify`
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 1 on a finding. Keys are held against link.pins of the configuration, or against --pin. Whatever a site's newest \
entries are that no peer has countersigned, that site could still change unseen: it is shown how many.")]
pub struct LedgerVerify {
    /// This site's ledger only
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// Check a file that `ledger export` or `prove` wrote; needs no database
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub pins: PinArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `--pin`
#[derive(Debug, Args)]
pub struct PinArgs {
    /// A site's key, by its fingerprint, in place of the configuration's pins
    #[arg(long = "pin", value_name = "SITE=sha256/...", value_parser = site_pin)]
    pub pin: Vec<(String, ledger::key::Pin)>,
}

/// `ledger export`
#[derive(Debug, Args)]
pub struct LedgerExport {
    /// Write it to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `ledger seal`
#[derive(Debug, Args)]
pub struct LedgerSeal {
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `prove`
#[derive(Debug, Args)]
#[command(after_help = "\
A proof names the user and shows which ledger entries are about him; it opens nobody else's, and no secret of a site. Whoever \
has the sites' pins checks it with `domicile prove --check FILE`. Exits with 1 where something is not proven.")]
pub struct Prove {
    /// The user's key
    #[arg(
        value_name = "USER",
        required_unless_present = "check",
        conflicts_with = "check"
    )]
    pub user: Option<String>,
    /// In this service; without it in each one
    #[arg(long, value_name = "SERVICE", conflicts_with = "check")]
    pub service: Option<String>,
    /// Write the proof to this file, as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    pub out: Option<PathBuf>,
    /// Check a proof that somebody gave you; needs no database
    #[arg(long, value_name = "FILE")]
    pub check: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub pins: PinArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `report`
#[derive(Debug, Args)]
#[command(after_help = "\
Reads what gateways wrote into the home databases, and when users left; where sites are linked the daemon of the site asks the others. Nothing in it is about one user. Minutes are kept for two \
days, then hours for 400. A site that is not read is named, and it exits with 3.")]
pub struct Report {
    /// Write it to this file as well, as a page of HTML that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Of the last so long only: 36h, 7d
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Duration>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is that of the flag")]
    pub json: Json,
}

/// `demo`
#[derive(Debug, Args)]
#[command(after_help = "\
Starts throwaway PostgreSQL clusters, loads a shop, keeps writers writing, moves its users phase by \
phase, and counts what was lost. Installs PostgreSQL's server package where it is missing. Leaves \
nothing behind.\n\n\
DOMICILE_DEMO_USERS=N in the environment makes a shop of N users instead of 5000, for tests and the curious. \
Exits with 1 where a write was lost, doubled or misplaced, a pinned user moved, or somebody was set aside.")]
pub struct Demo {
    /// Write the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Keep the clusters running and say how to look around
    #[arg(long)]
    pub keep: bool,
}

/// `SITE=URL`. `Debug` hides the URL, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteUrl {
    /// The site.
    pub site: String,
    /// The URL of a home database there.
    pub url: crate::config::Secret,
}

fn since(text: &str) -> Result<Duration, &'static str> {
    crate::config::duration(text).ok_or("expected a whole number with min, h or d")
}

fn reason(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("say why"),
        reason => Ok(reason.to_owned()),
    }
}

fn site_url(text: &str) -> Result<SiteUrl, String> {
    let pair = text
        .split_once('=')
        .filter(|(site, url)| !site.is_empty() && !url.is_empty());
    let (site, url) = pair.ok_or("expected SITE=URL")?;
    Ok(SiteUrl {
        site: site.to_owned(),
        url: crate::config::Secret::new(url),
    })
}

fn site_pin(text: &str) -> Result<(String, ledger::key::Pin), String> {
    let (site, pin) = text.split_once('=').ok_or("expected SITE=PIN")?;
    let pin = pin
        .parse()
        .map_err(|why: model::pin::NotAPin| why.to_string())?;
    Ok((site.to_owned(), pin))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_contract_is_taken() {
        for line in [
            "domicile init --service shop --user-table customer --market country --site a=postgres://x/y --site b=postgres://z/y",
            "domicile check --site beijing --json",
            "domicile install --site beijing --admin beijing=postgres://root@x/y",
            "domicile uninstall",
            "domicile plan --phase one --json --config other.toml",
            "domicile apply --phase one --users 1,2,3 --yes --json",
            "domicile status --json",
            "domicile where 17 --service shop --json",
            "domicile verify --service shop --users keys.txt --json",
            "domicile rollback m1 --json",
            "domicile pause --json",
            "domicile pause --move m1",
            "domicile resume",
            "domicile throttle 20MiB/s --json",
            "domicile throttle unlimited --move m1",
            "domicile abort m1 --json",
            "domicile slot drop --reason full --service shop --site beijing --json",
            "domicile erase --move m1 --user 17 --now --json",
            "domicile erase --user 17 --yes --admin beijing=postgres://x/y --rewrite --turn-wal --receipt out",
            "domicile keys new --site beijing --out bj.key --json",
            "domicile keys show --site beijing --json",
            "domicile keys rotate --site beijing --json",
            "domicile keys rotate --site beijing --activate",
            "domicile ledger verify --site beijing --json",
            "domicile ledger verify --file b.json --pin beijing=sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "domicile ledger export --out b.json",
            "domicile ledger seal --json",
            "domicile prove 17 --service shop --json --out p.json",
            "domicile prove --check p.json",
            "domicile plan --suggest --phase one --json",
            "domicile report",
            "domicile report --out r.html --since 7d --json",
            "domicile serve --site beijing",
            "domicile serve --site beijing --role mover --log debug --socket a.sock",
            "domicile serve --site beijing --role all",
            "domicile demo --json result.json --keep",
            "domicile --config x.toml status",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_use_exits_with_2_and_repeats_no_secret() {
        for line in [
            "domicile fly",
            "domicile where",
            "domicile abort",
            "domicile throttle",
            "domicile slot drop",
            "domicile keys",
            "domicile keys new",
            "domicile serve",
            "domicile serve --site beijing --role king",
            "domicile report --since yesterday",
            "domicile plan --suggest --site beijing",
            "domicile prove",
            "domicile prove 17 --check p.json",
            "domicile ledger export",
            "domicile ledger verify --pin beijing=sha256/x",
            "domicile init --service s --user-table t",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        let cli = parse("domicile install --admin b=postgres://u:geheim@x/y").unwrap();
        assert!(!format!("{cli:?}").contains("geheim"));
    }
}
