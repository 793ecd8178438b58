//! A site's HTTP gateway: takes the user from a request, finds his home in memory, and sends the request there; holds requests of
//! a user back while he changes home. It does not know how moves work, and no database.

pub mod asked;
pub mod clean;
mod connection;
pub mod doors;
mod exchange;
pub mod homes;
pub mod http;
pub mod identify;
pub mod lines;
pub mod locate;
mod multiplexed;
mod pool;
mod request;
pub mod site;
mod stream;
pub mod tally;
pub mod thread;
mod tunnel;
mod who;
