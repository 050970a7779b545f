//! Listeners of the test on the control plane's machine, beside culvertd, and the runtime that
//! serves them there. Knows TLS, no message.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use control_plane::authority::Authority;
use control_plane::listener::server_names;
use control_plane::state::StateDir;
use netio::netns::Netns;
use nix::sched::{CloneFlags, setns};
use process::tasks::Tasks;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use scenarios::faults::{Bed, Start};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// Certificates made here are good for longer than any scenario.
const LEAF_TTL: Duration = Duration::from_secs(86_400);

/// A listener with the runtime that serves it. Dropping it ends all its connections.
pub struct Door {
    runtime: Option<Runtime>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Door {
    /// Listens on the control plane's machine; `serve` is polled on a thread in its namespace, so
    /// that what it connects is connected from there.
    pub fn open<F>(bed: &Bed, serve: impl FnOnce(TcpListener, Tasks) -> F) -> anyhow::Result<Self>
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let host = bed.control.host();
        let netns = File::open(host.place().netns())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(move || {
                setns(&netns, CloneFlags::CLONE_NEWNET)
                    .expect("the namespace is there, we are root");
            })
            .enable_all()
            .build()?;
        let listener = Netns::open(host.place().netns())?
            .enter(|| std::net::TcpListener::bind((host.ipv4(), 0)))??;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tasks = Tasks::new();
        {
            let _inside = runtime.enter();
            let serving = serve(TcpListener::from_std(listener)?, tasks.clone());
            tasks.spawn("a server of the test", async move {
                serving.await.map_err(|why| format!("{why:#}"))
            });
        }
        Ok(Door {
            runtime: Some(runtime),
            address,
        })
    }

    /// A ztunnel that takes this for its control plane.
    pub fn leads_here(&self) -> Start {
        Start {
            url: Some(format!("https://{}", self.address)),
            ..Start::default()
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Whatever its tasks wait for: the peers see their connections end.
            runtime.shutdown_background();
        }
    }
}

/// The authority of the mesh: the test signs as culvertd does.
pub fn authority(bed: &Bed) -> anyhow::Result<Authority> {
    let bundle = bed.control.root_certificate();
    let state = bundle.parent().context("the bundle is in the state")?;
    Ok(Authority::open(StateDir::open(state)?, LEAF_TTL)?)
}

/// TLS as culvertd's own: a certificate by the mesh's root for its machine.
pub fn tls(bed: &Bed) -> anyhow::Result<TlsAcceptor> {
    let names = server_names(&[bed.control.host().ipv4().to_string()])?;
    let (key, _) = authority(bed)?.listener(names, SystemTime::now())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
