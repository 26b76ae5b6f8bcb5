// Node's own clients: http, https, http2, fetch. Arguments: http port, https port, CA file, name, number of requests.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";

const [httpPort, httpsPort, caFile, name, requests] = process.argv.slice(2);
const ca = readFileSync(caFile);
const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const body = (number) => Buffer.alloc((number * 37) % 5000, number % 256);

function ask(module, options, data) {
  return new Promise((resolve, reject) => {
    const request = module.request({ host: "127.0.0.1", method: data ? "POST" : "GET", ...options }, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part)).on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode, text: Buffer.concat(parts).toString() }));
    });
    request.on("error", reject).end(data);
  });
}

function check(status, text, number) {
  const facts = JSON.parse(text);
  assert.equal(status, 200);
  assert.deepEqual([facts.target, facts.sha256], [`/request?${number}`, sha256(body(number))]);
}

const each = async (work) => { for (let number = 0; number < requests; number += 1) await work(number); };

const overHttp = { port: httpPort, headers: { host: `${name}.localhost` }, agent: new http.Agent({ keepAlive: true, maxSockets: 1 }) };
await each(async (number) => {
  const { status, text } = await ask(http, { ...overHttp, path: `/request?${number}` }, body(number));
  check(status, text, number);
});
overHttp.agent.destroy();

const host = `${name}.steady.page`;
const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca, servername: host });
await each(async (number) => {
  const options = { port: httpsPort, headers: { host: `${host}:${httpsPort}` }, agent, path: `/request?${number}` };
  const { status, text } = await ask(https, options, body(number));
  check(status, text, number);
});
agent.destroy();

// All at once, over one connection.
const session = http2.connect(`https://${host}:${httpsPort}`, { ca, servername: host, host: "127.0.0.1", lookup: (_, options, done) => options.all ? done(null, [{ address: "127.0.0.1", family: 4 }]) : done(null, "127.0.0.1", 4) });
const over2 = (number) => new Promise((resolve, reject) => {
  const stream = session.request({ ":method": "POST", ":path": `/request?${number}` });
  let status, text = "";
  stream.setEncoding("utf8").on("response", (fields) => { status = fields[":status"]; });
  stream.on("data", (part) => { text += part; }).on("error", reject).on("end", () => resolve({ status, text }));
  stream.end(body(number));
});
const answers = await Promise.all(Array.from({ length: Number(requests) }, (_, number) => over2(number)));
answers.forEach(({ status, text }, number) => check(status, text, number));
session.close();

const response = await fetch(`http://127.0.0.1:${httpPort}/`);
assert.equal(response.status, 404, "an address is no application");
await response.text();
console.log("ok");
