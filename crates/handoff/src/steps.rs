//! The durable steps of a move, by name: where something may die. Kept here so that the tests of deaths, which learn from a
//! running program which points it passes, notice a step that they no longer meet.

/// One of the two ends of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Where users leave.
    Source,
    /// Where they arrive.
    Target,
}

/// What is committed at one end. The program passes the point `before-NAME` just before the commit, `after-NAME` just after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Its name, as in the points.
    pub name: &'static str,
    /// Where it is committed.
    pub end: End,
}

/// All steps of a move in which some users go over and some are refused, in the order of a user's way. (`cancel` and the
/// steps of an erasure are not among them: no such move takes them.)
pub const OF_A_MOVE: [Step; 11] = [
    step("begin", End::Target),
    step("enrol", End::Source),
    step("copied", End::Target),
    step("apply", End::Target),
    step("fence", End::Source),
    step("drained", End::Target),
    step("offer", End::Source),
    step("accept", End::Target),
    step("refuse", End::Target),
    step("cleared", End::Target),
    step("departed", End::Source),
];

const fn step(name: &'static str, end: End) -> Step {
    Step { name, end }
}
