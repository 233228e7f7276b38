"""Results of a run as files that need no cluster and no store to be read.

`index.json` lists all tasks in the order in which they were submitted. The results of each function stand in
a file of their own, one pickle behind the other; the index says where each begins:

```
index = json.loads((folder / "index.json").read_text())
task = index["tasks"][0]
with (folder / task["file"]).open("rb") as file:
    file.seek(task["offset"])
    result = pickle.load(file)
```

A result needs the modules that its classes are from; one of a class of a script needs distcomp installed.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from distcomp import __version__
from distcomp.errors import ConfigError, StoreError
from distcomp.payload import Results, open_results

if TYPE_CHECKING:
    from pathlib import Path

    from distcomp.store import Store
    from distcomp.store_rows import RunOutcome

INDEX = "index.json"
FORMAT = 1
MAX_FILE_NAME = 80


class Exported(NamedTuple):
    """How many results were written, how many bytes they take, and how many tasks had none."""

    results: int
    size_bytes: int
    lacking: int


def export_run(store: Store, run: str, folder: Path) -> Exported:
    """Write the results of a run into a folder.

    Args:
        store: where they are.
        run: its name.
        folder: made if it is not there; has to be empty.

    Returns:
        What was written.

    Raises:
        ConfigError: the folder holds something.
        UnknownRunError: there is no such run.
        StoreError: the store cannot be read, or the folder not be written.

    Example:
        `export_run(store, "fit", Path("fit-results")).results`
    """
    summary = store.run(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty: name a new folder")
        export = _Export(folder)
        try:
            for task in store.outcomes(run):
                export.add(task)
        finally:
            export.close()
        index = {
            "format": FORMAT,
            "distcomp": __version__,
            "run": run,
            "began_at": summary.began_at,
            "exported_at": time.time(),
            "tasks": export.tasks,
        }
        # It comes last: what has an index is whole.
        (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"the results of {run!r} cannot be written to {folder}: {error}") from error
    return Exported(export.results, export.size_bytes, len(export.tasks) - export.results)


class _Export:
    """The files that are written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[tuple[str, str], BinaryIO] = {}
        self._opened: tuple[bytes, Results] = (b"", Results([], (), {}))
        self.tasks: list[dict[str, Any]] = []
        self.results = 0
        self.size_bytes = 0

    def add(self, task: RunOutcome) -> None:
        """Add one task."""
        told: dict[str, Any] = {
            "function": task.place.function,
            "version": task.place.version,
            "key": task.key.hex(),
        }
        outcome = task.outcome
        if outcome is None:
            told |= {"state": "submitted"}
        elif outcome.failure is not None:
            failure = outcome.failure
            told |= {
                "state": "failed",
                "type": failure.type_name,
                "text": failure.text,
                "traceback": failure.traceback,
            }
        else:
            told |= {"state": "done", **self._written(task, outcome.blob, outcome.position)}
        self.tasks.append(told)

    def _written(self, task: RunOutcome, blob: bytes, position: int) -> dict[str, Any]:
        if self._opened[0] is not blob:
            self._opened = blob, open_results(blob)
        pickled = self._opened[1].pickled(position)
        file = self._file(task.place.function, task.place.version)
        offset = file.tell()
        file.write(pickled)
        self.results += 1
        self.size_bytes += len(pickled)
        return {"file": file.name.rpartition("/")[2], "offset": offset, "size_bytes": len(pickled)}

    def _file(self, function: str, version: str) -> BinaryIO:
        named = (function, version)
        if named not in self._files:
            readable = re.sub(r"[^A-Za-z0-9._-]", "-", f"{function}-{version}".rstrip("-"))[:MAX_FILE_NAME]
            name = f"{len(self._files) + 1:02}-{readable}.pickles"
            self._files[named] = (self._folder / name).open("wb")
        return self._files[named]

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
