//! The figures that the data path is to reach: culvert on each back end beside the baseline, in
//! one run.

use super::Limit::{AtLeast, AtMost};
use super::{Against, Goal, Limit};

const fn goal(what: &'static str, limit: Limit) -> Goal {
    Goal {
        what,
        axis: "",
        cases: &[""],
        figure: "",
        against: Against::Path("baseline"),
        limit,
    }
}

/// All of them.
pub(crate) const ALL: &[Goal] = &[
    Goal {
        axis: "bulk",
        figure: "proxy_cpu_s_per_gb",
        ..goal("bulk: CPU-s/GB of the proxies / baseline", AtMost(0.60))
    },
    Goal {
        axis: "bulk",
        figure: "proxy_cpu_s_per_gb",
        against: Against::Path("relay"),
        ..goal("bulk: CPU-s/GB of the proxies / relay", AtMost(1.4))
    },
    Goal {
        axis: "bulk",
        cases: &["1 streams", "4 streams"],
        figure: "gbit_s",
        ..goal("bulk: Gbit/s / baseline", AtLeast(1.4))
    },
    Goal {
        axis: "requests",
        cases: &["64"],
        figure: "proxy_cpu_us_each",
        ..goal("requests: CPU each / baseline", AtMost(0.50))
    },
    Goal {
        axis: "requests",
        cases: &["1 "],
        figure: "p50_us",
        ..goal("requests: p50 / baseline", AtMost(0.75))
    },
    Goal {
        axis: "requests",
        cases: &["64"],
        figure: "p99_us",
        ..goal("requests: p99 / baseline", AtMost(0.60))
    },
    Goal {
        axis: "connections",
        figure: "proxy_cpu_us_each",
        ..goal("new connections: CPU each / baseline", AtMost(0.50))
    },
    Goal {
        axis: "fairness",
        figure: "p50_us",
        ..goal(
            "small flows beside an elephant: p50 / baseline",
            AtMost(0.25),
        )
    },
    Goal {
        axis: "fairness",
        figure: "p99_us",
        ..goal(
            "small flows beside an elephant: p99 / baseline",
            AtMost(0.25),
        )
    },
    Goal {
        axis: "memory",
        figure: "bytes_per_idle_connection",
        against: Against::Nothing,
        ..goal(
            "memory: bytes per idle connection and proxy",
            AtMost(1024.0),
        )
    },
    Goal {
        axis: "memory",
        figure: "bytes_per_used_connection",
        against: Against::Nothing,
        ..goal(
            "memory: bytes per connection and proxy after 200 KB",
            AtMost(2048.0),
        )
    },
    Goal {
        axis: "configuration",
        cases: &["50000"],
        figure: "mb_above_empty",
        against: Against::Nothing,
        ..goal("configuration: MB above empty", AtMost(25.0))
    },
    Goal {
        axis: "configuration",
        cases: &["50000"],
        figure: "change_cpu_ms",
        against: Against::Nothing,
        ..goal("configuration: CPU-ms for one change", AtMost(1.0))
    },
];
