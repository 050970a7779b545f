//! A split as it is written on the command line, and the weights that it means. Pure.

use super::error::CanaryError;
use super::place::{Backend, Place};

/// Largest weight (HTTPBackendRef.weight).
const MAX_WEIGHT: u32 = 1_000_000;

/// `v2=5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Name of a backend Service, or what follows the service's name and a dash in it.
    pub backend: String,
    /// From 0 to 1,000,000.
    pub weight: u32,
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (backend, weight) = text
            .split_once('=')
            .filter(|(backend, _)| !backend.is_empty())
            .ok_or("it is not BACKEND=WEIGHT, such as v2=5")?;
        let weight = weight
            .parse()
            .ok()
            .filter(|weight| *weight <= MAX_WEIGHT)
            .ok_or_else(|| format!("{weight:?} is no weight from 0 to {MAX_WEIGHT}"))?;
        Ok(Share {
            backend: backend.to_owned(),
            weight,
        })
    }
}

/// The weights of all backends of the rule, in their order. One that is not named gets what is
/// left of 100.
///
/// # Errors
/// Not every other backend is named, or the weights are no split.
pub(super) fn weights(
    place: &Place,
    service: &str,
    shares: &[Share],
) -> Result<Vec<u32>, CanaryError> {
    let wrong = |why: String| Err(CanaryError::Split(why));
    let mut weights: Vec<Option<u32>> = vec![None; place.backends.len()];
    for share in shares {
        let at = position(place, service, &share.backend)?;
        if weights[at].replace(share.weight).is_some() {
            return wrong(format!("{} is named twice", place.backends[at].name));
        }
    }
    let given: u64 = weights.iter().flatten().map(|w| u64::from(*w)).sum();
    let silent: Vec<&Backend> = place
        .backends
        .iter()
        .zip(&weights)
        .filter_map(|(backend, weight)| weight.is_none().then_some(backend))
        .collect();
    match &silent[..] {
        [] if given == 0 => return wrong("all weights are 0: every request would fail".to_owned()),
        [] => {}
        [one] if given > 100 => {
            return wrong(format!(
                "{given} of 100 leave nothing for {}: name it too",
                one.name
            ));
        }
        [_] => {}
        several => {
            let names: Vec<&str> = several.iter().map(|b| b.name.as_str()).collect();
            return wrong(format!(
                "{} has more backends: say the weights of {} too, all but one",
                place.route,
                names.join(" and ")
            ));
        }
    }
    let rest = u32::try_from(100_u64.saturating_sub(given)).unwrap_or_default();
    Ok(weights.into_iter().map(|w| w.unwrap_or(rest)).collect())
}

/// Everything to one backend: the named one, else the one at `default` of two.
///
/// # Errors
/// No name, and not two backends.
pub(super) fn all_to(
    place: &Place,
    service: &str,
    (named, default): (Option<&str>, usize),
) -> Result<Vec<u32>, CanaryError> {
    let at = match named {
        Some(word) => position(place, service, word)?,
        None if place.backends.len() == 2 => default,
        None => {
            let names: Vec<&str> = place.backends.iter().map(|b| b.name.as_str()).collect();
            return Err(CanaryError::Split(format!(
                "{} has {} backends, say which: {}",
                place.route,
                names.len(),
                names.join(", ")
            )));
        }
    };
    let count = place.backends.len();
    Ok((0..count).map(|i| if i == at { 100 } else { 0 }).collect())
}

fn position(place: &Place, service: &str, word: &str) -> Result<usize, CanaryError> {
    // An exact name beats what follows the service's name: `web-v2` and `v2` may both be there.
    let exact = place.backends.iter().position(|b| b.name == word);
    exact
        .or_else(|| place.backends.iter().position(|b| b.is(word, service)))
        .ok_or_else(|| CanaryError::Split(format!("{} has no backend {word}", place.route)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canary::place::At;

    fn place(names: &[&str]) -> Place {
        let backend = |name: &&str| Backend {
            name: (*name).to_owned(),
            namespace: "shop".to_owned(),
            weight: 1,
            at: At::Number(0..1),
        };
        Place {
            file: "web.yaml".into(),
            text: String::new(),
            route: "HTTPRoute shop/web".to_owned(),
            rule: "rule 0".to_owned(),
            number: 0,
            backends: names.iter().map(backend).collect(),
        }
    }

    fn of(names: &[&str], shares: &[&str]) -> Result<Vec<u32>, String> {
        let shares: Result<Vec<Share>, _> = shares.iter().map(|text| text.parse()).collect();
        weights(&place(names), "web", &shares?).map_err(|e| e.to_string())
    }

    #[test]
    fn one_backend_that_is_not_named_gets_the_rest_of_100() {
        assert_eq!(of(&["web-v1", "web-v2"], &["v2=5"]), Ok(vec![95, 5]));
        assert_eq!(of(&["v1", "v2"], &["v1=1", "v2=1"]), Ok(vec![1, 1]));
        assert_eq!(of(&["a", "b", "c"], &["a=0", "c=30"]), Ok(vec![0, 70, 30]));
    }

    #[test]
    fn an_exact_name_beats_what_follows_the_services_name() {
        assert_eq!(of(&["web-v2", "v2"], &["v2=5"]), Ok(vec![95, 5]));
    }

    #[test]
    fn what_is_no_split_is_refused_with_what_to_do() {
        for (names, shares, why) in [
            (&["v1", "v2"][..], &["v2=101"][..], "name it too"),
            (&["v1", "v2"], &["v2=0", "v1=0"], "every request would fail"),
            (&["v1", "v2"], &["v3=5"], "no backend v3"),
            (&["v1", "v2"], &["v2=5", "v2=6"], "named twice"),
            (&["a", "b", "c"], &["a=5"], "weights of b and c too"),
            (&["v1", "v2"], &["v2=-1"], "no weight from 0 to"),
            (&["v1", "v2"], &["v2=1000001"], "no weight from 0 to"),
            (&["v1", "v2"], &["=1"], "BACKEND=WEIGHT"),
        ] {
            let error = of(names, shares).unwrap_err();
            assert!(error.contains(why), "{error:?} does not say {why:?}");
        }
    }

    #[test]
    fn everything_goes_to_one_side() {
        let two = place(&["v1", "v2"]);
        assert_eq!(all_to(&two, "web", (None, 1)).unwrap(), [0, 100]);
        assert_eq!(all_to(&two, "web", (Some("v1"), 1)).unwrap(), [100, 0]);
        let three = place(&["a", "b", "c"]);
        assert!(all_to(&three, "web", (None, 1)).is_err());
        assert_eq!(all_to(&three, "web", (Some("c"), 1)).unwrap(), [0, 0, 100]);
    }
}
