"""A sidecar under test, with an upstream behind it."""
import json
import re
import sys
import pathlib

from processes import BIN, ProcessTest, request, wait_until

HERE = pathlib.Path(__file__).parent


def metric(page, sample, /, **labels):
    """The value of one sample of a Prometheus page, or None."""
    for line in page.splitlines():
        found = re.fullmatch(re.escape(sample) + r'(?:\{(.*)\})? (\S+)', line)
        if found and dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[1] or '')) == labels:
            return float(found[2])
    return None


class SidecarTest(ProcessTest):
    def start_upstream(self):
        """The process; its port is `process.port`."""
        process = self.start([sys.executable, HERE / 'upstream.py'], 'upstream')
        self.wait_ready(process, lambda: process.out().endswith('\n'))
        process.port = int(process.out())
        return process

    def start_sidecar(self, text, *flags, file=None):
        """Starts a sidecar on ports of the system's choice with `text` as its file. Its ports are `port` and `admin`."""
        file = file or self.folder / 'sidecar.yaml'
        if text is not None:
            file.write_text(text)
        process = self.start([BIN / 'resilience-sidecar', 'run', file, *flags], 'sidecar')
        listening = self.wait_ready(process, lambda: self.log_lines(process, 'listening'))[0]
        process.port, process.admin = listening['port'], listening['admin_port']
        return process

    @staticmethod
    def log_lines(process, prefix):
        """The lines of the structured log whose message begins so."""
        lines = []
        for line in process.err().splitlines():
            if line.startswith('{') and line.endswith('}'):
                entry = json.loads(line)
                if entry['message'].startswith(prefix):
                    lines.append(entry)
        return lines

    @staticmethod
    def status(sidecar):
        return request(sidecar.admin, '/config/status').json()

    @staticmethod
    def breaker(sidecar, name):
        return request(sidecar.admin, '/actuator/circuitbreakers').json()['circuitBreakers'][name]

    @staticmethod
    def metrics(sidecar):
        return request(sidecar.admin, '/metrics').text()

    def wait_generation(self, sidecar, generation):
        wait_until(lambda: self.status(sidecar)['generation'] == generation, f'generation {generation}')
