//! Clients come by TLS, and see a new certificate as soon as there is one.

mod support;

use std::sync::Arc;

use gateway::site::Stand;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use support::{Site, world};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What the gateway shows, and who believes it alone.
fn certificate() -> (Arc<ServerConfig>, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let shown = made.cert.der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![shown.clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(shown).unwrap();
    (Arc::new(config), roots)
}

/// What the application heard of a request by TLS.
async fn ask(site: &Site, roots: &RootCertStore) -> std::io::Result<String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    let name = ServerName::try_from("shop.example").unwrap();
    let stream = TcpStream::connect(site.clients).await?;
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    stream
        .write_all(
            b"GET /x HTTP/1.1\r\nhost: shop.example\r\nx-user: 1\r\nconnection: close\r\n\r\n",
        )
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn the_certificate_may_be_replaced_while_clients_come() {
    let [beijing, _singapore] = world().await;
    beijing.records.set("1", Stand::Here { epoch: 1 });
    let (first, believes_first) = certificate();
    let (second, believes_second) = certificate();
    *beijing.gateway.front.write().unwrap() = Some(first);
    assert!(
        ask(&beijing, &believes_first)
            .await
            .unwrap()
            .ends_with("beijing /x 0")
    );
    assert!(ask(&beijing, &believes_second).await.is_err());
    *beijing.gateway.front.write().unwrap() = Some(second);
    assert!(
        ask(&beijing, &believes_second)
            .await
            .unwrap()
            .ends_with("beijing /x 0")
    );
    assert!(ask(&beijing, &believes_first).await.is_err());
    let heard = beijing.application.heard();
    assert_eq!(heard.len(), 2);
}
