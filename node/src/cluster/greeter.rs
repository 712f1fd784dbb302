//! The greeter: answers on a node's socket before the node serves.
//!
//! ```text
//!   the data are locked --> greeter: Who is answered, all else is `starting` --> the node's own server, on the same socket
//! ```
//!
//! So nobody who asks has to wait until the node has opened its data: neither other nodes, nor clients, which go elsewhere, nor
//! the node itself, which asks every address that it was given and cannot know beforehand which of them lead back to it.

use std::net::TcpListener;

use loci_wire::v1;
use loci_wire::v1::peers_server::{Peers, PeersServer};
use tokio::sync::oneshot;
use tonic::service::{AxumBody, AxumRouter, Routes};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::doors::grpc::Failure;

/// The reason why a call is not answered yet.
pub const STARTING: &str = "starting";

/// Answers until it is dropped. Connections that were made meanwhile end with their last call.
pub struct Greeter {
    _stop: oneshot::Sender<()>,
}

impl Greeter {
    /// Says `who` to those who ask who is there.
    pub fn start(listener: &TcpListener, who: v1::WhoReply) -> std::io::Result<Greeter> {
        let incoming =
            TcpIncoming::from(tokio::net::TcpListener::from_std(listener.try_clone()?)?).with_nodelay(Some(true));
        let (stop, stopped) = oneshot::channel::<()>();
        let others = || async { Status::from(not_yet()).into_http::<AxumBody>() };
        let router: AxumRouter = Routes::new(PeersServer::new(Answers(who))).into_axum_router().fallback(others);
        let server = tonic::transport::Server::builder().add_routes(router.into());
        tokio::spawn(server.serve_with_incoming_shutdown(incoming, async {
            let _ = stopped.await;
        }));
        Ok(Greeter { _stop: stop })
    }
}

fn not_yet() -> Failure {
    Failure::new(Code::Unavailable, STARTING, "this node is starting: it does not serve yet")
}

struct Answers(v1::WhoReply);

#[tonic::async_trait]
impl Peers for Answers {
    async fn deliver(&self, _: Request<Streaming<v1::DeliverRequest>>) -> Result<Response<v1::DeliverReply>, Status> {
        Err(not_yet().into())
    }

    async fn forward(&self, _: Request<v1::ForwardRequest>) -> Result<Response<v1::ForwardReply>, Status> {
        Err(not_yet().into())
    }

    async fn who(&self, _: Request<v1::WhoRequest>) -> Result<Response<v1::WhoReply>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Err(not_yet().into())
    }

    async fn compare(&self, _: Request<v1::CompareRequest>) -> Result<Response<v1::CompareReply>, Status> {
        Err(not_yet().into())
    }

    async fn diverged(&self, _: Request<v1::DivergedRequest>) -> Result<Response<v1::DivergedReply>, Status> {
        Err(not_yet().into())
    }

    async fn parts(&self, _: Request<v1::PartsRequest>) -> Result<Response<v1::PartsReply>, Status> {
        Err(not_yet().into())
    }

    async fn call(&self, _: Request<v1::CallRequest>) -> Result<Response<v1::CallReply>, Status> {
        Err(not_yet().into())
    }

    async fn find(&self, _: Request<v1::FindRequest>) -> Result<Response<v1::FindReply>, Status> {
        Err(not_yet().into())
    }

    async fn look(&self, _: Request<v1::LookRequest>) -> Result<Response<v1::LookReply>, Status> {
        Err(not_yet().into())
    }

    type HearStream = tokio_stream::Empty<Result<v1::HearReply, Status>>;

    async fn hear(&self, _: Request<Streaming<v1::HearRequest>>) -> Result<Response<Self::HearStream>, Status> {
        Err(not_yet().into())
    }

    async fn figures(&self, _: Request<v1::FiguresRequest>) -> Result<Response<v1::FiguresReply>, Status> {
        Err(not_yet().into())
    }

    type TellStream = tokio_stream::Empty<Result<v1::WatchReply, Status>>;

    async fn tell(&self, _: Request<v1::TellRequest>) -> Result<Response<Self::TellStream>, Status> {
        Err(not_yet().into())
    }

    type SnapshotStream = tokio_stream::Empty<Result<v1::SnapshotPart, Status>>;

    async fn snapshot(&self, _: Request<v1::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(not_yet().into())
    }
}
