//! What a route does to a request: where it goes, what changes, what is answered on the spot.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::Full;
use mesh::route::cors::{Cors, Origin};
use mesh::route::filter::{Filters, HeaderChanges, Mirror, PathChange, Redirect, Rewrite, Share};
use mesh::route::matching::{PathMatch, RequestMatch, TextMatch, ValueMatch};
use mesh::route::{Backend, Cookie, Persistence, Rule, SessionToken, Target};
use tokio::io::AsyncWriteExt;

use crate::world::{World, read_answer, run, target};

fn to(name: &str, weight: u32) -> Backend {
    Backend {
        target: target(name),
        weight,
        filters: Filters::default().into(),
    }
}

fn below(prefix: &str) -> Vec<RequestMatch> {
    vec![RequestMatch {
        path: PathMatch::prefix(prefix),
        ..RequestMatch::default()
    }]
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(Arc<str>, Arc<str>)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

fn rule(filters: Filters) -> Rule {
    Rule {
        filters: filters.into(),
        backends: vec![to("v1", 1)],
        ..Rule::default()
    }
}

#[test]
fn requests_are_split_by_weight_and_follow_a_change_at_once() {
    run(async |world| {
        world.endpoint("v1", "v1", world.echo("v1"));
        world.endpoint("v2", "v2", world.echo("v2"));
        let split = |one, other| Rule {
            backends: vec![to("v1", one), to("v2", other)],
            ..Rule::default()
        };
        world.route(vec![split(90, 10)]);
        let mut client = world.connect();
        let request = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
        for _ in 0..1_000 {
            client.write_all(request).await.unwrap();
            assert_eq!(read_answer(&mut client).await.status, 200);
        }
        let second = world
            .endpoints_seen()
            .iter()
            .filter(|one| **one == "v2")
            .count();
        // 100 are expected; five standard deviations of a binomial distribution are 47.
        assert!((53..=147).contains(&second), "{second}");

        world.route(vec![split(0, 1)]);
        world.seen.borrow_mut().clear();
        for _ in 0..50 {
            client.write_all(request).await.unwrap();
            read_answer(&mut client).await;
        }
        assert!(world.endpoints_seen().iter().all(|one| *one == "v2"));
        let records = world.site.records.borrow();
        let last = records.last().unwrap();
        assert_eq!(last.backend.as_deref(), Some("v2"));
        assert_eq!(last.route.as_deref(), Some("web 0"));
    });
}

#[test]
fn what_no_rule_takes_and_what_leads_nowhere_is_answered_with_its_reason() {
    run(async |world| {
        world.endpoint("v1", "v1", world.echo("v1"));
        world.empty_service("empty");
        let leads = |path, backends| Rule {
            matches: below(path),
            backends,
            ..Rule::default()
        };
        let invalid = Backend {
            target: Target::Invalid("no such service".into()),
            ..to("v1", 1)
        };
        world.route(vec![
            leads("/v1", vec![to("v1", 1)]),
            leads("/none", Vec::new()),
            leads("/zero", vec![to("v1", 0)]),
            leads("/invalid", vec![invalid]),
            leads("/unknown", vec![to("nowhere", 1)]),
            leads("/empty", vec![to("empty", 1)]),
        ]);
        for (path, status, why) in [
            ("/other", 404, "no rule of any route takes the request\n"),
            ("/none", 500, "the rule has no backend\n"),
            ("/zero", 500, "all backends of the rule have weight 0\n"),
            (
                "/invalid",
                500,
                "the backend is not usable: no such service\n",
            ),
            ("/unknown", 500, "nowhere is not known\n"),
            ("/empty", 503, "empty has no endpoint that takes requests\n"),
            ("/v1/x", 200, "v1 /v1/x"),
        ] {
            let answer = world.get(path).await;
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (status, why),
                "{path}"
            );
        }
    });
}

#[test]
fn fields_of_request_and_answer_are_changed_by_rule_and_backend() {
    run(async |world| {
        world.endpoint(
            "v1",
            "v1",
            world.http1("v1", |_| {
                let answer = Response::builder()
                    .header("x-a", "mine")
                    .header("x-gone", "1");
                answer.body(Full::new("ok".into())).unwrap()
            }),
        );
        let mut one = rule(Filters {
            request_headers: HeaderChanges {
                set: pairs(&[("x-set", "rule")]),
                add: pairs(&[("x-add", "rule")]),
                remove: vec!["x-remove".into()],
            },
            response_headers: HeaderChanges {
                set: pairs(&[("x-a", "rule")]),
                ..HeaderChanges::default()
            },
            ..Filters::default()
        });
        one.backends[0].filters = Filters {
            request_headers: HeaderChanges {
                set: pairs(&[("x-set", "backend")]),
                ..HeaderChanges::default()
            },
            response_headers: HeaderChanges {
                remove: vec!["x-gone".into()],
                set: pairs(&[("x-a", "backend")]),
                ..HeaderChanges::default()
            },
            ..Filters::default()
        }
        .into();
        world.route(vec![one]);
        let request = "GET / HTTP/1.1\r\nHost: shop\r\nX-Remove: 1\r\nX-Add: client\r\n\r\n";
        let answer = world.ask(request).await;
        let seen = world.seen.borrow()[0].clone();
        assert_eq!(seen.header("x-set"), "backend");
        assert_eq!(seen.header("x-remove"), "");
        let added: Vec<_> = seen.headers.get_all("x-add").iter().collect();
        assert_eq!(added, ["client", "rule"]);
        assert_eq!(
            answer.header("x-a"),
            Some("rule"),
            "the rule has the last word"
        );
        assert_eq!(answer.header("x-gone"), None);
    });
}

#[test]
fn a_redirect_goes_nowhere_and_a_rewrite_goes_on_changed() {
    run(async |world| {
        world.endpoint("v1", "v1", world.echo("v1"));
        let redirect = Rule {
            matches: below("/old"),
            filters: Filters {
                redirect: Some(Redirect {
                    scheme: None,
                    host: Some("new.example".into()),
                    port: None,
                    path: Some(PathChange::Prefix("/new".into())),
                    status: 308,
                }),
                ..Filters::default()
            }
            .into(),
            ..Rule::default()
        };
        let rewrite = Rule {
            matches: below("/api"),
            ..rule(Filters {
                rewrite: Some(Rewrite {
                    host: Some("inner.example".into()),
                    path: Some(PathChange::Prefix("/v2".into())),
                }),
                ..Filters::default()
            })
        };
        world.route(vec![redirect, rewrite]);
        let answer = world.get("/old/a?b=c").await;
        assert_eq!(answer.status, 308);
        assert_eq!(
            answer.header("location"),
            Some("http://new.example/new/a?b=c")
        );
        assert_eq!(answer.text(), "");
        assert!(world.seen.borrow().is_empty());

        assert_eq!(world.get("/api/a?b=c").await.text(), "v1 /v2/a?b=c");
        let seen = world.seen.borrow()[0].clone();
        assert_eq!(seen.header("host"), "inner.example");
        assert_eq!(seen.header("x-forwarded-host"), "shop");
    });
}

#[test]
fn a_preflight_is_answered_here_and_answers_are_marked() {
    run(async |world| {
        world.endpoint(
            "v1",
            "v1",
            world.http1("v1", |_| {
                let answer = Response::builder().header("access-control-allow-origin", "*");
                answer.body(Full::new("ok".into())).unwrap()
            }),
        );
        world.route(vec![rule(Filters {
            cors: Some(Cors {
                origins: vec![Origin::parse("https://a.example").unwrap()],
                credentials: true,
                methods: vec!["PUT".into()],
                headers: Vec::new(),
                expose: Vec::new(),
                max_age_seconds: 5,
            }),
            ..Filters::default()
        })]);
        let preflight = "OPTIONS / HTTP/1.1\r\nHost: shop\r\nOrigin: https://a.example\r\n\
                         Access-Control-Request-Method: PUT\r\n\r\n";
        let mut client = world.connect();
        client.write_all(preflight.as_bytes()).await.unwrap();
        let head = crate::world::read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 204"), "{head}");
        assert!(head.contains("access-control-allow-methods: PUT"), "{head}");
        assert!(world.seen.borrow().is_empty());

        let request = "GET / HTTP/1.1\r\nHost: shop\r\nOrigin: https://a.example\r\n\r\n";
        let answer = world.ask(request).await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some("https://a.example")
        );
        assert_eq!(
            answer.header("access-control-allow-credentials"),
            Some("true")
        );
        assert_eq!(answer.header("vary"), Some("Origin"));
    });
}

fn mirror(name: &str, share: Share) -> Mirror {
    Mirror {
        target: target(name),
        share,
    }
}

#[test]
fn copies_go_to_every_mirror_with_their_body_and_their_answers_nowhere() {
    run(async |world| {
        world.endpoint("v1", "v1", world.echo("v1"));
        world.endpoint(
            "m1",
            "m1",
            world.http1("m1", |_| {
                let answer = Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR);
                answer.body(Full::new("no".into())).unwrap()
            }),
        );
        world.endpoint("m2", "m2", world.echo("m2"));
        world.endpoint("never", "never", world.echo("never"));
        let none = Share {
            numerator: 0,
            denominator: 100,
        };
        world.route(vec![rule(Filters {
            mirrors: vec![
                mirror("m1", Share::ALL),
                mirror("m2", Share::ALL),
                mirror("never", none),
                mirror("missing", Share::ALL),
            ],
            ..Filters::default()
        })]);
        let request = "POST /x HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello";
        let answer = world.ask(request).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "v1 /x"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut seen = world.endpoints_seen();
        seen.sort_unstable();
        assert_eq!(seen, ["m1", "m2", "v1"]);
        assert!(world.seen.borrow().iter().all(|one| one.body == "hello"));
        assert_eq!(world.record().await.backend.as_deref(), Some("v1"));
    });
}

#[test]
fn a_mirror_that_takes_nothing_does_not_slow_the_request() {
    run(async |world| {
        world.endpoint("v1", "v1", world.echo("v1"));
        world.endpoint(
            "m1",
            "m1",
            Some(std::rc::Rc::new(|stream| {
                Box::pin(async move {
                    let _stream = stream;
                    std::future::pending::<()>().await;
                })
            })),
        );
        world.route(vec![rule(Filters {
            mirrors: vec![mirror("m1", Share::ALL)],
            ..Filters::default()
        })]);
        let length = 1_000_000;
        let mut client = world.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; length]).await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 200);
        assert_eq!(world.seen.borrow()[0].body.len(), length);
        assert_eq!(
            world.record().await.duration,
            Duration::ZERO,
            "no time has passed"
        );
    });
}

fn keeping(token: SessionToken) -> Rule {
    Rule {
        backends: vec![to("v1", 1), to("v2", 1)],
        persistence: Some(Persistence {
            name: "sid".into(),
            token,
            absolute_timeout: None,
            idle_timeout: None,
        }),
        ..Rule::default()
    }
}

async fn ask_with(world: &World, field: &str) -> crate::world::Answer {
    world
        .ask(format!("GET / HTTP/1.1\r\nHost: shop\r\n{field}\r\n\r\n"))
        .await
}

#[test]
fn a_session_keeps_to_its_backend_and_endpoint() {
    for token in [SessionToken::Cookie(Cookie::Session), SessionToken::Header] {
        run(async |world| {
            for name in ["a1", "a2", "a3"] {
                world.endpoint("v1", name, world.echo(name));
            }
            for name in ["b1", "b2", "b3"] {
                world.endpoint("v2", name, world.echo(name));
            }
            world.route(vec![keeping(token)]);
            let first = ask_with(&world, "X: y").await;
            let field = match token {
                SessionToken::Header => format!("sid: {}", first.header("sid").unwrap()),
                SessionToken::Cookie(_) => {
                    let cookie = first.header("set-cookie").unwrap();
                    assert!(cookie.ends_with("; Path=/; HttpOnly"), "{cookie}");
                    format!("Cookie: a=b; {}", cookie.split(';').next().unwrap())
                }
            };
            for _ in 0..20 {
                let answer = ask_with(&world, &field).await;
                assert_eq!(answer.header("set-cookie"), None);
                assert_eq!(answer.header("sid"), None);
            }
            let seen = world.endpoints_seen();
            assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
        });
    }
}

#[test]
fn a_session_keeps_to_its_backend_when_the_backends_change_their_order() {
    run(async |world| {
        for name in ["v1", "v2", "v3"] {
            world.endpoint(name, name, world.echo(name));
        }
        let with = |backends: Vec<Backend>| {
            vec![Rule {
                backends,
                ..keeping(SessionToken::Header)
            }]
        };
        world.route(with(vec![to("v1", 0), to("v2", 1)]));
        let first = ask_with(&world, "X: y").await;
        let field = format!("sid: {}", first.header("sid").unwrap());
        world.route(with(vec![to("v3", 1000), to("v2", 1), to("v1", 1000)]));
        for _ in 0..20 {
            assert_eq!(ask_with(&world, &field).await.header("sid"), None);
        }
        let seen = world.endpoints_seen();
        assert!(seen.iter().all(|one| *one == "v2"), "{seen:?}");
    });
}

#[test]
fn a_session_leads_to_no_endpoint_outside_the_route() {
    run(async |world| {
        for name in ["v1", "v2"] {
            world.endpoint(name, name, world.echo(name));
        }
        let only = |name| {
            vec![Rule {
                backends: vec![to(name, 1)],
                ..keeping(SessionToken::Header)
            }]
        };
        let mut own = Vec::new();
        for name in ["v1", "v2"] {
            world.route(only(name));
            own.push(
                ask_with(&world, "X: y")
                    .await
                    .header("sid")
                    .unwrap()
                    .to_owned(),
            );
        }
        let parts: Vec<Vec<_>> = own.iter().map(|sid| sid.split('-').collect()).collect();
        world.route(only("v1"));
        // The other's session, its endpoint under our backend, ours under its backend.
        for (endpoint, backend) in [(1, 1), (1, 0), (0, 1)] {
            let sid = format!("sid: {}-{}-1-1", parts[endpoint][0], parts[backend][1]);
            let answer = ask_with(&world, &sid).await;
            assert_eq!((answer.status, answer.header("sid").is_some()), (200, true));
        }
        assert_eq!(world.endpoints_seen(), ["v1", "v2", "v1", "v1", "v1"]);
    });
}

#[test]
fn a_session_whose_endpoint_is_gone_moves_on() {
    run(async |world| {
        world.endpoint("v1", "a1", world.echo("a1"));
        world.route(vec![Rule {
            backends: vec![to("v1", 1)],
            ..keeping(SessionToken::Header)
        }]);
        let first = ask_with(&world, "X: y").await;
        let (_, rest) = first.header("sid").unwrap().split_once('-').unwrap();
        let answer = ask_with(&world, &format!("sid: 123-{rest}")).await;
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .header("sid")
                .is_some_and(|sid| !sid.starts_with("123-"))
        );
        let answer = ask_with(&world, "sid: 123-7-1-1").await;
        assert_eq!(answer.status, 200, "a backend that is not there");
    });
}

/// Past the bound on tasks copies are left out, and none of them counts as one that is under way.
#[test]
fn a_copy_that_gets_no_task_is_left_out_and_its_place_is_given_back() {
    run(async |world| {
        world.endpoint("v1", "v1", world.echo("v1"));
        world.endpoint("m1", "m1", world.echo("m1"));
        let mirrored = Filters {
            mirrors: vec![mirror("m1", Share::ALL)],
            ..Filters::default()
        };
        let plain = Rule {
            matches: below("/plain"),
            backends: vec![to("v1", 1)],
            ..Rule::default()
        };
        world.route(vec![rule(mirrored), plain]);
        // From here on there is a connection to v1 that is kept, and no task is needed.
        let mut client = world.connect();
        let mut ask = async |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            read_answer(&mut client).await.status
        };
        assert_eq!(ask("/plain").await, 200);
        world.site.tasks_left.set(0);
        // More than copies may be under way.
        for _ in 0..=waypoint::http::limits::MIRRORS_MAX {
            assert_eq!(ask("/").await, 200);
        }
        world.site.tasks_left.set(usize::MAX);
        assert_eq!(ask("/").await, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let seen = world.endpoints_seen();
        assert_eq!(seen.iter().filter(|name| **name == "m1").count(), 1);
    });
}

#[test]
fn a_copy_of_a_request_whose_client_goes_away_is_broken_off_with_it() {
    run(async |world| {
        world.endpoint("v1", "v1", world.echo("v1"));
        let copies = world.endpoint("m1", "m1", world.echo("m1"));
        world.route(vec![rule(Filters {
            mirrors: vec![mirror("m1", Share::ALL)],
            ..Filters::default()
        })]);
        let mut client = world.connect();
        let head = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\npart";
        client.write_all(head).await.unwrap();
        while world.site.opened.get() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(copies.load(), 1);
        drop(client);
        // Long before a copy that waits for ever would be given up.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let bodies: Vec<_> = world
            .seen
            .borrow()
            .iter()
            .map(|one| (one.endpoint, one.body.clone()))
            .collect();
        assert!(
            bodies.iter().all(|(_, body)| body == "broken off"),
            "a part never passes for the whole: {bodies:?}"
        );
        assert!(bodies.iter().any(|(name, _)| *name == "m1"), "{bodies:?}");
        assert_eq!(copies.load(), 0);
    });
}

/// The request itself goes nowhere, so nobody reads the rest of its body.
#[test]
fn a_copy_of_a_request_that_is_dropped_before_its_end_is_broken_off_with_it() {
    run(async |world| {
        world.empty_service("v1");
        let copies = world.endpoint("m1", "m1", world.echo("m1"));
        world.route(vec![rule(Filters {
            mirrors: vec![mirror("m1", Share::ALL)],
            ..Filters::default()
        })]);
        let mut client = world.connect();
        let head = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\npart";
        client.write_all(head).await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 503);
        // Long before a copy that waits for ever would be given up.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(copies.load(), 0);
        let seen = world.seen.borrow();
        assert!(
            seen.iter().all(|one| one.body == "broken off"),
            "{:?}",
            seen[0].body
        );
    });
}

/// An endpoint of a mirror that answers before it has the body must not get the next request while
/// the copy is still being sent there.
#[test]
fn a_copy_that_was_answered_early_holds_up_no_other_request() {
    run(async |world| {
        world.endpoint("v1", "v1", world.echo("v1"));
        let early: crate::world::Handler = std::rc::Rc::new(|mut stream| {
            Box::pin(async move {
                crate::world::read_head(&mut stream).await;
                let answer = b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                std::future::pending::<()>().await;
            })
        });
        world.endpoint("m1", "m1", Some(early));
        let mirrored = Filters {
            mirrors: vec![mirror("m1", Share::ALL)],
            ..Filters::default()
        };
        let plain = Rule {
            matches: below("/plain"),
            backends: vec![to("m1", 1)],
            ..Rule::default()
        };
        world.route(vec![rule(mirrored), plain]);
        let mut slow = world.connect();
        let head = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\npart";
        slow.write_all(head).await.unwrap();
        while world.site.opened.get() < 2 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(world.get("/plain").await.status, 413);
        let records = world.site.records.borrow();
        assert_eq!(
            records[0].duration,
            Duration::ZERO,
            "nothing was waited for"
        );
    });
}

#[test]
fn a_field_that_connection_names_is_matched_by_no_route() {
    run(async |world| {
        world.endpoint("v1", "v1", world.echo("v1"));
        world.endpoint("v2", "v2", world.echo("v2"));
        let tester = Rule {
            matches: vec![RequestMatch {
                headers: vec![ValueMatch {
                    name: "x-tester".into(),
                    value: TextMatch::Exact("yes".into()),
                }],
                ..RequestMatch::default()
            }],
            backends: vec![to("v2", 1)],
            ..Rule::default()
        };
        world.route(vec![rule(Filters::default()), tester]);
        for (connection, endpoint) in [("keep-alive", "v2 /"), ("x-tester", "v1 /")] {
            let request = format!(
                "GET / HTTP/1.1\r\nHost: shop\r\nX-Tester: yes\r\nConnection: {connection}\r\n\r\n"
            );
            assert_eq!(world.ask(&request).await.text(), endpoint);
        }
    });
}
