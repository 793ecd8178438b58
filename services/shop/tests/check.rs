//! A checker that cannot find a planted loss is worthless: every kind is planted, and found.

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result};
use shop::check::{Residence, Verdict, check};
use shop::log::{Change, Entry, Log, Outcome};
use shop::workload::{UserSpec, Workload, WorkloadOptions};
use support::Shop;
use testbed::wait_until;
use tokio_postgres::Client;

const MOVED: std::ops::RangeInclusive<i32> = 1..=4;
const STAYED: std::ops::RangeInclusive<i32> = 5..=6;

/// A finished story: users wrote at beijing, some moved to singapore and wrote on.
struct Story {
    shop: Shop,
    log: Log,
    beijing: Client,
    singapore: Client,
    california: Client,
}

impl Story {
    async fn tell(name: &str) -> Result<Story> {
        let shop = Shop::open(name).await?;
        let users = MOVED.chain(STAYED).map(|key| UserSpec {
            key,
            first_home: "beijing".to_owned(),
        });
        let workload = Workload::start(WorkloadOptions {
            sites: shop.sites.clone(),
            users: users.collect(),
            ..WorkloadOptions::default()
        })
        .await?;
        for phase in 1..=2 {
            wait_until("the writers wrote", Duration::from_secs(60), async || {
                Ok(workload.acknowledged() >= 300 * phase)
            })
            .await?;
            if phase == 1 {
                for user in MOVED {
                    shop.move_user(user, "beijing", "singapore", Duration::ZERO)
                        .await?;
                }
            }
        }
        let log = workload.stop().await?;
        let beijing = shop.mover("beijing").await?;
        let singapore = shop.mover("singapore").await?;
        let california = shop.mover("california").await?;
        let story = Story {
            shop,
            log,
            beijing,
            singapore,
            california,
        };
        let verdict = story.check().await?;
        assert!(verdict.is_clean(), "{verdict:#?}");
        Ok(story)
    }

    async fn check(&self) -> Result<Verdict> {
        check(&self.shop.sites, &self.log, |user| {
            if MOVED.contains(&user) {
                Residence::at("beijing").then("singapore")
            } else {
                Residence::at("beijing")
            }
        })
        .await
    }

    /// (lost, duplicated, misplaced) found beyond what `before` found.
    async fn found_since(&self, before: &mut Verdict) -> Result<(usize, usize, usize)> {
        let now = self.check().await?;
        let found = (
            now.lost - before.lost,
            now.duplicated - before.duplicated,
            now.misplaced - before.misplaced,
        );
        *before = now;
        Ok(found)
    }

    /// An invoice with at least `lines` lines, created at singapore and never changed again.
    fn untouched_invoice(&self, lines_min: usize, used: &mut Vec<i32>) -> Result<(i32, usize)> {
        let found = self
            .log
            .entries
            .iter()
            .find_map(|entry| match &entry.change {
                Change::CreateInvoice { invoice, lines, .. }
                    if entry.site == "singapore"
                        && lines.len() >= lines_min
                        && !used.contains(invoice)
                        && entries_of(&self.log, *invoice).count() == 1 =>
                {
                    Some((*invoice, lines.len()))
                }
                _ => None,
            });
        let (invoice, lines) = found.context("no such invoice")?;
        used.push(invoice);
        Ok((invoice, lines))
    }
}

fn entries_of(log: &Log, id: i32) -> impl Iterator<Item = &Entry> {
    log.entries.iter().filter(move |entry| match &entry.change {
        Change::CreateInvoice { invoice, .. }
        | Change::EditInvoice { invoice, .. }
        | Change::AddLine { invoice, .. }
        | Change::DeleteLine { invoice, .. }
        | Change::DeleteInvoice { invoice } => *invoice == id,
        Change::CreateUser { .. } | Change::EditUser { .. } => false,
    })
}

/// Copies one invoice, without its lines, from site to site.
async fn copy_invoice(from: &Client, to: &Client, invoice: i32) -> Result<()> {
    let read = "SELECT json_agg(i)::text FROM invoice i WHERE invoice_id = $1";
    let rows: String = from.query_one(read, &[&invoice]).await?.get(0);
    let insert =
        "INSERT INTO invoice SELECT * FROM json_populate_recordset(NULL::invoice, $1::text::json)";
    to.execute(insert, &[&rows]).await?;
    Ok(())
}

const DELETE_INVOICE: &str = "DELETE FROM invoice WHERE invoice_id = $1";
const DELETE_LINES: &str = "DELETE FROM invoice_line WHERE invoice_id = $1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_losses_are_found() -> Result<()> {
    let story = Story::tell("losses").await?;
    let (mut before, mut used) = (Verdict::default(), Vec::new());

    let (invoice, lines) = story.untouched_invoice(1, &mut used)?;
    story.singapore.execute(DELETE_LINES, &[&invoice]).await?;
    story.singapore.execute(DELETE_INVOICE, &[&invoice]).await?;
    let lost_insert = story.found_since(&mut before).await?;
    assert_eq!(lost_insert, (1 + lines, 0, 0), "a whole insert");

    let (invoice, _) = story.untouched_invoice(2, &mut used)?;
    let one_line = "DELETE FROM invoice_line WHERE invoice_line_id =
                    (SELECT min(invoice_line_id) FROM invoice_line WHERE invoice_id = $1)";
    story.singapore.execute(one_line, &[&invoice]).await?;
    let half = story.found_since(&mut before).await?;
    assert_eq!(half, (1, 0, 0), "half of a transaction");

    let (edited, old) = edited_invoice(&story.log).context("no edited invoice")?;
    let put_back = "UPDATE invoice SET billing_address = $2 WHERE invoice_id = $1";
    story.singapore.execute(put_back, &[&edited, &old]).await?;
    let lost_update = story.found_since(&mut before).await?;
    assert_eq!(lost_update, (1, 0, 0), "an update: the old value is back");

    let user_edit = "UPDATE customer SET company = 'old' WHERE customer_id = $1";
    story.singapore.execute(user_edit, &[&1_i32]).await?;
    let lost_edit = story.found_since(&mut before).await?;
    assert_eq!(lost_edit, (1, 0, 0), "an update of the user's row");

    let (user, gone) = deleted_invoice(&story.log).context("no deleted invoice")?;
    let resurrect = "INSERT INTO invoice (invoice_id, customer_id, invoice_date, total)
                     VALUES ($1, $2, now(), 1)";
    story.singapore.execute(resurrect, &[&gone, &user]).await?;
    let lost_delete = story.found_since(&mut before).await?;
    assert_eq!(lost_delete, (1, 0, 0), "a deletion");

    let (invoice, _) = story.untouched_invoice(1, &mut used)?;
    let other_owner = "UPDATE invoice SET customer_id = 59 WHERE invoice_id = $1";
    story.singapore.execute(other_owner, &[&invoice]).await?;
    let wrong_owner = story.found_since(&mut before).await?;
    assert_eq!(
        wrong_owner,
        (1, 0, 0),
        "an invoice that fell to another user"
    );

    let stayed = "DELETE FROM invoice_line WHERE invoice_line_id = (SELECT min(invoice_line_id)
                  FROM invoice_line JOIN invoice USING (invoice_id) WHERE customer_id = 5)";
    assert_eq!(story.beijing.execute(stayed, &[]).await?, 1);
    let at_source = story.found_since(&mut before).await?;
    assert_eq!(at_source, (1, 0, 0), "a row of a user who stayed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_duplicates_are_found() -> Result<()> {
    let story = Story::tell("duplicates").await?;
    let (mut before, mut used) = (Verdict::default(), Vec::new());

    let (invoice, _) = story.untouched_invoice(1, &mut used)?;
    copy_invoice(&story.singapore, &story.beijing, invoice).await?;
    let alive = story.found_since(&mut before).await?;
    assert_eq!(alive, (0, 1, 0), "a write of the new home in the old copy");

    let (invoice, _) = story.untouched_invoice(1, &mut used)?;
    copy_invoice(&story.singapore, &story.california, invoice).await?;
    let third = story.found_since(&mut before).await?;
    assert_eq!(third, (0, 1, 0), "a row at a site where he never lived");

    let never = "INSERT INTO invoice (invoice_id, customer_id, invoice_date, total)
                 VALUES (1000000000, 2, now(), 1)";
    story.singapore.execute(never, &[]).await?;
    let unwritten = story.found_since(&mut before).await?;
    assert_eq!(unwritten, (0, 1, 0), "a row that nobody wrote");

    let (invoice, _) = story.untouched_invoice(1, &mut used)?;
    let drop_key = "ALTER TABLE invoice DROP CONSTRAINT invoice_pkey CASCADE";
    story.singapore.batch_execute(drop_key).await?;
    copy_invoice(&story.singapore, &story.singapore, invoice).await?;
    let twice = story.found_since(&mut before).await?;
    assert_eq!(twice, (0, 1, 0), "a key that stands twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_misplacements_are_found() -> Result<()> {
    let mut story = Story::tell("misplacements").await?;
    let (mut before, mut used) = (Verdict::default(), Vec::new());

    // The old home acknowledged a write after the user had left.
    let (invoice, lines) = story.untouched_invoice(1, &mut used)?;
    copy_invoice(&story.singapore, &story.beijing, invoice).await?;
    story.singapore.execute(DELETE_LINES, &[&invoice]).await?;
    story.singapore.execute(DELETE_INVOICE, &[&invoice]).await?;
    for entry in &mut story.log.entries {
        if matches!(&entry.change, Change::CreateInvoice { invoice: id, .. } if *id == invoice) {
            entry.site = "beijing".to_owned();
        }
    }
    let late = story.found_since(&mut before).await?;
    assert_eq!(
        late,
        (1 + lines, 0, 1),
        "a write that only the old home has"
    );

    let rewrite = "UPDATE invoice SET billing_address = 'x' WHERE invoice_id =
                   (SELECT min(invoice_id) FROM invoice WHERE customer_id = 3)";
    story.beijing.execute(rewrite, &[]).await?;
    let thawed = story.found_since(&mut before).await?;
    assert_eq!(thawed, (0, 0, 1), "a changed row in the old copy");

    let elsewhere = "INSERT INTO invoice (invoice_id, customer_id, invoice_date, total)
                     VALUES (1000000001, 2, now(), 1)";
    story.california.execute(elsewhere, &[]).await?;
    let strange = story.found_since(&mut before).await?;
    assert_eq!(strange, (0, 0, 1), "a row at a third site alone");

    let entry = story.log.entries.iter_mut().find(|entry| entry.user == 5);
    entry.context("user 5 wrote nothing")?.site = "california".to_owned();
    let wrong_site = story.found_since(&mut before).await?;
    assert_eq!(wrong_site, (0, 0, 1), "an acknowledgement of a third site");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erased_old_copies_and_unknown_outcomes_are_no_fault() -> Result<()> {
    let mut story = Story::tell("no-fault").await?;
    let erase = "DELETE FROM invoice_line USING invoice i
                 WHERE i.invoice_id = invoice_line.invoice_id AND customer_id BETWEEN 1 AND 4;
                 DELETE FROM invoice WHERE customer_id BETWEEN 1 AND 3";
    story.beijing.batch_execute(erase).await?;
    assert!(story.check().await?.is_clean(), "an erasure half done");

    let mut used = Vec::new();
    let (invoice, lines) = story.untouched_invoice(2, &mut used)?;
    for entry in &mut story.log.entries {
        if matches!(&entry.change, Change::CreateInvoice { invoice: id, .. } if *id == invoice) {
            entry.outcome = Outcome::Unknown;
        }
    }
    let verdict = story.check().await?;
    assert!(verdict.is_clean() && verdict.unknown == 1, "it happened");
    story.singapore.execute(DELETE_LINES, &[&invoice]).await?;
    let verdict = story.check().await?;
    assert_eq!(
        verdict.lost,
        lines.min(1),
        "it happened by half: {verdict:#?}"
    );
    story.singapore.execute(DELETE_INVOICE, &[&invoice]).await?;
    assert!(story.check().await?.is_clean(), "it did not happen");
    Ok(())
}

/// An invoice whose last operation was an edit at singapore, and the address before it.
fn edited_invoice(log: &Log) -> Option<(i32, String)> {
    log.entries.iter().find_map(|entry| {
        let Change::EditInvoice { invoice, .. } = &entry.change else {
            return None;
        };
        let all: Vec<&Entry> = entries_of(log, *invoice).collect();
        let [.., before, last] = all.as_slice() else {
            return None;
        };
        let (Change::CreateInvoice { stamp, .. } | Change::EditInvoice { stamp, .. }) =
            &before.change
        else {
            return None;
        };
        (last.operation == entry.operation && entry.site == "singapore")
            .then(|| (*invoice, stamp.address.clone()))
    })
}

/// A user, and an invoice of his whose deletion singapore acknowledged.
fn deleted_invoice(log: &Log) -> Option<(i32, i32)> {
    log.entries.iter().find_map(|entry| match entry.change {
        Change::DeleteInvoice { invoice } if entry.site == "singapore" => {
            Some((entry.user, invoice))
        }
        _ => None,
    })
}
