"""A TLS client with a connection for each request: tls_client.py ADDRESS PORT AUTHORITY PATH TIMES [NAME:VALUE ...]

Gives the host of AUTHORITY as the server's name. One line of JSON for each connection.
"""
import http.client
import json
import socket
import ssl
import sys

address, port, authority, path, times = sys.argv[1:6]
host = authority.rsplit(":", 1)[0]
given = [tuple(part.strip() for part in header.rsplit(": ", 1)) for header in sys.argv[6:]]
context = ssl.create_default_context()
# The servers sign their own certificates.
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE


def one():
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        with context.wrap_socket(connection, server_hostname=host) as stream:
            request = http.client.HTTPConnection(host)
            request.sock = stream
            request.request("GET", path or "/", headers={"Connection": "close", **dict(given)})
            answer = request.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return {"status": answer.status, "headers": headers, "body": answer.read().decode()}


for _ in range(int(times)):
    try:
        told = one()
    except (OSError, http.client.HTTPException) as error:
        told = {"status": 0, "headers": {}, "body": f"{type(error).__name__}: {error}"}
    print(json.dumps(told), flush=True)
