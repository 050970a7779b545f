//! Wire to domain. Everything that comes from outside is a slice of bytes here, and either
//! becomes a value that the rest can rely on, or an error that names the resource and the field.
//! Nothing here panics, whatever the bytes are; the fuzz targets enter here.

mod fault;
mod policy;
mod route;
mod service;
mod unknown;
mod workload;
mod zds;

use mesh::policy::targeted::TargetedPolicy;
use mesh::{Policy, Workload};
use prost::Message;

use crate::resource::Resource;
use crate::routed::Routed;
use crate::wire;
use crate::{
    ADDRESS_TYPE_URL, AUTHORIZATION_TYPE_URL, ROUTE_TYPE_URL, TARGET_POLICY_TYPE_URL,
    WORKLOAD_TYPE_URL,
};
use fault::{At, Fault};

pub use fault::{DecodeError, Problem};
pub use zds::{zds_ack, zds_hello, zds_request};

/// Reads a workload or a service (`istio.workload.Address`).
///
/// # Errors
/// What no workload or service can be.
pub fn address(bytes: &[u8]) -> Result<Resource, DecodeError> {
    use wire::workload::address::Type;
    let message: wire::workload::Address = parse("address", bytes)?;
    match message.r#type {
        Some(Type::Workload(message)) => workload_message(message).map(Resource::Workload),
        Some(Type::Service(message)) => {
            let name = format!("service `{}/{}`", message.namespace, message.hostname);
            service::service(message)
                .map(Resource::Service)
                .map_err(|fault| fault.of(name))
        }
        None => Err(Fault::new("type", Problem::Missing).of("address")),
    }
}

/// Reads a workload alone (`istio.workload.Workload`).
///
/// # Errors
/// What no workload can be.
pub fn workload(bytes: &[u8]) -> Result<Workload, DecodeError> {
    workload_message(parse("workload", bytes)?)
}

fn workload_message(message: wire::workload::Workload) -> Result<Workload, DecodeError> {
    let name = format!("workload `{}`", message.uid);
    workload::workload(message).map_err(|fault| fault.of(name))
}

/// Reads a policy (`istio.security.Authorization`).
///
/// A policy never gets wider by what is not understood here. A match of an ALLOW policy that
/// carries extensions, which are further conditions, is left out, since it can never be said to
/// hold; a rule of an ALLOW policy with fields unknown to this version is left out whole. In a
/// DENY policy the same are read as if they were not there, which denies more. Extensions of the
/// policy itself are no conditions and are not read.
///
/// # Errors
/// What no policy can be.
pub fn policy(bytes: &[u8]) -> Result<Policy, DecodeError> {
    let message: wire::security::Authorization = parse("policy", bytes)?;
    let name = format!("policy `{}/{}`", message.namespace, message.name);
    policy::policy(message, &unknown::rules_with_unknown_fields(bytes))
        .map_err(|fault| fault.of(name))
}

/// Reads a resource by its type URL.
///
/// # Errors
/// A type that is not one of ours, or what the type's own function refuses.
pub fn resource(type_url: &str, bytes: &[u8]) -> Result<Resource, DecodeError> {
    match type_url {
        ADDRESS_TYPE_URL => address(bytes),
        WORKLOAD_TYPE_URL => workload(bytes).map(Resource::Workload),
        AUTHORIZATION_TYPE_URL => policy(bytes).map(Resource::Policy),
        _ => Err(Fault::new("type_url", Problem::form(type_url, "a known type")).of("resource")),
    }
}

/// Reads a resource as a discovery response carries it; its name must be that of its content,
/// since it is by name that it will be removed.
///
/// # Errors
/// As [`resource`]; no content; a name that is not the content's.
pub fn discovered(message: &wire::discovery::Resource) -> Result<Resource, DecodeError> {
    let named = |fault: Fault| fault.of(format!("resource `{}`", message.name));
    let any = message
        .resource
        .as_ref()
        .ok_or_else(|| named(Fault::new("resource", Problem::Missing)))?;
    let resource = resource(&any.type_url, &any.value)?;
    is_named(&resource.name().to_string(), message).map_err(named)?;
    Ok(resource)
}

/// Reads a route as a discovery response carries it, under its own name.
///
/// # Errors
/// Another type, no content, a name that is not the content's, or what no route can be.
pub fn routed(message: &wire::discovery::Resource) -> Result<Routed, DecodeError> {
    let named = || format!("route `{}`", message.name);
    let content = content(message, ROUTE_TYPE_URL).map_err(|fault| fault.of(named()))?;
    let routed = route::route(parse(&named(), content)?).map_err(|fault| fault.of(named()))?;
    is_named(&routed.name().to_string(), message).map_err(|fault| fault.of(named()))?;
    Ok(routed)
}

/// Reads a policy with targets as a discovery response carries it, under its own name.
///
/// # Errors
/// As [`routed`] and [`policy`].
pub fn target_policy(message: &wire::discovery::Resource) -> Result<TargetedPolicy, DecodeError> {
    let named = || format!("target policy `{}`", message.name);
    let content = content(message, TARGET_POLICY_TYPE_URL).map_err(|fault| fault.of(named()))?;
    let policy = route::target_policy(parse(&named(), content)?);
    let policy = policy.map_err(|fault| fault.of(named()))?;
    is_named(&policy.policy.key.to_string(), message).map_err(|fault| fault.of(named()))?;
    Ok(policy)
}

fn content<'a>(
    message: &'a wire::discovery::Resource,
    type_url: &'static str,
) -> Result<&'a [u8], Fault> {
    let any = message.resource.as_ref();
    let any = any.ok_or_else(|| Fault::new("resource", Problem::Missing))?;
    match any.type_url == type_url {
        true => Ok(&any.value),
        false => Err(Fault::new(
            "type_url",
            Problem::form(&any.type_url, type_url),
        )),
    }
}

/// It is by name that it will be removed.
fn is_named(own: &str, message: &wire::discovery::Resource) -> Result<(), Fault> {
    match own == message.name {
        true => Ok(()),
        false => Err(Fault::new(
            "name",
            Problem::form(own, "the name of its content"),
        )),
    }
}

fn parse<M: Message + Default>(what: &str, bytes: &[u8]) -> Result<M, DecodeError> {
    M::decode(bytes)
        .map_err(|e| Problem::Protobuf(e.to_string()))
        .at("bytes")
        .map_err(|f| f.of(what))
}
