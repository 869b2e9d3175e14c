"""The sidecar's file changes while it runs."""
import concurrent.futures
import os
import pathlib
import signal
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'support'))
from processes import request, wait_until  # noqa: E402
from sidecars import SidecarTest, metric  # noqa: E402


def config(upstream, limit='1000/s', open_for='60s', more=''):
    return f'''version: 1
listen: {{ address: 127.0.0.1:0, threads: 2 }}
admin: {{ address: 127.0.0.1:0 }}
drain: {{ delay: 0ms, timeout: 5s }}
access_log: {{ path: none }}
upstreams:
  app: {{ targets: ["127.0.0.1:{upstream}"] }}
routes:
  - name: app
    match: {{ path_prefix: / }}
    upstream: app
    rate_limiter: {{ limit: {limit} }}
    circuit_breaker: {{ window: 4 calls, min_calls: 4, open_for: {open_for} }}
{more}'''


class Reload(SidecarTest):
    def setUp(self):
        super().setUp()
        self.upstream = self.start_upstream()

    def limit(self, sidecar):
        return metric(self.metrics(sidecar), 'sidecar_rate_limit', name='app')

    def wait_limit(self, sidecar, limit):
        wait_until(lambda: self.limit(sidecar) == limit, f'a limit of {limit}')

    def test_a_file_written_in_place_or_replaced_is_read_again_within_a_second(self):
        sidecar = self.start_sidecar(config(self.upstream.port))
        first = self.status(sidecar)
        file = self.folder / 'sidecar.yaml'
        began = time.monotonic()
        file.write_text(config(self.upstream.port, limit='20/s'))
        self.wait_limit(sidecar, 20)
        took = time.monotonic() - began
        status = self.status(sidecar)
        self.assertEqual(status['generation'], first['generation'] + 1)
        self.assertNotEqual(status['hash'], first['hash'])
        self.assertLess(took, 5, 'a second, and much for a busy machine')

        new = self.folder / 'new.yaml'
        new.write_text(config(self.upstream.port, limit='30/s'))
        os.rename(new, file)
        self.wait_limit(sidecar, 30)
        wait_until(lambda: len(self.log_lines(sidecar, 'reload')) == 2, 'a log line for each reload')
        line = self.log_lines(sidecar, 'reload')[-1]
        self.assertEqual(line['result'], 'applied')
        self.assertIn({'path': 'routes.app.rate_limiter.limit', 'before': '20/s', 'after': '30/s'}, line['changes'])
        page = self.metrics(sidecar)
        self.assertEqual(metric(page, 'sidecar_config_reloads_total', result='applied'), 2)

    def test_links_swapped_as_kubernetes_does(self):
        for name, limit in ('one', '40/s'), ('two', '50/s'):
            (self.folder / name).mkdir()
            (self.folder / name / 'sidecar.yaml').write_text(config(self.upstream.port, limit=limit))
        os.symlink('one', self.folder / '..data')
        os.symlink('..data/sidecar.yaml', self.folder / 'sidecar.yaml')
        sidecar = self.start_sidecar(None, file=self.folder / 'sidecar.yaml')
        self.assertEqual(self.limit(sidecar), 40)
        os.symlink('two', self.folder / '..new')
        os.rename(self.folder / '..new', self.folder / '..data')
        self.wait_limit(sidecar, 50)

    def test_a_hangup_reads_the_file_again_and_the_same_content_changes_nothing(self):
        sidecar = self.start_sidecar(config(self.upstream.port))
        before = self.status(sidecar)
        sidecar.signal(signal.SIGHUP)
        wait_until(lambda: metric(self.metrics(sidecar), 'sidecar_config_reloads_total', result='unchanged') == 1,
                   'the reload')
        after = self.status(sidecar)
        self.assertEqual((before['generation'], before['hash']), (after['generation'], after['hash']))
        line = wait_until(lambda: self.log_lines(sidecar, 'reload'), 'the log line')[-1]
        self.assertEqual((line['result'], line['changes']), ('unchanged', []))

    def test_a_bad_file_changes_nothing_and_says_why(self):
        sidecar = self.start_sidecar(config(self.upstream.port))
        file = self.folder / 'sidecar.yaml'
        before = self.status(sidecar)
        for number, bad in enumerate((config(self.upstream.port).replace('limit', 'limmit'), '', ': ['), 1):
            file.write_text(bad)
            wait_until(lambda: metric(self.metrics(sidecar), 'sidecar_config_reloads_total', result='rejected') == number,
                       'the rejection')
        file.unlink()
        wait_until(lambda: metric(self.metrics(sidecar), 'sidecar_config_reloads_total', result='rejected') == 4,
                   'the rejection of a file that has gone')
        status = self.status(sidecar)
        self.assertEqual((before['generation'], before['hash']), (status['generation'], status['hash']))
        self.assertEqual({'file', 'line', 'column', 'message'}, set(status['last_error']['errors'][0]))
        self.assertEqual(metric(self.metrics(sidecar), 'sidecar_config_last_reload_successful'), 0)
        self.assertEqual(request(sidecar.port, '/x').status, 200)
        answer = request(sidecar.admin, '/config/reload', 'POST')
        self.assertEqual((answer.status, answer.json()['valid']), (422, False))

        file.write_text(config(self.upstream.port, limit='60/s'))
        self.wait_limit(sidecar, 60)
        self.assertIsNone(self.status(sidecar)['last_error'])
        self.assertEqual(metric(self.metrics(sidecar), 'sidecar_config_last_reload_successful'), 1)

    def test_states_and_overrides_survive(self):
        sidecar = self.start_sidecar(config(self.upstream.port))
        for _ in range(4):
            request(sidecar.port, '/x?status=500')
        self.assertEqual(self.breaker(sidecar, 'app')['state'], 'OPEN')
        (self.folder / 'sidecar.yaml').write_text(config(self.upstream.port, limit='70/s', open_for='120s'))
        self.wait_limit(sidecar, 70)
        self.assertEqual(self.breaker(sidecar, 'app')['state'], 'OPEN')
        self.assertEqual(self.breaker(sidecar, 'app')['failedCalls'], 4)

        request(sidecar.admin, '/actuator/circuitbreakers/app', 'POST', {'updateState': 'DISABLE'})
        (self.folder / 'sidecar.yaml').write_text(config(self.upstream.port, limit='80/s'))
        self.wait_limit(sidecar, 80)
        self.assertEqual(self.breaker(sidecar, 'app')['state'], 'DISABLED')

    def test_a_new_instance_is_seen_and_one_that_is_gone_is_not(self):
        sidecar = self.start_sidecar(config(self.upstream.port))
        file = self.folder / 'sidecar.yaml'
        file.write_text(config(self.upstream.port, more='    bulkhead: { max_concurrent: 9 }\n'))
        name = 'resilience4j_bulkhead_max_allowed_concurrent_calls'
        wait_until(lambda: metric(self.metrics(sidecar), name, name='app') == 9, 'the bulkhead')
        file.write_text(config(self.upstream.port))
        wait_until(lambda: metric(self.metrics(sidecar), name, name='app') is None, 'no bulkhead')
        self.assertEqual(request(sidecar.admin, '/actuator/bulkheads').json(), {'bulkheads': []})

    def test_a_hundred_reloads_under_load_fail_no_request(self):
        sidecar = self.start_sidecar(config(self.upstream.port, limit='1000000/s'))
        done = threading.Event()
        statuses = []

        def load():
            while not done.is_set():
                statuses.append(request(sidecar.port, '/x?body=ok').status)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            clients = [pool.submit(load) for _ in range(4)]
            try:
                for n in range(100):
                    (self.folder / 'sidecar.yaml').write_text(
                        config(self.upstream.port, limit=f'{1000000 + n}/s', open_for=f'{n + 1}s'))
                    answer = request(sidecar.admin, '/config/reload', 'POST')
                    self.assertEqual(answer.status, 200, answer.text())
                    seen = len(statuses)
                    wait_until(lambda: len(statuses) > seen + 2, 'requests between two reloads')
            finally:
                done.set()
            for client in clients:
                client.result()
        self.assertEqual(set(statuses), {200})
        self.assertGreaterEqual(self.status(sidecar)['generation'], 101)


if __name__ == '__main__':
    unittest.main()
