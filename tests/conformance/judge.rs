//! Whether the answers of a pair are what was expected: pure, and says what is not.

use std::collections::BTreeMap;

use cli::statistics::{LEAST_P, binomial_p, split_p};

use crate::ask::Answer;
use crate::case::Expect;

/// What is not as expected: `expected ... got ...`, one line each; empty: all is well.
pub fn judge(expect: &Expect, answers: &[Answer], counted: &BTreeMap<String, u64>) -> Vec<String> {
    let mut wrong = Vec::new();
    for answer in answers {
        if expect.split.is_empty() {
            one(expect, answer, &mut wrong);
        } else if answer.status == 0 {
            wrong.push(format!("expected an answer, got none: {}", answer.error));
        }
        // The others say the same, mostly.
        if wrong.len() > 3 {
            break;
        }
    }
    if !expect.split.is_empty() {
        split(expect, answers, &mut wrong);
    }
    if expect.same {
        same(answers, &mut wrong);
    }
    let n = u64::try_from(answers.len()).unwrap_or(u64::MAX);
    for (pod, each) in &expect.counted {
        let seen = counted.get(pod).copied().unwrap_or_default();
        if seen != each * n {
            wrong.push(format!(
                "expected {} requests at {pod}, got {seen}",
                each * n
            ));
        }
    }
    for (pod, percent) in &expect.copied {
        let seen = counted.get(pod).copied().unwrap_or_default();
        let p = binomial_p(n, seen, percent / 100.0);
        if p < LEAST_P {
            wrong.push(format!(
                "expected {percent} % of {n} requests at {pod} too, got {seen}: p = {p:.1e}"
            ));
        }
    }
    wrong
}

/// What a split was: for the log of a run.
pub fn told(expect: &Expect, answers: &[Answer]) -> Option<String> {
    if expect.split.is_empty() {
        return None;
    }
    let counts = counts(expect, answers);
    let p = split_p(&sides(expect, &counts));
    Some(format!("{counts:?} of {:?}: p = {p:.3}", expect.split))
}

fn counts(expect: &Expect, answers: &[Answer]) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for side in expect.split.keys() {
        counts.insert(side.clone(), 0);
    }
    for answer in answers {
        let side = match (answer.status, answer.pod()) {
            (200, Some(pod)) => pod,
            (status, _) => status.to_string(),
        };
        *counts.entry(side).or_default() += 1;
    }
    counts
}

fn sides(expect: &Expect, counts: &BTreeMap<String, u64>) -> Vec<(u64, f64)> {
    let weight = |side: &String| expect.split.get(side).copied().unwrap_or_default();
    counts.iter().map(|(side, n)| (*n, weight(side))).collect()
}

fn split(expect: &Expect, answers: &[Answer], wrong: &mut Vec<String>) {
    let counts = counts(expect, answers);
    let p = split_p(&sides(expect, &counts));
    if p < LEAST_P {
        wrong.push(format!(
            "expected a split like {:?}, got {counts:?}: p = {p:.1e}",
            expect.split
        ));
    }
}

fn same(answers: &[Answer], wrong: &mut Vec<String>) {
    let pods: Vec<Option<String>> = answers.iter().map(Answer::pod).collect();
    if pods.windows(2).any(|two| two[0] != two[1]) || pods.contains(&None) {
        wrong.push(format!("expected one pod to answer all, got {pods:?}"));
    }
}

/// An answer over HTTP/1 breaks off by a reset of the connection, and that may come to the client's
/// kernel before the client has read the head. Over HTTP/2 it breaks off by a reset of the stream,
/// and a server gives up what it has not yet written of a stream that it resets, the head too (h2,
/// and RFC 9113 5.4.2 has no word against it): the waypoint gives the head a turn, and no more.
fn cut_before_the_head(error: &str) -> bool {
    error.contains("reset by peer") || error.contains("was not closed cleanly")
}

fn one(expect: &Expect, answer: &Answer, wrong: &mut Vec<String>) {
    let status = expect.status.unwrap_or(200);
    if expect.cut && answer.status == 0 && cut_before_the_head(&answer.error) {
        return;
    }
    if answer.status != status {
        let (got, error) = (answer.status, &answer.error);
        let body: String = answer.body.chars().take(200).collect();
        wrong.push(format!(
            "expected status {status}, got {got} {error} {}",
            body.trim()
        ));
        return;
    }
    if status != 0 && expect.cut == answer.error.is_empty() {
        let (cut, error) = (expect.cut, &answer.error);
        wrong.push(format!("expected cut = {cut}, got {error:?}"));
    }
    let pod = answer.pod();
    if !expect.by.is_empty() && !pod.as_ref().is_some_and(|pod| expect.by.contains(pod)) {
        let by = expect.by.join(" or ");
        wrong.push(format!("expected an answer by {by}, got one by {pod:?}"));
    }
    let text = |name: &str| answer.saw[name].as_str().map(str::to_owned);
    let seen = [
        ("path", expect.path.clone(), text("path")),
        ("host", expect.host.clone(), text("host")),
        ("method", expect.method.clone(), text("method")),
        ("body", expect.body.clone(), text("body")),
        (
            "port",
            expect.port.map(|port| port.to_string()),
            answer.saw["port"].as_u64().map(|port| port.to_string()),
        ),
    ];
    for (what, expected, got) in seen {
        if expected.is_some() && expected != got {
            wrong.push(format!(
                "expected the server to see {what} {expected:?}, got {got:?}"
            ));
        }
    }
    for (name, expected) in &expect.saw {
        differs(
            &format!("the server to see {name}"),
            expected,
            answer.saw_header(name),
            wrong,
        );
    }
    for (name, expected) in &expect.headers {
        differs(
            &format!("{name} in the answer"),
            expected,
            answer.header(name),
            wrong,
        );
    }
    if let Some(text) = &expect.says
        && !answer.body.contains(text)
    {
        wrong.push(format!(
            "expected a body with {text:?}, got {:?}",
            answer.body
        ));
    }
}

/// `*` in an expected value stands for any text.
fn differs(what: &str, expected: &Option<String>, got: Option<String>, wrong: &mut Vec<String>) {
    let fits = match (expected, &got) {
        (None, None) => true,
        (Some(expected), Some(got)) => fits(expected, got),
        _ => false,
    };
    if !fits {
        wrong.push(format!("expected {what} {expected:?}, got {got:?}"));
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(start) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}
