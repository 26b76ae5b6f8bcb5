//! Bodies, trailers and tunnels on their way between two legs, under back-pressure both ways.

use std::ops::Range;

use steady_http::{Codec, Framed, Name, Payload};
use steady_ring::{ConnId, Driver, Piece};

use crate::exchange::{Key, Leg, Phase};
use crate::held::{Held, Octets};
use crate::pipe::Way;
use crate::policy::{AttemptEnd, Policy};
use crate::refusal::Refusal;
use crate::worker::Worker;

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
        let piece = self.incoming.as_ref().and_then(|buf| buf.keep(data));
        let mut taken = 0;
        if let Some(sink) = sink
            && straight
        {
            let octets = match &piece {
                Some(piece) => Octets::Piece { piece, start: 0, len: data.len() },
                None => Octets::Copied(data),
            };
            taken = self.offer(sink, octets, end);
            if end && taken == data.len() {
                self.ended_at_sink(key, way);
            }
        }
        if taken < data.len()
            && let Some(exchange) = self.exchanges.at(key)
        {
            let pipe = exchange.pipe(way);
            pipe.begin_to_wait(now);
            match piece {
                Some(piece) if taken == 0 => pipe.held.push(piece),
                Some(piece) => pipe.held.push(piece.part(taken..data.len())),
                None => pipe.held.push_copy(&data[taken..], !pipe.keep, &mut self.buffers),
            }
        }
        self.release(source, flow.saturating_sub((data.len() - taken) as u32));
        if straight {
            self.hold_back(key, way, source);
            self.progress(key);
        } else {
            self.pump(key, way);
            self.hold_back(key, way, source);
        }
        match way {
            // From now on the upstream has less time to answer than the client had to go on.
            Way::Up if end => self.arm_exchange(key.index),
            Way::Down if end => self.part(key),
            _ => {}
        }
    }

    /// Octets of a response's body that a filter rewrites: what it makes of them is held, and sent from there.
    fn deliver_rewritten(&mut self, key: Key, source: Leg, data: &[u8], flow: u32, end: bool) {
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        let mut made = self.buffers.take();
        if let Some(filter) = &mut exchange.filter {
            filter.pass(data, end, &mut made);
        }
        let pipe = &mut exchange.download;
        pipe.begin_to_wait(now);
        pipe.held.push_copy(&made, true, &mut self.buffers);
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
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        exchange.activity = now;
        let pipe = match way {
            Way::Up => &mut exchange.upload,
            Way::Down => &mut exchange.download,
        };
        pipe.source_ended = true;
        if way == Way::Down
            && let Some(filter) = &mut exchange.filter
        {
            let mut made = self.buffers.take();
            filter.pass(&[], true, &mut made);
            pipe.begin_to_wait(now);
            pipe.held.push_copy(&made, true, &mut self.buffers);
            self.buffers.keep(made, &self.limits);
        }
        if self.scratch.field_count() > 0 {
            pipe.trailers = Some(Box::new(self.scratch.clone()));
            self.exchanges.grew(key, self.scratch.size());
            if self.is_head_too_large(key) {
                return self.cut(key, Refusal::Overloaded);
            }
        }
        self.pump(key, way);
        self.arm_exchange(key.index);
        if way == Way::Down {
            self.part(key);
        }
    }

    /// Hands a prefix of `octets` to the sink's codec; returns how much it took.
    fn offer(&mut self, sink: Leg, octets: Octets<'_>, end: bool) -> usize {
        self.touch(sink.conn);
        let (down_max, up_max) = (self.limits.out_bytes_max, self.limits.up_out_bytes_max);
        let Some(conn) = self.conn(sink.conn) else { return 0 };
        let out_max = if conn.is_down() { down_max } else { up_max };
        let len = octets.len();
        let room = conn.room(out_max).min(len);
        if room == 0 && len != 0 {
            conn.starved = true;
            return 0;
        }
        let end = end && room == len;
        let taken = match octets {
            Octets::Piece { piece, start, .. } if !conn.is_tls() => {
                if !conn.out.has_list()
                    && let Some(list) = self.lists.pop()
                    && let Some(conn) = self.conn(sink.conn)
                {
                    conn.out.give_list(list);
                }
                self.splice(sink, piece, start..start + room, end)
            }
            _ => {
                let Some((codec, out)) = conn.codec_and_out() else { return 0 };
                codec.send_data(sink.stream, &octets[..room], end, out)
            }
        };
        if taken == room && room < len {
            let Some(conn) = self.conn(sink.conn) else { return taken };
            conn.starved = true;
        }
        taken
    }

    /// As [`offer`](Worker::offer), of the octets `range` of a piece, which are sent from where they are.
    fn splice(&mut self, sink: Leg, piece: &Piece, range: Range<usize>, end: bool) -> usize {
        let Some(conn) = self.conn(sink.conn) else { return 0 };
        let mut at = range.start;
        while at < range.end {
            let Some((codec, out)) = conn.codec_and_out() else { break };
            let Framed { taken, place } = codec.send_payload(sink.stream, Payload::Elsewhere(range.end - at), end, out);
            if place.len > 0 {
                conn.out.splice(place.at, piece.part(at..at + place.len));
            }
            at += taken;
            if taken == 0 {
                break;
            }
        }
        at - range.start
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
        let (keep, waited) = (pipe.keep, pipe.waiting() > 0);
        let taken = if waited { self.send_held(key, way, sink) } else { 0 };
        let Some(exchange) = self.exchanges.at(key) else { return };
        let pipe = exchange.pipe(way);
        let mut ended = pipe.source_ended && pipe.waiting() == 0;
        if ended && pipe.trailers.is_some() && way == Way::Down && !self.has_room(sink) {
            ended = false;
        }
        let Some(exchange) = self.exchanges.at(key) else { return };
        let pipe = exchange.pipe(way);
        if ended {
            let trailers = pipe.trailers.take();
            match &trailers {
                Some(trailers) => self.send_trailers(sink, trailers),
                None if !waited => _ = self.offer(sink, Octets::Copied(&[]), true),
                None => {}
            }
            // They may have to be sent again.
            let Some(exchange) = self.exchanges.at(key) else { return };
            exchange.pipe(way).trailers = trailers.filter(|_| keep);
        }
        let Some(exchange) = self.exchanges.at(key) else { return };
        let pipe = exchange.pipe(way);
        let full = keep && !ended && pipe.held.sent() >= pipe.keep_max;
        if !keep {
            pipe.held.settle();
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

    /// Sends what is held, and with its last octets the end, if no trailers follow; returns how much the sink took.
    fn send_held(&mut self, key: Key, way: Way, sink: Leg) -> usize {
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return 0 };
        let pipe = exchange.pipe(way);
        let ends = pipe.source_ended && pipe.trailers.is_none();
        let mut most = if pipe.keep { pipe.keep_max.saturating_sub(pipe.held.sent()) } else { usize::MAX };
        let mut held = std::mem::replace(&mut pipe.held, Held::new(&self.held));
        let mut taken = 0;
        while most > 0
            && let Some(octets) = held.next(most)
        {
            let len = octets.len();
            let took = self.offer(sink, octets, ends && len == held.waiting());
            held.advance(took);
            taken += took;
            most -= took;
            if took < len {
                break;
            }
        }
        let Some(exchange) = self.exchanges.at(key) else { return taken };
        if taken > 0 {
            exchange.activity = now;
        }
        let pipe = exchange.pipe(way);
        pipe.held = held;
        pipe.moved(taken, now);
        taken
    }

    fn has_window(&mut self, sink: Leg) -> bool {
        let codec = self.conn(sink.conn).and_then(|conn| conn.codec());
        codec.is_some_and(|codec| codec.capacity(sink.stream) > 0)
    }

    /// Whether a client has room for anything at all; if not, it is looked at again once it has.
    fn has_room(&mut self, sink: Leg) -> bool {
        let out_max = self.limits.out_bytes_max;
        let Some(conn) = self.conn(sink.conn) else { return true };
        let has_room = conn.room(out_max) > 0;
        conn.starved |= !has_room;
        has_room
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
                self.offer(sink, Octets::Copied(&[]), true);
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
        let freed = exchange.upload.held.sent();
        exchange.upload.held.settle();
        if let Some(source) = exchange.down {
            self.release(source, freed as u32);
            self.grow(source);
            self.let_go(key, Way::Up, source);
        }
    }

    /// Room on an upstream's stream means that it took something of the body: it has begun.
    pub(crate) fn accept_implied(&mut self, key: Key, is_down: bool) {
        if !is_down && self.exchanges.at(key).is_some_and(|exchange| exchange.upload.held.sent() > 0) {
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
        if exchange.awaits_client() || exchange.awaits_upstream() {
            // Who has to take what is there has less time for it than the other has to say more.
            self.arm_exchange(key.index);
        }
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

    /// There is room again on a connection: everything that waits for it goes on.
    pub(crate) fn pump_all(&mut self, id: ConnId) {
        self.pump_in_turn(id, |_| true);
    }

    /// The peer gave a connection credit: who waits for that goes on in turn, until it is spent. Credit in crumbs would otherwise
    /// cost a look at every stream for each octet.
    pub(crate) fn pump_credited(&mut self, id: ConnId) {
        self.pump_in_turn(id, |codec| !codec.is_spent());
    }

    fn pump_in_turn(&mut self, id: ConnId, goes_on: impl Fn(&dyn Codec) -> bool) {
        let Some(conn) = self.conn(id) else { return };
        let way = if conn.is_down() { Way::Down } else { Way::Up };
        let slots = conn.slots();
        let first = conn.turn();
        for step in 0..slots {
            let Some(conn) = self.conn(id) else { return };
            if !conn.codec().is_some_and(|codec| goes_on(codec)) {
                return;
            }
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
