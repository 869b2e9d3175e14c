"""The processes of the story: each in a group of its own, all ended when the story ends, however it ends."""
import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request


class Processes:
    def __init__(self, folder):
        self.folder = folder
        self.started = {}

    def start(self, name, command, ready_url):
        """Starts a program and waits until it says that it is ready."""
        log = open(self.folder / f'{name}.log', 'wb')
        with log:
            process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=subprocess.STDOUT, process_group=0)
        self.started[name] = process
        deadline = time.monotonic() + 30
        while not answers(ready_url):
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / f'{name}.log').read_text(errors='replace')[-2000:]
                raise SystemExit(f'{name} did not start; it said:\n{said}')
            time.sleep(0.05)

    def pid(self, name):
        return self.started[name].pid

    def signal(self, name, number):
        os.kill(self.pid(name), number)

    def end(self):
        for process in self.started.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGTERM)
        for number in (signal.SIGTERM, signal.SIGKILL):     # a second SIGTERM cuts a drain short
            for process in self.started.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
        for process in self.started.values():
            process.wait()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def refuse_used_ports(ports):
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(('127.0.0.1', port))
            except OSError as error:
                raise SystemExit(f'port {port} ({name}): {error.strerror}; is another demo running?')
