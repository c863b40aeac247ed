"""The exit codes of the contract, and the shell, YAML, Markdown and help texts that repeat them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jobs.run
from vizsage import contract, errors, parser

ROOT = Path(__file__).parents[2]
CAUSES = set(contract.EXITS_WITH_CAUSE)
DECIDED = {contract.EXIT_DONE, *CAUSES}  # trying again cannot change them
TABLE = {*DECIDED, contract.EXIT_INTERRUPTED}


def texts(*patterns: str) -> Iterator[tuple[Path, str]]:
    """The files of the product that match."""
    for folder in ("vizsage", "jobs", "slurm", "k8s"):
        for pattern in patterns:
            for path in (ROOT / folder).rglob(pattern):
                yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def numbers(text: str) -> set[int]:
    return {int(number) for number in re.findall(r"\d+", text)}


def test_each_code_has_one_meaning() -> None:
    codes = [code for name, code in vars(contract).items() if name.startswith("EXIT_")]
    assert len(codes) == len(set(codes)) > len(TABLE)


def test_each_error_ends_with_a_code_of_the_contract() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.VizSageError)]
    assert {kind.exit_code for kind in kinds} == {*CAUSES, contract.EXIT_INTERRUPTED, contract.EXIT_UNKNOWN}


def test_manifests_fail_or_continue_on_the_codes_of_the_contract() -> None:
    found = [
        (path, numbers(values))
        for path, text in texts("*.yaml")
        for values in re.findall(r"onExitCodes:[^\[]*values: \[([^\]]*)\]", text)
    ]
    for path, codes in found:
        assert codes in (CAUSES, {contract.EXIT_INTERRUPTED}), path
    assert CAUSES in [codes for _, codes in found]
    assert {contract.EXIT_INTERRUPTED} in [codes for _, codes in found]


def test_batch_scripts_decide_by_the_codes_of_the_contract() -> None:
    decided, interrupted, of_nodes = [], [], []
    for path, text in texts("*.sbatch", "*.py"):
        decided += [(path, numbers(case)) for case in re.findall(r"^((?:\*:)?0 \|[^)]*)\)", text, re.MULTILINE)]
        interrupted += [
            (path, {int(code)})
            for code in re.findall(r"^(?:RUNNING:)?(\d+)\)\s(?:\s*echo.*\n)?\s*requeue", text, re.MULTILINE)
        ]
        of_nodes += [(path, numbers(codes)) for codes in re.findall(r"for known in ([\d ]+);", text)]
    for found, expected in ((decided, DECIDED), (interrupted, {contract.EXIT_INTERRUPTED}), (of_nodes, CAUSES)):
        assert found
        assert [path for path, codes in found if codes != expected] == []


def test_the_documentation_and_the_help_texts_name_the_codes_of_the_contract() -> None:
    table = (ROOT / "docs/reference/exit-codes.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == TABLE
    epilog = parser.EPILOG[parser.EPILOG.index("exit codes:") :]
    usage = jobs.run.USAGE[jobs.run.USAGE.index("exit code:") : jobs.run.USAGE.index("CONFIG       ")]
    for text in (epilog, usage):
        assert {int(code) for code in re.findall(r"(?<!\S)(\d+) [a-z]", text)} == TABLE, text


def test_the_pages_on_schedulers_name_the_codes_of_the_contract() -> None:
    for page in ("docs/how-to/slurm.md", "docs/how-to/kubernetes.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        rows = re.findall(r"^\| (?:exit )?(\d+(?:(?:, | or )\d+)*)(?: [^|]*|: [^|]*)\|", text, re.MULTILINE)
        assert {code for row in rows for code in numbers(row)} == TABLE, page
