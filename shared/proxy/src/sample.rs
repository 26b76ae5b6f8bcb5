//! How counters of the data path reach whoever exports them: plain numbers, read by the control path when it scrapes.

/// What kind of number a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; cumulative since the process began.
    Counter,
    Gauge,
}

/// One number of one worker (or of the process), under its final metric name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Without the process's prefix: `requests_total`.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// At most one label beside the worker's; its values are a fixed set.
    pub label: Option<(&'static str, &'static str)>,
    pub value: u64,
}

/// Something that can be scraped.
pub trait Samples {
    fn visit(&self, each: &mut dyn FnMut(Sample));
}
