"""Bytes of shards, wherever these lie: on a disk, on a server, in a bucket."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import fsspec

from umedpt_lightning.data.formats.faults import ServerLostError
from umedpt_lightning.data.shards.index import Place

#: Seconds before each further try to read from a server that does not answer.
_WAITS = (1.0, 4.0, 16.0)
#: Seconds without a byte after which an HTTP server does not answer; its library would wait for five minutes.
_SILENCE = 30.0


class ShardStore:
    """Reads parts of the files of a folder.

    Args:
        address: The folder: a path, or any address that fsspec knows, such as ``https://…`` or ``s3://…``.
        options: Of its file system, such as ``{anon: true}``; see the pages of fsspec.

    Raises:
        ValueError: Nothing is known of such addresses.
    """

    def __init__(self, address: str, options: Mapping[str, Any] | None = None) -> None:
        self.address = address.rstrip("/")
        self._options = dict(options or {})
        self._opened: tuple[int, Any, str] | None = None
        self._system()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _system(self) -> tuple[Any, str]:
        """The file system and the folder in it; one a process, since connections and threads cannot be shared."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                options = {**_patience(self.address), **self._options}
                system, folder = fsspec.core.url_to_fs(self.address, skip_instance_cache=True, **options)
            except (ValueError, TypeError, ImportError) as error:
                raise ValueError(
                    f"{self.address}: this address cannot be opened ({error}). Correct it or its `options`, or install "
                    'the file system: pip install "umedpt-lightning[shards]" brings that of http and https.'
                ) from error
            self._opened = os.getpid(), system, folder
        return self._opened[1:]

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk here."""
        protocol = self._system()[0].protocol
        return "file" in ([protocol] if isinstance(protocol, str) else protocol)

    def file(self, name: str) -> bytes:
        """A whole file of the folder; raises FileNotFoundError, or `ServerLostError` after some tries."""
        system, folder = self._system()
        started = time.monotonic()
        for wait in (0.0, *_WAITS):
            time.sleep(wait)
            try:
                content: bytes = system.cat_file(f"{folder}/{name}")
                return content
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{self.address}/{name}: there is no such file. Correct the address, or make it with "
                    "`umedpt data pack`."
                ) from error
            except Exception as error:  # each file system has errors of its own
                last = error
        raise self._lost(name, last, started)

    def some(self, places: Sequence[Place]) -> list[bytes | None]:
        """What lies in these places, read at the same time; None where that did not work, which `one` explains."""
        system, folder = self._system()
        paths, (starts, stops) = (
            [f"{folder}/{place.shard}" for place in places],
            zip(*(p[1:3] for p in places), strict=True),
        )
        try:
            found = system.cat_ranges(paths, list(starts), list(stops), on_error="return")
        except Exception:  # not even that
            return [None] * len(places)
        return [
            content if isinstance(content, bytes) and len(content) == place.stop - place.start else None
            for content, place in zip(found, places, strict=True)
        ]

    def one(self, place: Place) -> bytes:
        """What lies in a place.

        Raises:
            FileNotFoundError: There is no such shard.
            ValueError: The shard is not as long as it should be, or the server gives other bytes than those asked for.
            ServerLostError: The server did not answer, several times.
        """
        system, folder = self._system()
        started = time.monotonic()
        for wait in (0.0, *_WAITS):
            time.sleep(wait)
            try:
                content: bytes = system.cat_file(f"{folder}/{place.shard}", place.start, place.stop)
                if len(content) == place.stop - place.start:
                    return content
                last: Exception = OSError(f"it gave {len(content)} bytes in place of {place.stop - place.start}")
            except Exception as error:  # each file system has errors of its own
                last = error
            self._check(place, last)
        raise self._lost(place.shard, last, started)

    def _check(self, place: Place, error: Exception) -> None:
        """Raises where reading again would change nothing."""
        system, folder = self._system()
        where = f"{self.address}/{place.shard}"
        mend = "Copy the shard again, or pack the samples again."
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{where}: there is no such shard, but the index names it. {mend}") from error
        if isinstance(error, TimeoutError):
            return
        try:
            size = system.info(f"{folder}/{place.shard}")["size"]
        except Exception:  # it does not answer to this either
            return
        if size is not None and size != place.size:
            cut = "truncated" if size < place.size else "another one"
            raise ValueError(
                f"{where}: the shard is {cut}: it has {size:,} bytes, but the index says {place.size:,}. {mend}"
            ) from error
        if str(error).startswith(f"it gave {place.size} bytes"):
            raise ValueError(
                f"{where}: the server gives the whole file where a part was asked for (bytes {place.start:,} to "
                f"{place.stop:,}). Use one that answers to HTTP ranges, which Python's http.server does not."
            ) from error

    def _lost(self, name: str, error: Exception, started: float) -> ServerLostError:
        return ServerLostError(
            f"{self.address}/{name}: the server did not answer, {1 + len(_WAITS)} times in "
            f"{time.monotonic() - started:.0f} s "
            f"({type(error).__name__}: {error}). See that it can be reached from here; a run goes on where it was with "
            "--ckpt_path last."
        )


def _patience(address: str) -> dict[str, Any]:
    """Options by which an HTTP server that is silent is no longer waited for."""
    if not address.startswith(("http://", "https://")):
        return {}
    import aiohttp

    # a long answer may take its time
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    return {"client_kwargs": {"timeout": timeout}}
