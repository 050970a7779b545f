//! One page of a running program's HTTP server: metrics and admin pages. Knows none of them.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a page may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Largest page in bytes: 100,000 series of 600 bytes.
const MAX_PAGE_BYTES: usize = 64 * 1024 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The page at `path` of the server at `address` (`host:port`), or a sentence why there is none.
pub(crate) fn page(address: &str, path: &str) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let page = tokio::time::timeout(ANSWERS_WITHIN, fetch(address, path)).await;
        let page = page.map_err(|_| format!("no answer in {ANSWERS_WITHIN:?}"))?;
        page.map_err(|e| e.to_string())
    })
}

async fn fetch(address: &str, path: &str) -> Result<String, BoxError> {
    let port = address.rsplit_once(':').map(|(_, port)| port.parse());
    let Some(Ok::<u16, _>(_)) = port else {
        return Err("it is no HOST:PORT".into());
    };
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let ask = async move {
        let request = http::Request::get(path)
            .header("host", address)
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("GET {path} was answered with {status}").into());
        }
        let body = Limited::new(response.into_body(), MAX_PAGE_BYTES);
        let bytes = body.collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    // The connection ends when its sender is gone; its own error is the request's too.
    let (answer, _) = tokio::join!(ask, connection);
    answer
}
