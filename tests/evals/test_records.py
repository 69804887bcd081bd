"""The public schema: what is written can be read, and nothing else can."""

import json
from pathlib import Path

import pytest

from steersman.core.errors import DataError, StorageError
from steersman.evals import AnswerRecord, Result, Results
from steersman.evals.records import load_answers, save_answers

ROW = {
    "suite": "pope",
    "method": "l2s",
    "split": "all",
    "metric": "accuracy",
    "value": 0.9,
    "low": 0.8,
    "high": 0.95,
    "n": 100,
    "seed": 0,
}
ANSWER = AnswerRecord(
    suite="pope",
    method="l2s",
    seed=1,
    id="p1",
    prompt="is there a cup ?",
    answer="yes ,\nthe “cup” \u2028 is red",
    verdict="yes",
    wanted="no",
    correct=False,
    group={"split": "random"},
    trace={"pope": {"gate": 0.5, "reason": "", "relative_norm": None}},
)


def write(path: Path, rows: object, **more: object) -> Path:
    path.write_text(json.dumps({"rows": rows, "meta": {}, **more}))
    return path


def test_round_trip_and_the_exact_keys(tmp_path: Path) -> None:
    results = Results((Result(**ROW), Result(**{**ROW, "seed": None})), {"model": "bundled"})
    path = results.save(tmp_path / "new" / "results.json")
    assert Results.load(path) == results
    content = json.loads(path.read_text())
    assert set(content) == {"rows", "meta"}
    assert content["rows"][0] == ROW
    assert content["rows"][1]["seed"] is None


def test_saving_replaces_whole_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results((Result(**ROW),)).save(path)
    Results().save(path)
    assert Results.load(path).rows == ()
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_full_disk_is_one_clear_error_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Results((Result(**ROW),)).save(tmp_path / "results.json")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"results\.json could not be written .No space left"):
        Results().save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"valu": 1.0}, "unknown key 'valu'. Did you mean 'value'"),
        ({"value": "0.9"}, "value must be a number, not '0.9'"),
        ({"value": True}, "value must be a number, not True"),
        ({"n": 1.5}, "n must be a whole number, not 1.5"),
        ({"n": -1}, "n -1"),
        ({"seed": "0"}, "seed must be a whole number or null"),
        ({"suite": 3}, "suite must be a text"),
        ({"method": ""}, "needs names for"),
        ({"low": 0.91}, "inside its own interval"),
    ],
)
def test_a_wrong_row_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = write(tmp_path / "results.json", [ROW | {"seed": 5}, {**ROW, **change}])
    with pytest.raises(DataError) as error:
        Results.load(path)
    assert message in str(error.value)
    assert "row 1" in str(error.value) and "results.json" in str(error.value)


def test_a_missing_key_a_duplicate_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    short = {k: v for k, v in ROW.items() if k != "low"}
    with pytest.raises(DataError, match="missing low"):
        Results.load(write(path, [short]))
    with pytest.raises(DataError, match="is there twice"):
        Results.load(write(path, [ROW, ROW]))
    with pytest.raises(DataError, match="unknown key 'row'"):
        Results.load(write(path, [], row=1))
    path.write_text('{"rows": [\n{"suite": ')
    with pytest.raises(DataError, match=r"results\.json:2 is truncated or not JSON"):
        Results.load(path)
    path.write_text(json.dumps({"rows": [ROW], "meta": {}}).replace("0.9,", "NaN,"))
    with pytest.raises(DataError, match="NaN is not a number"):
        Results.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        Results.load(tmp_path / "none.json")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"rows": [], "meta": {"schema": 2}}))
    with pytest.raises(DataError, match="newer steersman"):
        Results.load(path)


def test_merge_joins_lists_and_refuses_contradictions() -> None:
    a = Results((Result(**ROW),), {"model": "m", "evaluations": [1], "versions": {"torch": "2"}})
    b = Results((Result(**{**ROW, "seed": 1}),), {"model": "m", "evaluations": [2]})
    merged = a.merge(b)
    assert len(merged.rows) == 2
    assert merged.meta == {"model": "m", "evaluations": [1, 2], "versions": {"torch": "2"}}
    with pytest.raises(DataError, match="is there twice"):
        a.merge(a)
    with pytest.raises(DataError, match=r"meta\.model is 'm' in one result and 'x'"):
        a.merge(Results((), {"model": "x"}))


def test_select_and_find() -> None:
    rows = Results((Result(**ROW), Result(**{**ROW, "method": "none"})))
    assert rows.select(method="none") == (rows.rows[1],)
    assert rows.find("pope", "l2s", "all", "accuracy") == rows.rows[0]
    assert rows.find("pope", "l2s", "all", "f1") is None
    with pytest.raises(DataError, match="Did you mean 'method'"):
        rows.select(methd="none")


def test_answers_round_trip_with_any_text(tmp_path: Path) -> None:
    path = save_answers([ANSWER, ANSWER], tmp_path / "answers.jsonl")
    assert load_answers(path) == (ANSWER, ANSWER)
    assert path.read_text(encoding="utf-8").count("\n") == 2


def test_a_wrong_answer_line_names_file_and_line(tmp_path: Path) -> None:
    path = save_answers([ANSWER, ANSWER], tmp_path / "answers.jsonl")
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], lines[1].replace('"correct": false', '"correct": 0')]))
    with pytest.raises(DataError, match=r"answers\.jsonl:2: correct must be true or false"):
        load_answers(path)
    path.write_text("\n".join([lines[0], lines[1][:40]]))
    with pytest.raises(DataError, match=r"answers\.jsonl:2 is truncated"):
        load_answers(path)
