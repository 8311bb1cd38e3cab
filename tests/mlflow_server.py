"""A real ``mlflow server`` for tests, and a line to it that can be slow or go dead."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.cli.tiny_dataset import environment

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address, process, seconds=90):
    """Until something answers there."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + seconds
    while True:
        try:
            with opener.open(f"{address}/health", timeout=5):
                return
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < end, f"no server within {seconds} s"
            time.sleep(0.2)


def stop(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)


class Server:
    """``mlflow server`` that keeps artifacts itself, so that clients send them over HTTP."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "kept")]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        # Its answers are read; what it says of itself would fill a pipe that nobody empties.
        with open(self.folder / "server.log", "w") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment(changes=QUIET)
            )
        wait_for(self.uri, self._process)
        return self

    def __exit__(self, *_):
        stop(self._process)


class Line:
    """Stands between a client and a server: may delay every request, or go dead after some.

    Attributes
    ----------
    target
        Server that requests go to.
    delay
        Seconds that pass before a request reaches the server.
    left
        Requests that still come through, None for all.
    served
        Requests that came through.
    """

    def __init__(self, target):
        self.target = target
        self.delay = 0.0
        self.left = None
        self.served = 0
        self._lock = threading.Lock()
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if not line.lets_through():
                    self.close_connection = True
                    return
                time.sleep(line.delay)
                port = line.target.port
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                try:
                    headers = {**self.headers, "Host": f"127.0.0.1:{port}"}
                    connection.request(self.command, self.path, body, headers)
                    answer = connection.getresponse()
                    content = answer.read()
                finally:
                    connection.close()
                try:
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in {"content-length", "transfer-encoding", "date"}:
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True  # the client has given up

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

            def log_message(self, *_):
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._listener.server_port}"

    def lets_through(self):
        with self._lock:
            if self.left == 0:
                return False
            if self.left is not None:
                self.left -= 1
            self.served += 1
            return True

    def __enter__(self):
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown()
        self._listener.server_close()
