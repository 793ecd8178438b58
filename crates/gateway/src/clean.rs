//! Which header fields of a request go on to the application, or to a peer's gateway.
//!
//! What is of the connection ends with it. What only gateways and fronts may say is taken from everybody else: a client that could
//! set it would be believed behind the gateway. And no client can have a field dropped by naming it in `Connection`
//! (CVE-2025-48865).

use httparse::Header;

use crate::asked::Asked;
use crate::identify::{Names, Refused, Rules, Spelling, fold, length};

/// How the names begin that gateways alone may use.
pub const RESERVED: &str = "domicile-";

/// The fields of a connection (RFC 9110, 7.6.1), lower-case. `http2-settings` goes with an upgrade that nobody makes (RFC 9113,
/// 3.1), and `proxy-connection` is what old clients wrote.
const HOP_BY_HOP: [&str; 10] = [
    "te",
    "upgrade",
    "trailer",
    "connection",
    "keep-alive",
    "http2-settings",
    "proxy-connection",
    "transfer-encoding",
    "proxy-authenticate",
    "proxy-authorization",
];

/// Their [lengths](length), which turn most names away.
const HOP_BY_HOP_LENGTHS: u64 = {
    let (mut lengths, mut at) = (0, 0);
    while at < HOP_BY_HOP.len() {
        lengths |= length(HOP_BY_HOP[at]);
        at += 1;
    }
    lengths
};

/// What becomes of a field.
enum Fate {
    Passes,
    Ends,
}

/// Sorts the fields of requests.
#[derive(Clone, Debug)]
pub struct Clean {
    identity: Names,
}

// === impl Clean ===

impl Clean {
    /// Keeps to the identity headers of all routes of `rules`.
    pub fn new(rules: &Rules) -> Self {
        Self {
            identity: rules.identity().clone(),
        }
    }

    /// The fields of `asked` that go on, in their order, names and values as they were written; `trusted` is
    /// [`Rules::trusts`]. At the first field for which the whole request is refused an error, after which nothing more is to be
    /// sent on. Allocates nothing.
    ///
    /// - Fields of the connection end here, `Transfer-Encoding` and `Upgrade` among them: framing and upgrades are the data path's.
    ///   `Host` and `Content-Length` pass.
    /// - Fields with the [reserved prefix](RESERVED) pass from a peer's gateway and end from anybody else.
    /// - Identity headers of fronts pass where they are trusted, and end elsewhere.
    /// - A name with `_` or another sign that some applications take for `-` ends the request where it then is one of these,
    ///   whoever sent it. Other names with `_` end here.
    ///
    /// # Errors
    /// [`Refused::Connection`] and [`Refused::Spoofed`].
    pub fn passing<'a>(
        &'a self,
        asked: &Asked<'a>,
        trusted: bool,
    ) -> impl Iterator<Item = Result<&'a Header<'a>, Refused>> + use<'a> {
        let peer = asked.peer.is_some();
        asked
            .headers
            .iter()
            .filter_map(move |field| match self.fate(field, trusted, peer) {
                Ok(Fate::Passes) => Some(Ok(field)),
                Ok(Fate::Ends) => None,
                Err(refused) => Some(Err(refused)),
            })
    }

    fn fate(&self, field: &Header<'_>, trusted: bool, peer: bool) -> Result<Fate, Refused> {
        let name = field.name;
        let fate = |passes| if passes { Fate::Passes } else { Fate::Ends };
        match self.identity.find(name) {
            Some(Spelling::Twin) => return Err(Refused::Spoofed),
            Some(Spelling::Same) => return Ok(fate(trusted)),
            None => {}
        }
        match reserved(name) {
            Some(Spelling::Twin) => return Err(Refused::Spoofed),
            Some(Spelling::Same) => return Ok(fate(peer)),
            None => {}
        }
        if is_hop_by_hop(name) {
            if name.eq_ignore_ascii_case("connection") {
                check_connection(field.value)?;
            }
            return Ok(Fate::Ends);
        }
        Ok(fate(!name.as_bytes().contains(&b'_')))
    }
}

/// How the beginning of `name` stands to the reserved prefix.
fn reserved(name: &str) -> Option<Spelling> {
    let (beginning, rest) = name.as_bytes().split_at_checked(RESERVED.len())?;
    if !beginning.iter().copied().map(fold).eq(RESERVED.bytes()) {
        return None;
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    match beginning.last() == Some(&b'-') && rest.iter().all(plain) {
        true => Some(Spelling::Same),
        false => Some(Spelling::Twin),
    }
}

/// Whether `name`, in any case, is a field of the connection, which ends with it.
pub fn is_hop_by_hop(name: &str) -> bool {
    let is = |known: &&str| known.eq_ignore_ascii_case(name);
    HOP_BY_HOP_LENGTHS & length(name) != 0 && HOP_BY_HOP.iter().any(is)
}

/// `Connection` may name what is of the connection anyway, and nothing else.
fn check_connection(value: &[u8]) -> Result<(), Refused> {
    for option in value.split(|byte| *byte == b',') {
        let option = option.trim_ascii();
        let Ok(option) = std::str::from_utf8(option) else {
            return Err(Refused::Connection);
        };
        let known =
            option.is_empty() || option.eq_ignore_ascii_case("close") || is_hop_by_hop(option);
        if !known {
            return Err(Refused::Connection);
        }
    }
    Ok(())
}
