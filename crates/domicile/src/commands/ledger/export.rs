//! `ledger export`: everything in one file that anyone can check.

use super::super::show;
use super::collect::collect;
use crate::cli::LedgerExport;
use crate::config::Config;
use crate::exit::{Exit, OrFail, Outcome};

/// Writes the bundle. 3 where a site was not reached: what the others have is written all the same.
pub async fn run(config: &Config, args: &LedgerExport) -> Outcome {
    let collected = collect(config).await?;
    let text = crate::render::json(&collected.bundle);
    std::fs::write(&args.out, text).or_fail(Exit::Usage, || {
        format!("cannot write {}", args.out.display())
    })?;
    let logs = &collected.bundle.logs;
    let entries: usize = logs.iter().map(|log| log.leaves.len()).sum();
    show(&format!(
        "Wrote {entries} entries of {} ledgers to {}; `domicile ledger verify --file` checks it anywhere.",
        logs.len(),
        args.out.display()
    ))?;
    Ok(match collected.unreached {
        Some(_) => Exit::Unreached,
        None => Exit::Done,
    })
}
