"""KMS's calls in the background."""

import threading

#: Connections at a time.
THREADS = 4


class Callers:
    """Calls of KMS, each with the credential that the key store has by then."""

    def __init__(self, machine):
        self.machine = machine
        self.calls, self.failed = 0, []
        self.lock = threading.Lock()
        self.is_over = threading.Event()
        self.threads = [threading.Thread(target=self.call, daemon=True) for _ in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def call(self):
        while not self.is_over.wait(0.01):
            try:
                self.machine.kms().encrypt("foo", b"a call of KMS")
                error = None
            except Exception as problem:
                error = str(problem)
            with self.lock:
                self.calls += 1
                self.failed += [error] if error else []

    def end(self):
        """Ends the calls. Returns their number, and the errors."""
        self.is_over.set()
        for thread in self.threads:
            thread.join()
        return self.calls, self.failed
