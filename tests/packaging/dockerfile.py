"""Parses the instructions that our Dockerfile uses; fails on others."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

# Instructions of which the last one takes effect, and the types of their values.
_SETTINGS = {"WORKDIR": str, "USER": str, "VOLUME": str, "EXPOSE": str, "STOPSIGNAL": str, "ENTRYPOINT": list, "CMD": list}


@dataclass
class Stage:
    """One FROM and its instructions."""

    image: str
    name: str | None
    # In order: (instruction, flags, rest of the line).
    steps: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str | list[str]] = field(default_factory=dict)
    healthcheck: list[str] | None = None


def stages(file: Path) -> list[Stage]:
    """The stages, in order."""
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    found: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            image, _, name = re.fullmatch(r"(\S+)( AS (\S+))?", rest).groups()
            found.append(Stage(image, name))
        else:
            _add(found[-1], instruction, rest)
    return found


def _add(stage: Stage, instruction: str, rest: str) -> None:
    flags = dict(re.findall(r"--([a-z-]+)=(\S+)", rest)) if instruction in {"COPY", "HEALTHCHECK"} else {}
    bare = re.sub(r"^(--\S+\s+)+", "", rest)
    if instruction in {"COPY", "RUN"}:
        stage.steps.append((instruction, flags, bare))
    elif instruction == "ARG":
        name, _, default = bare.partition("=")
        stage.arguments[name] = default
    elif instruction == "ENV":
        stage.environment |= dict(pair.split("=", 1) for pair in shlex.split(bare))
    elif instruction == "HEALTHCHECK":
        stage.healthcheck = json.loads(bare.removeprefix("CMD "))
    else:
        # Lists must be in the exec form, since the image has no shell.
        stage.settings[instruction] = json.loads(bare) if _SETTINGS[instruction] is list else bare
