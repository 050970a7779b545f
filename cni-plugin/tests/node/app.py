"""An application in a pod, told what to do by JSON lines on stdin: ordinary sockets, nothing of the mesh."""
import json, os, socket, sys, threading

connections, listeners, marks = {}, {}, []
SO_MARK, SO_BINDTODEVICE = 36, 25


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def name(pair):
    return f"{pair[0]}|{pair[1]}"


def line(connection):
    text = b""
    while not text.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise EOFError("closed")
        text += byte
    return text.decode().strip()


def serve_one(connection, peer):
    try:
        marks.append(connection.getsockopt(socket.SOL_SOCKET, SO_MARK))
        here = connection.getsockname()
        connection.sendall(f"peer={name(peer)} local={name(here)}\n".encode())
        while data := connection.recv(65536):
            connection.sendall(data)
    except OSError:
        pass
    finally:
        connection.close()


def serve(listener):
    while True:
        try:
            connection, peer = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve_one, args=(connection, peer), daemon=True).start()


def open_listener(order):
    listener = socket.socket(family(order["addr"]), socket.SOCK_STREAM)
    if order.get("reuse"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in order["addr"]:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listener.bind((order["addr"], order["port"]))
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def listen(order):
    listener = open_listener(order)
    listeners[(order["addr"], order["port"])] = listener
    threading.Thread(target=serve, args=(listener,), daemon=True).start()


def unlisten(order):
    listener = listeners.pop((order["addr"], order["port"]))
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def bind(order):
    open_listener(order).close()


def dial(order):
    connection = socket.socket(family(order["addr"]), socket.SOCK_STREAM, order.get("protocol", 0))
    connection.settimeout(order.get("timeout", 60))
    if "mark" in order:
        connection.setsockopt(socket.SOL_SOCKET, SO_MARK, order["mark"])
    if "device" in order:
        connection.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, order["device"].encode() + b"\0")
    if "source" in order:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind(tuple(order["source"]))
    connection.connect((order["addr"], order["port"]))
    number = len(connections)
    connections[number] = connection
    mark = connection.getsockopt(socket.SOL_SOCKET, SO_MARK)
    here = connection.getsockname()[0]
    return {"id": number, "mark": mark, "local": here, "greeting": line(connection)}


def send(connection, data):
    try:
        connection.sendall(data)
    except OSError:
        pass  # Reading says so too.


def ping(order):
    connection, sent, got = connections[order["id"]], os.urandom(100_000), b""
    writer = threading.Thread(target=send, args=(connection, sent), daemon=True)
    writer.start()
    while len(got) < len(sent):
        data = connection.recv(65536)
        if not data:
            raise EOFError("closed")
        got += data
    writer.join()
    if got != sent:
        raise ValueError("echo differs")


def close(order):
    connections.pop(order["id"]).close()


def last_mark(order):
    return {"mark": marks[-1]}


for text in sys.stdin:
    order = json.loads(text)
    try:
        answer = globals()[order["do"]](order) or {}
    except Exception as error:
        answer = {"error": type(error).__name__, "why": str(error)}
    print(json.dumps(answer), flush=True)
