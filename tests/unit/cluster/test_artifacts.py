import pytest
from artifacts import digest, ensure_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREBAY_CACHE", str(tmp_path / "cache"))


def folder_of(tmp_path, name, files):
    folder = tmp_path / name
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_equal_inputs_have_one_digest_wherever_they_lie(tmp_path):
    files = {"go.mod": "module a", "cmd/main.go": "package main"}

    assert digest([folder_of(tmp_path, "one", files)]) == digest([folder_of(tmp_path, "two", files)])


@pytest.mark.parametrize(
    "changed",
    [{"go.mod": "module b", "x": ""}, {"go.mod": "module a", "y": ""}, {"go.mod": "module a"}],
)
def test_another_text_name_or_number_of_files_is_another_digest(tmp_path, changed):
    before = digest([folder_of(tmp_path, "before", {"go.mod": "module a", "x": ""})])

    assert digest([folder_of(tmp_path, "after", changed)]) != before


def test_a_script_that_became_executable_is_another_input(tmp_path):
    folder = folder_of(tmp_path, "one", {"run": "#!/bin/sh"})
    before = digest([folder])
    (folder / "run").chmod(0o755)

    assert digest([folder]) != before


def test_a_folder_is_made_once(tmp_path):
    made = []
    for _ in range(2):
        ensure_folder(tmp_path / "made", made.append)

    assert len(made) == 1


def test_what_was_left_half_made_is_made_again(tmp_path):
    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        ensure_folder(tmp_path / "made", fail)
    assert not (tmp_path / "made").exists()

    folder = ensure_folder(tmp_path / "made", lambda draft: (draft / "whole").write_text(""))
    assert [path.name for path in folder.iterdir()] == ["whole"]
