"""A TCP server that speaks first, as SMTP or MySQL do, and then echoes.

echo.py PORT NAME
"""
import socket
import socketserver
import sys


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        peer = self.client_address[0].removeprefix("::ffff:")
        try:
            self.request.sendall(f"220 {sys.argv[2]} sees {peer}\n".encode())
            while received := self.request.recv(65536):
                self.request.sendall(received)
        except ConnectionError:
            pass


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    request_queue_size = 512
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


server = Server(("::", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
