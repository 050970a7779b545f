//! One request and its answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;

use crate::behaviour::Behaviour;
use crate::{Seen, Server};

/// Body of an answer.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Where a connection is from, and on which port it came.
#[derive(Clone, Debug)]
pub(crate) struct Met {
    pub(crate) client: SocketAddr,
    pub(crate) port: u16,
    /// Name that the client gave in TLS.
    pub(crate) sni: Option<String>,
}

/// Longest request body that is told in the answer, in bytes.
const TOLD_BYTES: usize = 4096;

/// Answers a request; an error ends the connection.
pub(crate) async fn answer(
    server: &Server,
    met: &Met,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Body>> {
    if request.uri().path() == "/seen" {
        let query = request.uri().query().unwrap_or_default();
        let pair = query.strip_prefix("pair=").unwrap_or_default();
        let count = server.seen(pair).to_string();
        return Ok(Response::new(whole(count)));
    }
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or_default()
    };
    let under_way = server.begin(header("x-pair"));
    let Seen { count, most, .. } = under_way.seen;
    let behaviour = Behaviour::read(header("x-echo")).for_request(&server.name, count);
    tokio::time::sleep(behaviour.delay).await;
    if behaviour.reset {
        anyhow::bail!("asked to reset");
    }
    let (head, body) = request.into_parts();
    let body = if behaviour.body {
        body.map_err(io::Error::other).boxed()
    } else {
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let body = body.to_bytes();
        told(server, met, (&head, &body, &trailers), &behaviour)?
    };
    let mut response = Response::new(body);
    *response.status_mut() = behaviour.status.unwrap_or(200).try_into()?;
    let headers = response.headers_mut();
    headers.insert("x-pod", HeaderValue::from_str(&server.name)?);
    headers.insert("x-seen", HeaderValue::from(count));
    headers.insert("x-together", HeaderValue::from(most));
    for (name, value) in &behaviour.headers {
        headers.append(name.parse::<HeaderName>()?, value.parse()?);
    }
    Ok(response)
}

fn told(
    server: &Server,
    met: &Met,
    (head, body, trailers): (&http::request::Parts, &Bytes, &HeaderMap),
    behaviour: &Behaviour,
) -> anyhow::Result<Body> {
    let headers = fields(&head.headers);
    let authority = head.uri.authority().map(|authority| authority.to_string());
    let host = headers.get("host").and_then(|hosts| hosts.first().cloned());
    let text = json!({
        "pod": server.name,
        "port": met.port,
        "sni": met.sni,
        "client": met.client.ip().to_canonical().to_string(),
        "version": format!("{:?}", head.version),
        "method": head.method.as_str(),
        "scheme": head.uri.scheme_str(),
        "host": authority.or(host),
        "path": head.uri.path_and_query().map(|path| path.as_str()),
        "headers": headers,
        "trailers": fields(trailers),
        "bytes": body.len(),
        "body": String::from_utf8_lossy(&body[..body.len().min(TOLD_BYTES)]),
    });
    let text = format!("{text}\n");
    if behaviour.trailers.is_empty() {
        return Ok(whole(text));
    }
    let mut trailers = HeaderMap::new();
    for (name, value) in &behaviour.trailers {
        trailers.append(name.parse::<HeaderName>()?, value.parse()?);
    }
    let frames = [Frame::data(Bytes::from(text)), Frame::trailers(trailers)];
    let frames = stream::iter(frames.map(Ok::<_, io::Error>));
    Ok(BodyExt::boxed(StreamBody::new(frames)))
}

fn fields(map: &HeaderMap) -> BTreeMap<&str, Vec<String>> {
    let mut fields: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in map {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        fields.entry(name.as_str()).or_default().push(value);
    }
    fields
}

fn whole(text: String) -> Body {
    let body = Full::new(Bytes::from(text));
    body.map_err(|never: Infallible| match never {}).boxed()
}
