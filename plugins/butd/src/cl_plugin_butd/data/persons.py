"""Two people in a picture and questions about their features: the persons generator.

The order of draws from numpy's legacy generator is the published one.

Shapes: N raw instances, P people in a picture (2), H W canvas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from attrs import field, frozen

from cl_kernel import BadInput, fingerprint

FEATURES = ("avatar", "tilt", "background", "clothes", "glasses", "hair", "mustache")
"""Columns of the raw labels."""
QUERIED = (1, 3, 4, 5, 6)
"""The background is never asked about, nor is who it is."""
HELD_OUT = {1: {5: 1}, 2: {4: 3}}
"""Person -> {feature: value} kept for the test: about 7 % of the training data."""
HELD_OUT_MANY = {1: {5: 1, 3: 3}, 2: {4: 3, 3: 4}, 3: {6: 0}, 4: {3: 2, 4: 4}, 5: {6: 1}, 0: {5: 0}}
"""The "hide many" option: about 40 %."""
SPLIT_SEEDS = {"test": 0, "train": 1, "val": 2}


@frozen(kw_only=True)
class People:
    """Raw instances.

    :param images: uint8 or float [N, H, W, 3]; grey by luminance when placed.
    :param masks: 0..1 [N, H, W].
    :param labels: int64 [N, 7], columns :data:`FEATURES`.
    """

    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    n_people: int = 6

    def __attrs_post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.shape[1] != len(FEATURES):
            raise BadInput(f"labels of shape {self.labels.shape}, expected [N, {len(FEATURES)}]", where="raw persons")
        if not len(self.images) == len(self.masks) == len(self.labels):
            raise BadInput(
                f"{len(self.images)} images, {len(self.masks)} masks, {len(self.labels)} labels", where="raw persons"
            )

    @property
    def checksum(self) -> str:
        """Digest of everything."""
        return fingerprint(self.images, self.masks, self.labels)

    @property
    def absent(self) -> int:
        """Label of every feature of somebody who is not there: one above the highest label."""
        return int(self.labels.max()) + 1


@frozen(kw_only=True)
class PersonsRecipe:
    """Everything that decides a persons data set besides the raw instances.

    :param n_configurations: pictures asked for in training, of which ``share_train`` are made.
    :param size: pixels of a person's side at full scale.
    :param margin: pixels kept free around a person.
    """

    extended: bool = False
    hide_many: bool = False
    n_configurations: int | None = None
    n_test: int | None = None
    canvas: tuple[int, int] = field(default=(224, 448), converter=tuple)
    size: int = 112
    margin: int = 56
    scale: tuple[float, float] = field(default=(0.5, 1.0), converter=tuple)
    n_in_picture: int = 2

    @property
    def held_out(self) -> Mapping[int, Mapping[int, int]]:
        """Pairs kept for the test."""
        return HELD_OUT_MANY if self.hide_many else HELD_OUT

    @property
    def n_pictures(self) -> dict[str, int]:
        """Configurations of each split."""
        total = self.n_configurations or (6000 if self.extended else 2000)
        test = self.n_test if self.n_test is not None else 500 if self.hide_many else 590
        return {"test": test, "train": int(0.8 * total), "val": test}


@frozen(kw_only=True)
class Scene:
    """One picture and what is asked about it.

    :param people: who stands at each place [P].
    :param instances: raw rows [P].
    :param top_left: of each box [P, 2].
    :param background: grey 0..1.
    :param questions: (place, feature).
    """

    people: np.ndarray
    instances: np.ndarray
    scales: np.ndarray
    top_left: np.ndarray
    background: float
    questions: tuple[tuple[int, int], ...]


def allowed_instances(recipe: PersonsRecipe, people: People) -> tuple[np.ndarray, np.ndarray]:
    """Which raw instances of each person training and test may show, bool [people, N] each."""
    shape = (people.n_people, len(people.labels))
    train, test = np.zeros(shape, bool), np.zeros(shape, bool)
    for person in range(people.n_people):
        mine = people.labels[:, 0] == person
        held = np.zeros(len(mine), bool)
        for feature, value in recipe.held_out.get(person, {}).items():
            held |= people.labels[:, feature] == value
        train[person] = mine & ~held
        if person in recipe.held_out:
            test[person] = mine & held
    return train, test


def scenes(
    recipe: PersonsRecipe, people: People, seeds: Mapping[str, int] = SPLIT_SEEDS
) -> Iterator[tuple[str, Scene]]:
    """Every picture of every split, in the published order; equal label configurations are not repeated.

    :param seeds: of each split.
    """
    train, test = allowed_instances(recipe, people)
    tested = list(recipe.held_out)
    for split, persons, allowed in (("training", range(people.n_people), train), ("test", tested, test)):
        if empty := [p for p in persons if not allowed[p].any()]:
            raise BadInput(
                f"no {split} instance of person {empty}",
                where="raw persons",
                fix="bring instances with and without the held-out features",
            )
    seen: set[tuple[int, ...]] = set()
    for split in ("test", "train", "val"):
        draw = np.random.RandomState(seeds[split])
        allowed = test if split == "test" else train
        for _ in range(recipe.n_pictures[split]):
            pool = np.asarray(tested) if split == "test" else np.arange(people.n_people)
            who = draw.choice(pool, recipe.n_in_picture, replace=False)
            rows = np.asarray([(options := np.flatnonzero(allowed[p]))[draw.randint(0, len(options))] for p in who])
            key = tuple(people.labels[rows[np.argsort(who)]].flatten().tolist())
            if key in seen:
                continue
            seen.add(key)
            background = int(draw.randint(0, 256)) / 255
            corners, scales = _place(recipe, draw)
            yield (
                split,
                Scene(
                    people=who,
                    instances=rows,
                    scales=scales,
                    top_left=corners,
                    background=background,
                    questions=_questions(recipe, split, who, rows, people, draw),
                ),
            )


def _place(recipe: PersonsRecipe, draw: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    height, width = recipe.canvas
    half, reach = recipe.size // 2, recipe.margin
    low, high = recipe.scale
    for _ in range(10_000):
        free = np.zeros((height, width), bool)
        free[half : height - half, half : width - half] = True
        corners, scales = [], []
        for _ in range(recipe.n_in_picture):
            valid = np.flatnonzero(free)
            if not len(valid):
                break
            y, x = divmod(int(valid[draw.choice(len(valid))]), width)
            scale = draw.rand() * (high - low) + low
            side = int(scale * recipe.size) // 2
            top, left = y - side - 1, x - side - 1
            free[max(0, top - reach) : y + side + reach, max(0, left - reach) : x + side + reach] = False
            corners.append((top, left))
            scales.append(scale)
        else:
            return np.asarray(corners), np.asarray(scales)
    raise BadInput(f"{recipe.n_in_picture} people do not fit into {height} x {width} pixels", where="dataset.canvas")


def _questions(
    recipe: PersonsRecipe, split: str, who: np.ndarray, rows: np.ndarray, people: People, draw: np.random.RandomState
) -> tuple[tuple[int, int], ...]:
    asked: list[tuple[int, int]] = []
    for place in sorted(draw.choice(len(who), len(who), replace=False).tolist()):
        if split == "train":
            features = list(QUERIED)
        elif split == "val":
            features = [int(draw.choice(QUERIED, 1)[0])]
        else:
            features = [
                f
                for f, value in sorted(recipe.held_out.get(int(who[place]), {}).items())
                if people.labels[rows[place], f] == value
            ]
        asked += [(place, f) for f in features]
    return tuple(asked)


def labels_of(scene: Scene, people: People) -> tuple[np.ndarray, np.ndarray]:
    """Answers to every question about everybody, and their weights: int64 and float32 [people * 7]."""
    table = np.full((people.n_people, len(FEATURES)), people.absent, np.int64)
    weight = np.zeros(table.shape, np.float32)
    weight[:, 0] = 1
    for person, row in zip(scene.people, scene.instances, strict=True):
        table[person], weight[person] = people.labels[row], 1
    return table.flatten(), weight.flatten()


def render(recipe: PersonsRecipe, people: People, scene: Scene, only: int | None = None) -> np.ndarray:
    """Draw a scene, uint8 [H, W].

    :param only: draw this place alone on black (the queried person).
    """
    from skimage.color import rgb2gray
    from skimage.transform import resize

    canvas = np.full(recipe.canvas, scene.background if only is None else 0.0)
    for place in range(len(scene.people)) if only is None else (only,):
        side = int(scene.scales[place] * recipe.size)
        y, x = (int(v) for v in scene.top_left[place])
        row = scene.instances[place]
        person = rgb2gray(resize(people.images[row], (side, side), mode="constant"))
        mask = resize(people.masks[row].astype(float), (side, side), mode="constant")
        target = canvas[y : y + side, x : x + side]
        target[:] = mask * person + (1 - mask) * target
    return (canvas * 255).astype(np.uint8)


def procedural(rng: np.random.Generator, *, n_people: int = 6, per_person: int = 24, side: int = 24) -> People:
    """Toy people: a base shape each, features as stripes of different grey.

    Every held-out pair occurs, and so does its absence.
    """
    counts = (1, 3, 1, 5, 5, 2, 2)
    labels = np.stack([rng.integers(0, c, n_people * per_person) for c in counts], 1)
    labels[:, 0] = np.repeat(np.arange(n_people), per_person)
    for person, pairs in HELD_OUT_MANY.items():
        for i, (feature, value) in enumerate(pairs.items()):
            labels[person * per_person + i, feature] = value
            labels[person * per_person + 8 + i : (person + 1) * per_person : 3, feature] = (value + 1) % counts[feature]
    yy, xx = np.mgrid[:side, :side] / (side - 1)
    masks, images = [], []
    for row in labels:
        shape = (np.abs(xx - 0.5) * (1 + row[0] % 3) + np.abs(yy - 0.5) * (1 + row[0] // 3)) < 0.75
        grey = np.full((side, side), 0.2 + 0.1 * row[0])
        for stripe, feature in enumerate(QUERIED):
            band = (yy >= stripe / 5) & (yy < (stripe + 1) / 5) & (xx > 0.3) & (xx < 0.7)
            grey[band] = (row[feature] + 1) / (counts[feature] + 1)
        masks.append(shape)
        images.append(np.repeat((grey * 255).astype(np.uint8)[..., None], 3, 2))
    return People(
        images=np.stack(images),
        masks=np.stack(masks).astype(np.uint8),
        labels=labels.astype(np.int64),
        n_people=n_people,
    )
