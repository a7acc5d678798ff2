"""What a run measured on each case, carried from its run folder to the table of cases."""

from __future__ import annotations

import json

from SemiSAMPlusLib.errors import RunFolderError

from .cases import CaseTable
from .run import Run


class CaseFigures:
    """Reads Dice and uncertainty of a case whenever its layers were written anew.

    Args:
        cases: The table that shows them.
    """

    def __init__(self, cases: CaseTable) -> None:
        self._cases = cases
        self._seen: dict[tuple[str, str], int] = {}

    def update(self, run: Run) -> None:
        """Read what has been written since the last call: a small file for each case."""
        for case, iteration in run.layers_written.items():
            key = (str(run.folder.path), case)
            if self._seen.get(key) != iteration:
                self._seen[key] = iteration
                self._read(run, case)

    def read_again(self, run: Run | None) -> None:
        """Read all that there is of a run, because the scene is another one."""
        self._seen.clear()
        if run is not None:
            self.update(run)

    def _read(self, run: Run, case: str) -> None:
        try:
            about = json.loads((run.folder.layers(case) / "about.json").read_text(encoding="utf-8"))
            dice = [float(value) for value in (about.get("dice") or {}).values()]
            uncertainty = about.get("mean_uncertainty")
            volume = run.volume_of(case)
            key = str(run.image_of(case)) if volume is None else volume.GetID()
        except (OSError, ValueError, AttributeError, TypeError, RunFolderError):
            # It is being replaced; the next one will be read.
            return
        mean = sum(dice) / len(dice) if dice else None
        self._cases.set_figures(key, dice=mean, uncertainty=None if uncertainty is None else float(uncertainty))
