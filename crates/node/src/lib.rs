//! The gateway daemon: one process that joins the cores (`tunnel`, `router`, `identity`, `policy`)
//! to sockets, files and the local API. [`run()`] is the whole of it.
#![forbid(unsafe_code)]

pub mod a2a;
pub mod agents;
pub mod api;
mod candidates;
pub mod config;
pub mod control;
mod directories;
mod exchange;
pub mod files;
mod foreign;
mod links;
pub mod messages;
pub mod plane;
pub mod road;
mod run;
mod sessions;
pub mod spool;
pub mod state;
pub mod streams;
mod view;
pub mod workers;
pub mod world;

pub use config::{Config, ConfigError};
pub use run::{Ready, RunError, run};
