"""services/demo sidecar: a real service fails in real ways, and its sidecar keeps it usable."""
import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from load import Client, Load, quantile
from screen import Screen

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests/support'))
from processes import Process, answers, wait_until  # noqa: E402
BIN = Path(os.environ.get('BIN', ROOT / 'build/release/bin'))
SERVICE, PUBLIC, ADMIN = 19080, 18080, 17080
BASE = '/catalog-service/api/catalog'


def refuse_used_ports():
    for port in (SERVICE, PUBLIC, ADMIN):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(('127.0.0.1', port))
            except OSError as error:
                raise SystemExit(f'port {port}: {error.strerror}; is another demo running?')


class Watch:
    """What the sidecar says of itself: /metrics, read twice a second."""

    def __init__(self):
        self.client = Client(ADMIN)
        self.samples = {}

    async def run(self):
        while True:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                _, _, body = await self.client.ask('/metrics')
                self.samples = dict(re.findall(r'^([a-z]\S*(?:\{.*\})?) (\S+)$', body.decode(), re.M))
            await asyncio.sleep(0.25)

    def values(self, metric, **labels):
        """(labels as text, value) of every series of that metric with these labels."""
        for series, value in self.samples.items():
            if series.split("{")[0] == metric and all(f'{key}="{wanted}"' in series for key, wanted in labels.items()):
                yield series, float(value)

    def state(self):
        states = [re.search(r'state="(\w+)"', series)[1]
                  for series, value in self.values('resilience4j_circuitbreaker_state', name='catalog') if value == 1]
        return states[0] if states else '?'

    def limit(self):
        return next((value for _, value in self.values('sidecar_rate_limit')), float('nan'))

    def strained(self):
        """Whether calls have begun to fail or to be slow."""
        return any(value > 0 for _, value in self.values('resilience4j_circuitbreaker_failure_rate', name='catalog'))

    def in_flight(self):
        return sum(value for _, value in self.values('sidecar_requests_in_flight'))

    def generation(self):
        return next((value for _, value in self.values('sidecar_config_generation')), 0)


class Story:
    def __init__(self, options, folder):
        self.options = options
        self.screen = Screen()
        self.processes = {}
        self.policy = folder / 'catalog.yaml'
        self.folder = folder
        self.watch = Watch()
        self.load = None
        self.tasks = []

    def start_program(self, name, command, port, path):
        process = self.processes[name] = Process(command, self.folder, name)

        def ready():
            if not process.running():
                raise SystemExit(f'{name} did not start; it said:\n{process.err()[-2000:]}')
            return answers(port, path)
        wait_until(ready, f'{name} is ready')

    def end(self):
        for process in self.processes.values():
            process.end()

    async def start(self):
        refuse_used_ports()
        text = (ROOT / 'policies/catalog.yaml').read_text()
        # The access log of a demo would bury its table.
        self.policy.write_text(text + '\naccess_log: { path: none }\n' if 'access_log' not in text else text)
        self.start_program('catalog-service', [BIN / 'catalog-service', '--data', self.folder / 'data'], SERVICE, '/readyz')
        self.start_program('resilience-sidecar', [BIN / 'resilience-sidecar', 'run', self.policy], ADMIN, '/health/ready')
        client = Client(SERVICE)
        status, _, body = await client.ask(f'{BASE}/generate?batchSize=2000', 'POST', timeout=30)
        if status != 200:
            raise SystemExit(f'no sample data: {status} {body.decode()}')
        client.close()
        self.load = Load(PUBLIC, [f'{BASE}/id/{n}' for n in range(1, 200)], self.options.rate)
        self.tasks = [asyncio.create_task(what) for what in (self.load.run(), self.watch.run(), self.show())]

    # What is seen

    def row(self):
        recent = self.load.since(time.monotonic() - 2)
        times = [answer.seconds * 1000 for answer in recent]
        refused = {}
        for answer in recent:
            if answer.reason:
                refused[answer.reason] = refused.get(answer.reason, 0) + 1
        return {
            'breaker': self.watch.state(), 'limit': f'{self.watch.limit():.1f}/s', 'in flight': f'{self.watch.in_flight():.0f}',
            'sent': f'{self.load.rate:g}/s', 'good': f'{sum(200 <= answer.status < 300 for answer in recent) / 2:.0f}/s',
            'p50': f'{quantile(times, 0.5):.1f} ms', 'p99': f'{quantile(times, 0.99):.1f} ms',
            'rejections, last 2 s': ', '.join(f'{name} {n}' for name, n in sorted(refused.items())) or '–',
        }

    async def show(self):
        while True:
            await asyncio.sleep(0.5)
            self.screen.table(self.row())

    def say(self, text):
        self.screen.say(text)

    # What is waited for

    async def until(self, what, condition, seconds):
        """Waits for a real state; a story that doesn't happen is told as such, and fails."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f'The story stops here: {what} did not happen within {seconds} s.')
            await asyncio.sleep(0.05)

    def answered(self, since, reason):
        return [answer for answer in self.load.since(since) if answer.reason == reason]

    # The chapters

    async def healthy(self):
        self.say(f'1. Healthy. {self.load.rate:g} requests/s go through the sidecar (port {PUBLIC}) to catalog-service (port {SERVICE}).')
        began = time.monotonic()
        await asyncio.sleep(self.options.pause)
        await self.until('a healthy start', lambda: self.watch.state() == 'closed', 5)
        good = [answer for answer in self.load.since(began) if answer.status == 200]
        self.say(f'   {len(good)} answers, p99 {quantile([a.seconds * 1000 for a in good], 0.99):.1f} ms.')

    async def hangs(self):
        self.say('2. The service hangs: SIGSTOP. It still accepts connections, and answers nothing.')
        stopped = time.monotonic()
        self.processes['catalog-service'].signal(signal.SIGSTOP)
        await self.until('an open breaker', lambda: self.watch.state() == 'open', 15)
        opened = time.monotonic()
        self.say(f'   Calls without an answer opened the breaker after {opened - stopped:.1f} s. From now on nothing is sent to it:')
        await asyncio.sleep(2)
        refused = self.answered(opened, 'circuit_open')
        fast = [answer.seconds * 1000 for answer in refused]
        self.say(f'   {len(fast)} fallback answers, p50 {quantile(fast, 0.5):.1f} ms, p99 {quantile(fast, 0.99):.1f} ms. One of them:')
        for line in refused[-1].head.split('\r\n') if refused else []:
            if line.lower().startswith(('http/', 'retry-after', 'proxy-status', 'x-resilience-reason')):
                self.say(f'      {line}')

    async def recovers(self):
        self.say('3. The service comes back: SIGCONT. Nobody tells the sidecar; it asks with probes.')
        began = time.monotonic()
        self.processes['catalog-service'].signal(signal.SIGCONT)
        await self.until('recovery', lambda: self.watch.state() == 'closed', 30)
        self.say(f'   Closed again {time.monotonic() - began:.1f} s later. The limiter starts low and climbs, so that nobody is trampled.')
        await self.until('a limit that climbs', lambda: self.watch.limit() > 1.5 * 5, 60)

    async def overload(self):
        self.say('4. Overload: costly requests, twice as many, and less and less CPU for the service (SIGSTOP, SIGCONT, ten times a second).')
        light, self.load.paths = self.load.paths, [f'{BASE}/search?term=product&pageSize=100&pageNo={n}' for n in range(10)]
        self.load.rate *= 2
        await self.until('a limit worth cutting', lambda: self.watch.limit() >= 20, 60)
        highest = 0

        def cut():
            nonlocal highest
            highest = max(highest, self.watch.limit())
            return self.watch.limit() <= 7

        slow = asyncio.create_task(self.throttle())
        try:
            await self.until('a cut of the limit', cut, 60)
            self.say(f'   The limit fell from {highest:.0f}/s to {self.watch.limit():.1f}/s, so that what is let through can still succeed.')
            await asyncio.sleep(self.options.pause)
        finally:
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
            self.processes['catalog-service'].signal(signal.SIGCONT)
        self.load.paths = light
        self.load.rate /= 2
        self.say('   The CPU is back. The limit climbs again by itself:')
        await self.until('a limit that climbs', lambda: self.watch.state() == 'closed' and self.watch.limit() >= 15, 90)
        self.say(f'   {self.watch.limit():.1f}/s.')

    async def throttle(self, period=0.1):
        """Lets the service run for a share of the time: a fifth, and two thirds of that every two seconds until it cannot keep up."""
        share, since = 0.2, time.monotonic()
        while True:
            if time.monotonic() - since > 2 and not self.watch.strained():
                share, since = share * 2 / 3, time.monotonic()
            self.processes['catalog-service'].signal(signal.SIGSTOP)
            await asyncio.sleep(period * (1 - share))
            self.processes['catalog-service'].signal(signal.SIGCONT)
            await asyncio.sleep(period * share)

    async def edit(self):
        self.say('5. A YAML edit while it runs: max_rate of the limiter 50/s -> 12/s.')
        generation = self.watch.generation()
        began = time.monotonic()
        text = self.policy.read_text()
        edited = re.sub(r'max_rate: 50/s', 'max_rate: 12/s', text)
        if edited == text:
            raise SystemExit('policies/catalog.yaml has no `max_rate: 50/s` to edit')
        fresh = self.policy.with_suffix('.new')
        fresh.write_text(edited)
        os.replace(fresh, self.policy)
        await self.until('the reload', lambda: self.watch.generation() > generation and self.watch.limit() <= 12, 5)
        took = time.monotonic() - began
        await asyncio.sleep(self.options.pause)
        dropped = [answer for answer in self.load.since(began) if answer.status in (0, 502, 504)]
        self.say(f'   In force after {took:.1f} s: {self.watch.limit():.1f}/s. Requests dropped by the change: {len(dropped)}.')
        if dropped:
            raise SystemExit('requests were dropped')

    async def tell(self):
        await self.start()
        try:
            for chapter in (self.healthy, self.hangs, self.recovers, self.overload, self.edit):
                await chapter()
            everything = list(self.load.answers)
            lost = sum(answer.status == 0 for answer in everything)
            self.say(f'That was it: {len(everything)} requests, {lost} without an answer.')
            urls = (f'   catalogue  http://127.0.0.1:{PUBLIC}{BASE}\n   live page  http://127.0.0.1:{ADMIN}/\n'
                    f'   metrics    http://127.0.0.1:{ADMIN}/metrics\n   policy     {self.policy}  (edit it)')
            if self.options.keep:
                self.say(f'It keeps running until Ctrl-C:\n{urls}')
                await asyncio.Event().wait()
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)


async def interruptible(story):
    telling = asyncio.create_task(story.tell())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, telling.cancel)
    try:
        await telling
    except asyncio.CancelledError:
        return 130
    return 0


def main():
    parser = argparse.ArgumentParser(prog='services/demo', description=__doc__)
    parser.add_argument('what', nargs='?', choices=['sidecar'], default='sidecar')
    parser.add_argument('--keep', action='store_true', help='leave it running after the story and print the URLs')
    parser.add_argument('--rate', type=float, default=30, help='requests per second (default 30)')
    parser.add_argument('--pause', type=float, default=5, help=argparse.SUPPRESS)
    options = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix='resilience-demo-'))
    story = Story(options, folder)
    try:
        return asyncio.run(interruptible(story))
    except SystemExit as failed:
        story.screen.say(str(failed.code))
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)   # a second Ctrl-C must not leave anything behind
        story.end()
        story.screen.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__':
    sys.exit(main())
