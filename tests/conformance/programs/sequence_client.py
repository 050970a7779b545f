"""Many requests of all kinds on one connection: sequence_client.py ADDRESS PORT AUTHORITY PATH TIMES [NAME:VALUE ...]

HTTP/1.1. With `:pipeline: all` everything is sent before anything is read, else a request follows
each answer. Every answer must be the one to its own request. One line of JSON for each connection.
"""
import json
import socket
import sys

address, port, authority, path, times = sys.argv[1:6]
given = [tuple(part.strip() for part in header.rsplit(": ", 1)) for header in sys.argv[6:]]
is_pipelined = any(name == ":pipeline" for name, _ in given)
headers = [f"{name}: {value}" for name, value in given if not name.startswith(":")]
ROUNDS = 3


def requests():
    """Name, what is sent, the method, and the status that is expected."""
    for number in range(ROUNDS):
        def request(kind, method, *more, body="", status=200, below=path):
            target = f"{below}/{number}/{kind}"
            lines = [f"{method} {target} HTTP/1.1", f"Host: {authority}", *headers, *more, "", ""]
            return target, ("\r\n".join(lines) + body).encode(), method, status

        yield request("get", "GET")
        yield request("head", "HEAD")
        yield request("length", "POST", "Content-Length: 5", body="hello")
        yield request("chunks", "POST", "Transfer-Encoding: chunked", body="3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
        yield request("empty", "GET", "x-echo: status=204", status=204)
        yield request("same", "GET", "x-echo: status=304", status=304)
        # The proxy's own answers, with a body that nobody reads before the answer.
        yield request("none", "GET", status=404, below="/unrouted")
        yield request("none-body", "POST", "Content-Length: 5", body="hello", status=404, below="/unrouted")
        yield request("none-head", "HEAD", status=404, below="/unrouted")
        yield request("trailers", "GET", "TE: trailers", "x-echo: trailer=x-end:42")


def body_of(stream, answered, method, status):
    if method == "HEAD" or status in (204, 304):
        return b""
    if answered.get("transfer-encoding") == "chunked":
        body = b""
        while (size := int(stream.readline().split(b";")[0], 16)):
            body += stream.read(size)
            stream.readline()
        while stream.readline().strip():
            pass
        return body
    return stream.read(int(answered["content-length"]))


def check(stream, expected):
    target, _, method, status = expected
    line = stream.readline().split()
    if len(line) < 2:
        return f"{target}: the connection ended"
    answered = {}
    while (header := stream.readline().strip()):
        name, _, value = header.decode().partition(":")
        answered[name.lower()] = value.strip()
    body = body_of(stream, answered, method, int(line[1]))
    if int(line[1]) != status:
        return f"{target}: expected {status}, got {line[1]}"
    if body and status == 200:
        seen = json.loads(body)
        if (seen["path"], seen["method"]) != (target, method):
            return f"{target}: the answer to {seen['path']} came"
        if method == "POST" and seen["body"] != "hello":
            return f"{target}: the server got {seen['body']!r}"
    return None


def one():
    all_of_them = list(requests())
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")
        if is_pipelined:
            connection.sendall(b"".join(sent for _, sent, _, _ in all_of_them))
        for expected in all_of_them:
            if not is_pipelined:
                connection.sendall(expected[1])
            if (wrong := check(stream, expected)):
                return {"status": 0, "headers": {}, "body": wrong}
        connection.shutdown(socket.SHUT_WR)
        if stream.read():
            return {"status": 0, "headers": {}, "body": "something came after the last answer"}
    return {"status": 200, "headers": {}, "body": f"{len(all_of_them)} answers in their order"}


for _ in range(int(times)):
    try:
        answer = one()
    except (OSError, ValueError, KeyError, IndexError) as error:
        answer = {"status": 0, "headers": {}, "body": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
