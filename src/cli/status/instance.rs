//! Asks the running instance, where there is one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
};

use crate::config::Http;
use crate::http::console::state::State;

/// Longest time for an answer: an instance looks at both sides before it gives one.
const ANSWER: Duration = Duration::from_secs(5);
/// Largest answer, in bytes: a cluster of a thousand nodes has one of about 100 KiB.
const ANSWER_BYTES: usize = 4 << 20;

#[derive(Deserialize)]
struct Envelope {
    data: State,
}

/// What the instance says of itself; `None` where none answers.
pub(super) async fn ask(http: &Http) -> Option<State> {
    timeout(ANSWER, get(http)).await.ok()?
}

async fn get(http: &Http) -> Option<State> {
    let stream = TcpStream::connect(reachable(http.listen)).await.ok()?;
    match &http.tls {
        None => converse(stream).await,
        Some(tls) => {
            let shown = CertificateDer::pem_file_iter(&tls.cert_file).ok()?.next()?.ok()?;
            let name = ServerName::IpAddress(reachable(http.listen).ip().into());
            converse(TlsConnector::from(Arc::new(trusting(shown)?)).connect(name, stream).await.ok()?).await
        }
    }
}

/// An address that means every address of this machine is reached at the loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Option<State> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Its end is the answer's.
    let connection = tokio::spawn(connection);
    let request = Request::get("/api/lockstep/state").header(header::HOST, "lockstep").body(Body::empty());
    let answer = sender.send_request(request.ok()?).await.ok()?;
    let body = to_bytes(Body::new(answer.into_body()), ANSWER_BYTES).await.ok()?;
    connection.abort();
    let Envelope { data } = serde_json::from_slice(&body).ok()?;
    Some(data)
}

/// Trusts the certificate that the instance was configured with, whoever signed it and for whatever name, and no other.
fn trusting(shown: CertificateDer<'static>) -> Option<ClientConfig> {
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier = Arc::new(Ours { shown, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    Some(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct Ours {
    shown: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Ours {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match *end_entity == self.shown {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        crypto::verify_tls12_signature(
            message,
            cert,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        crypto::verify_tls13_signature(
            message,
            cert,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
