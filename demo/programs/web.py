"""An HTTP server that says who it is, whom it sees, and gives the body back.

web.py PORT NAME
"""
import http.server
import json
import socket
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("content-length", "0"))
        body = {
            "server": sys.argv[2],
            "client": self.client_address[0].removeprefix("::ffff:"),
            "marker": self.rfile.read(length).decode(),
        }
        text = json.dumps(body, separators=(",", ":")).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 512
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


server = Server(("::", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
