//! A WebSocket client for short text messages (RFC 6455).

use std::net::SocketAddr;

use super::http::Conn;

/// The example of RFC 6455, section 1.3: a key, and the only right answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[derive(Debug)]
pub struct WebSocket {
    conn: Conn,
}

impl WebSocket {
    #[track_caller]
    pub fn open(addr: SocketAddr, host: &str, path: &str) -> WebSocket {
        let mut conn = Conn::open(addr);
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: \
             13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        conn.send(head.as_bytes()).unwrap();
        let reply = conn.reply(false).unwrap();
        assert_eq!(reply.status, 101, "{reply:?}");
        assert_eq!(reply.header("sec-websocket-accept"), Some(ACCEPT));
        WebSocket { conn }
    }

    /// Sends a text message and checks that the same comes back.
    #[track_caller]
    pub fn echo(&mut self, text: &str) {
        assert!(text.len() < 126, "only short messages");
        let mask = [7, 77, 177, 200];
        let mut frame = vec![0x81, 0x80 | text.len() as u8];
        frame.extend_from_slice(&mask);
        frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.conn.send(&frame).unwrap();
        let mut head = [0; 2];
        self.conn.read_exact(&mut head).unwrap();
        assert_eq!(head, [0x81, text.len() as u8], "an unmasked, final text frame of the same length");
        let mut body = vec![0; text.len()];
        self.conn.read_exact(&mut body).unwrap();
        assert_eq!(body, text.as_bytes());
    }

    /// Waits until the other side sends no more; it must not say anything else.
    pub fn is_over(&mut self) -> bool {
        self.conn.read_exact(&mut [0]).is_err()
    }
}
