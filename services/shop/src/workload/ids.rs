//! Ids handed out by the application, unique at all sites (`ids = "application"`).

use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context as _, Result, ensure};

use crate::site::{Connection, Site};

/// Room that a workload must find above the highest id: an hour of the fastest workload.
const HEADROOM: i32 = 10_000_000;

/// A counter for each table. Share one between workloads that run after or beside each other.
#[derive(Debug)]
pub struct Ids {
    customer: AtomicI32,
    invoice: AtomicI32,
    line: AtomicI32,
}

impl Ids {
    /// Counters that start above everything that stands at any of `sites`.
    ///
    /// # Errors
    ///
    /// Where a site cannot be read, or too few ids are left.
    pub async fn above_existing(sites: &[Site]) -> Result<Ids> {
        let mut highest = [0_i32; 3];
        for site in sites {
            let connection = Connection::open(site).await?;
            let row = connection
                .client
                .query_one(
                    "SELECT (SELECT coalesce(max(customer_id), 0) FROM customer),
                            (SELECT coalesce(max(invoice_id), 0) FROM invoice),
                            (SELECT coalesce(max(invoice_line_id), 0) FROM invoice_line)",
                    &[],
                )
                .await
                .with_context(|| format!("cannot read the highest ids at {}", site.name))?;
            for (index, highest) in highest.iter_mut().enumerate() {
                *highest = (*highest).max(row.get(index));
            }
        }
        ensure!(
            highest.iter().all(|id| *id <= i32::MAX - HEADROOM),
            "fewer than {HEADROOM} ids are left"
        );
        Ok(Ids {
            customer: AtomicI32::new(highest[0] + 1),
            invoice: AtomicI32::new(highest[1] + 1),
            line: AtomicI32::new(highest[2] + 1),
        })
    }

    /// The next `customer_id`.
    pub fn customer(&self) -> i32 {
        self.customer.fetch_add(1, Ordering::Relaxed)
    }

    /// The next `invoice_id`.
    pub fn invoice(&self) -> i32 {
        self.invoice.fetch_add(1, Ordering::Relaxed)
    }

    /// The next `invoice_line_id`.
    pub fn line(&self) -> i32 {
        self.line.fetch_add(1, Ordering::Relaxed)
    }
}
