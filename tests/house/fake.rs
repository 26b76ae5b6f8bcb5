//! A host whose agent is played by the test, on the `h2` crate's server: it answers, refuses or keeps silent as it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::request::Parts;

/// What to do with a request.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// This status, by the application; the answer's body is `old host`.
    Answer(u16),
    /// The agent's own refusal, marked; the body is not read.
    Refuse,
    /// The stream is reset as unprocessed.
    RefuseStream,
    /// So much of the body is read, then the stream breaks.
    ReadThenBreak(usize),
    /// Nothing, until [`Fake::release`]; then this.
    Later(&'static Act),
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub probe: bool,
    pub generation: String,
    pub path: String,
}

pub struct Fake {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    release: tokio::sync::watch::Sender<bool>,
    /// Its runtime ends with it.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Fake {
    pub fn start(script: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Fake {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Fake::on(listener, script)
    }

    /// On a listener that does not block.
    pub fn on(listener: std::net::TcpListener, script: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Fake {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(async { tokio::net::TcpListener::from_std(listener) }).unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (release, released) = tokio::sync::watch::channel(false);
        let (script, noted) = (Arc::new(script), Arc::clone(&seen));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, seen, released) = (Arc::clone(&script), Arc::clone(&noted), released.clone());
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.initial_window_size(64 * 1024).initial_connection_window_size(1 << 24);
                    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
                    while let Some(request) = connection.accept().await {
                        let (request, respond) = request?;
                        let (parts, body) = request.into_parts();
                        let came = note(&parts);
                        seen.lock().unwrap().push(came.clone());
                        let act = script(&came);
                        tokio::spawn(answer(act, came.probe, body, respond, released.clone()));
                    }
                    Ok::<_, h2::Error>(())
                });
            }
        });
        Fake { addr, seen, release, runtime: Some(runtime) }
    }

    /// What came, probes too.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn probes(&self) -> usize {
        self.seen().iter().filter(|seen| seen.probe).count()
    }

    pub fn release(&self) {
        self.release.send_replace(true);
    }

    /// Every connection breaks, and no other can be made.
    pub fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.die();
    }
}

fn note(parts: &Parts) -> Seen {
    let field = |name| parts.headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap().to_owned());
    Seen {
        probe: field("steady-probe").is_some(),
        generation: field("steady-generation").unwrap_or_default(),
        path: parts.uri.path().to_owned(),
    }
}

async fn answer(
    act: Act,
    probe: bool,
    mut body: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    mut released: tokio::sync::watch::Receiver<bool>,
) -> Result<(), h2::Error> {
    let mut act = act;
    if let Act::Later(then) = act {
        let _ = released.wait_for(|released| *released).await;
        act = *then;
    }
    let head = |status: u16| http::Response::builder().status(status);
    match act {
        Act::Answer(status) => {
            super::h2c::drain(body).await?;
            let mut stream = respond.send_response(head(status).body(()).unwrap(), probe)?;
            if probe {
                return Ok(());
            }
            stream.send_data(Bytes::from_static(b"old host"), true)?;
        }
        Act::Refuse => {
            respond.send_response(head(421).header("steady-refused", "draining").body(()).unwrap(), true)?;
        }
        Act::RefuseStream => respond.send_reset(h2::Reason::REFUSED_STREAM),
        Act::ReadThenBreak(most) => {
            let mut read = 0;
            while read < most {
                let Some(data) = body.data().await else { break };
                let data = data?;
                read += data.len();
                body.flow_control().release_capacity(data.len())?;
            }
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        Act::Later(_) => {}
    }
    Ok(())
}
