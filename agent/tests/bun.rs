//! Applications on Bun, each way they make a server. Needs Bun: STEADY_BUN, or PATH.

mod rig;

use rig::*;
use steady_ring::Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Runs an `index.ts` under the agent; `None`, loudly, when there is no Bun.
async fn run(name: &str, code: &str) -> Option<(tempfile::TempDir, Rig, Ready)> {
    if bun().is_none() {
        eprintln!("\n*** SKIPPED {name}: no Bun; put it in PATH, or set STEADY_BUN to it (npm install bun) ***\n");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = rig.client.bundle(&[("index.ts", code)]).await;
    let (status, shown) = rig.client.place("shop", 1, "owner", 1, &digest).await;
    assert_eq!(status, 200, "{shown}");
    let ready = rig.plane.until_ready("shop").await;
    assert!(matches!(ready.addr, Addr::Unix(_)), "{ready:?}");
    Some((dir, rig, ready))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bun_serve_answers_on_the_socket_whatever_port_it_asks_for_and_a_second_server_is_left_alone() {
    let code = r#"
        const first = Bun.serve({ port: 80, idleTimeout: 1, fetch: () => new Response(`first ${second.port > 0}`) });
        const second = Bun.serve({ port: 0, fetch: () => new Response("second") });
    "#;
    let Some((_dir, rig, ready)) = run("Bun.serve", code).await else { return };
    assert_eq!(ready.get("/").await, "first true");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_default_answers_on_the_socket() {
    let code =
        r#"export default { port: 80, fetch: (request: Request) => new Response(new URL(request.url).pathname) };"#;
    let Some((_dir, rig, ready)) = run("export default", code).await else { return };
    assert_eq!(ready.get("/abc").await, "/abc");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_export_of_a_class_keeps_its_handlers() {
    let code = r#"class App { port = 80; fetch() { return new Response("of a class"); } } export default new App();"#;
    let Some((_dir, rig, ready)) = run("export default of a class", code).await else { return };
    assert_eq!(ready.get("/").await, "of a class");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_http_server_answers_on_the_socket_and_its_callback_is_called() {
    let code = r#"
        import { createServer } from "node:http";
        let listening = false;
        createServer((request, response) => response.end(`node ${request.url} ${listening}`))
            .listen(80, "0.0.0.0", () => { listening = true; });
    "#;
    let Some((_dir, rig, ready)) = run("node:http", code).await else { return };
    assert_eq!(ready.get("/x").await, "node /x true");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_sockets_of_bun_serve_work_on_the_socket() {
    let code = r#"
        Bun.serve({
            port: 80,
            fetch(request, server) { return server.upgrade(request) ? undefined : new Response("plain"); },
            websocket: { message(socket, text) { socket.send(`echo ${text}`); } },
        });
    "#;
    let Some((_dir, rig, ready)) = run("WebSocket", code).await else { return };
    let Addr::Unix(path) = &ready.addr else { unreachable!() };
    let mut io = UnixStream::connect(path).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    io.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(PATIENCE, io.read_u8()).await.unwrap().unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    // A text frame "hi", masked with zeros (RFC 6455 section 5.2).
    io.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
    let mut frame = [0; 9];
    tokio::time::timeout(PATIENCE, io.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(&frame, b"\x81\x07echo hi");
    rig.stop().await;
}
