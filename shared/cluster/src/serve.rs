//! Answers who connects to a private port: HTTP, with the [`Peer`] as axum's `ConnectInfo`.
//!
//! Who shows no certificate holds one of few places ([`STRANGERS_MAX`](crate::listen::STRANGERS_MAX)), so that it must ask for
//! something: before its first request, in the midst of a head, and between two requests it has [`HEAD_TIME`]. An answer may be long
//! in coming; that it is taken, its [`Stream`](crate::Stream) sees to. Members, and clients on this machine, may be as quiet as they
//! like.

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tower::Service;

use crate::listen::{Listener, Peer};
use crate::stream::Accepted;

/// From a stranger's handshake, or the end of the answer before, to the end of its next request's head.
pub const HEAD_TIME: Duration = Duration::from_secs(10);

/// Serves until `stop`; then takes no more connections, and ends when every call that is under way has its answer. Connections
/// end so, too, when this is dropped, and nobody waits for them.
pub async fn serve(listener: Listener, router: Router, stop: impl Future<Output = ()>) {
    serve_within(HEAD_TIME, listener, router, stop).await;
}

/// As [`serve`], with a time of the caller's own in place of [`HEAD_TIME`].
pub async fn serve_within(head_time: Duration, mut listener: Listener, router: Router, stop: impl Future<Output = ()>) {
    // Makes the router whole here, not at each request.
    let router: Router = router.with_state(());
    let open = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let (stream, peer) = tokio::select! {
            taken = listener.accept() => taken,
            () = &mut stop => break,
        };
        tokio::spawn(answer(stream, peer, router.clone(), head_time, open.watcher()));
    }
    drop(listener);
    open.shutdown().await;
}

/// All requests of one connection.
async fn answer(stream: Accepted, peer: Peer, router: Router, head_time: Duration, open: Watcher) {
    let (addr, is_stranger) = (peer.addr, peer.is_stranger());
    let io = TokioIo::new(stream);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer.clone()));
        router.clone().call(request)
    });
    let ended: Result<(), Box<dyn Error + Send + Sync>> = if is_stranger {
        // What tells HTTP/2 from HTTP/1.1 (`auto`) waits for the first octets without a bound. Nobody upgrades without a certificate.
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(head_time);
        open.watch(http1.serve_connection(io, service)).await.map_err(Into::into)
    } else {
        let auto = auto::Builder::new(TokioExecutor::new());
        open.watch(auto.serve_connection_with_upgrades(io, service)).await
    };
    if let Err(error) = ended {
        tracing::debug!(%addr, %error, "a connection to the private port has ended");
    }
}
