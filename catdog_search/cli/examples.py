"""One or more examples for every command, shown at the end of its help."""

from __future__ import annotations

import click

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": ("run quick", "run custom-cnn --data photos.zip --trials 20"),
    "studies": ("studies",),
    "check": ("check custom-cnn", "check my/study.toml", "check --params cnn"),
    "show": ("show quick", "show quick --trial 3 --figures figures"),
    "study show": ("study show quick",),
    "study list": ("study list",),
    "study rename": ("study rename custom-cnn first-try",),
    "study delete": ("study delete quick", "study delete quick --yes"),
    "compare": ("compare baselines custom-cnn", "compare --html comparison.html"),
    "evaluate": ("evaluate catdog --split val", "evaluate catdog --data other-photos"),
    "promote": ("promote custom-cnn --dry-run", "promote custom-cnn --model pets"),
    "models": ("models", "models catdog --version 2"),
    "rollback": ('rollback --reason "takes puppies for cats"',),
    "predict": ("predict catdog photo.jpg", "predict model.onnx photos --csv"),
    "serve": ("serve", "serve model.onnx --port 8080"),
    "ui": ("ui", "ui --port 5001"),
    "relocate": ("relocate --state copied/mlruns",),
    "doctor": ("doctor", "doctor --repair"),
    "model export": ("model export catdog --to model.onnx",),
    "data audit": ("data audit photos.zip --html audit.html",),
    "data prepare": ("data prepare photos.zip --image-size 64",),
    "data cache": ("data cache", "data cache --clear"),
    "data download": ("data download --to data",),
}


def add_examples(group: click.Group, above: str = "") -> None:
    """End the help of every command with its examples."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            add_examples(command, f"{name} ")
        elif lines := EXAMPLES.get(f"{above}{name}"):
            # \b keeps click from joining lines.
            command.epilog = "\b\nExamples:\n" + "\n".join(f"  catdog-search {e}" for e in lines)
