//! Every limit of the engine, with its default and its reason.

use std::time::Duration;

/// The bounds one worker keeps. The codecs' own are in [`steady_http::Limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Downstream connections of one worker. Past it a new one is closed at once: descriptors and memory are finite.
    pub connections_max: usize,
    /// Of these, one client's: an IPv4 address, or an IPv6 network of 64 bits; with the PROXY protocol, the client that it
    /// names. Past it a new one is closed at once. 0: no bound. One client that takes the connections of all others.
    pub connections_per_client_max: usize,
    /// New connections that one worker takes in a second, at once or spread over it; what comes sooner is closed at once. 0: no
    /// bound. A crowd that connects faster than handshakes can be made.
    pub connection_rate_max: u32,
    /// The same of one client, as [`connections_per_client_max`](Limits::connections_per_client_max) tells clients apart. One
    /// that connects anew again and again.
    pub connection_rate_per_client_max: u32,
    /// Exchanges of one worker. Past it a request is answered 503 before it costs more.
    pub exchanges_max: usize,
    /// Requests that may be parked at once. Past it one is answered 503 with Retry-After: whatever they wait for, a crowd must not
    /// take the places of those that can be served.
    pub parked_max: usize,
    /// Octets that parked requests may hold together: heads, and what of a body has come or may still come before it is held
    /// back. Clients that upload to something that does not appear.
    pub parked_bytes_max: usize,
    /// The longest that an upstream's word holds that a request waits there. A host that says it for ever.
    pub upstream_park_max: Duration,
    /// How much longer than it said an upstream may take to answer a request that waited there: its answer has to get here.
    pub upstream_park_margin: Duration,
    /// Octets that wait to be sent on one connection while a send is in flight. What exceeds it stays with its source.
    pub out_bytes_max: usize,
    /// The same on a connection to an upstream, whose requests' heads count too: past it further requests wait for a
    /// connection, as they do for a stream. These are few and carry the bodies of many: with more room an upload goes
    /// straight into the next send, rather than wait in memory of its own for one send after the other.
    pub up_out_bytes_max: usize,
    /// Octets of one body held between two connections before its HTTP/1.1 source is paused (HTTP/2: its window).
    pub held_bytes_max: usize,
    /// Octets that the heads of all requests under way on one worker hold together. Past it a request whose head is larger than what
    /// is then each one's share (this by `exchanges_max`) is answered 503; those that are not are bounded by their number. Clients
    /// who fill both the number of requests and their heads.
    pub heads_bytes_max: usize,
    /// Octets that the bodies of all requests of one worker hold together: what a client, or an application, has not taken yet.
    /// Answers that their clients have left standing for a second may hold half of it; past that, and past all of it any request,
    /// what holds most for longest is cut. Clients that ask for much and take none of it.
    pub bodies_bytes_max: usize,
    /// Octets of pipelined requests kept while one is answered.
    pub pending_bytes_max: usize,
    /// Times a request may be sent, the first included.
    pub attempts_max: u8,
    /// HTTP/2 connections to one upstream. The second is opened when streams or windows saturate.
    pub h2_connections_max: usize,
    /// The same where all of them carry as many streams as their peer allows: a tunnel takes one for as long as it lives. More
    /// connections than needed cost coalescing, so that windows alone never open as many.
    pub h2_connections_full_max: usize,
    /// HTTP/1.1 connections to one upstream; further requests wait for one.
    pub h1_connections_max: usize,
    /// Requests that may wait for a connection to one upstream.
    pub waiting_max: usize,
    /// The window that a stream's body gets once its request has been accepted: the most we hold of it.
    pub body_window: u32,
    /// How long what a refused client still sends is read and thrown away, so that it gets to read the answer.
    pub linger: Duration,
    /// How long a client's connection that carries nothing is kept after it was told to end (a drain; HTTP/2 that was idle), for
    /// what was on its way to come in. A round trip, and a slow client's pause for thought.
    pub leave: Duration,
    /// The longest a connect may take, whatever its target says.
    pub connect_max: Duration,
    /// The longest a TLS handshake with an upstream may take, from its connect on. Two round trips.
    pub handshake_max: Duration,
    /// How long one send may take: a client that never reads, or reads an octet a minute, is cut.
    pub write_stall: Duration,
    /// How long a client may leave untaken what there is for it of an answer: all of it, or but for a few octets now and then. HTTP/2
    /// clients that give no window, or drips of it.
    pub take_stall: Duration,
    /// Octets a second of a request's body that an application over HTTP/1.1 waits for with nothing else to do: it has a
    /// connection to itself, of which there are [`h1_connections_max`](Limits::h1_connections_max). 0: no bound. Bodies that drip.
    pub body_rate_min: u32,
    /// For how long a body's rate is measured, again and again. What an application does not take meanwhile is no fault of its
    /// client.
    pub body_rate_over: Duration,
    /// How long a connection to another machine may be silent before it is asked for a sign of life, and how long that may take
    /// to come. A host that vanishes without a word.
    pub upstream_ping_interval: Duration,
    pub upstream_ping_timeout: Duration,
    /// How long an unused connection to an upstream is kept. Less than what servers commonly keep theirs.
    pub upstream_idle: Duration,
    /// Buffers kept for reuse (as many as connections that are often busy at once), the largest that is worth keeping (what a full
    /// output grows to), and all of them together.
    pub spare_buffers_max: usize,
    pub spare_buffer_bytes_max: usize,
    pub spare_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 200_000,
            connections_per_client_max: 20_000,
            // Off: behind a proxy that opens a connection a request, or tells of no clients, every number would be wrong.
            connection_rate_max: 0,
            connection_rate_per_client_max: 0,
            exchanges_max: 100_000,
            parked_max: 20_000,
            parked_bytes_max: 128 * 1024 * 1024,
            upstream_park_max: Duration::from_secs(900),
            upstream_park_margin: Duration::from_secs(5),
            out_bytes_max: 64 * 1024,
            up_out_bytes_max: 256 * 1024,
            held_bytes_max: 64 * 1024,
            heads_bytes_max: 256 * 1024 * 1024,
            bodies_bytes_max: 512 * 1024 * 1024,
            pending_bytes_max: 16 * 1024,
            attempts_max: 3,
            h2_connections_max: 2,
            h2_connections_full_max: 32,
            h1_connections_max: 512,
            waiting_max: 10_000,
            body_window: 256 * 1024,
            linger: Duration::from_secs(2),
            leave: Duration::from_secs(1),
            connect_max: Duration::from_secs(10),
            handshake_max: Duration::from_secs(5),
            write_stall: Duration::from_secs(300),
            take_stall: Duration::from_secs(300),
            body_rate_min: 16,
            body_rate_over: Duration::from_secs(60),
            upstream_ping_interval: Duration::from_secs(15),
            upstream_ping_timeout: Duration::from_secs(10),
            upstream_idle: Duration::from_secs(55),
            spare_buffers_max: 1024,
            spare_buffer_bytes_max: 512 * 1024,
            spare_bytes_max: 8 * 1024 * 1024,
        }
    }
}

/// The deadlines in force; they may change while running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From a request's first octet (or the handshake's) to its whole head. Slow headers.
    pub header: Duration,
    /// A connection without a request.
    pub idle: Duration,
    /// A body or a tunnel in which nothing moves, a client that does not read.
    pub stall: Duration,
    /// A whole exchange; `None`: no bound.
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            header: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(3600),
            total: None,
        }
    }
}
