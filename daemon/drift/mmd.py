"""A kernel two-sample test of sketches: maximum mean discrepancy."""

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy.spatial.distance import cdist, pdist

from daemon.drift.novelty import Sketches
from daemon.drift.options import Options
from daemon.drift.two_sample import Test, TwoSample, Verdict

Matrix = npt.NDArray[np.float64]

#: Splits that differ by rounding alone are ties, and a tie is no evidence; kernel values are 0 to 1.
ROUNDING = 1e-12

#: Splits tried at a time. Most tests of a stream that stays the same are decided by the first block, at a tenth of the
#: cost of the default number of permutations.
BLOCK = 100


class MmdOptions(Options):
    reference: int = Field(500, ge=2)
    window: int = Field(100, ge=2)
    clock: int = Field(25, ge=1)
    alpha: float = Field(0.001, gt=0, lt=0.5)
    permutations: int = Field(999, ge=1)

    @model_validator(mode="after")
    def _can_alarm(self) -> "MmdOptions":
        if self.alpha * (self.permutations + 1) < 1:
            raise ValueError(
                "permutations must be at least 1/alpha - 1: no p-value is smaller than 1/(permutations + 1)"
            )
        return self


class Mmd(TwoSample):
    """Alarms when the newest sketches and the reference have too different mean embeddings in a kernel's space.

    Gretton, Borgwardt, Rasch, Schölkopf & Smola 2012, "A Kernel Two-Sample Test", JMLR 13: the unbiased estimate of
    their lemma 6, with a Gaussian kernel as wide as the median distance, and a permutation test.
    """

    def __init__(self, name: str, options: MmdOptions, seed: int) -> None:
        self._options = options
        #: The same for every test, so that what they make of the reference alone is summed once.
        self._blocks = _blocks(options, seed)
        super().__init__(
            name,
            reference=options.reference,
            window=options.window,
            clock=options.clock,
            alpha=options.alpha,
        )

    def _against(self, reference: Sketches) -> Test:
        return _KernelTest(reference, self._blocks, self._options.alpha).compare


def _blocks(options: MmdOptions, seed: int) -> list[Matrix]:
    """The splits to try, `[reference + window, BLOCK]` or less: 1 for what a split calls the window; first the true."""
    splits = np.zeros((1 + options.permutations, options.reference + options.window))
    splits[:, options.reference :] = 1
    rng = np.random.default_rng(seed)
    rng.permuted(splits[1:], axis=1, out=splits[1:])
    return [np.ascontiguousarray(splits[at : at + BLOCK].T) for at in range(0, len(splits), BLOCK)]


class _KernelTest:
    """MMD of windows against one reference. Only the kernel's rows of a window are computed for a test.

    For a split z of n reference and window sketches with the kernel K, all three sums of the estimate follow from
    z'Kz (within the window), z'K1 (the window with all) and 1'K1.
    """

    def __init__(self, reference: Sketches, blocks: list[Matrix], alpha: float) -> None:
        self._reference = reference.astype(np.float64)
        # A reference of one and the same sketch sets no width.
        self._width = float(np.median(pdist(self._reference))) or 1.0
        self._blocks, self._count = blocks, sum(block.shape[1] for block in blocks)
        self._alpha = alpha
        kernel = self._kernel(self._reference, self._reference)
        self._row_sums = kernel.sum(axis=1)
        self._within = [_products(block[: len(reference)], kernel) for block in blocks]

    def compare(self, window: Sketches) -> Verdict:
        newest, old = window.astype(np.float64), len(self._reference)
        across, inside = self._kernel(newest, self._reference), self._kernel(newest, newest)
        sums = np.concatenate([self._row_sums + across.sum(axis=0), across.sum(axis=1) + inside.sum(axis=1)])
        true, as_far, tried = -np.inf, 0, 0
        for block, within in zip(self._blocks, self._within, strict=True):
            between = np.einsum("wp,wp->p", block[old:], across @ block[:old])
            inner = within + 2 * between + _products(block[old:], inside)
            found = _mmd(inner, sums @ block, float(sums.sum()), old, len(newest))
            true = float(found[0]) if not tried else true
            as_far += int((found >= true - ROUNDING).sum())
            tried += len(found)
            if as_far > self._alpha * self._count:
                # Whatever the rest are, it is no alarm.
                break
        return Verdict(as_far / tried, 0.0, true)

    def _kernel(self, rows: Matrix, columns: Matrix) -> Matrix:
        kernel: Matrix = np.exp(cdist(rows, columns, "sqeuclidean") / (-2 * self._width**2))
        return kernel


def _products(splits: Matrix, kernel: Matrix) -> Matrix:
    """The product z'Kz of each column z of `splits`."""
    products: Matrix = np.einsum("np,np->p", splits, kernel @ splits)
    return products


def _mmd(within: Matrix, touching: Matrix, total: float, old: int, new: int) -> Matrix:
    """The unbiased estimate of MMD² from a kernel's sums; a sketch with itself, 1, counts in none of the means."""
    among_new = (within - new) / (new * (new - 1))
    among_old = (total - 2 * touching + within - old) / (old * (old - 1))
    between = (touching - within) / (old * new)
    return among_new + among_old - 2 * between
