//! A request as it goes on: everything of its head that is needed after the buffer that it was read into has moved on.

use std::net::IpAddr;

use model::SiteName;

use crate::asked::Asked;
use crate::exchange::Misdirected;
use crate::http::head::{Framing, RequestHead};
use crate::http::response::is_ours;
use crate::identify::Refused;
use crate::locate::Word;
use crate::site::Gateway;
use crate::who::{self, Who};

/// How many gateways may pass a request on before it is given up: one knows the home, or two that it was told by the one before.
pub const HOPS_MAX: u8 = 3;

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    pub who: Who,
    pub head_only: bool,
    /// Whether sending it twice does nothing that sending it once does not (RFC 9110 section 9.2.1).
    pub safe: bool,
    pub old: bool,
    pub close: bool,
    pub websocket: bool,
    pub expects: bool,
    pub framing: Framing,
    pub said: Said,
}

/// What a peer's gateway said beside the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// How many gateways it has passed.
    pub hops: u8,
    /// What it knows of the user.
    pub word: Word,
    /// Whether it can send the request again by itself.
    pub can_resend: bool,
}

// === impl Request ===

impl Request {
    /// Takes what is needed from `head`; the line and the fields that go on are left in `onward`, without an end.
    ///
    /// # Errors
    /// One of the fields is not let pass: see [`Clean::passing`](crate::clean::Clean::passing).
    pub fn new(
        gateway: &Gateway,
        head: &RequestHead<'_, '_>,
        asked: &Asked<'_>,
        who: Who,
        origin: &[u8],
        onward: &mut Vec<u8>,
    ) -> Result<Self, Refused> {
        // A front, or a peer's gateway, has said already whom the request comes from.
        let behind = gateway.rules.trusts(asked);
        onward.clear();
        onward.extend_from_slice(head.method.as_bytes());
        onward.push(b' ');
        onward.extend_from_slice(head.target.as_bytes());
        onward.extend_from_slice(b" HTTP/1.1\r\n");
        let mut said = Said::default();
        for header in gateway.clean.passing(asked, behind) {
            let header = header?;
            if is_ours(header.name) {
                said.hear(header.name, header.value);
                continue;
            }
            if drops(header.name, behind) {
                continue;
            }
            onward.extend_from_slice(header.name.as_bytes());
            onward.extend_from_slice(b": ");
            onward.extend_from_slice(header.value);
            onward.extend_from_slice(b"\r\n");
        }
        if !behind {
            onward.extend_from_slice(origin);
        }
        Ok(Self {
            who,
            head_only: head.method == "HEAD",
            safe: matches!(head.method, "GET" | "HEAD" | "OPTIONS"),
            old: head.old,
            close: head.close,
            websocket: head.websocket,
            expects: head.expects,
            framing: head.framing,
            said,
        })
    }

    /// Takes the user whom the application that refused a request of nobody's named, with where it believes that he lives; false where it named
    /// none, or what is no key.
    pub fn is_named_by(&mut self, gateway: &Gateway, says: &Misdirected) -> bool {
        let (Who::Nobody { service, .. }, Some(key)) = (&self.who, &says.user) else {
            return false;
        };
        let Ok(named) = who::named(gateway, *service, key, None) else {
            tracing::warn!("an application named a user by what is no key of its service");
            return false;
        };
        let home = says.home.as_deref();
        if let Some(site) = home.and_then(|home| gateway.site(&SiteName::from(home)))
            && let Some(service) = gateway.services.get(usize::from(named.service))
        {
            // Less than any record, and any gateway, says.
            service.homes.hear(named.hash, site, 0);
        }
        self.who = Who::Named(named);
        true
    }
}

/// What the gateway says itself, and nobody else: the body's length, whom it comes from, and what it has answered.
fn drops(name: &str, behind: bool) -> bool {
    match name.len() {
        6 => name.eq_ignore_ascii_case("expect"),
        14 => name.eq_ignore_ascii_case("content-length"),
        15 => !behind && name.eq_ignore_ascii_case("x-forwarded-for"),
        16 => !behind && name.eq_ignore_ascii_case("x-forwarded-host"),
        17 => !behind && name.eq_ignore_ascii_case("x-forwarded-proto"),
        9 => !behind && name.eq_ignore_ascii_case("forwarded"),
        _ => false,
    }
}

/// The fields that tell the application whom a request came from, made once a connection.
pub(crate) fn origin(from: IpAddr, sealed: bool) -> Vec<u8> {
    let scheme = if sealed { "https" } else { "http" };
    format!("x-forwarded-for: {from}\r\nx-forwarded-proto: {scheme}\r\n").into_bytes()
}

/// What identifies a request.
pub(crate) fn asked<'a>(
    head: &'a RequestHead<'a, 'a>,
    from: IpAddr,
    peer: Option<&'a SiteName>,
) -> Asked<'a> {
    Asked {
        method: head.method,
        host: head.host,
        path: head.path,
        query: head.query,
        headers: head.headers,
        from,
        peer,
    }
}

// === impl Said ===

impl Said {
    fn hear(&mut self, name: &str, value: &[u8]) {
        let value = std::str::from_utf8(value).unwrap_or("");
        match name.to_ascii_lowercase().as_str() {
            // One that cannot be read has passed too many.
            "domicile-hops" => self.hops = value.parse().unwrap_or(HOPS_MAX),
            "domicile-epoch" => self.word.epoch = value.parse().ok(),
            "domicile-newcomer" => self.word.newcomer = true,
            "domicile-can-resend" => self.can_resend = true,
            _ => {}
        }
    }

    /// Says it to a peer.
    pub fn write(&self, out: &mut Vec<u8>) {
        use std::io::Write as _;
        // Into memory: it cannot fail.
        let _ = write!(out, "domicile-hops: {}\r\n", self.hops);
        if let Some(epoch) = self.word.epoch {
            let _ = write!(out, "domicile-epoch: {epoch}\r\n");
        }
        if self.word.newcomer {
            out.extend_from_slice(b"domicile-newcomer: yes\r\n");
        }
        if self.can_resend {
            out.extend_from_slice(b"domicile-can-resend: yes\r\n");
        }
    }
}
