//! The policy against the intruder, taken away and put back: a sign that proxies hear of changes.

use cli::demo::manifest::NO_INTRUDER;
use scenarios::faults::Bed;

use super::gone::FOUND_WITHIN;

/// Where the manifests have it.
pub const FILE: &str = "70-no-intruder.yaml";

/// Takes it out of the source.
pub fn take_away(bed: &Bed) -> anyhow::Result<()> {
    Ok(bed.manifests.remove(FILE)?)
}

/// Waits until its absence is known where it was enforced.
pub fn is_away(bed: &Bed) -> anyhow::Result<()> {
    intruder(bed, 1)
}

/// Puts it back and waits until it is enforced.
pub fn put_back(bed: &Bed) -> anyhow::Result<()> {
    bed.manifests.put(FILE, NO_INTRUDER)?;
    intruder(bed, 0)
}

/// All three: a change of the source is heard.
pub fn is_followed(bed: &Bed) -> anyhow::Result<()> {
    take_away(bed)?;
    is_away(bed)?;
    put_back(bed)?;
    bed.right()
}

fn intruder(bed: &Bed, streams: u64) -> anyhow::Result<()> {
    let what = format!("the intruder to have {streams} of one exchange");
    bed.eventually(&what, FOUND_WITHIN, || {
        let report = bed.connect(&bed.intruder, 1);
        report.is_ok_and(|report| report.streams == streams)
    })
}
