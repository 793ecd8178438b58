//! What a request says of itself, before anything is decided. The parser has seen to its form.

use std::net::IpAddr;

use httparse::Header;
use model::SiteName;

/// A request's head, and who brought it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The method, as it was written.
    pub method: &'a str,
    /// The host without port, from the target or the one `Host` header. As it was written.
    pub host: &'a str,
    /// The path, as it was written: never decoded, never normalised. `*` of OPTIONS is a path too.
    pub path: &'a str,
    /// What follows `?`, if anything does.
    pub query: Option<&'a str>,
    /// All headers, in order, names as they were written.
    pub headers: &'a [Header<'a>],
    /// The address at the other end of the connection.
    pub from: IpAddr,
    /// The site whose gateway brought it over the pinned link; `None`: a client did.
    pub peer: Option<&'a SiteName>,
}
