//! Who calls: every method of every service asks here first. A caller without a token that is
//! valid now is told nothing but that.

use std::sync::Arc;

use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::metrics::Metrics;
use crate::state::nodes::{Caller, Nodes};
use crate::strangers::Standing;

/// Length of a token on the wire: 64 hexadecimal digits.
const TOKEN_DIGITS: usize = 64;

/// Puts the [`Caller`] into a request, or refuses it.
#[derive(Clone)]
pub struct Authenticate {
    nodes: Nodes,
    metrics: Arc<Metrics>,
}

impl Authenticate {
    /// By these tokens.
    pub fn new(nodes: Nodes, metrics: Arc<Metrics>) -> Self {
        Self { nodes, metrics }
    }

    fn caller(&self, metadata: &MetadataMap) -> Option<Caller> {
        let mut values = metadata.get_all("authorization").iter();
        let (value, None) = (values.next()?, values.next()) else {
            return None;
        };
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        let right = scheme.eq_ignore_ascii_case("bearer") && token.len() == TOKEN_DIGITS;
        self.nodes.authenticate(token).filter(|_| right)
    }
}

impl Interceptor for Authenticate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        match self.caller(request.metadata()) {
            Some(caller) => {
                if let Some(standing) = request.extensions().get::<Standing>() {
                    standing.prove();
                }
                request.extensions_mut().insert(caller);
                Ok(request)
            }
            None => {
                self.metrics.unauthenticated.inc();
                Err(Status::unauthenticated("no valid token"))
            }
        }
    }
}

/// The caller that [`Authenticate`] found.
///
/// # Errors
/// The service was wired without it: nothing is answered then.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::unauthenticated("no valid token"))
}
