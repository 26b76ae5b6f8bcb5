//! The end of an edge that was told to stop: what was begun is finished.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::signals::Order;
use crate::snapshot::Plane;
use crate::upgrade::Elders;

/// How often the end of a drain is looked for.
pub(super) const DRAIN_LOOK: Duration = Duration::from_millis(10);

async fn stop_ordered(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if order == Order::Stop {
            return;
        }
    }
    // Nobody can order anything any more: run on.
    std::future::pending().await
}

/// Lets the data path finish, and the old processes that still carry connections; what then is left of these is cut. A second order
/// to stop ends all at once. An edge whose workers failed waits for no other process: it is to be started again.
pub(super) async fn shut_down(
    plane: &dyn Plane,
    elders: &Elders,
    deadline: Duration,
    orders: &mut mpsc::Receiver<Order>,
) {
    tracing::info!(?deadline, old_processes = elders.alive().len(), "stopping: what was begun is finished");
    plane.drain(deadline);
    let begun = Instant::now();
    let is_done = || plane.is_drained() && (plane.failure().is_some() || elders.alive().is_empty());
    let drained = async {
        // The data path keeps the deadline itself; a little more is for it to say so.
        while !is_done() && begun.elapsed() < deadline + Duration::from_secs(1) {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    };
    tokio::select! {
        () = drained => {}
        () = stop_ordered(orders) => tracing::warn!("told again: what was begun is cut"),
    }
    if plane.failure().is_none() {
        elders.end();
    }
}
