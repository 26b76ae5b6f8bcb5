//! One connection of the load or of the origin: a codec, TLS where asked, and output that is sent once a batch.

use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use steady_http::{Client, Codec, Event, Head, Limits, Scheme, StreamId, h1, h2};
use steady_proxy::tls::{Scratch, Tls};
use steady_ring::{ConnId, Driver, SendBuf, Uring};

/// What a connection speaks.
#[derive(Debug)]
pub enum Speech {
    /// A server's, before the first octets.
    Unknown,
    H1Server(h1::Server),
    H2Server(Box<h2::Server>),
    H1Client(h1::Client),
    H2Client(Box<h2::Client>),
}

impl Speech {
    pub fn client(limits: &Rc<Limits>, h2: bool, scheme: Scheme) -> Speech {
        if h2 {
            Speech::H2Client(Box::new(h2::Client::new(Rc::clone(limits), scheme)))
        } else {
            Speech::H1Client(h1::Client::new(Rc::clone(limits)))
        }
    }

    fn codec(&mut self) -> Option<&mut dyn Codec> {
        match self {
            Speech::Unknown => None,
            Speech::H1Server(codec) => Some(codec),
            Speech::H2Server(codec) => Some(codec.as_mut()),
            Speech::H1Client(codec) => Some(codec),
            Speech::H2Client(codec) => Some(codec.as_mut()),
        }
    }
}

/// What links of one thread share.
#[derive(Debug, Default)]
pub struct Common {
    head: Head,
    plain: Vec<u8>,
    scratch: Scratch,
    spares: Vec<Vec<u8>>,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    pub id: ConnId,
    pub speech: Speech,
    tls: Option<Box<Tls>>,
    out: Vec<u8>,
    wire: Vec<u8>,
    pending: Vec<u8>,
    sending: bool,
}

/// What is done about each event: with the codec, its output, and the head at hand.
type Each<'e> = dyn FnMut(&mut dyn Codec, &mut Vec<u8>, &Head, Event<'_>) + 'e;

impl Link {
    pub fn new(id: ConnId, speech: Speech) -> Link {
        Link { id, speech, tls: None, out: Vec::new(), wire: Vec::new(), pending: Vec::new(), sending: false }
    }

    /// Begins a handshake.
    pub fn secure(&mut self, config: &Arc<ClientConfig>, name: &ServerName<'static>) -> Result<(), String> {
        let tls = Tls::client(Arc::clone(config), name.clone(), &mut self.wire).map_err(|error| error.to_string())?;
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Whether requests can be sent.
    pub fn is_ready(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
    }

    /// Opens a request.
    pub fn open(&mut self, head: &Head, end: bool) -> Option<StreamId> {
        match &mut self.speech {
            Speech::H1Client(client) => client.open(head, end, &mut self.out),
            Speech::H2Client(client) => client.open(head, end, &mut self.out),
            _ => None,
        }
    }

    /// The codec and the output that it writes to.
    pub fn codec(&mut self) -> Option<(&mut dyn Codec, &mut Vec<u8>)> {
        self.speech.codec().map(|codec| (codec, &mut self.out))
    }

    /// Output that no send has taken yet.
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Takes what came; `each` is told what it says.
    ///
    /// # Errors
    /// The peer broke a rule.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        common: &mut Common,
        limits: &Rc<Limits>,
        mut each: impl FnMut(&mut dyn Codec, &mut Vec<u8>, &Head, Event<'_>),
    ) -> Result<(), String> {
        let Common { head, plain, scratch, .. } = common;
        let Some(tls) = &mut self.tls else { return self.feed(bytes, head, limits, &mut each) };
        plain.clear();
        let received = tls.receive(bytes, scratch, plain, &mut self.wire);
        received.map_err(|error| error.to_string())?;
        self.feed(plain, head, limits, &mut each)
    }

    fn feed(&mut self, bytes: &[u8], head: &mut Head, limits: &Rc<Limits>, each: &mut Each<'_>) -> Result<(), String> {
        let mut joined = std::mem::take(&mut self.pending);
        let input = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        if matches!(self.speech, Speech::Unknown) && input.len() >= 4 {
            let limits = Rc::clone(limits);
            self.speech = if input.starts_with(b"PRI ") {
                Speech::H2Server(Box::new(h2::Server::new(limits, Scheme::Http)))
            } else {
                Speech::H1Server(h1::Server::new(limits, Scheme::Http))
            };
        }
        let mut done = 0;
        if let Some(codec) = self.speech.codec() {
            loop {
                let step = codec.receive(&input[done..], head, &mut self.out);
                let step = step.map_err(|error| format!("the peer broke the rules: {}", error.reason))?;
                done += step.consumed;
                let Some(event) = step.event else { break };
                each(codec, &mut self.out, head, event);
            }
        }
        if done < input.len() {
            self.pending = input[done..].to_vec();
        }
        Ok(())
    }

    /// Sends what there is, once.
    pub fn flush(&mut self, driver: &mut Uring, common: &mut Common) {
        if self.sending {
            return;
        }
        if let Some(tls) = self.tls.as_mut().filter(|tls| !tls.is_handshaking())
            && !self.out.is_empty()
        {
            // A session that is over shows by the end of its connection.
            let _ = tls.send(&self.out, &mut self.wire);
            self.out.clear();
        }
        let full = if self.tls.is_some() { &mut self.wire } else { &mut self.out };
        if full.is_empty() {
            return;
        }
        let bytes = std::mem::replace(full, common.spares.pop().unwrap_or_default());
        self.sending = true;
        driver.send(self.id, SendBuf::from(bytes));
    }

    /// The send is done.
    pub fn sent(&mut self, mut buffer: Vec<u8>, common: &mut Common) {
        self.sending = false;
        buffer.clear();
        if buffer.capacity() <= 256 * 1024 {
            common.spares.push(buffer);
        }
    }
}
