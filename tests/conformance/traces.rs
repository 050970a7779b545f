//! Spans of a request that is tried twice, as a collector gets them over the whole chain.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use scenarios::{Scenario, scenario};
use serde_json::Value;

use crate::bed::Bed;
use crate::case::Pair;
use crate::more::{find, get};

/// Spans come with the next message to the collector; beside six builds.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Span kinds as OTLP numbers them.
const SERVER: u64 = 2;
const CLIENT: u64 = 3;

/// All of them.
pub fn scenarios() -> Vec<Scenario<Bed>> {
    vec![scenario(
        "a sampled request and both of its tries are spans of the client's trace, and the server \
         sees the second one as its parent",
        traced,
    )]
}

fn traced(bed: &mut Bed) -> anyhow::Result<()> {
    let case = find("retries")?;
    for version in [1, 2] {
        let mut pair: Pair = get(1);
        pair.ask = "GET http://retries/codes".to_owned();
        pair.echo = Some("status=503;first=1".to_owned());
        let ids = (rand::random::<u128>() | 1, rand::random::<u64>() | 1);
        let (trace, client) = (format!("{:032x}", ids.0), format!("{:016x}", ids.1));
        let parent = format!("00-{trace}-{client}-01");
        // Until the route is in force without a trace, for each try would have three spans.
        bed.settled(&case, &pair, version)?;
        pair.headers.push(format!("traceparent: {parent}"));
        let outcome = bed.asked(&case, &pair, version)?;
        ensure!(outcome.wrong.is_empty(), "{:?}", outcome.wrong);
        let seen = outcome.answers[0].saw_header("traceparent");
        let seen = seen.context("the server saw no traceparent")?;

        let spans = spans_of(bed, &trace, 3)?;
        let request = one(&spans, SERVER, |_| true)?;
        ensure!(request["parent"] == *client, "{request}");
        let id = &request["span"];
        let status = |span: &Value| span["attributes"]["http.response.status_code"].clone();
        ensure!(status(request) == 200, "{request}");
        let first = one(&spans, CLIENT, |span| status(span) == 503)?;
        let second = one(&spans, CLIENT, |span| status(span) == 200)?;
        ensure!(
            first["parent"] == *id && second["parent"] == *id,
            "{spans:?}"
        );
        let again = &second["attributes"]["http.request.resend_count"];
        ensure!(*again == 1, "{second}");
        let second = second["span"].as_str().unwrap_or_default();
        ensure!(
            seen == format!("00-{trace}-{second}-01"),
            "{seen}: {spans:?}"
        );
    }
    Ok(())
}

/// The spans of a trace, once there are so many.
fn spans_of(bed: &Bed, trace: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    let begun = Instant::now();
    loop {
        let log = bed.collector.log();
        // Its last line may be half written.
        let lines = log
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let of_trace = lines.filter(|line| line.contains(trace));
        let spans: Vec<Value> = of_trace
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        if spans.len() >= count {
            ensure!(spans.len() == count, "{spans:?}");
            return Ok(spans);
        }
        ensure!(begun.elapsed() < TOLD_WITHIN, "of {count}: {spans:?}");
        bed.sleep(LOOK)?;
    }
}

/// The only span of a kind that is as asked.
fn one(spans: &[Value], kind: u64, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<&Value> {
    let mut found = spans
        .iter()
        .filter(|span| span["kind"] == kind && is_it(span));
    let span = found.next().with_context(|| format!("{spans:?}"))?;
    ensure!(found.next().is_none(), "{spans:?}");
    Ok(span)
}
