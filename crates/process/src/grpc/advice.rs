//! What to tell a person when the control plane cannot be reached or refuses: the innermost reason,
//! and what to do about it. Makes no connection itself.

use std::error::Error;
use std::io;

use rustls::CertificateError;
use tonic::{Code, Status};

use super::{CallError, ConnectError, Settings};

/// The error of a connection that could not be made.
pub(super) fn unreachable(settings: &Settings, error: &(dyn Error + 'static)) -> ConnectError {
    let fix = causes(error)
        .find_map(|cause| fix(settings, cause))
        .unwrap_or_else(|| {
            "check the address and that the control plane runs; it is tried again".to_owned()
        });
    let reason = innermost(error);
    ConnectError::Unreachable {
        address: settings.address.clone(),
        reason,
        fix,
    }
}

/// The error of a call that was answered with `status`, or broke.
pub(super) fn refused(settings: &Settings, status: &Status) -> CallError {
    let fix = match status.code() {
        Code::Unauthenticated => "check the token file (`culvertd token` makes one for this node)",
        Code::PermissionDenied => "the control plane does not allow this to the node's token",
        Code::Unavailable | Code::DeadlineExceeded => "check that it runs; it is tried again",
        Code::Unimplemented => "this control plane does not offer that service",
        _ => "see the control plane's log",
    };
    let message = match status.source() {
        Some(source) if is_transport(status) => innermost(source),
        _ => status.message().to_owned(),
    };
    CallError::Refused {
        address: settings.address.clone(),
        code: status.code(),
        message,
        fix,
    }
}

/// Whether the status was made on this side, because the connection broke or could not be made.
pub(super) fn is_transport(status: &Status) -> bool {
    // A status that came over the wire has no source.
    status.source().is_some() || status.code() == Code::Unavailable
}

fn fix(settings: &Settings, cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = tls_error(cause) {
        return Some(tls_fix(settings, error));
    }
    let io = cause.downcast_ref::<io::Error>()?;
    match io.kind() {
        io::ErrorKind::ConnectionRefused => {
            Some("nothing listens there (yet); it is tried again".to_owned())
        }
        io::ErrorKind::TimedOut => Some("check the route to it and any firewall".to_owned()),
        _ => None,
    }
}

/// rustls' error, which travels inside of an `io::Error`.
fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = cause
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    cause
        .downcast_ref()
        .or_else(|| inner.and_then(|inner| inner.downcast_ref()))
}

fn tls_fix(settings: &Settings, error: &rustls::Error) -> String {
    let root = &settings.root_cert;
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another name: start it with a --server-name for this address"
            .to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "check the clocks of both machines".to_owned(),
        rustls::Error::InvalidCertificate(_) => {
            format!("its certificate does not lead to {root:?}: copy its root.pem there")
        }
        _ => "something that speaks no gRPC over TLS answers there".to_owned(),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause: &&'a (dyn Error + 'static)| {
        (*cause).source()
    })
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}
