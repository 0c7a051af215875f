//! Makes TLS connections with rustls, and checks certificates as libpq does for each `sslmode`.
//!
//! Guarantee: with root certificates the server's chain is always checked, and its name for `verify-full`. Signatures
//! of the handshake are checked in every mode. Without root certificates any certificate is accepted.
//! Relies on `conninfo`: it refuses `verify-ca` and `verify-full` without root certificates, and `sslrootcert=system`
//! without `verify-full`.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{Conninfo, SslMode};
use crate::error::{Error, Result};

/// The TLS connector for these settings.
///
/// # Errors
/// [`Error::Source`] for a certificate or key that cannot be read.
pub(super) fn connector(conninfo: &Conninfo) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let failed = |detail: &dyn std::fmt::Display| Error::source("TLS", detail);
    let roots = conninfo.tls.root.as_deref().map(roots).transpose()?;
    let (trusted, store) = roots.unzip();
    let chain = match store {
        Some(store) => {
            let built = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider)).build();
            Some(built.map_err(|e| failed(&e))?)
        }
        None => None,
    };
    let trusted = trusted.unwrap_or_default();
    let verifier = AsLibpq { chain, trusted, checks_name: conninfo.sslmode == SslMode::VerifyFull, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| failed(&e))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let config = match (&conninfo.tls.cert, &conninfo.tls.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| Error::source(key, format!("the private key cannot be read: {e}")))?;
            builder.with_client_auth_cert(certificates(cert)?, key).map_err(|e| failed(&e))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
    read.map_err(|e| Error::source(path, format!("the certificates cannot be read: {e}")))
}

fn roots(path: &Path) -> Result<(Vec<CertificateDer<'static>>, RootCertStore)> {
    let certificates = match path == Path::new("system") {
        true => rustls_native_certs::load_native_certs().certs,
        false => certificates(path)?,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    match added {
        0 => Err(Error::source(path, "has no root certificate")),
        _ => Ok((certificates, roots)),
    }
}

/// Checks a certificate as far as the `sslmode` demands: without root certificates not at all, and the host's name only
/// for `verify-full`.
#[derive(Debug)]
struct AsLibpq {
    /// The verifier of chains; `None` without root certificates.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The root certificates themselves.
    trusted: Vec<CertificateDer<'static>>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AsLibpq {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked last, so everything else about the certificate is right here.
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }))
                if !self.checks_name =>
            {
                Ok(ServerCertVerified::assertion())
            }
            // `openssl req -x509` makes an authority's certificate, and many servers use it as their own (PostgreSQL
            // documentation, 18.9.5). OpenSSL accepts it if it is a root itself. rustls refuses it, after it has
            // checked the dates.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) if self.trusted.iter().any(|root| root == end_entity) => {
                if self.checks_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
