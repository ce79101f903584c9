import json

from forebay_cli.run.supervision import last_word


def logged(tmp_path, *lines):
    log = tmp_path / "enrich-0.log"
    log.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return last_word(log)


def test_the_last_reason_wins(tmp_path):
    lines = ({"event": "failed", "reason": "first"}, {"event": "failed", "reason": "second"}, {"event": "stopped"})

    assert logged(tmp_path, *lines) == "second"


def test_a_crash_is_told_by_the_last_line_of_its_traceback(tmp_path):
    trace = "Traceback (most recent call last):\n  File ...\nKeyError: 'x'"

    assert logged(tmp_path, {"event": "crashed", "exception": trace}) == "KeyError: 'x'"


def test_a_process_that_never_came_to_log_is_told_by_its_last_line(tmp_path):
    assert (
        logged(tmp_path, "Traceback (most recent call last):", "ModuleNotFoundError: no x")
        == "ModuleNotFoundError: no x"
    )


def test_no_log_has_no_word(tmp_path):
    assert last_word(tmp_path / "none.log") is None
    assert logged(tmp_path) is None
