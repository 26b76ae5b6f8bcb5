//! A client of HTTP/2 in cleartext, by the `h2` crate: an independent peer, many requests at once over one connection.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;

/// A connection. It ends with the runtime that it was opened on.
#[derive(Clone)]
pub struct H2c {
    send: SendRequest<Bytes>,
}

impl H2c {
    pub async fn open(addr: SocketAddr) -> H2c {
        H2c::open_with(addr, 1 << 20).await
    }

    /// With this window a stream.
    pub async fn open_with(addr: SocketAddr, window: u32) -> H2c {
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(1 << 24);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        tokio::spawn(async move { _ = connection.await });
        H2c { send }
    }

    /// Begins a request without body.
    pub async fn begin(
        &self,
        method: &str,
        host: &str,
        path: &str,
    ) -> Result<http::Response<h2::RecvStream>, h2::Error> {
        let request = http::Request::builder().method(method).uri(format!("http://{host}{path}")).body(()).unwrap();
        let mut send = self.send.clone().ready().await?;
        let (response, _) = send.send_request(request, true)?;
        response.await
    }

    /// Begins a request whose body is sent by the caller.
    pub async fn upload(
        &self,
        host: &str,
        path: &str,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        let request = http::Request::builder().method("POST").uri(format!("http://{host}{path}")).body(()).unwrap();
        let mut send = self.send.clone().ready().await?;
        send.send_request(request, false)
    }

    /// The status of an answer to a plain CONNECT.
    pub async fn connect(&self, authority: &str) -> Result<u16, h2::Error> {
        let request = http::Request::builder().method("CONNECT").uri(authority).body(()).unwrap();
        let mut send = self.send.clone().ready().await?;
        let (response, _stream) = send.send_request(request, false)?;
        Ok(response.await?.status().as_u16())
    }

    /// Sends one with this body; the answer's status and body.
    pub async fn ask(&self, method: &str, host: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>), h2::Error> {
        let request = http::Request::builder().method(method).uri(format!("http://{host}{path}")).body(()).unwrap();
        let mut send = self.send.clone().ready().await?;
        let (response, mut stream) = send.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true)?;
        }
        let response = response.await?;
        let status = response.status().as_u16();
        Ok((status, drain(response.into_body()).await?))
    }
}

/// The rest of a body, its window given back as it comes.
pub async fn drain(mut body: h2::RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

/// A runtime of one thread for a test's HTTP/2 clients.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
