//! What goes over the link between the nodes, with a connection in plaintext as proof that the
//! recording would show one.

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use scenarios::prove::bed::addresses;
use scenarios::traffic::content::{Header, Kind};
use world::capture::{Capture, Recording};
use world::{Process, World};

use super::ground::Ground;

/// The tunnel's port.
const HBONE_PORT: u16 = 15008;
/// Bytes of a held connection's header that are always the same: all but the seed.
const MARKER_BYTES: usize = 21;

/// A recording, and a held connection of a pod that is not captured.
pub struct Wire {
    capture: Capture,
    plain: Option<Process>,
}

impl Wire {
    /// Starts to record.
    pub fn start(ground: &mut Ground, name: &str) -> anyhow::Result<Self> {
        let world = &ground.bed.mesh.world;
        let file = world.directory().join(format!("{name}.pcap"));
        let capture = Capture::start(world.router(), &World::link_to("node-2"), &file)?;
        let pods = &ground.bed.mesh.pods;
        let (legacy, server) = (pods.legacy.place().clone(), addresses(&[&pods.web_v2]));
        let plain = Some(ground.bed.hold(&legacy, &server, 1)?);
        Ok(Wire { capture, plain })
    }

    /// Ends it: between captured pods there were tunnels only, and nothing readable in them.
    pub fn only_tunnels(mut self, ground: &Ground) -> anyhow::Result<Recording> {
        if let Some(plain) = self.plain.take() {
            plain.signal(Signal::SIGKILL)?;
        }
        let all = self.capture.finish()?;
        let pods = &ground.bed.mesh.pods;
        let near = addresses(&[&pods.client, &pods.intruder, &pods.web_v1]);
        let far = addresses(&[&pods.web_v2]);
        let marker = Header {
            kind: Kind::Hold,
            up: 0,
            down: 0,
            seed: 0,
        };
        let marker = marker.encode();
        let marker = marker.get(..MARKER_BYTES).context("a header is longer")?;
        let control = all.between(&addresses(&[&pods.legacy]), &far);
        ensure!(
            control.occurrences(marker) > 0,
            "the recording does not show the plaintext that was there: it proves nothing"
        );
        let captured = all.between(&near, &far);
        let strange = captured.strange_to(HBONE_PORT);
        ensure!(strange.is_none(), "beside the tunnels: {strange:?}");
        ensure!(
            captured.occurrences(marker) == 0,
            "a connection is readable on the wire"
        );
        Ok(captured)
    }
}
