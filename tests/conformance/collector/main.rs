//! A collector of traces in a pod: `collector ADDRESS` takes OTLP over gRPC and prints each span as
//! a line of JSON: `trace`, `span`, `parent` in hex, `name`, `kind` as OTLP numbers it, and
//! `attributes`, texts and numbers. It must not know the mesh.

use std::net::SocketAddr;

use anyhow::Context;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

struct Collector;

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            println!("{}", line(&span));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn line(span: &Span) -> Value {
    json!({
        "trace": hex(&span.trace_id),
        "span": hex(&span.span_id),
        "parent": hex(&span.parent_span_id),
        "name": span.name,
        "kind": span.kind,
        "attributes": span.attributes.iter().map(attribute).collect::<Map<_, _>>(),
    })
}

fn attribute(one: &KeyValue) -> (String, Value) {
    let value = one.value.as_ref().and_then(|value| value.value.as_ref());
    let value = match value {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::BoolValue(is)) => json!(is),
        _ => Value::Null,
    };
    (one.key.clone(), value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1);
    let address: SocketAddr = address.context("usage: collector ADDRESS")?.parse()?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on {address}");
    tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(Collector))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}
