//! When a request is sent again, and how often all of a route's requests together may be.

use std::time::Duration;

/// Tries after the first one, when a route does not say: as the field's meshes have it.
pub const ATTEMPTS: u32 = 2;
/// Base of the pause between tries, when a route does not say.
pub const BACKOFF: Duration = Duration::from_millis(25);
/// The pause doubles at each try, up to so many times its base.
const BACKOFF_FACTOR_MAX: u32 = 10;
/// Share of a route's requests that may be retries, in percent.
pub const BUDGET_PERCENT: u32 = 20;
/// Retries a second that a route may always make, so that a quiet route can retry at all.
pub const BUDGET_MIN_PER_SECOND: u32 = 10;
/// Seconds that the budget looks back.
const WINDOW_SECONDS: usize = 10;

/// When a request of a rule is sent again. Only a request whose body can be sent again is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Statuses, 400 to 599; for gRPC their counterparts.
    pub codes: Vec<u16>,
    /// Tries after the first one; 0: none. [`ATTEMPTS`] by default.
    pub attempts: u32,
    /// Base of the pause. [`BACKOFF`] by default.
    pub backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            codes: Vec::new(),
            attempts: ATTEMPTS,
            backoff: BACKOFF,
        }
    }
}

/// How a try ended that was no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No connection came about: refused, timed out, TLS failed.
    NotConnected,
    /// The backend said that it has not processed it (HTTP/2 REFUSED_STREAM, GOAWAY).
    Refused,
    /// The connection broke after the request was sent.
    Broken,
    /// The try took longer than `timeouts.backendRequest`.
    TimedOut,
    /// This HTTP status.
    Status(u16),
    /// HTTP 200 with this gRPC status.
    Grpc(u16),
}

impl Retry {
    /// Whether another try is due after `tries` of them (the first included), of which the last
    /// ended so.
    ///
    /// What surely was not processed is always sent again; after a broken connection or a timeout
    /// only a method that may be repeated (RFC 9110 9.2.2), since the specification advises against
    /// it otherwise.
    #[must_use]
    pub fn is_due(&self, tries: u32, ended: Ended, method: &str) -> bool {
        let cause = match ended {
            Ended::NotConnected | Ended::Refused => true,
            Ended::Broken => is_idempotent(method),
            Ended::TimedOut => is_idempotent(method) || self.codes.contains(&504),
            Ended::Status(status) => self.codes.contains(&status),
            Ended::Grpc(status) => {
                status == GRPC_UNAVAILABLE
                    || http_of_grpc(status).is_some_and(|code| self.codes.contains(&code))
            }
        };
        cause && tries <= self.attempts
    }

    /// The pause before the next try after `tries` of them: it doubles, and lies between half of
    /// that and all of it, as `drawn` (uniform) says.
    #[must_use]
    pub fn pause(&self, tries: u32, drawn: u64) -> Duration {
        let doubled = 1_u32
            .checked_shl(tries.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let whole = self.backoff * doubled.min(BACKOFF_FACTOR_MAX);
        let thousandths = 500 + u32::try_from(drawn % 501).unwrap_or_default();
        whole * thousandths / 1_000
    }
}

const GRPC_UNAVAILABLE: u16 = 14;

/// The HTTP status that stands for a gRPC status in a route's list of codes.
fn http_of_grpc(status: u16) -> Option<u16> {
    Some(match status {
        4 => 504,
        8 => 429,
        13 => 500,
        14 => 503,
        _ => return None,
    })
}

fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}

/// What one route may retry: a share of its requests of the last ten seconds, and always a few.
///
/// Without it, retries multiply the load just when backends fail because of load.
#[derive(Clone, Debug)]
pub struct Budget {
    percent: u32,
    min_per_second: u32,
    requests: Window,
    retries: Window,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(BUDGET_PERCENT, BUDGET_MIN_PER_SECOND)
    }
}

impl Budget {
    /// A budget of `percent` of the requests, and `min_per_second` whatever these are.
    #[must_use]
    pub fn new(percent: u32, min_per_second: u32) -> Self {
        Self {
            percent,
            min_per_second,
            requests: Window::default(),
            retries: Window::default(),
        }
    }

    /// A request came, at this time since any fixed moment.
    pub fn on_request(&mut self, now: Duration) {
        self.requests.add(now);
    }

    /// Whether a retry may be made now; then it is counted.
    pub fn take(&mut self, now: Duration) -> bool {
        let window_seconds = WINDOW_SECONDS as u64;
        let share = self.requests.sum(now) * u64::from(self.percent) / 100;
        let allowed = share.max(u64::from(self.min_per_second) * window_seconds);
        let fits = self.retries.sum(now) < allowed;
        if fits {
            self.retries.add(now);
        }
        fits
    }
}

/// Counts of the last [`WINDOW_SECONDS`], by second.
#[derive(Clone, Debug, Default)]
struct Window {
    /// By second, modulo the window; with the second that it is of.
    counts: [(u64, u32); WINDOW_SECONDS],
}

impl Window {
    fn add(&mut self, now: Duration) {
        let second = now.as_secs();
        let at = usize::try_from(second % WINDOW_SECONDS as u64).unwrap_or_default();
        let slot = &mut self.counts[at];
        if slot.0 != second {
            *slot = (second, 0);
        }
        slot.1 = slot.1.saturating_add(1);
    }

    fn sum(&self, now: Duration) -> u64 {
        let is_recent = |second: u64| second + WINDOW_SECONDS as u64 > now.as_secs();
        let recent = self.counts.iter().filter(|(second, _)| is_recent(*second));
        recent.map(|(_, count)| u64::from(*count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_processed_is_tried_again_and_what_may_have_been_is_not() {
        let retry = Retry {
            codes: vec![500, 503],
            ..Retry::default()
        };
        for (ended, method, due) in [
            (Ended::NotConnected, "POST", true),
            (Ended::Refused, "POST", true),
            (Ended::Broken, "POST", false),
            (Ended::Broken, "GET", true),
            (Ended::TimedOut, "GET", true),
            (Ended::TimedOut, "POST", false),
            (Ended::Status(503), "POST", true),
            (Ended::Status(502), "GET", false),
            (Ended::Grpc(14), "POST", true),
            (Ended::Grpc(13), "POST", true),
            (Ended::Grpc(5), "POST", false),
        ] {
            assert_eq!(retry.is_due(1, ended, method), due, "{ended:?} {method}");
        }
        assert!(retry.is_due(2, Ended::Refused, "GET"));
        assert!(!retry.is_due(3, Ended::Refused, "GET"), "two more at most");
        let never = Retry {
            attempts: 0,
            ..retry
        };
        assert!(!never.is_due(1, Ended::NotConnected, "GET"));
    }

    #[test]
    fn the_pause_doubles_to_a_bound_and_is_spread() {
        let retry = Retry::default();
        let longest = |tries| retry.pause(tries, 500);
        assert_eq!(longest(1), BACKOFF);
        assert_eq!(longest(2), BACKOFF * 2);
        assert_eq!(longest(40), BACKOFF * BACKOFF_FACTOR_MAX);
        assert_eq!(retry.pause(1, 501), BACKOFF / 2);
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let mut budget = Budget::new(20, 0);
        let now = Duration::from_secs(1_000);
        for _ in 0..1_000 {
            budget.on_request(now);
        }
        let granted = (0..1_000).filter(|_| budget.take(now)).count();
        assert_eq!(granted, 200);
        let later = now + Duration::from_secs(WINDOW_SECONDS as u64);
        assert!(!budget.take(later), "the requests are forgotten");
    }

    #[test]
    fn a_quiet_route_may_retry_a_little() {
        let mut budget = Budget::new(20, 1);
        let start = Duration::from_secs(5_000);
        let granted = (0..100).filter(|_| budget.take(start)).count();
        assert_eq!(granted, WINDOW_SECONDS);
        let later = start + Duration::from_secs(WINDOW_SECONDS as u64);
        assert!(budget.take(later), "the window has moved on");
    }
}
