// An application on Node's http, or on its http2 in cleartext. Argument: which. Prints its port. What it answers: main.rs.
import { createHash } from "node:crypto";
import http from "node:http";
import http2 from "node:http2";

const pattern = (size) => Buffer.from(Uint8Array.from({ length: size }, (_, at) => at % 251));
const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const pairs = (raw) => Array.from({ length: raw.length / 2 }, (_, at) => [raw[at * 2].toLowerCase(), raw[at * 2 + 1]]);

/** Interim heads, status, fields, body, trailers. */
function answer(method, target, fields, body, trailers) {
  const [path, query] = target.split("?");
  if (path === "/facts") {
    const facts = { method, target, fields, length: body.length, sha256: sha256(body), trailers };
    return { status: 200, fields: { "content-type": "application/json" }, body: Buffer.from(JSON.stringify(facts)) };
  }
  if (path === "/big") return { status: 200, fields: { "content-length": query }, body: method === "HEAD" ? null : pattern(Number(query)) };
  if (path === "/summed") {
    const whole = pattern(Number(query));
    return { status: 200, fields: { trailer: "x-sum" }, body: whole, trailers: { "x-sum": sha256(whole) } };
  }
  if (path === "/hints") return { interim: ["</a>; rel=preload", "</b>; rel=preload"], status: 200, fields: {}, body: Buffer.from("hinted") };
  if (path === "/status") return { status: Number(query), fields: { etag: '"a"' }, body: null };
  if (path === "/fields") {
    const many = Array.from({ length: Number(query) }, (_, at) => [`x-field-${at}`, "v".repeat(200)]);
    return { status: 200, fields: Object.fromEntries(many), body: Buffer.from("fields") };
  }
  return { status: 404, fields: {}, body: Buffer.from("no such path") };
}

/** Sends back frames as they came, unmasked, in `socket`; answers pings and closes (RFC 6455 §5). */
function echo(socket, first) {
  let had = first;
  const take = () => {
    while (had.length >= 6) {
      const short = had[1] & 0x7f;
      const start = 2 + (short === 126 ? 2 : short === 127 ? 8 : 0);
      if (had.length < start + 4) return;
      const length = short === 126 ? had.readUInt16BE(2) : short === 127 ? Number(had.readBigUInt64BE(2)) : short;
      if (had.length < start + 4 + length) return;
      const mask = had.subarray(start, start + 4);
      const payload = Buffer.from(had.subarray(start + 4, start + 4 + length)).map((octet, at) => octet ^ mask[at % 4]);
      const kind = had[0] & 0x0f;
      const head = Buffer.from(had.subarray(0, start));
      head[0] = kind === 9 ? 0x8a : head[0];
      head[1] &= 0x7f;
      socket.write(Buffer.concat([head, payload]));
      had = had.subarray(start + 4 + length);
      if (kind === 8) return void socket.end();
    }
  };
  socket.on("data", (data) => { had = Buffer.concat([had, data]); take(); });
  socket.on("error", () => {});
  take();
}

async function whole(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

function overHttp1() {
  const server = http.createServer(async (request, response) => {
    const body = await whole(request);
    const said = answer(request.method, request.url, pairs(request.rawHeaders), body, pairs(request.rawTrailers));
    for (const link of said.interim ?? []) response.writeEarlyHints({ link });
    response.writeHead(said.status, said.fields);
    if (said.trailers) response.addTrailers(said.trailers);
    response.end(said.body ?? undefined);
  });
  server.on("upgrade", (request, socket, first) => {
    const accept = createHash("sha1").update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
    echo(socket, first);
  });
  return server;
}

function overHttp2() {
  const server = http2.createServer({ settings: { enableConnectProtocol: true, initialWindowSize: 3000, headerTableSize: 200 } });
  server.on("stream", async (stream, head, _flags, raw) => {
    stream.on("error", () => {});
    if (head[":protocol"] === "websocket") {
      stream.respond({ ":status": 200 });
      return void echo(stream, Buffer.alloc(0));
    }
    if (head.expect === "100-continue") stream.additionalHeaders({ ":status": 100 });
    let trailers = [];
    stream.on("trailers", (_head, _flags, raw) => { trailers = pairs(raw); });
    const body = await whole(stream);
    const fields = pairs(raw).filter(([name]) => name[0] !== ":");
    const said = answer(head[":method"], head[":path"], fields, body, trailers);
    for (const link of said.interim ?? []) stream.additionalHeaders({ ":status": 103, link });
    const empty = said.body === null || said.body.length === 0;
    stream.respond({ ":status": said.status, ...said.fields }, { endStream: empty, waitForTrailers: Boolean(said.trailers) });
    if (said.trailers) stream.on("wantTrailers", () => stream.sendTrailers(said.trailers));
    if (!empty) stream.end(said.body);
  });
  return server;
}

const server = process.argv[2] === "http2" ? overHttp2() : overHttp1();
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
