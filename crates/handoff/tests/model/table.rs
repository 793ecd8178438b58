//! Records by number: the model's states hold small numbers, the real [`Resident`]s stand here.
//!
//! Every record is made by the real [`step`] or [`judge`](handoff::judge::judge). Because `step` is pure, its
//! result for one (record, event) is computed once and remembered.

use std::collections::HashMap;

use handoff::record::{Event, Resident, State, step};
use model::{Attempt, BatchId, Epoch, SiteName, UserKey};

/// A record's number; [`NOBODY`] where there is none.
pub type Number = u16;

/// No record.
pub const NOBODY: Number = 0;

/// An event in small numbers: sites, batches, attempts and epochs as the model counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Create,
    Enrol { to: u8, attempt: u8 },
    Withdraw { attempt: u8 },
    Fence { attempt: u8, batch: u8 },
    Reopen { batch: u8 },
    Offer { batch: u8 },
    Accepted { batch: u8 },
    Refused { batch: u8, named: bool, highest: u8 },
    Erased { epoch: u8 },
    Begin { from: u8, attempt: u8 },
    Clear { attempt: u8, epoch: Option<u8> },
    Cleared { attempt: u8 },
}

impl Step {
    fn event(self) -> Event {
        match self {
            Self::Create => Event::Create,
            Self::Enrol { to, attempt } => Event::Enrol {
                to: site(to),
                attempt: number(attempt),
            },
            Self::Withdraw { attempt } => Event::Withdraw {
                attempt: number(attempt),
            },
            Self::Fence { attempt, batch } => Event::Fence {
                attempt: number(attempt),
                batch: batch_id(batch),
            },
            Self::Reopen { batch } => Event::Reopen {
                batch: batch_id(batch),
            },
            Self::Offer { batch } => Event::Offer {
                batch: batch_id(batch),
            },
            Self::Accepted { batch } => Event::Accepted {
                batch: batch_id(batch),
            },
            Self::Refused {
                batch,
                named,
                highest,
            } => Event::Refused {
                batch: batch_id(batch),
                named,
                highest: Epoch(highest.into()),
            },
            Self::Erased { epoch } => Event::Erased {
                epoch: Epoch(epoch.into()),
            },
            Self::Begin { from, attempt } => Event::Begin {
                from: site(from),
                attempt: number(attempt),
            },
            Self::Clear { attempt, epoch } => Event::Clear {
                attempt: number(attempt),
                epoch: epoch.map(|e| Epoch(e.into())),
            },
            Self::Cleared { attempt } => Event::Cleared {
                attempt: number(attempt),
            },
        }
    }
}

/// What the model asks of a record, in small numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Face {
    pub kind: Kind,
    /// What [`State::is_home`] says.
    pub home: bool,
    /// What [`State::is_open`] says.
    pub open: bool,
    pub seen: u8,
    pub attempt_seen: u8,
}

/// The state of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nobody,
    Settled { epoch: u8 },
    Moving { epoch: u8, attempt: u8 },
    Fenced { epoch: u8, attempt: u8, batch: u8 },
    Offered { epoch: u8, attempt: u8, batch: u8 },
    Departed { epoch: u8, to: u8 },
    Arriving { from: u8, attempt: u8 },
    Clearing { attempt: u8 },
    Lost,
}

impl Face {
    const NOBODY: Self = Self {
        kind: Kind::Nobody,
        home: false,
        open: false,
        seen: 0,
        attempt_seen: 0,
    };

    fn of(record: &Resident) -> Self {
        let kind = match &record.state {
            State::Settled { epoch } => Kind::Settled {
                epoch: small(epoch.0),
            },
            State::Moving { epoch, attempt, .. } => Kind::Moving {
                epoch: small(epoch.0),
                attempt: small(attempt.0),
            },
            State::Fenced {
                epoch,
                attempt,
                batch,
                ..
            } => Kind::Fenced {
                epoch: small(epoch.0),
                attempt: small(attempt.0),
                batch: index(batch.as_str()),
            },
            State::Offered {
                epoch,
                attempt,
                batch,
                ..
            } => Kind::Offered {
                epoch: small(epoch.0),
                attempt: small(attempt.0),
                batch: index(batch.as_str()),
            },
            State::Departed { to, epoch, .. } => Kind::Departed {
                epoch: small(epoch.0),
                to: index(to.as_str()),
            },
            State::Arriving { from, attempt, .. } => Kind::Arriving {
                from: index(from.as_str()),
                attempt: small(attempt.0),
            },
            State::Clearing { attempt, .. } => Kind::Clearing {
                attempt: small(attempt.0),
            },
            State::Lost { .. } => Kind::Lost,
        };
        Self {
            kind,
            home: record.state.is_home(),
            open: record.state.is_open(),
            seen: small(record.seen.0),
            attempt_seen: small(record.attempt_seen.0),
        }
    }

    /// The attempt in which this record's user is under way from here.
    pub fn leaving_in(&self) -> Option<u8> {
        match self.kind {
            Kind::Moving { attempt, .. }
            | Kind::Fenced { attempt, .. }
            | Kind::Offered { attempt, .. } => Some(attempt),
            Kind::Nobody
            | Kind::Settled { .. }
            | Kind::Departed { .. }
            | Kind::Arriving { .. }
            | Kind::Clearing { .. }
            | Kind::Lost => None,
        }
    }

    /// The epoch that the record itself stands at.
    pub fn epoch(&self) -> Option<u8> {
        match self.kind {
            Kind::Settled { epoch }
            | Kind::Moving { epoch, .. }
            | Kind::Fenced { epoch, .. }
            | Kind::Offered { epoch, .. }
            | Kind::Departed { epoch, .. } => Some(epoch),
            Kind::Nobody | Kind::Arriving { .. } | Kind::Clearing { .. } | Kind::Lost => None,
        }
    }
}

/// All records met so far.
pub struct Table {
    records: Vec<(Option<Resident>, Face)>,
    numbers: HashMap<Resident, Number>,
    steps: HashMap<(Number, Step), Option<Number>>,
    adopted: Number,
}

impl Table {
    pub fn new() -> Self {
        let mut table = Self {
            records: vec![(None, Face::NOBODY)],
            numbers: HashMap::new(),
            steps: HashMap::new(),
            adopted: NOBODY,
        };
        table.adopted = table.number(Resident::adopted());
        table
    }

    /// The number of someone who has lived at the origin since before it was installed.
    pub fn adopted(&self) -> Number {
        self.adopted
    }

    pub fn number(&mut self, record: Resident) -> Number {
        if let Some(number) = self.numbers.get(&record) {
            return *number;
        }
        let number = Number::try_from(self.records.len()).expect("few records");
        self.records.push((Some(record.clone()), Face::of(&record)));
        self.numbers.insert(record, number);
        number
    }

    pub fn record(&self, number: Number) -> Option<&Resident> {
        self.records[usize::from(number)].0.as_ref()
    }

    pub fn face(&self, number: Number) -> Face {
        self.records[usize::from(number)].1
    }

    /// What the real [`step`] makes of the record; nothing where the step is illegal.
    pub fn step(&mut self, number: Number, by: Step) -> Option<Number> {
        if let Some(known) = self.steps.get(&(number, by)) {
            return *known;
        }
        let next = step(self.record(number), &by.event()).ok();
        let next = next.map(|record| self.number(record));
        self.steps.insert((number, by), next);
        next
    }
}

pub fn site(index: u8) -> SiteName {
    SiteName::new(index.to_string())
}

pub fn batch_id(index: u8) -> BatchId {
    BatchId::new(index.to_string())
}

pub fn user(index: usize) -> UserKey {
    UserKey::new(index.to_string())
}

pub fn number(attempt: u8) -> Attempt {
    Attempt(attempt.into())
}

/// The small number behind a name made here.
pub fn index(name: &str) -> u8 {
    name.parse().expect("names are numbers in the model")
}

/// An epoch or attempt in the model's own width.
pub fn small(number: i64) -> u8 {
    u8::try_from(number).expect("bounded by the model's budgets")
}
