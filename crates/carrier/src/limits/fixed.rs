//! Bounds that an operator has no reason to change: protocol, waits, sizes of buffers. Knows no
//! other module.

use std::time::Duration;

/// Commands that wait for one worker: a full snapshot of a node (250 pods) twice over.
pub const COMMANDS_QUEUED: usize = 512;

/// Connections that other workers have accepted for one worker and that it has not taken up yet;
/// one more stays where it was accepted. Each is a socket and 100 bytes.
pub const HANDED_QUEUED: usize = 1_024;

/// How many connections, or tunnels, of all pods a worker may have more than another before it
/// hands over one of a pod of which both have as many: to hand one over costs a wake-up across
/// threads, and few more are no load.
pub const SPREAD_SLACK: i64 = 16;

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

/// How long the far proxy may take to answer a CONNECT: its wait for discovery, its connect
/// timeout, and 5 s for two round trips on a bad day. It must have answered before we give up, or
/// the log would name the wrong side.
pub const RESPONSE_TIMEOUT: Duration =
    Duration::from_secs(DISCOVERY_WAIT.as_secs() + CONNECT_TIMEOUT.as_secs() + 5);

/// Endpoints that are tried for one connection, as long as no byte was sent.
pub const ENDPOINT_TRIES: usize = 3;

/// How much longer a tunnel that a peer made is kept without streams than one of ours: twice the
/// time, so that an honest client is always the first to let go.
pub const INBOUND_TUNNEL_IDLE: u32 = 2;

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

/// Pipes of one worker, two descriptors each, for bulk between two sockets outside of any tunnel.
/// One is in use while its bytes are on their way, which is long only at a receiver that takes
/// nothing; what finds none is copied.
pub const PIPES_MAX: usize = 32;

/// How long a worker keeps buffers that nobody used: 2 MB of large ones are worth a look a second.
pub const BUFFERS_KEPT_FOR: Duration = Duration::from_secs(1);

/// Ciphertext in bytes that a tunnel hands to its socket in one write.
pub const TUNNEL_WRITE_BYTES: usize = 256 * 1_024;

/// Requests of one tunnel that are handed on before others have their turn. Each starts a connect
/// of about 0.1 ms: a tunnel that asks for all its streams at once keeps its neighbours waiting for
/// less than a millisecond at a time.
pub const REQUESTS_PER_TURN: u32 = 8;

/// Longest text of a peer (an authority, a header) that is repeated in a log line, in characters.
pub const LOGGED_CHARS: usize = 128;

/// Stack of a worker thread in bytes. Its futures live on the heap.
pub const WORKER_STACK_BYTES: usize = 1_024 * 1_024;

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

/// Tunnels that were asked to leave may be there on top of a limit of tunnels: this part of it.
/// They end within seconds unless their peer does not let go.
pub const LEAVING_SHARE: usize = 8;

/// Connections that are looked at in one go when all are judged anew or counted; others get their
/// turn in between. 256 verdicts take well under a millisecond.
pub const CONNECTIONS_PER_TURN: usize = 256;

/// How often the bytes of open connections are counted; as often as metrics are scraped.
pub const BYTES_COUNTED_EVERY: Duration = Duration::from_secs(15);

/// Pause between two turns of counting, so that the records of 16,384 connections do not fill the
/// recorder's queue at once.
pub const BYTES_COUNTED_PAUSE: Duration = Duration::from_millis(5);

/// Lines about refused connections that are logged in one second for one cause; the rest is summed
/// up in one line. The metrics count all.
pub const REFUSALS_LOGGED_PER_SECOND: u32 = 100;
