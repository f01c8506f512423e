"""Reads passwords from where the site file says they lie: a file, or a credential that systemd handed over. They are
never in the site file itself, and here they are `SecretStr`, which no log and no traceback shows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from curtaild_config.problems import Problem, Severity, SiteFileError

_REFERENCE = re.compile(r"((?:\w+_)?(?:password|passphrase|token|secret|signing_key))_(file|credential)")
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where one secret lies. `name` is what a driver asks for it by: the key without `_file` or `_credential`."""

    name: str
    key_path: str
    file: Path | None = None
    credential: str | None = None


def secret_sources(key_path: str, keys: Mapping[str, object]) -> tuple[SecretSource, ...]:
    """The secrets that a table's `…password_file`, `…token_credential` and the like point to."""
    found = []
    for key, value in keys.items():
        match = _REFERENCE.fullmatch(key)
        if match is None or not isinstance(value, (str, Path)):
            continue
        name, kind = match.groups()
        path = f"{key_path}.{key}"
        if kind == "file":
            found.append(SecretSource(name, path, file=Path(value)))
        else:
            found.append(SecretSource(name, path, credential=str(value)))
    return tuple(found)


def resolve_secrets(
    sources: Iterable[SecretSource], file: str = "site.toml", env: Mapping[str, str] | None = None
) -> dict[str, SecretStr]:
    """The secrets by name. Raises `SiteFileError` naming every one that cannot be read."""
    values, problems = {}, []
    for source in sources:
        result = _read(source, file, os.environ if env is None else env)
        if isinstance(result, Problem):
            problems.append(result)
        else:
            values[source.name] = result
    if problems:
        raise SiteFileError(tuple(problems))
    return values


def _read(source: SecretSource, file: str, env: Mapping[str, str]) -> SecretStr | Problem:
    def problem(value: str, reason: str, remedy: str) -> Problem:
        return Problem(Severity.ERROR, file, source.key_path, value, reason, remedy)

    if source.file is not None:
        path, shown = source.file, repr(str(source.file))
        remedy = f"create {path} with the secret as its only line, readable by the daemon alone"
    else:
        name = source.credential or ""
        shown = repr(name)
        remedy = f"add LoadCredential={name}:/etc/curtaild/{name} to the unit"
        directory = env.get("CREDENTIALS_DIRECTORY")
        if not directory:
            return problem(shown, "systemd handed over no credentials ($CREDENTIALS_DIRECTORY is not set)", remedy)
        path = Path(directory) / name
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
        text = raw.decode().rstrip("\r\n")
    except FileNotFoundError:
        return problem(shown, f"{path} does not exist", remedy)
    except OSError as error:
        return problem(shown, f"{path} cannot be read: {error.strerror}", remedy)
    except UnicodeDecodeError:
        return problem(shown, f"{path} is not UTF-8 text", remedy)
    if not text or len(raw) > _MOST_BYTES:
        return problem(shown, f"{path} is {'empty' if not text else 'far too long'}", remedy)
    return SecretStr(text)
