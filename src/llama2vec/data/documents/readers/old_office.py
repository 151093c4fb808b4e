"""Old Office formats (DOC, XLS, PPT, XLSB): converted by LibreOffice where it is installed, then read as new ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

from llama2vec.data.documents.readers.building import Member
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.documents.readers.recognizing import first_letters, recognized
from llama2vec.data.documents.readers.rtf import START
from llama2vec.data.documents.readers.tables import is_table
from llama2vec.data.documents.readers.workbook import XML_2003
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError

MOST_SECONDS = 120.0
"""A conversion that takes longer is stopped."""
MISSING = "an old Office format; install LibreOffice to read it, or save it as .docx, .pptx or .xlsx"
_NEW = {".doc": ".docx", ".xls": ".xlsx", ".xlsb": ".xlsx", ".ppt": ".pptx", ".pps": ".pptx"}
_WORD_2003 = b"http://schemas.microsoft.com/office/word/2003/wordml"
_OLE, _ZIP = b"\xd0\xcf\x11\xe0", b"PK\x03\x04"
_START_BYTES = 4096
_NOWHERE = "http://127.0.0.1:9"
_OPTIONS = {
    "/org.openoffice.Office.Common/Security/Scripting": {
        "MacroSecurityLevel": "3", "DisableMacrosExecution": "true", "DisableActiveContent": "true",
        "BlockUntrustedRefererLinks": "true",
    },
    "/org.openoffice.Office.Writer/Content/Update": {"Link": "0"},
    "/org.openoffice.Office.Calc/Content/Update": {"Link": "2"},
}  # fmt: skip
"""No macros, nothing active, no link of a document is followed."""


def program() -> str | None:
    """Return where LibreOffice is, None where it is not installed."""
    return shutil.which("soffice") or shutil.which("libreoffice")


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Member]:
    """Yield the file in the new format, to be read in its place."""
    suffix = PurePosixPath(name).suffix.lower()
    start = first_letters(data[:_START_BYTES])
    if found := _otherwise(data, start, suffix, settings):
        yield Member(f"{name}{found}", data, name)
        return
    if not data.startswith((_OLE, _ZIP)) and _WORD_2003 not in start:
        raise UnreadableError("damaged (it does not begin as an Office file)")
    where = program()
    if where is None:
        raise UnreadableError(MISSING)
    yield Member(f"{name}{_NEW[suffix]}", _converted(where, data, suffix, settings.max_file_bytes), name)


def _otherwise(data: bytes, start: bytes, suffix: str, settings: ReadingSettings) -> str:
    """Return the suffix of what such files often are in truth, "" for one that LibreOffice must convert."""
    if data.startswith(_ZIP):
        return "" if suffix == ".xlsb" else _NEW[suffix]
    if start.lstrip().lower().startswith(START):
        return ".rtf"
    if found := recognized(start):
        return found
    if XML_2003 in start:
        return ".xml"
    if b"\0" in start or _WORD_2003 in start:
        return ""
    # What programs export for Excel is a text with tabs, as a rule.
    return ".csv" if suffix == ".xls" and is_table(decoded(data, settings.encoding)) else ".txt"


def _converted(where: str, data: bytes, suffix: str, most_bytes: int) -> bytes:
    """Let LibreOffice write the new format, in a folder and with a profile of this call alone."""
    with tempfile.TemporaryDirectory(prefix="llama2vec-office-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        profile = folder / "profile" / "user"
        profile.mkdir(parents=True)
        (profile / "registrymodifications.xcu").write_text(_profile(), encoding="utf-8")
        source, new = folder / f"document{suffix}", folder / "new" / f"document{_NEW[suffix]}"
        source.write_bytes(data)
        command = [
            *_without_network(), where, "--headless", "--norestore", "--nolockcheck", "--nodefault", "--nologo",
            f"-env:UserInstallation={profile.parent.as_uri()}", "--convert-to", _NEW[suffix][1:],
            "--outdir", str(new.parent), str(source),
        ]  # fmt: skip
        _run(command, folder)
        try:
            with new.open("rb") as stream:
                content = stream.read(most_bytes + 1)
        except OSError:
            raise UnreadableError("LibreOffice cannot convert it; is it encrypted or damaged?") from None
    if len(content) > most_bytes:
        raise UnreadableError(f"larger than max_file_bytes ({most_bytes:,}) once it is converted")
    return content


def _run(command: list[str], folder: Path) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    own = {"HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8", "SAL_USE_VCLPLUGIN": "svp"}
    own |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _NOWHERE)
    silent = subprocess.DEVNULL
    try:
        running = subprocess.Popen(  # noqa: S603 - LibreOffice, on a file of this call
            command, stdin=silent, stdout=silent, stderr=silent, env=kept | own, cwd=folder, start_new_session=True
        )
    except OSError as error:
        raise UnreadableError(f"LibreOffice cannot be started ({error.strerror})") from None
    try:
        running.wait(MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise UnreadableError(f"LibreOffice did not convert it within {MOST_SECONDS:g} s") from None
    finally:
        # Its script starts others, which may outlive it.
        with suppress(OSError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


@cache
def _without_network() -> tuple[str, ...]:
    """Return what starts a program without network, where this system lets its users do that."""
    command = ("unshare", "--map-root-user", "--net")
    try:
        done = subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return command if done.returncode == 0 else ()


def _profile() -> str:
    items = "".join(
        f'<item oor:path="{path}"><prop oor:name="{name}" oor:op="fuse"><value>{value}</value></prop></item>\n'
        for path, options in _OPTIONS.items()
        for name, value in options.items()
    )
    space = 'xmlns:oor="http://openoffice.org/2001/registry" xmlns:xs="http://www.w3.org/2001/XMLSchema"'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<oor:items {space}>\n{items}</oor:items>\n'
