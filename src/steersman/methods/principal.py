"""Principal directions of many rows, some rows at a time: the rows are never copied as a whole.

X = rows - centre = U diag(s) V^T

principal   exact, from the smaller Gram matrix, in float64:
            n <= d:  X X^T = U s^2 U^T,  V^T = s^-1 U^T X        n > d:  X^T X = V s^2 V^T
leading     a few directions by randomised subspace iteration (Halko et al. 2011,
            arXiv:0909.4061) with scikit-learn's draws: nothing of size n x d or d x d
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import linalg
from torch import Tensor

CHUNK = 1024  # rows that are held at once
ROUNDING = 1e-12  # energies below this share of the rows' own are rounding of float32
OVERSAMPLING = 10  # further columns of the randomised search, as in scikit-learn
View = Callable[[Tensor, Tensor], Tensor]
"""What is taken of some rows, given the rows and their indices."""


def as_it_is(rows: Tensor, _at: Tensor) -> Tensor:
    """The view of rows that changes nothing."""
    return rows


@dataclass(frozen=True)
class Rows:
    """The rows `chosen` of a matrix, each as `view` shows it, minus `centre`."""

    matrix: Float[Tensor, "m d"]
    chosen: Int[Tensor, " n"]
    centre: Float[Tensor, " d"]
    view: View = as_it_is

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.chosen), self.matrix.shape[1]

    def part(self, start: int, stop: int, dtype: torch.dtype) -> Float[Tensor, "c d"]:
        at = self.chosen[start:stop]
        return self.view(self.matrix[at].to(dtype), at) - self.centre.to(dtype)

    def parts(self, dtype: torch.dtype) -> Iterator[Float[Tensor, "c d"]]:
        """All rows in order, `CHUNK` at a time."""
        for start in range(0, len(self.chosen), CHUNK):
            yield self.part(start, start + CHUNK, dtype)


def about_mean(
    matrix: Float[Tensor, "m d"], chosen: Int[Tensor, " n"], view: View = as_it_is
) -> Rows:
    """The rows with their own mean as the centre."""
    raw = about_origin(matrix, chosen, view)
    total = torch.zeros(matrix.shape[1], dtype=torch.float64)
    for rows in raw.parts(torch.float64):
        total += rows.sum(0)
    return Rows(matrix, chosen, total / max(1, len(chosen)), view)


def about_origin(
    matrix: Float[Tensor, "m d"], chosen: Int[Tensor, " n"], view: View = as_it_is
) -> Rows:
    """The rows as they are."""
    return Rows(matrix, chosen, torch.zeros(matrix.shape[1], dtype=torch.float64), view)


@dataclass(frozen=True)
class Principal:
    """The energies s^2 along the principal directions, in falling order, without those of rounding.

    Attributes:
        vectors: eigenvectors of the Gram matrix, as columns: left ones where n <= d.
    """

    rows: Rows
    energy: Float[Tensor, " k"]
    vectors: Float[Tensor, "g k"]

    def directions(self, num: int) -> Float[Tensor, "k d"]:
        """The first `num` directions, or as many as there are: orthonormal, in float64.

        The largest entry of each is positive.
        """
        n, d = self.rows.shape
        found = self.vectors[:, :num]
        if n <= d:
            found = self.rows.part(0, n, torch.float64).T @ found
            # Dividing by small s magnifies rounding: made orthonormal again.
            found = torch.linalg.qr(found / self.energy[: found.shape[1]].sqrt()).Q
        largest = found.gather(0, found.abs().argmax(0, keepdim=True))
        return (found * largest.sign()).T.contiguous()


def principal(rows: Rows) -> Principal:
    """All principal directions. Costs n d min(n, d) and a matrix of min(n, d) squared."""
    n, d = rows.shape
    if n <= d:
        x = rows.part(0, n, torch.float64)
        gram = x @ x.T
    else:
        # One triangle, which is half the work, and all that eigh reads: the lower one of the
        # transpose, since the routine counts by columns.
        (rank_update,) = linalg.get_blas_funcs(["syrk"], dtype=np.float64)
        total = np.zeros((d, d), order="F")
        for x in rows.parts(torch.float64):
            total = rank_update(1.0, x.numpy().T, beta=1.0, c=total, overwrite_c=1)
        gram = torch.from_numpy(total.T)
    values, vectors = torch.linalg.eigh(gram)
    energy, vectors = values.flip(0), vectors.flip(1)
    whole = energy[:1].clamp_min(0) + n * rows.centre.dot(rows.centre)
    num = int((energy > ROUNDING * whole).sum())
    return Principal(rows, energy[:num], vectors[:, :num])


def completed(directions: Float[Tensor, "k d"], num: int) -> Float[Tensor, "n d"]:
    """`num` orthonormal rows: the directions, and arbitrary others where there are too few."""
    k, d = directions.shape
    if num <= k:
        return directions[:num]
    others = torch.eye(d, dtype=directions.dtype)[:, : num - k]
    more = torch.linalg.qr(torch.cat([directions.T, others], dim=1)).Q[:, k:]
    return torch.cat([directions, more.T])


def leading(rows: Rows, num: int, *, seed: int, iterations: int) -> Float[Tensor, "k d"]:
    """The first `num` principal directions, as TruncatedSVD of scikit-learn finds them (float32).

    Good where energies fall behind the first `num`; among directions of equal energy it settles
    for some mixture.
    """
    n, d = rows.shape

    def times(q: np.ndarray) -> np.ndarray:
        return np.concatenate([x.numpy() @ q for x in rows.parts(torch.float32)])

    def transposed_times(q: np.ndarray) -> np.ndarray:
        total = np.zeros((d, q.shape[1]), dtype=np.float32)
        for start, x in zip(range(0, n, CHUNK), rows.parts(torch.float32), strict=True):
            total += x.numpy().T @ q[start : start + CHUNK]
        return total

    forth, back = (transposed_times, times) if n < d else (times, transposed_times)
    draw = np.random.RandomState(seed)
    q = draw.normal(size=(min(n, d), num + OVERSAMPLING)).astype(np.float32)
    for _ in range(iterations):
        q = _normalised(forth(q))
        q = _normalised(back(q))
    q = np.linalg.qr(forth(q)).Q
    left, _, right = linalg.svd(back(q).T, full_matrices=False)
    found = (q @ left).T[:num] if n < d else right[:num]
    signs = np.sign(np.take_along_axis(found, np.abs(found).argmax(1)[:, None], axis=1))
    return torch.from_numpy(np.ascontiguousarray(found * signs))


def _normalised(q: np.ndarray) -> np.ndarray:
    """Other columns with the same span, of moderate size."""
    return np.asarray(linalg.lu(q, permute_l=True)[0])
