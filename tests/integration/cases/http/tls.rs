//! The listener with a certificate of its own.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::{TlsConnector, rustls};

use super::{Answer, parts};
use crate::harness::process::folder;
use crate::harness::tls::Certificates;
use crate::harness::{On, PATIENCE, Setup, World, eventually};

/// With lines of `[http]`, not yet running.
async fn world_with(lines: &str) -> World {
    let world = World::set_up(Setup::on(On::Single)).await;
    let configuration = world.lockstep.configuration().replace("[http]\n", &format!("[http]\n{lines}\n"));
    world.lockstep.configure(&configuration);
    world
}

async fn ask(certificates: &Certificates, port: u16) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificates.authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_everything_is_encrypted() {
    let folder = folder("tls-");
    let certificates = Certificates::write(folder.path(), "lockstep");
    let lines =
        format!("tls_cert_file = {:?}\ntls_key_file = {:?}", certificates.server, certificates.server_key);
    let world = world_with(&lines).await;
    world.lockstep.init().await;
    world.lockstep.spawn(&["run"]);
    let port = world.lockstep.http_port();
    let answer = eventually("it is ready", async || {
        let answer = ask(&certificates, port).await.ok()?;
        (parts(&answer).0 == 200).then_some(answer)
    })
    .await;
    Answer::read(200, parts(&answer).2);
    assert!(world.lockstep.http("GET", "/readyz").await.is_err(), "no plain HTTP");
    assert!(ask(&certificates, port).await.is_ok(), "who speaks no TLS harms nobody");
    let shown = world.lockstep.succeed(&["check", "--print-config"]).await;
    assert!(shown.contains(&format!("tls_key_file = {:?}", certificates.server_key)), "{shown}");
    assert!(!shown.contains("PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_mistakes_of_the_configuration() {
    let folder = folder("tls-");
    let certificates = Certificates::write(folder.path(), "lockstep");
    let pair = |cert: &std::path::Path, key: &std::path::Path| {
        format!("tls_cert_file = {cert:?}\ntls_key_file = {key:?}")
    };
    let missing = folder.path().join("missing");
    for (lines, words) in [
        (format!("tls_cert_file = {:?}", certificates.server), "belong together: give both, or neither"),
        (pair(&missing, &certificates.server_key), "missing cannot be read"),
        (pair(&certificates.server, &missing), "missing cannot be read"),
        (pair(&certificates.server, &certificates.client_key), "are no pair"),
        (pair(&certificates.server, &certificates.server), "holds no private key"),
        ("requests_per_second = 0".to_owned(), "out of bounds: give a number from 1"),
    ] {
        let ended = world_with(&lines).await.lockstep.finish(&["run"]).await;
        assert_eq!(ended.code, Some(2), "{lines}: {ended:?}");
        assert!(ended.stderr.contains(words), "{lines}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_others_reach_is_warned_of() {
    let world = World::set_up(Setup::on(On::Single)).await;
    let open = world.lockstep.configuration().replace("listen = \"127.0.0.1:", "listen = \"0.0.0.0:");
    world.lockstep.configure(&open);
    world.lockstep.init().await;
    world.lockstep.run().await;
    let log = world.lockstep.log();
    assert!(log.contains("is reached by other machines, without TLS"), "{log}");
}
