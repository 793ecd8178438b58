//! `[alerts]`: when a daemon says that something stands still that should not.

use std::collections::BTreeSet;
use std::time::Duration;

use super::reader::Node;
use super::{ConfigError, quantity};

/// The bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alerts {
    /// How long users may wait for their target's answer. Default 60 s.
    pub in_doubt: Duration,
    /// How long users may be on their way to a site. Default one day.
    pub arriving: Duration,
    /// How much of `limits.wal` a slot may keep back, in percent. Default 50.
    pub wal_percent: u64,
    /// Standbys, by the name under which they follow, that nobody ever promotes. Default: `pg_receivewal`.
    pub never_promoted: BTreeSet<String>,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            in_doubt: Duration::from_secs(60),
            arriving: Duration::from_secs(86_400),
            wal_percent: 50,
            never_promoted: ["pg_receivewal".to_owned()].into(),
        }
    }
}

pub(super) fn read(node: Option<Node<'_>>) -> Result<Alerts, ConfigError> {
    let mut alerts = Alerts::default();
    let Some(node) = node else {
        return Ok(alerts);
    };
    let form = "a duration above zero such as \"60s\" or \"1d\"";
    let time = |text: &str| quantity::duration(text).filter(|time| !time.is_zero());
    let mut table = node.table()?;
    if let Some(node) = table.take("in_doubt") {
        alerts.in_doubt = node.read(form, time)?;
    }
    if let Some(node) = table.take("arriving") {
        alerts.arriving = node.read(form, time)?;
    }
    if let Some(node) = table.take("wal_percent") {
        alerts.wal_percent = match node.positive()? {
            percent @ 1..=100 => percent,
            more => return Err(node.error(format_args!("{more} percent is more than all"))),
        };
    }
    if let Some(node) = table.take("never_promoted") {
        let names = node.nodes()?;
        let names = names.iter().map(|name| name.string().map(str::to_owned));
        alerts.never_promoted = names.collect::<Result<_, _>>()?;
    }
    table.finish()?;
    Ok(alerts)
}
