"""Secrets in a script or a manifest, found by names, by commands, and by the form of keys and tokens.

Names and commands are listed here; the forms are those of detect-secrets and a few more. No message contains a value.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

# Endings of any part of a name; names of its last part (SORT_KEY, not KEYBOARD); sequences of parts.
_ANYWHERE = ("token", "password", "passwd", "passphrase", "secret", "secrets", "apikey", "credential", "credentials")
_LAST = frozenset("key keys auth pass pw pwd pat jwt cred creds bearer".split())
_KEYS = ("access_key", "api_key", "private_key", "secret_key", "account_key")
# A name with one of these as its last part names where a secret is, or how it is used.
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
# The standard input of a command that logs in: `echo KEY | wandb login`, `wandb login <<< KEY`.
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
    """The names of variables that look like a secret, by name or value. `$NAME` in a value is not expanded."""
    return [
        name
        for name, value in variables.items()
        if name not in allowed
        and value.strip().lower() not in _NO_VALUE
        and (_is_secret(name, value) or next(_forms(value), None) is not None)
    ]


def in_lines(text: str, allowed: Iterable[str] = ()) -> list[tuple[int, str]]:
    """The number of the line, from 1, and the name of each text that looks like a secret in lines of bash.

    What is read when the script runs is no secret: $NAME, $(cat FILE).
    """
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        found += [(number, name) for name in dict.fromkeys(_in_line(line)) if name not in allowed]
    return found


def _is_secret(name: str, value: str) -> bool:
    """Whether a variable of this name usually is a secret. Keys and credentials may be paths of files."""
    words = [word for word in re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if word]
    if not words or words[-1] in _NO_SECRET or name in _SHELL_NAMES:
        return False
    if words[-1].startswith(("key", "cred")) and _FILE.fullmatch(value):
        return False
    joined = "_".join(words)
    if joined in ("key", "keys", "pat"):  # may be the key of a dictionary, or a pattern
        return len(value) >= 16
    return words[-1] in _LAST or any(word.endswith(_ANYWHERE) for word in words) or any(key in joined for key in _KEYS)


def _in_line(line: str) -> Iterator[str]:
    for pattern in (_ASSIGNED, _SETENV):
        for name, word in pattern.findall(line):
            if _is_secret(name, word.strip("\"'")) and _is_literal(word):
                yield name
    for name, word in _OPTION.findall(line):
        # The values of --key and --auth are files or methods.
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
    """Whether a word of bash contains literal text, besides what is read when the script runs."""
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
    """The names of the forms that the text contains: "GitHub Token"."""
    for name, pattern in _FORMS.items():
        if pattern.search(text):
            yield name
    for name, find in _detectors().items():
        if any(True for _ in find(text)):
            yield name


@functools.cache
def _detectors() -> dict[str, Callable[[str], Iterable[str]]]:
    """The regular expressions of detect-secrets, which use no network. Imported here because few commands need them."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import BasePlugin

    # Left out: entropy, which finds every hash; keywords, which this module looks for; IP addresses, which are public.
    guesses = ("Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector", "IPPublicDetector")
    known: Mapping[str, type[BasePlugin]] = get_mapping_from_secret_type_to_class()
    return {name: plugin().analyze_string for name, plugin in known.items() if plugin.__name__ not in guesses}
