//! Every bound of the proxy with its unit and its reason. Knows no other module.

use std::time::Duration;

/// Connections (captured or tunnelled) that one worker carries at once.
///
/// 16,384 on each of two workers is 32,768 connections at 6 KB or less each; more than the
/// 20,000 open files a container usually gets, so descriptors run out first, and with a reason.
pub const CONNECTIONS_PER_WORKER: usize = 16_384;

/// Connections of one pod on one worker: half of the worker, so that one pod cannot starve all.
pub const CONNECTIONS_PER_POD: usize = CONNECTIONS_PER_WORKER / 2;

/// Tasks of one worker: one per connection, one per tunnel, twice six listeners per pod.
pub const TASKS_PER_WORKER: usize =
    CONNECTIONS_PER_WORKER + TUNNELS_PER_WORKER + INBOUND_TUNNELS_PER_WORKER + 12 * PODS + 1_024;

/// Inbound TLS handshakes in flight on one worker.
///
/// A handshake costs about 0.4 ms of CPU: 512 are 0.2 s of work, well inside the peer's 10 s.
pub const HANDSHAKES_IN_FLIGHT: usize = 512;

/// Outbound tunnels (kept or being made) of one worker.
///
/// One per source identity, destination pod and source address: 4,096 covers 64 clients that
/// all talk with 64 servers.
pub const TUNNELS_PER_WORKER: usize = 4_096;

/// Outbound tunnels of one key: 64 tunnels of 100 streams are 6,400 connections between two pods,
/// above the 4,536 that the far side can carry with the client's address kept (steering.md).
pub const TUNNELS_PER_KEY: usize = 64;

/// Inbound tunnels of one worker; peers keep about one per client pod and core.
pub const INBOUND_TUNNELS_PER_WORKER: usize = 8_192;

/// Streams that a client puts into one tunnel, however many the peer would take (protocol.md 1).
pub const STREAMS_PER_TUNNEL: usize = 100;

/// Connections that wait for one tunnel to be made; beyond it they are refused at once.
pub const WAITERS_PER_TUNNEL: usize = 1_024;

/// Commands that wait for one worker: a full snapshot of a node (250 pods) twice over.
pub const COMMANDS_QUEUED: usize = 512;

/// Connection records that wait for the recorder, of all workers together; beyond it they are
/// dropped and counted. 64 Ki records of about 250 bytes are 16 MB at the very worst.
pub const RECORDS_QUEUED: usize = 65_536;

/// Records taken by the recorder in one go, so that admin and metrics get their turn.
pub const RECORDS_PER_TURN: usize = 256;

/// Distinct label sets of one metric; further ones count under `unknown`.
///
/// A label set costs about 1 KB in text: 4,096 sets are 4 MB at worst.
pub const LABEL_SETS: usize = 4_096;

/// Live connections shown by one worker in `/config_dump`.
pub const DUMPED_CONNECTIONS: usize = 10_000;

/// Pods of this node. Kubernetes recommends 110 a node; 6 listeners each and a copy per worker.
pub const PODS: usize = 1_024;

/// Longest ZDS message in bytes, both ways (protocol.md 5).
pub const ZDS_MESSAGE_BYTES: usize = 1_024;

/// Most descriptors in one ZDS message: the netns, six listeners, and room for DNS later.
pub const ZDS_MESSAGE_FDS: usize = 16;

/// First pause before the next try to reach the agent.
pub const ZDS_RETRY_FIRST: Duration = Duration::from_millis(50);

/// Longest pause between two tries to reach the agent: a new agent must not wait long for us.
pub const ZDS_RETRY_MAX: Duration = Duration::from_secs(2);

/// How long a worker may take to say that it accepts on a new pod's listeners. The agent itself
/// waits 5 s for our answer (protocol.md 5).
pub const COMMAND_WAIT: Duration = Duration::from_secs(4);

/// How long a new connection waits for its workload, its certificate and complete discovery
/// (architecture.md, "Who knows what" 3 and 6).
pub const DISCOVERY_WAIT: Duration = Duration::from_secs(5);

/// How long a TCP connect to a peer or an application may take, TLS included (protocol.md 1).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer may take to finish the TLS handshake with us.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the far proxy may take to answer a CONNECT: its own connect timeout and a margin.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Endpoints that are tried for one connection, as long as no byte was sent.
pub const ENDPOINT_TRIES: usize = 3;

/// How long a tunnel without streams is kept (protocol.md 1).
pub const TUNNEL_IDLE: Duration = Duration::from_secs(300);

/// How long the old listeners of a pod are still accepted from when the agent hands new ones:
/// connections that were in their queues must not be lost.
pub const LISTENER_HANDOVER: Duration = Duration::from_secs(2);

/// How long the connections of a pod that is gone may go on: its veth is gone already, this is
/// only for what is in flight inside the proxy.
pub const POD_DRAIN: Duration = Duration::from_secs(1);

/// Pause of an accept loop after an error such as "too many open files".
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Smallest read buffer in bytes: what an idle or chatty connection needs.
pub const BUFFER_SMALL_BYTES: usize = 4 * 1_024;

/// Largest read buffer in bytes; 256 KB reads are where the CPU per byte stops falling
/// (datapath.md, "What follows" 4).
pub const BUFFER_LARGE_BYTES: usize = 256 * 1_024;

/// Buffers of each size that one worker keeps for the next use: 8 large ones are 2 MB.
pub const BUFFERS_KEPT: usize = 8;

/// How long a worker keeps buffers that nobody used.
pub const BUFFERS_KEPT_FOR: Duration = Duration::from_secs(10);

/// Ciphertext in bytes that a tunnel hands to its socket in one write.
pub const TUNNEL_WRITE_BYTES: usize = 256 * 1_024;

/// Longest text of a peer (an authority, a header) that is repeated in a log line, in characters.
pub const LOGGED_CHARS: usize = 128;

/// Stack of a worker thread in bytes. Its futures live on the heap.
pub const WORKER_STACK_BYTES: usize = 1_024 * 1_024;

/// How long a tunnel that a peer made is kept without streams: twice the client's time, so that
/// an honest client is always the first to let go.
pub const INBOUND_TUNNEL_IDLE: Duration = Duration::from_secs(600);

/// Largest state in bytes that is handed to a successor: a mesh of 100,000 workloads at about
/// 1 KB each, twice over.
pub const HANDOVER_BYTES: usize = 256 * 1_024 * 1_024;

/// Piece of the state in bytes that goes in one message, well inside a socket's send buffer
/// (net.core.wmem_default, 208 KiB).
pub const HANDOVER_CHUNK_BYTES: usize = 64 * 1_024;

/// Longest word of a handover in bytes, the state's pieces excepted.
pub const HANDOVER_WORD_BYTES: usize = 1_024;

/// How long a predecessor may take to hand its state, or to stop accepting. A new process that
/// waits for a hung one must come up nevertheless.
pub const HANDOVER_WAIT: Duration = Duration::from_secs(10);

/// Pause before the next look at the handover socket of another process.
pub const HANDOVER_PAUSE: Duration = Duration::from_millis(500);

/// Successors that may be starting at the same time; one is what happens.
pub const SUCCESSORS: usize = 4;

/// How often a starting process looks whether it can serve.
pub const READY_LOOK: Duration = Duration::from_millis(20);
