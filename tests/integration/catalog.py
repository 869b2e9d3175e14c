"""catalog-service as a program: its REST, what survives SIGKILL, what it refuses to open, how it ends."""
import concurrent.futures
import hashlib
import http.client
import http.server
import json
import pathlib
import random
import re
import signal
import socket
import sys
import threading
import unittest
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'support'))
from processes import BIN, ProcessTest, free_port, request, wait_until  # noqa: E402

PROGRAM = BIN / 'catalog-service'
BASE = '/catalog-service/api/catalog'
JSON = {'Content-Type': 'application/json'}


def product(code, **more):
    return {'productCode': code, 'productName': f'Name of {code}', 'description': 'What it is',
            'imageUrl': 'http://x/y.png', 'price': 10.5} | more


class Service(ProcessTest):
    def setUp(self):
        super().setUp()
        self.data = self.folder / 'data'
        self.port = None

    def begin(self, *more, inventory=None, ready=True):
        """Starts it on a port that the system chooses."""
        url = f'http://127.0.0.1:{inventory or free_port()}'
        service = self.start([PROGRAM, '--port', 0, '--data', self.data, '--inventory-url', url,
                              '--drain-delay-ms', 0, *more], 'catalog')
        if ready:
            found = self.wait_ready(service, lambda: re.search(r'"listening".*"port":(\d+)', service.err()))
            self.port = int(found[1])
        return service

    def ask(self, path, method='GET', body=None, headers=None):
        return request(self.port, path, method, body, headers)

    def api(self, path='', method='GET', body=None, headers=None):
        return self.ask(BASE + path, method, body, headers)

    def add(self, code, **more):
        answer = self.api('', 'POST', product(code, **more))
        self.assertEqual(answer.status, 201, answer.text())
        return answer.json()

    def assertProblem(self, answer, status, *fields):
        self.assertEqual(answer.status, status, answer.text())
        self.assertEqual(answer.headers['Content-Type'], 'application/problem+json')
        problem = answer.json()
        self.assertEqual(set(problem), {'type', 'title', 'status', 'detail', 'instance', 'timestamp', 'correlationId',
                                        'violations'})
        self.assertEqual(problem['status'], status)
        self.assertEqual(problem['correlationId'], answer.headers['X-Correlation-Id'])
        self.assertRegex(problem['timestamp'], r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$')
        for violation in problem['violations']:
            self.assertEqual(set(violation), {'object', 'field', 'rejectedValue', 'message'})
        if fields:
            self.assertEqual([v['field'] for v in problem['violations']], list(fields))
        return problem


class Rest(Service):
    def test_a_product_is_added_once_changed_and_removed(self):
        self.begin()
        added = self.api('', 'POST', product('P 1/ü', price=0.3))
        self.assertEqual(added.status, 201)
        self.assertEqual(added.json(), product('P 1/ü', price=0.3, id=1))
        self.assertIn(b'"price":0.30', added.body)
        self.assertEqual(self.ask(added.headers['Location']).json()['productCode'], 'P 1/ü')
        again = self.api('', 'POST', product('P 1/ü', price=99, productName='another'))
        self.assertEqual((again.status, again.json()), (200, added.json()))
        self.assertEqual(self.api('/product-code/' + urllib.parse.quote('P 1/ü', safe='')).json(), added.json())

        changed = self.api('/1', 'PUT', product('P2', price=7))
        self.assertEqual((changed.status, changed.json()), (200, product('P2', price=7, id=1)))
        self.assertIn(b'"price":7.00', changed.body)
        self.assertProblem(self.api('/product-code/' + urllib.parse.quote('P 1/ü', safe='')), 404)
        self.add('P3')
        self.assertProblem(self.api('/1', 'PUT', product('P3')), 409)
        self.assertProblem(self.api('/99', 'PUT', product('P9')), 404)
        gone = self.api('/1', 'DELETE')
        self.assertEqual((gone.status, gone.body), (204, b''))
        self.assertProblem(self.api('/1', 'DELETE'), 404)
        self.assertProblem(self.api('/id/1'), 404)

    def test_paths_that_are_no_products_are_404(self):
        self.begin()
        self.add('P')
        for path in '/id/x', '/id/01', '/id/-1', '/id/1.0', '/id/99999999999999999999', '/product-code/Q':
            with self.subTest(path):
                self.assertProblem(self.api(path), 404)
        self.assertProblem(self.ask('/'), 404)
        self.assertEqual(self.api('/').status, 200)

    def test_pages_hold_their_bounds(self):
        self.begin()
        for n in range(23):
            self.add(f'P{n:02}', price=1 + n % 3)
        page = self.api('').json()
        self.assertEqual([p['id'] for p in page.pop('data')], list(range(1, 11)))
        self.assertEqual(page, {'totalElements': 23, 'pageNumber': 1, 'totalPages': 3, 'isFirst': True, 'isLast': False,
                                'hasNext': True, 'hasPrevious': False})
        last = self.api('?pageNo=2&pageSize=10').json()
        self.assertEqual(([p['id'] for p in last['data']], last['isLast'], last['hasNext']), ([21, 22, 23], True, False))
        after = self.api('?pageNo=7').json()
        self.assertEqual((after['data'], after['isLast'], after['hasPrevious'], after['totalElements']), ([], True, True, 23))
        dear = self.api('?sortBy=price&sortDir=desc&pageSize=100').json()['data']
        self.assertEqual([p['id'] for p in dear], [p['id'] for p in sorted(dear, key=lambda p: (-p['price'], p['id']))])
        for query, fields in [('pageNo=-1', ['pageNo']), ('pageSize=0', ['pageSize']), ('pageSize=101', ['pageSize']),
                              ('pageNo=x&pageSize=&sortBy=color&sortDir=up',
                               ['pageNo', 'pageSize', 'sortBy', 'sortDir']), ('sortDir=ASC', ['sortDir'])]:
            for path in '', '/search':
                with self.subTest(path + query):
                    self.assertProblem(self.api(f'{path}?{query}'), 400, *fields)

    def test_an_empty_list_is_a_page_too(self):
        self.begin()
        self.assertEqual(self.api('').json(), {
            'data': [], 'totalElements': 0, 'pageNumber': 1, 'totalPages': 0, 'isFirst': True, 'isLast': True,
            'hasNext': False, 'hasPrevious': False})

    def test_search_exists_and_generate(self):
        self.begin()
        self.add('A', productName='Red Chair', price=10)
        self.add('B', description='goes with a red chair', price=20)
        self.add('C', price=30)
        codes = lambda query: [p['productCode'] for p in self.api('/search?' + query).json()['data']]  # noqa: E731
        self.assertEqual(codes('term=RED'), ['A', 'B'])
        self.assertEqual(codes('minPrice=20&maxPrice=30.00'), ['B', 'C'])
        self.assertEqual(codes('minPrice=20.01&maxPrice=29.99'), [])
        self.assertProblem(self.api('/search?minPrice=1.005&maxPrice=x'), 400, 'maxPrice', 'minPrice')
        for asked, there in ('A', True), ('A,B,A', True), ('A,D', False):
            self.assertEqual(self.api('/exists?productCodes=' + asked).json(), {'exists': there})
        self.assertProblem(self.api('/exists'), 400, 'productCodes')
        self.assertEqual(self.api('/generate?batchSize=250', 'POST').json(), {'generated': 250})
        self.assertEqual(self.api('').json()['totalElements'], 253)
        for size in '0', '10001', '-1', 'x':
            self.assertProblem(self.api(f'/generate?batchSize={size}', 'POST'), 400, 'batchSize')

    def test_every_violation_is_told_at_once_in_order(self):
        self.begin()
        self.assertProblem(self.api('', 'POST', {}), 400, 'description', 'imageUrl', 'price', 'productCode',
                           'productName')
        problem = self.assertProblem(self.api('', 'POST', product(' ', productName='x' * 300, description=5, price=0)),
                                     400, 'description', 'price', 'productCode', 'productName')
        self.assertEqual([v['rejectedValue'] for v in problem['violations']], [5, 0, ' ', 'x' * 256])
        self.assertEqual(self.api('', 'POST', product('x' * 255, productName='é' * 255)).status, 201)

    def test_money_is_exact(self):
        self.begin()
        body = lambda price: json.dumps(product('M' + price, price='@')).replace('"@"', price)  # noqa: E731
        for price, shown in [('10', '10.00'), ('1.5', '1.50'), ('1.500', '1.50'), ('0.01', '0.01'), ('1e1', '10.00'),
                             ('90071992547409.93', '90071992547409.93'), ('92233720368547758.07', '92233720368547758.07')]:
            with self.subTest(price):
                answer = self.api('', 'POST', body(price), JSON)
                self.assertEqual(answer.status, 201, answer.text())
                self.assertIn(f'"price":{shown}', answer.text())
        for price in '10.005', '"10"', '0', '-1', '0.001', '1e400', '1e17', '92233720368547758.08', 'true', 'null', '[1]':
            with self.subTest(price):
                self.assertProblem(self.api('', 'POST', body(price), JSON), 400, 'price')
        for price in 'NaN', 'Infinity', '01', '1.', '.5', '+1':
            with self.subTest(price):
                self.assertProblem(self.api('', 'POST', body(price), JSON), 400, '')

    def test_protocol_errors_are_problems(self):
        self.begin()
        self.add('P')
        self.assertProblem(self.ask('/nowhere'), 404)
        wrong = self.api('', 'PATCH')
        self.assertProblem(wrong, 405)
        self.assertEqual(wrong.headers['Allow'], 'GET, HEAD, POST')
        self.assertProblem(self.api('', headers={'Accept': 'text/html'}), 406)
        self.assertProblem(self.api('', 'POST', 'x', {'Content-Type': 'text/plain'}), 415)
        self.assertProblem(self.api('', headers={'X-Long': 'x' * 70_000}), 431)
        big = json.dumps(product('BIG', description='x' * (1 << 20)))
        self.assertProblem(self.api('', 'POST', big, JSON), 413)
        self.assertEqual(self.api('', 'POST', json.dumps(product('T')), {}).status, 201)
        self.assertEqual(self.api('', 'POST', json.dumps(product('U')),
                                  {'Content-Type': 'application/json; charset=utf-8'}).status, 201)
        echoed = self.api('/id/9', headers={'X-Correlation-Id': 'seen-before'})
        self.assertEqual(self.assertProblem(echoed, 404)['correlationId'], 'seen-before')
        head = self.api('/id/1?fetchInStock=false', 'HEAD')
        self.assertEqual((head.status, head.body), (200, b''))
        self.assertEqual(int(head.headers['Content-Length']), len(self.api('/id/1?fetchInStock=false').body))

    def test_bodies_that_are_not_json_have_one_violation(self):
        self.begin()
        for body in '', '{', '[1,', '{"a":1}}', '{"a":1,}', "{'a':1}", 'nul', '"\\ud800"', '[' * 65 + ']' * 65, '\ufeff{}':
            with self.subTest(body[:20]):
                self.assertProblem(self.api('', 'POST', body.encode(), JSON), 400, '')
        self.assertProblem(self.api('', 'POST', b'{"productCode":"\xff"}', JSON), 400, '')
        self.assertProblem(self.api('', 'POST', '{"price":1,"price":2}', JSON), 400, 'price')
        self.assertProblem(self.api('', 'POST', '[]', JSON), 400, '')

    def test_malformed_input_is_never_a_500(self):
        self.begin()
        seed = random.randrange(1 << 32)
        print('seed', seed, file=sys.stderr)
        rng = random.Random(seed)
        good = json.dumps(product('P')).encode()
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=30)
        for _ in range(2000):
            body = bytearray(good)
            for _ in range(rng.randrange(1, 6)):
                at = rng.randrange(len(body))
                kind = rng.randrange(3)
                if kind == 0:
                    body[at] = rng.randrange(256)
                elif kind == 1:
                    del body[at]
                else:
                    body[at:at] = rng.choice([b'{', b'[', b'"', b'\\u0000', b'1e9', b'-', b'null', b',', b'\xff'])
            connection.request(rng.choice(['POST', 'PUT']), BASE if rng.random() < .5 else BASE + '/1', bytes(body), JSON)
            response = connection.getresponse()
            content = response.read()
            self.assertIn(response.status, (200, 201, 400, 404, 405, 409), (seed, bytes(body), content))
        for target in b'/%', b'/%00', b'/%ff', b'//', b'/\xff', b'/' + BASE.encode() + b'?%', b'*', b'http://x/livez':
            with socket.create_connection(('127.0.0.1', self.port), timeout=30) as raw:
                raw.sendall(b'GET ' + target + b' HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
                answer = b''.join(iter(lambda: raw.recv(4096), b''))
            self.assertRegex(answer, rb'^HTTP/1\.1 (200|400|404) ', target)
        connection.close()
        self.assertEqual(self.ask('/livez').status, 200)

    def test_health_metrics_and_description(self):
        self.begin()
        self.add('P')
        self.assertEqual(self.ask('/livez').json(), {'status': 'UP'})
        self.assertEqual(self.ask('/readyz').json(), {'status': 'UP', 'restore': {'done': 0, 'total': 0}})
        health = self.ask('/health').json()
        self.assertEqual(health['components']['circuitBreakers']['details']['inventory']['status'], 'UP')
        metrics = self.ask('/metrics')
        self.assertTrue(metrics.headers['Content-Type'].startswith('text/plain; version=0.0.4'))
        self.assertIn(f'http_server_requests_seconds_count{{method="POST",route="{BASE}",status="201"}} 1', metrics.text())
        self.assertIn('resilience4j_circuitbreaker_state{name="inventory",state="closed"} 1', metrics.text())
        self.assertEqual(self.ask('/openapi.json').json()['openapi'], '3.1.0')


class Inventory:
    """Stands in for inventory: `quantities` by code, or an error status."""

    def __init__(self, test, quantities):
        outer = self
        self.quantities, self.status, self.calls = quantities, 200, 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self):
                outer.calls += 1
                url = urllib.parse.urlsplit(self.path)
                prefix = '/inventory-service/api/inventory/'
                status, rows = outer.status, None
                if status == 200 and url.path == prefix + 'product':
                    asked = urllib.parse.parse_qs(url.query)['codes'][0].split(',')
                    rows = [outer.row(code) for code in asked if code in outer.quantities]
                elif status == 200:
                    code = urllib.parse.unquote(url.path.removeprefix(prefix))
                    status, rows = (200, outer.row(code)) if code in outer.quantities else (404, {})
                body = json.dumps(rows).encode()
                self.send_response(status)
                self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        test.addCleanup(thread.join)
        test.addCleanup(self.server.server_close)
        test.addCleanup(self.server.shutdown)

    def row(self, code):
        return {'id': 1, 'productCode': code, 'availableQuantity': self.quantities[code], 'reservedItems': 0}


class Stock(Service):
    def test_what_is_in_stock_comes_from_inventory(self):
        inventory = Inventory(self, {'A': 3, 'B': 0, 'D,1': 2})
        self.begin(inventory=inventory.port)
        for code in 'A', 'B', 'C', 'D,1':
            self.add(code)
        page = self.api('')
        self.assertEqual([p['inStock'] for p in page.json()['data']], [True, False, False, True])
        self.assertNotIn('Warning', page.headers)
        self.assertTrue(self.api('/id/1').json()['inStock'])
        self.assertNotIn('inStock', self.api('/product-code/A').json())
        self.assertTrue(self.api('/product-code/A?fetchInStock=true').json()['inStock'])
        self.assertProblem(self.api('/product-code/A?fetchInStock=maybe'), 400, 'fetchInStock')

    def test_without_inventory_the_breaker_opens_and_pages_still_answer(self):
        inventory = Inventory(self, {'A': 1})
        inventory.status = 503
        self.begin(inventory=inventory.port)
        self.add('A')

        def opened():
            answer = self.api('')
            self.assertEqual(answer.status, 200)
            self.assertNotIn('inStock', answer.json()['data'][0])
            self.assertTrue(answer.headers['Warning'].startswith('199 '))
            breaker = self.ask('/health').json()['components']['circuitBreakers']['details']['inventory']
            return breaker['status'] == 'CIRCUIT_OPEN'

        wait_until(opened, 'the breaker is open')
        calls = inventory.calls
        self.assertEqual(calls, 10)
        self.assertTrue(self.api('/id/1').headers['Warning'].startswith('199 '))
        self.assertEqual(inventory.calls, calls, 'an open breaker sends nothing')
        self.assertIn('resilience4j_circuitbreaker_state{name="inventory",state="open"} 1', self.ask('/metrics').text())
        inventory.status = 200
        wait_until(lambda: self.api('').json()['data'][0].get('inStock'), 'the breaker has closed again')

    def test_an_inventory_that_hangs_holds_a_page_no_longer_than_its_time(self):
        with socket.create_server(('127.0.0.1', 0)) as silent:
            self.begin('--inventory-timeout-ms', 50, inventory=silent.getsockname()[1])
            self.add('A')
            answer = self.api('')
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.headers['Warning'].startswith('199 '))


class Lasting(Service):
    def fingerprint(self):
        return {str(file.relative_to(self.folder)): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in sorted(self.data.rglob('*')) if file.is_file()}

    def test_what_was_acknowledged_survives_sigkill(self):
        service = self.begin()
        acknowledged = []

        def add_many(worker):
            connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=30)
            try:
                for n in range(100_000):
                    body = product(f'W{worker}-{n}')
                    connection.request('POST', BASE, json.dumps(body), JSON)
                    response = connection.getresponse()
                    row = json.loads(response.read())
                    if response.status == 201:
                        acknowledged.append(row)
            except (OSError, http.client.HTTPException, ValueError):
                pass

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for worker in range(4):
                pool.submit(add_many, worker)
            wait_until(lambda: len(acknowledged) >= 200, 'products were added')
            service.signal(signal.SIGKILL)
        service.wait()
        self.begin()
        for row in acknowledged:
            self.assertEqual(self.api(f'/id/{row["id"]}?fetchInStock=false').json(), row)
        total = self.api('?pageSize=1').json()['totalElements']
        self.assertGreaterEqual(total, len(acknowledged))
        self.assertLessEqual(total, len(acknowledged) + 4)
        self.assertEqual(len({row['id'] for row in acknowledged}), len(acknowledged))

    def refused(self, *more):
        before = self.fingerprint()
        service = self.begin(*more, ready=False)
        self.assertEqual(service.wait(), 1, service.err())
        self.assertEqual(self.fingerprint(), before, 'it is left as it was')
        return service.err()

    def test_a_damaged_database_is_refused_and_left_alone(self):
        service = self.begin()
        self.api('/generate?batchSize=5000', 'POST')
        service.signal(signal.SIGTERM)
        self.assertEqual(service.wait(), 0)
        [log] = [file for file in self.data.glob('*.log') if file.stat().st_size > 0]
        with open(log, 'r+b') as out:
            out.seek(100_000)
            out.write(b'\xde\xad\xbe\xef' * 4)
        self.assertIn(f'The database in {self.data} is damaged', self.refused())
        (self.data / 'CURRENT').write_text('nonsense\n')
        self.assertIn('damaged', self.refused())

    def test_a_folder_of_other_files_is_refused(self):
        self.data.mkdir()
        (self.data / 'letter.txt').write_text('dear')
        self.assertIn('not a database of ours', self.refused())

    def test_a_database_in_use_is_refused(self):
        first = self.begin()
        second = self.begin(ready=False)
        self.assertEqual(second.wait(), 1)
        self.assertIn(f'in use by process {first.pid}', second.err())
        self.assertEqual(self.ask('/livez').status, 200)

    def test_an_address_in_use_is_named(self):
        self.begin()
        second = self.start([PROGRAM, '--port', self.port, '--data', self.folder / 'other'], 'second')
        self.assertEqual(second.wait(), 1)
        self.assertIn(f'127.0.0.1:{self.port}', second.err())


class End(Service):
    def test_sigterm_answers_what_is_under_way_and_refuses_what_is_new(self):
        service = self.begin('--drain-delay-ms', 300)
        body = json.dumps(product('LATE')).encode()
        with socket.create_connection(('127.0.0.1', self.port), timeout=30) as slow:
            slow.sendall(b'POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n'
                         % (BASE.encode(), len(body)))
            self.assertIn(b' 100 ', slow.recv(65536))
            service.signal(signal.SIGTERM)
            refused = wait_until(lambda: (a := self.ask('/readyz')).status == 503 and a, 'it is not ready')
            self.assertEqual(refused.json()['status'], 'OUT_OF_SERVICE')
            new = self.api('')
            self.assertProblem(new, 503)
            self.assertIn('Retry-After', new.headers)
            self.assertEqual(self.ask('/livez').status, 200)
            self.assertTrue(service.running())
            slow.sendall(body)
            answer = slow.recv(65536)
        self.assertTrue(answer.startswith(b'HTTP/1.1 201 '), answer)
        self.assertEqual(service.wait(), 0)

    def test_both_signals_end_it_with_0_and_data_stays(self):
        for number in signal.SIGTERM, signal.SIGINT:
            service = self.begin()
            self.api('', 'POST', product('P'))
            service.signal(number)
            self.assertEqual(service.wait(), 0)
        self.begin()
        self.assertEqual(self.api('').json()['totalElements'], 1)

    def test_mistakes_in_the_settings_end_it_with_2(self):
        file = self.folder / 'catalog.yaml'
        file.write_text('port: 99999\ninventory:\n  ulr: x\n')
        done = self.run_program(PROGRAM, '--config', file, '--workers', 'many')
        self.assertEqual(done.returncode, 2)
        for part in f'{file}:1:7: port', f'{file}:3:3: there is no option inventory.ulr', '--workers: workers must be':
            self.assertIn(part, done.stderr)
        self.assertEqual(self.run_program(PROGRAM, '--data', self.data, '--inventory-url', 'x').returncode, 2)
        helped = self.run_program(PROGRAM, '--help')
        self.assertEqual((helped.returncode, helped.stderr), (0, ''))
        self.assertIn('--inventory-url', helped.stdout)

    def test_a_file_sets_what_flags_do_not(self):
        file = self.folder / 'catalog.yaml'
        file.write_text(f'drain:\n  delay-ms: 0\nport: 1\ndata: {self.data}\n')
        service = self.start([PROGRAM, '--config', file], 'catalog', env={'RESILIENCE_PORT': '0'})
        found = self.wait_ready(service, lambda: re.search(r'"listening".*"port":(\d+)', service.err()))
        self.port = int(found[1])
        self.assertEqual(self.ask('/livez').status, 200)
        self.assertTrue(self.data.is_dir())


if __name__ == '__main__':
    unittest.main()
