//! The figures that the waypoint is to reach: beside Envoy in one run, or by themselves.

use super::RIVAL;
use crate::goals::Against::{Case, Nothing, Path};
use crate::goals::Limit::{AtLeast, AtMost};
use crate::goals::{Against, Goal, Limit};

const RIVALS: Against = Path(RIVAL);

/// Axis, beginning of the case, figure.
type Where = (&'static str, &'static [&'static str], &'static str);

const fn goal(
    what: &'static str,
    (axis, cases, figure): Where,
    against: Against,
    limit: Limit,
) -> Goal {
    Goal {
        what,
        axis,
        cases,
        figure,
        against,
        limit,
    }
}

/// All of them.
pub(crate) const ALL: &[Goal] = &[
    goal(
        "requests per CPU-second / Envoy",
        ("requests", &[""], "requests_per_cpu_s"),
        RIVALS,
        AtLeast(1.5),
    ),
    goal(
        "HTTP/2 requests per CPU-second / Envoy",
        ("http2", &[""], "requests_per_cpu_s"),
        RIVALS,
        AtLeast(1.5),
    ),
    goal(
        "p50 added at equal load / Envoy",
        ("paced", &[""], "added_p50_us"),
        RIVALS,
        AtMost(0.6),
    ),
    goal(
        "p99 added at equal load / Envoy",
        ("paced", &[""], "added_p99_us"),
        RIVALS,
        AtMost(0.6),
    ),
    goal(
        "memory idle, MB",
        ("memory", &[""], "idle_rss_mb"),
        Nothing,
        AtMost(15.0),
    ),
    goal(
        "memory with connections / Envoy",
        ("memory", &[""], "open_rss_mb"),
        RIVALS,
        AtMost(0.3),
    ),
    goal(
        "lookup among 10,000 routes / among 10",
        ("lookup", &["10000"], "lookup_ns"),
        Case("10 routes"),
        AtMost(2.0),
    ),
    goal(
        "CPU per request with 10,000 routes / with 10",
        ("routes", &["10000"], "proxy_cpu_us_each"),
        Case("10 routes"),
        AtMost(2.0),
    ),
    goal(
        "one route change of 10,000, from the push to its use, ms",
        ("push", &[""], "change_ms"),
        Nothing,
        AtMost(5.0),
    ),
    goal(
        "requests that failed during changes",
        ("change", &[""], "failed_requests"),
        Nothing,
        AtMost(0.0),
    ),
];
