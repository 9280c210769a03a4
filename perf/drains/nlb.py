"""A stand-in for a Network Load Balancer: TCP, health by /readyz, and late to act on it."""

import asyncio
import contextlib
import dataclasses
import itertools
import threading
import time

from launcher.programs import Failed

CHUNK = 65536


@dataclasses.dataclass(frozen=True)
class Habits:
    """What the balancer is set to, and what users report of it. Times in seconds."""

    interval: float = 10
    threshold: int = 2
    timeout: float = 5
    #: Time for which an unhealthy target still gets connections.
    unhealthy_lag: float = 40
    #: The same for one that was deregistered, from then on.
    deregistered_lag: float = 120
    #: connection_termination.enabled of unhealthy targets.
    terminates: bool = False
    #: draining_interval_seconds, after which their connections are reset all the same.
    draining_interval: float = 80


class Target:
    def __init__(self, name, address, ping_port):
        self.name, self.address, self.ping_port = name, address, ping_port
        self.is_healthy, self.is_registered, self.in_a_row = True, True, 0
        #: Until then it gets connections although it is unhealthy, or deregistered.
        self.until = 0.0
        self.clients = set()
        #: Times of its connections, and of those that it refused.
        self.opened, self.refused = [], []
        self.resets = 0

    def is_eligible(self):
        return (self.is_healthy and self.is_registered) or time.time() < self.until

    def reset(self):
        self.resets += len(self.clients)
        for client in self.clients:
            client.transport.abort()


class NetworkLoadBalancer:
    """Runs in a thread, whose sockets are in the namespace. `address` is where it listens."""

    def __init__(self, namespace, address, habits):
        self.namespace, self.address, self.habits = namespace, address, habits
        self.targets, self.loop, self.thread = {}, None, None
        self.started, self.trouble = threading.Event(), None

    def start(self, servers, ping_port):
        self.targets = {
            name: Target(name, address, ping_port) for name, address in servers.items()
        }
        self.turn = itertools.cycle(self.targets.values())
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        if not self.started.wait(10) or self.trouble:
            raise Failed(f"the load balancer does not start: {self.trouble}")

    def run(self):
        try:
            with self.namespace.entered():
                asyncio.run(self.serve())
        except OSError as error:
            self.trouble = error
            self.started.set()

    async def serve(self):
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.accept, *self.address, backlog=1024)
        checks = [asyncio.create_task(self.check(target)) for target in self.targets.values()]
        self.started.set()
        await self.over.wait()
        server.close()
        for check in checks:
            check.cancel()

    def stop(self):
        if self.loop is not None and self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.over.set)
            self.thread.join(5)

    def states(self):
        return {
            target.name: "UP" if target.is_healthy and target.is_registered else "DOWN"
            for target in self.targets.values()
        }

    def deregister(self, name):
        target = self.targets[name]
        target.until = time.time() + self.habits.deregistered_lag
        target.is_registered = False

    def choose(self):
        """The next eligible target; any, if there is none: the balancer fails open."""
        found = [next(self.turn) for _ in self.targets]
        return next(filter(Target.is_eligible, found), found[0])

    async def accept(self, reader, writer):
        target = self.choose()
        target.opened.append(time.time())
        try:
            inner_reader, inner_writer = await asyncio.open_connection(*target.address)
        except OSError:
            target.refused.append(time.time())
            writer.transport.abort()
            return
        target.clients.add(writer)
        try:
            await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))
        finally:
            target.clients.discard(writer)
            for each in (writer, inner_writer):
                each.close()

    async def check(self, target):
        habits = self.habits
        while True:
            is_good = await self.is_ready(target)
            target.in_a_row = 0 if is_good == target.is_healthy else target.in_a_row + 1
            if target.in_a_row >= habits.threshold:
                target.is_healthy, target.in_a_row = is_good, 0
                if not is_good:
                    target.until = max(target.until, time.time() + habits.unhealthy_lag)
                    later = 0 if habits.terminates else habits.draining_interval
                    self.loop.call_later(later, self.reset_if_unhealthy, target)
            await asyncio.sleep(habits.interval)

    @staticmethod
    def reset_if_unhealthy(target):
        if not target.is_healthy:
            target.reset()

    async def is_ready(self, target):
        writer = None
        try:
            async with asyncio.timeout(self.habits.timeout):
                reader, writer = await asyncio.open_connection(target.address[0], target.ping_port)
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: nlb\r\nConnection: close\r\n\r\n")
                return b" 200 " in await reader.readline()
        except (OSError, TimeoutError):
            return False
        finally:
            if writer is not None:
                writer.close()


async def pass_on(reader, writer):
    """Copies one direction until its end, and passes that on too."""
    with contextlib.suppress(OSError, asyncio.CancelledError):
        while part := await reader.read(CHUNK):
            writer.write(part)
            await writer.drain()
        writer.write_eof()
