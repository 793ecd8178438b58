//! What Domicile finds out about a home database, against real ones: Chinook, and a small odd schema.

mod chinook;
mod odd;
mod preflight;
mod sessions;
mod support;
