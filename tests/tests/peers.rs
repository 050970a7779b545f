//! Strangers on the tunnel's port: what a real ztunnel refuses as a server and as a client.

mod peers {
    pub mod stranger;
}

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use cli::demo::live::exchange;
use cli::demo::servers::ECHO_PORT;
use cli::demo::{Mesh, Silent};
use peers::stranger::{Answer, Server, connect};
use scenarios::stranger::{Credentials, Issuers, Validity};
use scenarios::{Scenario, run, scenario};
use world::stack::READY_WITHIN;
use world::{Leftovers, Pod, Process, World};

/// The tunnel's port.
const HBONE_PORT: u16 = 15008;
/// A pod that says of itself that it speaks HBONE, and that no agent has captured.
const ROGUE: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: rogue
  namespace: demo
  labels:
    istio.io/dataplane-mode: none
    networking.istio.io/tunnel: http
spec:
  nodeName: node-2
  serviceAccountName: web
";

fn main() -> ExitCode {
    let left = world::remove_leftovers(Leftovers::Abandoned);
    assert!(left.is_ok(), "{left:?}");
    run(Bed::up, scenarios())
}

struct Bed {
    // In the order of dropping.
    rogue: Pod,
    // Would answer a client that falls back to plaintext.
    _echo: Process,
    _other_domain: Process,
    mesh: Mesh,
    client: Credentials,
    web: Credentials,
    intruder: Credentials,
    short: Credentials,
    other_domain: Credentials,
    self_made: Credentials,
}

impl Bed {
    fn up() -> anyhow::Result<Self> {
        let mut world = World::new()?;
        let host = world.host("other")?;
        let mesh = Mesh::up(world, "auto", &Silent)?;
        mesh.manifests.put("80-rogue.yaml", ROGUE)?;
        let rogue = mesh.nodes[1].node.pod("demo/rogue")?;
        let echo = mesh.programs.start_echo(rogue.place())?;

        // The same root key and tokens, another trust domain.
        let other = mesh.control.copy_to(&host)?;
        let process = other.serve(
            mesh.manifests.directory(),
            &["--trust-domain", "other.local"],
        )?;
        let issuers = Issuers {
            place: mesh.nodes[0].node.place().clone(),
            token: mesh.nodes[0].node.directory().join("token"),
        };
        // Each fault is of an identity that would be right in either role.
        let (day, shortest) = (Validity::Day, Validity::Shortest);
        let sa = |name: &str| format!("spiffe://cluster.local/ns/demo/sa/{name}");
        Ok(Bed {
            client: issuers.issue(&mesh.control, &sa("client"), day)?,
            web: issuers.issue(&mesh.control, &sa("web"), day)?,
            intruder: issuers.issue(&mesh.control, &sa("intruder"), day)?,
            short: issuers.issue(&mesh.control, &sa("web"), shortest)?,
            other_domain: issuers.issue(&other, "spiffe://other.local/ns/demo/sa/web", day)?,
            self_made: Credentials::self_made(&sa("web"))?,
            rogue,
            _echo: echo,
            _other_domain: process,
            mesh,
        })
    }

    /// A CONNECT from the legacy pod, which no proxy stands in front of, to `web-v2`'s tunnel port.
    fn ask(&self, own: Option<&Credentials>, authority: &str) -> anyhow::Result<Answer> {
        let to = SocketAddr::new(self.mesh.pods.web_v2.ipv4()?, HBONE_PORT);
        connect(self.mesh.pods.legacy.place(), to, own, authority)
    }

    fn echo_of(&self, pod: &Pod) -> anyhow::Result<String> {
        Ok(SocketAddr::new(pod.ipv4()?, ECHO_PORT).to_string())
    }

    fn refused_by_tls(&self, own: Option<&Credentials>) -> anyhow::Result<()> {
        match self.ask(own, &self.echo_of(&self.mesh.pods.web_v2)?)? {
            Answer::NoTunnel(_) => Ok(()),
            Answer::Status(status, _) => anyhow::bail!("a tunnel was made: {status}"),
        }
    }

    fn refused_with(&self, authority: &str, wanted: u16) -> anyhow::Result<()> {
        match self.ask(Some(&self.client), authority)? {
            Answer::Status(status, _) if status == wanted => Ok(()),
            other => anyhow::bail!("CONNECT {authority:?} gave {other:?}, not {wanted}"),
        }
    }

    /// The client pod's connection to the rogue pod, whose tunnel port answers with `shown`.
    fn to_rogue(&self, shown: &Credentials) -> anyhow::Result<(bool, anyhow::Result<String>)> {
        let server = Server::listen(self.rogue.place(), HBONE_PORT, shown)?;
        let address: IpAddr = self.rogue.ipv4()?;
        let (client, handshake) = std::thread::scope(|scope| {
            let handshake = scope.spawn(move || server.one_handshake());
            let client = exchange(&self.mesh.programs, &self.mesh.pods.client, address);
            let handshake = handshake.join();
            (
                client,
                handshake.unwrap_or_else(|_| Err(anyhow::anyhow!("the server panicked"))),
            )
        });
        Ok((client?.0, handshake))
    }

    fn rogue_is_refused(&self, shown: &Credentials) -> anyhow::Result<()> {
        let (served, handshake) = self.to_rogue(shown)?;
        ensure!(!served, "the client was served");
        ensure!(
            handshake.is_err(),
            "the handshake came through: {handshake:?}"
        );
        Ok(())
    }
}

fn scenarios() -> Vec<Scenario<Bed>> {
    vec![
        scenario(
            "a peer with a good certificate reaches the pod's port",
            good_peer,
        ),
        scenario(
            "a peer without a certificate gets no tunnel",
            |bed: &mut Bed| bed.refused_by_tls(None),
        ),
        scenario(
            "a peer with a self-made certificate gets no tunnel",
            |bed: &mut Bed| bed.refused_by_tls(Some(&bed.self_made)),
        ),
        scenario(
            "a peer of another trust domain under the same root gets no tunnel",
            |bed: &mut Bed| bed.refused_by_tls(Some(&bed.other_domain)),
        ),
        scenario(
            "CONNECT to another pod's address is refused with 400",
            |bed: &mut Bed| bed.refused_with(&bed.echo_of(&bed.mesh.pods.web_v1)?, 400),
        ),
        scenario(
            "CONNECT to loopback is refused with 400",
            |bed: &mut Bed| bed.refused_with("127.0.0.1:9000", 400),
        ),
        scenario(
            "CONNECT to a port where nobody listens is refused with 503",
            |bed: &mut Bed| bed.refused_with(&format!("{}:9", bed.mesh.pods.web_v2.ipv4()?), 503),
        ),
        scenario("CONNECT to the proxy's own port is refused", own_port),
        scenario(
            "an authority that is no address is refused with 400",
            |bed: &mut Bed| {
                bed.refused_with("no-such-name:9000", 400)?;
                bed.refused_with("10.244.2.2.7:9000", 400)?;
                bed.refused_with(&bed.mesh.pods.web_v2.ipv4()?.to_string(), 400)
            },
        ),
        scenario(
            "an expired certificate gets no tunnel, in either role",
            expired,
        ),
        scenario(
            "a server with another workload's SPIFFE ID gets no byte",
            |bed: &mut Bed| {
                bed.rogue_is_refused(&bed.intruder)?;
                named_in_log(bed, "sa/intruder")
            },
        ),
        scenario(
            "a server of another trust domain gets no byte",
            |bed: &mut Bed| bed.rogue_is_refused(&bed.other_domain),
        ),
        scenario(
            "a server with a self-made certificate gets no byte",
            |bed: &mut Bed| bed.rogue_is_refused(&bed.self_made),
        ),
        // Last: its tunnel would be taken by the others.
        scenario(
            "a server with the expected SPIFFE ID gets the client's own",
            |bed: &mut Bed| {
                let (_, handshake) = bed.to_rogue(&bed.web)?;
                let client = handshake.context("the handshake of the control failed")?;
                ensure!(
                    client.ends_with("/ns/demo/sa/client"),
                    "the client showed {client}"
                );
                Ok(())
            },
        ),
    ]
}

fn good_peer(bed: &mut Bed) -> anyhow::Result<()> {
    let authority = bed.echo_of(&bed.mesh.pods.web_v2)?;
    match bed.ask(Some(&bed.client), &authority)? {
        Answer::Status(200, said) => {
            ensure!(
                said.starts_with("220 web-v2 sees"),
                "the server said {said:?}"
            );
            Ok(())
        }
        other => anyhow::bail!("{other:?}"),
    }
}

fn own_port(bed: &mut Bed) -> anyhow::Result<()> {
    let authority = format!("{}:{HBONE_PORT}", bed.mesh.pods.web_v2.ipv4()?);
    match bed.ask(Some(&bed.client), &authority)? {
        Answer::Status(status, _) if status >= 400 => Ok(()),
        other => anyhow::bail!("{other:?}"),
    }
}

fn expired(bed: &mut Bed) -> anyhow::Result<()> {
    let rest = bed.short.until_expired();
    bed.mesh
        .world
        .interrupt()
        .sleep(rest + Duration::from_secs(1))?;
    bed.refused_by_tls(Some(&bed.short))?;
    bed.rogue_is_refused(&bed.short)
}

/// The client's proxy says whom it met.
fn named_in_log(bed: &Bed, identity: &str) -> anyhow::Result<()> {
    let ztunnel = &bed.mesh.nodes[0].ztunnel;
    let rogue = bed.rogue.ipv4()?.to_string();
    ztunnel.wait_for_line(&["connection failed", &rogue, identity], READY_WITHIN)?;
    Ok(())
}
