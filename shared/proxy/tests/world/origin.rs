//! An origin that does with each request what its plan says, and remembers what it began.

use std::collections::{BTreeMap, HashSet};

use steady_http::error::code;
use steady_http::{Head, Method, Reset, StreamId};
use steady_ring::{ConnId, Time};

use super::peer::{App, Ctl, Gone, Heard, Line};
use super::plan::{Fate, Plan, is_genuine, octets};

/// Octets put into a connection's output at a time, at most.
const OUT_MAX: usize = 32 * 1024;

struct Job {
    conn: ConnId,
    stream: StreamId,
    plan: Plan,
    is_head: bool,
    at: Time,
    got: usize,
    whole: bool,
    /// Octets of the body sent; `None`: the head has not been.
    sent: Option<usize>,
    informed: bool,
    over: bool,
}

pub struct Origin {
    pub rng: fastrand::Rng,
    /// Ids of requests that were begun, in order.
    pub log: Vec<u64>,
    /// What must never be.
    pub wrong: Vec<String>,
    /// Ids that were refused once.
    refused: HashSet<u64>,
    /// Connections that said GOAWAY.
    leaving: HashSet<ConnId>,
    jobs: Vec<Job>,
}

impl Origin {
    pub fn new(seed: u64) -> Origin {
        Origin {
            rng: fastrand::Rng::with_seed(seed),
            log: Vec::new(),
            wrong: Vec::new(),
            refused: HashSet::new(),
            leaving: HashSet::new(),
            jobs: Vec::new(),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Ids of requests that were begun and are not over.
    pub fn under_way(&self) -> Vec<u64> {
        self.jobs.iter().filter(|job| !job.over).map(|job| job.plan.id).collect()
    }

    fn begin(&mut self, line: &mut Line, stream: StreamId, head: &Head, end: bool, now: Time) {
        let Some(plan) = Plan::read(head) else {
            return self.wrong.push(format!("a request without a plan: {:?}", String::from_utf8_lossy(head.path())));
        };
        if self.leaving.contains(&line.id) {
            return;
        }
        if line.is_h2() && matches!(plan.fate, Fate::Refuse | Fate::GoAway) && self.refused.insert(plan.id) {
            let (codec, out) = line.codec();
            if plan.fate == Fate::Refuse {
                codec.reset(stream, Reset::ours(code::REFUSED_STREAM, "the plan"), out);
            } else {
                // A GOAWAY that excludes this very stream; the codec's own would include it.
                out.extend_from_slice(&[0, 0, 8, 7, 0, 0, 0, 0, 0]);
                out.extend_from_slice(&stream.id.saturating_sub(2).to_be_bytes());
                out.extend_from_slice(&[0; 4]);
                self.leaving.insert(line.id);
            }
            return;
        }
        self.log.push(plan.id);
        let at = now + std::time::Duration::from_millis(plan.delay);
        let is_head = head.method == Method::Head;
        self.jobs.push(Job {
            conn: line.id,
            stream,
            plan,
            is_head,
            at,
            got: 0,
            whole: end,
            sent: None,
            informed: false,
            over: false,
        });
    }

    fn job(&mut self, conn: ConnId, stream: StreamId) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.conn == conn && job.stream == stream && !job.over)
    }

    fn data(&mut self, line: &mut Line, stream: StreamId, data: &[u8], flow: u32, end: bool) {
        if let Some(job) = self.job(line.id, stream) {
            let (id, from) = (job.plan.id, job.got);
            job.got += data.len();
            job.whole |= end;
            let (got, upload) = (job.got, job.plan.upload);
            if !is_genuine(id, true, from, data) {
                self.wrong.push(format!("the body of {id} is not its own from {from} on"));
            }
            if got > upload || (end && got != upload) {
                self.wrong.push(format!("the body of {id} has {got} octets of {upload}"));
            }
        }
        let (codec, out) = line.codec();
        codec.release(stream, flow, out);
    }
}

/// What became of a turn of a job.
enum Turn {
    Waits,
    Over,
    /// Ends its connection too.
    Cut,
}

impl Job {
    fn turn(&mut self, line: &mut Line, rng: &mut fastrand::Rng, now: Time) -> Turn {
        let early = self.plan.fate == Fate::Early;
        if now < self.at || !(self.whole || early) || self.plan.fate == Fate::Silent {
            return Turn::Waits;
        }
        if self.plan.fate == Fate::Reset {
            return self.break_off(line);
        }
        if self.sent.is_none() {
            self.answer(line);
            if self.over {
                return Turn::Over;
            }
        }
        let goal = if self.plan.fate == Fate::Break { self.plan.download / 2 } else { self.plan.download };
        while let Some(sent) = self.sent {
            let left = goal - sent;
            if left == 0 {
                break;
            }
            let piece = rng.usize(1..=left.min(5_000));
            let (codec, out) = line.codec();
            let piece = piece.min(codec.capacity(self.stream)).min(OUT_MAX.saturating_sub(out.len()));
            if piece == 0 {
                return Turn::Waits;
            }
            let took = codec.send_data(self.stream, &octets(self.plan.id, false, sent, piece), false, out);
            self.sent = Some(sent + took);
        }
        if self.plan.fate == Fate::Break {
            return self.break_off(line);
        }
        let (codec, out) = line.codec();
        if self.plan.trailers && !self.plan.sized {
            let mut trailers = Head::new();
            trailers.push(b"x-sum", self.plan.id.to_string().as_bytes());
            codec.send_trailers(self.stream, &trailers, out);
        } else {
            codec.send_data(self.stream, &[], true, out);
        }
        Turn::Over
    }

    fn break_off(&mut self, line: &mut Line) -> Turn {
        if !line.is_h2() {
            return Turn::Cut;
        }
        let (codec, out) = line.codec();
        codec.reset(self.stream, Reset::ours(code::INTERNAL_ERROR, "the plan"), out);
        Turn::Over
    }

    fn answer(&mut self, line: &mut Line) {
        let mut head = Head::new();
        let id = self.plan.id.to_string();
        if self.plan.interim && !std::mem::replace(&mut self.informed, true) {
            head.reset_to_status(103);
            head.push(b"x-id", id.as_bytes());
            let (codec, out) = line.codec();
            codec.send_head(self.stream, &head, false, out);
        }
        if self.plan.fate == Fate::Close && !line.is_h2() {
            let (codec, out) = line.codec();
            codec.go_away(out);
        }
        head.reset_to_status(self.plan.status);
        head.push(b"x-id", id.as_bytes());
        let bodiless = self.plan.visible(self.is_head) == 0;
        if self.plan.sized && self.plan.status != 204 {
            head.content_length = Some(self.plan.download as u64);
        }
        let (codec, out) = line.codec();
        let end = bodiless && (self.is_head || self.plan.status != 200 || self.plan.sized);
        codec.send_head(self.stream, &head, end, out);
        self.sent = Some(0);
        self.over = end;
    }
}

impl App for Origin {
    fn opened(&mut self, _: &mut Line, _: Time) {}

    fn heard(&mut self, line: &mut Line, heard: Heard, now: Time) {
        match heard {
            Heard::Head { stream, head, end } => self.begin(line, stream, &head, end, now),
            Heard::Data { stream, data, flow, end } => self.data(line, stream, &data, flow, end),
            Heard::Trailers { stream, .. } => {
                if let Some(job) = self.job(line.id, stream) {
                    job.whole = true;
                    if job.got != job.plan.upload {
                        let wrong = format!("trailers of {} after {} octets", job.plan.id, job.got);
                        self.wrong.push(wrong);
                    }
                }
            }
            Heard::Reset { stream, .. } => self.jobs.retain(|job| job.conn != line.id || job.stream != stream),
            Heard::Interim { .. } | Heard::Writable | Heard::Other => {}
        }
    }

    fn gone(&mut self, id: ConnId, gone: Gone) {
        if let Gone::Rules(reason) = gone
            && !reason.starts_with("closed")
            && !reason.contains("in the middle")
        {
            self.wrong.push(format!("the worker broke the rules: {reason}"));
        }
        self.jobs.retain(|job| job.conn != id);
        self.leaving.remove(&id);
    }

    fn turn(&mut self, lines: &mut BTreeMap<usize, Line>, ctl: &mut Ctl<'_>, now: Time) -> Option<Time> {
        let mut next: Option<Time> = None;
        let mut index = 0;
        while index < self.jobs.len() {
            let job = &mut self.jobs[index];
            let Some(line) = lines.get_mut(&job.conn.index()).filter(|line| line.id == job.conn) else {
                self.jobs.swap_remove(index);
                continue;
            };
            let turn = job.turn(line, &mut self.rng, now);
            let (conn, fate) = (job.conn, job.plan.fate);
            match turn {
                Turn::Waits => {
                    if job.at > now {
                        next = Some(next.map_or(job.at, |at| at.min(job.at)));
                    }
                    index += 1;
                    continue;
                }
                Turn::Over => {
                    if !line.is_h2() && line.wire.codec().is_finished() {
                        // It has answered before it had read everything: it ends its side, and reads on until the other ends.
                        line.shut = true;
                    }
                    if fate == Fate::Close {
                        let is_h2 = line.is_h2();
                        let (codec, out) = line.codec();
                        if is_h2 {
                            codec.go_away_now(out);
                        }
                        line.shut |= is_h2 && codec.active() == 0;
                    }
                }
                Turn::Cut => ctl.close(conn),
            }
            self.jobs.swap_remove(index);
        }
        next
    }
}
