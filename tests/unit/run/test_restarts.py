import pytest

from forebay_cli.run.restarts import FRUITLESS_LIVES, LONGEST_DELAY_S, End, History, Life, cause, decide


def life(*, returncode=1, ready_s=0.0, progressed=False):
    return Life(returncode=returncode, ready_s=ready_s, progressed=progressed)


def lives(*lived):
    history = History()
    for each in lived:
        history = history.after(each)
    return history


def delay_after(*lived, jitter=1.0):
    return decide(lives(*lived), lived[-1], may_complete=False, jitter=jitter)


def test_the_delay_doubles_with_each_death_up_to_a_limit():
    dying = life(progressed=True)

    delays = [delay_after(*[dying] * deaths) for deaths in range(1, 8)]

    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_DELAY_S, LONGEST_DELAY_S]


def test_jitter_takes_off_up_to_half_of_the_delay():
    assert delay_after(life(), jitter=0.0) == 0.25
    assert delay_after(life(), jitter=0.5) == 0.375


def test_a_healthy_while_makes_the_next_death_the_first_again():
    assert delay_after(*[life(progressed=True)] * 4, life(ready_s=10.0)) == 0.5


def test_many_deaths_do_not_overflow_the_delay():
    assert delay_after(*[life(progressed=True)] * 5000) == LONGEST_DELAY_S


def test_a_replica_that_achieves_nothing_is_given_up():
    assert delay_after(*[life()] * FRUITLESS_LIVES) is End.CRASH_LOOP
    assert isinstance(delay_after(*[life()] * (FRUITLESS_LIVES - 1)), float)


def test_progress_between_deaths_is_no_crash_loop():
    killed = [life(), life(), life(returncode=-9, progressed=True)]

    assert isinstance(delay_after(*killed * 10), float)


def test_being_ready_for_a_moment_without_any_record_counts_as_nothing():
    assert delay_after(*[life(ready_s=2.0)] * FRUITLESS_LIVES) is End.CRASH_LOOP


def test_a_refusal_is_never_restarted():
    refused = life(returncode=78, progressed=True, ready_s=100)

    assert delay_after(refused) is End.REFUSED


def test_only_a_bounded_source_completes():
    done = life(returncode=0, progressed=True)

    assert decide(lives(done), done, may_complete=True, jitter=1) is End.COMPLETED
    assert decide(lives(done), done, may_complete=False, jitter=1) == 0.5


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (-9, "killed by SIGKILL"),
        (-200, "killed by signal 200"),
        (1, "exit status 1"),
        (70, "stuck in a call that did not return (exit status 70)"),
        (78, "refused (exit status 78)"),
    ],
)
def test_the_cause_of_a_death_is_told_in_words(returncode, words):
    assert words == cause(returncode)
