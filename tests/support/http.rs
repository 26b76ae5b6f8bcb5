//! An HTTP/1.1 client of a few lines: strict about what it reads, and nothing between the test and the octets.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

#[derive(Debug)]
pub struct Conn {
    stream: BufReader<TcpStream>,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Conn {
    #[track_caller]
    pub fn open(addr: SocketAddr) -> Conn {
        Conn::try_open(addr).unwrap()
    }

    pub fn try_open(addr: SocketAddr) -> io::Result<Conn> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Conn { stream: BufReader::new(stream) })
    }

    /// Sends octets as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// One request with a Content-Length, and its final answer.
    pub fn request(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(&[head.as_bytes(), body].concat())?;
        loop {
            let reply = self.reply(method == "HEAD")?;
            if reply.status >= 200 {
                return Ok(reply);
            }
        }
    }

    /// The next answer, an interim one (1xx) too.
    pub fn reply(&mut self, to_head: bool) -> io::Result<Reply> {
        let line = self.line()?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status: u16 = status.ok_or_else(|| bad(&format!("not a status line: {line:?}")))?;
        let headers = self.fields()?;
        let mut reply = Reply { status, headers, body: Vec::new(), trailers: Vec::new() };
        if to_head || status < 200 || status == 204 || status == 304 {
            return Ok(reply);
        }
        if reply.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            (reply.body, reply.trailers) = self.chunks()?;
        } else if let Some(length) = reply.header("content-length") {
            let length = length.parse().map_err(|_| bad("Content-Length is not a number"))?;
            reply.body.resize(length, 0);
            self.stream.read_exact(&mut reply.body)?;
        } else {
            self.stream.read_to_end(&mut reply.body)?;
        }
        Ok(reply)
    }

    /// Exactly so many octets, after an upgrade.
    pub fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.stream.read_exact(bytes)
    }

    /// A line without its end.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let end = line.strip_suffix(b"\r\n").ok_or_else(|| {
            io::Error::new(io::ErrorKind::UnexpectedEof, format!("broke off: {:?}", String::from_utf8_lossy(&line)))
        })?;
        String::from_utf8(end.to_vec()).map_err(|_| bad("not text"))
    }

    /// A line of a body, whatever ends it.
    pub fn line_lossy(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
        }
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&format!("not a field: {line:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    #[allow(clippy::type_complexity)]
    fn chunks(&mut self) -> io::Result<(Vec<u8>, Vec<(String, String)>)> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size =
                usize::from_str_radix(line.split(';').next().unwrap_or(""), 16).map_err(|_| bad("chunk size"))?;
            if size == 0 {
                return Ok((body, self.fields()?));
            }
            let start = body.len();
            body.resize(start + size, 0);
            self.stream.read_exact(&mut body[start..])?;
            if !self.line()?.is_empty() {
                return Err(bad("a chunk is longer than it says"));
            }
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
