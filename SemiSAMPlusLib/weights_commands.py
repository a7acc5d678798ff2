"""The commands ``semisamplus weights ...``, made from typed functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from .errors import SemiSAMPlusError, WeightsError
from .run import events as kinds
from .run.folder import JobFolder
from .terminal import TransferProgress, byte_text, make_console

if TYPE_CHECKING:
    from .generalist.catalog import CatalogEntry
    from .generalist.download import Offer
    from .generalist.inventory import WeightsState

FAILED, STOPPED = 1, 130

#: What a user sees of the states of weights, and how.
_STATES = {"ready": ("ready", "green"), "missing": ("needs weights", "yellow"), "damaged": ("damaged", "red")}

Name = Positional[Annotated[str, arg(metavar="NAME")]]
Names = Positional[Annotated[tuple[str, ...], arg(metavar="[NAME ...]")]]


def list_weights() -> None:
    """List the generalists: state, size and licence of their weights, and what to know of each."""
    show_generalists(notes=True)


def download(
    name: Name,
    /,
    *,
    accept_license: bool = False,
    dry_run: bool = False,
    job: Path | None = None,
) -> int:
    """Download a generalist's weights from the Hugging Face Hub, and check them. Ctrl-C cancels.

    Args:
        name: The generalist.
        accept_license: You have seen its licences and accept them; remembered. Without, a terminal asks where it must.
        dry_run: Only say size, licence and origin.
        job: A folder for events.jsonl, for a program that looks on; a file `stop` in it cancels.
    """
    from .generalist.download import download_weights, offer_weights

    console = make_console()
    if dry_run:
        console.print(offer_weights(name).text, markup=False, soft_wrap=True)
        return 0
    with _telling(job, console) as (say, is_cancelled, progress):

        def confirm(offer: Offer) -> bool:
            with progress.paused():
                return _asks(f"{offer.text}\nAccept the licence and download? [y/N] ")

        path = download_weights(
            name, accept_license=accept_license, confirm=confirm, say=say, is_cancelled=is_cancelled
        )
        say(kinds.FINISHED, reason="stopped" if path is None else "done")
    if path is None:
        console.print("Cancelled; nothing was kept.")
        return STOPPED
    console.print(f"{name}: {path}", markup=False, soft_wrap=True)
    return 0


def import_(
    name: Name,
    file: Positional[Annotated[Path, arg(metavar="FILE")]],
    /,
    *,
    accept_license: bool = False,
    job: Path | None = None,
) -> int:
    """Take a file of weights that you have: checked, linked or copied, and found from then on.

    Args:
        name: The generalist.
        file: The file, or the folder of weights that are several files.
        accept_license: You have seen its licences and accept them; remembered. Without, a terminal asks where it must.
        job: A folder for events.jsonl, for a program that looks on.
    """
    from .generalist.inventory import import_weights
    from .generalist.weights import entry_of, is_acknowledged

    console = make_console()
    entry = entry_of(name)
    with _telling(job, console) as (say, _, progress):
        _say_what_to_know(entry, say)
        if not accept_license and not is_acknowledged(entry):
            with progress.paused():
                accept_license = _asks(f"{entry.title}; licence: {entry.license}.\nAccept the licence? [y/N] ")
        path = import_weights(name, file, accept_license=accept_license)
        say(kinds.MESSAGE, text=f"{name}: {path}")
        say(kinds.FINISHED, reason="done")
    return 0


def verify(names: Names = (), /, *, job: Path | None = None) -> int:
    """Read weights anew and compare them with the SHA256 that they must have.

    Args:
        names: The generalists; all whose weights are here by default.
        job: A folder for events.jsonl, for a program that looks on.
    """
    from .generalist.inventory import verify_weights, weights_states

    console = make_console()
    here = names or tuple(state.name for state in weights_states() if state.files)
    faults = 0
    with _telling(job, console) as (say, _, _progress):
        if not here:
            say(kinds.MESSAGE, text="No weights are here.")
        for name in here:
            for file in verify_weights(name):
                faults += file.fault is not None
                if file.fault is not None:
                    say(kinds.WARNING, text=file.fault)
                elif file.known:
                    say(kinds.MESSAGE, text=f"{name}: {file.path} is whole (SHA256 {file.sha256}).")
                else:
                    text = f"{name}: {file.path} has SHA256 {file.sha256}, and nothing is known to compare it with."
                    say(kinds.WARNING, text=text)
        say(kinds.FINISHED, reason="done", faults=faults)
    return FAILED if faults else 0


def remove(name: Name, /, *, forget: bool = False, job: Path | None = None) -> int:
    """Remove a generalist's weights from this machine's caches: imported, downloaded, converted, in quarantine.

    Args:
        name: The generalist.
        forget: Also forget which commit and SHA256 were seen first, and that the licence was acknowledged.
        job: A folder for events.jsonl, for a program that looks on.
    """
    from .generalist.inventory import remove_weights

    with _telling(job, make_console()) as (say, _, _progress):
        removed = remove_weights(name, forget=forget)
        for path in removed:
            say(kinds.MESSAGE, text=f"Removed {path}.")
        if not removed:
            say(kinds.MESSAGE, text=f"{name}: there is nothing to remove.")
        say(kinds.FINISHED, reason="done")
    return 0


def where(names: Names = (), /) -> int:
    """Say where weights are, one path a line; without names also the folders that are looked into.

    Args:
        names: The generalists.
    """
    from .generalist import weights
    from .generalist.inventory import weights_state, weights_states

    states = [weights_state(name) for name in names] if names else [one for one in weights_states() if one.files]
    for state in states:
        for path in state.files:
            print(path)
    if not names:
        console = make_console()
        own = weights.own_folder()
        for what, folder in (
            *(() if own is None else (("Files are looked for in", own),)),
            ("Imported files are in", weights.imported_folder()),
            ("The Hub's cache is", weights.hub_folder()),
            ("Pins, conversions and quarantine are in", weights.cache_folder()),
        ):
            console.print(f"{what} {folder}", markup=False, soft_wrap=True, style="dim")
        return 0
    missing = [state for state in states if state.state == "missing"]
    for state in missing:
        print(f"{state.name}: not here. {state.remedy}", file=sys.stderr)
    return FAILED if missing else 0


#: Name on the command line → function.
COMMANDS: dict[str, Callable[..., int | None]] = {
    "list": list_weights,
    "download": download,
    "import": import_,
    "verify": verify,
    "remove": remove,
    "where": where,
}


def show_generalists(*, notes: bool = False) -> None:
    """Print a table of the generalists, then how to get what is missing and what to know of those trained on test data.

    Args:
        notes: Say of every one what is unverified and what must be acknowledged.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from .generalist.catalog import catalog
    from .generalist.inventory import weights_state
    from .generalist.registry import generalist_names

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("Generalist", "State", "Weights", "Licence", "What for"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("Generalist", "State"))
    states = []
    for name in generalist_names():
        entry = catalog().get(name)
        if entry is None:
            table.add_row(Text(name), "ready", "", "", "From an installed package.")
            continue
        state = weights_state(name)
        states.append(state)
        lacks_package = state.state == "ready" and state.missing_package
        word, style = ("needs package", "yellow") if lacks_package else _STATES[state.state]
        size = "none" if not entry.needs_weights else byte_text(state.size) if state.size else "unknown"
        table.add_row(Text(name), Text(word, style=style), size, state.license, Text(entry.purpose))
    console = make_console()
    console.print(table)
    lines = [f"{state.name}: {note}" for state in states for note in _notes(state, everything=notes)]
    if any(state.state == "missing" and state.can_download for state in states):
        lines.append("Get weights by `semisamplus weights download NAME`, or `semisamplus weights import NAME FILE`.")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _notes(state: WeightsState, *, everything: bool) -> Iterator[str]:
    if state.contamination:
        yield state.contamination
    if state.state == "damaged":
        yield f"Damaged. {state.remedy}"
    if state.missing_package:
        yield f'Needs a package that is not installed: pip install "{state.missing_package}".'
    if not everything:
        return
    if state.unverified:
        yield f"Unverified {' and '.join(state.unverified)}: what the first download or import brings is pinned."
    if state.needs_acknowledgement:
        yield f"Its licence ({state.license}) must be acknowledged before a download or an import."


def _say_what_to_know(entry: CatalogEntry, say: Callable[..., None]) -> None:
    say(kinds.MESSAGE, text=f"{entry.title}; licence: {entry.license}.")
    if entry.contamination:
        say(kinds.MESSAGE, text=entry.contamination)


def _asks(question: str) -> bool:
    """Ask a user at a terminal; elsewhere nobody can answer."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


@contextmanager
def _telling(
    job: Path | None, console: Any
) -> Iterator[tuple[Callable[..., None], Callable[[], bool], TransferProgress]]:
    """Give what takes events, what says whether to cancel, and what shows the events; with a job folder they are written too."""
    with TransferProgress(console) as progress:
        if job is None:
            yield lambda kind, /, **values: progress({"event": kind, **values}), lambda: False, progress
            return
        folder = JobFolder(job)
        events = folder.acquire("weights")
        events.listeners.append(progress)
        try:
            events.write(kinds.STARTED)
            yield events.write, folder.is_asked_to_stop, progress
        except SemiSAMPlusError as error:
            events.write(kinds.ERROR, what=error.what, remedy=error.remedy)
            raise
        except OSError as error:
            events.write(
                kinds.ERROR, what=f"{error}.", remedy="Check the path, the permissions and the room on the disk."
            )
            raise
        except KeyboardInterrupt:
            with suppress(WeightsError):
                events.write(kinds.FINISHED, reason="stopped")
            raise
        finally:
            events.close()
            folder.release()
