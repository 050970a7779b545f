//! What waypoints counted: `istio_requests_total` of their metrics pages, by the Service that was
//! chosen.

use std::collections::BTreeMap;

use super::error::CanaryError;
use crate::fetch;

/// The counter that waypoints keep of requests.
const COUNTER: &str = "istio_requests_total";

/// Requests by the namespace and name of the Service that got them.
pub(super) type Counts = BTreeMap<(String, String), u64>;

/// The sum of the counters of several waypoints' metrics addresses (`host:port`).
///
/// # Errors
/// One of them does not answer.
pub(super) fn counted(addresses: &[String]) -> Result<Counts, CanaryError> {
    let mut sum = Counts::new();
    for address in addresses {
        let page = fetch::page(address, "/metrics").map_err(|e| metrics_error(address, e))?;
        add(&mut sum, &page);
    }
    Ok(sum)
}

fn metrics_error(address: &str, why: impl ToString) -> CanaryError {
    CanaryError::Metrics {
        address: address.to_owned(),
        why: why.to_string(),
    }
}

/// Adds the counters of a page in the text format of Prometheus.
fn add(sum: &mut Counts, page: &str) {
    for line in page.lines() {
        let Some(rest) = line.strip_prefix(COUNTER) else {
            continue;
        };
        let Some((labels, value)) = rest.strip_prefix('{').and_then(|r| r.rsplit_once('}')) else {
            continue;
        };
        let labels = labels_of(labels);
        let value = value.split_whitespace().next().unwrap_or_default();
        let get = |name: &str| labels.get(name).cloned().unwrap_or_default();
        if get("reporter") != "waypoint" {
            continue;
        }
        // Counters are whole numbers; some writers give them as 12.0.
        let value = value.split('.').next().and_then(|v| v.parse::<u64>().ok());
        let key = (
            get("destination_service_namespace"),
            get("destination_service_name"),
        );
        *sum.entry(key).or_default() += value.unwrap_or_default();
    }
}

/// `a="b",c="d"` as a map; values may hold escaped quotes and any other character.
fn labels_of(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let mut end = after.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => value.extend(characters.next().map(|(_, next)| next)),
                other => value.push(other),
            }
        }
        labels.insert(name.trim_start_matches([',', ' ']).to_owned(), value);
        rest = after.get(end..).unwrap_or_default();
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_waypoints_are_summed_by_service_and_others_are_not() {
        let line = |reporter: &str, service: &str, namespace: &str, rest: &str| {
            format!(
                "istio_requests_total{{reporter=\"{reporter}\",\
                 destination_service_name=\"{service}\",\
                 destination_service_namespace=\"{namespace}\"{rest}\n"
            )
        };
        let page = [
            "# TYPE istio_requests counter\n".to_owned(),
            line("waypoint", "v2", "shop", ",response_code=\"200\"} 5"),
            line(
                "waypoint",
                "v2",
                "shop",
                ",x=\"a\\\"}b,c=\",response_code=\"503\"} 2.0",
            ),
            line("source", "v2", "shop", "} 90"),
            line("waypoint", "v2", "bank", "} 7"),
            "istio_tcp_connections_opened_total{reporter=\"waypoint\"} 1\n".to_owned(),
        ];
        let page = page.concat();
        let mut counts = Counts::new();
        add(&mut counts, &page);
        add(&mut counts, &page);
        let of = |namespace: &str| counts[&(namespace.to_owned(), "v2".to_owned())];
        assert_eq!((of("shop"), of("bank"), counts.len()), (14, 14, 2));
    }
}
