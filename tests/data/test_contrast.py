"""Contrasts: the strict templates, and the two prompts of a row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import DataError, RecipeError
from steersman.data import Contrast, Row, pair

FLIPS = {"yes": "no", "no": "yes"}
ROW = Row("a", "Is there a cat?", answer="Yes", labels={"expert": "doctor", "n": 2, "b": True})


def test_the_two_prompts_differ_in_the_completion_alone():
    contrast = Contrast(suffix=" Safe or not?", positive="Unsafe", negative="Safe")
    positive, negative = pair(ROW, contrast, close_turn=True)
    assert positive.text == negative.text == "Is there a cat? Safe or not?"
    assert (positive.completion, negative.completion) == ("Unsafe", "Safe")
    assert positive.close_turn and negative.close_turn
    assert not pair(ROW, contrast)[0].close_turn


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{answer}, the image", "Yes, the image"),
        ("{wrong}, the image", "No, the image"),
        ("ask a {label.expert} {label.n} times", "ask a doctor 2 times"),
        ("{prompt} {{kept}}", "Is there a cat? {kept}"),
    ],
)
def test_placeholders_are_filled(template, filled):
    contrast = Contrast(positive=template, negative="x", suffix=" " + template, system=template)
    prompt = pair(ROW, contrast, wrong=FLIPS)[0]
    assert (prompt.completion, prompt.system) == (filled, filled)
    assert prompt.text == "Is there a cat? " + filled


@pytest.mark.parametrize(
    ("answer", "wrong"), [("yes", "no"), ("Yes", "No"), ("YES", "NO"), ("no", "yes")]
)
def test_the_wrong_answer_keeps_the_case(answer, wrong):
    contrast = Contrast(positive="{answer}", negative="{wrong}")
    positive, negative = pair(Row("a", "x", answer=answer), contrast, wrong=FLIPS)
    assert (positive.completion, negative.completion) == (answer, wrong)


@given(text=st.text(min_size=1).filter(str.strip))
def test_a_value_is_never_read_as_a_template(text):
    row = Row("a", text, answer=text)
    assert pair(row, Contrast(positive="{answer}!", negative="x"))[0].completion == text + "!"


def test_the_system_prompt_of_the_row_stays_unless_the_contrast_has_one():
    row = Row("a", "x", system="Be kind.")
    assert pair(row, Contrast(positive="p", negative="n"))[0].system == "Be kind."
    assert pair(row, Contrast(positive="p", negative="n", system="S"))[1].system == "S"


def test_a_rows_own_completions_are_used_as_they_are():
    row = Row("a", "Hi {you}", positive="{Hello}", negative="Go away")
    contrast = Contrast(positive="p", negative="n", suffix=" s", system="S")
    positive, negative = pair(row, contrast, close_turn=True)
    assert (positive.completion, negative.completion) == ("{Hello}", "Go away")
    assert positive.text == "Hi {you}" and positive.system is None and positive.close_turn


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{anwser}", r"unknown placeholder \{anwser\}. Did you mean 'answer'\?"),
        ("{}", r"unknown placeholder \{\}"),
        ("{label.}", "unknown placeholder"),
        ("{answer.upper}", "unknown placeholder"),
        ("{answer!r}", "unknown placeholder"),
        ("a } b", "lone '}'.*Write it twice"),
        ("{answer", "lone '{'"),
    ],
)
@pytest.mark.parametrize("where", ["positive", "negative", "suffix", "system"])
def test_a_wrong_template_is_refused_before_any_row(where, template, message):
    with pytest.raises(RecipeError, match=message) as caught:
        Contrast(**{"positive": "p", "negative": "n", where: template})
    assert f"contrast's {where}" in str(caught.value)


@pytest.mark.parametrize(("positive", "negative"), [("", "x"), ("x", " "), ("x", "x")])
def test_empty_or_equal_completions_are_refused(positive, negative):
    with pytest.raises(RecipeError, match="Write"):
        Contrast(positive=positive, negative=negative)


@pytest.mark.parametrize(
    ("row", "template", "message"),
    [
        (Row("r", "x"), "{answer}", r"Row 'r' has no answer.*positive needs \{answer\}. Add"),
        (Row("r", "x"), "{wrong}", r"Row 'r' has no answer.*positive needs \{wrong\}. Add"),
        (Row("r", "x", answer="maybe"), "{wrong}", "Row 'r'.*no wrong answer for 'maybe'.*add it"),
        (ROW, "{label.expret}", "Row 'a' has no label 'expret'.*Did you mean 'expert'.*Add it"),
        (ROW, "{label.b}", "Row 'a' has no text or number as its label 'b'"),
        (Row("r", "x", answer="n"), "{answer}", "Row 'r'.*must differ.*Correct"),
        (Row("r", "x", labels={"e": " "}), "{label.e}", "Row 'r'.*not be empty"),
    ],
)
def test_a_row_that_lacks_something_is_named(row, template, message):
    with pytest.raises(DataError, match=message):
        pair(row, Contrast(positive=template, negative="n"), wrong=FLIPS)
