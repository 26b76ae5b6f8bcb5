"""What time it is, in Python's standard library alone."""

import os
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = os.environ.get("STEADY_HOST", "this machine")


class Clock(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open between requests
    disable_nagle_algorithm = True  # head and body are two sends: the second must not wait for the first

    def do_GET(self):
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        body = f"{now} on {HOST}, process {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass  # the host logs every request already


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    print(f"clock listens on 127.0.0.1:{port}")
    Server(("127.0.0.1", port), Clock).serve_forever()
