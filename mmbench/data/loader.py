"""Batches drawn by index: from the device when the set fits there, else from the memory map."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmbench.data.augment import TOGETHER, augment
from mmbench.dataset import Modality, SplitArrays
from mmbench.method import Batch
from mmbench.ranks.group import ALONE, Ranks
from mmbench.ranks.rows import Rows
from mmbench.training.device import free_memory
from mmbench.training.seeding import generator

LARGE = 2**14  # numbers in a sample that is made on its own


def fits(parts: Iterable[SplitArrays], device: torch.device, share: float) -> bool:
    """Say whether the splits together take less than ``share`` of the device's free memory."""
    taken = sum(a.nbytes for arrays in parts for a in arrays.inputs.values())
    return taken <= share * free_memory(device)


class Loader:
    """Draws batches of one split, or of several as if they were one.

    Args:
        parts: the splits, in order; what is memory-mapped is not copied together.
        device: where batches are wanted.
        dtype: floating type of the inputs.
        batch_size: samples per batch.
        seed: of the order and the augmentation.
        augmentations: per modality the name of a batched augmentation, for training batches.
        resident: keep the split on the device; without, batches come from where it is stored.
        modalities: whose ``mean`` and ``std`` are applied; None: nothing is.
        ranks: the processes that divide each batch; labels are everybody's, inputs are not.
    """

    def __init__(
        self,
        parts: Sequence[SplitArrays],
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        seed: int,
        *,
        augmentations: Mapping[str, str] | None = None,
        resident: bool = True,
        modalities: Sequence[Modality] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.parts, self.device, self.dtype = tuple(parts), device, dtype
        self.batch_size, self.seed = batch_size, seed
        self.augmentations, self.ranks = augmentations or {}, ranks
        label = np.concatenate([arrays.label for arrays in self.parts])
        self.label = torch.as_tensor(label, dtype=torch.int64)
        self.resident = resident
        self._label = self.label.to(device)
        self._moments = {
            m.name: tuple(
                torch.tensor(values, device=device, dtype=dtype).view(-1, *[1] * (len(m.shape) - 1))
                for values in (m.mean, m.std)
            )
            for m in modalities or ()
            if m.mean
        }
        self._stored = {
            m: self._held([arrays.inputs[m] for arrays in self.parts]) for m in self.parts[0].inputs
        }

    def _held(self, arrays: list[NDArray[np.generic]]) -> list[Tensor]:
        """Return a modality of all parts: one tensor on the device, or views of what is stored."""
        if self.resident:
            return [torch.as_tensor(np.concatenate(arrays)).to(self.device)]
        with warnings.catch_warnings():  # a memory map is not writable, and nobody writes
            warnings.simplefilter("ignore", UserWarning)
            return [torch.as_tensor(np.asarray(array)) for array in arrays]

    def __len__(self) -> int:
        return len(self.label)

    def gather(self, index: Tensor) -> Batch:
        """Return the samples at ``index`` ([B] int64, on the CPU), without augmentation.

        With several processes the inputs are ``Rows``: each reads its own part of them.
        """
        on_device = index.to(self.device, non_blocking=True)
        sizes = self.ranks.shares(len(index))
        own = self.ranks.own(sizes)
        inputs = {m: self._standardised(m, index[own], on_device[own]) for m in self._stored}
        if self.ranks.size > 1:
            inputs = {m: Rows(x, sizes, self.ranks) for m, x in inputs.items()}
        return Batch(inputs, self._label.index_select(0, on_device), on_device)

    def _standardised(self, m: str, index: Tensor, on_device: Tensor) -> Tensor:
        """Return rows of a modality as floats, [B, *shape]; word numbers as they are.

        Args:
            m: its name.
            index: of the rows, on the CPU.
            on_device: the same, on the device.
        """
        first = self._stored[m][0]
        moments = self._moments.get(m)
        if first.dtype == torch.int32:
            return self._rows(m, index, on_device)
        scale = 255.0 if first.dtype == torch.uint8 else 1.0
        if self.device.type != "cpu" or first.shape[1:].numel() < LARGE:
            return _scaled(self._rows(m, index, on_device).to(self.dtype), scale, moments)
        # One after the other, so that the passes over a sample find it in the processor's cache.
        found = torch.empty((len(index), *first.shape[1:]), dtype=self.dtype)
        for row, into in zip(index.tolist(), found, strict=True):
            _scaled(into.copy_(self._row(m, row)), scale, moments)
        return found

    def _rows(self, m: str, index: Tensor, on_device: Tensor) -> Tensor:
        """Return rows of a modality as they are stored, [B, *shape], on the device."""
        first, *more = self._stored[m]
        if not more:
            where = on_device if self.resident else index
            return self._on_device(first.index_select(0, where))
        return self._on_device(torch.stack([self._row(m, row) for row in index.tolist()]))

    def _on_device(self, rows: Tensor) -> Tensor:
        """Return rows on the device; from pinned memory, so that nobody waits for the copy."""
        if self.device.type != "cuda" or rows.is_cuda:
            return rows.to(self.device)
        return rows.pin_memory().to(self.device, non_blocking=True)

    def _row(self, m: str, row: int) -> Tensor:
        """Return one row of a modality as it is stored, [*shape], where it is stored."""
        for held in self._stored[m]:
            if row < len(held):
                return held[row]
            row -= len(held)
        raise IndexError(f"there is no sample {row} more")

    def in_order(self, index: Tensor) -> Iterator[Batch]:
        """Yield ``index`` in batches, as it stands."""
        for part in index.split(self.batch_size):
            yield self.gather(part)

    def everything(self) -> Iterator[Batch]:
        """Yield the whole split in its own order."""
        return self.in_order(torch.arange(len(self)))

    def shuffled(self, index: Tensor, *axes: object) -> Tensor:
        """Return ``index`` in an order given by the seed and ``axes`` alone."""
        order = torch.randperm(
            len(index), generator=generator(torch.device("cpu"), self.seed, *axes)
        )
        return index[order]

    def training(self, index: Tensor, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the training batches of ``epoch`` from step ``start`` on, augmented.

        A last batch of one sample is dropped: batch statistics need two.
        """
        parts = self.shuffled(index, "order", epoch).split(self.batch_size)
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts = parts[:-1]
        for step in range(start, len(parts)):
            yield self.augmented(self.gather(parts[step]), epoch, step)

    def augmented(self, batch: Batch, *axes: object) -> Batch:
        """Return ``batch`` with each modality augmented as the seed and ``axes`` have it."""
        inputs = dict(batch.inputs)
        for m, name in self.augmentations.items():
            # What begins with together+ draws the same for all modalities that do.
            stream = TOGETHER if name.startswith(f"{TOGETHER}+") else m
            draw = generator(self.device, self.seed, "augment", stream, *axes)
            inputs[m] = _changed(inputs[m], partial(augment, name, draw=draw))
        return Batch(inputs, batch.label, batch.index)

    def steps(self, samples: int) -> int:
        """Return the number of training batches that ``samples`` samples make."""
        full, rest = divmod(samples, self.batch_size)
        return full + (1 if rest > 1 or (rest == 1 and full == 0) else 0)


def _changed(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return x.each(change) if isinstance(x, Rows) else change(x)


def _scaled(x: Tensor, scale: float, moments: tuple[Tensor, ...] | None) -> Tensor:
    """Return bytes (``scale`` 255) as 0 to 1, and normalised; in place, as ``x`` is a copy.

    On the CPU, passes over memory are what a batch costs.
    """
    if moments is None:
        return x.div_(scale) if scale != 1 else x
    mean, std = moments
    return x.mul_(1 / (scale * std)).sub_(mean / std)
