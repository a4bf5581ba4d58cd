"""How many cases, and how long one may take: few fixed ones, or many new ones by `make fuzz`."""

import contextlib
import os
import signal

from hypothesis import HealthCheck, Phase, settings

COMMON = {
    "deadline": None,  # the first case of a kind may compile
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
}
settings.register_profile("ci", derandomize=True, database=None, phases=[Phase.generate], **COMMON)
settings.register_profile("fuzz", phases=[Phase.reuse, Phase.generate, Phase.shrink], **COMMON)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)


def cases(few, many):
    """How many cases a test has, in a run of all tests and in `make fuzz`."""
    return settings(max_examples={"ci": few, "fuzz": many}[PROFILE])


# A hang never ends. What does may be the first of its kind, which imports and compiles, on a slow
# machine that has other work.
LIMIT = 120


class Hang(BaseException):
    """Nothing that catches an `Exception` catches it."""


@contextlib.contextmanager
def within(seconds=LIMIT):
    """Raises `Hang` in what takes longer, such as to wait for a pipe."""

    def give_up(*_):
        raise Hang(f"took longer than {seconds} seconds")

    handler = signal.signal(signal.SIGALRM, give_up)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # the test may have one of its own
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, handler)
