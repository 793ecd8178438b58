//! An application that believes whatever it reads, and remembers it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::find;

/// One request, as it was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub head: String,
    pub body: Vec<u8>,
}

pub struct Application {
    pub address: SocketAddr,
    pub heard: Arc<Mutex<Vec<Heard>>>,
    /// Requests to `/gate` wait for a permit.
    pub gate: Arc<Semaphore>,
    /// The nonce with which `/refuse` is refused, until this many times.
    pub refusals: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Application {
    pub async fn start(site: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Semaphore::new(0));
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let (said, waits, refused) = (Arc::clone(&heard), Arc::clone(&gate), Arc::clone(&refusals));
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tasks.spawn(serve(
                    site,
                    stream,
                    Arc::clone(&said),
                    Arc::clone(&waits),
                    Arc::clone(&refused),
                ));
            }
        });
        Self {
            address,
            heard,
            gate,
            refusals,
            task,
        }
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub fn count(&self, what: &str) -> usize {
        let heard = self.heard.lock().unwrap();
        heard
            .iter()
            .filter(|heard| heard.head.contains(what))
            .count()
    }
}

/// Believes every length that it is told, the last of several, and chunks before lengths.
async fn serve(
    site: &'static str,
    mut stream: TcpStream,
    heard: Arc<Mutex<Vec<Heard>>>,
    gate: Arc<Semaphore>,
    refusals: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            match find(&read, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => more(&mut stream, &mut read).await?,
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).into_owned();
        read.drain(..end);
        if head.starts_with("POST /early") {
            // Answers before the body, and takes what follows for the next request.
            heard.lock().unwrap().push(Heard {
                head,
                body: Vec::new(),
            });
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.ok()?;
            continue;
        }
        let lower = head.to_ascii_lowercase();
        let mut body = Vec::new();
        if lower.contains("transfer-encoding: chunked") {
            loop {
                let line = loop {
                    match find(&read, b"\r\n") {
                        Some(line) => break line,
                        None => more(&mut stream, &mut read).await?,
                    }
                };
                let size =
                    usize::from_str_radix(std::str::from_utf8(&read[..line]).unwrap(), 16).unwrap();
                while read.len() < line + 2 + size + 2 {
                    more(&mut stream, &mut read).await?;
                }
                body.extend_from_slice(&read[line + 2..line + 2 + size]);
                read.drain(..line + 2 + size + 2);
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = lower
            .rsplit("content-length: ")
            .next()
            .filter(|_| lower.contains("content-length: "))
        {
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            while read.len() < length {
                more(&mut stream, &mut read).await?;
            }
            body = read.drain(..length).collect();
        }
        let path = head.split(' ').nth(1).unwrap_or("").to_owned();
        heard.lock().unwrap().push(Heard {
            head: head.clone(),
            body: body.clone(),
        });
        if path == "/gate" {
            gate.acquire().await.unwrap().forget();
        }
        let named = path.strip_prefix("/login/").filter(|_| site == "beijing");
        let nonce = match path.as_str() {
            "/refuse" => refusals.lock().unwrap().pop(),
            _ => None,
        };
        let answer = match path.as_str() {
            _ if nonce.is_some() => {
                let nonce = nonce.unwrap_or_default();
                format!("HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\ndomicile-refused: {nonce}\r\n\r\n")
            }
            _ if named.is_some() => {
                // `/login/7`: that is whose it is; `/login/7@singapore`: and he lives there.
                let (user, home) = named.unwrap_or_default().split_once('@').unwrap_or((named.unwrap_or_default(), ""));
                let home = if home.is_empty() { String::new() } else { format!("domicile-home: {home}\r\n") };
                let nonce = super::NONCE;
                format!("HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\ndomicile-refused: {nonce}\r\ndomicile-user: {user}\r\n{home}\r\n")
            }
            "/break" => return None,
            "/part" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.ok()?;
                return None;
            }
            "/until-close" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it").await.ok()?;
                return None;
            }
            "/chunks" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n".to_owned(),
            "/garbage" => "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nthree".to_owned(),
            "/two" => "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\noneHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntwo".to_owned(),
            "/events" => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
                    .await
                    .ok()?;
                more(&mut stream, &mut read).await?;
                return None;
            }
            "/socket" => {
                stream
                    .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n")
                    .await
                    .ok()?;
                loop {
                    if !read.is_empty() {
                        stream.write_all(&read).await.ok()?;
                        read.clear();
                    }
                    more(&mut stream, &mut read).await?;
                }
            }
            _ => {
                let body = format!("{site} {} {}", path, body.len());
                let status = if head.starts_with("HEAD") { String::new() } else { body.clone() };
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-answer: yes\r\ndomicile-home: nowhere\r\n\r\n{status}", body.len())
            }
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 16 << 10];
    match stream.read(&mut piece).await {
        Ok(0) | Err(_) => None,
        Ok(n) => {
            read.extend_from_slice(&piece[..n]);
            Some(())
        }
    }
}
