"""Whether two splits ask the same thing about the same picture."""

from steersman.data.images import image_hash, open_image
from steersman.data.rows import Dataset, Row

Question = tuple[str, str | None, str]


def asked_in_both(one: Dataset, other: Dataset) -> list[str]:
    """Ids of the rows of `other` whose prompt, system prompt and picture a row of `one` has too.

    Pictures are decoded only where the words agree.

    Raises:
        DataError: an image cannot be decoded.
    """
    words = {(row.prompt, row.system) for row in one.rows}
    alike = [row for row in other.rows if (row.prompt, row.system) in words]
    wanted = {(row.prompt, row.system) for row in alike}
    asked = {_question(row) for row in one.rows if (row.prompt, row.system) in wanted}
    return [row.id for row in alike if _question(row) in asked]


def _question(row: Row) -> Question:
    image = "" if row.image is None else image_hash(open_image(row.image))
    return row.prompt, row.system, image
