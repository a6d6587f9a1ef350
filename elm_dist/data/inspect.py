"""What a folder of shards holds, for people to read: counts, checksums, classes, and how even the code bits are.

Reads every shard in full. Knows nothing of the tokenizer that made the codes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elm_dist.data.marginals import mean_entropy, read_in_order
from elm_dist.data.payload import bit_probabilities
from elm_dist.data.shards import Manifest, ShardReader, load_manifest, verify_shards

LISTED = 10  # class names that are written out


@dataclass(frozen=True)
class ShardReport:
    """What was found in a folder whose checksums are all good; `str` writes it out."""

    directory: Path
    manifest: Manifest
    class_samples: NDArray[np.int64]  # (classes,): training samples of each
    bit_frequencies: NDArray[np.float64]  # (positions, code_bits): how often each bit is set in the training samples

    def __str__(self) -> str:
        return "\n".join([self._made_of(), *self._splits(), self._classes(), self._balance()])

    def _made_of(self) -> str:
        m = self.manifest
        return (
            f"{self.directory}: {m.grid} codes of {m.code_bits} bits, {m.sample_bytes} bytes of {m.payload} "
            f"a sample, from images of {m.image_size} pixels\ntokenizer   {m.tokenizer_fingerprint}"
        )

    def _splits(self) -> list[str]:
        lines = []
        for split, files in self.manifest.splits.items():
            size = sum(entry.bytes for entry in files) / 1e6
            lines.append(
                f"{split:<11} {self.manifest.samples(split):,} samples of {self.manifest.images[split]:,} images in "
                f"{len(files):,} shards, {size:,.1f} MB, checksums good"
            )
        return lines

    def _classes(self) -> str:
        names = list(self.manifest.classes)
        listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
        fewest, most = self.class_samples.min(), self.class_samples.max()
        return f"classes     {len(names):,} ({listed}), {fewest:,} to {most:,} training samples each"

    def _balance(self) -> str:
        shares = " ".join(f"{100 * share:.0f}" for share in self.bit_frequencies.mean(axis=0))
        constant = np.count_nonzero((self.bit_frequencies == 0) | (self.bit_frequencies == 1))
        entropy = mean_entropy(self.bit_frequencies)
        return (
            f"bits        set in {shares} % of all positions, bit 0 first; {constant:,} of "
            f"{self.bit_frequencies.size:,} never change; {entropy:.4f} bits per code bit by their frequencies"
        )


def inspect_shards(directory: Path) -> ShardReport:
    """Read the shards in full and return what they hold; raises ShardError for the first that is damaged."""
    verify_shards(directory)
    manifest = load_manifest(directory)
    ones = np.zeros(manifest.image_bits)
    class_samples = np.zeros(len(manifest.classes), np.int64)
    for stored, labels in read_in_order(ShardReader(directory, manifest, "train")):
        ones += bit_probabilities(stored, manifest).sum(axis=0, dtype=np.float64)
        class_samples += np.bincount(labels, minlength=len(class_samples))
    frequencies = (ones / manifest.samples("train")).reshape(-1, manifest.code_bits)
    return ShardReport(directory, manifest, class_samples, frequencies)
