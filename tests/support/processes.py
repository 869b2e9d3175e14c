"""Programs under test: started on ports of their own, waited for by condition, and always ended."""
import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import unittest

BIN = pathlib.Path(os.environ.get('BIN', 'build/release/bin')).resolve()
# Sanitized builds and busy machines are slow; what is waited for comes long before.
PATIENCE = 30


def free_port():
    """A port that nobody has now. What is started on it must not mind that another may come first."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def wait_until(condition, what, patience=PATIENCE):
    """Returns the condition's first true result; fails with `what` when none comes."""
    deadline = time.monotonic() + patience
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f'waited {patience} s in vain: {what}')
        time.sleep(0.02)


class Process:
    """A program in a process group of its own; its output goes to files."""

    def __init__(self, command, folder, name, env=None):
        self.name = name
        self.out_path = pathlib.Path(folder) / f'{name}.out'
        self.err_path = pathlib.Path(folder) / f'{name}.err'
        with open(self.out_path, 'wb') as out, open(self.err_path, 'wb') as err:
            self.popen = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out,
                                          stderr=err, process_group=0, env={**os.environ, **(env or {})})

    @property
    def pid(self):
        return self.popen.pid

    def out(self):
        return self.out_path.read_text(errors='replace')

    def err(self):
        return self.err_path.read_text(errors='replace')

    def running(self):
        return self.popen.poll() is None

    def signal(self, number):
        os.kill(self.pid, number)

    def wait(self, patience=PATIENCE):
        """The exit code."""
        return self.popen.wait(patience)

    def end(self):
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()


class Answer:
    def __init__(self, status, headers, body, seconds):
        self.status, self.headers, self.body, self.seconds = status, headers, body, seconds

    def text(self):
        return self.body.decode()

    def json(self):
        return json.loads(self.body)


def request(port, path, method='GET', body=None, headers=None, timeout=PATIENCE):
    """One request on a connection of its own. A dict as body is sent as JSON."""
    headers = dict(headers or {})
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
        headers.setdefault('Content-Type', 'application/json')
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=timeout)
    try:
        began = time.monotonic()
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        content = response.read()
        return Answer(response.status, response.headers, content, time.monotonic() - began)
    finally:
        connection.close()


def answers(port, path='/', status=200):
    with contextlib.suppress(OSError, http.client.HTTPException):
        return request(port, path, timeout=2).status == status
    return False


class ProcessTest(unittest.TestCase):
    """Has a folder of its own, and ends every program that it started."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.started = []

    def start(self, command, name, env=None):
        process = Process(command, self.folder, f'{len(self.started)}-{name}', env)
        self.started.append(process)
        self.addCleanup(process.end)
        return process

    def wait_ready(self, process, ready, what=None):
        """Waits for `ready()`; fails with what the program said if it ends before."""
        def look():
            if not process.running():
                raise AssertionError(f'{process.name} ended with {process.popen.returncode}; it said:\n'
                                     f'{process.err()[-4000:]}{process.out()[-2000:]}')
            return ready()
        return wait_until(look, what or f'{process.name} is ready')

    def run_program(self, *command, env=None, stdin=None):
        """Runs a program to its end."""
        return subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True,
                              timeout=PATIENCE, env={**os.environ, **(env or {})}, check=False)
