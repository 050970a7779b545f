//! The binary `waypoint`: flags, limits, logging, the control side's runtime.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("this build has no proxy yet")
}
