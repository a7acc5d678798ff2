"""What a volume on the disk holds, as one number: equal content has equal hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import VolumeError

#: Files that hold the voxels of a header beside them.
_DETACHED = {
    ".mhd": (".raw", ".zraw"),
    ".nhdr": (".raw", ".raw.gz", ".gz"),
    ".hdr": (".img", ".img.gz"),
}


def content_sha256(path: Path) -> str:
    """Return the SHA256 of the bytes of a volume as they lie on the disk.

    A header's detached data follow it; of the folder of a DICOM series the files are hashed one after the other, sorted
    by name.

    Args:
        path: A volume file, or the folder of a DICOM series.

    Raises:
        VolumeError: If a file is missing or cannot be read.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            parts = sorted((file for file in path.iterdir() if file.is_file()), key=lambda file: file.name)
        else:
            beside = [path.with_suffix(suffix) for suffix in _DETACHED.get(path.suffix.lower(), ())]
            parts = [path, *(file for file in beside if file.is_file())]
        for part in parts:
            with part.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)  # All files are one content.
    except OSError as error:
        msg = f"{path}: cannot be read ({error})."
        raise VolumeError(msg, "Correct the path, or take the case out of the cohort.") from error
    return digest.hexdigest()
