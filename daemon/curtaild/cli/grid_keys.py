"""`curtaild grid new-key`: a key pair for somebody who signs what he says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from joserfc.jwk import ECKey

from curtaild.cli.grid_line import fail


def new_key(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; nothing may be there yet.")],
    key_id: Annotated[str, typer.Option("--key-id", help="Its kid: a name of its own among all keys of a site.")],
) -> None:
    """Make a key pair (ES256): the private key, a JWK, into a file of the owner's alone; print the public one as the
    JWK set that sites need as keys_file."""
    key = ECKey.generate_key("P-256", {"kid": key_id})
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as sink:
            sink.write(json.dumps(key.as_dict(private=True)) + "\n")
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    typer.echo(json.dumps({"keys": [{**key.as_dict(private=False), "use": "sig"}]}, indent=2))
