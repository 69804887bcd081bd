"""Evaluation against a backend that answers from a table: figures, resuming, and full disks."""

from pathlib import Path

import pytest
import torch

from steersman.core.errors import DataError, RecipeError, StorageError
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Site
from steersman.data.rows import Dataset
from steersman.evals.run import evaluate
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.given import GivenVector

ANSWERS = {f"q{i}": "yes ." if i < 4 or i == 9 else "no ." for i in range(10)}


POLICY = Policy(
    steerers={
        "pope": Steerer(
            sites=(Site(0),), gate=AlwaysOpen(), synthesizer=GivenVector(), operator=Add()
        )
    }
)


def test_figures_answers_and_provenance(fake_backend, pope_data: Dataset) -> None:
    backend, steps = fake_backend(ANSWERS), []
    found = evaluate(
        backend,
        pope_data,
        method="l2s",
        policy=POLICY,
        seed=2,
        strength=0.5,
        batch_size=4,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    row = found.results.find("pope", "l2s", "all", "accuracy")
    assert row is not None and (row.value, row.n, row.seed) == (0.8, 10, 2)
    assert [a.id for a in found.answers] == [f"p{i}" for i in range(10)]
    first = found.answers[0]
    assert (first.verdict, first.wanted, first.correct, first.seed) == ("yes", "yes", True, 2)
    assert first.group == {"split": "random", "answer": "yes"}
    assert first.trace["safety"]["gate"] == 0.9
    assert first.trace["safety"]["relative_norm"] is None
    assert steps == [(0, 10), (4, 10), (8, 10), (10, 10)]
    assert found.split == "calibration"
    told = found.results.meta["evaluations"][0]
    assert told["dataset_hash"] == pope_data.hash
    assert {r.strength for r in backend.asked} == {0.5}
    assert {r.max_new_tokens for r in backend.asked} == {16}


def test_a_prefix_is_a_sentence_of_its_own(fake_backend, pope_data: Dataset) -> None:
    answers = {f"look . {question}": answer for question, answer in ANSWERS.items()}
    for prefix in ("look .", "look . "):
        found = evaluate(fake_backend(answers), pope_data, method="prompt", prefix=prefix)
        assert found.answers[0].prompt == "look . q0"


def test_every_row_gets_its_own_vector(fake_backend, pope_data: Dataset) -> None:
    backend = fake_backend(ANSWERS)
    vectors = [{"pope": torch.full((3,), float(i))} for i in range(10)]
    evaluate(backend, pope_data, method="p2s", policy=POLICY, vectors=vectors)
    assert [float(r.vectors["pope"][0]) for r in backend.asked] == list(range(10))
    with pytest.raises(RecipeError, match="9 vectors were given for the 10 rows"):
        evaluate(backend, pope_data, method="p2s", vectors=vectors[:9])


def test_a_killed_run_continues_and_loses_nothing(
    fake_backend, pope_data: Dataset, tmp_path: Path
) -> None:
    cache = tmp_path / "new" / "answers.jsonl"
    options = {"method": "l2s", "cache": cache, "key": "model+policy", "batch_size": 3}
    with pytest.raises(KeyboardInterrupt):
        evaluate(fake_backend(ANSWERS, fail_after=6), pope_data, **options)
    whole = cache.read_bytes()
    assert whole.count(b"\n") == 6
    cache.write_bytes(whole[:-20])  # the kill came while the sixth line was being written

    second = fake_backend(ANSWERS)
    found = evaluate(second, pope_data, **options)
    assert [r.prompt.text for r in second.asked] == ["q5", "q6", "q7", "q8", "q9"]
    assert cache.read_bytes().count(b"\n") == 10

    third = fake_backend({})
    again = evaluate(third, pope_data, **options)
    assert third.asked == []
    assert again == found
    fresh = evaluate(fake_backend(ANSWERS), pope_data, method="l2s", key="model+policy")
    assert fresh == found


def test_anything_that_changes_the_answer_changes_the_key(
    fake_backend, pope_data: Dataset, tmp_path: Path
) -> None:
    cache = tmp_path / "answers.jsonl"
    answers = ANSWERS | {f"look . {q}": a for q, a in ANSWERS.items()}
    vectors = [{"pope": torch.zeros(2, dtype=torch.bfloat16)}] * 10
    for i, change in enumerate(
        [
            {"key": "a"},
            {"key": "b"},
            {"key": "a", "prefix": "look ."},
            {"key": "a", "strength": 2.0},
            {"key": "a", "max_new_tokens": 3},
            {"key": "a", "vectors": vectors, "policy": POLICY},
        ]
    ):
        backend = fake_backend(answers)
        evaluate(backend, pope_data, method="m", cache=cache, **change)
        assert len(backend.asked) == 10, f"change {i} was answered from the cache"


def test_a_cache_needs_a_key(fake_backend, pope_data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs a key"):
        evaluate(fake_backend(ANSWERS), pope_data, method="m", cache=tmp_path / "c.jsonl")


def test_a_full_disk_keeps_what_is_there(
    fake_backend, pope_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "answers.jsonl"
    options = {"method": "m", "cache": cache, "key": "k", "batch_size": 5}
    calls = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="could not be written .No space left"):
        evaluate(fake_backend(ANSWERS), pope_data, **options)
    monkeypatch.undo()
    second = fake_backend(ANSWERS)
    evaluate(second, pope_data, **options)
    assert len(second.asked) <= 5


def test_a_damaged_line_in_the_middle_names_itself(
    fake_backend, pope_data: Dataset, tmp_path: Path
) -> None:
    cache = tmp_path / "answers.jsonl"
    cache.write_text('{"key": "x", "text"\n{"key": "y", "text": "", "trace": {}}\n')
    with pytest.raises(DataError, match=r"answers\.jsonl:1 is damaged"):
        evaluate(fake_backend(ANSWERS), pope_data, method="m", cache=cache, key="k")


def test_rows_that_cannot_be_judged_are_found_before_asking(
    fake_backend, pope_data: Dataset
) -> None:
    backend = fake_backend(ANSWERS)
    broken = Dataset(pope_data.rows, {"suite": "utility"}, "hash", "data")
    with pytest.raises(DataError, match="has no label 'task'"):
        evaluate(backend, broken, method="m")
    assert backend.asked == []


def test_a_dataset_without_rows_is_refused(fake_backend) -> None:
    with pytest.raises(DataError, match="data has no rows"):
        evaluate(fake_backend({}), Dataset((), {"suite": "pope"}, "hash", "data"), method="m")
