//! What the demo counted of routes: figures that can be added up over back ends.

use serde_json::{Map, Value, json};

use crate::statistics::split_p;

/// Requests to the two versions of a Service under a split.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Canary {
    /// Answered by the old version.
    pub v1: u64,
    /// Answered by the new version.
    pub v2: u64,
    /// Percent that the new version is to get.
    pub expected_v2: u32,
}

/// Retries that hide a failing server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Retries {
    /// Requests that came to the server, tries counted.
    pub tried: u64,
    /// Those that it failed.
    pub failed: u64,
    /// Failures that the client saw.
    pub client_errors: u64,
}

/// Requests while the weights change.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Changed {
    /// All of them.
    pub requests: u64,
    /// Those without the answer of one of the versions.
    pub failed: u64,
    /// Changes while they came.
    pub changes: u64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Routes {
    /// Under 95 to 5.
    pub canary: Canary,
    /// With every tenth request failing.
    pub retries: Retries,
    /// With `culvert canary set` at work.
    pub changed: Changed,
}

impl Canary {
    /// How likely these counts are under the split: see [`crate::statistics::LEAST_P`].
    pub fn p_value(&self) -> f64 {
        let expected = f64::from(self.expected_v2);
        split_p(&[(self.v1, 100.0 - expected), (self.v2, expected)])
    }
}

impl Routes {
    /// The sum with those of another back end.
    pub fn plus(self, other: Routes) -> Routes {
        let (a, b) = (self, other);
        Routes {
            canary: Canary {
                v1: a.canary.v1 + b.canary.v1,
                v2: a.canary.v2 + b.canary.v2,
                expected_v2: a.canary.expected_v2.max(b.canary.expected_v2),
            },
            retries: Retries {
                tried: a.retries.tried + b.retries.tried,
                failed: a.retries.failed + b.retries.failed,
                client_errors: a.retries.client_errors + b.retries.client_errors,
            },
            changed: Changed {
                requests: a.changed.requests + b.changed.requests,
                failed: a.changed.failed + b.changed.failed,
                changes: a.changed.changes + b.changed.changes,
            },
        }
    }

    /// The fields of the report.
    pub fn fields(&self) -> Map<String, Value> {
        let Routes {
            canary,
            retries,
            changed,
        } = self;
        #[allow(clippy::cast_precision_loss)] // counts of a demo
        let share = retries.failed as f64 / retries.tried.max(1) as f64;
        let expected = json!({"v1": 100 - canary.expected_v2, "v2": canary.expected_v2});
        let canary = json!({
            "n": canary.v1 + canary.v2,
            "v1": canary.v1,
            "v2": canary.v2,
            "expected": expected,
            "p_value": canary.p_value(),
        });
        let retries = json!({
            "failing_share": (share * 1000.0).round() / 1000.0,
            "tried": retries.tried,
            "client_errors": retries.client_errors,
        });
        let changed = json!({
            "requests": changed.requests,
            "failed": changed.failed,
            "changes": changed.changes,
        });
        let fields = [
            ("canary", canary),
            ("retries_hid_failures", retries),
            ("weights_changed_under_load", changed),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        fields.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_two_back_ends_are_added() {
        let one = Routes {
            canary: Canary {
                v1: 1900,
                v2: 100,
                expected_v2: 5,
            },
            retries: Retries {
                tried: 110,
                failed: 11,
                client_errors: 0,
            },
            changed: Changed {
                requests: 10,
                failed: 1,
                changes: 2,
            },
        };
        let fields = one.plus(one).fields();
        assert_eq!(fields["canary"]["n"], 4000);
        assert_eq!(fields["canary"]["expected"]["v2"], 5);
        assert_eq!(fields["retries_hid_failures"]["failing_share"], 0.1);
        assert_eq!(fields["weights_changed_under_load"]["failed"], 2);
    }
}
