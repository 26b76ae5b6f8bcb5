//! Clients that send what they were given, check what comes back, and sometimes leave.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use steady_http::error::code;
use steady_http::{Head, Method, Reset, StreamId};
use steady_ring::{Addr, ConnId, Time};

use super::peer::{App, Ctl, Gone, Heard, Line};
use super::plan::{Plan, is_genuine, octets};

const OUT_MAX: usize = 32 * 1024;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A whole answer, from the origin (`true`) or from a worker.
    Answered(u16, bool),
    /// The stream was reset; the status that had come before.
    Reset(u16),
    /// The connection ended; the status that had come before.
    Lost(u16),
    /// The client left it.
    Left,
}

pub struct Want {
    pub plan: Plan,
    pub authority: &'static str,
    pub method: Method,
    /// Declares its length.
    pub sized: bool,
    pub at: Time,
    pub is_h2: bool,
    /// Leaves at this time, if it has no answer by then.
    pub leaves: Option<Time>,
    /// Octets of its body that are sent at a time, and how long it rests between.
    pub pause: Duration,
    pub next: Time,
    pub trailers: bool,
    pub place: Option<(ConnId, StreamId)>,
    pub sent: usize,
    pub sent_end: bool,
    pub status: u16,
    pub genuine: bool,
    pub got: usize,
    pub trailed: bool,
    pub length: Option<u64>,
    pub interims: u32,
    pub end: Option<End>,
    pub ended: Time,
}

impl Want {
    pub fn new(plan: Plan, is_h2: bool, at: Time) -> Want {
        Want {
            plan,
            authority: "app.steady.page",
            method: if plan.upload > 0 { Method::Post } else { Method::Get },
            sized: true,
            at,
            is_h2,
            leaves: None,
            pause: Duration::ZERO,
            next: at,
            trailers: false,
            place: None,
            sent: 0,
            sent_end: false,
            status: 0,
            genuine: false,
            got: 0,
            trailed: false,
            length: None,
            interims: 0,
            end: None,
            ended: Time::ZERO,
        }
    }
}

pub struct Clients {
    pub rng: fastrand::Rng,
    pub wants: Vec<Want>,
    pub wrong: Vec<String>,
    addrs: Vec<Addr>,
    /// Which connection goes where and whether it is free for more.
    conns: BTreeMap<ConnId, bool>,
    by_place: HashMap<(ConnId, StreamId), usize>,
    /// Requests at once on one HTTP/2 connection.
    pub streams_max: usize,
    /// Give credit back this much later.
    pub slow: Duration,
    owed: Vec<(Time, ConnId, StreamId, u32)>,
}

impl Clients {
    pub fn new(seed: u64, addrs: Vec<Addr>) -> Clients {
        Clients {
            rng: fastrand::Rng::with_seed(seed),
            wants: Vec::new(),
            wrong: Vec::new(),
            addrs,
            conns: BTreeMap::new(),
            by_place: HashMap::new(),
            streams_max: 8,
            slow: Duration::ZERO,
            owed: Vec::new(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.wants.iter().all(|want| want.end.is_some())
    }

    pub fn end_of(&self, id: u64) -> Option<End> {
        self.wants.iter().find(|want| want.plan.id == id)?.end
    }

    fn finish(&mut self, index: usize, end: End, now: Time) {
        let want = &mut self.wants[index];
        if let Some(place) = want.place.take() {
            self.by_place.remove(&place);
        }
        let id = want.plan.id;
        if want.end.replace(end).is_some() {
            self.wrong.push(format!("request {id} ended twice, the second time by {end:?}"));
        }
        want.ended = now;
    }

    fn head(&mut self, index: usize, head: &Head) {
        let want = &mut self.wants[index];
        if want.status != 0 {
            self.wrong.push(format!("request {} has two answers", want.plan.id));
        }
        want.status = head.status;
        want.length = head.content_length;
        if let Some(id) = head.get_named(b"x-id") {
            want.genuine = true;
            if id != want.plan.id.to_string().as_bytes() {
                self.wrong.push(format!("request {} has the answer of another", want.plan.id));
            }
            if head.status != want.plan.status {
                self.wrong.push(format!("request {} has another status", want.plan.id));
            }
        }
    }

    fn data(&mut self, index: usize, data: &[u8]) {
        let want = &mut self.wants[index];
        let id = want.plan.id;
        if want.genuine && !is_genuine(id, false, want.got, data) {
            self.wrong.push(format!("the answer's body of {id} is not its own from {} on", want.got));
        }
        want.got += data.len();
    }

    /// The response is whole.
    fn whole(&mut self, index: usize, now: Time) {
        let want = &self.wants[index];
        let (status, genuine) = (want.status, want.genuine);
        let is_head = want.method == Method::Head;
        if genuine && want.got != want.plan.visible(is_head) {
            self.wrong.push(format!("the answer of {} has {} octets and looks whole", want.plan.id, want.got));
        }
        if genuine
            && want.trailed
                != (want.plan.trailers
                    && !want.plan.sized
                    && want.plan.visible(is_head) + usize::from(want.plan.status == 200) > 0
                    && !is_head)
        {
            self.wrong.push(format!("the trailers of {}: {}", want.plan.id, want.trailed));
        }
        self.finish(index, End::Answered(status, genuine), now);
    }

    /// Finds or opens a connection for one request.
    fn send(&mut self, index: usize, lines: &mut BTreeMap<usize, Line>, ctl: &mut Ctl<'_>, now: Time) {
        let is_h2 = self.wants[index].is_h2;
        let max = self.streams_max;
        let mut opening = false;
        let mut found = None;
        for (&id, &free) in &self.conns {
            let Some(line) = lines.get_mut(&id.index()).filter(|line| line.id == id && line.is_h2() == is_h2) else {
                continue;
            };
            opening |= !line.open;
            let client = line.wire.client();
            if free && line.open && client.available() > 0 && client.active() < max {
                found = Some(id);
                break;
            }
        }
        let Some(id) = found else {
            if !opening {
                let addr = self.rng.choice(&self.addrs).cloned().unwrap();
                let id = ctl.connect(&addr, is_h2);
                self.conns.insert(id, true);
            }
            return;
        };
        let Some(line) = lines.get_mut(&id.index()) else { return };
        let want = &mut self.wants[index];
        let mut head = Head::new();
        head.method = want.method;
        head.set_authority(want.authority.as_bytes());
        head.set_path(format!("/{}", want.plan.id).as_bytes());
        head.push(b"x-plan", want.plan.encode().as_bytes());
        head.push(b"te", b"trailers");
        if want.sized && want.plan.upload > 0 {
            head.content_length = Some(want.plan.upload as u64);
        }
        let end = want.plan.upload == 0;
        let (client, out) = line.client();
        let Some(stream) = client.open(&head, end, out) else { return };
        want.place = Some((id, stream));
        want.sent_end = end;
        want.next = now;
        self.by_place.insert((id, stream), index);
    }

    /// Sends more of its body.
    fn upload(&mut self, index: usize, lines: &mut BTreeMap<usize, Line>, now: Time) {
        let want = &mut self.wants[index];
        let Some((id, stream)) = want.place else { return };
        let Some(line) = lines.get_mut(&id.index()).filter(|line| line.id == id) else { return };
        let (codec, out) = line.codec();
        while !want.sent_end && want.next <= now {
            let left = want.plan.upload - want.sent;
            if left == 0 {
                want.sent_end = true;
                if want.trailers && !want.sized {
                    let mut trailers = Head::new();
                    trailers.push(b"x-sum", b"1");
                    codec.send_trailers(stream, &trailers, out);
                } else {
                    codec.send_data(stream, &[], true, out);
                }
                break;
            }
            let piece = self.rng.usize(1..=left.min(4_000));
            let piece = piece.min(codec.capacity(stream)).min(OUT_MAX.saturating_sub(out.len()));
            if piece == 0 {
                break;
            }
            want.sent += codec.send_data(stream, &octets(want.plan.id, true, want.sent, piece), false, out);
            want.next = now + want.pause;
        }
    }

    fn leave(&mut self, index: usize, lines: &mut BTreeMap<usize, Line>, ctl: &mut Ctl<'_>, now: Time) {
        if let Some((id, stream)) = self.wants[index].place
            && let Some(line) = lines.get_mut(&id.index()).filter(|line| line.id == id)
        {
            if line.is_h2() {
                let (codec, out) = line.codec();
                codec.reset(stream, Reset::ours(code::CANCEL, "the client leaves"), out);
            } else {
                self.conns.remove(&id);
                ctl.close(id);
            }
        }
        self.finish(index, End::Left, now);
    }
}

impl App for Clients {
    fn opened(&mut self, _: &mut Line, _: Time) {}

    fn heard(&mut self, line: &mut Line, heard: Heard, now: Time) {
        let stream = match &heard {
            Heard::Head { stream, .. }
            | Heard::Interim { stream, .. }
            | Heard::Data { stream, .. }
            | Heard::Trailers { stream, .. }
            | Heard::Reset { stream, .. } => *stream,
            Heard::Writable | Heard::Other => return,
        };
        let place = (line.id, stream);
        let Some(&index) = self.by_place.get(&place) else { return };
        match heard {
            Heard::Head { head, end, .. } => {
                self.head(index, &head);
                if end {
                    self.whole(index, now);
                }
            }
            Heard::Interim { head, .. } => {
                let want = &mut self.wants[index];
                want.interims += 1;
                let own = head.get_named(b"x-id").is_none_or(|id| id == want.plan.id.to_string().as_bytes());
                if head.fields().any(|field| field.name.starts_with(b"steady-")) {
                    self.wrong.push(format!("request {} is told what is between the workers", want.plan.id));
                }
                if !own {
                    self.wrong.push(format!("request {} has the interim answer of another", want.plan.id));
                }
            }
            Heard::Data { data, flow, end, .. } => {
                self.data(index, &data);
                if self.slow.is_zero() {
                    let (codec, out) = line.codec();
                    codec.release(stream, flow, out);
                } else {
                    self.owed.push((now + self.slow, line.id, stream, flow));
                }
                if end {
                    self.whole(index, now);
                }
            }
            Heard::Trailers { head, .. } => {
                let want = &mut self.wants[index];
                want.trailed = head.get_named(b"x-sum") == Some(want.plan.id.to_string().as_bytes());
                self.whole(index, now);
            }
            Heard::Reset { reset, .. } if reset.unprocessed => {
                // As any client does: it was not begun, so it is sent again.
                self.by_place.remove(&place);
                let want = &mut self.wants[index];
                want.place = None;
                want.sent = 0;
                want.sent_end = false;
            }
            Heard::Reset { .. } => {
                let status = self.wants[index].status;
                self.finish(index, End::Reset(status), now);
            }
            Heard::Writable | Heard::Other => {}
        }
    }

    fn gone(&mut self, id: ConnId, gone: Gone) {
        if let Gone::Rules(reason) = gone
            && !reason.contains("closed")
        {
            self.wrong.push(format!("the worker broke the rules: {reason}"));
        }
        self.conns.remove(&id);
        let lost: Vec<usize> =
            self.by_place.iter().filter(|((conn, _), _)| *conn == id).map(|(_, &index)| index).collect();
        for index in lost {
            let status = self.wants[index].status;
            self.finish(index, End::Lost(status), Time::ZERO);
        }
    }

    fn turn(&mut self, lines: &mut BTreeMap<usize, Line>, ctl: &mut Ctl<'_>, now: Time) -> Option<Time> {
        let mut next: Option<Time> = None;
        let mut note = |at: Time| next = Some(next.map_or(at, |before: Time| before.min(at)));
        self.owed.retain(|&(at, conn, stream, flow)| {
            if at > now {
                note(at);
                return true;
            }
            if let Some(line) = lines.get_mut(&conn.index()).filter(|line| line.id == conn) {
                let (codec, out) = line.codec();
                codec.release(stream, flow, out);
            }
            false
        });
        for index in 0..self.wants.len() {
            let want = &self.wants[index];
            if want.end.is_some() {
                continue;
            }
            if want.at > now {
                note(want.at);
                continue;
            }
            if want.leaves.is_some_and(|at| at <= now) {
                self.leave(index, lines, ctl, now);
                continue;
            }
            if want.place.is_none() {
                self.send(index, lines, ctl, now);
            }
            self.upload(index, lines, now);
            let want = &self.wants[index];
            if let Some(at) = want.leaves {
                note(at);
            }
            if want.place.is_some() && !want.sent_end && want.next > now {
                note(want.next);
            }
        }
        // HTTP/1.1 connections that carry nothing further.
        for (&id, free) in &mut self.conns {
            if let Some(line) = lines.get_mut(&id.index()).filter(|line| line.id == id && line.open)
                && line.wire.codec().is_finished()
                && line.wire.codec().active() == 0
            {
                *free = false;
                line.last = true;
            }
        }
        next
    }
}
