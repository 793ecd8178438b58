//! The registry asks homes: about claims whose lease is over, and, slowly, about all others. What they say is written down.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use model::SiteName;
use residency::claims::{self, Finding, Hash};

use super::word::Word;
use super::{Claims, Failed, Home, Service};

/// How often claims are looked for whose lease is over.
const EVERY: Duration = Duration::from_secs(1);

/// How often some of those are asked about that homes hold: they tell changes by themselves, so this only takes away what they do not hold any more.
const SLOWLY: Duration = Duration::from_secs(10);

/// How many are asked about at once: a question about them all is a tenth of the largest message.
const TOGETHER: i64 = 256;

/// How often answers are forgotten that are older than they are kept.
const FORGET: Duration = Duration::from_secs(600);

/// The moments that homes wait for: since when what began there must have ended. In memory: where they are lost, homes are asked anew, and
/// claims stand longer.
#[derive(Debug, Default)]
pub(super) struct Since(HashMap<(Hash, i64, SiteName), i64>);

// === impl Since ===

impl Since {
    /// Beyond this all are forgotten: so many do not wait, unless transactions are open for hours.
    const MOST: usize = 100_000;

    pub fn of(&self, name: Hash, turn: i64, site: &SiteName) -> Option<i64> {
        self.0.get(&(name, turn, site.clone())).copied()
    }

    pub fn heard(&mut self, name: Hash, turn: i64, site: &SiteName, word: &Word) {
        let key = (name, turn, site.clone());
        match word {
            Word::Lacks { since_us: Some(us) } | Word::Unknown { since_us: Some(us) } => {
                if self.0.len() >= Self::MOST {
                    self.0.clear();
                }
                self.0.insert(key, *us);
            }
            // Still wanted where another site makes the claim wait.
            Word::Unsure | Word::Unknown { since_us: None } => {}
            Word::Holds | Word::Lacks { since_us: None } | Word::Elsewhere { .. } => {
                self.0.remove(&key);
            }
        }
    }
}

// === impl Claims ===

impl Claims {
    /// Confirms and takes away for ever, at the registry's site.
    pub(super) async fn settle(&self, service: &Service, home: &Home) -> Result<(), Failed> {
        let mut since = Since::default();
        let (mut slowly, mut forgotten) = (Instant::now(), Instant::now());
        loop {
            let full = self.settle_some(service, home, false, &mut since).await?;
            if slowly.elapsed() >= SLOWLY {
                self.settle_some(service, home, true, &mut since).await?;
                slowly = Instant::now();
            }
            if forgotten.elapsed() >= FORGET {
                claims::forget(&**home.session().await?).await?;
                forgotten = Instant::now();
            }
            if !full {
                tokio::time::sleep(EVERY).await;
            }
        }
    }

    /// Settles what is due. Returns whether there may be more that nobody asked about in this round.
    async fn settle_some(
        &self,
        service: &Service,
        home: &Home,
        held: bool,
        since: &mut Since,
    ) -> Result<bool, Failed> {
        let due = claims::due(&**home.session().await?, held, TOGETHER).await?;
        let findings = self.find(service, &due, since).await;
        let session = home.session().await?;
        let mut settled = 0;
        for ((name, entry), finding) in due.iter().zip(&findings) {
            let written = claims::settle(&**session, *name, entry.turn, finding).await?;
            settled += usize::from(written);
            let what = match finding {
                _ if !written => continue,
                Finding::Held(_) if held => continue,
                Finding::Held(_) => "held",
                Finding::Free => "free",
                Finding::Waits | Finding::Unsure => continue,
            };
            self.tally.settled(&service.name, what);
        }
        Ok(settled == TOGETHER as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_asked_again_with_the_moment_that_it_waits_for() {
        let (name, site) = (Hash([1; 32]), SiteName::from("beijing"));
        let mut since = Since::default();
        since.heard(name, 1, &site, &Word::Lacks { since_us: Some(5) });
        assert_eq!(since.of(name, 1, &site), Some(5));
        since.heard(name, 1, &site, &Word::Unsure);
        assert_eq!(since.of(name, 1, &site), Some(5));
        // Another turn has another lease.
        assert_eq!(since.of(name, 2, &site), None);
        since.heard(name, 1, &site, &Word::Lacks { since_us: None });
        assert_eq!(since.of(name, 1, &site), None);
    }
}
