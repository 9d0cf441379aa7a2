//! Authentication, TLS, and the words of a refusal.

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls};

use super::{both, configured, refused};
use crate::harness::tls::Certificates;
use crate::harness::{Postgres, PostgresOptions};

use lockstep::wire::Walsender;

const ROLES: &str = "SET password_encryption = 'md5'; CREATE ROLE md LOGIN REPLICATION PASSWORD 'pässword';
    SET password_encryption = 'scram-sha-256'; CREATE ROLE scram LOGIN REPLICATION PASSWORD 'pässword';
    CREATE ROLE plain LOGIN REPLICATION PASSWORD 'pässword'; CREATE ROLE lockstep LOGIN REPLICATION;
    CREATE ROLE weak LOGIN; CREATE ROLE free LOGIN REPLICATION";

const HBA: &str = "host all md 127.0.0.1/32 md5\nhost all scram 127.0.0.1/32 scram-sha-256
    host all plain 127.0.0.1/32 password\nlocal all plain password\nhost all free,weak 127.0.0.1/32 trust
    hostssl all lockstep 127.0.0.1/32 cert";

async fn server(tls: bool) -> Postgres {
    let hba = Some(HBA.to_owned());
    let server = Postgres::start(
        PostgresOptions { hba, tls, ..PostgresOptions::default() }
            .set("listen_addresses", "127.0.0.1,127.0.0.2"),
    )
    .await;
    server.sql(ROLES).await;
    server
}

fn url(server: &Postgres, user: &str, rest: &str) -> String {
    format!("host=localhost port={} user={user} dbname=postgres {rest}", server.port())
}

#[tokio::test]
async fn every_authentication_method_opens_the_door() {
    let server = server(true).await;
    for tls in ["disable", "require"] {
        for user in ["md", "scram", "free"] {
            let text = url(&server, user, &format!("password='pässword' sslmode={tls}"));
            both(&text).await.unwrap_or_else(|error| panic!("{user} {tls}: {error}"));
        }
    }
    both(&url(&server, "plain", "password='pässword' sslmode=require")).await.unwrap();
    let socket = format!(
        "host={} port={} user=plain dbname=postgres password='pässword'",
        server.socket_dir().display(),
        server.port()
    );
    both(&socket).await.unwrap();
}

#[tokio::test]
async fn the_bare_password_never_crosses_plain_tcp() {
    let server = server(false).await;
    for mode in ["disable", "prefer"] {
        let error = refused(&url(&server, "plain", &format!("password='pässword' sslmode={mode}"))).await;
        assert!(error.to_string().contains("clear text"), "{error}");
        assert!(error.to_string().contains("sslmode=require") && !error.is_transient());
    }
}

#[tokio::test]
async fn scram_over_tls_is_bound_to_the_certificate() {
    let server = server(true).await;
    let login = |port: u16| {
        format!("host=localhost port={port} user=scram dbname=postgres password='pässword' sslmode=require")
    };
    both(&login(server.port())).await.unwrap();
    // Encrypted on both sides, every byte forwarded: only the binding can tell.
    let port = man_in_the_middle(&server).await;
    assert!(both(&login(port)).await.is_err());
    // Where nothing is bound, the same man is not noticed.
    both(&login(port).replace("user=scram", "user=free")).await.unwrap();
}

/// Ends TLS with a certificate of its own and opens it anew towards the server.
async fn man_in_the_middle(server: &Postgres) -> u16 {
    let folder = tempfile::tempdir().unwrap();
    let files = Certificates::write(folder.path(), "man");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(files.server).unwrap()],
            PrivateKeyDer::from_pem_file(files.server_key).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let connector = TlsConnector::from(Arc::new(trusting(&server.certificates().authority)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, target) = (listener.local_addr().unwrap().port(), server.port());
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (acceptor, connector) = (acceptor.clone(), connector.clone());
            tokio::spawn(async move {
                let mut request = [0; 8];
                near.read_exact(&mut request).await.unwrap();
                let mut far = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                far.write_all(&request).await.unwrap();
                near.write_all(&[far.read_u8().await.unwrap()]).await.unwrap();
                let mut near = acceptor.accept(near).await.unwrap();
                let mut far = connector.connect("localhost".try_into().unwrap(), far).await.unwrap();
                // Ends when either side does.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    port
}

fn trusting(authority: &Path) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn each_sslmode_checks_what_it_says() {
    let server = server(true).await;
    let right = server.certificates().authority.display().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Certificates::write(elsewhere.path(), "other");
    let wrong = other.authority.display().to_string();
    let login = |host: &str, rest: String| {
        format!("host={host} port={} user=free dbname=postgres {rest}", server.port())
    };
    for mode in ["disable", "prefer", "require"] {
        both(&login("localhost", format!("sslmode={mode}"))).await.unwrap();
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        both(&login("localhost", format!("sslmode={mode} sslrootcert={right}"))).await.unwrap();
        let error = refused(&login("localhost", format!("sslmode={mode} sslrootcert={wrong}"))).await;
        assert!(error.to_string().contains("not trusted"), "{error}");
    }
    // An address of the same machine that the certificate does not name.
    both(&login("127.0.0.2", format!("sslmode=verify-ca sslrootcert={right}"))).await.unwrap();
    let error = refused(&login("127.0.0.2", format!("sslmode=verify-full sslrootcert={right}"))).await;
    assert!(error.to_string().contains("not trusted"), "{error}");
    let missing = refused(&login("localhost", "sslmode=verify-ca sslrootcert=/nowhere".to_owned())).await;
    assert!(missing.to_string().contains("/nowhere cannot be read"), "{missing}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_demanded() {
    let server = server(false).await;
    let error = refused(&url(&server, "free", "sslmode=require")).await;
    assert!(error.to_string().contains("offers no TLS"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_a_login() {
    let server = server(true).await;
    let files = server.certificates();
    let shown =
        format!("sslmode=require sslcert={} sslkey={}", files.client.display(), files.client_key.display());
    both(&url(&server, "lockstep", &shown)).await.unwrap();
    assert!(both(&url(&server, "lockstep", "sslmode=require")).await.is_err());
}

#[tokio::test]
async fn a_refusal_names_the_fact_and_the_cure() {
    let server = server(false).await;
    let wrong = refused(&url(&server, "scram", "password=hunter2")).await.to_string();
    assert!(wrong.contains("refuses the password of role \"scram\": correct the password"), "{wrong}");
    assert!(!wrong.contains("hunter2"));
    let none = refused(&url(&server, "scram", "")).await.to_string();
    assert!(none.contains("wants a password") && none.contains("PGPASSWORD"), "{none}");
    let nobody = refused(&url(&server, "nobody", "")).await.to_string();
    assert!(nobody.contains("pg_hba.conf"), "{nobody}");
    let lost = refused(&url(&server, "free", "").replace("dbname=postgres", "dbname=lost")).await;
    assert!(lost.to_string().contains("database \"lost\" does not exist"), "{lost}");
    let weak = Walsender::connect(&configured(&url(&server, "weak", ""))).await.map(drop).unwrap_err();
    assert!(weak.to_string().contains("alter role \"weak\" replication"), "{weak}");
    let away = refused("postgresql://free@127.0.0.1:1/postgres").await;
    assert!(away.is_transient() && away.to_string().contains("127.0.0.1:1 is unreachable"), "{away}");
}

#[tokio::test]
async fn the_next_host_is_tried_where_one_is_away() {
    let server = server(false).await;
    let text = format!("host=127.0.0.1,127.0.0.1 port=1,{} user=free dbname=postgres", server.port());
    both(&text).await.unwrap();
}
