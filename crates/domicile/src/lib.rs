//! The binary's own room: commands, configuration, console. The only reader of the configuration, and
//! the only place that prints.

pub mod alerts;
pub mod cli;
pub mod commands;
pub mod config;
pub mod demo;
pub mod exit;
pub mod planning;
pub mod propose_toml;
pub mod render;
pub mod site;
pub mod summary;
pub mod traffic;
