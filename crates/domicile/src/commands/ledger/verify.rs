//! `ledger verify`: of the databases, or of a file without any.

use std::collections::BTreeMap;
use std::path::Path;

use ::ledger::bundle::{Bundle, FORMAT};
use ::ledger::key::Pins;
use ::ledger::proof;
use ::ledger::receipt::{self, Receipt};

use super::super::{configuration, homes, prove, show};
use super::collect::{Collected, collect};
use super::{pins, pins_for_file, read};
use crate::cli::{Cli, LedgerVerify};
use crate::exit::{Exit, Failure, Outcome};
use crate::render::Form;
use crate::render::ledger::{Verified, render};
use crate::render::receipt::render as render_receipt;

/// Checks. 1 on a finding, 3 where a site was not reached.
pub async fn run(cli: &Cli, args: &LedgerVerify) -> Outcome {
    let form = Form::of_stdout(args.json.json);
    if let Some(file) = &args.file {
        return offline(cli, args, file, form);
    }
    let config = configuration(cli)?;
    if let Some(site) = &args.site {
        homes::known_here(&config, site)?;
    }
    let mut pins = pins(&config)?;
    for (site, pin) in &args.pins.pin {
        pins.entry(site.clone()).or_default().push(*pin);
    }
    let Collected {
        bundle,
        findings,
        waiting,
        unreached,
    } = collect(&config).await?;
    let mut report = bundle.verify(&pins);
    report.findings.extend(findings);
    report.findings.sort();
    let verified = Verified::new(report, &waiting, args.site.as_deref());
    show(&render(&verified, form))?;
    Ok(match unreached {
        Some(_) => Exit::Unreached,
        None => verified.exit(),
    })
}

fn offline(cli: &Cli, args: &LedgerVerify, file: &Path, form: Form) -> Outcome {
    let pins = pins_for_file(cli, &args.pins)?;
    let document = read(file)?;
    let format = document.get("format").and_then(|format| format.as_str());
    if format == Some(proof::FORMAT) {
        return prove::check(&pins, document, form);
    }
    if format == Some(receipt::FORMAT) {
        return check_receipt(&pins, document, form);
    }
    // What is wrong is said without repeating what stands there.
    let bundle: Bundle = serde_json::from_value(document).map_err(|_| {
        Failure::new(
            Exit::Unfinished,
            anyhow::anyhow!("{} is not in the form of {FORMAT:?}", file.display()),
        )
        .mend("it is none that `domicile ledger export` wrote, or was changed")
    })?;
    let report = bundle.verify(&pins);
    let verified = Verified::new(report, &BTreeMap::new(), args.site.as_deref());
    show(&render(&verified, form))?;
    Ok(verified.exit())
}

fn check_receipt(pins: &Pins, document: serde_json::Value, form: Form) -> Outcome {
    // What is wrong is said without repeating what stands there.
    let receipt: Receipt = serde_json::from_value(document).map_err(|_| {
        Failure::new(
            Exit::Unfinished,
            anyhow::anyhow!("this is not in the form of {:?}", receipt::FORMAT),
        )
        .mend("it is none that `domicile erase --receipt` wrote, or was changed")
    })?;
    let report = receipt.check(pins);
    show(&render_receipt(&report, form))?;
    Ok(match report.findings.is_empty() {
        true => Exit::Done,
        false => Exit::Unfinished,
    })
}
