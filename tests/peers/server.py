"""An application on h11 (HTTP/1.1) or on h2 (HTTP/2 in cleartext), with wsproto. Argument: which. Prints its port.

What it answers is what `tests/peers/main.rs` lists. A thread a connection.
"""

import hashlib
import json
import socket
import sys
import threading

import h2.config
import h2.connection
import h2.events
import h11
import wsproto
from h2.settings import SettingCodes
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage


# Of a stream that is sent to an application on h2, once that is acknowledged.
WINDOW = 3_000


def pattern(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def answer(method, target, fields, body, trailers):
    """Interim heads, status, fields, body, trailers."""
    path, _, query = target.partition("?")
    if path == "/facts":
        facts = {"method": method, "target": target, "fields": fields, "length": len(body), "trailers": trailers,
                 "sha256": hashlib.sha256(body).hexdigest()}
        return [], 200, [("content-type", "application/json")], json.dumps(facts).encode(), []
    if path == "/big":
        return [], 200, [("content-length", query)], b"" if method == "HEAD" else pattern(int(query)), []
    if path == "/summed":
        whole = pattern(int(query))
        return [], 200, [("trailer", "x-sum")], whole, [("x-sum", hashlib.sha256(whole).hexdigest())]
    if path == "/hints":
        return [(103, [("link", "</a>; rel=preload")]), (103, [("link", "</b>; rel=preload")])], 200, [], b"hinted", []
    if path == "/status":
        return [], int(query), [("etag", '"a"')], b"", []
    if path == "/fields":
        return [], 200, [(f"x-field-{at}", "v" * 200) for at in range(int(query))], b"fields", []
    return [], 404, [], b"no such path", []


def echo(ws, send):
    """Sends back what has come: messages in the pieces in which they came, pings, closes."""
    for event in ws.events():
        if isinstance(event, TextMessage | BytesMessage):
            send(ws.send(type(event)(event.data, message_finished=event.message_finished)))
        elif isinstance(event, Ping | CloseConnection):
            send(ws.send(event.response()))
    return ws.state is not ConnectionState.CLOSED


def text(pairs):
    return [[name.decode() if isinstance(name, bytes) else name, value.decode() if isinstance(value, bytes) else value] for name, value in pairs]


def serve_h11(sock):
    conn = h11.Connection(h11.SERVER)
    request, body = None, b""

    def send(event):
        sock.sendall(conn.send(event) or b"")

    while True:
        event = conn.next_event()
        if event is h11.NEED_DATA:
            if conn.they_are_waiting_for_100_continue:
                send(h11.InformationalResponse(status_code=100, headers=[]))
            conn.receive_data(sock.recv(65536))
        elif isinstance(event, h11.Request):
            request, body = event, b""
            if event.target == b"/ws":
                return websocket_h11(sock, conn, event)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            interim, status, fields, whole, trailers = answer(
                request.method.decode(), request.target.decode(), text(request.headers), body, text(event.headers))
            for early, head in interim:
                send(h11.InformationalResponse(status_code=early, headers=head))
            # Without a length h11 sends chunks.
            send(h11.Response(status_code=status, headers=fields))
            for at in range(0, len(whole), 10_000):
                send(h11.Data(data=whole[at:at + 10_000]))
            send(h11.EndOfMessage(headers=trailers))
            if conn.our_state is h11.MUST_CLOSE:
                return
            conn.start_next_cycle()
        else:
            return


def websocket_h11(sock, conn, request):
    ws = wsproto.WSConnection(ConnectionType.SERVER)
    ws.initiate_upgrade_connection(request.headers.raw_items(), request.target.decode())
    assert isinstance(next(ws.events()), Request)
    sock.sendall(ws.send(AcceptConnection()))
    # After the head nothing of HTTP comes any more.
    ws.receive_data(conn.trailing_data[0])
    while echo(ws, sock.sendall):
        data = sock.recv(65536)
        if not data:
            return
        ws.receive_data(data)


class Stream:
    def __init__(self, fields):
        self.fields = fields
        self.body = b""
        self.trailers = []
        self.ws = None
        # Waits for room: octets, trailers, whether it ends.
        self.out, self.end, self.last = b"", False, []


def serve_h2(sock):
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    conn.initiate_connection()
    # Smaller than anybody would choose: whoever sends here must obey from the acknowledgement on.
    conn.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW, SettingCodes.HEADER_TABLE_SIZE: 200,
                          SettingCodes.MAX_CONCURRENT_STREAMS: 20, SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
    sock.sendall(conn.data_to_send())
    streams = {}
    while data := sock.recv(65536):
        for event in conn.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                streams[event.stream_id] = stream = Stream(event.headers)
                if (":protocol", "websocket") in [tuple(field) for field in event.headers]:
                    stream.ws = Connection(ConnectionType.SERVER)
                    conn.send_headers(event.stream_id, [(":status", "200")])
                elif ("expect", "100-continue") in [tuple(field) for field in event.headers]:
                    conn.send_headers(event.stream_id, [(":status", "100")])
            elif isinstance(event, h2.events.SettingsAcknowledged):
                # What had come under the larger window is not given back by h2 itself: such a stream would stand still.
                for number in streams:
                    short = WINDOW - conn.remote_flow_control_window(number)
                    if not conn.streams[number].closed and short > 0:
                        conn.increment_flow_control_window(short, number)
            elif isinstance(event, h2.events.DataReceived):
                conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                stream = streams.get(event.stream_id)
                if stream and stream.ws:
                    stream.ws.receive_data(event.data)
                    # A close handshake that is done ends the stream.
                    stream.end = not echo(stream.ws, lambda octets: setattr(stream, "out", stream.out + octets))
                elif stream:
                    stream.body += event.data
            elif isinstance(event, h2.events.TrailersReceived):
                streams[event.stream_id].trailers = event.headers
            elif isinstance(event, h2.events.StreamEnded):
                # One that we ended first is not there any more.
                stream = streams.get(event.stream_id)
                if stream and stream.ws:
                    stream.end = True
                elif stream:
                    begin(conn, event.stream_id, stream)
            elif isinstance(event, h2.events.StreamReset):
                streams.pop(event.stream_id, None)
        for number in list(streams):
            if push(conn, number, streams[number]):
                del streams[number]
        sock.sendall(conn.data_to_send())


def begin(conn, number, stream):
    head = {name: value for name, value in stream.fields}
    fields = [[name, value] for name, value in stream.fields if name[0] != ":"]
    interim, status, answered, whole, trailers = answer(head[":method"], head[":path"], fields, stream.body, text(stream.trailers))
    for early, more in interim:
        conn.send_headers(number, [(":status", str(early)), *more])
    ends = not whole and not trailers
    conn.send_headers(number, [(":status", str(status)), *answered], end_stream=ends)
    stream.out, stream.last, stream.end = whole, trailers, not ends
    stream.done = ends


def push(conn, number, stream):
    """Sends what there is room for. Whether the stream is over."""
    if getattr(stream, "done", False):
        return True
    while stream.out:
        room = min(conn.local_flow_control_window(number), conn.max_outbound_frame_size, len(stream.out))
        if room <= 0:
            return False
        # Padding is counted against the window as well.
        pad = 7 if room > 100 else None
        part = room - 8 if pad else room
        conn.send_data(number, stream.out[:part], pad_length=pad)
        stream.out = stream.out[part:]
    if not stream.end:
        return False
    if stream.last:
        conn.send_headers(number, stream.last, end_stream=True)
    else:
        conn.end_stream(number)
    return True


def guarded(serve, sock):
    # The peer may go at any moment; everything else is a failure that its request shows.
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        serve(sock)
    except (ConnectionError, BrokenPipeError):
        pass
    finally:
        sock.close()


listener = socket.create_server(("127.0.0.1", 0), backlog=128)
print(listener.getsockname()[1], flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=guarded, args=({"h11": serve_h11, "h2": serve_h2}[sys.argv[1]], accepted), daemon=True).start()
