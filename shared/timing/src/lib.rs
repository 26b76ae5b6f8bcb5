//! Clocks, per-request timing and mergeable latency histograms
