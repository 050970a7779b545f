//! Changes of protocol: WebSocket and CONNECT in both versions of HTTP, h2c.

use std::rc::Rc;

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::{BodyExt, Empty};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use mesh::route::filter::Filters;
use mesh::route::matching::RequestMatch;
use mesh::route::{Backend, Rule};
use mesh::service::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use waypoint::http::websocket::accept;

use crate::world::{Handler, World, read_answer, read_head, run, target};

/// Answers the head as told, then sends every byte back; ends when the other side ends.
fn echoing(answer: &'static str, heads: &Rc<std::cell::RefCell<Vec<String>>>) -> Handler {
    let heads = heads.clone();
    Rc::new(move |mut stream| {
        let heads = heads.clone();
        Box::pin(async move {
            let head = read_head(&mut stream).await;
            let key = head
                .lines()
                .find_map(|line| line.strip_prefix("sec-websocket-key: "));
            let accept = key.map(|key| accept(&HeaderValue::from_str(key).unwrap()));
            let accept = accept.as_ref().map_or("", |value| value.to_str().unwrap());
            let answer = answer.replace("{accept}", accept);
            heads.borrow_mut().push(head);
            stream.write_all(answer.as_bytes()).await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            write.write_all(b"bye").await.unwrap();
            let _ = write.shutdown().await;
        })
    })
}

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                        Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n";
const WEBSOCKET: &[u8] = b"GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, Upgrade\r\n\
                           Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// RFC 6455 1.3.
const ACCEPT: &str = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

async fn expect(stream: &mut (impl AsyncReadExt + Unpin), wanted: &[u8]) {
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, wanted);
}

/// So many bytes go there and come back at once.
async fn echoes(client: DuplexStream, bytes: usize) -> DuplexStream {
    let large = vec![7; bytes];
    let (mut read, mut write) = tokio::io::split(client);
    let (sent, ()) = futures::join!(write.write_all(&large), expect(&mut read, &large));
    sent.unwrap();
    read.unsplit(write)
}

async fn ends_by_halves(mut client: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(
        rest, b"bye",
        "the other direction was open until its own end"
    );
}

#[test]
fn a_websocket_is_relayed_byte_for_byte_and_ends_by_halves() {
    run(async |world| {
        let heads = Rc::default();
        let upstream = world.endpoint("", "v1", Some(echoing(SWITCHED, &heads)));
        let mut client = world.connect();
        // Bytes that come with the question wait for the answer.
        client
            .write_all(&[WEBSOCKET, b"\x81\x05early"].concat())
            .await
            .unwrap();
        let head = read_head(&mut client).await.to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
        expect(&mut client, b"\x81\x05early").await;
        let asked = heads.borrow()[0].to_lowercase();
        assert!(asked.contains("upgrade: websocket"), "{asked}");
        assert!(asked.contains("sec-websocket-key: dghl"), "{asked}");
        let client = echoes(client, 200_000).await;
        assert_eq!(upstream.load(), 1);
        ends_by_halves(client).await;
        let record = world.record().await;
        assert_eq!(
            (record.status.unwrap().as_u16(), record.reason),
            (101, None)
        );
        assert_eq!(upstream.load(), 0);
    });
}

#[test]
fn a_refused_upgrade_stays_http() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let mut client = world.connect();
        let next = b"GET /next HTTP/1.1\r\nHost: shop\r\n\r\n";
        client.write_all(&[WEBSOCKET, next].concat()).await.unwrap();
        assert_eq!(read_answer(&mut client).await.text(), "v1 /chat");
        assert_eq!(read_answer(&mut client).await.text(), "v1 /next");
        // And what follows is guarded as ever.
        let bad = b"GET / HTTP/1.1\r\nHost : shop\r\n\r\n";
        client.write_all(&[WEBSOCKET, bad].concat()).await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 200);
        assert_eq!(read_answer(&mut client).await.status, 400);
    });
}

#[test]
fn an_endpoint_that_switches_without_being_asked_is_not_believed() {
    run(async |world| {
        world.endpoint("", "v1", world.raw(SWITCHED.as_bytes()));
        assert_eq!(world.get("/").await.status, 502);
    });
}

/// A rule that is for CONNECT.
fn tunnels() -> Rule {
    let connect = RequestMatch {
        method: Some("CONNECT".into()),
        ..RequestMatch::default()
    };
    Rule {
        matches: vec![connect],
        ..all()
    }
}

/// A rule for every request.
fn all() -> Rule {
    let backend = Backend {
        target: target("v1"),
        weight: 1,
        filters: Filters::default().into(),
    };
    Rule {
        backends: vec![backend],
        ..Rule::default()
    }
}

#[test]
fn connect_without_a_route_for_it_is_refused_and_reaches_no_endpoint() {
    run(async |world| {
        let heads = Rc::default();
        for service in ["", "v1"] {
            let tunnel = echoing("HTTP/1.1 200 OK\r\n\r\n", &heads);
            world.endpoint(service, service, Some(tunnel));
        }
        let connect = "CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n";
        for rules in [None, Some(vec![all()])] {
            if let Some(rules) = rules {
                world.route(rules);
            }
            let answer = world.ask(connect).await;
            assert_eq!(answer.status, 405);
            let allowed = answer.header("allow").unwrap();
            assert!(allowed.starts_with("GET, "), "{allowed}");
        }
        assert!(heads.borrow().is_empty());
    });
}

#[test]
fn connect_is_a_tunnel() {
    run(async |world| {
        let heads = Rc::default();
        world.endpoint("v1", "v1", Some(echoing("HTTP/1.1 200 OK\r\n\r\n", &heads)));
        world.route(vec![tunnels()]);
        let mut client = world.connect();
        let connect = b"CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\nhello";
        client.write_all(connect).await.unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        expect(&mut client, b"hello").await;
        assert!(heads.borrow()[0].starts_with("CONNECT shop:443 HTTP/1.1\r\n"));
        ends_by_halves(client).await;
    });
}

/// A client of HTTP/2, and what it is answered when it asks for a WebSocket (RFC 8441).
async fn chat(world: &World) -> (Asker, http::Response<hyper::body::Incoming>) {
    let mut sender = world.connect_http2().await;
    // The server's settings, which allow it, come with its first answer.
    let options = http::Request::options("http://shop:1/@").header("host", "other");
    let _ = sender
        .send_request(options.body(Empty::new()).unwrap())
        .await
        .unwrap();
    let connect = http::Request::connect("http://shop/chat")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .body(Empty::new())
        .unwrap();
    let answer = sender.send_request(connect).await.unwrap();
    (sender, answer)
}

type Asker = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

#[test]
fn a_websocket_over_http2_becomes_one_over_http1() {
    run(async |world| {
        let heads = Rc::default();
        world.endpoint("", "v1", Some(echoing(SWITCHED, &heads)));
        let (_sender, answer) = chat(&world).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers().get("sec-websocket-accept"), None);
        let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        expect(&mut stream, b"hello").await;
        let asked = heads.borrow()[0].to_lowercase();
        assert!(asked.starts_with("get /chat http/1.1\r\n"), "{asked}");
        assert!(asked.contains("host: shop\r\n"), "{asked}");
        assert!(asked.contains("sec-websocket-version: 13\r\n"), "{asked}");
        ends_by_halves(stream).await;
    });
}

/// An endpoint of HTTP/2: streams of bytes come back, and `bye` behind them; other requests are
/// answered with their path. Whether it takes other protocols than CONNECT's own, it `offers`.
fn streams(world: &World, offers: bool, heads: &Heads) -> Option<Handler> {
    let (exec, heads) = (world.exec(), heads.clone());
    Some(Rc::new(move |stream| {
        let (exec, heads) = (exec.clone(), heads.clone());
        Box::pin(async move {
            let mut builder = h2::server::Builder::new();
            if offers {
                builder.enable_connect_protocol();
            }
            let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let (head, mut body) = request.into_parts();
                let is_stream = head.method == http::Method::CONNECT;
                let path = Bytes::from(head.uri.path().to_owned());
                heads.borrow_mut().push(head);
                exec.execute(async move {
                    let answer = http::Response::builder()
                        .header("x-by", "v1")
                        .body(())
                        .unwrap();
                    let mut back = respond.send_response(answer, false).unwrap();
                    if !is_stream {
                        return back.send_data(path, true).unwrap();
                    }
                    while let Some(Ok(data)) = body.data().await {
                        body.flow_control().release_capacity(data.len()).unwrap();
                        back.send_data(data, false).unwrap();
                    }
                    back.send_data(Bytes::from_static(b"bye"), true).unwrap();
                });
            }
        })
    }))
}

type Heads = Rc<std::cell::RefCell<Vec<http::request::Parts>>>;

#[test]
fn a_websocket_to_an_endpoint_of_http2_becomes_a_stream_of_it() {
    run(async |world| {
        let heads = Heads::default();
        let handler = streams(&world, true, &heads);
        let upstream = world.endpoint_speaking("", "v1", AppProtocol::Http2, handler);
        // The second one finds a connection that is shared.
        for number in 0..2 {
            let mut client = world.connect();
            let early = [WEBSOCKET, b"\x81\x05early"].concat();
            client.write_all(&early).await.unwrap();
            let head = read_head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 101"), "{head}");
            let lower = head.to_lowercase();
            assert!(lower.contains("\r\nupgrade: websocket\r\n"), "{head}");
            assert!(lower.contains("\r\nconnection: upgrade\r\n"), "{head}");
            assert!(lower.contains("\r\nx-by: v1\r\n"), "{head}");
            assert!(head.contains(ACCEPT), "{head}");
            expect(&mut client, b"\x81\x05early").await;
            let client = echoes(client, 600_000).await;
            assert_eq!(upstream.load(), 1);
            ends_by_halves(client).await;
            while upstream.load() > 0 {
                tokio::task::yield_now().await;
            }
            let records = world.site.records.borrow();
            let record = &records[number];
            assert_eq!(
                (record.status.unwrap().as_u16(), record.reason),
                (101, None)
            );
        }
        assert_eq!(world.site.opened.get(), 1);
        let heads = heads.borrow();
        let (asked, protocol) = (&heads[0], heads[0].extensions.get::<h2::ext::Protocol>());
        assert_eq!(asked.method, "CONNECT");
        assert_eq!(protocol.unwrap().as_str(), "websocket");
        assert_eq!(asked.uri.to_string(), "http://shop/chat");
        assert_eq!(asked.headers["sec-websocket-version"], "13");
        for gone in ["sec-websocket-key", "upgrade", "connection", "host"] {
            assert_eq!(asked.headers.get(gone), None, "{gone}");
        }
    });
}

#[test]
fn a_websocket_over_http2_stays_one_to_an_endpoint_of_http2() {
    run(async |world| {
        let heads = Heads::default();
        let handler = streams(&world, true, &heads);
        world.endpoint_speaking("", "v1", AppProtocol::Http2, handler);
        let mut sender = world.connect_http2::<Empty<Bytes>>().await;
        let get = http::Request::get("http://shop/@")
            .body(Empty::new())
            .unwrap();
        let _ = sender.send_request(get).await.unwrap();
        let connect = http::Request::connect("http://shop/chat")
            .extension(hyper::ext::Protocol::from_static("websocket"))
            .body(Empty::new())
            .unwrap();
        let answer = sender.send_request(connect).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        expect(&mut stream, b"hello").await;
        assert_eq!(heads.borrow()[1].headers.get("sec-websocket-key"), None);
        ends_by_halves(stream).await;
    });
}

#[test]
fn an_endpoint_of_http2_that_takes_no_websocket_is_named_as_the_reason() {
    run(async |world| {
        let heads = Heads::default();
        let handler = streams(&world, false, &heads);
        world.endpoint_speaking("", "v1", AppProtocol::Http2, handler);
        let answer = world.ask(WEBSOCKET).await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("RFC 8441"), "{}", answer.text());
        assert!(heads.borrow().is_empty());
        // Any other protocol is one that a server need not change to.
        let other = "GET /a HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        let answer = world.ask(other).await;
        assert_eq!((answer.status, answer.header("x-by")), (200, Some("v1")));
        assert_eq!(heads.borrow()[0].headers.get("upgrade"), None);
    });
}

#[test]
fn an_endpoint_of_http2_may_refuse_a_websocket_by_an_answer() {
    run(async |world| {
        let handler: Handler = Rc::new(|stream| {
            Box::pin(async move {
                let mut builder = h2::server::Builder::new();
                builder.enable_connect_protocol();
                let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let answer = http::Response::builder().status(403).body(()).unwrap();
                    let mut back = respond.send_response(answer, false).unwrap();
                    back.send_data(Bytes::from_static(b"not you"), true)
                        .unwrap();
                }
            })
        });
        world.endpoint_speaking("", "v1", AppProtocol::Http2, Some(handler));
        let mut client = world.connect();
        for _ in 0..2 {
            client.write_all(WEBSOCKET).await.unwrap();
            let answer = read_answer(&mut client).await;
            assert_eq!(answer.status, 403);
            assert!(answer.text().contains("not you"), "{}", answer.text());
        }
    });
}

#[test]
fn connect_is_a_tunnel_in_a_stream_of_http2() {
    run(async |world| {
        let heads = Heads::default();
        let handler = streams(&world, false, &heads);
        world.endpoint_speaking("v1", "v1", AppProtocol::Http2, handler);
        world.route(vec![tunnels()]);
        let mut client = world.connect();
        let connect = b"CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\nhello";
        client.write_all(connect).await.unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        expect(&mut client, b"hello").await;
        assert_eq!(heads.borrow()[0].uri.to_string(), "shop:443");
        ends_by_halves(client).await;
    });
}

#[test]
fn a_server_that_cannot_have_read_the_key_is_not_believed() {
    run(async |world| {
        let answer = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        world.endpoint("", "v1", world.raw(answer));
        let (_sender, answer) = chat(&world).await;
        assert_eq!(answer.status(), 502);
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(text.starts_with(b"the endpoint changed to"), "{text:?}");
    });
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

async fn next_frame(client: &mut DuplexStream) -> (u8, u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    client.read_exact(&mut head).await.unwrap();
    let length = usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    client.read_exact(&mut payload).await.unwrap();
    (head[3], head[4], head[8], payload)
}

#[test]
fn http1_goes_on_as_http2_when_asked() {
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    const DATA: u8 = 0;
    run(async |world| {
        world.endpoint("", "v1", world.echo_http2("v1"));
        let mut client = world.connect();
        let request =
            b"GET /first HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                        Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nX-Long: ";
        let request = [&request[..], &[b'z'; 300], b"\r\n\r\n"].concat();
        client.write_all(&request).await.unwrap();
        let head = read_head(&mut client).await.to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("upgrade: h2c\r\n"), "{head}");
        client
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        // Stream 3: GET /second, from the static table but for path and authority.
        let block = [&[0x82, 0x86, 0x04, 7][..], b"/second", &[0x01, 4], b"shop"].concat();
        client
            .write_all(&frame(HEADERS, 5, 3, &block))
            .await
            .unwrap();
        let mut texts = std::collections::BTreeMap::new();
        while texts.len() < 2 {
            let (kind, _, stream, payload) = next_frame(&mut client).await;
            if kind == DATA && !payload.is_empty() {
                texts.insert(stream, String::from_utf8(payload).unwrap());
            }
        }
        assert_eq!(texts[&1], "v1 /first");
        assert_eq!(texts[&3], "v1 /second");
        let seen = world.seen.borrow();
        let first = seen.iter().find(|one| one.uri.path() == "/first").unwrap();
        assert_eq!(first.header("x-long").len(), 300);
        assert_eq!(first.header("http2-settings"), "");
        assert_eq!(first.uri.authority().unwrap(), "shop");
    });
}

#[test]
fn h2c_with_a_body_stays_http1() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let request = "POST /a HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                       Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 2\r\n\r\nhi";
        let answer = world.ask(request).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "v1 /a"));
        let seen = world.seen.borrow();
        assert_eq!(seen[0].header("upgrade"), "");
        assert_eq!(seen[0].header("http2-settings"), "");
    });
}

#[test]
fn what_would_hide_requests_is_not_passed_on_and_no_other_protocol_is_believed() {
    run(async |world| {
        let heads = Rc::default();
        let lax = echoing("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", &heads);
        world.endpoint("", "v1", Some(lax));
        for upgrade in ["h2c, x", "x, H2C", "h2c,", "x\r\nUpgrade: h2c"] {
            let request = format!(
                "GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
            );
            let mut client = world.connect();
            client.write_all(request.as_bytes()).await.unwrap();
            read_head(&mut client).await;
        }
        let heads = heads.borrow();
        assert_eq!(heads.len(), 4);
        let asked = |head: &String| head.to_lowercase().contains("upgrade");
        assert!(!heads.iter().any(asked), "{heads:?}");
    });
    run(async |world| {
        let answer = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n";
        world.endpoint("", "v1", world.raw(answer));
        assert_eq!(world.ask(WEBSOCKET).await.status, 502);
    });
}
