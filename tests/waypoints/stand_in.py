#!/usr/bin/python3
"""Stands in for a waypoint where only its life is looked at: says that it is ready, ends at SIGTERM.

A file `<this program>.mode` changes that: `never` is never ready, `deaf` ignores SIGTERM.
"""
import http.server
import os
import signal
import socket

mode = ""
try:
    with open(__file__ + ".mode", encoding="ascii") as file:
        mode = file.read().strip()
except FileNotFoundError:
    pass

if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = self.path == "/healthz/ready" and mode != "never"
        body = b"ready\n" if ready else b"stand-in: told never to be\n"
        self.send_response(200 if ready else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


Server(("::", 15021), Ready).serve_forever()
