//! `traffic`: server and clients that a world runs in its pods; see `scenarios::traffic`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use scenarios::traffic::{hold, load, server};
use tokio::sync::watch;
use tokio::task::LocalSet;

/// Carries bytes that both ends check.
#[derive(Debug, Parser)]
enum Command {
    /// Answers until it is killed.
    Server {
        /// Port on all addresses of both families.
        #[arg(long)]
        port: u16,
    },
    /// Holds connections until SIGTERM, then says how many lived.
    Hold {
        /// Address and port; may be repeated.
        #[arg(long = "to", required = true)]
        to: Vec<SocketAddr>,
        /// Connections to each.
        #[arg(long, default_value_t = 1)]
        each: usize,
        /// Milliseconds between two questions of a connection.
        #[arg(long, default_value_t = 50)]
        pause: u64,
    },
    /// Opens connections until SIGTERM or a count, then says what became of them.
    Load {
        /// Address and port; may be repeated.
        #[arg(long = "to", required = true)]
        to: Vec<SocketAddr>,
        /// Seed of everything random.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Connections at a time.
        #[arg(long, default_value_t = 8)]
        workers: usize,
        /// Connections in all; 0: until SIGTERM.
        #[arg(long, default_value_t = 0)]
        count: u64,
        /// Prints `made N` at this many connections, and goes on; 0: never.
        #[arg(long, default_value_t = 0)]
        tell: u64,
        /// Also bulk, half-closed and aborted ones.
        #[arg(long)]
        mixed: bool,
        /// Longest pause of a worker in milliseconds.
        #[arg(long, default_value_t = 10)]
        pause: u64,
    },
}

fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, run(command))
}

async fn run(command: Command) -> anyhow::Result<()> {
    let (tell, end) = watch::channel(false);
    let signalled = process::tasks::terminated()?;
    let work = async {
        Ok::<String, anyhow::Error>(match command {
            Command::Server { port } => {
                server::serve(port).await?;
                String::new()
            }
            Command::Hold { to, each, pause } => {
                let pause = Duration::from_millis(pause);
                serde_json::to_string(&hold::hold(&to, each, pause, end).await)?
            }
            Command::Load {
                to,
                seed,
                workers,
                count,
                tell,
                mixed,
                pause,
            } => {
                let load = load::Load {
                    to,
                    seed,
                    workers,
                    count,
                    tell,
                    mixed,
                    pause: Duration::from_millis(pause),
                };
                serde_json::to_string(&load::run(load, end).await)?
            }
        })
    };
    let telling = async {
        signalled.await;
        // Without a receiver it is over already.
        let _ = tell.send(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        report = work => println!("{}", report?),
        () = telling => {}
    }
    Ok(())
}
