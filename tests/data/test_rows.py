"""Behaviours, prompts and the check against a recipe."""

import pytest
from PIL import Image

from steersman.core.errors import DataError
from steersman.data import Dataset, Row, check_behaviours, to_prompt


def test_known_behaviours_pass_and_none_is_always_known(sample):
    check_behaviours(sample, ["honest"])
    check_behaviours(Dataset.of([Row("a", "x")]), [])


def test_an_unknown_behaviour_names_the_row_and_the_nearest(sample):
    with pytest.raises(DataError) as caught:
        check_behaviours(sample, ["honesty", "refuse"])
    message = str(caught.value)
    assert sample.source in message and "row 1 (id 'cat')" in message
    assert "'honest' is not in the recipe. Did you mean 'honesty'?" in message
    assert "add the contrast" in message


def test_a_prompt_has_the_text_the_image_and_the_system_prompt(sample):
    cat, hello, _ = (to_prompt(row, prefix="Look. ", suffix=" Think.") for row in sample)
    assert cat.text == "Look. Is there a cat? Think."
    assert cat.images[0].mode == "RGB" and cat.images[0].size == (8, 6)
    assert hello.system == "Be kind." and hello.images == () and hello.completion is None


def test_an_image_that_went_away_names_its_row(sample):
    sample.rows[0].image.unlink()
    with pytest.raises(DataError, match=r"Row 'cat'.*does not exist"):
        to_prompt(sample.rows[0])
    with pytest.raises(DataError, match=r"row 'cat'.*does not exist"):
        Dataset.of(sample.rows)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_rgb(mode):
    image = Image.new(mode, (4, 4))
    assert to_prompt(Row("a", "x", image)).images[0].mode == "RGB"


def test_a_palette_with_transparency_needs_no_warning(tmp_path):
    image = Image.new("P", (4, 4))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "p.png", transparency=bytes([0, 255]))
    assert to_prompt(Row("a", "x", tmp_path / "p.png")).images[0].mode == "RGB"


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.new("RGB", (8, 4)).save(tmp_path / "p.jpg", exif=exif)
    assert to_prompt(Row("a", "x", tmp_path / "p.jpg")).images[0].size == (4, 8)
