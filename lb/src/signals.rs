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
    /// Start the program anew, and let that process take over (SIGUSR2).
    Upgrade,
}

/// Turns SIGHUP, SIGTERM, SIGINT and SIGUSR2 into orders. Call it within the runtime.
pub fn listen() -> std::io::Result<mpsc::Receiver<Order>> {
    let (mut hangup, mut terminate, mut interrupt) =
        (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut second = signal(SignalKind::user_defined2())?;
    let (send, orders) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let order = tokio::select! {
                got = hangup.recv() => got.map(|()| Order::Reload),
                got = terminate.recv() => got.map(|()| Order::Stop),
                got = interrupt.recv() => got.map(|()| Order::Stop),
                got = second.recv() => got.map(|()| Order::Upgrade),
            };
            let Some(order) = order else { return };
            if send.send(order).await.is_err() {
                return;
            }
        }
    });
    Ok(orders)
}
