// Node's http, https and http2: everything that an application of this folder answers, through an edge. Arguments: the edge's plain
// port, its TLS port, the CA's file, the applications' names. Says `ok` at the end.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";

const [plain, tls, caFile, ...names] = process.argv.slice(2);
const ca = readFileSync(caFile);
const pattern = (size) => Buffer.from(Uint8Array.from({ length: size }, (_, at) => at % 251));
const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const pairs = (raw) => Array.from({ length: raw.length / 2 }, (_, at) => [raw[at * 2].toLowerCase(), raw[at * 2 + 1]]);
const lookup = (_, options, done) => options.all ? done(null, [{ address: "127.0.0.1", family: 4 }]) : done(null, "127.0.0.1", 4);

/** One connection of HTTP/1.1. */
function one(name, secure) {
  const host = `${name}.steady.page`;
  const module = secure ? https : http;
  const agent = new module.Agent({ keepAlive: true, maxSockets: 1, ca, servername: host });
  const ask = (method, path, { fields = {}, body, length = true, trailers } = {}) => new Promise((resolve, reject) => {
    const headers = { host, ...fields, ...(body && length ? { "content-length": body.length } : {}), ...(trailers ? { trailer: Object.keys(trailers).join() } : {}) };
    const interim = [];
    const request = module.request({ host: "127.0.0.1", port: secure ? tls : plain, agent, method, path, headers }, async (response) => {
      const parts = [];
      try {
        for await (const part of response) parts.push(part);
      } catch (error) {
        return void reject(error);
      }
      resolve({ status: response.statusCode, fields: response.headers, body: Buffer.concat(parts), trailers: response.trailers, interim });
    });
    request.on("information", ({ statusCode, headers }) => interim.push([statusCode, headers.link])).on("error", reject);
    if (trailers) request.addTrailers(trailers);
    request.end(body);
  });
  const websocket = () => new Promise((resolve, reject) => {
    const headers = { host, connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==" };
    const request = module.request({ host: "127.0.0.1", port: secure ? tls : plain, path: "/ws", headers, ca, servername: host });
    request.on("upgrade", (response, socket, first) => {
      assert.equal(response.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
      assert.equal(first.length, 0);
      resolve(socket);
    });
    request.on("error", reject).on("response", ({ statusCode }) => reject(new Error(`no upgrade but ${statusCode}`))).end();
  });
  return { ask, websocket, close: () => agent.destroy() };
}

/** One connection of HTTP/2, with a small window a stream and a small table. */
async function two(name, secure) {
  const host = `${name}.steady.page`;
  const settings = { initialWindowSize: 5000, headerTableSize: 100, enablePush: false };
  const session = http2.connect(`${secure ? "https" : "http"}://${host}:${secure ? tls : plain}`, { ca, servername: host, lookup, settings });
  await once(session, "remoteSettings");
  const ask = (method, path, { fields = {}, body, length = true, trailers } = {}) => new Promise((resolve, reject) => {
    const head = { ":method": method, ":path": path, ":authority": host, ...fields, ...(body && length ? { "content-length": body.length } : {}) };
    const stream = session.request(head, { endStream: !body, waitForTrailers: Boolean(trailers) });
    const answer = { interim: [], trailers: {} };
    if (trailers) stream.on("wantTrailers", () => stream.sendTrailers(trailers));
    stream.on("headers", (head) => answer.interim.push([head[":status"], head.link]));
    stream.on("response", (head) => Object.assign(answer, { status: head[":status"], fields: head }));
    stream.on("trailers", (head) => { answer.trailers = { ...head }; });
    const parts = [];
    stream.on("data", (part) => parts.push(part)).on("error", reject);
    stream.on("end", () => resolve({ ...answer, body: Buffer.concat(parts) }));
    if (body) stream.end(body);
  });
  const websocket = async () => {
    assert(session.remoteSettings.enableConnectProtocol);
    const stream = session.request({ ":method": "CONNECT", ":protocol": "websocket", ":path": "/ws", ":authority": host, "sec-websocket-version": "13" });
    const [head] = await once(stream, "response");
    assert.equal(head[":status"], 200);
    return stream;
  };
  return { ask, websocket, close: () => session.close() };
}

/** A frame as a client's (RFC 6455 §5.2). */
function frame(first, payload) {
  const length = payload.length;
  const long = Buffer.alloc(8);
  long.writeBigUInt64BE(BigInt(length));
  const form = length < 126 ? [length] : length < 65536 ? [126, ...long.subarray(6)] : [127, ...long];
  const mask = [7, 77, 177, 200];
  return Buffer.concat([Buffer.from([first, form[0] | 0x80, ...form.slice(1), ...mask]), payload.map((octet, at) => octet ^ mask[at % 4])]);
}

/** The messages in these octets, `[opcode, payload]`, however they are cut into frames. */
function messages(octets) {
  const whole = [];
  let pieces = [];
  let kind = 0;
  for (let at = 0; at < octets.length;) {
    const [first, second] = octets.subarray(at);
    assert.equal(second & 0x80, 0, "a server masks nothing");
    const start = at + (second === 126 ? 4 : second === 127 ? 10 : 2);
    const length = second === 126 ? octets.readUInt16BE(at + 2) : second === 127 ? Number(octets.readBigUInt64BE(at + 2)) : second;
    if (octets.length < start + length) break;
    kind = first & 0x0f || kind;
    pieces.push(octets.subarray(start, start + length));
    if (first & 0x80) {
      whole.push([kind, sha256(Buffer.concat(pieces))]);
      pieces = [];
    }
    at = start + length;
  }
  return whole;
}

async function talk(stream) {
  const said = [[1, "one"], [1, "fragments of a message"], ...[0, 125, 126, 65535, 65536].map((size) => [2, pattern(size)])];
  for (let at = 0; at < 200; at += 1) said.push([1, String(at)]);
  said.push([8, Buffer.from([0x0b, 0xb8])]);
  const heard = [];
  const over = new Promise((resolve, reject) => stream.on("data", (part) => heard.push(part)).on("error", reject).on("end", resolve));
  for (const [kind, payload] of said) {
    const octets = Buffer.from(payload);
    const cut = payload === "fragments of a message" ? 10 : octets.length;
    if (cut < octets.length) stream.write(frame(kind, octets.subarray(0, cut)));
    stream.write(cut < octets.length ? frame(0x80, octets.subarray(cut)) : frame(0x80 | kind, octets));
  }
  await over;
  assert.deepEqual(messages(Buffer.concat(heard)), said.map(([kind, payload]) => [kind, sha256(payload)]));
  stream.destroy();
}

async function check({ ask, websocket }, name, http1) {
  const json = async (...asked) => {
    const { status, body } = await ask(...asked);
    assert.equal(status, 200, body.toString());
    return JSON.parse(body);
  };
  for (const size of [1, 3000, 100000]) {
    const body = pattern(size);
    let facts = await json("POST", `/facts?${size}`, { body });
    assert.deepEqual([facts.method, facts.target, facts.length, facts.sha256], ["POST", `/facts?${size}`, size, sha256(body)]);
    facts = await json("PUT", "/facts", { body, length: false, trailers: { "x-end": "of it" } });
    assert.deepEqual([facts.length, facts.sha256, facts.trailers], [size, sha256(body), [["x-end", "of it"]]]);
  }
  let answer = await ask("GET", "/big?300000");
  assert(answer.body.equals(pattern(300000)));
  answer = await ask("HEAD", "/big?300000");
  assert.deepEqual([answer.status, answer.body.length, answer.fields["content-length"]], [200, 0, "300000"]);
  answer = await ask("GET", "/summed?70000", { fields: http1 ? { te: "trailers", connection: "te, keep-alive" } : { te: "trailers" } });
  assert.equal(answer.trailers["x-sum"], sha256(answer.body));
  answer = await ask("GET", "/hints");
  // hyper cannot send them.
  const links = name.startsWith("hyper") ? [] : ["</a>; rel=preload", "</b>; rel=preload"];
  assert.deepEqual(answer.interim, links.map((link) => [103, link]));
  assert.equal(answer.body.toString(), "hinted");
  for (const status of [204, 304]) {
    answer = await ask("GET", `/status?${status}`);
    assert.deepEqual([answer.status, answer.body.length, answer.fields.etag], [status, 0, '"a"']);
  }
  const many = Object.fromEntries(Array.from({ length: 40 }, (_, at) => [`x-mine-${at}`, "w".repeat(200)]));
  answer = await ask("GET", "/fields?40", { fields: many });
  for (let at = 0; at < 40; at += 1) assert.equal(answer.fields[`x-field-${at}`], "v".repeat(200));
  const sizes = Array.from({ length: 60 }, (_, at) => 1 + (at * 577) % 9000);
  const all = await Promise.all(sizes.map((size, at) => json("POST", `/facts?${at}`, { body: pattern(size) })));
  all.forEach((facts, at) => assert.deepEqual([facts.target, facts.length], [`/facts?${at}`, sizes[at]]));
  await talk(await websocket());
}

for (const name of names) {
  for (const secure of [false, true]) {
    for (const version of [one, two]) {
      try {
        const peer = await version(name, secure);
        await check(peer, name, version === one);
        peer.close();
      } catch (error) {
        console.error(`${name}, ${secure ? "TLS" : "plain"}, HTTP/${version === one ? 1 : 2}:`);
        throw error;
      }
    }
  }
}
console.log("ok");
