//! Benches: the same load direct and through the mesh, interleaved in one run, told as ratios.
//!
//! Rates of a shared machine differ from hour to hour; what counts is the ratio within one run.

mod bed;
mod load;
mod report;
mod usage;

pub use bed::Bed;
pub use report::{Case, Report};

use std::time::Duration;

use load::Load;

/// How long proxies have nothing to do before their idle memory is measured: they look every 2 s
/// whether they idle.
const IDLE_FOR: Duration = Duration::from_secs(5);

/// Runs every load `rounds` times on both paths, `length` each.
///
/// # Errors
/// When a program fails or prints what cannot be read; the world is removed all the same.
pub fn run(bed: &Bed, length: Duration, rounds: usize) -> anyhow::Result<Report> {
    std::thread::sleep(IDLE_FOR);
    let idle_rss_kib = bed
        .proxies()
        .map(usage::rss_kib)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut cases = Vec::new();
    for load in Load::all() {
        eprintln!("{} ...", load.name());
        let (mut direct, mut mesh, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            direct.push(load.run(bed.direct(), length)?);
            let before = bed.proxy_cpu()?;
            let measured = load.run(bed.mesh(), length)?;
            cpu.push((bed.proxy_cpu()? - before).as_secs_f64() / measured.work);
            mesh.push(measured);
        }
        cases.push(Case::new(&load, &direct, &mesh, &cpu));
    }
    Ok(Report {
        io: bed.io().to_owned(),
        rounds,
        idle_rss_kib,
        cases,
    })
}
