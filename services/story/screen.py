"""Lines of a story with a table under them: refreshed in place on a terminal, plain lines elsewhere."""
import sys
import time


class Screen:
    def __init__(self, out=sys.stdout):
        self.out = out
        self.live = out.isatty()
        self.lines = 0          # of the table on the terminal
        self.began = time.monotonic()
        self.last_plain = 0.0

    def say(self, text):
        self._clear()
        for line in text.split('\n'):
            stamp = f'{time.monotonic() - self.began:5.1f} s  '
            self.out.write((f'\033[1m{stamp}{line}\033[0m' if self.live and line[:1].isdigit() else stamp + line) + '\n')
        self.out.flush()

    def table(self, row):
        widths = [max(len(name), len(value), 9) for name, value in row.items()]
        values = '  '.join(value.ljust(width) for value, width in zip(row.values(), widths))
        if not self.live:
            if time.monotonic() - self.last_plain < 2:
                return
            self.last_plain = time.monotonic()
            stamp = f'{time.monotonic() - self.began:5.1f} s  '
            self.out.write(stamp + '   ' + ' | '.join(f'{name} {value}' for name, value in row.items()) + '\n')
            self.out.flush()
            return
        self._clear()
        heads = '  '.join(name.ljust(width) for name, width in zip(row, widths))
        colour = {'closed': 32, 'half_open': 33, 'open': 31}.get(row.get('breaker'), 0)
        values = values.replace(row.get('breaker', ''), f'\033[{colour}m{row.get("breaker", "")}\033[0m', 1)
        self.out.write(f'\n  \033[2m{heads}\033[0m\n  {values}\n')
        self.out.flush()
        self.lines = 3

    def _clear(self):
        if self.live and self.lines:
            self.out.write(f'\033[{self.lines}A\033[J')
            self.lines = 0

    def close(self):
        self.out.flush()
