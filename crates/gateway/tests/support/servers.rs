//! Servers that people put behind gateways. Each answers `METHOD TARGET` and a blank before anything else, whatever it is asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::PATIENCE;

const PYTHON: &str = r#"
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one piece.
    wbufsize = -1

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        said = f"{self.command} {self.path} ".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"#;

const NODE: &str = r#"
require("http").createServer((request, response) => {
  request.resume();
  request.on("end", () => response.end(`${request.method} ${request.url} `));
}).listen(Number(process.argv[1]), "127.0.0.1");
"#;

/// One that runs until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    runs: Runs,
    _folder: tempfile::TempDir,
}

enum Runs {
    Here(JoinHandle<()>),
    Beside { _child: Child },
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Runs::Here(task) = &self.runs {
            task.abort();
        }
    }
}

impl Server {
    /// `hyper`, `python`, `node` or `nginx`; all but the first must be installed.
    pub async fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port().to_string();
        if name == "hyper" {
            let runs = Runs::Here(tokio::spawn(hyper(listener)));
            return Self {
                address,
                runs,
                _folder: folder,
            };
        }
        drop(listener);
        let file = folder.path().join("nginx.conf");
        let mut command = match name {
            "python" => {
                let mut python = Command::new("python3");
                python.args(["-c", PYTHON, &port]);
                python
            }
            "node" => {
                let mut node = Command::new("node");
                node.args(["-e", NODE, &port]);
                node
            }
            "nginx" => {
                let pid = folder.path().join("pid");
                let conf = format!(
                    "master_process off; daemon off; pid {}; error_log /dev/null; events {{}}\n\
                     http {{ access_log off; keepalive_requests 1000000000; server {{ listen 127.0.0.1:{port};\n\
                     location / {{ return 200 \"$request_method $request_uri \"; }} }} }}\n",
                    pid.display()
                );
                std::fs::write(&file, conf).unwrap();
                let mut nginx = Command::new("nginx");
                nginx.arg("-c").arg(&file);
                nginx
            }
            other => panic!("hyper, python, node or nginx, not {other:?}"),
        };
        let child = command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|why| panic!("{name} must be installed: {why}"));
        let reached = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{name} does not listen");
        Self {
            address,
            runs: Runs::Beside { _child: child },
            _folder: folder,
        }
    }
}

async fn hyper(listener: TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections
            .spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo)));
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    // Whatever comes of it.
    let _ = body.collect().await;
    let said = format!("{} {} ", head.method, head.uri);
    Ok(Response::new(Full::from(said)))
}
