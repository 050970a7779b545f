//! `culvert route explain`: which route takes a request, clause by clause, and where it goes.

mod ask;
mod tell;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use mesh::Service;
use mesh::route::book::Addressed;
use mesh::route::{Decision, GatewayKey, Request, ServicePort, Table, decide, explain};
use mesh::service::GatewayDestination;
use translate::object::Name;

pub use ask::{Ask, AskError};
use tell::Answer;

use crate::manifests::{Manifests, ManifestsError};

/// On a Service: it is that of this Gateway's waypoint (Gateway API, GEP-1762).
const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// `culvert route`.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Say which rule of which route takes a request, clause by clause, and where it goes.
    Explain(Options),
}

/// Arguments of `culvert route explain`.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Directory of manifests, read as culvertd reads it.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// The request: `GET http://web.shop/cart?id=7`; without a method it is GET. The host is a
    /// service's name as its client would write it, or its address.
    #[arg(value_name = "REQUEST")]
    request: String,
    /// A header of the request, `name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Namespace of the client: short names mean its services, and its consumer routes count.
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    from: String,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Why a request cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The manifests.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// The request.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The host is none of a service.
    #[error(
        "no service is `{host}` for a client in namespace {from}; write NAME, NAME.NAMESPACE, \
         NAME.NAMESPACE.svc.cluster.local or an address of a service"
    )]
    NoService {
        /// As given.
        host: String,
        /// Namespace of the client.
        from: String,
    },
    /// The service has no such port, so that nothing gets the request.
    #[error("service {service} has no port {port}; it has {ports}: write it as http://HOST:PORT/")]
    NoPort {
        /// Its name.
        service: String,
        /// As asked.
        port: u16,
        /// Those that it has.
        ports: String,
    },
}

/// The answer, as it is printed.
///
/// # Errors
/// The manifests cannot be read, the request cannot be read, or is for no service.
pub fn explained(command: &Command) -> Result<String, RouteError> {
    let Command::Explain(options) = command;
    let manifests = Manifests::read(&options.manifests)?;
    for error in &manifests.errors {
        eprintln!("warning: {error}");
    }
    let ask = Ask::read(&options.request, &options.headers)?;
    let services = manifests.output.services.values();
    let service = ask.service(services, &options.from);
    let service = service.ok_or_else(|| RouteError::NoService {
        host: ask.host().to_owned(),
        from: options.from.clone(),
    })?;
    check_port(service, ask.port())?;
    let to = ServicePort {
        service: service.key.clone(),
        port: ask.port(),
    };
    let gateway = gateway(&manifests, service);
    let addressed = Addressed {
        service: Some(&to),
        client_namespace: Some(&options.from),
        gateway: gateway.as_ref(),
    };
    let book = translate::book(&manifests.output.routes);
    let nothing = Arc::new(Table::default());
    let (scope, table) = match book.for_request(&addressed) {
        Some((level, table)) => (level.as_str(), table),
        None => ("none", &nothing),
    };
    let request = ask.request();
    let answer = answer(&ask, service, scope, table, &request);
    Ok(match options.output {
        Format::Text => answer.text(),
        Format::Json => answer.json(),
    })
}

fn check_port(service: &Service, port: u16) -> Result<(), RouteError> {
    let ports = service.ports.iter().map(|one| one.service_port);
    if ports.clone().any(|one| one == port) {
        return Ok(());
    }
    let ports: Vec<_> = ports.map(|one| one.to_string()).collect();
    Err(RouteError::NoPort {
        service: service.key.to_string(),
        port,
        ports: match ports.is_empty() {
            true => "none".to_owned(),
            false => ports.join(", "),
        },
    })
}

/// The Gateway of the waypoint that the service's traffic passes.
fn gateway(manifests: &Manifests, service: &Service) -> Option<GatewayKey> {
    let GatewayDestination::Hostname(key) = &service.waypoint.as_ref()?.destination else {
        return None;
    };
    let waypoint = manifests.output.services.get(key)?;
    // Without a Service of its own, a Gateway was given one of its name.
    let name = Name::new(&key.namespace, &waypoint.name);
    let by_hand = manifests.objects.services.get(&name);
    let name = by_hand.and_then(|own| own.meta.label(GATEWAY_NAME_LABEL));
    Some(GatewayKey {
        namespace: key.namespace.clone(),
        name: name.map_or_else(|| waypoint.name.clone(), Arc::from),
    })
}

fn answer(
    ask: &Ask,
    service: &Service,
    scope: &'static str,
    table: &Table,
    request: &Request<'_>,
) -> Answer {
    // The weights are told, not drawn: any number will do for the rest.
    let decision = (!table.is_empty()).then(|| decide(table, request, &mut || 0));
    let selected = match &decision {
        Some(Decision::Forward(forward)) => Some(forward.selected),
        Some(Decision::Redirect { selected, .. } | Decision::Preflight { selected, .. }) => {
            Some(*selected)
        }
        Some(Decision::Fail { selected, .. }) => *selected,
        None => None,
    };
    let rules = explain::explain(table, request);
    Answer::new(
        ask,
        service,
        scope,
        tell::Findings {
            rules,
            decision: decision.as_ref(),
            rule: selected.map(|selected| selected.rule()),
        },
    )
}
