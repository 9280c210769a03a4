"""Work in the background of a `with` block."""

import threading


class Background:
    """Calls `run` in a thread during a `with` block, at whose end `is_over` is set and the thread
    is joined."""

    def __init__(self):
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        raise NotImplementedError

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join()
