//! gRPC: all kinds of streams, and how the waypoint's own failures look to a gRPC client.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use futures::channel::mpsc;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh::route::{Backend, Retry, Rule, Target, Timeouts};

use crate::world::{Handler, World, run, target};

type Piece = Result<Frame<Bytes>, Infallible>;
type Streamed = StreamBody<mpsc::Receiver<Piece>>;

/// A body, and what fills it.
fn stream() -> (mpsc::Sender<Piece>, Streamed) {
    let (sender, receiver) = mpsc::channel(4);
    (sender, StreamBody::new(receiver))
}

fn status(code: u16) -> HeaderMap {
    let name = HeaderName::from_static("grpc-status");
    HeaderMap::from_iter([(name, HeaderValue::from(code))])
}

fn data(text: &'static str) -> Piece {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// An endpoint of gRPC that hands each call to `call`.
fn serving<F>(
    world: &World,
    call: impl Fn(Incoming, mpsc::Sender<Piece>) -> F + 'static,
) -> Option<Handler>
where
    F: Future<Output = ()> + 'static,
{
    let (exec, call) = (world.exec(), Rc::new(call));
    Some(Rc::new(move |io| {
        let (exec, call) = (exec.clone(), call.clone());
        Box::pin(async move {
            let tasks = exec.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let (sender, body) = stream();
                hyper::rt::Executor::execute(&tasks, call(request.into_body(), sender));
                let answer = Response::builder().header("content-type", "application/grpc");
                async move { Ok::<_, Infallible>(answer.body(body).unwrap()) }
            });
            let builder = hyper::server::conn::http2::Builder::new(exec);
            let _ = builder.serve_connection(TokioIo::new(io), service).await;
        })
    }))
}

fn call(body: Streamed) -> Request<Streamed> {
    let request = Request::post("http://shop/pkg.Shop/Buy");
    let request = request
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    request.body(body).unwrap()
}

async fn next(body: &mut Incoming) -> Frame<Bytes> {
    body.frame().await.expect("a frame").expect("a good one")
}

/// A call without a message: status of HTTP, and of gRPC in the head.
async fn own_answer(
    world: &World,
    request: impl Fn(Request<Streamed>) -> Request<Streamed>,
) -> (u16, String) {
    let mut sender = world.connect_http2().await;
    let (filled, body) = stream();
    drop(filled);
    let answer = sender.send_request(request(call(body))).await.unwrap();
    let head = answer.headers();
    assert_eq!(head.get("content-type").unwrap(), "application/grpc");
    let code = head.get("grpc-status").expect("a status in the head");
    (answer.status().as_u16(), code.to_str().unwrap().to_owned())
}

#[test]
fn a_stream_both_ways_takes_turns_and_ends_with_trailers() {
    run(async |world| {
        let endpoint = serving(&world, async |mut body, mut sender| {
            while let Some(Ok(frame)) = body.frame().await {
                if frame.is_data() {
                    sender.send(Ok(frame)).await.unwrap();
                }
            }
            sender.send(Ok(Frame::trailers(status(0)))).await.unwrap();
        });
        world.endpoint("", "v1", endpoint);
        let mut client = world.connect_http2().await;
        let (mut sender, body) = stream();
        let mut answer = client.send_request(call(body)).await.unwrap().into_body();
        for text in ["one", "two", "three"] {
            sender.send(data(text)).await.unwrap();
            assert_eq!(next(&mut answer).await.into_data().unwrap(), text);
        }
        drop(sender);
        let trailers = next(&mut answer).await.into_trailers().unwrap();
        assert_eq!(trailers.get("grpc-status").unwrap(), "0");
        assert!(answer.frame().await.is_none());
        drop(answer);
        let record = world.record().await;
        assert_eq!((record.grpc_status, record.reason), (Some(0), None));
        assert_eq!(record.bytes, (11, 11));
    });
}

#[test]
fn a_stream_that_the_client_has_ended_goes_on_from_the_server() {
    run(async |world| {
        let endpoint = serving(
            &world,
            async |body: Incoming, mut sender: mpsc::Sender<Piece>| {
                assert_eq!(body.collect().await.unwrap().to_bytes(), "ask");
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    sender.send(data("tick")).await.unwrap();
                }
                sender.send(Ok(Frame::trailers(status(0)))).await.unwrap();
            },
        );
        world.endpoint("", "v1", endpoint);
        let mut client = world.connect_http2().await;
        let (mut sender, body) = stream();
        sender.send(data("ask")).await.unwrap();
        drop(sender);
        let answer = client.send_request(call(body)).await.unwrap().into_body();
        let all = answer.collect().await.unwrap();
        assert_eq!(all.trailers().unwrap().get("grpc-status").unwrap(), "0");
        assert_eq!(all.to_bytes().len(), 40);
    });
}

#[test]
fn a_server_that_breaks_off_ends_the_stream_with_unavailable() {
    run(async |world| {
        let handler: Handler = {
            let exec = world.exec();
            Rc::new(move |io| {
                let exec = exec.clone();
                Box::pin(async move {
                    let service = service_fn(|_: Request<Incoming>| async {
                        let (mut sender, body) = stream();
                        sender.try_send(data("part")).unwrap();
                        std::mem::forget(sender);
                        Ok::<_, Infallible>(Response::new(body))
                    });
                    let builder = hyper::server::conn::http2::Builder::new(exec);
                    let served = builder.serve_connection(TokioIo::new(io), service);
                    let _ = tokio::time::timeout(Duration::from_secs(1), served).await;
                })
            })
        };
        world.endpoint("", "v1", Some(handler));
        let mut client = world.connect_http2().await;
        let (_sender, body) = stream();
        let mut answer = client.send_request(call(body)).await.unwrap().into_body();
        assert_eq!(next(&mut answer).await.into_data().unwrap(), "part");
        let trailers = next(&mut answer).await.into_trailers().unwrap();
        assert_eq!(trailers.get("grpc-status").unwrap(), "14");
    });
}

#[test]
fn failures_of_our_own_are_statuses_of_grpc() {
    let rule = |backends| Rule {
        backends,
        ..Rule::default()
    };
    let to = |target| Backend {
        target,
        weight: 1,
        filters: Default::default(),
    };
    run(async |world| {
        world.route(Vec::new());
        assert_eq!(
            own_answer(&world, |call| call).await,
            (200, "12".to_owned())
        );
        world.route(vec![rule(vec![to(Target::Invalid("gone".into()))])]);
        assert_eq!(
            own_answer(&world, |call| call).await,
            (200, "14".to_owned())
        );
        world.endpoint("dead", "dead", None);
        world.route(vec![rule(vec![to(target("dead"))])]);
        assert_eq!(
            own_answer(&world, |call| call).await,
            (200, "14".to_owned())
        );
    });
}

fn silent() -> Option<Handler> {
    Some(Rc::new(|io| {
        Box::pin(async move {
            let _io = io;
            std::future::pending::<()>().await;
        })
    }))
}

#[test]
fn the_clients_timeout_and_the_routes_bound_a_call() {
    for (asked, routed, seconds) in [("5S", None, 5), ("5S", Some(3), 3), ("1H", Some(4), 4)] {
        run(async |world| {
            world.endpoint("v1", "v1", silent());
            world.route(vec![Rule {
                backends: vec![Backend {
                    target: target("v1"),
                    weight: 1,
                    filters: Default::default(),
                }],
                timeouts: Timeouts {
                    request: routed.map(Duration::from_secs),
                    backend_request: None,
                },
                ..Rule::default()
            }]);
            let answer = own_answer(&world, |mut call| {
                let value = HeaderValue::from_static(asked);
                call.headers_mut().insert("grpc-timeout", value);
                call
            });
            assert_eq!(answer.await, (200, "4".to_owned()));
            assert_eq!(world.record().await.duration.as_secs(), seconds);
        });
    }
}

#[test]
fn a_call_that_is_unavailable_is_tried_again() {
    run(async |world| {
        let count = Rc::new(std::cell::Cell::new(0));
        let counted = count.clone();
        let exec = world.exec();
        let handler: Handler = Rc::new(move |io| {
            let (exec, counted) = (exec.clone(), counted.clone());
            Box::pin(async move {
                let service = service_fn(move |_: Request<Incoming>| {
                    counted.set(counted.get() + 1);
                    let code = if counted.get() < 3 { 14 } else { 0 };
                    let (_, body) = stream();
                    let mut answer = Response::new(body);
                    *answer.headers_mut() = status(code);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let builder = hyper::server::conn::http2::Builder::new(exec);
                let _ = builder.serve_connection(TokioIo::new(io), service).await;
            })
        });
        world.endpoint("v1", "v1", Some(handler));
        world.route(vec![Rule {
            backends: vec![Backend {
                target: target("v1"),
                weight: 1,
                filters: Default::default(),
            }],
            retry: Some(Retry::default()),
            ..Rule::default()
        }]);
        let mut client = world.connect_http2().await;
        let (sender, body) = stream();
        drop(sender);
        let answer = client.send_request(call(body)).await.unwrap();
        assert_eq!(answer.headers().get("grpc-status").unwrap(), "0");
        assert_eq!(count.get(), 3);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "");
    });
}
