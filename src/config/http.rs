//! `[http]`: the listener, who may ask it about users, and how often.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::section::{Context, Found, Section};
use super::{Secret, token};
use crate::error::Fault;

/// Default of `http.requests_per_second`: a person, and a script beside.
const REQUESTS_PER_SECOND: usize = 20;

/// `[http]`
#[derive(Debug, Clone)]
pub struct Http {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// File that holds the operator's bearer token.
    pub token_file: Option<PathBuf>,
    /// The token it held at start.
    pub token: Option<Secret>,
    /// Calls with the operator's token that are answered in a second, and at once after a pause.
    pub requests_per_second: usize,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
}

/// What the listener shows to its clients.
#[derive(Clone)]
pub struct Tls {
    /// File of the certificate and of those that signed it.
    pub cert_file: PathBuf,
    /// File of its key.
    pub key_file: PathBuf,
    /// Both, as they were at start.
    pub server: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.cert_file.display(), self.key_file.display())
    }
}

pub(super) fn read(
    context: &Context<'_>,
    mut section: Section<'_>,
    warnings: &mut Vec<String>,
) -> Option<Http> {
    let listen = section
        .text_or_env("listen", "LOCKSTEP_HTTP_LISTEN")
        .unwrap_or_else(|| Found { value: "127.0.0.1:9855".to_owned(), place: String::new() });
    let listen =
        section.parse("listen", Some(&listen), "give an address and a port, 127.0.0.1:9855 for example");
    let token_file = section.text_or_env("token_file", "LOCKSTEP_HTTP_TOKEN_FILE");
    let cert_file = section.text_or_env("tls_cert_file", "LOCKSTEP_HTTP_TLS_CERT_FILE");
    let key_file = section.text_or_env("tls_key_file", "LOCKSTEP_HTTP_TLS_KEY_FILE");
    let requests_per_second = section.count("requests_per_second", REQUESTS_PER_SECOND, 1..=100_000);
    section.finish();
    let token = token_file.as_ref().map(|found| {
        token::read(Path::new(&found.value)).map_err(|fault| context.mistakes.add_fault(&found.place, &fault))
    });
    let tls = read_tls(context, cert_file, key_file);
    let (token, tls, listen) = (token.transpose().ok()?, tls.ok()?, listen?);
    warnings.extend(exposed(listen, token.is_some(), tls.is_some()));
    let token_file = token_file.map(|found| PathBuf::from(found.value));
    Some(Http { listen, token_file, token, requests_per_second, tls })
}

/// What is odd about an address that other machines reach.
fn exposed(listen: SocketAddr, has_token: bool, has_tls: bool) -> Option<String> {
    let lacks = match (has_token, has_tls) {
        _ if listen.ip().is_loopback() => return None,
        (true, true) => return None,
        (true, false) => "without TLS: who listens on the network reads the operator's token",
        (false, true) => "without http.token_file: nobody may ask about a user",
        (false, false) => "without TLS and without http.token_file",
    };
    Some(format!("http.listen {listen} is reached by other machines, {lacks}"))
}

fn read_tls(
    context: &Context<'_>,
    cert_file: Option<Found<String>>,
    key_file: Option<Found<String>>,
) -> Result<Option<Tls>, ()> {
    let (cert, key) = match (cert_file, key_file) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        (Some(found), None) | (None, Some(found)) => {
            let fact = "http.tls_cert_file and http.tls_key_file belong together";
            context.mistakes.add(&found.place, fact, "give both, or neither");
            return Err(());
        }
    };
    let told = |found: &Found<String>, fault: Fault| context.mistakes.add_fault(&found.place, &fault);
    let chain = chain(Path::new(&cert.value)).map_err(|fault| told(&cert, fault));
    let secret = private_key(Path::new(&key.value)).map_err(|fault| told(&key, fault));
    let (chain, secret) = (chain?, secret?);
    let server = server(chain, secret).map_err(|error| {
        let fact = format!("{} and {} are no pair ({error})", cert.value, key.value);
        context.mistakes.add(&cert.place, fact, "give a certificate and the key that it was made with");
    })?;
    let (cert_file, key_file) = (PathBuf::from(cert.value), PathBuf::from(key.value));
    Ok(Some(Tls { cert_file, key_file, server: Arc::new(server) }))
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let name = path.display();
    let fault = |fact: String| Fault { fact, cure: "give a readable PEM file of certificates".to_owned() };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| fault(format!("the certificate file {name} cannot be read ({error})")))?;
    match chain.is_empty() {
        true => Err(fault(format!("the certificate file {name} holds no certificate"))),
        false => Ok(chain),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Fault> {
    let name = path.display();
    let fault = |fact: String, cure: String| Fault { fact, cure };
    let cure = || "give a readable PEM file of one private key".to_owned();
    let metadata = fs::metadata(path)
        .map_err(|e| fault(format!("the key file {name} cannot be read ({})", e.kind()), cure()))?;
    if metadata.permissions().mode() & 0o007 != 0 {
        let fact = format!("the key file {name} is open to every user of this machine");
        return Err(fault(fact, format!("run \"chmod 600 {name}\"")));
    }
    // The error might show what it could not parse.
    PrivateKeyDer::from_pem_file(path)
        .map_err(|_| fault(format!("the key file {name} holds no private key that can be read"), cure()))
}

fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, tokio_rustls::rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut server = builder.with_single_cert(chain, key)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_reach_is_told_where_it_is_not_guarded() {
        let told = |listen: &str, token, tls| exposed(listen.parse().unwrap(), token, tls);
        for guarded in [told("127.0.0.1:1", false, false), told("[::1]:1", false, false)] {
            assert_eq!(guarded, None);
        }
        assert_eq!(told("0.0.0.0:1", true, true), None);
        assert!(told("0.0.0.0:1", true, false).unwrap().contains("without TLS: "));
        assert!(told("10.0.0.1:1", false, true).unwrap().contains("without http.token_file: "));
        assert!(told("[::]:1", false, false).unwrap().contains("without TLS and without"));
    }

    #[test]
    fn every_faulty_pair_of_files_is_named_with_its_cure_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let (cert, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let good = write("cert", &cert, 0o644);
        let good_key = write("key", &key, 0o600);
        assert!(server(chain(&good).unwrap(), private_key(&good_key).unwrap()).is_ok());
        let foreign = write("foreign", &other.signing_key.serialize_pem(), 0o600);
        assert!(server(chain(&good).unwrap(), private_key(&foreign).unwrap()).is_err(), "no pair");

        let open = private_key(&write("open", &key, 0o604)).unwrap_err();
        assert!(open.fact.contains("open to every user") && open.cure.contains("chmod 600"), "{open}");
        for (name, text) in
            [("empty", ""), ("text", "hunter2"), ("half", "-----BEGIN PRIVATE KEY-----\nhunter2")]
        {
            let path = write(name, text, 0o600);
            for fault in [chain(&path).unwrap_err(), private_key(&path).unwrap_err()] {
                assert!(fault.fact.contains(name) && fault.cure.contains("PEM"), "{fault}");
                assert!(!fault.to_string().contains("hunter2"), "{fault}");
            }
        }
        assert!(chain(Path::new("/nonexistent/cert")).unwrap_err().fact.contains("cannot be read"));
        assert!(private_key(Path::new("/nonexistent/key")).unwrap_err().fact.contains("cannot be read"));
    }
}
