"""Three replicas behind a balancer, each in its own namespace, and clients in another."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from fleets.apart import Namespace
from fleets.balancer import Balancer
from fleets.distance import Distance
from fleets.replica import PING_PORT, PORT, Replica
from fleets.setup import ORDINARY
from fleets.watch import Readiness, Watch
from launcher.programs import Failed, make_certificates
from launcher.tokens import random_keys
from trouble.rig import Loadable

NAMES = ("a", "b", "c")
GOOD_KEY = "foo"
#: Keys for trials with one bad key among good ones.
BAD_KEY = "bad"
#: In the range for benchmarks (RFC 2544): four addresses for each pair of interfaces.
NETWORK = "198.18.{}.{}"
LISTEN_PORT = 443
#: KMS's timeout (XKS specification), after which it drops the request and its connection.
KMS_MILLI = 250
#: Connections of clients that use each one for a single request.
NEWCOMERS = 16


class Fleet(Loadable):
    """Runs for the duration of the `with` block; its directory and namespaces are then removed."""

    #: Constructor of a replica.
    replica_class = Replica
    #: Labels of the keys of all replicas.
    labels = (GOOD_KEY, BAD_KEY)

    def __init__(self, program, options, setup=ORDINARY):
        self.setup = setup
        self.program, self.checks, self.rate = program, options.checks, options.rate
        self.connections, self.new_connections = options.connections, options.new_connections
        self.keys = random_keys(self.labels)
        #: Names of replicas that have left for good.
        self.gone = set()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet")))
            make_certificates(self.work / "certificates")
            self.namespaces = {name: self.namespace(stack, name) for name in ("balancer", "client", *NAMES)}
            self.replicas = [self.replica(stack, name) for name in NAMES]
            self.balancer = self.start_balancer(stack)
            self.prepare_load()
            self.ready = {
                replica.name: stack.enter_context(Watch(Readiness(replica, 1), 0.05))
                for replica in self.replicas
            }
            self.states = stack.enter_context(Watch(self.balancer.states, 0.1))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        # Their drains are of no interest any more.
        for replica in self.replicas:
            replica.kill()
        self.stack.close()

    def namespace(self, stack, name):
        namespace = Namespace(name)
        stack.callback(namespace.remove)
        return namespace

    @staticmethod
    def balancer_address(name):
        """Returns the balancer's address on its link to that replica, which has the next one."""
        return NETWORK.format(NAMES.index(name) + 1, 1)

    def has_own_clock(self, name):
        return self.setup.has_own_clock and name == NAMES[0]

    def replica(self, stack, name):
        namespace = self.namespaces[name]
        address = NETWORK.format(NAMES.index(name) + 1, 2)
        self.namespaces["balancer"].link(self.balancer_address(name), namespace, address)
        replica = self.replica_class(name, namespace, address, self.program, self)
        return stack.enter_context(replica)

    def start_balancer(self, stack):
        listen = NETWORK.format(0, 1)
        self.link_clients(stack, listen)
        balancer = Balancer(self.namespaces["balancer"], self.work, (listen, LISTEN_PORT), self.checks)
        stack.callback(balancer.stop)
        balancer.start({replica.name: (replica.address, PORT) for replica in self.replicas}, PING_PORT)
        return balancer

    def link_clients(self, stack, listen):
        """Connects balancer and clients, at the distance that the trial wants."""
        ends = self.namespaces["balancer"], self.namespaces["client"]
        if not self.setup.milli_away:
            ends[0].link(listen, ends[1], NETWORK.format(0, 2))
            return
        stack.callback(Distance(*ends, self.setup.milli_away).remove)
        ends[0].set_up(listen, ends[1], NETWORK.format(0, 2))

    def prepare_load(self):
        # All replicas have the same prefix and credential.
        (self.work / "settings.toml").symlink_to(self.replicas[0].work / "settings.toml")
        self.environment = dict(os.environ)
        self.load_prefix = self.namespaces["client"].prefix
        self.load_options = (
            *("--address", f"{self.balancer.address[0]}:{LISTEN_PORT}", "--allow-remote"),
            *("--ca", self.work / "certificates/ca.pem", "--poisson"),
            *("--timeout-milli", str(KMS_MILLI)),
        )

    def good_load(self, seconds, *more, **changes):
        """Runs the load over many connections and renews them now and then, since a replica that is
        back in rotation gets only new ones."""
        options = ["--key-id", GOOD_KEY, "--announce", *more]
        if self.new_connections:
            requests = max(1, round(self.rate / self.new_connections))
            options += ["--requests-per-connection", str(requests)]
        return self.load(seconds, *options, rate=self.rate, connections=self.connections, **changes)

    @contextlib.contextmanager
    def loads(self, seconds, *more):
        """Runs the loads that the trial wants during the block. Yields them by name."""
        if not self.setup.is_long_lived:
            with self.good_load(seconds, *more) as load:
                yield {"clients": load}
            return
        options = ("--key-id", GOOD_KEY, "--announce", *more)
        with (
            self.load(seconds, *options, rate=self.rate, connections=self.connections) as long_lived,
            self.load(
                seconds, *options, "--requests-per-connection", "1",
                rate=self.new_connections, connections=NEWCOMERS,
            ) as newcomers,
        ):
            yield {"long-lived connections": long_lived, "new connections": newcomers}

    def leave(self, replica):
        """Notes that a replica has left for good."""
        self.gone.add(replica.name)

    def copy_logs(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.work / "haproxy.txt", directory)
        for replica in self.replicas:
            shutil.copy(replica.work / "output.txt", directory / f"{replica.name}.txt")

    @property
    def share(self):
        """Requests per second for each replica."""
        return self.rate / len(self.replicas)

    def is_whole(self):
        """Returns whether all replicas are ready and the balancer has noticed."""
        ready = [watch for name, watch in self.ready.items() if name not in self.gone]
        return all(watch.seen and watch.seen[-1][1] for watch in ready) and set(
            self.states.seen[-1][1].values() if self.states.seen else ()
        ) == {"UP"}

    def wait_until_whole(self, seconds):
        deadline = time.monotonic() + seconds
        while not self.is_whole():
            if time.monotonic() > deadline:
                raise Failed(f"not all replicas are back: {self.states.seen[-1][1]}")
            time.sleep(0.05)

    def wait_until_out(self, replica, seconds):
        deadline = time.monotonic() + seconds
        while self.states.seen[-1][1].get(replica.name) == "UP":
            if time.monotonic() > deadline:
                raise Failed(f"{replica.name} stays in rotation")
            time.sleep(0.05)
