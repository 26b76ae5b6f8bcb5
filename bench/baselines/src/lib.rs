//! The proxy that the two runtimes carry: HTTP/1.1 in, by `httparse`, cleartext HTTP/2 out on one connection, by the `h2`
//! crate. What differs between them is how octets are read and written, and how a task is spawned.
//!
//! - `pipe`: what `h2` reads from and writes to, filled and emptied by two tasks, so that all it has to say in a turn goes out
//!   with one send.
//! - `serve`: one client's connection.

pub mod pipe;
pub mod serve;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// Octets of a buffer to read into, and the most that is read at once.
pub const BUFFER: usize = 16 * 1024;

/// The half of a connection that is read.
pub trait Read {
    /// Reads into the memory behind what `buffer` holds. 0: the end.
    fn read(&mut self, buffer: Vec<u8>) -> impl Future<Output = io::Result<(usize, Vec<u8>)>>;
}

/// The half that is written.
pub trait Write {
    /// Writes all, and gives the buffer back.
    fn write(&mut self, buffer: Vec<u8>) -> impl Future<Output = io::Result<Vec<u8>>>;
}

/// The origin, from the command line.
///
/// # Errors
/// It is missing or no address.
pub fn origin() -> io::Result<SocketAddr> {
    let argument = std::env::args().nth(1).and_then(|text| text.parse().ok());
    argument.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "usage: baseline-… ORIGIN (address:port)"))
}

/// Binds a free port, says it on standard output, and ends the process when standard input ends.
///
/// # Errors
/// What the kernel says.
pub fn listen() -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    Ok(listener)
}
