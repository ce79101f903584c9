"""A loop that is interrupted is begun again; one that is asked to stop is not, whatever came first."""

import pytest

from forebay.runtime.service import Stopping


def test_an_interruption_ends_the_loop_and_not_the_process():
    stopping = Stopping()
    stopping.interrupt()

    assert stopping
    assert not stopping.is_final
    assert stopping.wait(0)
    assert stopping.resume()
    assert not stopping
    assert not stopping.resume()


REQUEST, INTERRUPT = Stopping.request, Stopping.interrupt


@pytest.mark.parametrize("asked", [(REQUEST,), (INTERRUPT, REQUEST), (REQUEST, INTERRUPT)])
def test_a_request_ends_the_process(asked):
    stopping = Stopping()
    for ask in asked:
        ask(stopping)

    assert stopping.is_final
    assert not stopping.resume()
    assert stopping


def test_a_loop_that_ended_by_itself_is_not_begun_again():
    assert not Stopping().resume()
