//! Clients that go on POSTing lines, each with an id of its own, until they are told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::http::Conn;

#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Outcome>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Ids that were answered with 200.
    pub answered: Vec<String>,
    /// Everything else: another status, a broken connection.
    pub wrong: Vec<String>,
}

impl Load {
    /// `clients` connections, each with one request in flight at any moment.
    pub fn start(addr: SocketAddr, host: &str, clients: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let clients = (0..clients)
            .map(|client| {
                let (stop, answered, host) = (stop.clone(), answered.clone(), host.to_owned());
                std::thread::spawn(move || post(addr, &host, client, &stop, &answered))
            })
            .collect();
        Load { stop, answered, clients }
    }

    /// Requests answered with 200 so far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        for client in self.clients {
            let one = client.join().unwrap();
            all.answered.extend(one.answered);
            all.wrong.extend(one.wrong);
        }
        all
    }
}

fn post(addr: SocketAddr, host: &str, client: usize, stop: &AtomicBool, answered: &AtomicUsize) -> Outcome {
    let mut outcome = Outcome::default();
    let mut conn = Conn::open(addr);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = format!("{client}-{number}");
        number += 1;
        match conn.request("POST", host, "/", &[], id.as_bytes()) {
            Ok(reply) if reply.status == 200 => {
                outcome.answered.push(id);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(reply) => outcome.wrong.push(format!("{id}: {} {}", reply.status, reply.text())),
            Err(error) => {
                outcome.wrong.push(format!("{id}: {error}"));
                match Conn::try_open(addr) {
                    Ok(fresh) => conn = fresh,
                    Err(error) => {
                        outcome.wrong.push(format!("cannot connect again: {error}"));
                        return outcome;
                    }
                }
            }
        }
    }
    outcome
}
