//! The proxy on monoio.

use std::error::Error;
use std::io;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::{TcpListener, TcpStream};
use steady_baselines::pipe::Pipe;
use steady_baselines::serve::{builder, serve};
use steady_baselines::{BUFFER, Read, Write, listen, origin};

struct From(OwnedReadHalf<TcpStream>);
struct To(OwnedWriteHalf<TcpStream>);

impl Read for From {
    async fn read(&mut self, mut buffer: Vec<u8>) -> io::Result<(usize, Vec<u8>)> {
        let begun = buffer.len();
        buffer.reserve(BUFFER);
        // Into the memory behind what is there.
        let slice = monoio::buf::SliceMut::new(buffer, begun, begun + BUFFER);
        let (read, slice) = self.0.read(slice).await;
        Ok((read?, slice.into_inner()))
    }
}

impl Write for To {
    async fn write(&mut self, buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        let (written, buffer) = self.0.write_all(buffer).await;
        written.map(|_| buffer)
    }
}

fn halves(stream: TcpStream) -> io::Result<(From, To)> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok((From(read), To(write)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(4096).build()?;
    runtime.block_on(async {
        let (from, to) = halves(TcpStream::connect(origin()?).await?)?;
        let pipe = Pipe::default();
        monoio::spawn(pipe.clone().fill(from));
        monoio::spawn(pipe.clone().empty(to));
        let (requests, connection) = builder().handshake(pipe).await?;
        monoio::spawn(async move {
            eprintln!("the origin's connection ended: {:?}", connection.await);
            std::process::exit(1);
        });
        let listener = TcpListener::from_std(listen()?)?;
        loop {
            let (from, to) = halves(listener.accept().await?.0)?;
            // A client that breaks off ends its own connection only.
            let requests = requests.clone();
            monoio::spawn(async move { drop(serve(from, to, requests).await) });
        }
    })
}
