//! Plain counters of one stream; `docs/stream.md` says what each means.

/// Since the stream was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub frames_sent: u64,
    pub frames_received: u64,
    pub messages_sent: u64,
    pub messages_sent_again: u64,
    pub messages_lost: u64,
    pub messages_answered: u64,
    pub messages_received: u64,
    pub messages_applied: u64,
    pub messages_dropped: u64,
    pub duplicates: u64,
    pub probes_sent: u64,
    pub feedback_alone: u64,
    pub feedback_of_another_epoch: u64,
    pub feedback_refused: u64,
    pub grants_refused: u64,
    pub data_of_another_epoch: u64,
    pub data_outside_window: u64,
    pub data_misnumbered: u64,
    pub data_damaged: u64,
    pub data_without_room: u64,
    pub pool_doubled: u64,
    pub calls_stuck: u64,
    pub work_stuck: u64,
    pub connections: u64,
}
