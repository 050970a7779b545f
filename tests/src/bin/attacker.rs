//! `attacker`: hostile peers and pods that a world runs, and their honest neighbours; see
//! `scenarios::attack`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use scenarios::attack::{
    dial, flood, hoard, neighbour, server, stall, stranger, streams, trickle, tunnel,
};
use scenarios::stranger::{Shown, tls};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::LocalSet;

/// Attacks, and says how it went as JSON.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// A tunnel's port and who asks there.
#[derive(Debug, Args)]
struct Peer {
    /// The tunnel's port of a pod.
    #[arg(long)]
    to: SocketAddr,
    /// PEM file with a chain and its key.
    #[arg(long)]
    credentials: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves in an attacked pod until it is killed.
    Serve {
        #[arg(long)]
        echo: u16,
        #[arg(long)]
        pour: u16,
        #[arg(long, default_value_t = 32 * 1024)]
        pour_bytes: usize,
    },
    /// Tunnels full of frames that cost little.
    Flood {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        kind: flood::Kind,
        #[arg(long)]
        echo: SocketAddr,
        #[arg(long, default_value_t = 4)]
        lanes: usize,
        #[arg(long)]
        millis: u64,
    },
    /// One CONNECT for each authority; `A:1-5` stands for five.
    Ask {
        #[command(flatten)]
        peer: Peer,
        #[arg(required = true)]
        authorities: Vec<String>,
    },
    /// Streams that nobody reads.
    Stall {
        #[command(flatten)]
        peer: Peer,
        #[arg(long = "authority", required = true)]
        authorities: Vec<String>,
        #[arg(long)]
        tunnels: usize,
        #[arg(long)]
        streams: usize,
        /// Milliseconds after which the far side must have ended each tunnel; 0: until SIGTERM.
        #[arg(long, default_value_t = 0)]
        ends_within: u64,
    },
    /// One byte at a time.
    Trickle {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        kind: trickle::Kind,
        #[arg(long)]
        echo: SocketAddr,
        #[arg(long, default_value_t = 4)]
        lanes: usize,
        #[arg(long)]
        millis: u64,
    },
    /// Peers without a certificate.
    Crowd {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        kind: stranger::Kind,
        #[arg(long)]
        count: u64,
    },
    /// Plain connections with odd options; `A:1-5` stands for five ports.
    Dial {
        #[arg(required = true)]
        to: Vec<String>,
        #[arg(long, default_value_t = 16)]
        lanes: usize,
        /// How often each is dialled.
        #[arg(long, default_value_t = 1)]
        times: usize,
        #[arg(long)]
        mark: Option<u32>,
        #[arg(long)]
        from: Option<IpAddr>,
        #[arg(long)]
        device: Option<String>,
        #[arg(long, default_value_t = 20_000)]
        within: u64,
    },
    /// Takes ports until SIGTERM.
    Hoard {
        #[arg(long)]
        address: IpAddr,
        #[arg(long)]
        from: u16,
        #[arg(long)]
        through: u16,
    },
    /// Steady questions until SIGTERM.
    Neighbour {
        #[arg(required = true)]
        to: Vec<SocketAddr>,
        #[arg(long, default_value_t = 2)]
        kept: usize,
    },
    /// New tunnels until SIGTERM.
    Visit {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        echo: SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    let command = Arguments::parse().command;
    // Thousands of connections; what the kernel allows is taken.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, run(command))
}

async fn run(command: Command) -> anyhow::Result<()> {
    let (tell, end) = watch::channel(false);
    let signalled = process::tasks::terminated()?;
    let telling = async {
        signalled.await;
        // Without a receiver it is over already.
        let _ = tell.send(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        said = obey(command, end) => println!("{}", said?),
        () = telling => {}
    }
    Ok(())
}

async fn obey(command: Command, end: watch::Receiver<bool>) -> anyhow::Result<String> {
    match command {
        Command::Serve {
            echo,
            pour,
            pour_bytes,
        } => {
            let servers = server::Servers {
                echo,
                pour,
                pour_bytes,
            };
            server::serve(servers).await?;
            Ok(String::new())
        }
        Command::Hoard {
            address,
            from,
            through,
        } => {
            let held = hoard::hoard(address, from..=through)?;
            stall::until_told(end).await;
            Ok(held.len().to_string())
        }
        Command::Neighbour { to, kept } => json(&neighbour::ask(&to, kept, end).await),
        Command::Visit { peer, echo } => json(&neighbour::visit(&peer.way()?, echo, end).await),
        Command::Crowd { to, kind, count } => {
            json(&stranger::run(stranger::Crowd { to, kind, count }).await?)
        }
        Command::Dial { .. } => json(&dial::run(dial_of(command)?).await),
        attack => as_peer(attack, end).await,
    }
}

async fn as_peer(command: Command, end: watch::Receiver<bool>) -> anyhow::Result<String> {
    match command {
        Command::Flood {
            peer,
            kind,
            echo,
            lanes,
            millis,
        } => {
            let flood = flood::Flood {
                way: peer.way()?,
                kind,
                echo,
                lanes,
                time: Duration::from_millis(millis),
            };
            json(&flood::run(&flood).await)
        }
        Command::Trickle {
            peer,
            kind,
            echo,
            lanes,
            millis,
        } => {
            let trickle = trickle::Trickle {
                way: peer.way()?,
                echo,
                kind,
                lanes,
                time: Duration::from_millis(millis),
            };
            json(&trickle::run(&trickle).await)
        }
        Command::Stall {
            peer,
            authorities,
            tunnels,
            streams,
            ends_within,
        } => {
            let ends_within = Some(Duration::from_millis(ends_within));
            let stall = stall::Stall {
                way: peer.way()?,
                authorities,
                tunnels,
                streams,
                ends_within: ends_within.filter(|within| !within.is_zero()),
            };
            json(&stall::run(&stall, end).await)
        }
        Command::Ask { peer, authorities } => {
            let all: Vec<String> = authorities.iter().flat_map(|text| spread(text)).collect();
            json(&streams::ask(&peer.way()?, &all).await)
        }
        other => anyhow::bail!("{other:?} is no attack of a peer"),
    }
}

impl Peer {
    fn way(&self) -> anyhow::Result<tunnel::Way> {
        let shown = Shown::load(&self.credentials)?;
        Ok(tunnel::Way {
            to: self.to,
            tls: tls::client(Some(&shown))?,
            dripping: false,
        })
    }
}

fn dial_of(command: Command) -> anyhow::Result<dial::Dial> {
    let Command::Dial {
        to,
        lanes,
        times,
        mark,
        from,
        device,
        within,
    } = command
    else {
        anyhow::bail!("not a dial");
    };
    let once = to.iter().flat_map(|text| spread(text));
    let once: Vec<SocketAddr> = once
        .map(|text| text.parse().with_context(|| format!("an address: {text}")))
        .collect::<Result<_, _>>()?;
    Ok(dial::Dial {
        to: once.repeat(times),
        lanes,
        mark,
        from,
        device,
        within: Duration::from_millis(within),
    })
}

/// `A:1-3` as `A:1`, `A:2`, `A:3`; anything else as it is.
fn spread(text: &str) -> Vec<String> {
    let range = text.rsplit_once(':').and_then(|(host, ports)| {
        let (first, last) = ports.split_once('-')?;
        Some((host, first.parse::<u16>().ok()?, last.parse::<u16>().ok()?))
    });
    match range {
        Some((host, first, last)) => (first..=last)
            .map(|port| format!("{host}:{port}"))
            .collect(),
        None => vec![text.to_owned()],
    }
}

fn json(report: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string(report)?)
}
