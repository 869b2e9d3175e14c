"""A small HTTP server to stand behind a sidecar. Prints its port. What it answers is in the request's query:
?status=503&delay=0.2&body=text&header=Retry-After:7. SIGSTOP and SIGCONT make it hang and go on."""
import http.server
import socketserver
import sys
import time
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def answer(self):
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        length = int(self.headers.get('Content-Length') or 0)
        received = self.rfile.read(length)
        time.sleep(float(asked.get('delay', 0)))
        body = asked.get('body', received.decode('latin-1')).encode('latin-1')
        self.send_response(int(asked.get('status', 200)))
        if 'header' in asked:
            self.send_header(*asked['header'].split(':', 1))
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == '__main__':
    with Server(('127.0.0.1', int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
