// Runs before an application on Bun: binds its server to the unix socket of this start, whatever port it asks for.
//
// The agent gives the socket's path in STEADY_SOCKET. The first HTTP server that the application makes (Bun.serve,
// `export default { fetch }`, or a node:http server) gets it; any other is left as it is. Idle time-outs of that server
// are put out of the way, because the agent ends idle connections: a request must never meet a socket that is closing.

import { Server as HttpServer } from "node:http";

const socket = process.env.STEADY_SOCKET;

if (socket) {
  let taken = false;

  const serve = Bun.serve;
  const bound = function (options: any) {
    if (taken || !options || typeof options !== "object") return serve(options);
    const { port, hostname, reusePort, ipv6Only, unix, ...rest } = options;
    taken = true;
    try {
      // With a unix socket Bun takes 0 as "never"; what the application set is for clients, and those are not here.
      return serve({ ...withPrototype(options, rest), unix: socket, idleTimeout: 0, tls: undefined });
    } catch (error) {
      taken = false;
      throw error;
    }
  };
  Bun.serve = bound as typeof Bun.serve;

  const listen = HttpServer.prototype.listen;
  HttpServer.prototype.listen = function (this: any, ...args: any[]) {
    if (taken) return listen.apply(this, args as any);
    taken = true;
    // 0 is "never" for each of these.
    this.keepAliveTimeout = 0;
    this.headersTimeout = 0;
    this.requestTimeout = 0;
    this.timeout = 0;
    const called = args.find((arg) => typeof arg === "function");
    return called ? listen.call(this, socket, called) : listen.call(this, socket);
  } as typeof listen;
}

// Options may come from a class: its handlers are on the prototype, which a spread does not copy.
function withPrototype(options: any, rest: any): any {
  for (const name of ["fetch", "error", "websocket", "routes", "development", "maxRequestBodySize"]) {
    if (!(name in rest) && options[name] !== undefined) rest[name] = options[name];
  }
  return rest;
}
