//! The proxy on tokio-uring.

use std::error::Error;
use std::io;
use std::rc::Rc;

use steady_baselines::pipe::Pipe;
use steady_baselines::serve::{builder, serve};
use steady_baselines::{BUFFER, Read, Write, listen, origin};
use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::net::{TcpListener, TcpStream};

struct Half(Rc<TcpStream>);

impl Read for Half {
    async fn read(&mut self, mut buffer: Vec<u8>) -> io::Result<(usize, Vec<u8>)> {
        let begun = buffer.len();
        buffer.reserve(BUFFER);
        // Into the memory behind what is there.
        let (read, slice) = self.0.read(buffer.slice(begun..begun + BUFFER)).await;
        Ok((read?, slice.into_inner()))
    }
}

impl Write for Half {
    async fn write(&mut self, buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        let (written, buffer) = self.0.write_all(buffer).await;
        written.map(|()| buffer)
    }
}

fn halves(stream: TcpStream) -> io::Result<(Half, Half)> {
    stream.set_nodelay(true)?;
    let stream = Rc::new(stream);
    Ok((Half(Rc::clone(&stream)), Half(stream)))
}

fn main() -> Result<(), Box<dyn Error>> {
    tokio_uring::builder().entries(4096).start(async {
        let (from, to) = halves(TcpStream::connect(origin()?).await?)?;
        let pipe = Pipe::default();
        tokio_uring::spawn(pipe.clone().fill(from));
        tokio_uring::spawn(pipe.clone().empty(to));
        let (requests, connection) = builder().handshake(pipe).await?;
        tokio_uring::spawn(async move {
            eprintln!("the origin's connection ended: {:?}", connection.await);
            std::process::exit(1);
        });
        let listener = TcpListener::from_std(listen()?);
        loop {
            let (from, to) = halves(listener.accept().await?.0)?;
            // A client that breaks off ends its own connection only.
            let requests = requests.clone();
            tokio_uring::spawn(async move { drop(serve(from, to, requests).await) });
        }
    })
}
