//! The routes that every process of the mesh serves: metrics, readiness, the log level, and a hook
//! for JSON. Knows no socket.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

use crate::telemetry::LogControl;

/// Media type of the text exposition that prometheus-client writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/metrics` and `/stats/prometheus`. The registry is complete before it is served; metrics
/// whose number is only known when asked are a `Collector` in it.
pub fn metrics(registry: Arc<Registry>) -> Router {
    let page = move || {
        let registry = registry.clone();
        async move { exposition(&registry) }
    };
    Router::new()
        .route("/metrics", get(page.clone()))
        .route("/stats/prometheus", get(page))
}

fn exposition(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// `/healthz/ready`: 200 when every condition holds, else 503 with a line for each that is
/// missing: `name: why`.
pub fn readiness(readiness: Readiness) -> Router {
    let page = move || {
        let missing = readiness.missing();
        async move {
            if missing.is_empty() {
                return (StatusCode::OK, "ready\n".to_owned());
            }
            let lines = missing
                .iter()
                .map(|(name, why)| format!("{name}: {why}\n"))
                .collect();
            (StatusCode::SERVICE_UNAVAILABLE, lines)
        }
    };
    Router::new().route("/healthz/ready", get(page))
}

/// `/logging`: GET shows the level, POST with `?level=` sets it.
pub fn logging(control: LogControl) -> Router {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        level: Option<String>,
    }
    let setting = control.clone();
    let show = move || {
        let text = format!("current log level is {}\n", control.get());
        async move { text }
    };
    let set = move |Query(wanted): Query<Wanted>| {
        let setting = setting.clone();
        async move {
            let Some(level) = wanted.level else {
                return (
                    StatusCode::BAD_REQUEST,
                    "write POST /logging?level=LEVEL\n".to_owned(),
                );
            };
            match setting.set(&level) {
                Ok(()) => {
                    tracing::info!(%level, "log level set");
                    (StatusCode::OK, format!("log level is now {level}\n"))
                }
                Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        }
    };
    Router::new().route("/logging", get(show).post(set))
}

/// A GET route (such as `/config_dump`) whose answer is made when asked. `content` runs on the
/// control runtime: it may take locks of the control side, never of the data path.
pub fn json<T, F>(path: &str, content: F) -> Router
where
    T: Serialize,
    F: Fn() -> T + Clone + Send + Sync + 'static,
{
    let page = move || {
        let text = serde_json::to_vec_pretty(&content());
        async move {
            match text {
                Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
                Err(error) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
                }
            }
        }
    };
    Router::new().route(path, get(page))
}

/// Named conditions that must all hold before the process is ready. Clones share them. Without
/// any condition it is ready.
#[derive(Clone, Default)]
pub struct Readiness {
    missing: Arc<Mutex<BTreeMap<Cow<'static, str>, String>>>,
}

/// One condition of a [`Readiness`]. Cheap to clone; dropping it changes nothing.
#[derive(Clone)]
pub struct Condition {
    readiness: Readiness,
    name: Cow<'static, str>,
}

impl Readiness {
    /// No condition yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition that does not hold yet, for the reason `why`. The same name twice is the
    /// same condition.
    pub fn condition(
        &self,
        name: impl Into<Cow<'static, str>>,
        why: impl Into<String>,
    ) -> Condition {
        let condition = Condition {
            readiness: self.clone(),
            name: name.into(),
        };
        condition.missing(why);
        condition
    }

    /// Name and reason of each condition that does not hold, by name.
    pub fn missing(&self) -> Vec<(String, String)> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing
            .iter()
            .map(|(name, why)| (name.to_string(), why.clone()))
            .collect()
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.missing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

impl Condition {
    /// The condition holds from now on.
    pub fn met(&self) {
        let mut missing = self
            .readiness
            .missing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if missing.remove(&self.name).is_some() {
            tracing::info!(condition = %self.name, "met");
        }
    }

    /// The condition does not hold (any more), and why.
    pub fn missing(&self, why: impl Into<String>) {
        let mut missing = self
            .readiness
            .missing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        missing.insert(self.name.clone(), why.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt;

    async fn ask(router: &Router, method: &str, path: &str) -> (StatusCode, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn metrics_are_served_under_both_paths() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("cars", "Cars that passed", counter.clone());
        counter.inc_by(3);
        let router = metrics(Arc::new(registry));
        for path in ["/metrics", "/stats/prometheus"] {
            let (status, text) = ask(&router, "GET", path).await;
            assert_eq!(status, StatusCode::OK);
            assert!(
                text.contains("cars_total 3") && text.ends_with("# EOF\n"),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_until_nothing_is() {
        let conditions = Readiness::new();
        let addresses = conditions.condition("addresses", "no answer yet");
        let zds = conditions.condition("zds", "not connected");
        let router = readiness(conditions);
        let (status, text) = ask(&router, "GET", "/healthz/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "addresses: no answer yet\nzds: not connected\n");
        addresses.met();
        zds.met();
        assert_eq!(
            ask(&router, "GET", "/healthz/ready").await.0,
            StatusCode::OK
        );
        zds.missing("connection lost");
        let (status, text) = ask(&router, "GET", "/healthz/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "zds: connection lost\n");
    }

    #[tokio::test]
    async fn the_log_level_is_shown_and_set_by_url() {
        let (_subscriber, control) = crate::telemetry::subscriber(
            "info",
            crate::telemetry::Format::Plain,
            false,
            std::io::sink,
        )
        .unwrap();
        let router = logging(control.clone());
        let (_, text) = ask(&router, "GET", "/logging").await;
        assert!(text.contains("info"), "{text}");
        let (status, _) = ask(&router, "POST", "/logging?level=debug,access%3Doff").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(control.get(), "debug,access=off");
        for path in ["/logging", "/logging?level=inof", "/logging?lvl=info"] {
            assert_eq!(
                ask(&router, "POST", path).await.0,
                StatusCode::BAD_REQUEST,
                "{path}"
            );
        }
        assert_eq!(control.get(), "debug,access=off");
    }

    #[tokio::test]
    async fn a_json_route_is_made_when_asked() {
        let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let router = json("/config_dump", move || {
            let asked = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            serde_json::json!({ "asked": asked })
        });
        ask(&router, "GET", "/config_dump").await;
        let (_, text) = ask(&router, "GET", "/config_dump").await;
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["asked"], 1);
    }
}
