"""Layouts of folders that the field uses: which files are one case, and what a dataset says of itself."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CohortError, SemiSAMPlusError
from .cohort import FORMAT, Role, summary

#: Endings of the volumes that are looked for; the longest that fits is taken off to give a case its name.
SUFFIXES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".gipl")

#: The channel's name where a layout has one channel and gives it none.
ONE_CHANNEL = "image"

#: BraTS's names of its channels, in the order in which they are offered; 2019 to 2021 first, then those of 2023.
_BRATS_CHANNELS = ("flair", "t1", "t1ce", "t2", "t1n", "t1c", "t2w", "t2f")

_NNUNET_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")

_KNOWN = (
    "Known are: a JSON datalist in MONAI's decathlon form (training, validation, test); a folder with imagesTr/ and "
    "labelsTr/ (Medical Segmentation Decathlon, nnU-Net); a folder with images/ and labels/; a BraTS folder with one "
    "folder per case (CASE/CASE_flair.nii.gz, CASE/CASE_seg.nii.gz). "
    "Move the volumes into images/ and their labels, under the same names, into labels/."
)


@dataclass(frozen=True)
class FoundCase:
    """One case as it lies on the disk.

    Attributes:
        name: Its name, unique in its layout.
        images: The file or DICOM folder of each channel that was found, by channel name.
        label: Its label file, where there is one.
        role: ``VALIDATION`` or ``TEST`` where the layout keeps the case for that; None where it is to be trained on.
    """

    name: str
    images: Mapping[str, Path]
    label: Path | None = None
    role: Role | None = None


@dataclass(frozen=True)
class Layout:
    """What was found in a folder or datalist.

    Attributes:
        description: Which layout it is, in words.
        cases: Training cases sorted by name, then validation cases, then test cases; cases are counted in this order.
        channels: The names of the channels, in the layout's order.
        labels: The values of each class that the dataset names (background left out); empty where it names none.
        ignored: Label values that the dataset wants ignored in training (nnU-Net's ``ignore``).
        strays: Label files that belong to no image.
    """

    description: str
    cases: tuple[FoundCase, ...]
    channels: tuple[str, ...] = (ONE_CHANNEL,)
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: tuple[int, ...] = ()
    strays: tuple[Path, ...] = ()

    @property
    def named(self) -> bool:
        """Whether the layout gives its channels names of their own."""
        return self.channels != _default_channels(len(self.channels))


def recognize(folder: Path) -> Layout:
    """Find out how the cases of ``folder`` are laid out.

    The layouts are tried in this order: a JSON file is a datalist in MONAI's decathlon form; a folder with
    ``imagesTr`` is a Medical Segmentation Decathlon or nnU-Net dataset; one with ``images`` holds images and labels
    under equal names; one whose folders hold ``CASE_flair`` and the like (maybe below ``HGG`` and ``LGG``) is BraTS.
    No volume is opened.

    Args:
        folder: A folder, or a JSON datalist.

    Raises:
        CohortError: If there is no such folder, or its layout is not known or contradicts itself.
    """
    folder = Path(folder)
    if not folder.exists():
        raise _error(f"{folder}: there is no such folder or file.", "Correct the path.")
    if folder.is_file():
        return _datalist(folder)
    if (folder / "imagesTr").is_dir():
        return _decathlon(folder)
    if (folder / "images").is_dir():
        return _images_and_labels(folder)
    brats = _brats_folders(folder)
    if brats:
        return _brats(folder, brats)
    lists = [entry.name for entry in _entries(folder) if entry.suffix == ".json"]
    hint = f" To read a datalist, give the file itself ({summary(lists)})." if lists else ""
    raise _error(f"{folder}: no layout that is known was found.", _KNOWN + hint)


def recognize_images(source: Path | Sequence[Path], *, channels: int) -> Layout:
    """Find out which cases images are that have no labels: those of a folder of any known layout, or a list of files.

    A folder that has none of the layouts of :func:`recognize` holds images alone, grouped as those of ``images/`` are:
    a file per case, files ``CASE_0000``, ``CASE_0001``, … or a folder per channel. It may also be one case of BraTS.

    Args:
        source: A folder, or volumes (files, or folders of a DICOM series).
        channels: How many images a case is expected to have.

    Raises:
        CohortError: If nothing is found, or it contradicts itself.
    """
    if not isinstance(source, Path):
        volumes: dict[str, Path] = {}
        for path in source:
            if stem(path) in volumes:
                raise _error(
                    f"{path}: has the name of {volumes[stem(path)]}, expected names that differ.",
                    "Give them one after the other, each with an --output of its own.",
                )
            volumes[stem(path)] = path
        found, per_case, words = _images_by_case(Path("."), volumes, {}, (), Path("."), expected=channels)
        cases = tuple(FoundCase(name, files) for name, files in per_case.items())
        return Layout("images" + words, cases, found)
    if _brats_files(source):
        return _brats(source, [source])
    if (source / "imagesTr").is_dir() or (source / "images").is_dir() or _brats_folders(source):
        return recognize(source)
    # A segmentation beside its image is no image.
    single = _volumes(source, without=(".seg.nrrd",))
    found, per_case, words = _images_by_case(source, single, {}, (), source, expected=channels)
    return Layout("images" + words, _ordered([FoundCase(*case) for case in per_case.items()], source), found)


def stem(path: Path) -> str:
    """Return a volume's file name without its ending; a folder's whole name."""
    name = _composed(path.name)
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _composed(name: str) -> str:
    """Return a name with its letters whole: macOS may take accented ones apart in one name and not in another."""
    return unicodedata.normalize("NFC", name)


# --- MONAI's datalist


def _datalist(path: Path) -> Layout:
    data = _json(path)
    if data.get("format") == FORMAT:
        raise _error(f"{path}: this is a cohort already.", "Train on it as it is, or give the folder of the volumes.")
    if not isinstance(data.get("training"), list):
        raise _error(
            f"{path}: has no list 'training' (found the keys {summary(data)}), expected a datalist in MONAI's "
            "decathlon form.",
            'Write {"training": [{"image": FILE, "label": FILE}, …], "validation": […], "test": […]}; or, where the '
            "file describes a dataset, give the dataset's folder.",
        )
    channels, labels, ignored = _described(path, data)
    items: list[tuple[Role | None, str | None, tuple[Path, ...], Path | None]] = []
    faults: list[SemiSAMPlusError] = []
    for key, role in (("training", None), ("validation", Role.VALIDATION), ("test", Role.TEST)):
        listed = data.get(key, data.get("testing", []) if key == "test" else [])
        for number, entry in enumerate(listed if isinstance(listed, list) else [], start=1):
            item = {"image": entry} if isinstance(entry, str | list) else entry
            image = item.get("image") if isinstance(item, dict) else None
            files = [image] if isinstance(image, str) else image
            label = item.get("label") if isinstance(item, dict) else None
            if not files or not isinstance(files, list) or not all(isinstance(file, str) for file in files):
                what = f"{path}: item {number} of '{key}' has the image {image!r}, expected a path or a list of paths."
                faults.append(SemiSAMPlusError(what, "Give every item an 'image'."))
            elif label is not None and not isinstance(label, str):
                what = f"{path}: item {number} of '{key}' has the label {label!r}, expected one path."
                faults.append(SemiSAMPlusError(what, "Give one label file per case, its classes as values."))
            else:
                name = item.get("name")
                images = tuple(path.parent / file for file in files)
                items.append((role, str(name) if name else None, images, path.parent / label if label else None))
    if faults:
        raise CohortError(faults)
    most = max((len(images) for _, _, images, _ in items), default=1)
    channels = _channel_names(channels, most, path)
    named = _distinct_names([(name, images) for _, name, images, _ in items])
    cases = [
        FoundCase(name, dict(zip(channels, images, strict=False)), label, role)
        for name, (role, _, images, label) in zip(named, items, strict=True)
    ]
    return Layout("a datalist in MONAI's decathlon form", _ordered(cases, path), channels, labels, ignored)


def _distinct_names(items: Sequence[tuple[str | None, tuple[Path, ...]]]) -> list[str]:
    """Name cases by what their files have in common, by their folder where that is not unique."""

    def common(images: tuple[Path, ...]) -> str:
        stems = [stem(image) for image in images]
        if len(stems) == 1:
            return stems[0]
        # What differs begins at the last separator: of CASE_t1 and CASE_t2, "CASE" is the name, not "CASE_t".
        return "_".join(re.split(r"[_\-. ]", os.path.commonprefix(stems))[:-1])  # noqa: RUF071

    candidates: list[Callable[[tuple[Path, ...]], str]] = [
        common,
        lambda images: images[0].parent.name,
        lambda images: "_".join([*images[0].parent.parts[-2:], stem(images[0])]),
    ]
    for candidate in candidates:
        names = [_composed(name or candidate(images)) for name, images in items]
        if all(names) and len(set(names)) == len(names):
            return names
    # Truly equal names are told as a fault, in the words that say it best.
    return [_composed(name or common(images) or images[0].parent.name) for name, images in items]


# --- Medical Segmentation Decathlon and nnU-Net


def _decathlon(folder: Path) -> Layout:
    description = folder / "dataset.json"
    described, labels, ignored = _described(description)
    train, test = _volumes(folder / "imagesTr"), _volumes(folder / "imagesTs")
    train_labels, test_labels = _volumes(folder / "labelsTr"), _volumes(folder / "labelsTs")
    numbered = _has_channel_suffixes(train, train_labels, expected=len(described) or None)
    kind = "nnU-Net" if numbered else "Medical Segmentation Decathlon"
    grouped = [
        _by_channel(files) if numbered else {name: [file] for name, file in files.items()} for files in (train, test)
    ]
    most = max((len(files) for group in grouped for files in group.values()), default=1)
    if len(described) > 1 and not numbered:
        example = next(iter(train.values()), folder / "imagesTr")
        raise _error(
            f"{example}: is one file for a case of {len(described)} channels ({summary(described)} by dataset.json), so "
            "it is a 4D volume; expected one 3D file per channel.",
            "Split the volumes into NAME_0000.nii.gz, NAME_0001.nii.gz, …: docs/recipes.md, 'Volumes with four "
            "dimensions', has the few lines that do it.",
        )
    channels = _channel_names(described, most, description)
    cases = [
        FoundCase(name, _with_channels(files, channels), labels_of.get(name), role)
        for group, labels_of, role in ((grouped[0], train_labels, None), (grouped[1], test_labels, Role.TEST))
        for name, files in group.items()
    ]
    names = {case.name for case in cases}
    strays = tuple(file for name, file in (train_labels | test_labels).items() if name not in names)
    words = f"a {kind} dataset (imagesTr, labelsTr)" if kind[0] == "M" else f"an {kind} dataset (imagesTr, labelsTr)"
    return Layout(words, _ordered(cases, folder), channels, labels, ignored, strays)


def _has_channel_suffixes(
    images: Mapping[str, Path], labels: Mapping[str, Path], *, expected: int | None = None
) -> bool:
    """Tell nnU-Net's CASE_0000 from a case whose own name ends in four digits.

    It is a channel where every name ends so and the labels (or, without labels, the number of channels that
    dataset.json promises) go without.
    """
    matches = [_NNUNET_CHANNEL.fullmatch(name) for name in images]
    if not matches or not all(matches) or any(name in labels for name in images):
        return False
    stripped = {match["case"] for match in matches if match}
    channels = {match["channel"] for match in matches if match}
    if labels:
        return not stripped.isdisjoint(labels)
    return "0000" in channels and (expected is None or len(channels) == expected)


def _by_channel(images: Mapping[str, Path]) -> dict[str, list[Path | None]]:
    """Group CASE_0000, CASE_0001, … by case; a channel that a case lacks is None."""
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for name, file in images.items():
        match = _NNUNET_CHANNEL.fullmatch(name)
        if match is None:
            raise _error(
                f"{file}: has no channel number, expected a name such as {name}_0000.",
                "Give every image its channel's number, or none of them.",
            )
        groups[match["case"]][int(match["channel"])] = file
    count = max((max(group) for group in groups.values()), default=0) + 1
    return {name: [group.get(number) for number in range(count)] for name, group in groups.items()}


def _with_channels(files: Sequence[Path | None], channels: Sequence[str]) -> dict[str, Path]:
    return {channel: file for channel, file in zip(channels, files, strict=False) if file is not None}


# --- images/ and labels/


def _images_and_labels(folder: Path) -> Layout:
    images, labels = folder / "images", _volumes(folder / "labels")
    description = folder / "dataset.json"
    described, classes, ignored = _described(description)
    channels, per_case, grouping = _images_by_case(images, _volumes(images), labels, described, description)
    words = "a folder with images/ and labels/" + grouping
    cases = [FoundCase(name, files, labels.get(name)) for name, files in per_case.items()]
    strays = tuple(file for name, file in labels.items() if name not in per_case)
    return Layout(words, _ordered(cases, folder), channels, classes, ignored, strays)


def _images_by_case(
    images: Path,
    single: Mapping[str, Path],
    labels: Mapping[str, Path],
    described: Sequence[str],
    description: Path,
    *,
    expected: int | None = None,
) -> tuple[tuple[str, ...], dict[str, dict[str, Path]], str]:
    """Group images by case and channel.

    Args:
        images: The folder that they lie in.
        single: The volumes of that folder itself, by name.
        labels: The labels, by name.
        described: The channels' names, where a dataset.json gives them.
        description: That file, for error messages.
        expected: How many channels a case has, where that is known although they have no names.

    Returns:
        The channels, the images of each case by channel, and how they lie, in words.
    """
    per_case: dict[str, dict[str, Path]] = {}
    channels: tuple[str, ...] = ()
    words = ""
    if single and not _has_channel_suffixes(single, labels, expected=len(described) or expected):
        channels = _channel_names(described, 1, description)
        per_case = {name: {channels[0]: file} for name, file in single.items()}
    elif single:
        groups = _by_channel(single)
        channels = _channel_names(described, max(map(len, groups.values())), description)
        per_case = {name: _with_channels(files, channels) for name, files in groups.items()}
        words = ", channels numbered _0000, _0001, …"
    elif images.is_dir():
        folders = {entry.name: _volumes(entry) for entry in _entries(images) if entry.is_dir()}
        folders = {name: files for name, files in folders.items() if files}
        channels = tuple(folders)
        for channel, files in folders.items():
            for name, file in files.items():
                per_case.setdefault(name, {})[channel] = file
        words = f", one folder of images per channel ({summary(channels)})"
    if not per_case:
        raise _error(
            f"{images}: holds no volumes, expected files that end in {summary(SUFFIXES, 9)}, or DICOM series folders.",
            "Put the images there, one file (or one folder of a DICOM series) per case.",
        )
    return channels, per_case, words


# --- BraTS


def _brats_folders(folder: Path) -> list[Path]:
    """Return the case folders, which may lie one level down (HGG and LGG)."""
    children = [entry for entry in _entries(folder) if entry.is_dir()]
    here = [child for child in children if _brats_files(child)]
    return here or [case for child in children for case in _entries(child) if case.is_dir() and _brats_files(case)]


def _brats_files(case: Path) -> dict[str, Path]:
    """Return the channels of a BraTS case: the files that are called after their folder."""
    found: dict[str, Path] = {}
    for file in _entries(case):
        name, start = stem(file), stem(case).lower()
        channel = name.lower()[len(start) :].lstrip("_-")
        if file.is_file() and name.lower().startswith(start) and channel in _BRATS_CHANNELS:
            if channel in found:
                raise _twice(found[channel], file)
            found[channel] = file
    return found


def _brats_label(case: Path) -> Path | None:
    # One case of 2020 is known to have a segmentation that is not called after its folder.
    files = [file for file in _entries(case) if file.is_file() and _is_volume_file(file)]
    exact = [file for file in files if stem(file).lower() in (f"{stem(case)}_seg".lower(), f"{stem(case)}-seg".lower())]
    similar = [file for file in files if "seg" in stem(file).lower().removeprefix(stem(case).lower())]
    candidates = exact or similar
    if len(candidates) > 1:
        raise _twice(candidates[0], candidates[1])
    return candidates[0] if candidates else None


def _brats(folder: Path, case_folders: Sequence[Path]) -> Layout:
    cases = [FoundCase(stem(case), _brats_files(case), _brats_label(case)) for case in case_folders]
    found = {channel for case in cases for channel in case.images}
    channels = tuple(channel for channel in _BRATS_CHANNELS if channel in found)
    return Layout("a BraTS folder (one folder per case)", _ordered(cases, folder), channels)


# --- What they share


def _described(
    path: Path, data: Mapping[str, Any] | None = None
) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Return the channels, the classes and the ignored values that a dataset.json names, if there is one.

    nnU-Net v2 writes ``labels: {name: value or values}`` and ``channel_names``; the Decathlon writes
    ``labels: {"1": name}`` and ``modality``.
    """
    if data is None:
        data = _json(path) if path.is_file() else {}
    named = data.get("channel_names") or data.get("modality") or {}
    if isinstance(named, Mapping):
        named = [named[key] for key in sorted(named, key=lambda key: (len(str(key)), str(key)))]
    channels = tuple(map(str, named)) if isinstance(named, list) else ()
    if len(set(channels)) < len(channels):
        channels = tuple(f"{name} {number}" for number, name in enumerate(channels))
    classes: dict[str, tuple[int, ...]] = {}
    labels = data.get("labels")
    for key, value in labels.items() if isinstance(labels, Mapping) else ():
        name, values = (value, key) if isinstance(value, str) and key.isdigit() else (key, value)
        try:
            numbers = tuple(int(v) for v in (values if isinstance(values, list) else [values]))
        except (TypeError, ValueError) as error:
            raise _error(
                f"{path}: the label '{key}' has {value!r}, expected a whole number.",
                'Write labels as {"1": NAME} (Decathlon) or {NAME: 1} (nnU-Net).',
            ) from error
        classes[str(name)] = numbers
    ignored = classes.pop("ignore", ())
    return channels, {name: values for name, values in classes.items() if values != (0,)}, ignored


def _channel_names(described: Sequence[str], count: int, source: Path) -> tuple[str, ...]:
    if described and len(described) != count:
        raise _error(
            f"{source}: names {len(described)} channel(s) ({summary(described)}), but the cases have {count}.",
            "Correct the names (channel_names or modality), or add the missing files.",
        )
    if described:
        return tuple(described)
    return _default_channels(count)


def _default_channels(count: int) -> tuple[str, ...]:
    return (ONE_CHANNEL,) if count == 1 else tuple(f"channel {number}" for number in range(count))


def _ordered(cases: Iterable[FoundCase], source: Path) -> tuple[FoundCase, ...]:
    order = {None: 0, Role.VALIDATION: 1, Role.TEST: 2}
    listed = sorted(cases, key=lambda case: (order[case.role], case.name))
    if not listed:
        raise _error(f"{source}: holds no cases, expected at least one.", _KNOWN)
    faults = []
    for name, count in Counter(case.name for case in listed).items():
        if count > 1:
            files = [str(file) for case in listed if case.name == name for file in list(case.images.values())[:1]]
            what = f"{source}: {count} cases are named '{name}' ({summary(files)}), expected one."
            faults.append(SemiSAMPlusError(what, "Give each case a name of its own, or take the copies away."))
    if faults:
        raise CohortError(faults)
    return tuple(listed)


def _volumes(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, Path]:
    """Return the volumes of a folder (files, and folders of a DICOM series) by name, in sorted order."""
    found: dict[str, Path] = {}
    for entry in _entries(folder):
        if entry.name.lower().endswith(without):
            continue
        is_volume = is_dicom_series(entry) if entry.is_dir() else _is_volume_file(entry)
        if is_volume:
            if stem(entry) in found:
                raise _twice(found[stem(entry)], entry)
            found[stem(entry)] = entry
    return dict(sorted(found.items()))


def _is_volume_file(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def is_dicom_series(folder: Path) -> bool:
    """Tell whether a folder holds DICOM files."""
    for file in _entries(folder):
        if file.is_file():
            if file.suffix.lower() in (".dcm", ".ima"):
                return True
            with file.open("rb") as stream:
                # A DICOM file has a preamble of 128 bytes, then these four (DICOM PS3.10, section 7.1).
                if stream.read(132)[128:] == b"DICM":
                    return True
    return False


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted, without hidden files (macOS leaves ``._NAME`` beside every file)."""
    if not folder.is_dir():
        return []
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(visible, key=lambda entry: entry.name)


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise _error(f"{path}: cannot be read as JSON ({error}).", "Mend the file, or give a folder.") from error
    if not isinstance(data, dict):
        raise _error(
            f"{path}: holds a {type(data).__name__}, expected an object.",
            'Write {"training": [{"image": FILE, "label": FILE}, …]}.',
        )
    return data


def _twice(first: Path, second: Path) -> CohortError:
    return _error(
        f"{second}: belongs to the same case as {first.name}, expected one file.", "Take one of the two away."
    )


def _error(what: str, remedy: str) -> CohortError:
    return CohortError([SemiSAMPlusError(what, remedy)])
