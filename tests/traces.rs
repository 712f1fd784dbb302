//! Traces of the real program: what a collector sees of a write that a client began, on all members of a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loci_client::{Client, Record};
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::process::PATIENCE;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A span, and which node it is of.
#[derive(Clone)]
struct Seen {
    node: String,
    span: Span,
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let node = attributes.iter().find(|attribute| attribute.key == "service.instance.id");
            let node = format!("{:?}", node.expect("a node says which it is").value);
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| Seen { node: node.clone(), span }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a free port; says at which address.
    async fn start() -> (Collector, String) {
        let collector = Collector::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (collector, address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    fn names(&self) -> BTreeMap<String, usize> {
        let mut names = BTreeMap::new();
        for seen in self.seen() {
            *names.entry(seen.span.name).or_default() += 1;
        }
        names
    }

    async fn wait_for(&self, name: &str, count: usize) {
        let begun = Instant::now();
        while self.names().get(name).is_none_or(|found| *found < count) {
            assert!(begun.elapsed() < PATIENCE, "no {count} spans {name:?} within {PATIENCE:?}: {:?}", self.names());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Three nodes that trace only what a caller wants traced.
async fn three(collector: &str) -> Cluster {
    let options = ["--otlp", collector, "--trace-sample", "0"].map(str::to_owned).to_vec();
    Cluster::start(Plan { options, ..Plan::default() }).await
}

fn traced(client: &Client) -> Client {
    client.with_trace(format!("00-{TRACE}-{CALLER}-01"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_client_to_the_disks_and_the_state_of_all_members() {
    let (collector, address) = Collector::start().await;
    let cluster = three(&address).await;
    let leader = cluster.leader().await;
    // The long way: a node that does not lead, and forwards.
    let client = cluster.client_of((leader + 1) % 3);
    let record = || Record::new("k").with_value("v");
    client.collection("default", "cache").put(record()).await.expect("written, and not traced");
    let cache = traced(&client).collection("default", "cache");
    cache.put(record()).await.expect("written");
    collector.wait_for("apply", 3).await;
    collector.wait_for("put", 1).await;
    collector.wait_for("log", 1).await;

    let seen = collector.seen();
    assert!(seen.iter().all(|seen| hexadecimal(&seen.span.trace_id) == TRACE), "nothing else is traced");
    let by_id: BTreeMap<String, &Seen> = seen.iter().map(|seen| (hexadecimal(&seen.span.span_id), seen)).collect();
    let path = |seen: &Seen| {
        let (mut path, mut at) = (vec![seen.span.name.clone()], seen.clone());
        loop {
            let parent = hexadecimal(&at.span.parent_span_id);
            if parent == CALLER {
                path.reverse();
                return path.join(" > ");
            }
            at = (*by_id.get(&parent).unwrap_or_else(|| panic!("{path:?} hangs on nothing"))).clone();
            path.push(at.span.name.clone());
        }
    };
    let paths: BTreeSet<String> = seen.iter().map(path).collect();
    for expected in [
        "put",
        "put > view",
        "put > forward",
        "put > forward > forwarded",
        "put > forward > forwarded > queue",
        "put > forward > forwarded > replicate",
        "put > forward > forwarded > replicate > log",
        "put > forward > forwarded > apply",
        "put > apply",
    ] {
        assert!(paths.contains(expected), "{expected:?} is not among {paths:?}");
    }
    let applied: BTreeSet<String> =
        seen.iter().filter(|seen| seen.span.name == "apply").map(|seen| seen.node.clone()).collect();
    assert_eq!(applied.len(), 3, "every member applied it: {applied:?}");
    assert!(seen.iter().all(|seen| seen.span.start_time_unix_nano <= seen.span.end_time_unix_nano));
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_are_traced_on_a_call_of_their_own_and_on_a_pipeline() {
    let (collector, address) = Collector::start().await;
    let cluster = three(&address).await;
    let client = traced(&cluster.client());
    let pipeline = client.pipeline();
    for memories in [client.collection("default", "memories"), pipeline.collection("default", "memories")] {
        let near = vec![0.5; loci_tests::cluster::load::DIMENSION as usize];
        memories.search(near).exact().hits().await.expect("found");
    }
    // The span of the call and that of the step have one name.
    collector.wait_for("search", 4).await;
    collector.wait_for("search queue", 2).await;
    let calls: Vec<Seen> =
        collector.seen().into_iter().filter(|seen| hexadecimal(&seen.span.parent_span_id) == CALLER).collect();
    assert_eq!(calls.len(), 2);
    let ids: BTreeSet<Vec<u8>> = calls.iter().map(|call| call.span.span_id.clone()).collect();
    let steps = collector.seen().into_iter().filter(|seen| ids.contains(&seen.span.parent_span_id));
    let steps: BTreeSet<(Vec<u8>, String)> = steps.map(|seen| (seen.span.parent_span_id, seen.span.name)).collect();
    assert_eq!(steps.len(), 6, "each call has a view, a wait and a search: {:?}", collector.names());
}
