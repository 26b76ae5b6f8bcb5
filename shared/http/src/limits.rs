//! Every limit of the codecs, with its default and the reason or the attack that it answers to.

/// The bounds one connection's codec keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Octets of a head or of trailers, as received (request line included) and, in HTTP/2, as decoded plus 32 per field
    /// (RFC 9113 §10.5.1). Header bombs, HPACK bombs.
    pub head_bytes_max: usize,
    /// Fields in a head. Header and cookie-crumb bombs.
    pub fields_max: usize,
    /// Octets of the request target.
    pub target_bytes_max: usize,
    /// Octets of a chunk's size line, extensions included. Endless chunk extensions.
    pub chunk_line_bytes_max: usize,
    /// Empty lines skipped before a request line (RFC 9112 §2.2).
    pub empty_lines_max: usize,
    /// Interim responses (1xx) before the final one. A server that never ends them.
    pub interim_max: u32,
    /// Streams a peer may have open at once (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub streams_max: u32,
    /// The number of a client's first stream, which is odd. 1, but where it is to be seen what happens when numbers run out.
    pub stream_first: u32,
    /// SETTINGS_INITIAL_WINDOW_SIZE that we announce: what one stream may make us hold.
    pub stream_window: u32,
    /// The connection's receive window: credit is returned on receipt, so this only bounds a burst.
    pub connection_window: u32,
    /// SETTINGS_MAX_FRAME_SIZE that we announce.
    pub frame_bytes_max: u32,
    /// The dynamic table that we offer as decoder and the most that we use as encoder.
    pub hpack_table_bytes: u32,
    /// CONTINUATION frames of one header block. CONTINUATION flood (CVE-2024-27316 and its kin).
    pub continuations_max: u32,
    /// Streams the peer may reset soon after opening, in a leaky count: each stream that ends well takes one away, and each second a
    /// tenth of the bound, as of all such counts. Rapid reset (CVE-2023-44487).
    pub resets_max: u32,
    /// Streams that the peer makes us reset by breaking rules, leaky in the same way. MadeYouReset (CVE-2025-8671).
    pub provoked_resets_max: u32,
    /// DATA frames without content and without END_STREAM, leaky with each that has content (CVE-2019-9518).
    pub empty_data_max: u32,
    /// Octets of replies (SETTINGS and PING acknowledgements, resets) that may wait in `out` for a peer that does not read.
    /// PING and SETTINGS floods (CVE-2019-9512, -9515).
    pub replies_bytes_max: usize,
    /// Settings entries in one frame, and SETTINGS, PING and PRIORITY frames per stream opened, leaky.
    pub control_frames_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes_max: 32 * 1024,
            fields_max: 128,
            target_bytes_max: 8 * 1024,
            chunk_line_bytes_max: 256,
            empty_lines_max: 2,
            interim_max: 16,
            streams_max: 128,
            stream_first: 1,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            frame_bytes_max: 16 * 1024,
            hpack_table_bytes: 4096,
            continuations_max: 8,
            resets_max: 100,
            provoked_resets_max: 100,
            empty_data_max: 100,
            replies_bytes_max: 16 * 1024,
            control_frames_max: 1000,
        }
    }
}

/// Which limit answered. The names are the metrics' label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Limit {
    HeadBytes,
    Fields,
    TargetBytes,
    ChunkLine,
    EmptyLines,
    Interim,
    Streams,
    StreamWindow,
    ConnectionWindow,
    FrameBytes,
    Continuations,
    Resets,
    ProvokedResets,
    EmptyData,
    Replies,
    ControlFrames,
}

impl Limit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Limit; 16] = [
        Limit::HeadBytes,
        Limit::Fields,
        Limit::TargetBytes,
        Limit::ChunkLine,
        Limit::EmptyLines,
        Limit::Interim,
        Limit::Streams,
        Limit::StreamWindow,
        Limit::ConnectionWindow,
        Limit::FrameBytes,
        Limit::Continuations,
        Limit::Resets,
        Limit::ProvokedResets,
        Limit::EmptyData,
        Limit::Replies,
        Limit::ControlFrames,
    ];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Limit::HeadBytes => "head_bytes",
            Limit::Fields => "fields",
            Limit::TargetBytes => "target_bytes",
            Limit::ChunkLine => "chunk_line",
            Limit::EmptyLines => "empty_lines",
            Limit::Interim => "interim",
            Limit::Streams => "streams",
            Limit::StreamWindow => "stream_window",
            Limit::ConnectionWindow => "connection_window",
            Limit::FrameBytes => "frame_bytes",
            Limit::Continuations => "continuations",
            Limit::Resets => "resets",
            Limit::ProvokedResets => "provoked_resets",
            Limit::EmptyData => "empty_data",
            Limit::Replies => "replies",
            Limit::ControlFrames => "control_frames",
        }
    }
}
