//! Orders to a registered host whose log cannot be written for a while.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use steady_cluster::channel::talk::What;
use steady_lb::agents::orders::{GivenUp, NoOutcome, Orders, Streams};
use steady_lb::store::sqlite::SqliteStore;
use steady_stream::Faults;

/// Set in the process whose files are held to a size.
const HELD: &str = "STEADY_TEST_HELD";

/// Has no file of this process grow any further, as on a full disk, or again as it likes.
fn fill(full: bool) {
    let size = if full { "--fsize=1:unlimited" } else { "--fsize=unlimited:unlimited" };
    let status = Command::new("prlimit").arg("--pid").arg(std::process::id().to_string()).arg(size).status().unwrap();
    assert!(status.success(), "{size}");
}

/// Gives an order that nobody fetches, and up at once.
async fn order(orders: &Orders) -> NoOutcome {
    let hopeless = std::future::ready("nobody is there".to_owned());
    let what = What::Drain { within_ms: 0 };
    orders.order("shop", 1, what, GivenUp::TakenBack, Duration::from_secs(60), hopeless).await.unwrap_err()
}

#[tokio::test]
async fn orders_are_kept_again_once_their_disk_has_room_without_a_restart() {
    if std::env::var_os(HELD).is_none() {
        // A limit holds a whole process, and its signal ends one that does not ignore it.
        let this = std::env::current_exe().unwrap();
        let mut held = Command::new("sh");
        held.args(["-c", "trap '' XFSZ; exec \"$0\" --nocapture"]).arg(this).env(HELD, "1");
        assert!(held.status().unwrap().success());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&dir.path().join("store.db")).unwrap());
    let streams = Streams { dir: dir.path().join("stream"), edge: "edge".into(), store, faults: Faults::default() };
    let orders = Orders::new("h1", streams);
    let kept = order(&orders).await;
    assert!(matches!(&kept, NoOutcome::Unsent(why) if why == "nobody is there"), "{kept:?}");
    for _ in 0..3 {
        fill(true);
        let failed = order(&orders).await;
        assert!(matches!(failed, NoOutcome::InDoubt(_)), "{failed:?}");
        let still = order(&orders).await;
        assert!(!matches!(&still, NoOutcome::Unsent(why) if why == "nobody is there"), "{still:?}");
        fill(false);
        let kept = order(&orders).await;
        assert!(matches!(&kept, NoOutcome::Unsent(why) if why == "nobody is there"), "{kept:?}");
    }
}
