//! Load, every answer checked. In a closed loop: so many connections with so many requests each under way at all times. In
//! an open one: a request is due at each tick of a fixed rate, whatever became of those before, and its latency counts from
//! the tick, so that a proxy that stalls is charged for all that came meanwhile (no coordinated omission). Or connections
//! that have had one answer each and then stay, for what they cost in memory.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use steady_http::{Event, Head, Limits, Method, Name, Scheme, StreamId};
use steady_ring::{Addr, ConnId, Driver, Event as Net, SendBuf, Time, Uring};

use super::cpu;
use super::link::{Common, Link, Speech};
use super::pace::Pace;
use super::peers::Proxy;
use super::shape::{Life, Measured, Shape};
use super::{AUTHORITY, origin::BODY_MAX};

/// Octets of a message through a tunnel.
const MESSAGE: usize = 100;
/// Output on one connection past which an upload waits for the send before it.
const OUT_MAX: usize = 256 * 1024;

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    stream: StreamId,
    started: Time,
    status: u16,
    got: usize,
    /// Octets of its body that are still to be sent.
    left: usize,
}

struct Client {
    link: Link,
    /// By the codec's slot.
    flights: Vec<Option<Flight>>,
    live: usize,
    /// Requests that have been sent on it.
    sent: usize,
    dirty: bool,
    is_open: bool,
    is_closing: bool,
    /// It is among those that an open loop may take.
    is_free: bool,
    is_held: bool,
    /// A message has come back through its tunnel.
    is_echoed: bool,
}

/// See the module.
pub struct Load<'a> {
    driver: Uring,
    addr: Addr,
    shape: Shape,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    limits: Rc<Limits>,
    request: Head,
    body: &'a [u8],
    clients: Vec<Option<Client>>,
    dirty: Vec<ConnId>,
    common: Common,
    now: Time,
    counting: bool,
    latencies: Vec<u32>,
    wrong: Option<String>,
    open: usize,
    ending: bool,
    /// An open loop.
    pace: Option<Pace>,
    /// Each connection has one request, and stays.
    hold: bool,
    /// Connections that have had an answer and stay.
    held: usize,
    /// Applications to ask for, by their number.
    apps: u32,
    random: fastrand::Rng,
}

/// Loads a proxy, and measures the second part of the time. With `rate`, an open loop of so many requests a second.
///
/// # Errors
/// A sentence: a wrong answer, a connection that failed, nothing at all.
pub fn run(
    shape: Shape,
    rate: Option<f64>,
    proxy: &mut Proxy,
    tls: &Arc<ClientConfig>,
    warm: Duration,
    measure: Duration,
) -> Result<Measured, String> {
    let body = vec![b'y'; BODY_MAX];
    let mut load = Load::new(shape, proxy, tls, &body)?;
    for _ in 0..shape.connections {
        load.connect();
    }
    let begun = load.driver.now();
    load.pace = rate.map(|rate| Pace::new(begun, rate));
    let pids = proxy.pids();
    let read = || cpu::spent(&pids).map_err(|error| format!("the proxy's process is gone: {error}"));
    load.go_on_until(begun + warm)?;
    let counted = proxy.counts();
    let (begun, before) = (load.driver.now(), read()?);
    load.counting = true;
    load.go_on_until(begun + measure)?;
    load.counting = false;
    let (ended, after) = (load.driver.now(), read()?);
    let counts = counted.zip(proxy.counts()).map(|(before, after)| [0, 1, 2].map(|at| after[at] - before[at]));
    load.hang_up()?;
    let mut latencies = load.latencies;
    if latencies.is_empty() {
        return Err("no request was answered".to_owned());
    }
    latencies.sort_unstable();
    let at =
        |part: f64| Duration::from_nanos(u64::from(latencies[((latencies.len() - 1) as f64 * part) as usize]) * 10);
    Ok(Measured {
        requests: latencies.len() as u64,
        seconds: ended.since(begun).as_secs_f64(),
        latency: [at(0.5), at(0.99), at(0.999)],
        cpu: after.since(before),
        counts,
    })
}

/// Opens connections until `shape.connections` have had an answer and stay, and says what memory the proxy holds then.
///
/// # Errors
/// As [`run`].
pub fn hold(shape: Shape, proxy: &Proxy, tls: &Arc<ClientConfig>) -> Result<u64, String> {
    let mut load = Load::new(shape, proxy, tls, &[])?;
    load.hold = true;
    let patience = load.driver.now() + Duration::from_secs(120);
    let mut begun = 0;
    while load.held < shape.connections {
        // A crowd at once would meet the listeners' backlogs, which is another measurement.
        while begun < shape.connections && begun - load.held < 128 {
            load.connect();
            begun += 1;
        }
        load.turn(patience)?;
        if load.now > patience {
            return Err(format!("only {} of {} connections were served", load.held, shape.connections));
        }
    }
    // What a proxy gives back after a moment is not what the connections cost.
    let calm = load.driver.now() + Duration::from_secs(1);
    load.go_on_until(calm)?;
    let resident = cpu::resident(&proxy.pids()).map_err(|error| format!("the proxy's process is gone: {error}"))?;
    load.hang_up()?;
    Ok(resident)
}

fn config(shape: Shape, tls: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = (**tls).clone();
    config.alpn_protocols = vec![if shape.h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    if shape.life != Life::Each {
        config.resumption = rustls::client::Resumption::disabled();
    }
    Arc::new(config)
}

fn request(shape: Shape) -> Head {
    let mut head = Head::new();
    fill(&mut head, shape, AUTHORITY.as_bytes());
    head
}

fn fill(head: &mut Head, shape: Shape, authority: &[u8]) {
    head.clear();
    head.scheme = if shape.tls { Scheme::Https } else { Scheme::Http };
    head.set_authority(authority);
    if shape.life == Life::Tunnel {
        head.method = Method::Connect;
        head.set_protocol(b"websocket");
        head.set_path(b"/socket");
        head.push(b"sec-websocket-version", b"13");
        return;
    }
    head.set_path(format!("/{}", shape.download).as_bytes());
    head.push_known(Name::UserAgent, b"steady-bench");
    head.push_known(Name::Accept, b"*/*");
    if shape.upload > 0 {
        head.method = Method::Post;
        head.content_length = Some(shape.upload as u64);
    }
}

impl<'a> Load<'a> {
    fn new(shape: Shape, proxy: &Proxy, tls: &Arc<ClientConfig>, body: &'a [u8]) -> Result<Load<'a>, String> {
        let driver = Uring::new(steady_ring::Config::default()).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(AUTHORITY).map_err(|error| error.to_string())?;
        let limits = Limits { stream_window: 1 << 20, connection_window: 16 << 20, ..Limits::default() };
        Ok(Load {
            addr: Addr::Tcp(proxy.addr(shape)),
            now: driver.now(),
            driver,
            shape,
            tls: shape.tls.then(|| (config(shape, tls), name)),
            limits: Rc::new(limits),
            request: request(shape),
            body,
            clients: Vec::new(),
            dirty: Vec::new(),
            common: Common::default(),
            counting: false,
            latencies: Vec::with_capacity(1 << 21),
            wrong: None,
            open: 0,
            ending: false,
            pace: None,
            hold: false,
            held: 0,
            apps: proxy.apps(),
            random: fastrand::Rng::with_seed(1),
        })
    }

    fn connect(&mut self) {
        let id = self.driver.connect(&self.addr);
        if self.clients.len() <= id.index() {
            self.clients.resize_with(id.index() + 1, || None);
        }
        let scheme = if self.shape.tls { Scheme::Https } else { Scheme::Http };
        let mut link = Link::new(id, Speech::client(&self.limits, self.shape.h2, scheme));
        if let Some((config, name)) = &self.tls
            && let Err(error) = link.secure(config, name)
        {
            self.wrong.get_or_insert(error);
        }
        let flights = Vec::new();
        let client = Client {
            link,
            flights,
            live: 0,
            sent: 0,
            dirty: false,
            is_open: false,
            is_closing: false,
            is_free: false,
            is_held: false,
            is_echoed: false,
        };
        self.clients[id.index()] = Some(client);
        self.open += 1;
    }

    fn go_on_until(&mut self, until: Time) -> Result<(), String> {
        while self.now < until {
            self.turn(until)?;
        }
        Ok(())
    }

    fn turn(&mut self, until: Time) -> Result<(), String> {
        let mut events = Vec::new();
        let until = self.pace.as_ref().map_or(until, |pace| until.min(pace.next()));
        self.driver.wait(Some(until), &mut events).map_err(|error| error.to_string())?;
        self.now = self.driver.now();
        for event in events {
            self.event(event);
        }
        if let Some(pace) = &mut self.pace {
            let (clients, dirty) = (&mut self.clients, &mut self.dirty);
            pace.tick(self.now, |free| {
                if let Some(client) = client(clients, free) {
                    client.is_free = false;
                    client.mark(dirty);
                }
            });
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.settle(id);
        }
        self.dirty = dirty;
        self.wrong.take().map_or(Ok(()), Err)
    }

    fn event(&mut self, event: Net) {
        match event {
            Net::Connected { conn } => {
                if let Some(client) = client(&mut self.clients, conn) {
                    client.is_open = true;
                    client.mark(&mut self.dirty);
                }
            }
            Net::Received { conn, buf } => self.received(conn, &buf),
            Net::Sent { conn, buf: SendBuf { bytes, .. } } => {
                if let Some(client) = client(&mut self.clients, conn) {
                    client.link.sent(bytes, &mut self.common);
                    client.mark(&mut self.dirty);
                }
            }
            Net::EndOfStream { conn } => self.lost(conn, "the proxy ended a connection".to_owned()),
            Net::Failed { conn, op, error } => self.lost(conn, format!("{op:?} failed: {error}")),
            Net::Closed { conn } => {
                self.clients[conn.index()] = None;
                self.open -= 1;
                if !self.ending {
                    self.connect();
                }
            }
            _ => {}
        }
    }

    fn lost(&mut self, id: ConnId, why: String) {
        let Some(client) = client(&mut self.clients, id) else { return };
        client.is_closing = true;
        self.driver.close(id);
        if !self.ending {
            self.wrong.get_or_insert(why);
        }
    }

    fn received(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(client) = client(&mut self.clients, id) else { return };
        let Client { link, flights, live, is_echoed: echoed, .. } = client;
        let (shape, now, counting, hold) = (self.shape, self.now, self.counting, self.hold);
        let (latencies, wrong) = (&mut self.latencies, &mut self.wrong);
        let mut arrived = |flight: &mut Flight| {
            if counting {
                latencies.push(u32::try_from(now.since(flight.started).as_nanos() / 10).unwrap_or(u32::MAX));
            }
            flight.started = now;
        };
        let received = link.receive(bytes, &mut self.common, &self.limits, |codec, out, head, event| {
            let over = match event {
                Event::Head { stream, end } => {
                    let Some(flight) = flight(flights, stream) else { return };
                    flight.status = head.status;
                    if head.status != 200 {
                        wrong.get_or_insert(format!("answered {}", head.status));
                    }
                    if shape.life == Life::Tunnel {
                        codec.send_data(stream, &[b'm'; MESSAGE], false, out);
                        return;
                    }
                    end.then_some(stream)
                }
                Event::Data { stream, data, flow, end } => {
                    codec.release(stream, flow, out);
                    let Some(flight) = flight(flights, stream) else { return };
                    flight.got += data.len();
                    if shape.life == Life::Tunnel && flight.got >= MESSAGE {
                        flight.got -= MESSAGE;
                        arrived(flight);
                        if hold {
                            *echoed = true;
                        } else {
                            codec.send_data(stream, &[b'm'; MESSAGE], false, out);
                        }
                    }
                    end.then_some(stream)
                }
                Event::Reset { reset, .. } => {
                    wrong.get_or_insert(format!("a stream was reset: {reset:?}"));
                    None
                }
                _ => None,
            };
            let Some(stream) = over else { return };
            if let Some(place) = flights.get_mut(stream.slot as usize)
                && let Some(mut flight) = place.take_if(|flight| flight.stream == stream)
            {
                *live -= 1;
                let expected = if shape.upload > 0 { 100 } else { shape.download };
                if flight.got != expected {
                    wrong.get_or_insert(format!("a body of {} octets in the place of {expected}", flight.got));
                }
                arrived(&mut flight);
            }
        });
        if let Err(error) = received {
            self.lost(id, error);
        } else {
            client.mark(&mut self.dirty);
        }
    }

    /// Asks again, goes on with uploads, and sends.
    fn settle(&mut self, id: ConnId) {
        let Some(client) = client(&mut self.clients, id) else { return };
        client.dirty = false;
        let once = matches!(self.shape.life, Life::Each | Life::EachInFull);
        if once && client.sent > 0 && client.live == 0 {
            client.is_closing = true;
            return self.driver.close(id);
        }
        if self.hold && client.sent > 0 && (client.live == 0 || client.is_echoed) && !client.is_held {
            client.is_held = true;
            self.held += 1;
        }
        let once = once || self.hold;
        let may = client.is_open && client.link.is_ready() && !self.ending && !(once && client.sent > 0);
        while may && client.live < self.shape.streams {
            let mut started = self.now;
            if let Some(pace) = &mut self.pace {
                let Some(due) = pace.due.pop_front() else {
                    if !std::mem::replace(&mut client.is_free, true) {
                        pace.free.push_back(id);
                    }
                    break;
                };
                started = due;
            }
            if self.apps > 1 {
                let authority = super::authority(self.random.u32(0..self.apps), self.apps);
                fill(&mut self.request, self.shape, authority.as_bytes());
            }
            let end = self.shape.upload == 0 && !self.request.is_connect();
            let Some(stream) = client.link.open(&self.request, end) else {
                if let Some(pace) = &mut self.pace {
                    pace.due.push_front(started);
                }
                break;
            };
            let slot = stream.slot as usize;
            if client.flights.len() <= slot {
                client.flights.resize(slot + 1, None);
            }
            let left = self.shape.upload;
            client.flights[slot] = Some(Flight { stream, started, status: 0, got: 0, left });
            client.live += 1;
            client.sent += 1;
        }
        if self.shape.upload > 0 {
            client.upload(self.body);
        }
        client.link.flush(&mut self.driver, &mut self.common);
    }

    fn hang_up(&mut self) -> Result<(), String> {
        self.ending = true;
        for client in self.clients.iter_mut().flatten().filter(|client| !client.is_closing) {
            client.is_closing = true;
            self.driver.close(client.link.id);
        }
        let patience = self.driver.now() + Duration::from_secs(5);
        while self.open > 0 {
            self.turn(patience)?;
            if self.now > patience {
                return Err("connections do not close".to_owned());
            }
        }
        Ok(())
    }
}

impl Client {
    fn mark(&mut self, dirty: &mut Vec<ConnId>) {
        if !std::mem::replace(&mut self.dirty, true) {
            dirty.push(self.link.id);
        }
    }

    fn upload(&mut self, body: &[u8]) {
        let Some(mut room) = OUT_MAX.checked_sub(self.link.waiting()) else { return };
        let Some((codec, out)) = self.link.codec() else { return };
        for flight in self.flights.iter_mut().flatten().filter(|flight| flight.left > 0) {
            let piece = flight.left.min(room);
            let sent = codec.send_data(flight.stream, &body[..piece], piece == flight.left, out);
            room -= sent;
            flight.left -= sent;
        }
    }
}

fn client(clients: &mut [Option<Client>], id: ConnId) -> Option<&mut Client> {
    clients.get_mut(id.index())?.as_mut().filter(|client| client.link.id == id && !client.is_closing)
}

fn flight(flights: &mut [Option<Flight>], stream: StreamId) -> Option<&mut Flight> {
    flights.get_mut(stream.slot as usize)?.as_mut().filter(|flight| flight.stream == stream)
}
