//! TLS handshakes of clients: the ClientHello, the choice of a certificate, and waiting for it where it is not here yet.

use steady_ring::{ConnId, Driver};

use crate::conn::{Secure, Stage};
use crate::policy::{Credentials, Policy};
use crate::tls::{Accepting, Acceptor, Alert, Parked, TlsError};
use crate::worker::Worker;

impl<D: Driver, P: Policy> Worker<D, P> {
    /// More of a ClientHello.
    pub(crate) fn receive_hello(&mut self, id: ConnId, bytes: &[u8]) {
        let result = self.read_hello(id, bytes);
        self.go_on(id, result);
    }

    /// What a client sends while its certificate is awaited.
    pub(crate) fn receive_parked(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conn(id) else { return };
        let Secure::Parked(parked) = &mut conn.secure else { return };
        let result = parked.receive(bytes, &mut conn.aside.wire);
        self.go_on(id, result);
    }

    /// Tries again for those whose certificate was awaited.
    pub(crate) fn resume_handshakes(&mut self) {
        for id in std::mem::take(&mut self.shaking) {
            let Some(conn) = self.conn(id).filter(|conn| conn.stage == Stage::Open) else { continue };
            match std::mem::replace(&mut conn.secure, Secure::Hello(Acceptor::default())) {
                Secure::Parked(parked) => {
                    let result = self.choose(id, *parked);
                    self.go_on(id, result);
                }
                other => conn.secure = other,
            }
        }
    }

    fn read_hello(&mut self, id: ConnId, bytes: &[u8]) -> Result<(), TlsError> {
        let Some(conn) = self.conn(id) else { return Ok(()) };
        // An empty acceptor stands in meanwhile, so that the connection never looks like a plain one.
        let was = std::mem::replace(&mut conn.secure, Secure::Hello(Acceptor::default()));
        let Secure::Hello(acceptor) = was else { return Ok(()) };
        match acceptor.receive(bytes, &mut conn.aside.wire)? {
            Accepting::NeedMore(acceptor) => {
                conn.secure = Secure::Hello(acceptor);
                Ok(())
            }
            Accepting::Hello(parked) => self.choose(id, parked),
        }
    }

    /// Goes on with the configuration that the policy has for the name, waits for it, or refuses.
    fn choose(&mut self, id: ConnId, parked: Parked) -> Result<(), TlsError> {
        let credentials = self.policy.tls(&self.snapshot, parked.hello().server_name());
        let Some(slot) = self.conns.get_mut(id.index()) else { return Ok(()) };
        let Some(conn) = slot.conn.as_deref_mut().filter(|conn| conn.id == id) else { return Ok(()) };
        match credentials {
            Credentials::Known(config) => {
                let tls = parked.resume(config, &mut self.tls_scratch, &mut self.plain, &mut conn.aside.wire)?;
                conn.secure = Secure::Tls(Box::new(tls));
                Ok(())
            }
            Credentials::Awaited => {
                conn.secure = Secure::Parked(Box::new(parked));
                self.shaking.push(id);
                Ok(())
            }
            Credentials::Refused => {
                parked.refuse(Alert::UnrecognizedName, &mut conn.aside.wire);
                Err(TlsError::Over)
            }
        }
    }

    fn go_on(&mut self, id: ConnId, result: Result<(), TlsError>) {
        self.mark(id);
        let mut plain = std::mem::take(&mut self.plain);
        match result {
            Ok(()) => self.after_tls(id, &plain),
            Err(error) => self.tls_failed(id, &error),
        }
        plain.clear();
        self.plain = plain;
    }
}
