//! What systemd and an edge tell each other: sockets that it opened before us (sd_listen_fds(3)), and which process is the
//! edge and how it is (sd_notify(3)). Without systemd nothing of it happens.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::upgrade::Inherited;

/// The variables of socket activation. They are for one process, not for its children.
pub const ACTIVATION: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
/// The first descriptor that is passed (SD_LISTEN_FDS_START).
const FIRST: i32 = 3;
/// More sockets than anybody lists in a unit.
const SOCKETS_MAX: i32 = 1024;

/// The sockets that this process was started with. Call it once, before anything else opens descriptors by number.
///
/// # Errors
/// A sentence, when what was passed is not what was said, or is no listening TCP socket.
pub fn sockets() -> Result<Inherited, String> {
    let mut inherited = Inherited::default();
    let number = |name: &str| env::var(name).ok()?.parse::<i32>().ok();
    if number(ACTIVATION[0]) != i32::try_from(std::process::id()).ok() {
        return Ok(inherited);
    }
    let names = env::var(ACTIVATION[2]).unwrap_or_default();
    let mut names = names.split(':');
    for at in 0..number(ACTIVATION[1]).unwrap_or(0).clamp(0, SOCKETS_MAX) {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unnamed");
        let socket = steady_sys::fds::adopt(FIRST + at)
            .map_err(|error| format!("socket {at} ({name}) of LISTEN_FDS is not there: {error}"))?;
        inherited.add(name, None, socket)?;
    }
    Ok(inherited)
}

/// Tells whoever supervises this process (`NOTIFY_SOCKET`), if somebody does. A failure is logged: nothing depends on it here.
pub fn notify(state: &str) {
    let Some(to) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&to, state) {
        tracing::warn!(%error, "the supervisor cannot be told how this process is");
    }
}

fn send(to: &OsString, state: &str) -> io::Result<()> {
    let addr = match to.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &addr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("steady-notify-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (to, socket) in [(path.into_os_string(), by_path), (format!("@{name}").into(), by_name)] {
            send(&to, "READY=1").unwrap();
            let mut octets = [0; 16];
            let length = socket.recv(&mut octets).unwrap();
            assert_eq!(&octets[..length], b"READY=1");
        }
        send(&"/nowhere/at/all".into(), "READY=1").unwrap_err();
    }
}
