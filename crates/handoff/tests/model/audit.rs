//! The invariants of DESIGN section 3, as far as the model can see them.
//!
//! Each step is audited when it is taken; a violation is noted in [`World::broken`], where the properties
//! find it.

use crate::table::{Face, Kind, NOBODY, Number, Table};
use crate::world::{BASE, Batch, SITES, USERS, Word, World};

/// At most one site is open for the user's writes, and none commits one that it fenced.
pub const I1: u16 = 1;
/// Every acknowledged write stands at the user's home.
pub const I2: u16 = 1 << 1;
/// A site that is not the user's home acknowledges no write.
pub const I3: u16 = 1 << 2;
/// Epochs and attempts grow; a site never names another home under an epoch that it has named already.
pub const I4: u16 = 1 << 3;
/// Rows are deleted only where another site is home and holds them all.
pub const I6: u16 = 1 << 4;
/// After an abort the source is open again with all that was acknowledged.
pub const I8: u16 = 1 << 5;
/// Exactly one site is the user's home; an offer that was accepted counts for its target.
pub const ONE_HOME: u16 = 1 << 6;

/// The number of the record that counts: at the origin no record means someone who was there at adoption.
pub fn effective(
    world: &World,
    table: &Table,
    origin: Option<u8>,
    site: usize,
    user: usize,
) -> Number {
    match world.places[site][user].record {
        NOBODY if origin.map(usize::from) == Some(site) => table.adopted(),
        record => record,
    }
}

/// Faces of all effective records.
pub fn faces(world: &World, table: &Table, origin: Option<u8>) -> [[Face; USERS]; SITES] {
    std::array::from_fn(|site| {
        std::array::from_fn(|user| table.face(effective(world, table, origin, site, user)))
    })
}

/// What a change of a record from `old` to `new` at `site` breaks; `told` is what the site named before.
pub fn change(old: &Face, new: &Face, site: usize, told: &mut Option<(u8, u8)>) -> u16 {
    let mut broken = 0;
    if new.seen < old.seen || new.attempt_seen < old.attempt_seen {
        broken |= I4;
    }
    let must_grow = match (old.kind, new.kind) {
        (Kind::Moving { .. }, Kind::Fenced { .. }) => old.epoch(),
        (
            Kind::Fenced { .. } | Kind::Offered { .. },
            Kind::Moving { .. } | Kind::Settled { .. },
        ) => old.epoch(),
        (Kind::Arriving { .. }, Kind::Settled { .. }) => Some(old.seen),
        _ => None,
    };
    if let (Some(old), Some(new)) = (must_grow, new.epoch())
        && new <= old
    {
        broken |= I4;
    }
    let tells = match new.kind {
        Kind::Settled { epoch } | Kind::Moving { epoch, .. } => Some((site as u8, epoch)),
        Kind::Departed { epoch, to } => Some((to, epoch)),
        Kind::Nobody
        | Kind::Fenced { .. }
        | Kind::Offered { .. }
        | Kind::Arriving { .. }
        | Kind::Clearing { .. }
        | Kind::Lost => None,
    };
    if let Some((home, epoch)) = tells {
        if let Some((home_before, epoch_before)) = *told
            && (epoch < epoch_before || epoch == epoch_before && home != home_before)
        {
            broken |= I4;
        }
        *told = tells;
    }
    broken
}

/// Where the user lives: the sites whose records say home, less those whose offer was accepted elsewhere.
pub fn homes(
    world: &World,
    faces: &[[Face; USERS]; SITES],
    user: usize,
) -> impl Iterator<Item = usize> {
    (0..SITES).filter(move |site| {
        let face = &faces[*site][user];
        let gone = matches!(face.kind, Kind::Offered { batch, .. } if accepted(&world.batches[usize::from(batch)]));
        face.home && !gone
    })
}

fn accepted(batch: &Option<Batch>) -> bool {
    matches!(batch, Some(batch) if batch.decision == Some(Word::Accepted))
}

/// What is wrong with a whole state.
pub fn state(world: &World, faces: &[[Face; USERS]; SITES], users: usize) -> u16 {
    let mut broken = 0;
    for user in 0..users {
        if faces.iter().filter(|site| site[user].open).count() > 1 {
            broken |= I1;
        }
        let mut homes = homes(world, faces, user);
        match (homes.next(), homes.next()) {
            (Some(home), None) => {
                let missing = world.acknowledged[user] & !world.places[home][user].rows;
                broken |= if missing == 0 { 0 } else { I2 };
            }
            _ => broken |= ONE_HOME,
        }
    }
    broken
}

/// Whether a site other than `site` is home and holds every acknowledged row of the user.
pub fn held_elsewhere(
    world: &World,
    faces: &[[Face; USERS]; SITES],
    site: usize,
    user: usize,
) -> bool {
    homes(world, faces, user).any(|home| {
        home != site && (world.acknowledged[user] | BASE) & !world.places[home][user].rows == 0
    })
}

/// Whether nothing is under way: every user settled somewhere and nothing of him unfinished elsewhere.
pub fn quiet(faces: &[[Face; USERS]; SITES], users: usize) -> bool {
    (0..users).all(|user| {
        let settled = |face: &&[Face; USERS]| matches!(face[user].kind, Kind::Settled { .. });
        faces.iter().filter(settled).count() == 1
            && faces.iter().all(|site| {
                matches!(
                    site[user].kind,
                    Kind::Nobody | Kind::Settled { .. } | Kind::Departed { .. }
                )
            })
    })
}
