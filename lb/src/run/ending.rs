//! The end of an edge that was told to stop: what was begun is finished.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::signals::Order;
use crate::snapshot::Plane;

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

/// Lets the data path finish. A second order to stop ends it at once.
pub(super) async fn shut_down(plane: &dyn Plane, deadline: Duration, orders: &mut mpsc::Receiver<Order>) {
    tracing::info!(?deadline, "stopping: what was begun is finished");
    plane.drain(deadline);
    let begun = Instant::now();
    let drained = async {
        // The data path keeps the deadline itself; a little more is for it to say so.
        while !plane.is_drained() && begun.elapsed() < deadline + Duration::from_secs(1) {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    };
    tokio::select! {
        () = drained => {}
        () = stop_ordered(orders) => tracing::warn!("told again: what was begun is cut"),
    }
}
