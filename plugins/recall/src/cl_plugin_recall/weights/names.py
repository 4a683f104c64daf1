"""Names of every artefact by parameter indices, and what is missing.

The cache is keyed by content (``replay.artefacts``); these names are the labels people know, and what the
importer and exporter of the authors' tree use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from cl_plugin_recall.experiments import class_steps, helper_sets


def class_ids(classes: Sequence[int]) -> str:
    """``16-20``, or ``16`` for a single class."""
    return str(classes[0]) if len(classes) == 1 else f"{classes[0]}-{classes[-1]}"


@frozen(kw_only=True)
class Names:
    """Paths of one experiment below ``base``; ``index`` is (common, first step, helper, incremental).

    :param source: replay source, or None for joint training.
    :param test: index of the test, 0 to 7, or a structure string for other class lists.
    """

    test_name: str
    test: int | str
    sizes: tuple[int, ...]
    index: tuple[int, int, int, int]
    protocols: tuple[str, str, str]
    source: str | None = "gan"
    one_class: bool = False
    mix: bool = True
    base: str = "."

    @property
    def steps(self) -> list[list[int]]:
        """Class numbers of each step."""
        return class_steps(self.sizes)

    @property
    def helpers(self) -> list[list[int]]:
        """Class lists of the helper decoders."""
        return helper_sets(self.sizes, self.one_class)

    @property
    def helper_size(self) -> int:
        """Classes a helper knows; 0 without helpers."""
        return len(self.helpers[0]) if self.helpers else 0

    def _index(self, n: int) -> str:
        return "P" + ".".join(str(i) for i in self.index[:n])

    @property
    def pretrained(self) -> str:
        """Weights step 0 starts from."""
        return f"{self.base}/checkpoints/encoders/pretrained"

    @property
    def encoder(self) -> str:
        """Encoder after step 0."""
        return f"{self.base}/checkpoints/encoders/{self._index(2)}_E{self.sizes[0]}"

    def decoder(self, step: int) -> str:
        """Decoder after a step."""
        folder = f"{self.base}/checkpoints/decoders"
        if step == 0:
            return f"{folder}/{self._index(2)}_E{self.sizes[0]}"
        one = "_1" if self.one_class else ""
        return f"{folder}/{self._index(4)}_T{self.test}_S{step}_{self.source}{one}"

    def helper(self, classes: Sequence[int]) -> str:
        """Helper decoder for a class list; both ends always named."""
        return f"{self.base}/checkpoints/helper_decoders/{self._index(3)}_E{self.sizes[0]}_C{classes[0]}-{classes[-1]}"

    def train(self, step: int) -> str:
        """Training images of a step."""
        if step == 0:
            return f"{self.base}/data/training_first_step/train_{self.protocols[0]}_1-{self.sizes[0]}.tfrecord"
        return f"{self.base}/data/training_incremental/train_{self.protocols[2]}_{class_ids(self.steps[step])}.tfrecord"

    def helper_train(self, classes: Sequence[int]) -> str:
        """Training images of a helper."""
        return f"{self.base}/data/training_incremental/train_{self.protocols[1]}_{class_ids(classes)}.tfrecord"

    def mixed(self, step: int) -> str | None:
        """Images of a step with inpainted labels; None for step 0."""
        if step == 0:
            return None
        return (
            f"{self.base}/data/training_incremental/mixed/train_{self.protocols[2]}_"
            f"{class_ids(self.steps[step])}_{self._index(4)}.tfrecord"
        )

    def replay_images(self, c: int) -> str:
        """Replay images of a class, without labels."""
        return f"{self.base}/data/replay_images/{self.source}/{c:02d}.tfrecord"

    def labelled(self, c: int) -> str:
        """Replay images of a class with pseudo-labels."""
        m = 0 if c <= self.sizes[0] else self.helper_size
        return (
            f"{self.base}/data/replay_images_and_labels/"
            f"{self._index(3)}_E{self.sizes[0]}_H{m}_C{c}_{self.source}.tfrecord"
        )

    @property
    def report(self) -> str:
        """Text report."""
        source = f"_{self.source}" if self.source else ""
        one = "_1" if self.one_class and self.source else ""
        return f"{self.base}/outputs/{self.test_name} (T{self.test}_{self._index(4)}{source}{one}){one}.txt"

    @property
    def replay_classes(self) -> tuple[list[int], list[int]]:
        """Classes labelled by the step-0 model, and by helpers."""
        if len(self.sizes) == 1:
            return [], []
        return list(range(1, self.sizes[0] + 1)), [c for helper in self.helpers for c in helper]

    def old(self, step: int) -> list[int]:
        """Labels known before a step, background included."""
        return list(range(sum(self.sizes[:step]) + 1))

    def n_seen(self, step: int) -> int:
        """Classes known after a step, background not counted; also how many validation files it reads."""
        return sum(self.sizes[: step + 1])

    def missing(self, exists: Callable[[str], bool]) -> Missing:
        """What has to be made, by file existence alone, as the reference decides."""

        def checkpoint(path: str) -> bool:
            return exists(f"{path}.index") and exists(f"{path}.data-00000-of-00001")

        decoders = [checkpoint(self.decoder(step)) for step in range(len(self.sizes))]
        plain, helped = self.replay_classes
        mixed = [path is not None and exists(path) for path in map(self.mixed, range(len(self.sizes)))]
        return Missing(
            encoder_ok=checkpoint(self.encoder),
            decoders_ok=all(decoders),
            helpers_ok=all(checkpoint(self.helper(h)) for h in self.helpers),
            labels_no_helper_ok=all(exists(self.labelled(c)) for c in plain),
            labels_helper_ok=all(exists(self.labelled(c)) for c in helped),
            mixed_exists=mixed,
            first_step_to_train=decoders.index(False) if not all(decoders) else -1,
        )


@frozen(kw_only=True)
class Missing:
    """Which kinds of artefact are complete; ``first_step_to_train`` is -1 when every decoder exists."""

    encoder_ok: bool
    decoders_ok: bool
    helpers_ok: bool
    labels_no_helper_ok: bool
    labels_helper_ok: bool
    mixed_exists: list[bool]
    first_step_to_train: int
