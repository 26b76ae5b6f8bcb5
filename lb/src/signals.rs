//! What a running edge is told from outside: to read its configuration again, or to stop. Signals are one source of it,
//! tests another.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read the configuration again and reopen the logs (SIGHUP).
    Reload,
    /// Finish what has begun and end (SIGTERM, SIGINT). A second one ends at once.
    Stop,
}

/// Turns SIGHUP, SIGTERM and SIGINT into orders. Call it within the runtime.
pub fn listen() -> std::io::Result<mpsc::Receiver<Order>> {
    let (mut hangup, mut terminate, mut interrupt) =
        (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (send, orders) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let order = tokio::select! {
                got = hangup.recv() => got.map(|()| Order::Reload),
                got = terminate.recv() => got.map(|()| Order::Stop),
                got = interrupt.recv() => got.map(|()| Order::Stop),
            };
            let Some(order) = order else { return };
            if send.send(order).await.is_err() {
                return;
            }
        }
    });
    Ok(orders)
}
