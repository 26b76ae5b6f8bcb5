//! An agent that is killed by SIGKILL orphans nothing, and the next one starts no second copy.

mod rig;

use std::process::{Child, Command, Stdio};

use rig::*;
use serde_json::json;

/// Not a test of its own: the agent that [`a_killed_agent_leaves_nothing_and_its_successor_runs_one_copy`] kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test, in a process of its own"]
async fn the_agent_to_kill() {
    let Some(dir) = std::env::var_os("STEADY_TEST_DIR") else { return };
    let dir = std::path::PathBuf::from(dir);
    let rig = Rig::start(&dir).await;
    std::fs::write(dir.join("addr.new"), &rig.client.addr).unwrap();
    std::fs::rename(dir.join("addr.new"), dir.join("addr")).unwrap();
    std::future::pending::<()>().await;
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_leaves_nothing_and_its_successor_runs_one_copy() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_agent_to_kill", "--ignored"])
        .env("STEADY_TEST_DIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut agent = KillOnDrop(child);
    let addr = loop {
        if let Ok(addr) = std::fs::read_to_string(dir.path().join("addr")) {
            break addr;
        }
        assert!(agent.0.try_wait().unwrap().is_none(), "the agent has ended");
        tokio::task::yield_now().await;
    };
    let token = std::fs::read_to_string(dir.path().join("token")).unwrap().trim().to_owned();
    let client = Client { addr, token };
    let pids = dir.path().join("pids");
    // A child in a session of its own does not die with the agent: only the successor can find it.
    let start = format!(
        "import subprocess\na = subprocess.Popen(['sleep', '600'], start_new_session=True)\n\
         open({:?}, 'a').write(f'{{a.pid}}\\n')\n",
        pids.to_str().unwrap()
    );
    let code = start + &server("one");
    let digest = client.bundle(&[("steady.toml", TOML_EXCLUSIVE), ("app.py", &code)]).await;
    let (status, shown) = client.place("shop", 1, "owner", 1, &digest).await;
    assert_eq!(status, 200, "{shown}");
    let main = shown["pid"].as_u64().unwrap();
    let escaped: u64 = std::fs::read_to_string(&pids).unwrap().trim().parse().unwrap();
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    until_gone(main).await;
    let rig = Rig::start(dir.path()).await;
    assert!(!runs(escaped), "what slipped away is ended before anything is started");
    let again = rig.plane.until_ready("shop").await;
    assert_eq!(again.get("/").await, "one");
    let shown = rig.client.app("shop").await;
    assert_eq!((&shown["state"], &shown["generation"]), (&json!("ready"), &json!(1)));
    rig.stop().await;
}
