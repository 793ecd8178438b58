//! Requests for tests, as a parser would hand them over.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::net::IpAddr;

use gateway::asked::Asked;
use httparse::Header;
use model::SiteName;

#[derive(Clone, Debug)]
pub struct Request {
    target: String,
    host: String,
    headers: Vec<(String, Vec<u8>)>,
    from: IpAddr,
    peer: Option<SiteName>,
}

impl Request {
    /// Of a client whom nobody knows.
    pub fn get(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            host: "shop.example".to_owned(),
            headers: Vec::new(),
            from: "203.0.113.9".parse().unwrap(),
            peer: None,
        }
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        self.raw(name, value.as_bytes())
    }

    pub fn raw(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.push((name.to_owned(), value.to_vec()));
        self
    }

    pub fn from(mut self, from: &str) -> Self {
        self.from = from.parse().unwrap();
        self
    }

    pub fn peer(mut self) -> Self {
        self.peer = Some(SiteName::from("singapore"));
        self
    }

    pub fn with<T>(&self, look: impl FnOnce(&Asked<'_>) -> T) -> T {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| Header { name, value })
            .collect();
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        look(&Asked {
            method: "GET",
            host: &self.host,
            path,
            query,
            headers: &headers,
            from: self.from,
            peer: self.peer.as_ref(),
        })
    }
}
