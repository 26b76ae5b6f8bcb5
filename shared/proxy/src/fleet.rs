//! The workers of a process on real drivers: one thread a core, pinned, sharing nothing but their plane.

use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use steady_ring::{Driver, Epoll, Uring};

use crate::plane::Plane;
use crate::policy::Policy;
use crate::worker::{Config, Worker};

/// How the workers of a process are built.
#[derive(Debug)]
pub struct Blueprint {
    /// io_uring, or else epoll: what [`steady_ring::choose`] found.
    pub uring: bool,
    pub ring: steady_ring::Config,
    pub worker: Config,
    /// One for each of the worker configuration's listeners, bound and listening. Every worker accepts from all of them.
    pub sockets: Vec<OwnedFd>,
    /// Pin each worker to a core of those this process may use.
    pub pin: bool,
}

/// The running workers.
#[derive(Debug)]
pub struct Fleet {
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Fleet {
    /// Starts as many workers as the plane has seats. `policy` makes the policy of worker `index`, on its thread.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated or a thread not be started.
    pub fn start<P: Policy>(
        plane: &Plane<P>,
        blueprint: Blueprint,
        policy: impl Fn(usize) -> P + Send + Clone + 'static,
    ) -> io::Result<Fleet> {
        let cores = if blueprint.pin { steady_sys::cpu::allowed().unwrap_or_default() } else { Vec::new() };
        let mut threads = Vec::new();
        for index in 0..plane.seats() {
            let seat = plane.seat(index);
            let sockets = blueprint.sockets.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
            let config = blueprint.worker.clone();
            let (uring, ring) = (blueprint.uring, blueprint.ring);
            let policy = policy.clone();
            let core = (!cores.is_empty()).then(|| cores[index % cores.len()]);
            let run = move || {
                if let Some(core) = core
                    && let Err(error) = steady_sys::cpu::pin(core)
                {
                    tracing::warn!(%error, core, "the worker could not be pinned; it runs on any core");
                }
                if uring {
                    work(Worker::new(Uring::new(ring)?, policy(index), seat, &config, sockets)?)
                } else {
                    work(Worker::new(Epoll::new(ring)?, policy(index), seat, &config, sockets)?)
                }
            };
            threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
        }
        Ok(Fleet { threads })
    }

    /// The workers that have ended; one whose drain has not ended has failed.
    pub fn ended(&self) -> impl Iterator<Item = usize> {
        self.threads.iter().enumerate().filter(|(_, thread)| thread.is_finished()).map(|(worker, _)| worker)
    }

    /// Waits for the workers.
    ///
    /// # Errors
    /// The first worker's failure.
    pub fn join(self) -> io::Result<()> {
        for thread in self.threads {
            thread.join().map_err(|_| io::Error::other("a worker panicked"))??;
        }
        Ok(())
    }
}

fn work<D: Driver, P: Policy>(mut worker: Worker<D, P>) -> io::Result<()> {
    let ended = worker.run();
    if let Err(error) = &ended {
        tracing::error!(%error, "a worker's driver failed");
    }
    ended
}
