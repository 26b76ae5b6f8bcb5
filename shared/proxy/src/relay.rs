//! Bodies, trailers and tunnels on their way between two legs, under back-pressure both ways.

use steady_http::Name;
use steady_ring::{ConnId, Driver};

use crate::exchange::{Exchange, Key, Leg, Phase, Pipe};
use crate::policy::{AttemptEnd, Policy};
use crate::worker::Worker;

/// Which way a body goes: up to the upstream, or down to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

impl<T> Exchange<T> {
    fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.upload,
            Way::Down => &mut self.download,
        }
    }

    fn source(&self, way: Way) -> Option<Leg> {
        match way {
            Way::Up => self.down,
            Way::Down => self.up,
        }
    }

    /// Where octets that go this way can be put now.
    fn sink(&self, way: Way) -> Option<Leg> {
        match (way, self.phase) {
            (Way::Up, Phase::Attached | Phase::Answering) => self.up,
            (Way::Down, Phase::Answering | Phase::Replying) => self.down,
            _ => None,
        }
    }
}

impl Pipe {
    /// Empties it, keeping its memory.
    pub(crate) fn renew(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        held.clear();
        *self = Pipe { held, ..Pipe::default() };
    }
}

impl<D: Driver, P: Policy> Worker<D, P> {
    pub(crate) fn bound(&mut self, leg: Leg) -> Option<Key> {
        let key = self.conn(leg.conn)?.bound(leg.stream)?;
        let exchange = self.exchanges.at(key)?;
        (exchange.down == Some(leg) || exchange.up == Some(leg)).then_some(key)
    }

    /// Octets of a body came over `source`.
    pub(crate) fn deliver(&mut self, way: Way, source: Leg, data: &[u8], flow: u32, end: bool) {
        let Some(key) = self.bound(source) else {
            // Its exchange is over; the codec still counts what comes.
            return self.release(source, flow);
        };
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        exchange.activity = now;
        if way == Way::Down && exchange.filter.is_some() {
            return self.deliver_rewritten(key, source, data, flow, end);
        }
        // Nobody wants it any more: it was answered from here, or by an upstream that has left.
        let unwanted =
            exchange.phase == Phase::Replying || (exchange.phase == Phase::Answering && exchange.up.is_none());
        let discard = way == Way::Up && unwanted;
        let sink = exchange.sink(way);
        let sink = sink.filter(|&sink| !self.awaits_flush(way, sink));
        let Some(exchange) = self.exchanges.at(key) else { return };
        let pipe = exchange.pipe(way);
        pipe.bytes += data.len() as u64;
        pipe.source_ended |= end;
        if discard {
            return self.release(source, flow);
        }
        let straight = pipe.waiting() == 0 && !pipe.keep;
        let mut taken = 0;
        if let Some(sink) = sink
            && straight
        {
            taken = self.offer(sink, data, end);
            if end && taken == data.len() {
                self.ended_at_sink(key, way);
            }
        }
        if taken < data.len()
            && let Some(exchange) = self.exchanges.at(key)
        {
            let pipe = exchange.pipe(way);
            if pipe.held.capacity() == 0 {
                pipe.held = self.buffers.take();
            }
            pipe.hold(&data[taken..]);
        }
        self.release(source, flow.saturating_sub((data.len() - taken) as u32));
        if straight {
            self.hold_back(key, way, source);
            self.progress(key);
        } else {
            self.pump(key, way);
            self.hold_back(key, way, source);
        }
        if end && way == Way::Down {
            self.part(key);
        }
    }

    /// Octets of a response's body that a filter rewrites: what it makes of them is held, and sent from there.
    fn deliver_rewritten(&mut self, key: Key, source: Leg, data: &[u8], flow: u32, end: bool) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        let mut made = self.buffers.take();
        if let Some(filter) = &mut exchange.filter {
            filter.pass(data, end, &mut made);
        }
        let pipe = &mut exchange.download;
        pipe.hold(&made);
        pipe.bytes += made.len() as u64;
        self.buffers.keep(made, &self.limits);
        pipe.owed += flow;
        pipe.source_ended |= end;
        self.pump(key, Way::Down);
        self.hold_back(key, Way::Down, source);
        if end {
            self.part(key);
        }
    }

    /// Lets the upstream go as soon as nothing is left to say between it and the exchange, however long the client takes
    /// to read the answer.
    fn part(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        let whole = exchange.download.source_ended && exchange.upload.sink_ended;
        if whole && exchange.phase == Phase::Answering && !exchange.tunnel {
            self.detach(key, AttemptEnd::Complete);
        }
    }

    /// The upstream is gone, and its whole answer is here: the client still gets it. What the client has still to say is
    /// for nobody.
    pub(crate) fn outlive_upstream(&mut self, key: Key) {
        self.detach(key, AttemptEnd::Complete);
        let Some(exchange) = self.exchanges.at(key) else { return };
        let dropped = exchange.upload.burden();
        exchange.upload.held.clear();
        exchange.upload.sent = 0;
        exchange.upload.keep = false;
        if let Some(source) = exchange.down {
            self.release(source, dropped as u32);
            self.let_go(key, Way::Up, source);
        }
        self.progress(key);
    }

    /// Trailers are in `scratch`. No policy sees them, so reserved fields end here, whoever sent them.
    pub(crate) fn deliver_trailers(&mut self, way: Way, source: Leg) {
        let Some(key) = self.bound(source) else { return };
        self.scratch.retain(|field| !Name::is_reserved(field.name));
        let Some(exchange) = self.exchanges.at(key) else { return };
        let pipe = match way {
            Way::Up => &mut exchange.upload,
            Way::Down => &mut exchange.download,
        };
        pipe.source_ended = true;
        if way == Way::Down
            && let Some(filter) = &mut exchange.filter
        {
            filter.pass(&[], true, &mut pipe.held);
        }
        if self.scratch.field_count() > 0 {
            pipe.trailers = Some(Box::new(std::mem::take(&mut self.scratch)));
        }
        self.pump(key, way);
        if way == Way::Down {
            self.part(key);
        }
    }

    /// Hands a prefix of `data` to the sink's codec; returns how much it took.
    fn offer(&mut self, sink: Leg, data: &[u8], end: bool) -> usize {
        self.touch(sink.conn);
        let (down_max, up_max) = (self.limits.out_bytes_max, self.limits.up_out_bytes_max);
        let Some(conn) = self.conn(sink.conn) else { return 0 };
        let out_max = if conn.is_down() { down_max } else { up_max };
        let room = conn.room(out_max).min(data.len());
        let Some((codec, out)) = conn.codec_and_out() else { return 0 };
        if room == 0 && !data.is_empty() {
            conn.starved = true;
            return 0;
        }
        let taken = codec.send_data(sink.stream, &data[..room], end && room == data.len(), out);
        if taken == room && room < data.len() {
            conn.starved = true;
        }
        taken
    }

    /// Whether nothing of the request has been given to the driver yet: then its body stays where it can be sent elsewhere from,
    /// until the batch is over and the connection is known to have outlived it.
    fn awaits_flush(&mut self, way: Way, sink: Leg) -> bool {
        let Some(conn) = self.conn(sink.conn).filter(|conn| way == Way::Up && conn.unsent) else { return false };
        if !std::mem::replace(&mut conn.starved, true) {
            self.unsent.push(sink.conn);
        }
        true
    }

    /// The batch is over: bodies join their requests' heads.
    pub(crate) fn pump_unsent(&mut self) {
        while let Some(id) = self.unsent.pop() {
            if let Some(conn) = self.conn(id) {
                conn.unsent = false;
                conn.starved = false;
                self.pump_all(id);
            }
        }
    }

    /// Sends what is held, then the end, as far as the sink takes it.
    pub(crate) fn pump(&mut self, key: Key, way: Way) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        let Some(sink) = exchange.sink(way) else { return };
        if self.awaits_flush(way, sink) {
            return;
        }
        let Some(exchange) = self.exchanges.at(key) else { return };
        let source = exchange.source(way);
        let rewritten = way == Way::Down && exchange.filter.is_some();
        let pipe = exchange.pipe(way);
        if pipe.sink_ended {
            return;
        }
        let held = std::mem::take(&mut pipe.held);
        let (sent, keep, source_ended) = (pipe.sent, pipe.keep, pipe.source_ended);
        let most = if keep { pipe.keep_max.saturating_sub(sent) } else { usize::MAX };
        let trailers = pipe.trailers.take();
        let waiting = &held[sent..];
        let offered = &waiting[..waiting.len().min(most)];
        let mut taken = 0;
        if !offered.is_empty() {
            let last = offered.len() == waiting.len();
            taken = self.offer(sink, offered, last && source_ended && trailers.is_none());
        }
        let ended = source_ended && taken == waiting.len();
        if ended {
            match &trailers {
                Some(trailers) => self.send_trailers(sink, trailers),
                None if waiting.is_empty() => _ = self.offer(sink, &[], true),
                None => {}
            }
        }
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        if taken > 0 {
            exchange.activity = now;
        }
        let pipe = exchange.pipe(way);
        pipe.held = held;
        pipe.sent += taken;
        pipe.trailers = trailers;
        let full = keep && !ended && pipe.sent >= pipe.keep_max;
        if !keep {
            pipe.drop_sent();
        }
        let credit = match (rewritten, keep) {
            (true, _) if pipe.waiting() == 0 => std::mem::take(&mut pipe.owed),
            (true, _) | (false, true) => 0,
            (false, false) => taken as u32,
        };
        if ended {
            self.ended_at_sink(key, way);
        }
        if let Some(source) = source {
            self.release(source, credit);
            self.let_go(key, way, source);
        }
        if full && self.has_window(sink) {
            // All that may be kept was sent and there is room for more: either the upstream made room, or it speaks a
            // protocol that cannot say. Nothing that could still be waited for would come.
            self.accept(key);
            return self.pump(key, way);
        }
        self.progress(key);
    }

    fn has_window(&mut self, sink: Leg) -> bool {
        let codec = self.conn(sink.conn).and_then(|conn| conn.codec());
        codec.is_some_and(|codec| codec.capacity(sink.stream) > 0)
    }

    fn send_trailers(&mut self, sink: Leg, trailers: &steady_http::Head) {
        self.touch(sink.conn);
        if let Some((codec, out)) = self.conn(sink.conn).and_then(|conn| conn.codec_and_out()) {
            codec.send_trailers(sink.stream, trailers, out);
        }
    }

    /// The end of a body was handed to its sink.
    pub(crate) fn ended_at_sink(&mut self, key: Key, way: Way) {
        if let Some(exchange) = self.exchanges.at(key) {
            exchange.pipe(way).sink_ended = true;
        }
    }

    /// One side of a tunnel has ended: so does the other, cleanly. What was still on its way to the side that ended goes
    /// nowhere.
    pub(crate) fn end_tunnel(&mut self, key: Key) {
        for way in [Way::Up, Way::Down] {
            let Some(exchange) = self.exchanges.at(key) else { return };
            let Some(sink) = exchange.sink(way) else { continue };
            let pipe = exchange.pipe(way);
            if !pipe.sink_ended {
                pipe.sink_ended = true;
                pipe.held.clear();
                pipe.sent = 0;
                self.offer(sink, &[], true);
            }
        }
    }

    /// What was kept to be sent again is no longer needed: the upstream has begun with the request.
    pub(crate) fn accept(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        if exchange.accepted {
            return;
        }
        exchange.accepted = true;
        if !exchange.upload.keep {
            return;
        }
        exchange.upload.keep = false;
        let freed = exchange.upload.sent;
        exchange.upload.drop_sent();
        if let Some(source) = exchange.down {
            self.release(source, freed as u32);
            self.grow(source);
            self.let_go(key, Way::Up, source);
        }
    }

    /// Room on an upstream's stream means that it took something of the body: it has begun.
    pub(crate) fn accept_implied(&mut self, key: Key, is_down: bool) {
        if !is_down && self.exchanges.at(key).is_some_and(|exchange| exchange.upload.sent > 0) {
            self.accept(key);
        }
    }

    /// Lets the source have more of its body under way, now that somebody takes it.
    pub(crate) fn grow(&mut self, source: Leg) {
        let window = self.limits.body_window;
        self.touch(source.conn);
        if let Some((codec, out)) = self.conn(source.conn).and_then(|conn| conn.codec_and_out()) {
            codec.grow_window(source.stream, window, out);
        }
    }

    /// Gives flow-control credit back.
    pub(crate) fn release(&mut self, source: Leg, flow: u32) {
        if flow == 0 {
            return;
        }
        self.touch(source.conn);
        if let Some((codec, out)) = self.conn(source.conn).and_then(|conn| conn.codec_and_out()) {
            codec.release(source.stream, flow, out);
        }
    }

    /// Stops reading an HTTP/1.1 source whose octets cannot go on.
    fn hold_back(&mut self, key: Key, way: Way, source: Leg) {
        let max = self.limits.held_bytes_max;
        let Some(exchange) = self.exchanges.at(key) else { return };
        let too_much = exchange.pipe(way).burden() > max;
        if too_much && self.conn(source.conn).is_some_and(|conn| conn.is_serial()) {
            self.set_paused(source.conn, |paused| paused.body = true);
        }
    }

    /// Reads it again once half has gone.
    fn let_go(&mut self, key: Key, way: Way, source: Leg) {
        let max = self.limits.held_bytes_max;
        let Some(exchange) = self.exchanges.at(key) else { return };
        let little = exchange.pipe(way).burden() <= max / 2;
        if little && self.conn(source.conn).is_some_and(|conn| conn.paused.body) {
            self.set_paused(source.conn, |paused| paused.body = false);
        }
    }

    /// There is room again on a connection: everything that waits for it goes on, beginning after the one that was served
    /// last, so that no stream starves another.
    pub(crate) fn pump_all(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let way = if conn.is_down() { Way::Down } else { Way::Up };
        let slots = conn.slots();
        let first = conn.turn % slots;
        conn.turn = first + 1;
        for step in 0..slots {
            let Some(conn) = self.conn(id) else { return };
            if let Some(key) = conn.bound_at((first + step) % slots) {
                self.pump(key, way);
            }
        }
    }

    /// Ends what has nothing more to do.
    pub(crate) fn progress(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        let over = match exchange.phase {
            // A tunnel ends when either side has ended and what it sent has gone on (RFC 9110 §9.3.6).
            Phase::Answering if exchange.tunnel => exchange.download.sink_ended || exchange.upload.sink_ended,
            Phase::Answering | Phase::Replying => exchange.download.sink_ended,
            _ => false,
        };
        if over {
            let outcome = exchange.outcome;
            if exchange.tunnel {
                self.end_tunnel(key);
            }
            self.finish(key, outcome);
        }
    }
}
