"""The same question about the same picture, whatever the rows are called."""

from PIL import Image

from steersman.data.overlap import asked_in_both
from steersman.data.rows import Dataset, Row


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (4, 4), colour)


def data(*rows: Row) -> Dataset:
    return Dataset.of(rows)


def test_words_and_picture_must_both_agree():
    fit = data(
        Row(id="1", prompt="what ?", image=picture("red")),
        Row(id="2", prompt="where ?", image=picture("red")),
        Row(id="3", prompt="hello", system="be kind"),
    )
    test = data(
        Row(id="a", prompt="what ?", image=picture("red"), behaviour="x"),
        Row(id="b", prompt="what ?", image=picture("blue")),
        Row(id="c", prompt="hello"),
        Row(id="d", prompt="hello", system="be kind"),
        Row(id="e", prompt="where ?"),
    )
    assert asked_in_both(fit, test) == ["a", "d"]
    assert asked_in_both(data(), test) == []
