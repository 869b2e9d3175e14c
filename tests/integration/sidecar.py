"""The sidecar as a program: its command line, what it does for a service that hangs, and its admin address."""
import concurrent.futures
import hashlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'support'))
from processes import BIN, free_port, request, wait_until  # noqa: E402
from sidecars import SidecarTest, metric  # noqa: E402

PROGRAM = BIN / 'resilience-sidecar'


def config(upstream, route='', more='', drain='{ delay: 0ms, timeout: 20s }'):
    return f'''version: 1
listen: {{ address: 127.0.0.1:0, threads: 2 }}
admin: {{ address: 127.0.0.1:0 }}
drain: {drain}
upstreams:
  app: {{ targets: ["127.0.0.1:{upstream}"] }}
routes:
  - name: app
    match: {{ path_prefix: / }}
    upstream: app
{route}{more}'''


BREAKER = '''    timeout: 5s
    per_try_timeout: 100ms
    circuit_breaker: { window: 4 calls, min_calls: 4, open_for: 1s, half_open_calls: 2 }
'''


class CommandLine(SidecarTest):
    def test_a_good_file_is_valid_and_explained(self):
        file = self.folder / 'good.yaml'
        file.write_text(config(1, BREAKER))
        done = self.run_program(PROGRAM, 'validate', file)
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        done = self.run_program(PROGRAM, 'explain', file)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f'routes.app.per_try_timeout = 100ms  # {file}:12', done.stdout)
        self.assertIn('routes.app.circuit_breaker.failure_rate = 50%  # default', done.stdout)

    def test_every_error_is_told_at_once_with_its_place(self):
        file = self.folder / 'bad.yaml'
        file.write_text(config(1, BREAKER.replace('window', 'windw').replace('1s', '1')))
        for verb in ['validate'], ['run'], []:
            done = self.run_program(PROGRAM, *verb, file)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertRegex(done.stderr, re.escape(str(file)) + r':13:\d+: error: .*windw')
            self.assertIn('window', done.stderr)
            self.assertEqual(len(re.findall('error:', done.stderr)), 2, done.stderr)

    def test_wrong_usage_exits_with_2_and_help_with_0(self):
        for words in ([], ['run'], ['--nonsense', 'x'], ['run', 'a', 'b'], ['run', 'a', '--threads', 'many'],
                      ['run', 'a', '--listen', 'nowhere'], ['run', 'a', '--admin'], ['run', 'a', '--log-level', 'loud'],
                      ['validate'], ['explain'], ['run', self.folder / 'missing.yaml']):
            self.assertEqual(self.run_program(PROGRAM, *words).returncode, 2, words)
        for verb in [], ['run'], ['validate'], ['explain'], ['schema']:
            self.assertEqual(self.run_program(PROGRAM, *verb, '--help').returncode, 0, verb)
            version = self.run_program(PROGRAM, *verb, '--version')
            self.assertRegex(version.stdout, r'^resilience-sidecar \d+\.\d+\.\d+\n$', verb)
        schema = json.loads(self.run_program(PROGRAM, 'schema').stdout)
        self.assertIn('2020-12', schema['$schema'])

    def test_an_address_in_use_is_named_and_exits_with_1(self):
        file = self.folder / 'sidecar.yaml'
        file.write_text(config(1))
        with socket.socket() as taken:
            taken.bind(('127.0.0.1', 0))
            taken.listen()
            address = f'127.0.0.1:{taken.getsockname()[1]}'
            for flag in '--listen', '--admin':
                done = self.run_program(PROGRAM, 'run', file, flag, address)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(address, done.stderr)

    def test_flags_override_the_file(self):
        port = free_port()
        sidecar = self.start_sidecar(config(1), '--admin', f'127.0.0.1:{port}', '--threads=1')
        self.assertEqual(sidecar.admin, port)
        self.assertEqual(self.log_lines(sidecar, 'listening')[0]['threads'], 1)


class HangingService(SidecarTest):
    def test_the_breaker_opens_tells_and_recovers_by_probes(self):
        upstream = self.start_upstream()
        sidecar = self.start_sidecar(config(upstream.port, BREAKER))
        self.assertEqual(request(sidecar.port, '/x?body=hello').text(), 'hello')

        upstream.signal(signal.SIGSTOP)
        cut = request(sidecar.port, '/x')
        self.assertEqual((cut.status, cut.json()['reason']), (504, 'timed_out'))
        refused = wait_until(lambda: (lambda a: a if a.status == 503 else None)(request(sidecar.port, '/x')), '503')
        self.assertEqual(refused.headers['x-resilience-reason'], 'circuit_open')
        self.assertIn('error=destination_unavailable', refused.headers['Proxy-Status'])
        self.assertEqual(refused.headers['Retry-After'], '1')
        self.assertEqual(refused.json()['type'], 'urn:resilience:circuit_open')
        quickest = min(request(sidecar.port, '/x').seconds for _ in range(50))
        self.assertLess(quickest, 0.005)

        sidecar_says = request(sidecar.admin, '/health')
        self.assertEqual((sidecar_says.status, sidecar_says.json()['status']), (200, 'UP'))
        breaker = sidecar_says.json()['components']['circuitBreakers']['details']['app']
        page = self.metrics(sidecar)
        opened = breaker['status'] == 'CIRCUIT_OPEN'
        self.assertTrue(opened)
        self.assertEqual(breaker['details']['state'], 'OPEN')
        self.assertEqual(metric(page, 'resilience4j_circuitbreaker_state', name='app', state='open'), 1)
        self.assertEqual(metric(page, 'resilience4j_circuitbreaker_state', name='app', state='closed'), 0)
        self.assertGreaterEqual(metric(page, 'resilience4j_circuitbreaker_not_permitted_calls_total', name='app',
                                       kind='not_permitted'), 51)
        self.assertGreaterEqual(metric(page, 'sidecar_local_responses_total', route='app', reason='circuit_open'), 51)
        self.assertEqual(metric(page, 'resilience4j_circuitbreaker_calls_seconds_count', name='app', kind='successful'), 1)
        self.assertEqual(metric(page, 'resilience4j_circuitbreaker_failure_rate', name='app'), 75)

        upstream.signal(signal.SIGCONT)
        wait_until(lambda: request(sidecar.port, '/x').status == 200 and self.breaker(sidecar, 'app')['state'] == 'CLOSED',
                   'the breaker closes again')
        events = request(sidecar.admin, '/actuator/circuitbreakerevents/app').json()['circuitBreakerEvents']
        changes = [e['stateTransition'] for e in events if e['type'] == 'STATE_TRANSITION']
        self.assertEqual([changes[-1], changes[-2]], ['HALF_OPEN_TO_CLOSED', 'OPEN_TO_HALF_OPEN'])
        self.assertEqual({'circuitBreakerName', 'type', 'creationTime', 'errorMessage', 'durationInMs', 'stateTransition'},
                         set(events[0]))
        self.assertTrue({'SUCCESS', 'NOT_PERMITTED'} <= {e['type'] for e in events})
        only = request(sidecar.admin, '/actuator/circuitbreakerevents/app/STATE_TRANSITION').json()['circuitBreakerEvents']
        self.assertEqual([e['stateTransition'] for e in only][-2:], changes[-2:])
        self.assertLessEqual(len(events), 100)

    def test_an_upstream_that_is_not_there_is_told_apart(self):
        sidecar = self.start_sidecar(config(free_port()))
        answer = request(sidecar.port, '/x')
        self.assertEqual((answer.status, answer.json()['reason']), (502, 'connect_failure'))


class Admin(SidecarTest):
    ROUTE = '''    circuit_breaker: { open_for: 60s }
    rate_limiter: { limit: 1000/s }
    bulkhead: { max_concurrent: 7 }
    retry: { max_attempts: 2 }
'''

    def setUp(self):
        super().setUp()
        self.upstream = self.start_upstream()
        self.sidecar = self.start_sidecar(config(self.upstream.port, self.ROUTE))

    def get(self, path, **more):
        return request(self.sidecar.admin, path, **more)

    def override(self, body, name='app', **more):
        return request(self.sidecar.admin, f'/actuator/circuitbreakers/{name}', 'POST', body, **more)

    def test_health_has_every_component_and_the_probes_answer(self):
        health = self.get('/health').json()
        self.assertEqual(set(health['components']),
                         {'circuitBreakers', 'rateLimiters', 'bulkheads', 'threadPools', 'upstreams'})
        self.assertEqual(health['components']['upstreams']['details']['app']['status'], 'UP')
        self.assertEqual(health['components']['bulkheads']['details']['app']['details']['maxAllowedConcurrentCalls'], 7)
        self.assertEqual(self.get('/health/live').json(), {'status': 'UP'})
        self.assertEqual(self.get('/health/ready').json(), {'status': 'UP'})

    def test_the_actuator_lists_instances(self):
        breaker = self.get('/actuator/circuitbreakers').json()['circuitBreakers']['app']
        self.assertEqual(breaker, {
            'failureRate': '-1.0%', 'failureRateThreshold': '50.0%', 'slowCallRate': '-1.0%',
            'slowCallRateThreshold': '100.0%', 'bufferedCalls': 0, 'slowCalls': 0, 'slowFailedCalls': 0, 'failedCalls': 0,
            'notPermittedCalls': 0, 'state': 'CLOSED'})
        for path, member in {'ratelimiters': 'rateLimiters', 'bulkheads': 'bulkheads', 'retries': 'retries',
                             'timelimiters': 'timeLimiters'}.items():
            self.assertEqual(self.get(f'/actuator/{path}').json(), {member: ['app']})

    def test_events_have_the_types_of_their_kind_newest_last(self):
        request(self.sidecar.port, '/x')
        request(self.sidecar.port, '/x?status=503')
        for kind, types in {'ratelimiter': {'SUCCESSFUL_ACQUIRE'}, 'bulkhead': {'CALL_PERMITTED', 'CALL_FINISHED'},
                            'retry': {'RETRY', 'ERROR'}, 'circuitbreaker': {'SUCCESS', 'ERROR'}}.items():
            member = {'ratelimiter': 'rateLimiterEvents', 'circuitbreaker': 'circuitBreakerEvents'}.get(kind, f'{kind}Events')
            events = self.get(f'/actuator/{kind}events').json()[member]
            self.assertEqual({e['type'] for e in events}, types, kind)
            times = [e['creationTime'] for e in events]
            self.assertEqual(times, sorted(times))
            self.assertEqual(self.get(f'/actuator/{kind}events/nobody').status, 404)
        self.assertEqual(self.get('/actuator/timelimiterevents').json(), {'timeLimiterEvents': []})

    def test_unknown_paths_methods_and_names_are_problems(self):
        for path, method, status in (('/nothing', 'GET', 404), ('/health', 'POST', 405), ('/actuator/circuitbreakers/x', 'POST', 404),
                                     ('/policies/circuit_breaker/x', 'PATCH', 404), ('/policies/nonsense/app', 'PATCH', 404)):
            answer = self.get(path, method=method, body='{}' if method != 'GET' else None)
            self.assertEqual((answer.status, answer.headers['Content-Type']), (status, 'application/problem+json'), path)

    def test_an_override_holds_until_its_end(self):
        answer = self.override({'updateState': 'FORCE_OPEN', 'ttl': '300ms'})
        self.assertEqual(answer.json(), {'circuitBreakerName': 'app', 'currentState': 'FORCED_OPEN',
                                         'message': 'app state has been changed successfully'})
        self.assertEqual(request(self.sidecar.port, '/x').json()['reason'], 'circuit_open')
        wait_until(lambda: self.breaker(self.sidecar, 'app')['state'] == 'CLOSED', 'the override ends')
        self.assertEqual(request(self.sidecar.port, '/x').status, 200)
        self.assertEqual(len(self.log_lines(self.sidecar, 'audit')), 2)

    def test_an_override_without_end_holds_until_closed_and_another_replaces_it(self):
        self.override({'updateState': 'FORCE_OPEN', 'ttl': '1ms'})
        for state, shown in (('DISABLE', 'DISABLED'), ('METRICS_ONLY', 'METRICS_ONLY'), ('FORCE_OPEN', 'FORCED_OPEN')):
            self.assertEqual(self.override({'updateState': state}).json()['currentState'], shown)
        self.assertEqual(self.breaker(self.sidecar, 'app')['state'], 'FORCED_OPEN')
        self.assertEqual(self.override({'updateState': 'CLOSE'}).json()['currentState'], 'CLOSED')
        self.assertEqual(self.breaker(self.sidecar, 'app')['bufferedCalls'], 0)

    def test_a_bad_override_changes_nothing(self):
        for body in ('', '[]', '{', '{}', {'updateState': 'OPEN'}, {'updateState': 3}, {'updateState': 'CLOSE', 'ttl': 5},
                     {'updateState': 'FORCE_OPEN', 'ttl': '5'}, {'updateState': 'FORCE_OPEN', 'ttl': '0s'},
                     {'updateState': 'FORCE_OPEN', 'ttl': '-1s'}, {'updateState': 'FORCE_OPEN', 'tll': '1s'}):
            answer = self.override(body)
            self.assertEqual((answer.status, answer.headers['Content-Type']), (400, 'application/problem+json'), body)
        self.assertEqual(self.breaker(self.sidecar, 'app')['state'], 'CLOSED')

    def test_writes_from_other_origins_are_refused(self):
        host = f'127.0.0.1:{self.sidecar.admin}'
        order = {'updateState': 'FORCE_OPEN'}
        for headers in ({'Origin': 'http://evil.example'}, {'Host': 'evil.example'}, {'Sec-Fetch-Site': 'cross-site'},
                        {'Host': f'evil.example:{self.sidecar.admin}', 'Origin': f'http://evil.example:{self.sidecar.admin}'},
                        {'Origin': 'null'}):
            self.assertEqual(self.override(order, headers=headers).status, 403, headers)
        self.assertEqual(self.breaker(self.sidecar, 'app')['state'], 'CLOSED')
        own = {'Origin': f'http://{host}', 'Sec-Fetch-Site': 'same-origin'}
        self.assertEqual(self.override(order, headers=own).status, 200)
        self.assertEqual(self.override(order, headers={'Host': f'localhost:{self.sidecar.admin}'}).status, 200)

    def test_a_body_without_end_is_refused(self):
        self.assertEqual(self.get('/config/validate', method='POST', body='#' * (2 << 20)).status, 413)

    def test_a_setting_is_patched_until_the_next_reload(self):
        answer = self.get('/policies/bulkhead/app', method='PATCH', body={'max_concurrent': 3})
        self.assertEqual((answer.status, answer.json()['max_concurrent']), (200, 3), answer.text())
        health = self.get('/health').json()['components']['bulkheads']['details']['app']['details']
        self.assertEqual(health['maxAllowedConcurrentCalls'], 3)
        self.assertEqual(len(self.log_lines(self.sidecar, 'audit')), 1)
        for body in ({'max_concurrent': -1}, {'max_concurent': 3}, {'max_wait': 5}, '[', ''):
            self.assertEqual(self.get('/policies/bulkhead/app', method='PATCH', body=body).status, 400, body)
        limit = self.get('/policies/rate_limiter/app', method='PATCH', body={'limit': '20/s'})
        self.assertEqual((limit.status, limit.json()['limit']), (200, '20/s'), limit.text())
        self.assertEqual(metric(self.metrics(self.sidecar), 'sidecar_rate_limit', name='app'), 20)

        self.assertEqual(self.get('/config/reload', method='POST').json()['result'], 'unchanged')
        self.assertEqual(metric(self.metrics(self.sidecar), 'sidecar_rate_limit', name='app'), 1000)
        health = self.get('/health').json()['components']['bulkheads']['details']['app']['details']
        self.assertEqual(health['maxAllowedConcurrentCalls'], 7)

    def test_a_configuration_is_shown_and_checked(self):
        self.assertEqual(self.get('/config').status, 200)
        self.assertIn('60s', self.get('/config').text())
        status = self.get('/config/status').json()
        self.assertEqual(set(status), {'generation', 'hash', 'file', 'loaded_at', 'last_error'})
        self.assertIsNone(status['last_error'])
        good = self.get('/config/validate', method='POST', body=config(1))
        self.assertEqual((good.status, good.json()['valid']), (200, True))
        bad = self.get('/config/validate', method='POST', body=config(1).replace('match', 'macht'))
        self.assertEqual((bad.status, bad.json()['valid']), (422, False))
        self.assertEqual({'line', 'column', 'message'}, set(bad.json()['errors'][0]))

    def test_metrics_agree_with_what_was_sent(self):
        for _ in range(5):
            request(self.sidecar.port, '/x')
        page = self.metrics(self.sidecar)
        self.assertEqual(metric(page, 'sidecar_requests_total', route='app', code='200'), 5)
        self.assertEqual(metric(page, 'sidecar_request_duration_seconds_count', route='app'), 5)
        self.assertEqual(metric(page, 'sidecar_request_duration_seconds_bucket', route='app', le='+Inf'), 5)
        self.assertEqual(metric(page, 'sidecar_requests_in_flight', route='app'), 0)
        self.assertEqual(metric(page, 'sidecar_upstream_attempts_total', upstream='app', result='ok'), 5)
        self.assertEqual(metric(page, 'resilience4j_retry_calls_total', name='app', kind='successful_without_retry'), 5)
        self.assertEqual(metric(page, 'resilience4j_timelimiter_calls_total', name='app', kind='successful'), 5)
        self.assertEqual(metric(page, 'resilience4j_bulkhead_max_allowed_concurrent_calls', name='app'), 7)
        self.assertEqual(metric(page, 'resilience_admitted_total', name='app', kind='bulkhead'), 5)
        self.assertEqual(metric(page, 'sidecar_config_generation'), 1)
        self.assertEqual(metric(page, 'sidecar_config_last_reload_successful'), 1)
        self.assertEqual(metric(page, 'sidecar_config_reloads_total', result='applied'), 0)
        self.assertEqual(metric(page, 'sidecar_local_responses_total', route='app', reason='circuit_open'), 0)
        names = re.findall(r'^# TYPE (\S+)', page, re.MULTILINE)
        self.assertEqual(len(names), len(set(names)), 'a family stands in one place')

    def test_everything_is_told_live(self):
        connection = http.client.HTTPConnection('127.0.0.1', self.sidecar.admin, timeout=30)
        self.addCleanup(connection.close)
        connection.request('GET', '/events', headers={'Accept': 'text/event-stream'})
        stream = connection.getresponse()
        self.assertEqual((stream.status, stream.headers['Content-Type']), (200, 'text/event-stream'))
        self.assertTrue(stream.readline().startswith(b':'))
        self.override({'updateState': 'FORCE_OPEN'})
        for _ in range(3):
            request(self.sidecar.port, '/x')
        self.get('/config/reload', method='POST')
        seen = {}
        while set(seen) != {'transition', 'rejections', 'reload'}:
            line = stream.readline().decode()
            self.assertTrue(line, 'the stream ended')
            if line.startswith('event: '):
                seen.setdefault(line[7:].strip(), json.loads(stream.readline().decode().removeprefix('data: ')))
        self.assertEqual(seen['transition'],
                         {'kind': 'circuit_breaker', 'name': 'app', 'from': 'closed', 'to': 'forced_open'})
        self.assertEqual(seen['reload'], {'result': 'unchanged', 'generation': 1})
        self.assertEqual(seen['rejections'], {'route': 'app', 'circuit_open': 3})

    def test_the_page_stands_alone(self):
        page = self.get('/')
        self.assertEqual((page.status, page.headers['Content-Type']), (200, 'text/html; charset=utf-8'))
        policy = page.headers['Content-Security-Policy']
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn('unsafe', policy)
        text = page.text()
        self.assertNotRegex(text, r'(src|href)="')
        self.assertNotIn(' style="', text)
        scripts = re.findall(r'<script>(.*?)</script>', text, re.DOTALL)
        self.assertEqual(len(scripts), 1)

    @unittest.skipUnless(subprocess.run(['which', 'node'], capture_output=True).returncode == 0, 'needs node')
    def test_the_pages_script_has_no_syntax_error(self):
        script = self.folder / 'page.js'
        script.write_text(re.search(r'<script>(.*?)</script>', self.get('/').text(), re.DOTALL)[1])
        done = self.run_program('node', '--check', script)
        self.assertEqual(done.returncode, 0, done.stderr)


class Bodies(SidecarTest):
    def test_large_bodies_pass_whole_in_bounded_memory(self):
        upstream = self.start_upstream()
        sidecar = self.start_sidecar(config(upstream.port, '    timeout: 60s\n'))
        body = os.urandom(10 * 1024 * 1024)

        def echo():
            answer = request(sidecar.port, '/', 'POST', body)
            self.assertEqual(answer.status, 200)
            self.assertEqual(hashlib.sha256(answer.body).digest(), hashlib.sha256(body).digest())

        def peak_kib():
            return int(re.search(r'VmHWM:\s+(\d+)', pathlib.Path(f'/proc/{sidecar.pid}/status').read_text())[1])

        request(sidecar.port, '/', 'POST', b'warm')
        before = peak_kib()
        echo()      # 10 MiB up and 10 MiB down
        grown = peak_kib() - before
        self.assertLess(grown, 1024, 'KiB of memory for one request')
        for _ in range(5):
            echo()
        self.assertLess(peak_kib() - before, 2048, 'KiB of memory after six requests')


class Chaos(SidecarTest):
    def test_faults_are_made_only_where_they_are_enabled(self):
        upstream = self.start_upstream()
        text = config(upstream.port, BREAKER.replace('1s', '60s') + '    chaos: { rate: 100%, latency: 30ms, status: 503 }\n')
        file = self.folder / 'chaos.yaml'
        file.write_text(text)
        refused = self.run_program(PROGRAM, 'run', file)
        self.assertEqual(refused.returncode, 2)
        self.assertIn('--enable-chaos', refused.stderr)

        sidecar = self.start_sidecar(text, '--enable-chaos')
        for _ in range(4):
            answer = request(sidecar.port, '/?status=200')
            self.assertEqual((answer.status, answer.headers['x-resilience-reason']), (503, None))
            self.assertGreaterEqual(answer.seconds, 0.03)
        # The policies take the faults for real ones.
        self.assertEqual(self.breaker(sidecar, 'app')['state'], 'OPEN')
        self.assertEqual(request(sidecar.port, '/').headers['x-resilience-reason'], 'circuit_open')

    def test_a_delay_counts_against_the_timeout_of_an_attempt(self):
        upstream = self.start_upstream()
        sidecar = self.start_sidecar(config(upstream.port, BREAKER + '    chaos: { rate: 100%, latency: 5s }\n'), '--enable-chaos')
        answer = request(sidecar.port, '/')
        self.assertEqual((answer.status, answer.headers['x-resilience-reason']), (504, 'timed_out'))
        self.assertLess(answer.seconds, 3)


class Leaving(SidecarTest):
    def test_a_drain_lets_requests_finish(self):
        upstream = self.start_upstream()
        sidecar = self.start_sidecar(config(upstream.port, drain='{ delay: 300ms, timeout: 20s }'))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            slow = pool.submit(request, sidecar.port, '/x?delay=1.5&body=done')
            wait_until(lambda: metric(self.metrics(sidecar), 'sidecar_requests_in_flight', route='app') == 1, 'in flight')
            sidecar.signal(signal.SIGTERM)
            wait_until(lambda: request(sidecar.admin, '/health/ready').status == 503, 'not ready')
            ready = request(sidecar.admin, '/health/ready')
            self.assertEqual((ready.status, ready.json()), (503, {'status': 'OUT_OF_SERVICE'}))
            self.assertEqual(request(sidecar.admin, '/health/live').status, 200)
            self.assertEqual(request(sidecar.port, '/x').status, 200, 'during the delay everything is served')
            self.assertEqual(request(sidecar.admin, '/config/reload', 'POST').status, 503)

            def refused():
                try:
                    request(sidecar.port, '/x')
                    return False
                except OSError:
                    return True
            wait_until(refused, 'no more connections')
            answer = slow.result()
            self.assertEqual((answer.status, answer.text()), (200, 'done'))
        self.assertEqual(sidecar.wait(), 0)

    def test_what_outlasts_the_drain_is_cut(self):
        upstream = self.start_upstream()
        sidecar = self.start_sidecar(config(upstream.port, drain='{ delay: 0ms, timeout: 500ms }'))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            slow = pool.submit(request, sidecar.port, '/x?delay=20')
            wait_until(lambda: metric(self.metrics(sidecar), 'sidecar_requests_in_flight', route='app') == 1, 'in flight')
            sidecar.signal(signal.SIGINT)
            self.assertEqual(sidecar.wait(), 1)
            upstream.end()
            self.assertIsNotNone(slow.exception())

    def test_a_second_signal_leaves_at_once(self):
        sidecar = self.start_sidecar(config(1, drain='{ delay: 30s, timeout: 60s }'))
        sidecar.signal(signal.SIGTERM)
        wait_until(lambda: request(sidecar.admin, '/health/ready').status == 503, 'not ready')
        began = time.monotonic()
        sidecar.signal(signal.SIGTERM)
        self.assertEqual(sidecar.wait(), 0)
        self.assertLess(time.monotonic() - began, 10)


if __name__ == '__main__':
    unittest.main()
