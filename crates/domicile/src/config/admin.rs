//! `admin` of a site: where its daemon is asked how it is, and told what to do.

use std::path::{Path, PathBuf};

use super::ConfigError;
use super::link::host_and_port;
use super::reader::Node;

/// The admin API of a site's daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// The unix socket's path, whole; `None`: where `serve` puts it.
    pub socket: Option<PathBuf>,
    /// A TCP address, `host:port`, for health and metrics alone; `None`: nowhere.
    pub listen: Option<String>,
}

// === impl Admin ===

impl Admin {
    pub(super) fn read(node: &Node<'_>) -> Result<Self, ConfigError> {
        let mut table = node.table()?;
        let socket = table.take("socket").map(|node| {
            let name = node.read("a path", |text| (!text.is_empty()).then(|| text.to_owned()))?;
            // Relative to the configuration, as every path in it.
            let folder = node.file().parent().unwrap_or(Path::new("."));
            Ok(folder.join(name))
        });
        let listen = table.take("listen").map(|node| {
            let form = "HOST:PORT, as in \"127.0.0.1:9100\"";
            node.read(form, |text| host_and_port(text, 0).then(|| text.to_owned()))
        });
        let admin = Self {
            socket: socket.transpose()?,
            listen: listen.transpose()?,
        };
        table.finish()?;
        Ok(admin)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Reader};
    use super::*;

    /// Of the origin's database nothing is known.
    const SINGAPORE: &str = r#"[site.beijing]
link = { address = "bj.example:7443" }
[site.singapore]
admin = { socket = "run/d.sock", listen = "127.0.0.1:9100" }
[service.shop]
origin = "beijing"
user = { table = "customer", key = "customer_id" }
ids = "uuid"
database.singapore = { env = "SHOP_URL" }
[policy]
pinned = { CN = "beijing" }
[[phase]]
name = "out"
service = ["shop"]
home = { IN = "singapore", DE = "beijing" }
"#;

    fn parse(reader: Reader, text: &str) -> Result<Config, String> {
        let file = Path::new("/etc/domicile/d.toml");
        Config::parse_for(reader, text, file).map_err(|error| error.to_string())
    }

    #[test]
    fn a_sites_daemon_need_not_know_where_the_databases_of_others_are() {
        let config = parse(Reader::Site, SINGAPORE).unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        // Everybody else does.
        let refused = parse(Reader::Programme, SINGAPORE).unwrap_err();
        assert!(
            refused.contains("the service has no database at its origin beijing"),
            "{refused}"
        );
        let origin = SINGAPORE.replace("ids =", "database.beijing = \"postgres://b/shop\"\nids =");
        let programme = parse(Reader::Programme, &origin).unwrap();
        let version = |config: &Config| config.policy.version().unwrap();
        assert_eq!(version(&programme), version(&config));
        let no_home = origin.replace("DE = \"beijing\"", "DE = \"mumbai\"");
        let no_home = no_home.replace("[site.singapore]", "[site.mumbai]\n[site.singapore]");
        assert!(parse(Reader::Site, &no_home).is_ok());
        assert!(parse(Reader::Programme, &no_home).is_err());
    }

    #[test]
    fn the_socket_stands_relative_to_the_configuration() {
        let config = parse(Reader::Site, SINGAPORE).unwrap();
        let admin = &config.sites[&"singapore".into()].admin;
        let socket = Path::new("/etc/domicile/run/d.sock");
        assert_eq!(admin.socket.as_deref(), Some(socket));
        assert_eq!(admin.listen.as_deref(), Some("127.0.0.1:9100"));
        assert_eq!(config.sites[&"beijing".into()].admin, Admin::default());
        for (old, new, says) in [
            (
                "127.0.0.1:9100",
                "9100",
                ":4: site.singapore.admin.listen: \"9100\" is not HOST:PORT",
            ),
            (
                "run/d.sock",
                "",
                ":4: site.singapore.admin.socket: \"\" is not a path",
            ),
            (
                "socket",
                "sokket",
                ":4: unknown key `sokket` in site.singapore.admin; did you mean `socket`?",
            ),
        ] {
            let refused = parse(Reader::Site, &SINGAPORE.replace(old, new)).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }
}
