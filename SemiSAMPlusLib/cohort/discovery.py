"""The way in: from a folder, as it lies on the disk, to a cohort."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import CohortError, SemiSAMPlusError
from .cohort import CLASS_COLORS, Case, Class, Cohort, Role, Selection, summary
from .layouts import FoundCase, Layout, recognize

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")

#: More values than this in a label file are taken for the grey values of an image.
_MOST_CLASSES = 128


def find_cohort(
    folder: Path,
    *,
    labeled: int | Selection = 1,
    cases: Selection | None = None,
    validation: Selection = (),
    test: Selection = (),
    classes: Sequence[str] = (),
    channels: Sequence[str] = (),
) -> Cohort:
    """Find the cases of ``folder`` and give each its part.

    Which layouts are known, see :func:`SemiSAMPlusLib.cohort.layouts.recognize`. Cases are selected by name, or by
    number and range counted from 1 over *all* cases that the folder holds, whatever ``cases`` selects. They are
    counted in sorted order of their names, character by character as the field's lists are ("a10" before "a2");
    cases that the layout keeps for validation or test (``imagesTs``) come after the others.
    So ``cases="1-60", validation="41-50", test="61-80"`` trains on 1 to 40 and 51 to 60. Cases that no part takes
    are left out.

    An unlabelled case is given no label (``label=None``) even where the folder has one: what is not recorded cannot
    be read by training, so nothing of it can leak into the result. Validation and test cases keep theirs.

    Args:
        folder: The folder, or a JSON datalist.
        labeled: How many of the training cases are labelled (the first that have a label), or which.
        cases: The training cases; None takes all that are not for validation or test.
        validation: The cases held out to choose a checkpoint. They need a label.
        test: The cases listed for later, never opened by training. Without it, those that the layout keeps for that.
        classes: The classes: "name=1", "name=1,2,4", or a "name" that dataset.json knows. Names alone, without a
            dataset.json, are given to the label values that were found, in ascending order. Without ``classes`` all
            classes of dataset.json are taken or, failing that, "class 1", "class 2", … from the values found in the
            labels of the labelled cases.
        channels: The channels by name, in the order wanted; without it all of them. Where the layout has no names
            for its channels, as many names as there are channels name them ("ct", "pet").

    Raises:
        CohortError: With every fault that was found: unknown names, parts that overlap, labels that are missing.
    """
    channels = channels.split(",") if isinstance(channels, str) else tuple(channels)
    layout = _naming_channels(recognize(Path(folder)), channels)
    faults: list[SemiSAMPlusError] = []
    picked_channels = _pick_channels(layout, channels, faults)
    roles = _roles(layout, labeled, cases, validation, test, faults)
    chosen = [_case(layout.cases[number], roles[number], picked_channels, faults) for number in sorted(roles)]
    if faults:
        raise CohortError(faults)
    labels = [case.label for case in chosen if case.role is Role.LABELED and case.label is not None]
    named, picked = _name_classes(layout, classes, labels)
    return Cohort(tuple(chosen), named, picked_channels, picked=picked)


# --- Parts


def _roles(
    layout: Layout,
    labeled: int | Selection,
    cases: Selection | None,
    validation: Selection,
    test: Selection,
    faults: list[SemiSAMPlusError],
) -> dict[int, Role]:
    """Return the part of every case that has one, by the case's place in the layout."""
    names = [found.name for found in layout.cases]

    def kept_for(role: Role | None) -> list[int]:
        return [number for number, found in enumerate(layout.cases) if found.role is role]

    asked = [] if cases is None else _select(cases, names, "--cases", faults)
    if validation:
        held_out = _select(validation, names, "--validation", faults)
    else:
        held_out = [number for number in kept_for(Role.VALIDATION) if number not in asked]
    if test:
        tested = _select(test, names, "--test", faults)
    else:
        tested = [number for number in kept_for(Role.TEST) if number not in {*asked, *held_out}]
    if test and not validation:
        held_out = [number for number in held_out if number not in tested]

    for other, option in ((asked, "--cases"), (held_out, "--validation")):
        both = [names[number] for number in tested if number in other]
        if both:
            what = f"{option} and --test both take {summary(both)}, expected no case in both."
            faults.append(SemiSAMPlusError(what, "Take these cases out of one of the two."))

    training = asked if cases is not None else kept_for(None)
    training = [number for number in training if number not in {*held_out, *tested}]
    if not training and not faults:
        what = (
            f"No case is left to train on: {len(held_out)} of {len(names)} are for validation, {len(tested)} for test."
        )
        faults.append(SemiSAMPlusError(what, "Leave some cases for training."))
    teachers = _labeled(layout, labeled, training, faults)
    roles = {number: Role.UNLABELED for number in training}
    roles |= {number: Role.LABELED for number in teachers}
    roles |= {number: Role.VALIDATION for number in held_out}
    roles |= {number: Role.TEST for number in tested}
    for number in held_out:
        if layout.cases[number].label is None:
            what = f"{_first_file(layout.cases[number])}: the validation case has no label, expected one."
            faults.append(SemiSAMPlusError(what, f"Add its label, or take '{names[number]}' out of --validation."))
    return roles


def _labeled(
    layout: Layout, labeled: int | Selection, training: Sequence[int], faults: list[SemiSAMPlusError]
) -> list[int]:
    with_label = [number for number in training if layout.cases[number].label is not None]
    stray = f" {len(layout.strays)} label(s) belong to no image ({summary(map(str, layout.strays), 3)})."
    remedy = "Give each label the name of its image, or ask for fewer." + (stray if layout.strays else "")
    if isinstance(labeled, int):
        if labeled < 1:
            what = f"--labeled is {labeled}, expected at least 1."
            faults.append(SemiSAMPlusError(what, "Without a labelled case there is nothing to learn from."))
        elif training and len(with_label) < labeled:
            what = f"--labeled asks for {labeled} case(s), but {len(with_label)} of the {len(training)} have a label."
            faults.append(SemiSAMPlusError(what, remedy))
        return with_label[: max(labeled, 0)]
    names = [found.name for found in layout.cases]
    chosen = _select(labeled, names, "--labeled", faults)
    if not chosen and not faults:
        faults.append(
            SemiSAMPlusError("--labeled names no case, expected at least one.", "Name one, or give a number.")
        )
    elsewhere = [names[number] for number in chosen if number not in training]
    if elsewhere:
        what = f"--labeled takes {summary(elsewhere)}, which --cases, --validation or --test exclude from training."
        faults.append(SemiSAMPlusError(what, "Choose among the cases to train on, or change the other options."))
    for number in chosen:
        if layout.cases[number].label is None:
            what = f"{_first_file(layout.cases[number])}: the case has no label, but --labeled takes it."
            faults.append(SemiSAMPlusError(what, remedy))
    return [number for number in chosen if number in with_label]


def _select(selection: Selection, names: Sequence[str], option: str, faults: list[SemiSAMPlusError]) -> list[int]:
    """Return the places in ``names`` that ``selection`` means, ascending; what is a name is a name, not a number."""
    places = {name: place for place, name in enumerate(names)}
    chosen: set[int] = set()
    for item in [selection] if isinstance(selection, str) else selection:
        item = unicodedata.normalize("NFC", item)
        for part in [item] if item in places else [part.strip() for part in item.split(",") if part.strip()]:
            if part in places:
                chosen.add(places[part])
                continue
            match = _RANGE.fullmatch(part)
            if match is None:
                what = f"{option} takes '{part}', but no case has this name; the cases are {summary(names)}."
                faults.append(SemiSAMPlusError(what, "Give names as listed, or numbers and ranges such as 1,3,7-9."))
                continue
            first, last = int(match[1]), int(match[2] or match[1])
            ends = [end for end in (match[1], match[2]) if end in places and places[end] + 1 != int(end)]
            if ends:
                what = f"{option} takes '{part}', but '{ends[0]}' is also the name of case {places[ends[0]] + 1}."
                faults.append(SemiSAMPlusError(what, "Name these cases one by one."))
            elif not 1 <= first <= last <= len(names):
                what = f"{option} takes '{part}', expected numbers from 1 to {len(names)}, the smaller first."
                faults.append(SemiSAMPlusError(what, "Correct the range."))
            else:
                chosen.update(range(first - 1, last))
    return sorted(chosen)


# --- Channels


def _naming_channels(layout: Layout, channels: Sequence[str]) -> Layout:
    """Give channels that have no names those that are asked for, where their number fits."""
    if layout.named or len(set(channels)) != len(layout.channels) or not set(channels).isdisjoint(layout.channels):
        return layout
    new = dict(zip(layout.channels, channels, strict=True))
    cases = [replace(case, images={new[old]: path for old, path in case.images.items()}) for case in layout.cases]
    return replace(layout, cases=tuple(cases), channels=tuple(channels))


def _pick_channels(layout: Layout, channels: Sequence[str], faults: list[SemiSAMPlusError]) -> tuple[str, ...]:
    known = {name.lower(): name for name in layout.channels}
    for name in channels:
        if name.lower() not in known:
            what = f"--channels takes '{name}', expected of {summary(layout.channels, 12)}."
            faults.append(SemiSAMPlusError(what, "Pick channels that the cases have."))
    if len({name.lower() for name in channels}) < len(channels):
        what = f"--channels takes {', '.join(channels)}, expected each channel once."
        faults.append(SemiSAMPlusError(what, "Take the repeated one out."))
    picked = tuple(known[name.lower()] for name in channels if name.lower() in known)
    return picked or layout.channels


def _case(found: FoundCase, role: Role, channels: Sequence[str], faults: list[SemiSAMPlusError]) -> Case:
    missing = [channel for channel in channels if channel not in found.images]
    if missing:
        what = f"{_first_file(found)}: case '{found.name}' has no {summary(missing)}, expected {summary(channels)}."
        remedy = "Add the missing file(s), pick other --channels, or leave the case out with --cases."
        faults.append(SemiSAMPlusError(what, remedy))
    images = tuple(found.images[channel] for channel in channels if channel in found.images)
    return Case(found.name, images, None if role is Role.UNLABELED else found.label, role)


def _first_file(found: FoundCase) -> Path:
    return next(iter(found.images.values()), Path(found.name))


# --- Classes


def _name_classes(layout: Layout, asked: Sequence[str], labels: Sequence[Path]) -> tuple[tuple[Class, ...], bool]:
    """Return the classes, and whether the user picked them out of more."""
    if isinstance(asked, str):
        asked = [asked]
    named: Mapping[str, tuple[int, ...]]
    picked = False
    if asked:
        named, picked = _asked_classes(layout, asked, labels)
    elif layout.labels:
        if layout.ignored:
            raise _error(
                f"dataset.json wants the label value {summary(map(str, layout.ignored))} ignored, which is not known here.",
                "Pick the classes with --classes NAME=VALUE (all other voxels are background), or leave such cases "
                "unlabelled.",
            )
        named = layout.labels
    else:
        named = _classes_found(labels)
    owners: dict[int, str] = {}
    for name, values in named.items():
        for value in values:
            if value in owners:
                raise _error(
                    f"The label value {value} stands for '{owners[value]}' and for '{name}', expected one class.",
                    "Pick classes that do not overlap, e.g. --classes whole_tumour=1,2,4.",
                )
            owners[value] = name
    colors = (CLASS_COLORS[number % len(CLASS_COLORS)] for number in range(len(named)))
    return tuple(
        Class(name, values, color) for (name, values), color in zip(named.items(), colors, strict=True)
    ), picked


def _asked_classes(
    layout: Layout, asked: Sequence[str], labels: Sequence[Path]
) -> tuple[dict[str, tuple[int, ...]], bool]:
    known = {name.lower(): values for name, values in layout.labels.items()}
    names = [item.rpartition("=")[0].strip() if "=" in item else item.strip() for item in asked]
    if len(set(names)) < len(names) or not all(names):
        raise _error(f"--classes names {summary(names, 12)}, expected names that differ.", "Give each its own name.")
    bare = [name for name, item in zip(names, asked, strict=True) if "=" not in item and name.lower() not in known]
    if bare and not known and len(bare) == len(asked):
        segments = {name.casefold(): values for name, values in _classes_found(labels).items()}
        if all(name.casefold() in segments for name in bare):
            return {name: segments[name.casefold()] for name in bare}, True
        found = sorted({value for values in segments.values() for value in values})
        if len(found) != len(bare):
            raise _error(
                f"--classes names {len(bare)} class(es), but the labels hold {len(found)} value(s): "
                f"{summary(map(str, found), 12)}.",
                "Say which value is which: --classes NAME=VALUE.",
            )
        return {name: (value,) for name, value in zip(bare, found, strict=True)}, False
    if bare:
        expected = f"a name of dataset.json ({summary(layout.labels, 12)})" if known else "NAME=VALUE like the others"
        raise _error(f"--classes takes '{bare[0]}', expected {expected}.", "Say its value: --classes NAME=VALUE.")
    exist = {value for values in known.values() for value in values} | set(layout.ignored)
    classes: dict[str, tuple[int, ...]] = {}
    for name, item in zip(names, asked, strict=True):
        values = class_values(item) if "=" in item else known[name.lower()]
        unknown = [value for value in values if known and value not in exist]
        if unknown:
            raise _error(
                f"--classes takes '{item}', but dataset.json knows no value {unknown[0]}; it has "
                f"{summary((f'{n} = {summary(map(str, v))}' for n, v in layout.labels.items()), 12)}.",
                "Correct the value, or dataset.json.",
            )
        classes[name] = values
    return classes, True


def class_values(item: str) -> tuple[int, ...]:
    """Return the label values of a class that is written as ``NAME=VALUE`` or ``NAME=VALUE,VALUE``.

    Raises:
        CohortError: If there are none, or they are no whole numbers from 1, or there is a second '='.
    """
    name, _, text = item.rpartition("=")
    if "=" in name:
        raise _error(
            f"--classes takes '{item}', expected one NAME=VALUE in each argument, without '=' in the name.",
            "Put a space between classes, not a comma: liver=1 tumour=2.",
        )
    try:
        values = tuple(dict.fromkeys(int(value) for value in text.split(",")))
    except ValueError:
        values = ()
    if not values or min(values) < 1:
        raise _error(
            f"--classes takes '{item}', expected NAME=VALUE with whole numbers from 1 (0 is background).",
            "Write e.g. tumour=1, or whole_tumour=1,2,4.",
        )
    return values


def _classes_found(labels: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Return the classes that the labels hold: segments as they are named, those of plain labelmaps by their values."""
    segments, plain = _held(labels)
    classes: dict[str, tuple[int, ...]] = {}
    numbers = {value for found in segments.values() for values in found for value in values}
    taken: set[int] = set()
    for name, found in segments.items():
        values = found[0]
        if len(found) > 1 or not taken.isdisjoint(values):
            if plain:
                raise _error(
                    f"The segment '{name}' has not the same number, and that alone, in all labels, so that it cannot be "
                    f"told what the values {summary(map(str, sorted(plain)))} of the labels without segments mean.",
                    "Say which value is which: --classes NAME=VALUE.",
                )
            # Found by name, whatever their numbers: one that another class has is not needed.
            if not taken.isdisjoint(values):
                values = (next(value for value in range(1, 1 << 16) if value not in numbers | taken),)
        classes[name] = values
        taken.update(values)
    return classes | {f"class {value}": (value,) for value in sorted(plain - taken)}


def _held(labels: Iterable[Path]) -> tuple[dict[str, list[tuple[int, ...]]], set[int]]:
    """Return what the labels, which must be labels indeed, hold beside background.

    Returns:
        Of those with segments, by name, the different label values that each segment has; and the values of the others.
    """
    # SimpleITK is loaded only where the labels' voxels are needed.
    from .checks import read_label_values
    from .outputs import read_segments

    segments: dict[str, list[tuple[int, ...]]] = {}
    spelled: dict[str, str] = {}
    plain: set[int] = set()
    faults: list[SemiSAMPlusError] = []
    for path in labels:
        try:
            values, table = read_label_values(path), read_segments(path)
        except SemiSAMPlusError as fault:
            faults.append(fault)
            continue
        if len(values) > _MOST_CLASSES or min(values, default=0) < 0:
            what = f"{path}: holds {len(values)} values from {min(values)} to {max(values)}, expected a few classes from 0."
            faults.append(SemiSAMPlusError(what, "Is this an image? Give its label, or pick values with --classes."))
        for segment in table:
            if segment.label_value in values:
                found = segments.setdefault(spelled.setdefault(segment.name.casefold(), segment.name), [])
                found += [segment.values] if segment.values not in found else []
        plain.update(() if table else values)
    plain.discard(0)
    if not faults and not segments and not plain:
        what = f"{summary(map(str, labels))}: no voxel has a label, expected at least one class."
        faults.append(SemiSAMPlusError(what, "Label the case(s), or take others with --labeled."))
    if faults:
        raise CohortError(faults)
    return segments, plain


def _error(what: str, remedy: str) -> CohortError:
    return CohortError([SemiSAMPlusError(what, remedy)])
