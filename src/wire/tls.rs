//! TLS as libpq's `sslmode` means it, by rustls.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

use crate::config::{Postgres, TlsMode};
use crate::error::{Error, Result};

/// Wraps `socket`, on which the server has agreed to TLS.
pub(super) async fn handshake(pg: &Postgres, host: &str, socket: TcpStream) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        Error::definite(format!("{host:?} is no host name that a certificate can have"), "correct the host")
    })?;
    let config = client_config(pg)?;
    let attempt = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
    attempt.map_err(|error| refused(pg, host, &error))
}

fn refused(pg: &Postgres, host: &str, error: &std::io::Error) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    match tls {
        Some(TlsError::InvalidCertificate(why)) => {
            let cure = match pg.root_cert.as_deref() {
                Some(root) => format!("check the host name and that {} issued it", root.display()),
                None => "check the host name, or set sslrootcert".to_owned(),
            };
            Error::definite(format!("the certificate of postgres at {host} is not trusted ({why})"), cure)
        }
        Some(TlsError::AlertReceived(alert)) => Error::definite(
            format!("postgres at {host} refused the TLS handshake ({alert:?})"),
            "check sslcert and sslkey against the server's ssl_ca_file",
        ),
        Some(other) => Error::definite(
            format!("TLS with postgres at {host} failed ({other})"),
            "check the server's ssl_* settings",
        ),
        None => Error::transient(format!("TLS with postgres at {host} was cut off ({error})"), ""),
    }
}

fn client_config(pg: &Postgres) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Verifier { check: check(pg)?, algorithms: algorithms(&provider) });
    let unusable = |error: TlsError| {
        Error::definite(
            format!("the TLS client certificate is unusable ({error})"),
            "check sslcert and sslkey",
        )
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match &pg.client_cert {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let key_der =
                PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("sslkey", key, &error))?;
            let chain = certificates("sslcert", certificate)?;
            builder.with_client_auth_cert(chain, key_der).map_err(unusable)
        }
    }
}

fn algorithms(provider: &CryptoProvider) -> WebPkiSupportedAlgorithms {
    provider.signature_verification_algorithms
}

fn check(pg: &Postgres) -> Result<Check> {
    match (pg.tls, &pg.root_cert) {
        (TlsMode::Disable | TlsMode::Prefer, _) | (TlsMode::Require, None) => Ok(Check::Nothing),
        (TlsMode::Require | TlsMode::VerifyCa, _) => roots(pg).map(Check::Chain),
        (TlsMode::VerifyFull, _) => roots(pg).map(Check::ChainAndName),
    }
}

fn roots(pg: &Postgres) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let given = match &pg.root_cert {
        Some(path) => certificates("sslrootcert", path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    store.add_parsable_certificates(given);
    match store.is_empty() {
        true => Err(Error::definite("there is no root certificate to check postgres by", "set sslrootcert")),
        false => Ok(store),
    }
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(setting, path, &error))
}

fn unreadable(setting: &str, path: &Path, error: &dyn Display) -> Error {
    let cure = format!("make {setting} a readable PEM file");
    Error::definite(format!("{} cannot be read ({error})", path.display()), cure)
}

/// How far the server's certificate is checked; its signature of the handshake always is.
#[derive(Debug)]
enum Check {
    Nothing,
    Chain(RootCertStore),
    ChainAndName(RootCertStore),
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let (Check::Chain(roots) | Check::ChainAndName(roots)) = &self.check else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let all = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, all)?;
        if let Check::ChainAndName(_) = self.check {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
