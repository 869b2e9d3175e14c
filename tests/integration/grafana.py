"""grafana/: rules and configuration as promtool sees them, and every panel's query evaluated by a real Prometheus that
scrapes a real sidecar under traffic that makes every panel show something."""
import json
import pathlib
import re
import subprocess
import sys
import threading
import unittest
import urllib.parse

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / 'support'))
from processes import answers, free_port, request, wait_until  # noqa: E402
from sidecars import SidecarTest  # noqa: E402

GRAFANA = HERE.parents[1] / 'grafana'

POLICY = '''version: 1
listen: {{ address: 127.0.0.1:0, threads: 1 }}
admin: {{ address: 127.0.0.1:0 }}
access_log: {{ path: none }}
upstreams:
  app: {{ targets: ["127.0.0.1:{upstream}"], retry_budget: {{ ratio: 20%, min: 3/s }} }}
routes:
  - name: fails
    match: {{ path_prefix: /fails }}
    upstream: app
    circuit_breaker: {{ window: 4 calls, min_calls: 4, open_for: 1s }}
    fallback: {{ when: [circuit_open], respond: {{ status: 200, body: "later" }} }}
  - name: waits
    match: {{ path_prefix: /waits }}
    upstream: app
    rate_limiter: {{ limit: 2/s, burst: 1, max_wait: 1s }}
  - name: app
    match: {{ path_prefix: / }}
    upstream: app
    adaptive_rate_limiter: {{ min_rate: 20/s, max_rate: 50/s }}
    bulkhead: {{ max_concurrent: 20 }}
    retry: {{ max_attempts: 3, interval: 1ms }}
    circuit_breaker: {{ window: 100 calls, min_calls: 100 }}
'''


def panels(dashboard):
    for panel in dashboard['panels']:
        yield from panel.get('panels') or [panel]


def queries():
    """(panel's title, PromQL with the dashboard's variables filled in)"""
    for path in sorted(GRAFANA.glob('dashboards/*.json')):
        for panel in panels(json.loads(path.read_text())):
            for target in panel.get('targets', []):
                text = target['expr'].replace('$__rate_interval', '10s')
                text = re.sub(r'\$(instance|route)\b', '.*', text)
                assert '$' not in text, f'unknown variable in {text}'
                yield f'{path.stem}: {panel["title"]}', text


class Rules(unittest.TestCase):
    def promtool(self, *words):
        done = subprocess.run(['promtool', *map(str, words)], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_scrape_configuration_and_the_rules_are_valid(self):
        self.promtool('check', 'config', GRAFANA / 'prometheus.yml')

    def test_each_alert_fires_when_it_should_and_keeps_quiet_otherwise(self):
        self.promtool('test', 'rules', HERE / 'alerts_test.yml')
        tested = set(re.findall(r'alertname: (\w+)', (HERE / 'alerts_test.yml').read_text()))
        written = set(re.findall(r'alert: (\w+)', (GRAFANA / 'alerts.yml').read_text()))
        self.assertEqual(written, tested)


class Dashboards(SidecarTest):
    def test_every_query_of_every_panel_has_an_answer(self):
        upstream = self.start_upstream()
        sidecar = self.start_sidecar(POLICY.format(upstream=upstream.port))
        port = self.start_prometheus(sidecar.admin)

        def ask(query):
            answer = request(port, '/api/v1/query?' + urllib.parse.urlencode({'query': query})).json()
            self.assertEqual(answer['status'], 'success', f'{query}: {answer}')
            return answer['data']['result']

        stop = threading.Event()
        senders = [threading.Thread(target=self.send, args=(sidecar.port, stop, paths)) for paths in (
            ['/', '/?status=404', '/fails?status=503'], ['/?status=503'], ['/waits'], ['/waits'], ['/waits'])]
        for sender in senders:
            sender.start()
        try:
            wait_until(lambda: ask('up == 1'), 'a first scrape')
            asked = list(queries())
            self.assertGreater(len(asked), 20)
            for title, query in asked:
                with self.subTest(panel=title, query=query):
                    wait_until(lambda query=query: ask(query), f'{title} shows something: {query}', patience=40)
        finally:
            stop.set()
            for sender in senders:
                sender.join()

    def start_prometheus(self, target):
        config = self.folder / 'prometheus.yml'
        text = (GRAFANA / 'prometheus.yml').read_text().replace('scrape_interval: 5s', 'scrape_interval: 1s')
        text = text.replace('[alerts.yml]', f'[{GRAFANA / "alerts.yml"}]').replace('127.0.0.1:17080', f'127.0.0.1:{target}')
        config.write_text(text)
        port = free_port()
        prometheus = self.start(['prometheus', f'--config.file={config}', f'--web.listen-address=127.0.0.1:{port}',
                                 f'--storage.tsdb.path={self.folder / "tsdb"}', '--log.level=warn'], 'prometheus')
        self.wait_ready(prometheus, lambda: answers(port, '/-/ready'))
        return port

    @staticmethod
    def send(port, stop, paths):
        """Some forty requests a second, until told to stop."""
        while not stop.is_set():
            for path in paths:
                request(port, path)
            stop.wait(0.02)


if __name__ == '__main__':
    unittest.main()
