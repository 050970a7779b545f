//! Spans: which requests leave them, whose children they are, what they say.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::Full;
use mesh::route::filter::{Filters, HeaderChanges, Mirror, Share};
use mesh::route::matching::{PathMatch, RequestMatch};
use mesh::route::{Backend, Retry, Rule};
use process::otlp::{Encode, Queue, Sampler, SpanKind, StatusCode as Code, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint::trace::Span;

use crate::world::{Handler, World, read_answer, read_head, run, target};

const ALL: Sampler = Sampler {
    is_parent_based: true,
    ratio: 1.0,
};
const NONE: Sampler = Sampler {
    is_parent_based: true,
    ratio: 0.0,
};
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A span as a collector gets it.
#[derive(Debug)]
struct Got {
    name: String,
    trace: String,
    span: String,
    parent: String,
    kind: i32,
    state: String,
    flags: u32,
    attributes: BTreeMap<String, String>,
    /// The message of its error.
    error: Option<String>,
    time: (u64, u64),
}

impl Got {
    fn of(span: Box<Span>) -> Self {
        let span = span.encode();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = |value| match value {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            Value::BoolValue(is) => is.to_string(),
            other => panic!("{other:?}"),
        };
        let all = span.attributes.into_iter();
        let attributes = all.map(|one| (one.key, text(one.value.unwrap().value.unwrap())));
        Self {
            name: span.name,
            trace: hex(&span.trace_id),
            span: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            kind: span.kind,
            state: span.trace_state,
            flags: span.flags,
            attributes: attributes.collect(),
            error: span.status.map(|status| {
                assert_eq!(status.code, i32::from(Code::Error));
                status.message
            }),
            time: (span.start_time_unix_nano, span.end_time_unix_nano),
        }
    }

    fn is_server(&self) -> bool {
        self.kind == i32::from(SpanKind::Server)
    }

    fn says(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    fn expect(&self, wanted: &[(&str, &str)]) {
        for (key, value) in wanted {
            assert_eq!(self.says(key), *value, "{key} of {self:#?}");
        }
    }

    fn millis(&self) -> u64 {
        (self.time.1 - self.time.0) / 1_000_000
    }
}

/// As many spans as that, the server's first, then in the order of their beginning.
async fn spans(queue: &mut Queue<Box<Span>>, count: usize) -> Vec<Got> {
    let mut all = Vec::new();
    while all.len() < count {
        match queue.take() {
            Some(span) => all.push(Got::of(span)),
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    assert!(queue.take().is_none(), "more than {count} spans");
    all.sort_by_key(|span| (!span.is_server(), span.time.0));
    all
}

fn with(fields: &str) -> String {
    format!("GET /a?b=1 HTTP/1.1\r\nHost: shop:81\r\n{fields}\r\n")
}

fn parent(flags: &str) -> String {
    with(&format!(
        "traceparent: 00-{TRACE}-{PARENT}-{flags}\r\ntracestate: a=1,b=2\r\n"
    ))
}

fn to(name: &str) -> Backend {
    Backend {
        target: target(name),
        weight: 1,
        filters: Default::default(),
    }
}

#[test]
fn a_sampled_request_is_a_child_of_its_clients_span_and_the_server_sees_a_child_of_that() {
    run(async |world| {
        let mut queue = world.trace(NONE);
        world.endpoint("", "v1", world.echo("v1"));
        assert_eq!(world.ask(parent("03")).await.status, 200);
        let spans = spans(&mut queue, 2).await;
        let (server, client) = (&spans[0], &spans[1]);
        assert!(server.is_server() && client.kind == i32::from(SpanKind::Client));
        assert_eq!((&*server.trace, &*server.parent), (TRACE, PARENT));
        assert_eq!((&*client.trace, &client.parent), (TRACE, &server.span));
        assert_ne!(client.span, server.span);
        assert_eq!((&*server.state, &*client.state), ("a=1,b=2", "a=1,b=2"));
        // The parent's flags, that it is told whether it is remote, and that it is.
        assert_eq!((server.flags, client.flags), (0x303, 0x103));
        let seen = &world.seen.borrow()[0];
        let told = format!("00-{TRACE}-{}-03", client.span);
        assert_eq!(seen.header("traceparent"), told);
        assert_eq!(seen.header("tracestate"), "a=1,b=2");
    });
}

#[test]
fn a_clients_trace_that_is_not_sampled_leaves_no_span_and_goes_on_as_it_came() {
    run(async |world| {
        let mut queue = world.trace(ALL);
        world.endpoint("", "v1", world.echo("v1"));
        assert_eq!(world.ask(parent("00")).await.status, 200);
        world.record().await;
        assert!(queue.take().is_none());
        let told = format!("00-{TRACE}-{PARENT}-00");
        assert_eq!(world.seen.borrow()[0].header("traceparent"), told);
    });
}

#[test]
fn a_sampler_that_asks_no_parent_tells_the_server_what_it_decided() {
    let never = Sampler {
        is_parent_based: false,
        ratio: 0.0,
    };
    run(async |world| {
        let mut queue = world.trace(never);
        world.endpoint("", "v1", world.echo("v1"));
        assert_eq!(world.ask(parent("01")).await.status, 200);
        world.record().await;
        assert!(queue.take().is_none());
        let told = world.seen.borrow()[0].header("traceparent").to_owned();
        assert!(
            told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"),
            "{told}"
        );
    });
    let always = Sampler {
        is_parent_based: false,
        ratio: 1.0,
    };
    run(async |world| {
        let mut queue = world.trace(always);
        world.endpoint("", "v1", world.echo("v1"));
        assert_eq!(world.ask(parent("00")).await.status, 200);
        let spans = spans(&mut queue, 2).await;
        assert_eq!(spans[0].parent, PARENT);
        let told = format!("00-{TRACE}-{}-01", spans[1].span);
        assert_eq!(world.seen.borrow()[0].header("traceparent"), told);
    });
}

#[test]
fn a_request_without_a_trace_is_sampled_by_its_share_and_begins_one() {
    run(async |world| {
        let mut queue = world.trace(Sampler {
            is_parent_based: true,
            ratio: 0.25,
        });
        world.endpoint("", "v1", world.echo("v1"));
        for _ in 0..400 {
            // One that is no trace, or there twice, is none.
            let bad = "traceparent: 00-0-0-01\r\ntracestate: x=1\r\n";
            assert_eq!(world.ask(with(bad)).await.status, 200);
        }
        let mut begun = Vec::new();
        while let Some(span) = queue.take() {
            begun.push(Got::of(span));
        }
        let servers = begun.iter().filter(|span| span.is_server());
        let sampled: Vec<&Got> = servers.collect();
        // Drawn alike in every run. Within five standard deviations of 100.
        assert!((57..=143).contains(&sampled.len()), "{}", sampled.len());
        let seen = world.seen.borrow();
        let told = |seen: &&crate::world::Seen| seen.header("traceparent").ends_with("-01");
        assert_eq!(seen.iter().filter(told).count(), sampled.len());
        assert!(seen.iter().all(|one| one.header("tracestate").is_empty()));
        assert!(
            sampled
                .iter()
                .all(|one| one.parent.is_empty() && one.state.is_empty())
        );
    });
}

#[test]
fn a_span_says_what_the_conventions_and_the_mesh_have_names_for() {
    run(async |world| {
        let mut queue = world.trace(ALL);
        world.endpoint("v1", "v1", world.echo("v1"));
        world.route(vec![Rule {
            matches: vec![RequestMatch {
                path: PathMatch::prefix("/shop"),
                ..RequestMatch::default()
            }],
            backends: vec![to("v1")],
            ..Rule::default()
        }]);
        let request = "GET /shop/cart?id=7 HTTP/1.1\r\nHost: shop:81\r\nUser-Agent: curl/8\r\n\
                       x-request-id: r1\r\n\r\n";
        assert_eq!(world.ask(request).await.status, 200);
        let spans = spans(&mut queue, 2).await;
        assert_eq!((&*spans[0].name, &*spans[1].name), ("GET /shop/*", "GET"));
        assert!(spans.iter().all(|span| span.error.is_none()));
        spans[0].expect(&[
            ("http.request.method", "GET"),
            ("url.scheme", "http"),
            ("url.path", "/shop/cart"),
            ("url.query", "id=7"),
            ("http.route", "/shop/*"),
            ("http.response.status_code", "200"),
            ("http.response.body.size", "18"),
            ("network.protocol.name", "http"),
            ("network.protocol.version", "1.1"),
            ("server.address", "shop"),
            ("server.port", "81"),
            ("client.address", "10.0.0.7"),
            ("client.port", "4321"),
            ("user_agent.original", "curl/8"),
            ("guid:x-request-id", "r1"),
            ("response_flags", "-"),
            ("istio.destination_service", "v1"),
            ("istio.destination_workload", "v1"),
            ("istio.destination_namespace", "shop"),
            ("istio.destination_canonical_service", "v1"),
            (
                "istio.destination_principal",
                "spiffe://cluster.local/ns/shop/sa/default",
            ),
            ("culvert.route", "HTTPRoute shop/web"),
            ("culvert.route.rule", "0"),
            ("culvert.tries", "1"),
            ("error.type", ""),
            ("rpc.system", ""),
        ]);
        spans[1].expect(&[
            ("http.request.method", "GET"),
            ("url.full", "http://shop:81/shop/cart?id=7"),
            ("http.response.status_code", "200"),
            ("network.protocol.version", "1.1"),
            ("network.peer.port", "8080"),
            ("server.address", "shop"),
            ("culvert.endpoint", "shop/v1"),
            ("istio.destination_workload", "v1"),
            ("http.request.resend_count", ""),
            ("culvert.mirror", ""),
            ("error.type", ""),
        ]);
    });
}

#[test]
fn each_try_has_a_span_with_its_number_and_why_it_failed() {
    run(async |world| {
        let mut queue = world.trace(ALL);
        world.endpoint("v1", "dead", None);
        let left = std::cell::Cell::new(1);
        let failing = world.http1("v1", move |_| {
            let status = match left.replace(0) {
                0 => StatusCode::OK,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            let answer = Response::builder().status(status);
            answer.body(Full::default()).unwrap()
        });
        world.endpoint("v1", "v1", failing);
        let pause = Duration::from_secs(3);
        world.route(vec![Rule {
            backends: vec![to("v1")],
            retry: Some(Retry {
                codes: vec![503],
                attempts: 2,
                backoff: pause,
            }),
            ..Rule::default()
        }]);
        assert_eq!(world.ask(parent("01")).await.status, 200);
        let spans = spans(&mut queue, 4).await;
        spans[0].expect(&[("http.response.status_code", "200"), ("culvert.tries", "3")]);
        assert_eq!(spans[0].error, None);
        let tries = &spans[1..];
        assert_eq!(tries[0].error.as_deref(), Some("refused"));
        tries[0].expect(&[
            ("error.type", "not_connected"),
            ("culvert.endpoint", "shop/dead"),
            ("http.response.status_code", ""),
            ("network.protocol.version", ""),
        ]);
        tries[1].expect(&[
            ("error.type", "503"),
            ("http.response.status_code", "503"),
            ("culvert.endpoint", "shop/v1"),
            ("http.request.resend_count", "1"),
        ]);
        tries[2].expect(&[
            ("error.type", ""),
            ("http.response.status_code", "200"),
            ("http.request.resend_count", "2"),
        ]);
        assert!(tries.iter().all(|one| one.parent == spans[0].span));
        // The pause before the next try belongs to none of them.
        let pause = pause.as_millis() as u64;
        assert!(tries[1].millis() < pause / 2, "{:?}", tries[1]);
        assert!(spans[0].millis() >= pause / 2, "{:?}", spans[0]);
        let told: Vec<String> = world
            .seen
            .borrow()
            .iter()
            .map(|one| one.header("traceparent").to_owned())
            .collect();
        let wanted = tries[1..]
            .iter()
            .map(|one| format!("00-{TRACE}-{}-01", one.span));
        assert_eq!(told, wanted.collect::<Vec<_>>(), "each try tells of itself");
    });
}

#[test]
fn answers_of_the_waypoints_own_have_spans_too() {
    run(async |world| {
        let mut queue = world.trace(ALL);
        world.route(vec![Rule {
            matches: vec![RequestMatch {
                path: PathMatch::Exact("/there".into()),
                ..RequestMatch::default()
            }],
            backends: vec![to("missing")],
            ..Rule::default()
        }]);
        assert_eq!(world.get("/").await.status, 404);
        let unrouted = spans(&mut queue, 1).await.remove(0);
        // What a client asks in vain is no failure of the server, by the conventions.
        assert_eq!(unrouted.error, None);
        unrouted.expect(&[
            ("http.response.status_code", "404"),
            ("response_flags", "no_route"),
            ("error.type", ""),
            ("culvert.tries", "0"),
        ]);
        assert_eq!(unrouted.name, "GET");
        assert_eq!(world.get("/there").await.status, 500);
        let missing = spans(&mut queue, 1).await.remove(0);
        assert!(missing.error.is_some());
        missing.expect(&[
            ("http.response.status_code", "500"),
            ("error.type", "no_endpoint"),
        ]);
        assert_eq!(missing.name, "GET /there");
    });
}

#[test]
fn copies_have_spans_of_their_own_and_are_told_them() {
    run(async |world| {
        let mut queue = world.trace(ALL);
        for name in ["v1", "m1"] {
            world.endpoint(name, name, world.echo(name));
        }
        world.endpoint("m2", "m2", None);
        let mirror = |name| Mirror {
            target: target(name),
            share: Share::ALL,
        };
        world.route(vec![Rule {
            backends: vec![to("v1")],
            filters: Filters {
                mirrors: vec![mirror("m1"), mirror("m2")],
                ..Filters::default()
            }
            .into(),
            ..Rule::default()
        }]);
        assert_eq!(world.ask(parent("01")).await.status, 200);
        let spans = spans(&mut queue, 4).await;
        let to = |name: &str| {
            let mut found = spans.iter().filter(|span| !span.is_server());
            let name = format!("shop/{name}");
            found
                .find(|span| span.says("culvert.endpoint") == name)
                .unwrap()
        };
        to("v1").expect(&[("culvert.mirror", ""), ("error.type", "")]);
        to("m1").expect(&[
            ("culvert.mirror", "true"),
            ("http.response.status_code", "200"),
            ("istio.destination_service", "m1"),
            ("error.type", ""),
        ]);
        to("m2").expect(&[("culvert.mirror", "true"), ("error.type", "broken")]);
        assert_eq!(to("m2").error.as_deref(), Some("refused"));
        for one in &*world.seen.borrow() {
            let told = format!("00-{TRACE}-{}-01", to(one.endpoint).span);
            assert_eq!(one.header("traceparent"), told, "{}", one.endpoint);
        }
    });
}

#[test]
fn a_tunnel_ends_its_spans_when_it_ends() {
    const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                            Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
    let switching: Handler = std::rc::Rc::new(|mut stream| {
        Box::pin(async move {
            read_head(&mut stream).await;
            stream.write_all(SWITCHED.as_bytes()).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
    });
    run(async move |world| {
        let mut queue = world.trace(ALL);
        world.endpoint("", "v1", Some(switching));
        let mut client = world.connect();
        let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";
        client.write_all(with(fields).as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 101);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(queue.take().is_none(), "it is still open");
        drop(client);
        for span in spans(&mut queue, 2).await {
            span.expect(&[("http.response.status_code", "101")]);
            assert!(span.millis() >= 60_000, "{span:?}");
        }
    });
}

#[test]
fn an_answer_that_breaks_off_and_a_client_that_goes_are_errors() {
    run(async |world| {
        let mut queue = world.trace(ALL);
        let short = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi";
        let breaking: Handler = std::rc::Rc::new(move |mut stream| {
            Box::pin(async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(short.as_bytes()).await;
            })
        });
        world.endpoint("", "v1", Some(breaking));
        let mut client = world.connect();
        client.write_all(with("").as_bytes()).await.unwrap();
        let _ = client.read_to_end(&mut Vec::new()).await;
        for span in spans(&mut queue, 2).await {
            span.expect(&[
                ("http.response.status_code", "200"),
                ("error.type", "broken"),
            ]);
            assert!(span.error.is_some());
        }
    });
    run(async |world| {
        let mut queue = world.trace(ALL);
        let silent: Handler = std::rc::Rc::new(|mut stream| {
            Box::pin(async move {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            })
        });
        world.endpoint("", "v1", Some(silent));
        let (mut client, theirs) = tokio::io::duplex(1024);
        let theirs = crate::half::Torn(hyper_util::rt::TokioIo::new(theirs));
        world.spawn(world.proxy.clone().serve(theirs, world.asked.clone()));
        client.write_all(with("").as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(client);
        for span in spans(&mut queue, 2).await {
            span.expect(&[
                ("http.response.status_code", ""),
                ("error.type", "client_gone"),
            ]);
        }
    });
}

#[test]
fn a_call_of_grpc_is_named_by_its_method_and_says_its_status() {
    run(async |world| {
        let mut queue = world.trace(ALL);
        world.endpoint("", "v1", world.echo_http2("v1"));
        let mut sender = world.connect_http2::<Full<bytes::Bytes>>().await;
        let request = http::Request::post("http://shop/pkg.Shop/Buy");
        let request = request.header("content-type", "application/grpc");
        let answer = sender.send_request(request.body(Full::default()).unwrap());
        assert_eq!(answer.await.unwrap().status(), 200);
        drop(sender);
        for span in spans(&mut queue, 2).await {
            assert_eq!(span.name, "pkg.Shop/Buy");
            span.expect(&[
                ("rpc.system", "grpc"),
                ("rpc.service", "pkg.Shop"),
                ("rpc.method", "Buy"),
                ("network.protocol.version", "2"),
            ]);
        }
    });
    run(async |world| {
        let mut queue = world.trace(ALL);
        world.endpoint("", "dead", None);
        let request = "POST /pkg.Shop/Buy HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\
                       Content-Type: application/grpc\r\n\r\n";
        assert_eq!(world.ask(request).await.status, 200);
        let spans = spans(&mut queue, 2).await;
        spans[0].expect(&[
            ("http.response.status_code", "200"),
            ("rpc.grpc.status_code", "14"),
            ("error.type", "not_connected"),
        ]);
        assert!(spans[0].error.is_some());
    });
}

#[test]
fn a_route_that_takes_the_trace_away_is_obeyed() {
    run(async |world| {
        let mut queue = world.trace(ALL);
        world.endpoint("v1", "v1", world.echo("v1"));
        world.route(vec![Rule {
            backends: vec![to("v1")],
            filters: Filters {
                request_headers: HeaderChanges {
                    remove: vec!["traceparent".into()],
                    ..HeaderChanges::default()
                },
                ..Filters::default()
            }
            .into(),
            ..Rule::default()
        }]);
        assert_eq!(world.ask(parent("01")).await.status, 200);
        spans(&mut queue, 2).await;
        assert_eq!(world.seen.borrow()[0].header("traceparent"), "");
    });
}

#[test]
fn texts_of_clients_are_bounded_and_odd_methods_are_one() {
    run(async |world: std::rc::Rc<World>| {
        let mut queue = world.trace(ALL);
        world.endpoint("", "v1", world.echo("v1"));
        let long = "x".repeat(2_000);
        let request = format!(
            "BREW /{long}?{long} HTTP/1.1\r\nHost: shop\r\nUser-Agent: {long}\r\n\
             x-request-id: {}\r\n\r\n",
            "i".repeat(256)
        );
        assert_eq!(world.ask(request).await.status, 200);
        let spans = spans(&mut queue, 2).await;
        for span in &spans {
            assert_eq!(span.name, "HTTP");
            span.expect(&[
                ("http.request.method", "_OTHER"),
                ("http.request.method_original", "BREW"),
            ]);
        }
        let lengths = ["url.path", "user_agent.original", "guid:x-request-id"];
        let lengths = lengths.map(|key| spans[0].says(key).len());
        assert_eq!(lengths, [256, 256, 256]);
    });
}
