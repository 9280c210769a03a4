"""Faults of the HSM, drawn from a seed."""

import time

from launcher.programs import Failed
from trouble.rig import CRYPTO, toml_list
from trouble.shows import CODES

#: Seconds after a fault in which both tokens must be in use again.
RECOVERY_SECONDS = 60
STATE = "xks_proxy_hsm_token_state"
ACTIVE = 2


def draw(choice, slots):
    """Returns a fault's description, settings and seconds, and whether both tokens have it."""
    is_both = choice.random() < 0.25
    chosen = list(slots) if is_both else [choice.choice(slots)]
    kind = choice.choice(("latency", "tail", "error", "errors", "hang", "session loss", "removal"))
    code = choice.choice(CODES)
    functions = f"functions = {toml_list(CRYPTO)}"
    lines = {
        "latency": [f'delay = "{choice.choice((5, 20, 80))}ms"', functions],
        "tail": [f'delay = "0ms, p=0.05:{choice.choice((50, 300, 1500))}ms"', functions],
        "error": [f'return = "{code}"', functions, f"count = {choice.choice((1, 20, 200))}"],
        "errors": [f'return = "{code}"', functions, f"probability = {choice.choice((0.05, 0.5, 1.0))}"],
        "hang": ["hang = true", functions, f"count = {choice.choice((1, 4, 16))}"],
        "session loss": ["close_session = true", f"count = {choice.choice((1, 20, 200))}"],
        "removal": ["remove_token = true"],
    }[kind]
    text = "\n".join("\n".join(["[[fault]]", f"slot = {slot}", *lines]) for slot in chosen)
    seconds = choice.uniform(0.3, 2.0) if is_both else choice.uniform(0.5, 6.0)
    where = "both tokens" if is_both else f"token {slots.index(chosen[0]) + 1}"
    seed = choice.randrange(1 << 32)
    return f"{kind} of {where} ({'; '.join(lines)})", f"seed = {seed}\n{text}", seconds, is_both


class Faults:
    """The track of faults. `kept` are settings of the interposer in force all the time."""

    def __init__(self, rig, diary, choice, kept):
        self.rig, self.diary, self.choice, self.kept = rig, diary, choice, kept

    def step(self, is_over):
        """One fault, and the time until both tokens are in use again."""
        text, settings, seconds, is_both = draw(self.choice, self.rig.slots)
        if is_both:
            # An upgrade needs a token.
            with self.rig.changing:
                self.act("fault of both", text, settings, seconds, is_over)
        else:
            self.act("fault of one", text, settings, seconds, is_over)

    def act(self, kind, text, settings, seconds, is_over):
        with self.diary.event(kind, text):
            self.rig.set(f"{settings}\n{self.kept}")
            is_over.wait(seconds)
            self.rig.set(self.kept)
            self.recover(text)

    def recover(self, text):
        began = time.time()
        while time.time() < began + RECOVERY_SECONDS:
            try:
                if all(state == ACTIVE for state in self.rig.metrics()[STATE]):
                    return
            except (OSError, KeyError):
                pass
            time.sleep(0.1)
        self.diary.problem(f"a token is not in use {RECOVERY_SECONDS} s after a {text}")


def clear(rig, kept):
    try:
        rig.set(kept)
    except Failed:
        pass
