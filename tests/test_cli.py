"""The command line: light to start, one line an error, exit codes, live table and plain lines."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from catdog_search import cli
from catdog_search.families import registry
from catdog_search.study import studies

COMMANDS = (
    *("run", "studies", "check", "show", "compare", "evaluate"),
    *(
        "promote",
        "models",
        "rollback",
        "predict",
        "serve",
        "ui",
        "relocate",
        "doctor",
        "data",
        "model",
        "study",
    ),
)
LEAVES = [
    *COMMANDS[:-3],
    *("study list", "study show", "study rename", "study delete"),
    *("model export", "data audit", "data prepare", "data cache", "data download"),
]
HEAVY = (
    *("optuna", "mlflow", "keras", "tensorflow", "numpy", "scipy", "sklearn", "matplotlib"),
    *("rich", "PIL"),
)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def test_help_lists_every_command() -> None:
    assert sorted(cli.main.commands) == sorted(COMMANDS)
    listed = call("--help").output
    assert all(f"  {name} " in listed for name in COMMANDS)


@pytest.mark.parametrize("command", LEAVES)
def test_every_option_of_a_command_has_help(command: str) -> None:
    assert call(*command.split(), "--help").exit_code == 0
    options = [p for p in leaf(command).params if p.param_type_name == "option"]
    assert options
    assert all(getattr(option, "help", None) for option in options)


def test_help_of_every_group_lists_its_commands_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for group in ([], ["data"], ["model"]):
        assert "..." not in call(*group, "--help").output.split("Commands:")[1]


@pytest.mark.parametrize("command", LEAVES)
def test_help_of_every_command_ends_with_examples_that_parse(command: str) -> None:
    shown = call(*command.split(), "--help").output.split("Examples:\n")[1].splitlines()
    assert shown
    for line in shown:
        program, *words = shlex.split(line)
        assert (program, words[: len(command.split())]) == ("catdog-search", command.split())
        leaf(command).make_context(command, words[len(command.split()) :])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "quick", "--trials", "x"], "'x' is not allowed; it must be a whole number of at"),
        (["run", "quick", "--trials", "0"], "'0' is not allowed; it must be a whole number of at"),
        (["run", "quick", "--timeout", "0"], "'0' is not allowed; it must be a number above 0"),
        (["run", "quick", "--timeout", "nan"], "'nan' is not allowed; it must be a number above"),
        (["promote", "quick", "--seeds", "101"], "it must be a whole number from 1 to 100"),
        (["serve", "--queue", "-1"], "it must be a whole number of at least 0"),
        (["serve", "--timeout", "4000"], "it must be a number above 0, at most 3600"),
        (["show", "quick", "--study", "other"], "quick and --study other: give one of them"),
        (["show"], "Missing study: give NAME, as an argument or as --study"),
    ],
)
def test_wrong_option_is_refused_in_plain_words(arguments: list[str], says: str) -> None:
    result = call(*arguments)
    assert (result.exit_code, says in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("command", ["run", "show", "promote"])
def test_study_is_an_argument_or_an_option(command: str, tmp_path: Path) -> None:
    state = ["--state", str(tmp_path / "none")]
    errors = {
        call(command, *study, *state).stderr for study in (["no-study"], ["--study", "no-study"])
    }
    assert len(errors) == 1
    assert "no-study" in errors.pop()


def leaf(command: str) -> click.Command:
    found: click.Command = cli.main
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


def test_help_imports_nothing_heavy(in_fresh_python: Callable[[str], str]) -> None:
    code = f"""
import sys
from click.testing import CliRunner
from catdog_search.cli import main
assert CliRunner().invoke(main, ["run", "--help"]).exit_code == 0
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert in_fresh_python(code) == "[]"


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def test_help_takes_less_than_two_and_a_half_times_a_bare_click() -> None:
    helps = "import sys; sys.argv = ['c', '--help']; from catdog_search.cli import main; main()"
    # Alternating, and the middle of the ratios: the machine may be busy.
    ratios = [seconds(helps) / seconds("import click") for _ in range(9)]
    assert statistics.median(ratios) < 2.5


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run"], 2, "say what to run: --study NAME|FILE, or --hypermodel"),
        (["run", "--study", "quick", "--trials", "0"], 2, "'--trials'"),
        (["run", "--study", "quick", "--timeout", "0"], 2, "'--timeout'"),
        (["runn"], 2, "No such command 'runn'"),
        (["run", "--study", "quik"], 1, "error: no study named 'quik'; did you mean 'quick'?"),
        (["run", "--study", "no.toml"], 1, "error: no.toml: no such study file"),
        (["run", "--study", "quick", "--data", "nowhere"], 1, "error: nowhere: no such folder"),
        (["check", "quik"], 1, "did you mean 'quick'?"),
        (
            ["check", "--params", "cn"],
            2,
            "'cn'; did you mean 'cnn'? (allowed: any, cnn, hypermodel, resnet50)",
        ),
        (["check", "quick", "--params", "cnn"], 2, "give a study, NAME or FILE, or --params"),
        (["check", "--json"], 2, "give a study, NAME or FILE, or --params"),
        (["data", "audit", "nowhere"], 1, "error: nowhere: no such folder or zip"),
        (["data", "download", "--url", "http://h/x"], 2, "--url and --sha256 go together"),
        (["show", "--study", "quick"], 1, "error: no study 'quick': no state in "),
        (["promote", "--study", "quick"], 1, "error: no study 'quick': no state in "),
        (["models", "catdog"], 1, "error: no registered model 'catdog' in "),
        (["models", "--version", "1"], 2, "--version wants the NAME of a model"),
        (["models", "catdog", "--version", "0"], 2, "'--version'"),
        (["rollback", "--reason", "worse"], 1, "error: no registered model 'catdog' in "),
        (["rollback"], 2, "Missing option '--reason'"),
        (["rollback", "--reason", " "], 1, "error: --reason: takes 1 to 1000 characters, has 0"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing_behind(
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CATDOG_STATE", str(tmp_path / "state"))
    result = call(*arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert "Traceback" not in result.output
    if code == 1:
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "state").exists()


def test_bug_is_one_line_with_the_path_of_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Path:
        raise ZeroDivisionError("on\ndemand")

    monkeypatch.setattr(studies, "find", broken)
    result = call("check", "quick")
    assert result.exit_code == 1
    assert result.stderr.startswith("bug: ZeroDivisionError: on demand; `catdog-search doc")
    trace = Path(result.stderr.strip().rsplit("trace: ", 1)[1])
    assert "in broken" in trace.read_text()
    trace.unlink()
    shown = call("check", "quick", "--debug")
    assert "Traceback" in shown.stderr


def test_debug_shows_the_trace_of_an_error() -> None:
    result = call("check", "quik", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: no study named")


def test_studies_lists_the_shipped_ones() -> None:
    listed = json.loads(call("studies", "--json").stdout)["studies"]
    assert {"quick", "custom-cnn"} <= {row["study"] for row in listed}
    assert all(row["purpose"] in call("studies").output for row in listed)


def test_studies_lists_a_broken_one_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "broken.toml").write_text("trials = 'many'")
    monkeypatch.chdir(tmp_path)
    result = call("studies")
    assert result.exit_code == 0
    assert "can't be read: studies/broken.toml" in result.output


def test_check_prints_the_space_and_its_size(study_file: Callable[..., Path]) -> None:
    result = call("check", str(study_file()))
    assert result.exit_code == 0
    assert "0.0001 to 0.01, log" in result.output
    assert "size: 4 combinations times the continuous dropout, learning_rate" in result.output
    as_json = json.loads(call("check", str(study_file()), "--json").stdout)
    assert as_json["combinations"] == 4
    assert as_json["space"]["filters"] == {"choices": [4, 8]}


def test_check_tells_every_param_and_wraps_to_the_terminal(
    study_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "64")
    lines = call("check", str(study_file())).output.splitlines()
    first = lines.index(next(line for line in lines if line.startswith("params ("))) + 1
    table = list(itertools.takewhile(lambda line: line.startswith("  "), lines[first:]))
    assert max(map(len, table)) <= 64
    said = " ".join(" ".join(table).split())
    knobs = registry.knobs("cnn")
    assert {line.split()[0] for line in table if line[2] != " "} == set(knobs)
    assert all(knob.allowed in said for knob in knobs.values())
    assert "dropout 0.0 to 0.5; allowed: a number in [0, 1); default 0.5; rate before" in said
    assert "momentum 0.9 (default); allowed: a number in [0, 1);" in said


def test_check_params_lists_all_that_a_file_may_say() -> None:
    said = " ".join(call("check", "--params", "any").output.split())
    assert "dropout a number in [0, 1); default 0.5 in cnn, 0.2 in resnet50;" in said
    assert "views a whole number in [0, 64]; default 1; of resnet50 alone;" in said
    assert "metric one of val_accuracy, val_balanced_accuracy, val_auc, val_loss; required;" in said
    assert "[training] epochs a whole number in [1, 10000]; default 10;" in said
    assert "[published.RECIPE] recall a number in [0, 1]; default none;" in said
    facts = json.loads(call("check", "--params", "resnet50", "--json").stdout)
    assert {row["name"] for row in facts["params"]} == set(registry.knobs("resnet50"))
    required = {row["name"] for row in facts["keys"] if row["required"]}
    assert required == {"name", "purpose", "image_size", "metric", "direction", "trials"}


@pytest.mark.parametrize("arguments", [["check"], ["data"], ["model"], []])
def test_bare_command_helps(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "\nOptions:\n" in result.output


def test_check_tells_every_mistake_of_a_file_in_a_line_each(
    study_file: Callable[..., Path],
) -> None:
    broken = study_file(swap={"trials = 2": "trials = 0", "high = 0.5": "high = 1.5"})
    result = call("check", str(broken))
    assert result.exit_code == 1
    assert [line.startswith("error: ") for line in result.stderr.splitlines()] == [True, True]


def test_check_estimates_for_the_photos_that_the_study_has(
    study_file: Callable[..., Path],
) -> None:
    assert "for 70 photos of train" in call("check", str(study_file())).output  # drawn
    path = str(study_file(swap={'source = "synthetic"': "subset = 600"}))
    assert "for 600 photos of train" in call("check", path).output
    assert "for 5000 photos of train" in call("check", path, "--photos", "5000").output


def test_output_that_nobody_reads_on_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does
    command = [sys.executable, "-m", "catdog_search", "studies"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_terminated_command_says_a_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("catdog_search.machine.backends.use_backend", end)
    result = call("promote", "quick")
    assert (result.exit_code, result.stderr) == (130, "interrupted; run again to resume\n")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_full_disk_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(studies, "available", full)
    result = call("studies")
    assert result.exit_code == 1
    assert result.output.startswith("error: the disk is full (No space left on device)")
    assert result.output.count("\n") == 1


def test_doctor_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CATDOG_DATA", str(tmp_path / "nowhere"))
    result = call("doctor", "--state", str(tmp_path / "state"))
    assert result.exit_code == 1
    assert "FAIL  data: " in result.output
    assert "ok    backend: " in result.output
    assert not (tmp_path / "state").exists()
    monkeypatch.delenv("CATDOG_DATA")
    well = json.loads(call("doctor", "--json", "--state", str(tmp_path / "state")).stdout)
    assert well["ok"]


@pytest.mark.starts_backend
def test_doctor_starts_the_backend_as_run_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = ("--state", str(tmp_path / "state"))
    well = call("doctor", *where)
    assert "ok    device: CPU, " in well.output or "ok    device: NVIDIA" in well.output
    backend = os.environ["KERAS_BACKEND"]
    broken = tmp_path / "broken" / backend / "__init__.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("raise ImportError('libcuda.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parents[1]))
    ill = call("doctor", *where)
    assert ill.exit_code == 1
    said = f"FAIL  device: {backend} doesn't start: ImportError: libcuda.so.1: cannot open"
    assert said in ill.output


def test_missing_backend_is_said_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("KERAS_BACKEND")
    result = call("run", "--study", str(study_file()), "--state", str(tmp_path / "state"))
    assert result.exit_code == 1
    assert "no Keras backend is installed; install one: pip install" in result.stderr
    assert result.stdout == ""  # no photo was read
    assert not (tmp_path / "state").exists()
