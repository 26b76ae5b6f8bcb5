//! One client's connection: requests of HTTP/1.1 with or without a body of known length, the one after the other.

use std::error::Error;
use std::io::Write as _;

use bytes::Bytes;
use h2::client::SendRequest;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};

use crate::{BUFFER, Read, Write};

/// Windows as an edge's: a body is under way while the one before it is read.
pub fn builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(16 << 20).enable_push(false);
    builder
}

/// Until the client has enough.
///
/// # Errors
/// Either side broke off or a rule; the connection is dropped then.
pub async fn serve(mut from: impl Read, mut to: impl Write, origin: SendRequest<Bytes>) -> Result<(), Box<dyn Error>> {
    let (mut input, mut out) = (Vec::with_capacity(BUFFER), Vec::with_capacity(BUFFER));
    loop {
        let (request, used, length) = loop {
            if let Some(parsed) = head(&input)? {
                break parsed;
            }
            let (count, full) = from.read(input).await?;
            input = full;
            if count == 0 {
                return Ok(());
            }
        };
        input.drain(..used);
        let mut origin = origin.clone().ready().await?;
        let (response, mut stream) = origin.send_request(request, length == 0)?;
        let mut left = length;
        while left > 0 {
            if input.is_empty() {
                let (count, full) = from.read(input).await?;
                input = full;
                if count == 0 {
                    return Ok(());
                }
            }
            let piece = left.min(input.len());
            left -= piece;
            send(&mut stream, Bytes::copy_from_slice(&input[..piece]), left == 0).await?;
            input.drain(..piece);
        }
        let (head, mut body) = response.await?.into_parts();
        write_head(&Response::from_parts(head, ()), &mut out)?;
        while let Some(piece) = body.data().await {
            let piece = piece?;
            out.extend_from_slice(&piece);
            body.flow_control().release_capacity(piece.len())?;
            if out.len() > 4 * BUFFER {
                out = to.write(out).await?;
                out.clear();
            }
        }
        out = to.write(out).await?;
        out.clear();
    }
}

/// As the windows allow.
async fn send(stream: &mut h2::SendStream<Bytes>, mut piece: Bytes, end: bool) -> Result<(), Box<dyn Error>> {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let room =
            std::future::poll_fn(|context| stream.poll_capacity(context)).await.ok_or("the stream is over")??;
        let part = piece.split_to(room.min(piece.len()));
        let last = end && piece.is_empty();
        stream.send_data(part, last)?;
    }
    Ok(())
}

/// A request, the octets of its head, and of its body.
type Parsed = (Request<()>, usize, usize);

/// The request at the front of `input`.
fn head(input: &[u8]) -> Result<Option<Parsed>, Box<dyn Error>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(used) = parsed.parse(input)? else { return Ok(None) };
    let (mut authority, mut length) = ("", 0);
    let mut request = Request::builder().method(Method::from_bytes(parsed.method.unwrap_or("GET").as_bytes())?);
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes())?;
        if name == HOST {
            authority = std::str::from_utf8(field.value)?;
        } else if name != CONNECTION && name != TRANSFER_ENCODING {
            if name == CONTENT_LENGTH {
                length = std::str::from_utf8(field.value)?.parse()?;
            }
            request = request.header(name, HeaderValue::from_bytes(field.value)?);
        }
    }
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(parsed.path.unwrap_or("/")).build()?;
    Ok(Some((request.uri(uri).body(())?, used, length)))
}

fn write_head(response: &Response<()>, out: &mut Vec<u8>) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 {}\r\n", response.status())?;
    for (name, value) in response.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}
