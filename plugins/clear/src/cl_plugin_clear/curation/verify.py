"""Human verification: crowd votes to reports, labelling-service answers to kept images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from cl_plugin_clear.curation.retrieval import BACKGROUND

CATEGORIES = ("negative", "correct", "correct_but_with_other", "wrong_class")
BACKGROUND_NAMES = (BACKGROUND, "NEGATIVE")
"""The second is the early listing's name."""

REPORTS = ("all_results", "true_negative_wrongs", "true_pos_wrongs", "true_pos_wrongs_by_neg",
           "true_pos_wrongs_by_multi", "true_pos_wrongs_by_other")  # fmt: skip


@frozen
class Voted:
    """One image and what its workers chose."""

    id: str
    bucket: str
    query: str
    votes: tuple[tuple[str, ...], ...]
    url: str = ""


@frozen
class Suspect:
    """An image that the crowd disagrees on."""

    image: Voted
    disagree_count: int


def categorise(votes: Sequence[str], query: str) -> str:
    """What one worker says of a positive image."""
    if not votes:
        return "negative"
    if query in votes:
        return "correct" if len(votes) == 1 else "correct_but_with_other"
    return "wrong_class"


def reports(images: Sequence[Voted]) -> dict[str, list[Suspect]]:
    """The six disagreement reports, most disagreement first, file order among equals.

    A background image is suspect if more than half of the workers chose any label; a positive one if ``correct`` is not
    its top category, whose votes are then counted. The three ``by`` reports want a majority of one kind of objection.
    """
    found: dict[str, list[Suspect]] = {name: [] for name in REPORTS}
    for image in images:
        majority = len(image.votes) // 2
        if image.query in BACKGROUND_NAMES:
            n_labelled = sum(bool(votes) for votes in image.votes)
            if n_labelled > majority:
                for name in ("all_results", "true_negative_wrongs"):
                    found[name].append(Suspect(image, n_labelled))
            continue
        kinds = [categorise(votes, image.query) for votes in image.votes]
        counts = {kind: kinds.count(kind) for kind in CATEGORIES}
        top = sorted(CATEGORIES, key=lambda kind: -counts[kind])[0]
        if top == "correct":
            continue
        suspect = Suspect(image, counts[top])
        for name in ("all_results", "true_pos_wrongs"):
            found[name].append(suspect)
        for name, kind in (
            ("true_pos_wrongs_by_neg", "negative"),
            ("true_pos_wrongs_by_multi", "correct_but_with_other"),
            ("true_pos_wrongs_by_other", "wrong_class"),
        ):
            if counts[kind] > majority:
                found[name].append(Suspect(image, counts[kind]))
    return {name: sorted(suspects, key=lambda s: -s.disagree_count) for name, suspects in found.items()}


def flagged(images: Sequence[tuple[str, Sequence[bool]]]) -> list[tuple[str, int]]:
    """Ethics votes: (id, yes count) of every image with at least one Yes, most first, file order among equals."""
    counts = [(image, sum(bool(vote) for vote in votes)) for image, votes in images]
    return sorted([pair for pair in counts if pair[1]], key=lambda pair: -pair[1])


def kept(
    entries: Sequence[tuple[str, str, str, Sequence[str]]], user_labels: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """(bucket, label, id) of the images whose only answer is the folder's label, sorted.

    :param entries: (bucket, folder label, id, answers).
    :param user_labels: answer text -> label; an answer it does not know counts as itself.
    """
    good = [
        (bucket, label, name)
        for bucket, label, name, answers in entries
        if len(answers) == 1 and user_labels.get(answers[0], answers[0]) == label
    ]
    return sorted(good, key=lambda entry: entry[2])
