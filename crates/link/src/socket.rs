//! TCP as the link wants it.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection on which nothing that was sent is acknowledged for this long is dead. Also without traffic: a bulk
/// connection may rest for hours, and must not be found dead only when it is needed.
const SILENT: Duration = Duration::from_secs(30);

/// Connects to `address` (`host:port`), which comes from the configuration and from nowhere else.
pub(crate) async fn dial(address: &str) -> io::Result<TcpStream> {
    let mut last = None;
    for address in tokio::net::lookup_host(address).await? {
        let dialled = timeout(CONNECT, TcpStream::connect(address)).await;
        match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                prepare(&stream)?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("the name has no address")))
}

/// Sets what both sides set. The sizes of the buffers are left to the kernel, which lets them grow with the path up to
/// `net.ipv4.tcp_rmem` and `tcp_wmem`: a size set here would end that growth, and `rmem_max` caps it lower by default.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let alive = TcpKeepalive::new()
        .with_time(SILENT / 3)
        .with_interval(SILENT / 6)
        .with_retries(4);
    socket.set_tcp_keepalive(&alive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENT))?;
    Ok(())
}
