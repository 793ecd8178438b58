//! Takes users from one site to another, step by step.
//!
//! One file per step, what undoes it beside it, and [`drive`] for the order:
//! [`recover`] what an earlier run left, [`prepare`] (begin, enrol, barrier), [`copying`], [`catch_up`],
//! [`hand_off`] (fence, offer, digest; behind the gateways' [`mod@door`]), [`put_back`] for whoever does not
//! go, [`finish`], and later [`erase`]. [`shapes`] watches over the tables all the while, and [`rest`] lets the guard rest where nobody moves. `steer` pauses, slows and ends a move that runs; [`abort`] ends one that nobody carries. [`compare`] comes before all of it where a server was restarted; [`reclaim`] takes back what a destroyed site will not answer for. [`seal`] puts what happened into the sites' ledgers.
//!
//! All of this is the source's half. What it wants of the target it asks ([`mod@ask`]) along a line ([`far`]); [`host`] is the
//! target's half, which answers, in this process or at another site.

pub mod abort;
pub mod activity;
pub mod ask;
pub mod audit;
mod bonds;
mod both;
pub mod catch_up;
pub mod compare;
mod copier;
pub mod copying;
pub mod desk;
pub mod door;
pub mod drive;
mod durable;
pub mod erase;
mod error;
pub mod event;
pub mod failure;
pub mod far;
pub mod finish;
pub mod hand_off;
mod hand_over;
pub mod host;
mod lane;
mod policy;
mod portion;
pub mod ports;
pub mod prepare;
pub mod put_back;
mod queue;
pub mod reclaim;
pub mod recover;
pub mod resolve;
pub mod rest;
pub mod route;
pub mod seal;
mod settle;
pub mod shapes;
mod steer;

pub use error::{Error, Result};
