//! Starts processes from one thread that lives as long as the agent.
//!
//! A child dies with the *thread* that started it (PR_SET_PDEATHSIG), so that an agent that is killed orphans nothing; a
//! thread of a runtime's pool may end before the agent does.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc;

use steady_sys::process::{end_before_parent_when_memory_runs_out, lead_session_and_die_with_parent};
use tokio::sync::oneshot;

type Job = (Box<Command>, oneshot::Sender<io::Result<Child>>);

/// Hands commands to the thread. Cheap to clone; the thread ends when the last is dropped, and its children with it.
#[derive(Clone, Debug)]
pub struct Spawner {
    jobs: mpsc::Sender<Job>,
}

impl Spawner {
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for (mut command, reply) in queue {
                lead_session_and_die_with_parent(&mut command);
                let child = end_before_parent_when_memory_runs_out(&mut command).spawn();
                // Nobody waits any more: nobody would look after it either.
                if let Err(Ok(mut child)) = reply.send(child) {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Starts a process that leads its own session.
    pub async fn spawn(&self, command: Command) -> io::Result<Child> {
        let ended = || io::Error::other("the spawning thread has ended");
        let (reply, child) = oneshot::channel();
        self.jobs.send((Box::new(command), reply)).map_err(|_| ended())?;
        child.await.map_err(|_| ended())?
    }
}
