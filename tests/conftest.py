"""What holds for all tests."""

import signal
import threading


def pytest_configure() -> None:
    """Lets Ctrl-C reach the tests of Ctrl-C where a script runs them in the background.

    A shell starts background jobs with the signal ignored, which processes inherit; a handler is
    not inherited.
    """
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
