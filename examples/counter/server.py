"""Appends every POSTed line to a file, once: what a move must neither lose nor repeat.

POST /      the body, one line, is appended to $COUNTER_FILE and synced before the answer
GET /       how many lines the file has
"""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATH = os.environ.get("COUNTER_FILE", "ids.txt")
HOST = os.environ.get("STEADY_HOST", "this machine")
LINE_BYTES_MAX = 4096
WRITE = threading.Lock()


class Counter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open between requests
    disable_nagle_algorithm = True  # head and body are two sends: the second must not wait for the first

    def do_POST(self):
        line = self.read_body()
        if line is None:
            return self.answer(400, "one line of at most %d octets, please\n" % LINE_BYTES_MAX)
        with WRITE, open(PATH, "ab") as file:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.answer(200, "%s %s %d\n" % (line.decode("utf-8", "replace"), HOST, os.getpid()))

    def do_GET(self):
        try:
            with open(PATH, "rb") as file:
                count = sum(1 for _ in file)
        except FileNotFoundError:
            count = 0
        self.answer(200, f"{count}\n")

    do_HEAD = do_GET

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
                if len(body) > LINE_BYTES_MAX:
                    self.close_connection = True
                    return None
            while self.rfile.readline().strip():
                pass
        else:
            size = int(self.headers.get("Content-Length", 0))
            if size > LINE_BYTES_MAX:
                self.close_connection = True
                return None
            body = self.rfile.read(size)
        return body if body and b"\n" not in body else None

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    print(f"counter appends to {PATH}, listens on 127.0.0.1:{port}")
    Server(("127.0.0.1", port), Counter).serve_forever()
