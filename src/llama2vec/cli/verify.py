"""``llama2vec verify``."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.options import Device
from llama2vec.errors import ConfigError, OutputExistsError

if TYPE_CHECKING:
    from llama2vec.model.golden import Golden

_SAVED = "saved"
_DTYPES = (_SAVED, "float32", "bfloat16", "float16")
_LOADED_HERE = ("llama2vec", "transformers", "sentence-transformers")


def verify_command(
    model: Annotated[Path, typer.Argument(help="Folder of a saved encoder.")],
    backend: Annotated[
        str, typer.Option(help="llama2vec, transformers, sentence-transformers, http or file.")
    ] = "llama2vec",
    url: Annotated[str | None, typer.Option(help="Server with /v1/embeddings, for http.")] = None,
    input_type_field: Annotated[
        str, typer.Option(help="Field that tells the server query from passage; none = prompts are sent as text.")
    ] = "input_type",
    served_name: Annotated[
        str | None, typer.Option(help="What the server calls the model; left out = the folder's name.")
    ] = None,
    base64: Annotated[bool, typer.Option(help="Ask the server for base64 vectors.")] = False,
    token: Annotated[
        str | None,
        typer.Option(envvar="LLAMA2VEC_TOKEN", show_envvar=True, help="Bearer token of the server."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Longest wait for an answer, in seconds.")] = 60.0,
    vectors: Annotated[
        Path | None, typer.Option(help="Vectors of another program (.npy, .npz, .jsonl), for file.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option(help="Let sentence-transformers run code in the folder that is not ours.")
    ] = False,
    export_texts: Annotated[
        Path | None, typer.Option(help="Write the golden texts here as JSONL for another program, and stop.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Largest difference that passes; left out = the golden vectors' own.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="saved (as the golden vectors), float32, bfloat16 or float16.")] = _SAVED,
    device: Device = "auto",
    write: Annotated[bool, typer.Option(help="Make golden vectors for a model that has none.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the result here, too.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace golden vectors, --json or --export-texts.")] = False,
) -> None:
    """Recompute a model's golden vectors elsewhere and name what differs; exit code 1 where something does."""
    if json and json.exists() and not overwrite:
        raise OutputExistsError(f"{json} exists already; choose another path or --overwrite")
    if dtype not in _DTYPES:
        raise ConfigError(f"--dtype {dtype}: no such number format; choose from {', '.join(_DTYPES)}")
    if dtype != _SAVED and backend not in _LOADED_HERE:
        raise ConfigError(f"--dtype {dtype}: {backend} decides that itself; leave --dtype out")
    from llama2vec.verify.verification import read_golden, write_golden

    golden = write_golden(model, device=device, overwrite=overwrite) if write else read_golden(model)
    if write:
        typer.echo(f"Wrote {len(golden.texts)} golden vectors a side to {model}")
    if export_texts:
        _export(model, golden, export_texts, overwrite)
        return
    from llama2vec.verify.backends import BackendChoice, open_backend
    from llama2vec.verify.verification import verify

    choice = BackendChoice(
        name=backend,  # type: ignore[arg-type]
        dtype=golden.dtype if dtype == _SAVED else dtype,
        device=device,
        url=url,
        input_type_field=input_type_field,
        served_name=served_name,
        base64=base64,
        token=token,
        timeout_seconds=timeout,
        vectors=vectors,
        trust_remote_code=trust_remote_code,
    )
    found = verify(model, golden, open_backend(model, golden, choice), tolerance=tolerance, device=device)
    typer.echo("\n".join(found.lines()))
    if json:
        from llama2vec.files import write_output

        write_output(json, json_format.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n", overwrite=overwrite)
        typer.echo(f"Wrote {json}")
    if not found.passed:
        raise typer.Exit(1)


def _export(model: Path, golden: Golden, path: Path, overwrite: bool) -> None:
    from llama2vec.verify.vector_file import export_texts

    rows = export_texts(model, golden, path, overwrite=overwrite)
    typer.echo(f"Wrote {rows} texts to {path}; give their vectors back with --backend file --vectors FILE")
