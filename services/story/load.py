"""A steady open loop of real HTTP requests on one thread, and what came of them."""
import asyncio
import collections
import contextlib
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    at: float           # monotonic, when it had ended
    seconds: float
    status: int         # 0: no answer
    reason: str         # x-resilience-reason, or ''
    head: str = ''


class Client:
    """Keep-alive HTTP/1.1 to one loopback port."""

    def __init__(self, port):
        self.port = port
        self.free = []

    async def ask(self, path, method='GET', body=b'', timeout=5):
        """(status, fields, body); OSError or TimeoutError when there is none."""
        for fresh in (False, True):     # a kept connection may have been closed meanwhile: once more on a new one
            kept = bool(self.free) and not fresh
            reader, writer = self.free.pop() if kept else await asyncio.open_connection('127.0.0.1', self.port)
            try:
                head = f'{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n'
                if body:
                    head += f'Content-Type: application/json\r\nContent-Length: {len(body)}\r\n'
                writer.write(head.encode() + b'\r\n' + body)
                return await asyncio.wait_for(self._answer(reader, writer), timeout)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                if not kept:
                    raise ConnectionError('the connection was closed')
            except BaseException:
                writer.close()
                raise

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b'\r\n\r\n')).decode('latin1')
        status = int(head.split(' ', 2)[1])
        fields = dict(line.split(': ', 1) for line in head.split('\r\n')[1:] if ': ' in line)
        fields = {name.lower(): value for name, value in fields.items()}
        body = b''
        if fields.get('transfer-encoding') == 'chunked':
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        else:
            body = await reader.readexactly(int(fields.get('content-length', 0)))
        if fields.get('connection') == 'close':
            writer.close()
        else:
            self.free.append((reader, writer))
        return status, fields | {'': head}, body

    def close(self):
        for _, writer in self.free:
            writer.close()
        self.free.clear()


class Load:
    """Sends `rate` requests a second, whatever the answers do."""

    def __init__(self, port, paths, rate):
        self.client = Client(port)
        self.paths = paths
        self.rate = rate
        self.answers = collections.deque(maxlen=100_000)
        self.tasks = set()

    async def run(self):
        due = time.monotonic()
        number = 0
        while True:
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            await asyncio.sleep(due - time.monotonic())
            task = asyncio.create_task(self.one(self.paths[number % len(self.paths)]))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            number += 1

    async def one(self, path):
        began = time.monotonic()
        status, reason, head = 0, 'no answer', ''
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            status, fields, _ = await self.client.ask(path)
            reason, head = fields.get('x-resilience-reason', ''), fields['']
        now = time.monotonic()
        self.answers.append(Answer(now, now - began, status, reason, head))

    def since(self, moment):
        return [answer for answer in self.answers if answer.at >= moment]


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float('nan')
