"""A server of strange answers, right and wrong: odd_server.py PORT NAME

HTTP/1.1, one request a connection. The path says what is answered; a CONNECT gives back every byte.
"""
import collections
import json
import socket
import sys
import threading

port, name = int(sys.argv[1]), sys.argv[2]
FLOOD = 32 << 20
sent = collections.Counter()
taken = collections.Counter()
go_on = collections.defaultdict(threading.Event)


def answer(body, *headers, status="200 OK"):
    lines = [f"HTTP/1.1 {status}", f"x-pod: {name}", "connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def sized(body, *headers):
    return answer(body, f"content-length: {len(body)}", *headers)


def drip(connection, data):
    for at in range(len(data)):
        connection.sendall(data[at : at + 1])


def flood(connection, pair):
    """As fast as the other side takes it, and counted."""
    connection.sendall(answer(b"", f"content-length: {FLOOD}"))
    piece = b"f" * 65536
    while sent[pair] < FLOOD:
        sent[pair] += connection.send(piece[: FLOOD - sent[pair]])


def swallow(connection, stream, pair, length):
    """Takes nothing of the body until it is told to."""
    go_on[pair].wait(120)
    while taken[pair] < length:
        piece = stream.read1(65536)
        if not piece:
            return
        taken[pair] += len(piece)
    connection.sendall(sized(str(taken[pair]).encode()))


def give_back(connection, stream):
    connection.sendall(f"HTTP/1.1 200 OK\r\nx-pod: {name}\r\n\r\n".encode())
    while data := stream.read1(65536):
        connection.sendall(data)


SAID = json.dumps({"pod": name}).encode()
ANSWERS = {
    "/plain": sized(SAID),
    "/hints": b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n" + sized(SAID),
    "/close": answer(SAID),
    "/old": f"HTTP/1.0 200 OK\r\nx-pod: {name}\r\n\r\n".encode() + SAID,
    "/chunks": answer(b"3\r\n{\"p\r\n" + b"%x\r\n%s\r\n0\r\n\r\n" % (len(SAID) - 3, SAID[3:]), "transfer-encoding: chunked"),
    "/two-lengths": answer(b"hello!", "content-length: 5", "content-length: 6"),
    "/cut": answer(b"hello", "content-length: 100"),
    "/cut-chunks": answer(b"64\r\nhello", "transfer-encoding: chunked"),
    "/long-head": sized(SAID, "x-long: " + "a" * 300000),
    "/garbage": b"\x00\x01\x02 this is no HTTP\r\n\r\n",
    "/nothing": b"",
    "/switch": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: else\r\n\r\nelse",
}


def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = connection.makefile("rb")
    method, path, *_ = stream.readline().decode("latin-1").split() + ["", ""]
    headers = {}
    while (line := stream.readline().strip()):
        key, _, value = line.decode("latin-1").partition(":")
        headers[key.lower()] = value.strip()
    pair = headers.get("x-pair", "")
    if method == "CONNECT":
        return give_back(connection, stream)
    path, _, query = path.partition("?")
    if path == "/count":
        connection.sendall(sized(json.dumps({"sent": sent[query], "taken": taken[query]}).encode()))
    elif path == "/go-on":
        go_on[query].set()
        connection.sendall(sized(b""))
    elif path == "/flood":
        flood(connection, pair)
    elif path == "/swallow":
        swallow(connection, stream, pair, int(headers.get("content-length", "0")))
    elif path == "/drip":
        drip(connection, sized(json.dumps({"pod": name, "path": path}).encode(), "x-long: " + "a" * 500))
    else:
        connection.sendall(ANSWERS.get(path, answer(b"", status="404 Not Found")))
    connection.shutdown(socket.SHUT_WR)
    # What is left unread would make a reset of the end.
    while stream.read1(65536):
        pass


def one(connection):
    with connection:
        try:
            serve(connection)
        except OSError:
            pass


with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128) as listener:
    print("listening", flush=True)
    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()
