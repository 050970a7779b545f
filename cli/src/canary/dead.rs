//! Backends of a rule that lead nowhere: every request for one fails with 500, so none is given a
//! larger share. Taking shares away is always possible.

use std::path::Path;

use mesh::route::Target;

use super::error::CanaryError;
use super::place::Place;
use crate::manifests::Manifests;

/// Refuses weights that send more to a backend that is not there, or that the route may not have.
///
/// What cannot be told from the directory (a route that is refused, or attached to nothing) is
/// nobody's request either.
///
/// # Errors
/// The backend, and why.
pub(super) fn refuse(directory: &Path, place: &Place, weights: &[u32]) -> Result<(), CanaryError> {
    let Ok(manifests) = Manifests::read(directory) else {
        return Ok(());
    };
    let all = manifests.output.routes.values().flat_map(|at| &at.http);
    let mut rules = all
        .filter(|route| route.key.to_string() == place.route)
        .flat_map(|route| &route.rules);
    let Some(rule) = rules.find(|rule| rule.place == place.number) else {
        return Ok(());
    };
    for ((backend, weight), made) in place.backends.iter().zip(weights).zip(&rule.backends) {
        if let Target::Invalid(why) = &made.target
            && *weight > backend.weight
        {
            let name = &backend.name;
            let message = format!("every request for {name} would fail: {why}");
            return Err(CanaryError::Split(message));
        }
    }
    Ok(())
}
