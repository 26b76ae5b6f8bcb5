//! Ports for programs that listen on `$PORT`.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// Ports that starts of this agent hold, so that two are never given the same.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    held: Arc<Mutex<BTreeSet<u16>>>,
}

/// A port of 127.0.0.1 that was free a moment ago; given back when dropped.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    ports: Ports,
}

impl Ports {
    pub fn take(&self) -> std::io::Result<Port> {
        loop {
            let number = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            if self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(number) {
                return Ok(Port { number, ports: self.clone() });
            }
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.ports.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
