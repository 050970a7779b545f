"""A gRPC server for every service and method: grpc_server.py PORT NAME

The method's name says its kind: Unary, ServerStream, ClientStream, BidiStream, LateStream. Messages are bytes;
an answer is JSON of what was seen. The metadata `x-echo: grpc-status=14;first=1` makes it fail,
`at-once` before anything else was answered; `count` counts the call at the echo server of the pod.
"""
import collections
import concurrent.futures
import json
import sys
import urllib.request

import grpc

port, name = sys.argv[1], sys.argv[2]
seen = collections.Counter()


def told(details, messages):
    metadata = {key: value for key, value in details.invocation_metadata}
    return json.dumps(
        {
            "pod": name,
            "path": details.method,
            "body": ",".join(message.decode() for message in messages),
            "headers": {key: [str(value)] for key, value in metadata.items()},
        }
    ).encode()


def fails(details, context):
    """Ends the call as the client asked for."""
    metadata = dict(details.invocation_metadata)
    pair = metadata.get("x-pair", "")
    seen[pair] += 1
    asked = dict(part.partition("=")[::2] for part in metadata.get("x-echo", "").split(";"))
    if "count" in asked:
        counted = urllib.request.Request("http://127.0.0.1:8080/", headers={"x-pair": pair})
        urllib.request.urlopen(counted, timeout=30).read()
    is_failing = "grpc-status" in asked and seen[pair] <= int(asked.get("first", "1000000"))
    # Without any metadata the status is in the answer's only head.
    if not (is_failing and "at-once" in asked):
        context.send_initial_metadata((("x-pod", name), ("x-seen", str(seen[pair]))))
        context.set_trailing_metadata((("x-trailer", "end"),))
    if is_failing:
        wanted = int(asked["grpc-status"])
        code = next(code for code in grpc.StatusCode if code.value[0] == wanted)
        context.abort(code, "as asked")


class Any(grpc.GenericRpcHandler):
    def service(self, details):
        def unary(message, context):
            fails(details, context)
            return told(details, [message])

        def server_stream(message, context):
            fails(details, context)
            for number in range(3):
                yield told(details, [message, str(number).encode()])

        def client_stream(messages, context):
            received = list(messages)
            fails(details, context)
            return told(details, received)

        def late_stream(messages, context):
            received = list(messages)
            fails(details, context)
            for _ in range(5):
                yield told(details, received)

        def bidi_stream(messages, context):
            fails(details, context)
            for message in messages:
                yield told(details, [message])

        method = details.method.rpartition("/")[2]
        if method == "ServerStream":
            return grpc.unary_stream_rpc_method_handler(server_stream)
        if method == "ClientStream":
            return grpc.stream_unary_rpc_method_handler(client_stream)
        if method == "LateStream":
            return grpc.stream_stream_rpc_method_handler(late_stream)
        if method == "BidiStream":
            return grpc.stream_stream_rpc_method_handler(bidi_stream)
        if method == "Missing":
            return None
        return grpc.unary_unary_rpc_method_handler(unary)


server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((Any(),))
server.add_insecure_port(f"[::]:{port}")
server.start()
print("listening", flush=True)
server.wait_for_termination()
