//! `link` and `key` of a site: where it is reached, by which keys it is known, and where its own key stands.

use ::link::{FLOWS_MAX, Pin, Pins, Settings};

use super::ConfigError;
use super::reader::Node;

/// How a site is linked to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where its daemon listens, `host:port`; none: it only dials.
    pub listen: Option<String>,
    /// Where the others dial it, `host:port`; none: it dials them.
    pub address: Option<String>,
    /// The keys by which the others know it; none: nobody believes it yet.
    pub pins: Option<Pins>,
    /// The bulk connections that it opens to each peer, 1 to [`FLOWS_MAX`]. Default 8.
    pub flows: u16,
}

pub(super) fn read_link(node: &Node<'_>) -> Result<Link, ConfigError> {
    let mut table = node.table()?;
    let form = "HOST:PORT, as in \"0.0.0.0:7443\"";
    let mut place = |key, least| {
        let node = table.take(key);
        let read = |text: &str| host_and_port(text, least).then(|| text.to_owned());
        node.map(|node| node.read(form, read)).transpose()
    };
    // A listener may take any free port; whoever dials has to know it.
    let (listen, address) = (place("listen", 0)?, place("address", 1)?);
    let pins = table
        .take("pins")
        .map(|node| read_pins(&node))
        .transpose()?;
    let flows = match table.take("flows") {
        None => Settings::FLOWS,
        Some(node) => {
            let flows = u16::try_from(node.positive()?).ok();
            flows
                .filter(|flows| *flows <= FLOWS_MAX)
                .ok_or_else(|| node.error(format_args!("at most {FLOWS_MAX} bulk connections")))?
        }
    };
    table.finish()?;
    Ok(Link {
        listen,
        address,
        pins,
        flows,
    })
}

fn read_pins(node: &Node<'_>) -> Result<Pins, ConfigError> {
    let mut pins = Vec::new();
    for node in node.nodes()? {
        let pin: Result<Pin, _> = node.string()?.parse();
        // The text is not repeated: somebody may have put the key itself there.
        pins.push(pin.map_err(|why| node.error(why))?);
    }
    Pins::new(pins).map_err(|why| node.error(why))
}

/// `host:port` with an address, a bracketed IPv6 address or a name, and a port from `least` up.
pub(super) fn host_and_port(text: &str, least: u16) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            !host.is_empty() && host.chars().all(plain)
        }
    };
    let digits = !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
    host && digits && port.parse::<u16>().is_ok_and(|port| port >= least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_a_host_and_a_port() {
        for good in [
            "0.0.0.0:7443",
            "bj.example:1",
            "[::1]:65535",
            "my_host:7443",
        ] {
            assert!(host_and_port(good, 1), "{good}");
        }
        for bad in [
            "",
            ":7443",
            "bj.example",
            "bj.example:",
            "a:b",
            "a:65536",
            "a:+1",
            "::1:7443",
            "https://a:1",
            "a b:1",
            "[a]:1",
            "a:0",
        ] {
            assert!(!host_and_port(bad, 1), "{bad}");
        }
        assert!(host_and_port("0.0.0.0:0", 0));
    }
}
