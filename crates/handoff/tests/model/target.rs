//! What the target does.

use handoff::decision::Decision;
use handoff::judge::{Findings, Handoff, Judgement, answer, judge};
use model::Epoch;
use model::fault::{Bug, planted};

use crate::rules::Slip;
use crate::table::{self, Kind, NOBODY, Step};
use crate::taking::{Taking, decision, word};
use crate::world::{USERS, Word, members};

impl Taking<'_> {
    // --- the target

    pub fn begin(&mut self, chunk: usize) -> Option<()> {
        let row = self.chunk(chunk);
        let by = Step::Begin {
            from: row.from,
            attempt: row.attempt,
        };
        for user in members(self.step_any(row.to, row.users, |_| by)?) {
            assert!(!row.over, "a forgotten attempt begins nowhere");
            self.world.places[usize::from(row.to)][user].copied = false;
        }
        Some(())
    }

    pub fn copy(&mut self, chunk: usize) -> Option<()> {
        let row = self.chunk(chunk);
        let snapshot = row.snapshot?;
        for user in members(row.users) {
            let arrives = self.arrives(&row, user);
            let place = &mut self.world.places[usize::from(row.to)][user];
            if (arrives && !place.copied) || self.sites.slips(Slip::CopyUnconditionally) {
                place.rows = snapshot[user];
                place.copied = true;
            }
        }
        Some(())
    }

    /// The handoff arrives: the last changes are applied and the batch is judged, in one transaction.
    pub fn handoff(&mut self, batch: usize, against: u8) -> Option<()> {
        let (row, chunk) = self.batch(batch);
        let digest = row.offered?;
        let to = usize::from(chunk.to);
        let mut rows = [0; USERS];
        let mut findings = Findings {
            complete: true,
            against: Vec::new(),
        };
        for user in members(row.users) {
            let place = self.world.places[to][user];
            findings.complete &= place.copied && self.arrives(&chunk, user);
            let lost = self.sites.slips(Slip::ChangeLost);
            rows[user] = place.rows | if lost { 0 } else { digest[user] };
            let differs = rows[user] != digest[user] && !planted(Bug::AcceptUnverified);
            if against & (1 << user) != 0 || (findings.complete && differs) {
                let reason = "a finding".to_owned();
                findings.against.push((table::user(user), reason));
            }
        }
        let handoff = Handoff {
            batch: table::batch_id(batch as u8),
            from: table::site(chunk.from),
            attempt: table::number(chunk.attempt),
            users: members(row.users)
                .map(|user| (table::user(user), Epoch(row.epochs[user].into())))
                .collect(),
        };
        let records = self.records(chunk.to, row.users);
        let standing = row.decision.map(decision);
        assert!(
            !row.over || standing.is_some(),
            "a forgotten batch is decided"
        );
        match judge(&handoff, &records, standing.as_ref(), &findings) {
            Judgement::Accept(list) => {
                if self.decide(batch, Decision::Accepted) {
                    for (key, record) in list {
                        let user = usize::from(table::index(key.as_str()));
                        let next = self.table.number(record);
                        self.put(to, user, next);
                        self.world.places[to][user].rows = rows[user];
                        self.world.places[to][user].copied = false;
                    }
                }
            }
            Judgement::Refuse(refusal) => {
                let Word::Refused { named, .. } = word(&refusal) else {
                    unreachable!("a refusal refuses");
                };
                if self.decide(batch, refusal) {
                    self.step_any(chunk.to, named, |user| Step::Clear {
                        attempt: chunk.attempt,
                        epoch: Some(row.epochs[user]),
                    });
                }
            }
            Judgement::Repeat(decision) => self.say(batch, word(&decision)),
        }
        Some(())
    }

    pub fn ask(&mut self, batch: usize) -> Option<()> {
        let (row, chunk) = self.batch(batch);
        let standing = row.decision.map(decision);
        assert!(
            !row.over || standing.is_some(),
            "a forgotten batch is decided"
        );
        let records = self.records(chunk.to, row.users);
        let said = answer(standing.as_ref(), &records);
        if standing.is_none() {
            self.decide(batch, said);
        } else {
            self.say(batch, word(&said));
        }
        Some(())
    }

    /// `cancel` from the source, or its answer to the target's question about one who arrives.
    pub fn cancel(&mut self, chunk: usize, user: usize) -> Option<()> {
        let row = self.chunk(chunk);
        let here = self.face(row.from.into(), user).leaving_in();
        if here == Some(row.attempt) && !row.early {
            return None;
        }
        let by = Step::Clear {
            attempt: row.attempt,
            epoch: None,
        };
        let cleared = self.step_all(row.to, 1 << user, |_| by);
        if self.sites.slips(Slip::ClearUnconditionally) {
            self.world.places[usize::from(row.to)][user].rows = 0;
            return Some(());
        }
        cleared
    }

    /// The transaction of the last deletion also restores the record.
    pub fn cleared(&mut self, site: usize, user: usize) -> Option<()> {
        let Kind::Clearing { attempt } = self.face(site, user).kind else {
            return None;
        };
        self.step_all(site as u8, 1 << user, |_| Step::Cleared { attempt })?;
        if planted(Bug::DeleteRecordOnRefusal) {
            self.world.places[site][user].record = NOBODY;
        }
        self.world.places[site][user].copied = false;
        self.delete(site, user);
        Some(())
    }
}
