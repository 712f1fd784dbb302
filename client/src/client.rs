//! The client: a few connections that all its clones share, and the loop that tries again.
//!
//! ```text
//! Collection --> Call --> unary ----> one of the connections, in turn
//!                    `--> Pipeline -> one stream, many calls at a time
//! ```
//!
//! An address at which nobody answers is left out for a second, so that a dead node of a cluster costs a call now and then
//! and not every third one.
//!
//! A call has one deadline over all its attempts. A write gets its request id before the first attempt, so the node can
//! tell a repetition from a second write.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};
use loci_wire::v1::{admin_client::AdminClient, records_client::RecordsClient};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::retry::{Budget, Policy};
use crate::{Collection, Error, Pipeline};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a connection that died without a word is noticed: after interval and timeout together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Large vectors in many calls at a time would wait for the 64 KiB that HTTP/2 begins with.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Calls that may wait for their turn on a connection.
const CALLS_WAITING_MAX: usize = 4096;
/// How long an address is left out at which nobody answered.
const LEFT_OUT: Duration = Duration::from_secs(1);

/// A connection to a node. Cheap to clone: clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    origin: Arc<OriginOf>,
}

#[derive(Debug)]
struct Shared {
    /// One after another to each address, and again.
    channels: Vec<Channel>,
    /// For each address: until when it is left out, in milliseconds since `begun`.
    left_out: Vec<AtomicU64>,
    begun: Instant,
    next: AtomicUsize,
    timeout: Duration,
    policy: Policy,
    budget: Budget,
}

/// What every write of a client says about where it comes from.
#[derive(Debug, Clone, Default)]
struct OriginOf {
    principal: String,
    task: String,
    trace: String,
}

/// Settings of a client; what is not set has a default that suits most.
#[derive(Debug, Clone)]
pub struct Builder {
    addresses: Vec<String>,
    connections: usize,
    timeout: Duration,
    retries: u32,
    retry_budget: u32,
    origin: OriginOf,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            addresses: Vec::new(),
            connections: 2,
            timeout: Duration::from_secs(30),
            retries: 8,
            retry_budget: 100,
            origin: OriginOf::default(),
        }
    }
}

impl Builder {
    /// Another address of a node: `host:port` or `http://host:port`. None: `127.0.0.1:7700`.
    pub fn address(mut self, address: impl Into<String>) -> Builder {
        self.addresses.push(address.into());
        self
    }

    /// How many connections to keep to each address; 2 unless set. More than a few help only with many calls at a time.
    pub fn connections(mut self, connections: usize) -> Builder {
        self.connections = connections.max(1);
        self
    }

    /// How long a call may take with all its attempts; 30 s unless set. Collections can have their own.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// How often a call is tried again after a failure that may pass; 8 unless set, which takes about three seconds.
    pub fn retries(mut self, retries: u32) -> Builder {
        self.retries = retries;
        self
    }

    /// How many retries all calls together may have in hand; 100 unless set. Ten successful calls give one back.
    pub fn retry_budget(mut self, retries: u32) -> Builder {
        self.retry_budget = retries;
        self
    }

    /// Who acts, for the log.
    pub fn principal(mut self, principal: impl Into<String>) -> Builder {
        self.origin.principal = principal.into();
        self
    }

    /// On behalf of which task, for the log.
    pub fn task(mut self, task: impl Into<String>) -> Builder {
        self.origin.task = task.into();
        self
    }

    /// Connects, and waits until a node answers that it is ready.
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.connect_lazy()?;
        client.ping().await?;
        Ok(client)
    }

    /// Connects with the first call. Must be called within a tokio runtime.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let mut addresses = self.addresses;
        if addresses.is_empty() {
            addresses.push("127.0.0.1:7700".into());
        }
        let endpoints: Vec<Endpoint> = addresses.iter().map(|address| endpoint(address)).collect::<Result<_, _>>()?;
        let channels = (0..self.connections).flat_map(|_| &endpoints).map(Endpoint::connect_lazy).collect();
        Ok(Client {
            shared: Arc::new(Shared {
                channels,
                left_out: endpoints.iter().map(|_| AtomicU64::new(0)).collect(),
                begun: Instant::now(),
                next: AtomicUsize::new(0),
                timeout: self.timeout,
                policy: Policy {
                    retries: self.retries,
                    backoff_first: Duration::from_millis(20),
                    backoff_max: Duration::from_secs(1),
                },
                budget: Budget::new(self.retry_budget),
            }),
            origin: Arc::new(self.origin),
        })
    }
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let wrong = |message: String| Error::Address { address: address.to_owned(), message };
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    if !uri.starts_with("http://") {
        return Err(wrong("must begin with http:// or be host:port".into()));
    }
    let endpoint = Endpoint::from_shared(uri).map_err(|error| wrong(error.to_string()))?;
    if endpoint.uri().port().is_none() {
        return Err(wrong("has no port, such as :7700".into()));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE_INTERVAL))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .buffer_size(CALLS_WAITING_MAX))
}

impl Client {
    /// Connects to a node at `host:port` or `http://host:port`, and waits until it answers that it is ready.
    pub async fn connect(address: impl Into<String>) -> Result<Client, Error> {
        Client::builder().address(address).connect().await
    }

    /// To connect with other settings than the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The same connections, for writes of another task.
    pub fn with_task(&self, task: impl Into<String>) -> Client {
        self.with_origin(|origin| origin.task = task.into())
    }

    /// The same connections, for writes of another principal.
    pub fn with_principal(&self, principal: impl Into<String>) -> Client {
        self.with_origin(|origin| origin.principal = principal.into())
    }

    /// The same connections, for writes with this W3C traceparent.
    pub fn with_trace(&self, traceparent: impl Into<String>) -> Client {
        self.with_origin(|origin| origin.trace = traceparent.into())
    }

    fn with_origin(&self, change: impl FnOnce(&mut OriginOf)) -> Client {
        let mut origin = OriginOf::clone(&self.origin);
        change(&mut origin);
        Client { shared: self.shared.clone(), origin: Arc::new(origin) }
    }

    /// A collection, whose calls each are a call of their own. Nothing is sent.
    pub fn collection(&self, namespace: impl Into<String>, name: impl Into<String>) -> Collection {
        Collection::new(self.clone(), None, namespace.into(), name.into())
    }

    /// A stream that carries many calls at a time, which is cheaper for many small calls.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline::new(self.clone(), Pipeline::IN_FLIGHT)
    }

    /// As [`pipeline`](Client::pipeline), with room for so many calls at a time.
    pub fn pipeline_of(&self, in_flight: usize) -> Pipeline {
        Pipeline::new(self.clone(), in_flight)
    }

    /// Asks the node whether it is ready, and says how long the answer took.
    pub async fn ping(&self) -> Result<Duration, Error> {
        self.retrying(self.shared.timeout, |channel, _| async move {
            let begun = Instant::now();
            let request = HealthCheckRequest::default();
            let reply = HealthClient::new(channel).check(request).await?;
            match reply.into_inner().status() {
                tonic_health::pb::health_check_response::ServingStatus::Serving => Ok(begun.elapsed()),
                other => Err(Status::unavailable(format!("the node is not ready: it says {}", other.as_str_name()))),
            }
        })
        .await
    }

    /// How long a call may take unless it says otherwise.
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// A new request id with what this client says about itself.
    pub(crate) fn origin(&self) -> Option<v1::Origin> {
        Some(v1::Origin {
            request_id: request_id(),
            principal: self.origin.principal.clone(),
            task: self.origin.task.clone(),
            trace: self.origin.trace.clone(),
        })
    }

    /// The next connection whose address is not left out; if all are, the next.
    fn channel(&self) -> (Address, Channel) {
        let shared = &*self.shared;
        let (all, addresses) = (shared.channels.len(), shared.left_out.len());
        let turn = shared.next.fetch_add(1, Ordering::Relaxed);
        let now = shared.begun.elapsed().as_millis() as u64;
        let answers = |at: &usize| shared.left_out[at % addresses].load(Ordering::Relaxed) <= now;
        let at = (turn..turn + addresses).map(|turn| turn % all).find(answers).unwrap_or(turn % all);
        (Address(at % addresses), shared.channels[at].clone())
    }

    /// Leaves an address out for a while if this is how a call fails that reaches nobody.
    pub(crate) fn failed(&self, Address(address): Address, status: &Status) {
        // A node says why; a connection that breaks, or is never made, does not.
        let nobody = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled);
        if nobody && status.details().is_empty() && std::error::Error::source(status).is_some() {
            let until = self.shared.begun.elapsed() + LEFT_OUT;
            self.shared.left_out[address].store(until.as_millis() as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn records(&self) -> (Address, RecordsClient<Channel>) {
        let (address, channel) = self.channel();
        (address, records(channel))
    }

    pub(crate) async fn call(&self, call: Call, timeout: Duration) -> Result<Reply, Error> {
        self.retrying(timeout, |channel, remaining| {
            let call = call.clone();
            async move { once(channel, call, remaining).await }
        })
        .await
    }

    pub(crate) async fn admin<T, F, Fut>(&self, attempt: F) -> Result<T, Error>
    where
        F: Fn(AdminClient<Channel>, Duration) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let reply = self
            .retrying(self.shared.timeout, |channel, remaining| {
                let admin = AdminClient::new(channel)
                    .max_decoding_message_size(loci_wire::MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(loci_wire::MESSAGE_BYTES_MAX);
                attempt(admin, remaining)
            })
            .await?;
        Ok(reply.into_inner())
    }

    async fn retrying<T, F, Fut>(&self, timeout: Duration, attempt: F) -> Result<T, Error>
    where
        F: Fn(Channel, Duration) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.retrying_errors(timeout, |remaining| {
            let (address, channel) = self.channel();
            let made = attempt(channel, remaining);
            async move {
                made.await.map_err(|status| {
                    self.failed(address, &status);
                    Error::from_status(&status)
                })
            }
        })
        .await
    }

    /// Tries until an attempt succeeds, fails for good, or the time or the retries are used up.
    pub(crate) async fn retrying_errors<T, F, Fut>(&self, timeout: Duration, attempt: F) -> Result<T, Error>
    where
        F: Fn(Duration) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let begun = Instant::now();
        // A timeout that the clock cannot count to is none.
        let deadline = begun.checked_add(timeout).unwrap_or_else(|| begun + Duration::from_secs(1 << 30));
        let mut failed = 0;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            let error = match timeout_at(deadline, attempt(remaining)).await {
                Ok(Ok(answer)) => {
                    self.shared.budget.earn();
                    return Ok(answer);
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(Error::DeadlineExceeded { message: format!("no answer within {timeout:?}") });
                }
            };
            failed += 1;
            let remaining = deadline.saturating_duration_since(Instant::now());
            let pause = self.shared.policy.pause(&error, failed, remaining, random_number());
            match pause {
                Some(pause) if self.shared.budget.spend() => {
                    tracing::debug!(%error, failed, ?pause, "trying again");
                    sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }
}

/// Which of the addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address(usize);

fn records(channel: Channel) -> RecordsClient<Channel> {
    RecordsClient::new(channel)
        .max_decoding_message_size(loci_wire::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(loci_wire::MESSAGE_BYTES_MAX)
}

async fn once(channel: Channel, call: Call, remaining: Duration) -> Result<Reply, Status> {
    let mut records = records(channel);
    Ok(match call {
        Call::Put(put) => Reply::Write(records.put(within(put, remaining)).await?.into_inner()),
        Call::Get(get) => Reply::Get(records.get(within(get, remaining)).await?.into_inner()),
        Call::Delete(delete) => Reply::Delete(records.delete(within(delete, remaining)).await?.into_inner()),
        Call::Batch(batch) => Reply::Write(records.batch(within(batch, remaining)).await?.into_inner()),
        Call::Scan(scan) => Reply::Scan(records.scan(within(scan, remaining)).await?.into_inner()),
        Call::Count(count) => Reply::Count(records.count(within(count, remaining)).await?.into_inner()),
        Call::Search(search) => Reply::Search(records.search(within(search, remaining)).await?.into_inner()),
    })
}

/// A request that tells the node how long the caller will wait.
pub(crate) fn within<T>(message: T, remaining: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(remaining);
    request
}

/// 16 random bytes.
fn request_id() -> Bytes {
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the operating system has random numbers");
    Bytes::copy_from_slice(&id)
}

fn random_number() -> u32 {
    getrandom::u32().expect("the operating system has random numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_host_and_port() {
        for good in ["127.0.0.1:7700", "http://localhost:7700", "http://[::1]:7700"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", "https://localhost:7700", "http://", "a b:1"] {
            let error = endpoint(bad).expect_err(bad);
            assert!(matches!(error, Error::Address { .. }), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn an_address_at_which_nobody_answers_is_left_out_for_a_while() {
        let client = Client::builder().address("127.0.0.1:1").address("127.0.0.1:2").connections(2);
        let client = client.connect_lazy().unwrap();
        let addresses = |count: usize| (0..count).map(|_| client.channel().0.0).collect::<Vec<_>>();
        assert_eq!(addresses(4), [0, 1, 0, 1]);
        let said = Status::with_details(
            Code::Unavailable,
            "starting",
            loci_wire::encode_detail(14, "", &Default::default()).into(),
        );
        client.failed(Address(0), &said);
        assert_eq!(addresses(4), [0, 1, 0, 1], "somebody is there");
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let mut nobody = Status::from_error(Box::new(refused));
        client.failed(Address(0), &nobody);
        assert_eq!(addresses(4), [1; 4]);
        nobody = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        client.failed(Address(1), &nobody);
        assert_eq!(addresses(4), [0, 1, 0, 1], "with nobody anywhere, all are tried");
    }

    #[test]
    fn request_ids_differ() {
        assert_ne!(request_id(), request_id());
    }
}
