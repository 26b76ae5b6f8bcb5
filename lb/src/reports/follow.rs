//! Gets reports from an agent by its API, and looks at what the workers measured: the reports' way until another is made.
//! What travels is only bytes ([`Reports::apply`]).

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;

use super::{Refused, Reports};
use crate::agents::client::AgentError;
use crate::agents::{HostHandle, Hosts};
use crate::limits::{OWN_LOOK, REPORT_AGAIN, REPORT_BYTES, REPORT_SILENCE};

/// Follows one host until another handle takes its place. `begun` is where the reports' time begins.
pub async fn follow(reports: Arc<Reports>, hosts: Arc<Hosts>, handle: Arc<HostHandle>, begun: Instant) {
    let host = &handle.record.name;
    while hosts.is_current(&handle) {
        let why = match until_broken(&reports, &handle, begun).await {
            Ok(refused) => refused.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::debug!(host, why, "its reports are asked for again");
        tokio::select! {
            () = tokio::time::sleep(REPORT_AGAIN.mul_f64(0.5 + fastrand::f64())) => {}
            () = another_channel(&handle) => {}
        }
    }
    if hosts.find(host).is_none() {
        reports.forget_host(host);
    }
}

/// Returns when a host that registers has opened another channel.
async fn another_channel(handle: &HostHandle) {
    let Some(slot) = &handle.slot else { return std::future::pending().await };
    let mut open = slot.subscribe();
    let now = open.borrow_and_update().as_ref().map(|open| open.number);
    // The slot is the handle's.
    let _ = open.wait_for(|open| open.as_ref().is_some_and(|open| Some(open.number) != now)).await;
}

/// Takes one report after the other; gives why one was not taken.
async fn until_broken(reports: &Reports, handle: &HostHandle, begun: Instant) -> Result<Refused, AgentError> {
    let mut frames = Frames { body: handle.client.reports().await?, buffer: BytesMut::new() };
    loop {
        let frame = tokio::time::timeout(REPORT_SILENCE, frames.next()).await;
        let broken = |why: &str| handle.client.no_answer(why.to_owned());
        let frame = frame.map_err(|_| broken("it has stopped reporting"))?.map_err(|why| broken(&why))?;
        if let Err(refused) = reports.apply(&handle.record.name, &frame, begun.elapsed()) {
            if !matches!(refused, Refused::OutOfStep) {
                tracing::warn!(host = handle.record.name, %refused, "a report is not taken");
            }
            return Ok(refused);
        }
        if let Some(slot) = &handle.slot {
            slot.hear(Instant::now());
        }
    }
}

/// The body's pieces as whole reports: each its length in 32 bits, big-endian, and its bytes.
struct Frames<B> {
    body: B,
    buffer: BytesMut,
}

impl<B: hyper::body::Body<Data = Bytes, Error = hyper::Error> + Unpin> Frames<B> {
    async fn next(&mut self) -> Result<Bytes, String> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(frame);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("it has ended its reports".to_owned()),
            }
        }
    }
}

fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, String> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    if length > REPORT_BYTES {
        return Err(format!("a report of {length} octets is more than {REPORT_BYTES}"));
    }
    if buffer.len() < 4 + length as usize {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length as usize).freeze()))
}

/// Looks at what this edge's workers measured, for ever.
pub async fn look(reports: Arc<Reports>, begun: Instant) {
    let mut every = tokio::time::interval(OWN_LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        reports.look(begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_cut_out_of_the_stream_wherever_its_pieces_end() {
        let wire = [&3u32.to_be_bytes()[..], b"abc", &0u32.to_be_bytes(), &1u32.to_be_bytes(), b"d"].concat();
        for cut in 0..=wire.len() {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for piece in [&wire[..cut], &wire[cut..]] {
                buffer.extend_from_slice(piece);
                while let Some(frame) = take_frame(&mut buffer).unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, [&b"abc"[..], b"", b"d"]);
        }
        let mut huge = BytesMut::from(&(REPORT_BYTES + 1).to_be_bytes()[..]);
        assert!(take_frame(&mut huge).unwrap_err().contains("more than"));
    }
}
