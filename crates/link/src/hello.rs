//! The first frame in each direction of a connection: what it is for. Nothing counts as connected before both have come.
//!
//! Under TLS 1.3 whoever dials has finished the handshake before the other side has judged his certificate, and learns
//! of a refusal on his first read only. So he sends his hello, which holds nothing that a stranger may not know, and
//! sends nothing more until he has read the answer.

use model::SiteName;
use serde::{Deserialize, Serialize};

/// The version of what follows the hellos. Both sides must name the same one.
pub(crate) const PROTOCOL: u32 = 1;

/// A hello is some 200 bytes; one that is longer than this ends the connection.
pub(crate) const HELLO_MAX: usize = 1 << 10;

/// The most bulk connections of a session.
pub const FLOWS_MAX: u16 = 64;

/// What whoever dials says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hello {
    /// The protocol's version.
    pub protocol: u32,
    /// The program's version, for the log.
    pub version: String,
    /// Who dials. Must be the site of his certificate.
    pub from: SiteName,
    /// Who is meant.
    pub to: SiteName,
    /// The life of the dialling process: another number, another life.
    pub life: u64,
    /// The session that the connection belongs to.
    pub session: u64,
    /// Which bulk connection of the session this is; none: its control connection.
    pub flow: Option<u16>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Answer {
    /// The connection stands.
    Welcome {
        /// The program's version, for the log.
        version: String,
        /// The life of the answering process.
        life: u64,
    },
    /// It does not, and will be closed.
    Refused(Why),
}

/// Why a hello is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    #[error("it speaks another version of the protocol")]
    Protocol,
    #[error("the site in the hello is not the certificate's")]
    From,
    #[error("another site was meant")]
    To,
    #[error("there is no such session")]
    Session,
    #[error("too many bulk connections")]
    Flows,
    #[error("it is this site that dials")]
    Dials,
}

/// Reads a hello. One of another version may have any further words in it, and still gets an answer that says why.
pub(crate) fn read(text: &[u8]) -> Result<Result<Hello, Why>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Versioned {
        protocol: u32,
    }
    match serde_json::from_slice(text) {
        Ok(hello) => Ok(Ok(hello)),
        Err(error) => match serde_json::from_slice::<Versioned>(text) {
            Ok(other) if other.protocol != PROTOCOL => Ok(Err(Why::Protocol)),
            _ => Err(error),
        },
    }
}

/// Judges a hello that came from `peer`, as its certificate says. Whether its session stands is for others to say.
pub(crate) fn judge(hello: &Hello, own: &SiteName, peer: &SiteName) -> Result<(), Why> {
    if hello.protocol != PROTOCOL {
        return Err(Why::Protocol);
    }
    if hello.from != *peer {
        return Err(Why::From);
    }
    if hello.to != *own {
        return Err(Why::To);
    }
    match hello.flow {
        Some(flow) if flow >= FLOWS_MAX => Err(Why::Flows),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL,
            version: "0.1.0".into(),
            from: "beijing".into(),
            to: "singapore".into(),
            life: 1,
            session: 2,
            flow: Some(3),
        }
    }

    #[test]
    fn a_hello_must_agree_with_the_certificate_and_the_site_it_reached() {
        let judged = |hello: Hello| judge(&hello, &"singapore".into(), &"beijing".into());
        assert_eq!(judged(hello()), Ok(()));
        let wrong = |change: fn(&mut Hello)| {
            let mut hello = hello();
            change(&mut hello);
            judged(hello).unwrap_err()
        };
        assert_eq!(wrong(|hello| hello.protocol = 2), Why::Protocol);
        assert_eq!(wrong(|hello| hello.from = "mumbai".into()), Why::From);
        assert_eq!(wrong(|hello| hello.to = "beijing".into()), Why::To);
        assert_eq!(wrong(|hello| hello.flow = Some(FLOWS_MAX)), Why::Flows);
    }

    #[test]
    fn a_hello_is_small_and_an_unknown_word_in_it_is_refused() {
        let mut long = hello();
        long.from = "x".repeat(40).into();
        long.to = long.from.clone();
        long.version = "10.20.30-rc.40".into();
        (long.life, long.session) = (u64::MAX, u64::MAX);
        let text = serde_json::to_string(&long).unwrap();
        assert!(text.len() < HELLO_MAX / 2);
        assert_eq!(serde_json::from_str::<Hello>(&text).unwrap(), long);
        let more = text.replacen('{', r#"{"address":"10.0.0.1:1","#, 1);
        assert!(read(more.as_bytes()).is_err());
        let later = more.replace("\"protocol\":1", "\"protocol\":2");
        assert_eq!(read(later.as_bytes()).unwrap(), Err(Why::Protocol));
    }
}
