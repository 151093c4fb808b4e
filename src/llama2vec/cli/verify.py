"""``llama2vec verify``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.options import Device
from llama2vec.cli.settings_options import given_options, options_from, refuse_options
from llama2vec.errors import ConfigError
from llama2vec.files import FileKind, check_new, write_output
from llama2vec.terminal import counted, display
from llama2vec.verify.settings import ServerSettings

if TYPE_CHECKING:
    from llama2vec.model.golden import Golden
    from llama2vec.verify.verification import Verification

_RESULT = FileKind("a result of `llama2vec verify`", rb'\{\s*"format": \d+,\s*"model": "[^\n]*",\s*"backend": ')
_SAVED = "saved"
_DTYPES = (_SAVED, "float32", "bfloat16", "float16")
_EXPORTED = ("onnx", "llama.cpp")
_LOADED_HERE = ("llama2vec", "transformers", "sentence-transformers")


@options_from(ServerSettings, "server", panel="Options of --backend http")
def verify_command(
    model: Annotated[Path, typer.Argument(help="Folder of a saved encoder or export, or the name of a shipped model.")],
    server: ServerSettings,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the result to this JSON file.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="llama2vec, transformers, sentence-transformers, http, file, onnx or llama.cpp.")
    ] = "llama2vec",
    token: Annotated[
        str | None,
        typer.Option(envvar="LLAMA2VEC_TOKEN", help="Bearer token for the server; the environment variable is safer."),
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Vectors of another program (.npy, .npz, .jsonl), for --backend file.")
    ] = None,
    export_texts: Annotated[
        Path | None, typer.Option(help="Write the golden texts to this file (JSONL) for another program, and exit.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Largest difference that passes; default: that of the number format.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Number format: saved (that of the golden vectors), float32, bfloat16 or float16.")
    ] = _SAVED,
    device: Device = "auto",
    write: Annotated[bool, typer.Option("--write", help="Make golden vectors for a model that has none.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace golden vectors or output files.")] = False,
) -> None:
    """Recompute golden vectors in another program and name the cause of any difference (then exit code 1)."""
    comparing = {"--output": output, "--tolerance": tolerance, "--vectors": vectors, "--url": server.url}
    _check_options(dtype, backend, server, comparing, write=write, only_texts=export_texts is not None)
    from llama2vec.model.local import whole_folder
    from llama2vec.verify import backends
    from llama2vec.verify.exported import open_exported

    if backend not in _EXPORTED and not export_texts:
        backends.check_backend(backend, server, vectors)
    for path, kind in ((output, _RESULT), (export_texts, backends.TEXTS_FILE)):
        check_new(path, overwrite=overwrite, inputs=[model, vectors], kind=kind)
    if backend in _EXPORTED:
        model, golden, asked = open_exported("onnx" if backend == "onnx" else "llama.cpp", model)
    else:
        model = whole_folder(model)
        golden = _golden(model, device, write=write, overwrite=overwrite)
        if export_texts:
            _export(model, golden, export_texts, overwrite)
            return
        number_format = golden.dtype if dtype == _SAVED else dtype
        asked = backends.open_backend(
            backend, model, golden, dtype=number_format, device=device, server=server, token=token, vectors=vectors
        )
    from llama2vec.verify.verification import verify

    found = verify(model, golden, asked, tolerance=tolerance, device=device)
    display(found)
    if output:
        _write(found, output, overwrite)
    if not found.passed:
        raise typer.Exit(1)


def _check_options(
    dtype: str, backend: str, server: ServerSettings, comparing: Mapping[str, object], *, write: bool, only_texts: bool
) -> None:
    """Refuse options that do not fit each other; ``comparing`` are those of a comparison."""
    if dtype not in _DTYPES:
        raise ConfigError(f"--dtype {dtype}: unknown number format; choose from {', '.join(_DTYPES)}")
    if dtype != _SAVED and backend not in _LOADED_HERE:
        raise ConfigError(f"--dtype {dtype}: --backend {backend} has a number format of its own; omit --dtype")
    if backend in _EXPORTED and (write or only_texts or comparing["--vectors"] or server.url):
        raise ConfigError(f"--backend {backend} only compares; drop --write, --export-texts, --vectors and --url")
    if backend != "http" and not server.url:
        refuse_options(given_options(server), f"says how a server is asked, and --backend {backend} asks none")
    if only_texts:
        refuse_options(comparing, "has no meaning with --export-texts, which compares nothing")


def _golden(model: Path, device: str, *, write: bool, overwrite: bool) -> Golden:
    """Return the golden vectors of a model, which are made with ``write``."""
    from llama2vec.model.golden import read_golden

    if not write:
        return read_golden(model)
    from llama2vec.verify.verification import write_golden

    golden = write_golden(model, device=device, overwrite=overwrite)
    display(f"Wrote {counted(len(golden.texts), 'golden vector')} per side to {model}")
    return golden


def _write(found: Verification, output: Path, overwrite: bool) -> None:
    content = json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_output(output, content, _RESULT, overwrite=overwrite)
    display(f"Wrote {output}")


def _export(model: Path, golden: Golden, path: Path, overwrite: bool) -> None:
    from llama2vec.verify.backends import export_texts

    rows = export_texts(model, golden, path, overwrite=overwrite)
    display(f"Wrote {counted(rows, 'text')} to {path}; compare their vectors with --backend file --vectors FILE")
