//! Resident memory of the proxies.

use super::figures;
use crate::bed::Path;
use crate::figures::Figures;
use crate::usage;

/// Before any load of the run, in MB: the larger of the two proxies.
pub(super) fn idle(path: &Path) -> anyhow::Result<Figures> {
    let mut most = 0;
    for pid in &path.proxies {
        most = most.max(usage::rss_bytes(*pid)?);
    }
    Ok(figures([("proxy_rss_mb", most as f64 / 1e6)]))
}
