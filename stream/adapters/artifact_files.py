"""Files of one pipeline under the artifact URL: model bases and what retraining runs leave behind.

<artifact_url>/<pipeline>/bases/<base>.model
<artifact_url>/<pipeline>/runs/<run>/<name>
"""

from __future__ import annotations

import os
import re

import fsspec

from stream.errors import ConfigurationError, Conflict, Unavailable

__all__ = ["ArtifactFiles"]

PATH = re.compile(r"[A-Za-z0-9_.:+=@-]+(/[A-Za-z0-9_.:+=@-]+)*")


class ArtifactFiles:
    """A directory, or any object store that fsspec knows (its own package must be installed).

    Raises ConfigurationError for a URL that cannot be used; the methods raise Unavailable when the store does not answer.
    """

    def __init__(self, url: str, pipeline: str, *, setting: str = "DRIFTLOOP_ARTIFACT_URL") -> None:
        """`setting`: what an error calls the URL."""
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(setting, url, f"it cannot be used: {error}") from error
        self._base = root.rstrip("/")
        self._root = f"{self._base}/{pipeline}"

    def holds(self, other: ArtifactFiles) -> bool:
        """Whether the other's folder lies under this one's URL, however the two are written."""
        if self._files.protocol != other._files.protocol:
            return False
        mine, its = self._base, other._root
        if "file" in self._files.protocol:
            mine, its = os.path.realpath(mine), os.path.realpath(its)
        return f"{its}/".startswith(f"{mine}/")

    def put_base(self, data: bytes, base: str) -> None:
        """Store a base. The same again is harmless; Conflict if other bytes have this name."""
        path = f"bases/{base}.model"
        stored = self.find_file(path)
        if stored is None:
            self.put_file(path, data)
        elif stored != data:
            raise Conflict(f"{path} exists with other content")

    def replace_base(self, data: bytes, base: str) -> None:
        """Store a base whatever is there: the same model, sealed anew."""
        self.put_file(f"bases/{base}.model", data)

    def get_base(self, base: str) -> bytes:
        """Raises Unavailable if there is no such base."""
        return self.get_file(f"bases/{base}.model")

    def bases(self) -> list[str]:
        """The names of all bases."""
        return [name.removesuffix(".model") for name in self.list_files("bases") if name.endswith(".model")]

    def put_file(self, path: str, data: bytes) -> None:
        """Write a file whole: a reader sees all of it or none."""
        full = self._full(path)
        try:
            self._files.makedirs(full.rpartition("/")[0], exist_ok=True)
            # A local file appears under its name once it is whole; an object store's write is atomic by itself.
            with self._files.open(full, "wb", autocommit=False) as file:
                file.write(data)
            file.commit()
        except OSError as error:
            raise Unavailable(f"{full}: {error}") from error

    def get_file(self, path: str) -> bytes:
        """Raises Unavailable if there is no such file."""
        data = self.find_file(path)
        if data is None:
            raise Unavailable(f"{self._full(path)}: no such file")
        return data

    def find_file(self, path: str) -> bytes | None:
        """None if there is no such file."""
        full = self._full(path)
        try:
            return bytes(self._files.cat_file(full))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"{full}: {error}") from error

    def delete_file(self, path: str) -> None:
        """Harmless if there is no such file."""
        full = self._full(path)
        try:
            self._files.rm_file(full)
        except FileNotFoundError:
            return
        except OSError as error:
            raise Unavailable(f"{full}: {error}") from error

    def list_files(self, folder: str) -> list[str]:
        """The names in a folder, sorted."""
        full = self._full(folder)
        try:
            found = self._files.ls(full, detail=False)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unavailable(f"{full}: {error}") from error
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)

    def all_files(self) -> list[str]:
        """The paths of all files, as the other methods take them, sorted; not those that are still being written."""
        try:
            found = self._files.find(self._root)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unavailable(f"{self._root}: {error}") from error
        paths = (str(name).rpartition(f"{self._root.lstrip('/')}/")[2] for name in found)
        return sorted(path for path in paths if PATH.fullmatch(path))

    def _full(self, path: str) -> str:
        if not PATH.fullmatch(path) or ".." in path.split("/"):
            raise ConfigurationError("artifact", path, "use letters, digits and _ . : + = @ - in each part")
        return f"{self._root}/{path}"
