//! Which certificates a `rediss://` connection trusts.

use std::path::Path;
use std::sync::Arc;

use fred::types::config::{TlsConfig, TlsConnector};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::error::Error;

/// The roots that a server's certificate must lead to.
#[derive(Clone)]
pub struct Trust(TlsConfig);

impl Trust {
    /// The certificates of `file`, or the system's.
    ///
    /// # Errors
    /// The file cannot be read or holds no certificate; the system has none.
    pub fn load(file: Option<&Path>) -> Result<Trust, Error> {
        let mut roots = RootCertStore::empty();
        match file {
            Some(file) => {
                let wrong = || {
                    let fact = format!("redis.root_cert {} holds no PEM certificate", file.display());
                    Error::definite(fact, "name a readable PEM file")
                };
                for certificate in CertificateDer::pem_file_iter(file).map_err(|_| wrong())? {
                    roots.add(certificate.map_err(|_| wrong())?).map_err(|_| wrong())?;
                }
                if roots.is_empty() {
                    return Err(wrong());
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(Error::definite(
                        "the system has no root certificates for rediss://",
                        "install ca-certificates or set redis.root_cert",
                    ));
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::definite(format!("tls is not usable: {error}"), "report this"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Trust(TlsConnector::from(config).into()))
    }

    pub(super) fn config(&self) -> TlsConfig {
        self.0.clone()
    }
}
