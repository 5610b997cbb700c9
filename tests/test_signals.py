"""The first signal asks, the second one ends."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from crossfade.signals import stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_kept_and_the_second_interrupts(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stopping() as stop:
        assert stop() is None
        os.kill(os.getpid(), number)
        assert stop() == number
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before


def test_elsewhere_than_in_the_main_thread_signals_stay_as_they_are():
    found = []

    def inside():
        with stopping() as stop:
            found.append(stop())

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [None]
