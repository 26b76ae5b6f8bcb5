// A page that counts its requests, a WebSocket that echoes and a stream of server-sent events: one of each thing that a web
// application does. There is nothing in it about where it runs; `export default` is all that Bun needs.
import page from "./page.html" with { type: "text" };

const name = process.env.STEADY_APP ?? "hello";
const host = process.env.STEADY_HOST ?? "this machine";
const encoder = new TextEncoder();
let count = 0;

/** Two events a second until the reader leaves. */
function events(signal: AbortSignal): Response {
  let timer: Timer | undefined;
  const stop = () => clearInterval(timer);
  const stream = new ReadableStream({
    start(controller) {
      const send = () => controller.enqueue(encoder.encode(`data: ${JSON.stringify({ host, count, pid: process.pid })}\n\n`));
      send();
      timer = setInterval(send, 500);
      signal.addEventListener("abort", stop);
    },
    cancel: stop,
  });
  return new Response(stream, { headers: { "content-type": "text/event-stream", "cache-control": "no-store" } });
}

function body(request: Request): Response {
  count += 1;
  const facts = { name, host, pid: process.pid, count, bun: Bun.version };
  if (!request.headers.get("accept")?.includes("text/html")) {
    return new Response(`Hello from ${name} on ${host}: request ${count} of process ${facts.pid}\n`);
  }
  const text = (page as unknown as string).replace("{{facts}}", JSON.stringify(facts));
  return new Response(text, { headers: { "content-type": "text/html; charset=utf-8" } });
}

export default {
  async fetch(request: Request, server: Bun.Server): Promise<Response | undefined> {
    const url = new URL(request.url);
    switch (url.pathname) {
      case "/ws":
        return server.upgrade(request) ? undefined : new Response("A WebSocket lives here.\n", { status: 426 });
      case "/events":
        return events(request.signal);
      case "/echo":
        // Whatever is sent comes back, as it comes.
        return new Response(request.body, {
          headers: { "content-type": request.headers.get("content-type") ?? "application/octet-stream" },
        });
      case "/health":
        return new Response("ok\n"); // asked by the host, so that its questions are not counted
      case "/":
        return body(request);
      default:
        return new Response("There is /, /events, /echo and /ws.\n", { status: 404 });
    }
  },
  websocket: {
    message(socket: Bun.ServerWebSocket, message: string | Buffer) {
      socket.send(message);
    },
  },
};
