//! One question to the running instance.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
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

/// Largest answer, in bytes: the state of a cluster of a thousand nodes has about 100 KiB.
const ANSWER_BYTES: usize = 4 << 20;

/// What it answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Asks the instance that listens where this configuration says, over TLS where that says so; or why nothing answers.
pub(super) async fn get(http: &Http, path: &str, patience: Duration) -> Result<Answer, String> {
    let late = |_| "it takes too long".to_owned();
    timeout(patience, connect_and_ask(http, path)).await.map_err(late)?
}

async fn connect_and_ask(http: &Http, path: &str) -> Result<Answer, String> {
    let address = reachable(http.listen);
    let stream = TcpStream::connect(address).await.map_err(told)?;
    match &http.tls {
        None => converse(stream, path).await,
        Some(tls) => {
            let shown = CertificateDer::pem_file_iter(&tls.cert_file).map_err(told)?.next();
            let shown = shown.ok_or("the certificate file is empty")?.map_err(told)?;
            let connector = TlsConnector::from(Arc::new(trusting(shown).map_err(told)?));
            let name = ServerName::IpAddress(address.ip().into());
            converse(connector.connect(name, stream).await.map_err(told)?, path).await
        }
    }
}

fn told(error: impl ToString) -> String {
    error.to_string()
}

/// An address that means every address of this machine is reached at the loopback.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
) -> Result<Answer, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    // Its end is the answer's.
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, "lockstep").body(Body::empty()).map_err(told)?;
    let answer = sender.send_request(request).await.map_err(told)?;
    let status = answer.status();
    let body = to_bytes(Body::new(answer.into_body()), ANSWER_BYTES).await.map_err(told)?;
    connection.abort();
    Ok(Answer { status, body })
}

/// Trusts the certificate that the instance was configured with, whoever signed it and for whatever name, and no other.
fn trusting(shown: CertificateDer<'static>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier = Arc::new(Ours { shown, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
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
