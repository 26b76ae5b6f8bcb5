//! The files that people write: whatever is in them, they are read or refused with reasons, and the PROXY protocol's header.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use tempfile::TempDir;

use crate::Octets;

/// What is read does not depend on how much follows, and a header that tells an address tells the one that was written.
pub fn proxy_protocol(data: &[u8]) {
    use steady_proxy::proxy_protocol::{Header, parse};
    let whole = parse(data);
    if let Ok(Some(header)) = whole {
        assert!(header.consumed <= data.len());
        assert_eq!(parse(&data[..header.consumed]), whole);
        for len in 0..header.consumed {
            assert_eq!(parse(&data[..len]), Ok(None), "{len} octets are no whole header");
        }
    }
    if let Ok(None) = whole {
        assert!(data.len() < 16 + 2048, "what is never whole is never refused");
    }
    let mut octets = Octets(data);
    let v4 = octets.one() & 1 == 0;
    let (source, family) = if v4 {
        (SocketAddr::new(octets.four().to_be_bytes().into(), octets.two()), "TCP4")
    } else {
        let mut address = [0; 16];
        address.iter_mut().for_each(|octet| *octet = octets.one());
        (SocketAddr::new(address.into(), octets.two()), "TCP6")
    };
    let ip = source.ip();
    let line = format!("PROXY {family} {ip} {ip} {} 443\r\n", source.port());
    assert_eq!(parse(line.as_bytes()), Ok(Some(Header { source: Some(source), consumed: line.len() })));
    let extra = octets.some(40);
    let binary = version_2(source, extra);
    assert_eq!(parse(&binary), Ok(Some(Header { source: Some(source), consumed: binary.len() })));
}

/// The header of a connection over TCP from `source` to itself, with these octets of extensions.
fn version_2(source: SocketAddr, extra: &[u8]) -> Vec<u8> {
    let (family, address) = match source.ip() {
        IpAddr::V4(ip) => (0x11, ip.octets().to_vec()),
        IpAddr::V6(ip) => (0x21, ip.octets().to_vec()),
    };
    let port = source.port().to_be_bytes();
    let rest = [&address[..], &address, &port, &port, extra].concat();
    let length = (rest.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family][..], &length, &rest].concat()
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

pub fn lb_toml(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Err(invalid) = steady_lb::config::Config::parse(text) {
        assert!(!invalid.0.is_empty(), "refused without a reason");
        assert!(!invalid.to_string().is_empty());
    }
}

pub fn agent_toml(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Err(error) = text.parse::<steady_agent::Config>() {
        assert!(!error.to_string().is_empty());
    }
}

thread_local! {
    /// An application's folder; making one costs more than what is looked at here.
    static FOLDER: TempDir = {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        fs::write(dir.path().join("index.ts"), "").expect("written");
        dir
    };
}

pub fn steady_toml(data: &[u8]) {
    FOLDER.with(|dir| {
        fs::write(dir.path().join("steady.toml"), data).expect("written");
        if let Err(error) = steady_agent::app_spec::Spec::load(dir.path()) {
            assert!(!error.faults.is_empty(), "refused without a reason");
        }
    });
}
