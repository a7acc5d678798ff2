"""Copies of patients' images that nobody needs any more, because Slicer ended before their work did; swept out later."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

from SemiSAMPlusLib.run.folder import JobFolder

from .export import remove_export

#: What no job says it owns may be another Slicer's, still at writing; after so many seconds without a new file it is not.
_UNTOUCHED_SECONDS = 3600.0
#: How the module names folders of runs, of predictions, and of copies: nothing that is called otherwise is touched.
_OUTPUT_NAME = re.compile(r"\d{4}(-\d\d){5}(-[0-9a-f]{4})?")
_RUN_NAME = re.compile(rf"[A-Za-z0-9_-]+-{_OUTPUT_NAME.pattern}")
_COPIES_NAME = re.compile(r"inputs-[a-z0-9_]{8}")
_RUN_ENTRIES = {"inputs", "cohort.json", "output.txt"}
_INPUTS_ENTRIES = {"images", "labels", "cases.json", "segments.json", "settings.json"}


def sweep_leftovers(root: Path) -> None:
    """Remove the copies that trainings which never began and predictions which are over left in a folder of runs.

    Only what this module unmistakably made is removed: by its name, by what lies in it, and by nobody being at it.

    Args:
        root: A folder of runs; it need not exist.
    """
    for folder in [Path(root), *_folders(root)]:
        if _never_began(folder):
            remove_export(folder)
        for output in _folders(folder / "predictions"):
            for copies in _folders(output) if _OUTPUT_NAME.fullmatch(output.name) else ():
                if _COPIES_NAME.fullmatch(copies.name) and _holds_only_images(copies) and _is_over(output, copies):
                    shutil.rmtree(copies, ignore_errors=True)


def _never_began(folder: Path) -> bool:
    """Tell whether a folder is that of a training that was exported, and that no child process took over."""
    if not _RUN_NAME.fullmatch(folder.name) or not _names(folder) <= _RUN_ENTRIES:
        return False
    inputs = folder / "inputs"
    return _names(inputs) <= _INPUTS_ENTRIES and _is_ours(inputs / "cases.json") and _is_untouched(inputs)


def _is_ours(cases: Path) -> bool:
    try:
        data = json.loads(cases.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.keys() == {"name", "cases"}


def _holds_only_images(folder: Path) -> bool:
    return all(name.endswith(".nrrd") for name in _names(folder))


def _is_over(output: Path, copies: Path) -> bool:
    """Tell whether nobody predicts into a folder, nor is about to."""
    job = JobFolder(output)
    if os.path.lexists(job.job_file):
        return job.owner() is not None and not job.is_running()
    return _is_untouched(copies)


def _is_untouched(folder: Path) -> bool:
    """Tell whether nothing in a folder was written to for long."""
    try:
        latest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:
        return False
    return time.time() - latest > _UNTOUCHED_SECONDS


def _folders(folder: Path) -> list[Path]:
    try:
        return [Path(entry) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _names(folder: Path) -> set[str]:
    """Return what lies in a folder, at least one name where it cannot be read."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return {""}
