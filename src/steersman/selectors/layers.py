"""Which layers are tried: a list, or a stretch of the depth."""

from steersman.core.errors import RecipeError
from steersman.core.part import part
from steersman.core.roles import LayerSelector
from steersman.core.types import ModelSpec, Point, Site


@part("layers")
class Layers(LayerSelector):
    """Exactly these blocks."""

    layers: tuple[int, ...]
    point: Point = "resid_post"

    def __call__(self, spec: ModelSpec) -> tuple[Site, ...]:
        sites = tuple(Site(layer, self.point) for layer in self.layers)
        spec.check(sites, "The layer selector")
        return sites


@part("fractional_depth")
class FractionalDepth(LayerSelector):
    """Every block between two fractions of the depth; 0 is the first block, 1 the last."""

    start: float = 0.3
    stop: float = 1.0
    point: Point = "resid_post"

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= 1:
            raise RecipeError(
                f"start {self.start} and stop {self.stop} are no stretch of the depth. Both lie "
                "between 0 and 1, and start is not above stop."
            )

    def __call__(self, spec: ModelSpec) -> tuple[Site, ...]:
        last = spec.num_layers - 1
        first, end = round(self.start * last), round(self.stop * last)
        return tuple(Site(layer, self.point) for layer in range(first, end + 1))
