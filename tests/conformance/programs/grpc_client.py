"""A gRPC client: grpc_client.py ADDRESS PORT AUTHORITY PATH TIMES [NAME:VALUE ...]

One line of JSON for each call: grpc-status, initial and trailing metadata, and the messages. `:keep: NAME` sends back what an answer's metadata has by that name.
"""
import json
import queue
import sys

import grpc

address, port, authority, path, times = sys.argv[1:6]
metadata, kept = [], None
for header in sys.argv[6:]:
    key, _, value = header.rpartition(": ") if header.startswith(":") else header.partition(":")
    if key == ":keep":
        kept = value.strip()
    else:
        metadata.append((key.strip().lower(), value.strip()))
target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
options = [("grpc.default_authority", authority), ("grpc.enable_retries", 0)]


def both_ways(channel):
    """Sends the next message only when the answer to the last has come: nothing may be buffered."""
    asked = queue.Queue()
    asked.put(b"0")
    call = channel.stream_stream(path)(iter(asked.get, None), metadata=metadata, timeout=60)
    messages = []
    for message in call:
        messages.append(message)
        asked.put(str(len(messages)).encode() if len(messages) < 3 else None)
    return call, messages


def one(channel):
    method = path.rpartition("/")[2]
    if method == "ServerStream":
        call = channel.unary_stream(path)(b"hello", metadata=metadata, timeout=60)
        return call, list(call)
    if method == "ClientStream":
        messages = iter([b"a", b"b", b"c"])
        answer, call = channel.stream_unary(path).with_call(messages, metadata=metadata, timeout=60)
        return call, [answer]
    if method == "LateStream":
        messages = iter([b"a", b"b", b"c"])
        call = channel.stream_stream(path)(messages, metadata=metadata, timeout=60)
        return call, list(call)
    if method == "BidiStream":
        return both_ways(channel)
    answer, call = channel.unary_unary(path).with_call(b"hello", metadata=metadata, timeout=60)
    return call, [answer]


def headers_of(call):
    pairs = list(call.initial_metadata() or ()) + list(call.trailing_metadata() or ())
    return {key: str(value) for key, value in pairs}


with grpc.insecure_channel(target, options=options) as channel:
    for _ in range(int(times)):
        try:
            call, messages = one(channel)
            code, text = call.code(), ""
        except grpc.RpcError as error:
            call, messages = error, []
            code, text = error.code(), error.details()
        headers = headers_of(call)
        if kept in headers:
            metadata = [pair for pair in metadata if pair[0] != kept] + [(kept, headers[kept])]
        headers["grpc-status"] = str(code.value[0])
        headers["x-messages"] = str(len(messages))
        body = messages[-1].decode() if messages else str(text)
        print(json.dumps({"status": 200, "headers": headers, "body": body}), flush=True)
