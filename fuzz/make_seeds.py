#!/usr/bin/env python3
"""Writes the seeds of every target: few, small, each one way through the code that random octets would be long in finding."""
import pathlib
import re
import struct

ROOT = pathlib.Path(__file__).parent / "seeds"


def put(target, seeds):
    folder = ROOT / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, octets in seeds.items():
        (folder / name).write_bytes(octets if isinstance(octets, bytes) else octets.encode())


HOST = "Host: a.example\r\n"
REQUESTS = {
    "get": f"GET /a?b HTTP/1.1\r\n{HOST}Accept: */*\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n",
    "post": f"POST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhello",
    "chunked": f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\nTrailer: x\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    "pipelined": f"HEAD / HTTP/1.1\r\n{HOST}\r\nOPTIONS * HTTP/1.1\r\n{HOST}TE: trailers\r\nConnection: te, x\r\nX: 1\r\n\r\n",
    "connect": "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\ntunnel",
    "websocket": f"GET /ws HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nframes",
    "upgrade": f"GET / HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: h2c, other/1\r\n\r\nx",
    "absolute": f"GET http://a.example/x HTTP/1.1\r\n{HOST}\r\n",
    "old": "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "expect": f"PUT / HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
}
put("h1_request", {name: bytes([how, 3]) + text.encode() for name, text in REQUESTS.items() for how in [4]})
RESPONSES = {
    "length": (0, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    "chunked": (0, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n\r\n"),
    "close": (0, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"),
    "interim": (7, "HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 X\r\nETag: a\r\n\r\n"),
    "head": (2, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    "connect": (4, "HTTP/1.1 200 OK\r\n\r\ntunnel"),
    "websocket": (5, "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nframes"),
    "other": (6, "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: other/1\r\n\r\nframes"),
    "old": (0, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"),
}
put("h1_response", {name: bytes([how, 3]) + text.encode() for name, (how, text) in RESPONSES.items()})
put("chunked", {
    "plain": b"\x035\r\nhello\r\n0\r\n\r\n",
    "many": b"\x001\r\na\r\n0B;x=\"y\"\r\nhello world\r\n000\r\nX: 1\r\n\r\nGET",
})


def step(what, stream, *rest):
    return bytes([what, stream]) + b"".join(rest)


def frame(kind, stream, flags, payload):
    return step(kind, stream, bytes([flags, len(payload)]), payload)


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


POST = literal(":method", "POST") + literal(":scheme", "http") + literal(":authority", "a.example") + literal(":path", "/x")
WEBSOCKET = literal(":method", "CONNECT") + literal(":protocol", "websocket") + literal(":scheme", "http") \
    + literal(":authority", "a.example") + literal(":path", "/ws")
put("h2_server", {
    "get": b"\0\5" + step(101, 1) + step(181, 0, b"\2"),
    "post": b"\0\3" + frame(1, 1, 4, POST + literal("content-length", "4") + literal("te", "trailers")) + frame(0, 1, 1, b"body")
    + step(180, 0, b"\2") + step(201, 0, b"\0\x40"),
    "split": b"\0\2" + frame(1, 1, 0, POST[:9]) + frame(9, 1, 4, POST[9:]) + frame(0, 1, 0, b"x") + frame(1, 1, 5, literal("x", "y")),
    "padded": b"\0\1" + frame(1, 1, 0x2c, b"\2" + b"\0" * 5 + POST + b"\0\0") + frame(0, 1, 9, b"\2xx\0\0"),
    "tunnel": b"\0\7" + frame(1, 1, 4, WEBSOCKET) + step(180, 0, b"\2") + frame(0, 1, 0, b"frames") + step(200, 0, b"\0\5"),
    "settings": b"\0\4" + frame(4, 0, 0, struct.pack(">HIHIHI", 1, 0, 4, 10, 5, 20000)) + step(100, 1) + step(180, 0, b"\2")
    + step(201, 0, b"\1\0") + step(170, 1, b"\0\0\1\0") + step(170, 0, b"\0\1\0\0") + step(201, 0, b"\1\0"),
    "control": b"\0\3" + frame(6, 0, 0, b"12345678") + frame(7, 0, 0, b"\0" * 8) + frame(2, 3, 0, b"\0" * 5) + frame(10, 9, 0, b"?")
    + step(100, 1) + frame(3, 1, 0, b"\0\0\0\x08"),
    "cookies": b"\0\6" + frame(1, 1, 5, POST + literal("cookie", "a=1") + literal("cookie", "b=2") + literal("host", "a.example:80")),
    "tables": b"\0\2" + frame(1, 1, 5, POST + b"\x40\1a\1b\x40\1c\1d\x10\1e\1f") + frame(1, 3, 5, POST + b"\xbe\xbf"),
    "leaving": b"\2\3" + step(100, 1) + step(235, 0) + step(100, 3) + step(238, 0) + step(220, 0),
})
put("h2_client", {
    "answer": b"\0\5" + step(240, 0, b"\3abc") + step(241, 0, b"\0") + step(130, 1) + frame(0, 1, 1, b"body") + step(131, 3),
    "upload": b"\0\2" + step(240, 0, b"\1a") + step(200, 0, b"\1\0") + step(131, 1) + step(201, 0, b"\0\1"),
    "away": b"\0\3" + step(241, 0, b"\1a") + step(241, 0, b"\1b") + frame(7, 0, 0, b"\0\0\0\1" + b"\0" * 4),
    "interim": b"\0\3" + step(241, 0, b"\1a") + frame(1, 1, 4, literal(":status", "103") + literal("link", "a"))
    + frame(1, 1, 4, literal(":status", "200") + literal("content-length", "2")) + frame(0, 1, 0, b"hi") + frame(1, 1, 5, literal("x", "y")),
    "settings": b"\2\3" + frame(4, 0, 0, struct.pack(">HIHIHI", 3, 1, 4, 10, 8, 1)) + step(240, 0, b"\1a") + step(240, 0, b"\1b"),
})
put("h2_crate", {
    "get": bytes([151, 1, 0]),
    "post": bytes([0, 0, 0]) + bytes([150, 1, 3]) + b"\x90\x91\x92" + bytes([201, 1, 5]) + b"hello",
    "head": bytes([1, 1, len(POST)]) + b"\5" + POST,
    "trailers": bytes([150, 1, 0, 200, 1, 2]) + b"hi" + bytes([1, 1, 5]) + b"\5" + literal("x", "y")[:5],
})
put("h2_crate_client", {
    "answer": bytes([150, 0, 0]) + bytes([210, 0, 5]) + b"hello" + bytes([211, 0, 0]) + bytes([151, 1, 0]) + bytes([153, 2, 0]),
    "interim": bytes([110, 0, 0]) + bytes([151, 0, 5]) + literal("x", "y")[:5],
    "trailers": bytes([150, 0, 0]) + bytes([200, 0, 5]) + literal("x", "y")[:5],
    "length": bytes([150, 2, len(literal("content-length", "2"))]) + literal("content-length", "2") + bytes([211, 2, 2]) + b"hi",
    "away": bytes([7, 0, 8, 0]) + b"\0" * 8 + bytes([3, 1, 4, 0]) + b"\0\0\0\x08",
})
put("h2_fields", {
    "ours": b"\0\x12\x0f\xff\0\x13abc\1\2\4\x05\0\x80\0\x13abc\x21\0\0\1\x15hello\x02\x0f\xff\2\1\x3f\3\x14abcd",
    "theirs": b"\1\x12\x0f\xff\0\x13abc\1\2\4\x05\0\x80\0\x13abc\x21\0\0\1\x15hello\x02\x0f\xff\2\1\x3f\3\x14abcd",
})
put("hpack", {
    "decode": b"\0" + struct.pack(">H", 20) + bytes.fromhex("828684410f7777772e6578616d706c652e636f6d") + struct.pack(">H", 5)
    + bytes.fromhex("828684be58") ,
    "huffman": b"\0" + struct.pack(">H", 17) + bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"),
    "encode": b"\1\1\x10\0\x04\0\x12ab\5\x11c\6\x10\x0d\x13xyz\x84\x01\0\5\x11c\6\x10",
})
put("table", {"nothing": b"\0", "base": b"\0\0\x50\1\1\0\2", "log": b"\0\x80\x28\1\x80\x30\7", "cut": b"\2\x7f\xff\x80"})
FRAMES = ROOT.parent.parent / "shared/stream/tests/frames"
put("stream_frames", {
    **{name: b"\0\7" + struct.pack("<I", len(octets)) + octets for name in ["hello-1", "data-1", "feedback-1", "probe-1", "goodbye-1"]
       for octets in [(FRAMES / name).read_bytes()]},
    # Greeted; sends, stores, transmits, hears feedback, receives, delivers.
    "talk": b"\1\0" + b"\0\0" + b"\x9babc" + b"\xbe" + b"\xd7" + b"\xd7" + b"\x28\x60\0\1abc\0" + b"\xcd" + b"\xcd" + b"\xd7"
    + b"\x6e\x02\0\2\0\2\0\1\0\2\0\1" + b"\xff",
    "window": b"\1\0" + b"\0\0" + b"\xd7" + b"".join(b"\x28\x60\0" + bytes([at]) + b"abc\0" for at in (2, 1, 3, 4)) + b"\xcd\xcd\xd7\xeb\0\x40\xd7",
    "again": b"\1\0" + b"\0\0" + b"\x9babc\xbe\xd7" + b"\xf5" + b"\0\0\xd7\xeb\x20\0\xfa\xd7",
})
put("stream_log", {"nothing": b"\0", "octet": b"\0\1\x58\7\1\x60\2", "cut": b"\1\x82\0\x80", "gone": b"\0\xc1\0\0", "more": b"\0\xc2\x20\1"})


def extension(kind, content):
    return struct.pack(">HH", kind, len(content)) + content


NAME = b"a.example"
HELLO = b"\3\3" + b"r" * 32 + b"\0" + b"\0\4\x13\1\xc0\x2f" + b"\1\0"
EXTENSIONS = extension(0, struct.pack(">HBH", len(NAME) + 3, 0, len(NAME)) + NAME) \
    + extension(16, b"\0\x0c\2h2\x08http/1.1") + extension(43, b"\2\3\4") + extension(13, b"\0\2\4\3") + extension(10, b"\0\2\0\x1d") \
    + extension(51, struct.pack(">HHH", 36, 29, 32) + b"k" * 32)
WHOLE = HELLO + struct.pack(">H", len(EXTENSIONS)) + EXTENSIONS
put("client_hello", {
    "body": b"\1\7" + WHOLE,
    "fragments": b"\x51\5" + WHOLE,
    "octets": b"\0\3" + struct.pack(">BHHB", 22, 0x301, len(WHOLE) + 4, 1) + struct.pack(">I", len(WHOLE))[1:] + WHOLE,
    "bare": b"\1\0" + HELLO,
    "alert": b"\0\1\x15\3\1\0\2\2\x28",
})
put("control", {
    "order": b'\0{"id":7,"app":"shop","generation":2,"what":"place","role":"owner","version":3,"digest":"d","wait_ms":5}',
    "drain": b'\0{"id":8,"app":"shop","generation":2,"what":"drain","within_ms":5}',
    "event": b'\1{"event":"app","app":"shop","kind":"crashed","generation":2,"version":3,"at_ms":6,"reason":"it exited"}',
    "outcome": b'\1{"event":"outcome","id":9,"status":200,"ms":4,"output":null}',
    "registration": b'\2{"channel":1,"name":"h1","start":7,"data":"0.0.0.0:9911","capacity":{"cpus":2},'
    b'"apps":[{"name":"shop","role":"owner","generation":3}]}',
    "join": b'\3{"secret":"00","name":"h1","request":"-----BEGIN CERTIFICATE REQUEST-----"}',
    "renew": b'\4{"request":"x"}',
    "answer": b'\5{"certificate":"c","trust":"t","edges":["127.0.0.1:9900","[::1]:1"]}',
    "upgrade": b'\6{"what":"socket","name":"http","addr":"127.0.0.1:80"}',
    "token": b"\7steady-join.v1." + b"0" * 64 + b"." + b"f" * 64,
})
# The names of all their fields and kinds, as they stand in the source.
names = set()
for folder in ["shared/cluster/src/channel", "shared/cluster/src/join.rs", "lb/src/upgrade/wire.rs"]:
    place = ROOT.parents[1] / folder
    for file in [place] if place.is_file() else sorted(place.glob("**/*.rs")):
        names.update(re.findall(r"^\s+(?:pub )?([A-Za-z_]+)(?::|,| \{|\()", file.read_text(), re.MULTILINE))
snake = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in names}
(ROOT.parent / "control.dict").write_text("".join(f'"\\"{name}\\":"\n"\\"{name}\\""\n' for name in sorted(snake)))
put("proxy_protocol", {
    "v1": b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /",
    "v1six": b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n",
    "unknown": b"PROXY UNKNOWN\r\n",
    "v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\xdc\4\1\xbb",
    "v2six": b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24" + bytes(range(36)),
    "local": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
})
# What configuration.md shows is every key there is, with a value that holds: a seed by itself, and words for the fuzzer to put together.
shown, words = [], set()
for block in re.findall(r"```toml\n(.*?)```", (ROOT.parents[1] / "docs/configuration.md").read_text(), re.DOTALL):
    lines = [re.sub(r"^# (?=\[?[a-z_]+( =|\]))", "", line) for line in block.split("\n")]
    lines = [line for line in (re.sub(r"\s+#.*|^#.*", "", line) for line in lines) if line]
    shown.append("\n".join(lines) + "\n")
    words.update(word for line in lines for word in [f"\n{line}\n", *line.partition(" = ")[::2]] if word)
if len(shown) != 3:
    raise SystemExit("docs/configuration.md: the edge's, the host's and an application's block are looked for, in this order")
escaped = {word: word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\x0a") for word in words}
(ROOT.parent / "toml.dict").write_text("".join(f'"{escaped[word]}"\n' for word in sorted(words)))
put("lb_toml", {"shown": shown[0], "small": """state_dir = "/s"
domains = ["steady.page"]
workers = 2
io = "auto"
reserved = ["x"]
[[listen]]
addr = "0.0.0.0:80"
proxy_protocol = true
[tls]
dir = "/t"
[private]
addr = "127.0.0.1:9900"
token_file = "/k"
[[host]]
name = "h1"
addr = "127.0.0.1:1"
control = "127.0.0.1:2"
token_file = "/k"
[timeouts]
header = "10s"
drain = "1m"
[health]
every = "1s"
[limits]
bundle_bytes_max = "64MiB"
[log]
access = "-"
level = "info"
[forwarded]
trusted = ["10.0.0.0/8"]
"""})
put("agent_toml", {"shown": shown[1], "small": """name = "h1"
state_dir = "/s"
workers = 1
io = "epoll"
[data]
addr = "0.0.0.0:9911"
[control]
addr = "127.0.0.1:9912"
[apps]
queue_max = 10
queue_wait = "5s"
[bundles]
bytes_max = "64 MiB"
[log]
level = "info"
"""})
put("steady_toml", {"shown": shown[2], "small": """name = "shop"
command = ["./server", "--port", "$PORT"]
protocol = "h2c"
health = "/healthz"
exclusive = true
[env]
A = "b"
"""})
