//! What a request asks the server to do: the header `x-echo`, parts divided by `;`.

use std::time::Duration;

/// What a request asks for. By default: 200 at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behaviour {
    /// `status=503`.
    pub(crate) status: Option<u16>,
    /// `delay=500`: milliseconds before the answer's head.
    pub(crate) delay: Duration,
    /// `reset`: the connection ends without an answer.
    pub(crate) reset: bool,
    /// `body`: the answer's body is the request's, byte by byte as it comes.
    pub(crate) body: bool,
    /// `set=name:value`: headers of the answer.
    pub(crate) headers: Vec<(String, String)>,
    /// `trailer=name:value`.
    pub(crate) trailers: Vec<(String, String)>,
    /// `first=2`: status, delay and reset hold for the first two requests of the pair alone.
    first: Option<u64>,
    /// `at=v1`: they hold at this pod alone.
    at: Option<String>,
}

impl Behaviour {
    /// Reads the header; what it does not know it passes over.
    pub(crate) fn read(text: &str) -> Self {
        let mut behaviour = Behaviour::default();
        for part in text.split(';') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let pair = || {
                let (name, value) = value.split_once(':').unwrap_or((value, ""));
                (name.to_owned(), value.to_owned())
            };
            match name.trim() {
                "status" => behaviour.status = value.parse().ok(),
                "delay" => {
                    behaviour.delay = Duration::from_millis(value.parse().unwrap_or_default());
                }
                "reset" => behaviour.reset = true,
                "body" => behaviour.body = true,
                "set" => behaviour.headers.push(pair()),
                "trailer" => behaviour.trailers.push(pair()),
                "first" => behaviour.first = value.parse().ok(),
                "at" => behaviour.at = Some(value.to_owned()),
                _ => {}
            }
        }
        behaviour
    }

    /// The behaviour of the request with this number of its pair, at this pod.
    pub(crate) fn for_request(mut self, pod: &str, number: u64) -> Self {
        let late = self.first.is_some_and(|first| number > first);
        let elsewhere = self.at.as_deref().is_some_and(|at| at != pod);
        if late || elsewhere {
            self.status = None;
            self.delay = Duration::ZERO;
            self.reset = false;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_requests_misbehave_and_the_others_do_not() {
        let text = "status=503;first=2;set=a:b;at=v1";
        let of = |pod: &str, number| Behaviour::read(text).for_request(pod, number);
        assert_eq!(of("v1", 2).status, Some(503));
        assert_eq!(of("v1", 3).status, None);
        assert_eq!(of("v2", 1).status, None);
        assert_eq!(of("v2", 1).headers, [("a".to_owned(), "b".to_owned())]);
    }
}
