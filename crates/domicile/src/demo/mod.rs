//! The story of the demo: a shop that began in Beijing, and whose users move home phase by phase while
//! writers go on writing.
//!
//! What moves them are the commands themselves, with a configuration file like anybody's. What is
//! counted afterwards comes from reading all sites, held against the writers' own log.

mod act;
mod programme;
mod residences;
mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;

use shop::check::Verdict;
use shop::workload::Ids;

pub use act::Figures;
use act::{Act, Past};
pub use programme::users_wanted;
pub use stage::Stage;

use crate::cli::{Check, Install, Json, SiteUrl};
use crate::commands::{check, install, show};
use crate::config::{Config, Secret};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::demo::{DemoResult, PinnedMarket};
use residences::Residences;

/// What a demo came to.
#[derive(Clone, Debug)]
pub struct Finale {
    /// The counts, as `--json FILE` gets them.
    pub result: DemoResult,
    /// What each phase was seen to do besides, in the same order.
    pub figures: Vec<Figures>,
    /// Everything that should not have happened, in words without row values; beyond the counts.
    pub complaints: Vec<String>,
}

impl Finale {
    /// 1 where anything was lost, doubled, misplaced, set aside or otherwise wrong.
    pub fn exit(&self) -> Exit {
        match self.complaints.is_empty() {
            true => self.result.exit(),
            false => Exit::Unfinished,
        }
    }
}

/// Prepares the sites with `install`, looks with `check`, and carries out every phase with `apply`.
pub async fn play(stage: &Stage) -> Outcome<Finale> {
    let config = Config::load(&stage.config_file())?;
    prepare(stage, &config).await?;
    let ids = Ids::above_existing(&stage.shop_sites())
        .await
        .or_fail(Exit::Unreached, || "cannot read the shop's ids".into())?;
    let ids = Arc::new(ids);

    let mut finale = Finale {
        result: DemoResult::default(),
        figures: Vec::new(),
        complaints: Vec::new(),
    };
    let mut past = Past {
        residences: Residences::read(stage).await?,
        log: None,
        found: Verdict::default(),
    };
    for phase in &config.policy.phases {
        let services: Vec<_> = phase.services.iter().map(ToString::to_string).collect();
        show(&format!(
            "\n== Phase {} of {}: writers write for all {} users",
            phase.name,
            services.join(", "),
            crate::render::count(stage.users().len() as u64)
        ))?;
        let act = Act {
            stage,
            config: &config,
            phase: &phase.name,
            ids: &ids,
        };
        let played = act.play(past).await?;
        past = played.past;
        let mut counts = played.counts;
        counts.service = services;
        finale.result.phases.push(counts);
        finale.figures.push(played.figures);
        finale.complaints.extend(played.complaints);
    }
    finale.result.pinned = pinned(stage, &config, &past.residences).await?;
    Ok(finale)
}

async fn prepare(stage: &Stage, config: &Config) -> Outcome<()> {
    show("\n== domicile install")?;
    let admin = stage.administrators().map(|(site, url)| SiteUrl {
        site: site.to_owned(),
        url: Secret::new(url),
    });
    let wanted = Install {
        site: None,
        admin: admin.collect(),
        json: Json { json: false },
    };
    install::run(config, &wanted).await?;
    show("\n== domicile check")?;
    let wanted = Check {
        site: None,
        json: Json { json: false },
    };
    match check::run(config, &wanted).await? {
        Exit::Done => Ok(()),
        exit => Err(Failure::new(
            exit,
            anyhow::anyhow!("the freshly made sites do not pass the check"),
        )),
    }
}

/// How many users of each pinned market there are, and how many of them are anywhere but where they are
/// pinned: by their residency records, or by a row of theirs.
async fn pinned(
    stage: &Stage,
    config: &Config,
    residences: &Residences,
) -> Outcome<BTreeMap<String, PinnedMarket>> {
    let mut pinned = BTreeMap::new();
    for (market, site) in &config.policy.pinned {
        let users = stage.users_of(market.as_str());
        let mut elsewhere = residences.elsewhere(&users, site.as_str());
        for other in stage.shop_sites() {
            if other.name != site.as_str() {
                elsewhere.extend(residences::with_rows_at(&other, &users).await?);
            }
        }
        let counts = PinnedMarket {
            users: users.len() as u64,
            moved: elsewhere.len() as u64,
        };
        pinned.insert(market.to_string(), counts);
    }
    Ok(pinned)
}
