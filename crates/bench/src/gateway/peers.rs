//! The proxies that one would use instead, from Debian, each with a map of the same users.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// A proxy that runs, on the first core. Ended when dropped.
pub(super) struct Proxy {
    pub pid: u32,
    pub port: u16,
    _child: Child,
}

/// `nginx`
pub(super) struct Nginx;
/// `haproxy`
pub(super) struct Haproxy;

// === impl Nginx ===

impl Nginx {
    /// A server that answers 1 KiB from memory, on the second core.
    pub async fn upstream(folder: &Path) -> Result<Proxy> {
        let port = free_port().await?;
        let body = "x".repeat(1024);
        let server = format!(
            "server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 \"{body}\"; }} }}"
        );
        Self::run(folder, "upstream", 1, port, &server).await
    }

    /// A proxy that looks the user up in its map.
    pub async fn start(folder: &Path, users: u32, upstream: u16) -> Result<Proxy> {
        let port = free_port().await?;
        let mut http = String::from(
            "map_hash_max_size 4194304; map_hash_bucket_size 128;\nmap $http_x_user $home {\n default none;\n",
        );
        for user in 0..users {
            let _ = writeln!(http, "{user} here;");
        }
        let _ = write!(
            http,
            "}}\nupstream here {{ server 127.0.0.1:{upstream}; keepalive 600; keepalive_requests 1000000000; }}\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; location / {{\n\
               proxy_pass http://$home; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
               proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;\n\
               proxy_set_header X-Forwarded-Proto $scheme; }} }}\n"
        );
        Self::run(folder, "nginx", 0, port, &http).await
    }

    async fn run(folder: &Path, name: &str, core: u8, port: u16, http: &str) -> Result<Proxy> {
        let file = folder.join(format!("{name}.conf"));
        let pid = folder.join(format!("{name}.pid"));
        std::fs::write(
            &file,
            format!(
                "master_process off; daemon off; pid {}; error_log /dev/null;\n\
                 events {{ worker_connections 8192; }}\n\
                 http {{ access_log off; keepalive_requests 1000000000;\n{http}}}\n",
                pid.display()
            ),
        )?;
        let mut command = Command::new("taskset");
        command
            .args(["-c", &core.to_string(), "nginx", "-c"])
            .arg(&file);
        begin(command, port, "nginx").await
    }
}

// === impl Haproxy ===

impl Haproxy {
    /// A proxy that looks the user up in its map.
    pub async fn start(folder: &Path, users: u32, upstream: u16) -> Result<Proxy> {
        let port = free_port().await?;
        let (file, map) = (folder.join("haproxy.cfg"), folder.join("haproxy.map"));
        let lines: String = (0..users).fold(String::new(), |mut lines, user| {
            let _ = writeln!(lines, "{user} here");
            lines
        });
        std::fs::write(&map, lines)?;
        std::fs::write(
            &file,
            format!(
                "global\n nbthread 1\n maxconn 8192\n\
                 defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n http-reuse always\n option forwardfor\n\
                 frontend clients\n bind 127.0.0.1:{port} backlog 4096\n use_backend %[req.hdr(x-user),map_str({},none)]\n\
                 backend here\n server one 127.0.0.1:{upstream} pool-max-conn 600\n",
                map.display()
            ),
        )?;
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "haproxy", "-db", "-f"]).arg(&file);
        begin(command, port, "haproxy").await
    }
}

/// Starts `command`, and waits until it takes connections.
pub(super) async fn begin(mut command: Command, port: u16, name: &str) -> Result<Proxy> {
    let child = command.kill_on_drop(true).spawn();
    let mut child =
        child.with_context(|| format!("cannot start {name}: install Debian's package"))?;
    let pid = child.id().context("it has ended")?;
    let end = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if Instant::now() > end {
            bail!("{name} takes no connections");
        }
        if let Some(status) = child.try_wait()? {
            bail!("{name} has ended: {status}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(Proxy {
        pid,
        port,
        _child: child,
    })
}

/// A port that nobody uses at the moment.
pub(super) async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}
