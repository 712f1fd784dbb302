//! The HTTP endpoint for Prometheus and for probes.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | all metrics, OpenMetrics text |
//! | `/live` | 200 while the process runs |
//! | `/ready` | 200 while clients are served, 503 while the log is read and while the node stops |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{Metrics, render};
use crate::status::NodeStatus;

/// The most connections at a time; more wait.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a request's head that are kept.
const HEAD_BYTES_MAX: usize = 16 << 10;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The running endpoint; ends when dropped.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Answers on this socket; inside a runtime.
    pub fn start(
        listener: std::net::TcpListener,
        metrics: Arc<Metrics>,
        status: Arc<NodeStatus>,
    ) -> std::io::Result<Endpoint> {
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, metrics, status));
        Ok(Endpoint { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, metrics: Arc<Metrics>, status: Arc<NodeStatus>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((socket, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: let some come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (metrics, status) = (metrics.clone(), status.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &metrics, &status);
                async move { Ok::<_, Infallible>(response) }
            });
            // A client that breaks off is its own affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(socket), service)
                .await;
            drop(permit);
        });
    }
}

fn answer<B>(request: &Request<B>, metrics: &Arc<Metrics>, status: &Arc<NodeStatus>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (code, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, OPENMETRICS, render(metrics, status)),
        (&Method::GET | &Method::HEAD, "/live") => (StatusCode::OK, TEXT, "live\n".into()),
        (&Method::GET | &Method::HEAD, "/ready") if status.is_ready() => (StatusCode::OK, TEXT, "ready\n".into()),
        (&Method::GET | &Method::HEAD, "/ready") => (StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n".into()),
        (_, "/metrics" | "/live" | "/ready") => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".into()),
        _ => (StatusCode::NOT_FOUND, TEXT, "there are /metrics, /live and /ready\n".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
