"""Secrets in what would be written into a script or a manifest, found by names, by commands, and by their form.

Names and commands are this project's; the forms of keys and tokens are those of detect-secrets. No value is ever told.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from vizsage.errors import ConfigError

NOT_SECRETS = "vizsage/not-secrets"

# Parts of a name, in any place, as the end of a part, and as the last part only: SORT_KEY, but not KEYBOARD.
_ANYWHERE = ("token", "password", "passwd", "passphrase", "secret", "secrets", "apikey", "credential", "credentials")
_LAST = frozenset("key keys auth pass pw pwd pat jwt cred creds bearer".split())
_KEYS = ("access_key", "api_key", "private_key", "secret_key", "account_key")
# A name that ends so says where a secret is, or how it is handled.
_NO_SECRET = frozenset(
    "path file dir sock socket name type url uri host port endpoint cmd command helper ttl timeout limit length size "
    "count mode method provider parallelism stdin".split()
)
_NO_VALUE = frozenset(["", "0", "1", "true", "false", "yes", "no", "on", "off", "none", "null"])
_FILE = re.compile(r"(?:~|\$\w+|\.{1,2})?(?:/[\w.-]+){2,}|[\w./~-]+\.(?:json|pem|key|crt|txt|yaml)")
_SHELL_NAMES = ("PWD", "OLDPWD")

# One word of bash with its quotes, and the parts of one.
_PART = re.compile(
    r"""\$?'(?P<single>(?:\\.|[^'\\])*)'|\$?"(?P<double>(?:\\.|[^"\\])*)"|(?P<plain>(?:\$\([^()]*(?:\([^()]*\)[^()]*)*\)|"""
    r"""`[^`]*`|\$\{[^}]*\}|\\.|[^\s;&|<>()'"`\\])+)"""
)
_WORD = rf"(?:{re.sub(r'[?]P<[a-z]+>', '?:', _PART.pattern)})+"
_REFERENCE = re.compile(
    r"\$\{\w+(?::?[-=+](?P<default>[^}]*)|[^}]*)\}|\$\(\s*(?P<command>[^()]*(?:\([^()]*\)[^()]*)*)\)|`(?P<old>[^`]*)`|\$\w+"
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic|token|digest)\b")

_ASSIGNED = re.compile(rf"(?<![\w$.-])(\w+)\+?=({_WORD})")
_SETENV = re.compile(rf"\bsetenv\s+(\w+)\s+({_WORD})")
_OPTION = re.compile(rf"(?<!\S)--?([A-Za-z][\w-]*)(?:=|\s+)(?!-)({_WORD})")
_HEADER = re.compile(
    r"""(?i)\b((?:proxy-)?authorization|[\w-]*(?:token|api-?key|secret|auth))["']?\s*:\s*(?:\s|["'])\s*"""
    r"""(?:(?:bearer|basic|token|digest)\s+)?(?!(?:bearer|basic|token|digest)\s|[$`{])([^\s"']+)"""
)
_WANDB = re.compile(rf"\bwandb\s+login\b((?:\s+{_WORD})*)")
_NETRC = re.compile(rf"\bmachine\s+\S+.*?\bpassword\s+({_WORD})")
_SHORT_OPTION = re.compile(
    rf"\b(sshpass|(?:docker|podman|skopeo|apptainer)\s+(?:registry\s+)?login)\b[^;|&]*?\s-p\s*({_WORD})"
)
# What a command that logs in reads from its stdin: `echo KEY | wandb login`, `wandb login <<< KEY`.
_LOGIN = r"\b((?:wandb|hf|huggingface-cli|docker|podman|skopeo|apptainer|gh)\s+(?:auth\s+|registry\s+)?login)\b"
_PIPED = re.compile(rf"\b(?:echo|printf)\b([^;&|]*)\|[^;&|]*?{_LOGIN}")
_HERE_STRING = re.compile(rf"{_LOGIN}[^;&|]*?<<<\s*({_WORD})")
_FORMAT = re.compile(r"%\w|\\[nr]")  # of printf
_CURL = re.compile(rf"\bcurl\b[^;&|]*?\s(?:-u|--user)[\s=]*({_WORD})")
# Forms that detect-secrets does not know.
_FORMS = {
    "Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "Weights & Biases key": re.compile(r"\bwandb_v\d_\w{20,}"),
    "Anthropic or OpenAI key": re.compile(r"\bsk-(?:ant|proj|svcacct)-[\w-]{20,}"),
    "NVIDIA key": re.compile(r"\bnvapi-[\w-]{20,}"),
    "Google key": re.compile(r"\bAIza[\w-]{35}"),
}


def in_variables(variables: Mapping[str, str], allowed: Iterable[str] = ()) -> list[str]:
    """The names of those that look like a secret, by name or value. The values are taken as they are, `$NAME` too."""
    return [
        name
        for name, value in variables.items()
        if name not in allowed
        and value.strip().lower() not in _NO_VALUE
        and (_is_secret(name, value) or next(_forms(value), None) is not None)
    ]


def in_lines(text: str, allowed: Iterable[str] = ()) -> list[tuple[int, str]]:
    """Number of the line and name of what looks like a secret there, for lines of bash.

    What is fetched when the script runs is none: $NAME, $(cat FILE).
    """
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        found += [(number, name) for name in dict.fromkeys(_in_line(line)) if name not in allowed]
    return found


def refuse_in_manifest(documents: Iterable[dict[str, Any]]) -> None:
    """Raise ConfigError where a container's variables, command or arguments, or a ConfigMap, hold a secret.

    Whoever may read the object sees it there. The annotation vizsage/not-secrets lists names that are none.
    """
    found = []
    for document in documents:
        kind, metadata = str(document.get("kind")), document.get("metadata") or {}
        listed = str((metadata.get("annotations") or {}).get(NOT_SECRETS, ""))
        allowed = {name.strip() for name in listed.split(",")}
        here = [f"data: {name}" for name in in_variables(_texts(document.get("data") or {}), allowed)] * (
            kind == "ConfigMap"
        )
        for container in _containers(document):
            values = {one.get("name"): one.get("value") for one in container.get("env") or ()}
            here += [
                f"env of container {container.get('name')}: {name}" for name in in_variables(_texts(values), allowed)
            ]
            for key in ("command", "args"):
                text = " ".join(word for word in container.get(key) or () if isinstance(word, str))
                here += [f"{key} of container {container.get('name')}: {name}" for _, name in in_lines(text, allowed)]
        found += [f"{kind} {metadata.get('name')}: {place}" for place in here]
    if found:
        raise ConfigError(
            f"{', '.join(dict.fromkeys(found))}: looks like a secret, which whoever may read the object would "
            "see: keep it in a Secret and name that one with envFrom or secretKeyRef, or, if it is none, list its name "
            f"in the annotation {NOT_SECRETS} there"
        )


def _containers(value: Any) -> Iterator[dict[str, Any]]:
    """Those of the pods in a document, however deep they are."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key in ("containers", "initContainers") and isinstance(below, list):
                yield from (one for one in below if isinstance(one, dict))
            else:
                yield from _containers(below)
    elif isinstance(value, list):
        for below in value:
            yield from _containers(below)


def _texts(values: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): value for name, value in values.items() if isinstance(value, str)}


def _is_secret(name: str, value: str) -> bool:
    """Whether a variable of this name holds a secret, as a rule. Keys and credentials may be files."""
    words = [word for word in re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if word]
    if not words or words[-1] in _NO_SECRET or name in _SHELL_NAMES:
        return False
    if words[-1].startswith(("key", "cred")) and _FILE.fullmatch(value):
        return False
    joined = "_".join(words)
    if joined in ("key", "keys", "pat"):  # of a sort, a dictionary, a pattern
        return len(value) >= 16
    return words[-1] in _LAST or any(word.endswith(_ANYWHERE) for word in words) or any(key in joined for key in _KEYS)


def _in_line(line: str) -> Iterator[str]:
    for pattern in (_ASSIGNED, _SETENV):
        for name, word in pattern.findall(line):
            if _is_secret(name, word.strip("\"'")) and _is_literal(word):
                yield name
    for name, word in _OPTION.findall(line):
        # --key and --auth take the name of a file or of a method.
        if _is_secret(name, word) and name.lower() not in ("key", "auth") and _is_literal(word):
            yield f"--{name}"
    for name, _ in _HEADER.findall(line):
        yield name
    for words in _WANDB.findall(line):
        given = [found[0] for found in re.finditer(_WORD, re.sub(rf"--(host|entity)(=|\s+){_WORD}", "", words))]
        if any(_is_literal(word) for word in given if not word.startswith("-")):
            yield "wandb login"
    for word in _NETRC.findall(line):
        if _is_literal(word):
            yield "password"
    for command, word in _SHORT_OPTION.findall(line):
        if _is_literal(word):
            yield f"{' '.join(command.split())} -p"
    for given, command in _PIPED.findall(line):
        words = [found[0] for found in re.finditer(_WORD, given) if not found[0].startswith("-")]
        if any(_is_literal(_FORMAT.sub("", word)) for word in words):
            yield " ".join(command.split())
    for command, word in _HERE_STRING.findall(line):
        if _is_literal(word):
            yield " ".join(command.split())
    for word in _CURL.findall(line):
        if _is_literal(word.partition(":")[2]):
            yield "curl --user"
    yield from _forms(line)


def _is_literal(word: str) -> bool:
    """Whether a word of bash holds text of its own, beside what is fetched when the script runs."""
    rest = ""
    for part in _PART.finditer(word):
        if part["single"] is not None:
            rest += part["single"]
            continue
        text = part["double"] if part["double"] is not None else part["plain"]
        for reference in _REFERENCE.finditer(text):
            if reference["default"] and _is_literal(reference["default"]):
                return True
            command = reference["command"] or reference["old"] or ""
            if (printed := re.match(r"\s*(?:echo|printf)\b(.*)", command)) and re.search(r"\w", _without(printed[1])):
                return True
        rest += _without(text)
    rest = _SCHEME.sub("", rest)
    return re.search(r"\w", rest) is not None and rest.strip().lower() not in _NO_VALUE


def _without(text: str) -> str:
    return _REFERENCE.sub("", text)


def _forms(text: str) -> Iterator[str]:
    """What the text has the form of: "GitHub Token"."""
    for name, pattern in _FORMS.items():
        if pattern.search(text):
            yield name
    for name, find in _detectors().items():
        if any(True for _ in find(text)):
            yield name


@functools.cache
def _detectors() -> dict[str, Callable[[str], Iterable[str]]]:
    """detect-secrets' regular expressions. Imported here: most commands read no profile. They ask no network."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import BasePlugin

    # Guesses by entropy take every hash for a secret, guesses by keyword are this module's own, addresses are none.
    guesses = ("Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector", "IPPublicDetector")
    known: Mapping[str, type[BasePlugin]] = get_mapping_from_secret_type_to_class()
    return {name: plugin().analyze_string for name, plugin in known.items() if plugin.__name__ not in guesses}
