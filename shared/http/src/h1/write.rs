//! Writing heads.

use super::fields::{is_forbidden_in_trailers, is_of_connection};
use crate::decimal;
use crate::head::{Head, Name};

/// Appends `name: value` and CRLF.
pub(super) fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    debug_assert!(!value.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)), "a head's value holds CR, LF or NUL");
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a head's fields, but none that `skip` names and none that would frame or route the message: those are written
/// from what the codec knows.
pub(super) fn fields(head: &Head, skip: impl Fn(Name) -> bool, out: &mut Vec<u8>) {
    for each in head.fields() {
        if !is_of_connection(each.id) && !skip(each.id) {
            field(each.name, each.value, out);
        }
    }
}

/// Appends the trailers that may be sent.
pub(super) fn trailers(trailers: &Head, out: &mut Vec<u8>) {
    fields(trailers, is_forbidden_in_trailers, out);
}

/// Appends a part of the request line, or `Host`. What came over HTTP/2 may hold octets that would end the part, the line or the
/// head here; they are percent-encoded, which no recipient can take for framing.
pub(super) fn part(text: &[u8], out: &mut Vec<u8>) {
    let is_plain = |octet: &u8| matches!(octet, 0x21..=0x7e) && *octet != b'#';
    if text.iter().all(is_plain) {
        return out.extend_from_slice(text);
    }
    for octet in text {
        if is_plain(octet) {
            out.push(*octet);
        } else {
            let digit = |value: u8| b"0123456789ABCDEF"[usize::from(value)];
            out.extend_from_slice(&[b'%', digit(octet >> 4), digit(octet & 0xf)]);
        }
    }
}

pub(super) fn content_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"content-length: ");
    out.extend_from_slice(decimal(length, &mut [0; 20]));
    out.extend_from_slice(b"\r\n");
}

pub(super) const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n";

pub(super) fn hex(mut value: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[value & 0xf];
        value >>= 4;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the status line. An unknown status has an empty reason, after the space that RFC 9112 §4 asks for.
pub(super) fn status_line(status: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(decimal(status.into(), &mut [0; 20]));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The phrases of RFC 9110 §15 and of IANA's registry.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}
