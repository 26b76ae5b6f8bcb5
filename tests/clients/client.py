"""Python's own HTTP client: what `http.client` does with an edge. Arguments: port, name, number of requests."""

import hashlib
import http.client
import json
import sys

port, host, requests = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)


def ask(method, path, body=None, headers={}, chunked=False):
    connection.request(method, path, body, {"Host": host, **headers}, encode_chunked=chunked)
    response = connection.getresponse()
    return response.status, response.read()


# One connection for all: getting a new one would hide that an answer ended wrongly.
status, first = ask("GET", "/")
sock = connection.sock
assert status == 200, (status, first)
for number in range(requests):
    data = bytes([number % 256]) * (number * 37 % 5000)
    status, answer = ask("POST", f"/request?{number}", data)
    facts = json.loads(answer)
    assert status == 200 and facts["target"] == f"/request?{number}", facts
    assert (facts["length"], facts["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), facts
parts = [b"one ", b"two ", b"three"]
status, answer = ask("POST", "/request", iter(parts), {"Transfer-Encoding": "chunked"}, chunked=True)
assert json.loads(answer)["sha256"] == hashlib.sha256(b"".join(parts)).hexdigest(), answer
assert ask("HEAD", "/") == (200, b"")
assert ask("GET", "/status?code=204") == (204, b"")
assert ask("GET", "/")[0] == 200
assert connection.sock is sock, "the connection was closed"
print("ok")
