//! The limits that an operator sets, as the parts of a waypoint's worker take them. Knows no
//! worker.

use std::time::Duration;

use carrier::limits::Limits;

use crate::http::site;

/// What HTTP may take up.
#[must_use]
pub fn http(limits: &Limits) -> site::Limits {
    let time = |millis: usize| Duration::from_millis(millis as u64);
    site::Limits {
        head_timeout: time(limits.http_head_timeout),
        idle_timeout: time(limits.http_idle_timeout),
        upstream_idle_timeout: time(limits.http_endpoint_idle_timeout),
        continue_timeout: time(limits.http_continue_timeout),
        tunnel_idle_timeout: time(limits.http_upgrade_idle_timeout),
        stall_timeout: time(limits.http_stall_timeout),
        quiet_timeout: time(limits.http_quiet_timeout),
        request_timeout: match limits.http_request_timeout {
            0 => None,
            millis => Some(time(millis)),
        },
        requests_max: limits.http_requests_per_worker,
        pending_max: limits.http_waiting_per_worker,
        upstream_streams_max: limits.http_streams_per_connection,
    }
}

/// Tasks of one worker, which its other limits keep it below: what every proxy has; for each
/// connection of a client one for its HTTP and one for what lingers of it; for each request two,
/// and one for the body that it sends; for each connection to an endpoint two, and one that looks
/// after those that are kept; two for each mirrored request.
#[must_use]
pub fn tasks_per_worker(limits: &Limits) -> usize {
    limits.tasks_per_worker()
        + 2 * limits.connections_per_worker
        + 3 * limits.http_requests_per_worker
        + 3 * limits.http_endpoint_connections_per_worker
        + 2 * crate::http::limits::MIRRORS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_the_file_are_those_of_http() {
        assert_eq!(http(&Limits::default()), site::Limits::default());
    }

    #[test]
    fn the_tasks_cover_all_that_the_other_limits_let_in() {
        let limits = Limits::default();
        let let_in = limits.connections_per_worker
            + limits.http_requests_per_worker
            + limits.http_endpoint_connections_per_worker
            + limits.inbound_tunnels_per_worker
            + limits.outbound_tunnels_per_worker;
        assert!(tasks_per_worker(&limits) > let_in);
    }

    #[test]
    fn a_request_without_a_limit_is_written_as_no_time() {
        let limits = Limits {
            http_request_timeout: 1_500,
            ..Limits::default()
        };
        let wanted = Some(Duration::from_millis(1_500));
        assert_eq!(http(&limits).request_timeout, wanted);
    }
}
