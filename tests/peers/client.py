"""Clients on h11 and h2 (with wsproto): everything that an application of this folder answers, through an edge.

Arguments: the edge's plain port, its TLS port, the CA's file, the applications' names. Says `ok` at the end.
"""

import hashlib
import json
import random
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings
import h11
import wsproto
from h2.settings import SettingCodes
from wsproto.connection import Connection, ConnectionType
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

PLAIN, TLS, CA, NAMES = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
DOMAIN = "steady.page"


def pattern(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def connect(name, alpn):
    sock = socket.create_connection(("127.0.0.1", TLS if alpn else PLAIN), timeout=120)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if alpn:
        context = ssl.create_default_context(cafile=CA)
        context.set_alpn_protocols([alpn])
        sock = context.wrap_socket(sock, server_hostname=f"{name}.{DOMAIN}")
        assert sock.selected_alpn_protocol() == alpn, sock.selected_alpn_protocol()
    return sock


class Answer:
    def __init__(self):
        self.interim, self.status, self.fields, self.body, self.trailers, self.over = [], None, {}, b"", {}, False

    def json(self):
        assert self.status == 200, (self.status, self.body)
        return json.loads(self.body)


def names(pairs):
    return {(name.decode() if isinstance(name, bytes) else name): (value.decode() if isinstance(value, bytes) else value) for name, value in pairs}


class H11:
    """One connection, one request after the other."""

    def __init__(self, name, tls):
        self.host, self.conn = f"{name}.{DOMAIN}", h11.Connection(h11.CLIENT)
        self.sock = connect(name, "http/1.1" if tls else None)

    def ask(self, method, target, fields=(), body=b"", trailers=(), length=True):
        head = [("Host", self.host), *fields]
        if body:
            head.append(("Content-Length", str(len(body))) if length else ("Transfer-Encoding", "chunked"))
        self.send(h11.Request(method=method, target=target, headers=head))
        answer = Answer()
        if ("Expect", "100-continue") in fields:
            assert isinstance(self.next(), h11.InformationalResponse)
        for at in range(0, len(body), 7_001):
            self.send(h11.Data(data=body[at:at + 7_001]))
        self.send(h11.EndOfMessage(headers=trailers))
        while not answer.over:
            event = self.next()
            if isinstance(event, h11.InformationalResponse):
                answer.interim.append((event.status_code, names(event.headers)))
            elif isinstance(event, h11.Response):
                answer.status, answer.fields = event.status_code, names(event.headers)
            elif isinstance(event, h11.Data):
                answer.body += bytes(event.data)
            else:
                assert isinstance(event, h11.EndOfMessage), event
                answer.trailers, answer.over = names(event.headers), True
        self.conn.start_next_cycle()
        return answer

    def all(self, asked):
        return [self.ask(*one) for one in asked]

    def send(self, event):
        self.sock.sendall(self.conn.send(event) or b"")

    def next(self):
        while (event := self.conn.next_event()) is h11.NEED_DATA:
            self.conn.receive_data(self.sock.recv(65536))
        return event

    def websocket(self):
        ws = wsproto.WSConnection(ConnectionType.CLIENT)
        self.sock.sendall(ws.send(Request(host=self.host, target="/ws")))
        while True:
            ws.receive_data(self.sock.recv(65536))
            for event in ws.events():
                assert isinstance(event, AcceptConnection), event
                return Talk(ws, self.sock.sendall, lambda: self.sock.recv(65536))

    def close(self):
        self.sock.close()


class H2:
    """One connection, many streams; `window` a stream and a table of 100 octets."""

    def __init__(self, name, tls, window=5_000):
        self.host, self.scheme = f"{name}.{DOMAIN}", "https" if tls else "http"
        self.sock = connect(name, "h2" if tls else None)
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.conn.local_settings = h2.settings.Settings(client=True, initial_values={
            SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: window, SettingCodes.HEADER_TABLE_SIZE: 100})
        self.conn.initiate_connection()
        self.answers, self.waiting, self.tunnels = {}, {}, {}
        self.turn()

    def turn(self, read=False):
        """Sends what there is room for; reads once."""
        for number, (body, trailers) in list(self.waiting.items()):
            while body:
                room = min(self.conn.local_flow_control_window(number), self.conn.max_outbound_frame_size, len(body))
                if room <= 0:
                    break
                self.conn.send_data(number, body[:room])
                body = body[room:]
            self.waiting[number] = body, trailers
            if not body:
                del self.waiting[number]
                self.conn.send_headers(number, trailers, end_stream=True) if trailers else self.conn.end_stream(number)
        self.sock.sendall(self.conn.data_to_send())
        if not read:
            return
        data = self.sock.recv(65536)
        assert data, "the edge closed the connection"
        for event in self.conn.receive_data(data):
            answer = self.answers.get(getattr(event, "stream_id", None))
            if isinstance(event, h2.events.InformationalResponseReceived):
                head = names(event.headers)
                answer.interim.append((int(head.pop(":status")), head))
            elif isinstance(event, h2.events.ResponseReceived):
                answer.fields = names(event.headers)
                answer.status = int(answer.fields.pop(":status"))
            elif isinstance(event, h2.events.DataReceived):
                answer.body += event.data
                self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                answer.trailers = names(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                answer.over = True
            else:
                # A stream that we have not ended is reset, without an error, once the other side is over (RFC 9113 §8.1).
                over = isinstance(event, h2.events.StreamReset) and event.error_code == 0 and answer.over
                assert over or not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated), event
        self.sock.sendall(self.conn.data_to_send())

    def begin(self, method, target, fields=(), body=b"", trailers=(), length=True):
        while self.conn.open_outbound_streams >= self.conn.remote_settings.max_concurrent_streams:
            self.turn(read=True)
        number = self.conn.get_next_available_stream_id()
        head = [(":method", method), (":scheme", self.scheme), (":authority", self.host), (":path", target)]
        head += [(name.lower(), value) for name, value in fields]
        if body and length:
            head.append(("content-length", str(len(body))))
        self.conn.send_headers(number, head, end_stream=not body)
        self.answers[number] = Answer()
        if body:
            self.waiting[number] = body, list(trailers)
        return self.answers[number]

    def ask(self, *asked, **more):
        answer = self.begin(*asked, **more)
        while not answer.over:
            self.turn(read=not self.turn())
        return answer

    def all(self, asked):
        answers = [self.begin(*one) for one in asked]
        while not all(answer.over for answer in answers):
            self.turn(read=not self.turn())
        return answers

    def websocket(self):
        while not self.conn.remote_settings.enable_connect_protocol:
            self.turn(read=True)
        number = self.conn.get_next_available_stream_id()
        self.conn.send_headers(number, [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", self.scheme), (":authority", self.host), (":path", "/ws"),
            ("sec-websocket-version", "13")])
        self.answers[number] = answer = Answer()
        while answer.status is None:
            self.turn(read=not self.turn())
        assert answer.status == 200, answer.status

        def send(data):
            while data:
                room = min(self.conn.local_flow_control_window(number), self.conn.max_outbound_frame_size, len(data))
                if room > 0:
                    self.conn.send_data(number, data[:room])
                    data = data[room:]
                self.sock.sendall(self.conn.data_to_send())
                if room <= 0:
                    self.turn(read=True)

        def receive():
            while not answer.body and not answer.over:
                self.turn(read=not self.turn())
            data, answer.body = answer.body, b""
            return data

        return Talk(Connection(ConnectionType.CLIENT), send, receive)

    def close(self):
        self.conn.close_connection()
        self.sock.sendall(self.conn.data_to_send())
        self.sock.close()


class Talk:
    """A WebSocket that is open."""

    def __init__(self, ws, send, receive):
        self.ws, self.octets, self.receive = ws, send, receive

    def say(self, event):
        self.octets(self.ws.send(event))

    def hear(self):
        while True:
            for event in self.ws.events():
                return event
            self.ws.receive_data(self.receive() or None)

    def message(self):
        """A message, put together, and how many pieces it came in."""
        whole, pieces = None, 0
        while True:
            event = self.hear()
            assert isinstance(event, TextMessage | BytesMessage), event
            whole = event.data if whole is None else whole + event.data
            pieces += 1
            if event.message_finished:
                return whole


def check_websockets(open_one):
    talk = open_one()
    talk.say(TextMessage("Grüße"))
    assert talk.message() == "Grüße"
    for piece in ["one ", "two ", "three"]:
        talk.say(TextMessage(piece, message_finished=piece == "three"))
    assert talk.message() == "one two three"
    talk.say(Ping(b"are you there"))
    event = talk.hear()
    assert isinstance(event, Pong) and bytes(event.payload) == b"are you there", event
    for number in range(300):
        talk.say(TextMessage(str(number)))
        if number % 10 == 9:
            assert [talk.message() for _ in range(10)] == [str(it) for it in range(number - 9, number + 1)]
    for size in [0, 125, 126, 65_535, 65_536, 200_000]:
        talk.say(BytesMessage(pattern(size)))
        assert talk.message() == pattern(size), size
    talk.say(CloseConnection(code=1000, reason="enough"))
    event = talk.hear()
    assert isinstance(event, CloseConnection) and (event.code, event.reason) == (1000, "enough"), event
    for code in [1001, 1008, 3000, 4999]:
        talk = open_one()
        talk.say(CloseConnection(code=code, reason=""))
        event = talk.hear()
        assert isinstance(event, CloseConnection) and event.code == code, event


def check(peer, http1):
    facts = peer.ask("GET", "/facts?a=b%20c", [("X-Odd", 'a "b" \t c'), ("Cookie", "a=1; b=2")]).json()
    assert (facts["method"], facts["target"], facts["length"]) == ("GET", "/facts?a=b%20c", 0), facts
    fields = dict(facts["fields"])
    assert fields["x-odd"] == 'a "b" \t c' and fields["cookie"] == "a=1; b=2", fields
    for size in [1, 3_000, 100_000]:
        body = pattern(size)
        wanted = size, hashlib.sha256(body).hexdigest()
        facts = peer.ask("POST", "/facts", body=body).json()
        assert (facts["length"], facts["sha256"]) == wanted, facts
        assert dict(facts["fields"])["content-length"] == str(size), facts
        facts = peer.ask("PUT", "/facts", body=body, length=False, trailers=[("x-end", "of it")]).json()
        assert (facts["length"], facts["sha256"]) == wanted, facts
        assert facts["trailers"] == [["x-end", "of it"]], facts
    # hyper's HTTP/2 never says 100.
    if http1 and not peer.host.startswith("hyper2."):
        assert peer.ask("POST", "/facts", [("Expect", "100-continue")], body=b"asked").json()["length"] == 5
    answer = peer.ask("GET", "/big?300000")
    assert answer.body == pattern(300_000) and answer.fields["content-length"] == "300000"
    answer = peer.ask("HEAD", "/big?300000")
    assert (answer.status, answer.body, answer.fields["content-length"]) == (200, b"", "300000"), answer.fields
    answer = peer.ask("GET", "/summed?70000", [("TE", "trailers"), *([("Connection", "TE")] if http1 else [])])
    assert answer.body == pattern(70_000)
    assert answer.trailers == {"x-sum": hashlib.sha256(answer.body).hexdigest()}, answer.trailers
    answer = peer.ask("GET", "/hints")
    # hyper cannot send them.
    links = [] if peer.host.startswith("hyper") else ["</a>; rel=preload", "</b>; rel=preload"]
    assert [(status, head["link"]) for status, head in answer.interim] == [(103, link) for link in links], answer.interim
    assert answer.body == b"hinted"
    for status in [204, 304]:
        answer = peer.ask("GET", f"/status?{status}")
        assert (answer.status, answer.body, answer.fields["etag"]) == (status, b"", '"a"'), answer.fields
    answer = peer.ask("GET", "/fields?40", [(f"X-Mine-{at}", "w" * 200) for at in range(40)])
    assert all(answer.fields[f"x-field-{at}"] == "v" * 200 for at in range(40))
    sizes = [random.Random(at).randrange(1, 9_000) for at in range(60)]
    answers = peer.all([("POST", f"/facts?{at}", (), pattern(size)) for at, size in enumerate(sizes)])
    for at, (size, answer) in enumerate(zip(sizes, answers, strict=True)):
        facts = answer.json()
        assert (facts["target"], facts["length"]) == (f"/facts?{at}", size), facts


for name in NAMES:
    for tls in [False, True]:
        for kind in [H11, H2]:
            try:
                peer = kind(name, tls)
                check(peer, kind is H11)
                peer.close()
                if kind is H11:
                    check_websockets(lambda: H11(name, tls).websocket())
                else:
                    # All over one connection.
                    peer = H2(name, tls)
                    check_websockets(peer.websocket)
                    peer.close()
            except Exception:
                print(f"{name}, {'TLS' if tls else 'plain'}, {kind.__name__}:", file=sys.stderr)
                raise
print("ok")
