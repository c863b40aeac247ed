from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.schedulers.slurm.profile import Profile, load_profile
from vizsage.contract import EXIT_USAGE
from vizsage.errors import ConfigError

ROOT = Path(__file__).parents[4]
SHIPPED = sorted((ROOT / "config" / "clusters").glob("*.yaml"))
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a profile and returns its path."""

    def _write(text: str) -> str:
        path = tmp_path / "here.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return _write


def refusal(name: str | None, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_profile(name, changes)
    assert caught.value.exit_code == EXIT_USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_profile_loads_by_its_name_and_begins_with_its_command(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert load_profile(path.stem, {}) == load_profile(str(path), {})
    option = "" if path.stem == "default" else f" --profile {path.stem}"
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# python -m jobs submit slurm train CONFIG{option}\n")


def test_the_default_profile_names_every_key_in_order() -> None:
    path = ROOT / "config" / "clusters" / "default.yaml"
    assert list(yaml.safe_load(path.read_text(encoding="utf-8"))) == list(Profile.model_fields)
    assert load_profile(str(path), {}) == Profile(mem="32G")


def test_there_is_an_example_of_each_kind() -> None:
    kinds = {path.stem: load_profile(str(path), {}).container_kind for path in SHIPPED}
    assert kinds == {"default": "none", "bare": "none", "apptainer": "apptainer", "pyxis": "pyxis"}


def test_no_name_means_the_default_file_and_without_it_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_profile(None, {}) == Profile()
    (tmp_path / "config" / "clusters").mkdir(parents=True)
    (tmp_path / "config" / "clusters" / "default.yaml").write_text("nodes: 3\n", encoding="utf-8")
    assert load_profile(None, {}).nodes == 3
    assert "there are apptainer, bare, default, pyxis, or name a YAML file" in refusal("mine")  # the package has more
    assert "did you mean 'default'?" in refusal("defualt")


def test_changes_lie_over_the_file_and_none_takes_a_request_away(write: Write) -> None:
    path = write("nodes: 2\ngres: gpu:2\ntime: 1-00\n")
    profile = load_profile(path, {"nodes": 4, "gres": None, "time": "2:00:00"})
    assert (profile.nodes, profile.gres, profile.time_limit_s) == (4, None, 7200)
    assert "on the command line: time: expected MM" in refusal(path, time="soon")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("010", 600),
        ("15:30", 960),  # SLURM counts whole minutes, rounded up
        ("24:00:00", 86400),
        ("48:00:00", 172800),
        ("00:00:01", 60),
        ("2-00", 172800),
        ("1-12:30", 131400),
        ("7-00:00:00", 604800),
        ("UNLIMITED", None),
        ("infinite", None),
        ("0", None),
    ],
)
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_times_are_read_as_slurm_reads_them_quoted_or_not(
    write: Write, text: str, seconds: int | None, quote: str
) -> None:
    profile = load_profile(write(f"time: {quote}{text}{quote}\nsignal_delay_s: 5\n"), {})
    assert profile.time == text
    assert profile.time_limit_s == seconds


@pytest.mark.parametrize("text", ["1:2:3:4", "1d", "24h", "-5", "1-", "1.5", "", "1-2-3", "24:00:00 # x'", "٣"])
def test_other_times_are_refused(text: str) -> None:
    assert "time: expected MM, MM:SS, HH:MM:SS" in refusal(None, time=text)


@pytest.mark.parametrize(("time", "fits"), [("10", False), ("10:01", True), ("0:10:00", False), ("INFINITE", True)])
def test_the_signal_comes_within_the_time_limit(write: Write, time: str, fits: bool) -> None:
    path = write(f"time: {time}\nsignal_delay_s: 600\n")
    if fits:
        load_profile(path, {})
    else:
        assert f"signal_delay_s: 600 seconds before the end must be less than time: {time}" in refusal(path)


def test_values_are_the_texts_that_were_written(write: Write) -> None:
    profile = load_profile(
        write(
            "mem: 0\naccount: 0123\nqos: on\npartition: 2026-01-31\nconstraint: ~\n"
            "environment: {A: yes, B: 1e3, C: 010, D: 1, E: 12:30:00, F: '', on: x}\n"
        ),
        {},
    )
    assert (profile.mem, profile.account, profile.qos, profile.partition) == ("0", "0123", "on", "2026-01-31")
    assert profile.constraint is None
    assert profile.environment == {
        "A": "yes", "B": "1e3", "C": "010", "D": "1", "E": "12:30:00", "F": "", "on": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind", "image"),
    [
        ("none", "none", None),
        ("apptainer images/a.sif", "apptainer", "images/a.sif"),
        ("apptainer  /my images/a.sif", "apptainer", "/my images/a.sif"),
        ("pyxis /images/a.sqsh", "pyxis", "/images/a.sqsh"),
        ("pyxis a.sqsh", "pyxis", "./a.sqsh"),
        ("pyxis nvcr.io#nvidia/pytorch:24.01", "pyxis", "nvcr.io#nvidia/pytorch:24.01"),
    ],
)
def test_containers(text: str, kind: str, image: str | None) -> None:
    profile = load_profile(None, {"container": text})
    assert (profile.container_kind, profile.container_image) == (kind, image)


@pytest.mark.parametrize(
    "name",
    "HF_TOKEN WANDB_API_KEY my_apikey DB_PASSWORD SECRET hf_token X_TOKEN_2 AWS_ACCESS_KEY_ID MY_PASS DB_PW "
    "PRIVATE_KEY CREDENTIALS PASSPHRASE GH_PAT JWT AUTH OPENAI_KEY dbPassword".split(),
)
def test_a_secret_is_refused_wherever_it_would_reach_the_script_and_its_value_is_not_repeated(
    write: Write, name: str
) -> None:
    for text in (
        f"environment: {{{name}: hunter2}}",
        f"setup: ['export {name}=hunter2']",
        f"setup: ['export A=1 {name}=\"hunter2\"']",
        f"setup: ['{name}+=hunter2']",
        f"setup: [\"{name}=$'hunter2'\"]",
        f"setup: ['export {name}=${{{name}:-hunter2}}']",
        f"setup: ['{name}=$(echo hunter2)']",
        f"srun_options: ['--export=ALL,{name}=hunter2']",
    ):
        message = refusal(write(text + "\n"))
        assert "hunter2" not in message
        assert f"{name} looks like a secret" in message
        assert "export it in your shell, which passes it on" in message
        load_profile(write(f"{text}\nnot_secrets: [{name}]\n"), {})
    assert "hunter2" not in refusal(write(f"environment: ['{name}=hunter2']\n"))
    assert "hunter2" not in repr(Profile(environment={"PLAIN": "hunter2"}))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("wandb login hunter2", "wandb login"),
        ("python -m wandb login --relogin --host https://w.example hunter2", "wandb login"),
        ("hf auth login --token hunter2", "--token"),
        ("huggingface-cli login --token=hunter2", "--token"),
        ('curl -H "Authorization: Bearer hunter2" https://a.example', "Authorization"),
        ("echo 'machine api.wandb.ai login user password hunter2' > ~/.netrc", "password"),
        ("docker login -u me -p hunter2 a.example", "docker login -p"),
        ("printf '%s\\n' hunter2 | docker login -u me --password-stdin", "docker login"),
        ("echo -n hunter2 | python -m wandb login --relogin", "wandb login"),
        ("hf auth login <<< hunter2", "hf auth login"),
        ("curl -sS -u me:hunter2 https://a.example", "curl --user"),
        ("python -c 'import wandb; wandb.login(key=\"hunter2hunter2hunter2\")'", "key"),
        ("export HTTPS_PROXY=http://me:hunter2@proxy:3128", "Basic Auth Credentials"),
        # Forms, whatever text is around them.
        (f"use ghp_{'hunter2' * 5}A", "GitHub Token"),
        (f"use hf_{'hunter2' * 5}", "Hugging Face token"),
        ("use AKIAHUNTER2HUNTER2QQ", "AWS Access Key"),
    ],
)
def test_a_secret_is_found_by_the_command_that_takes_it_or_by_its_form(write: Write, line: str, name: str) -> None:
    text = yaml.safe_dump({"setup": ["module load cuda", line]})
    message = refusal(write(text))
    assert f"setup: line 2: {name} looks like a secret" in message
    assert "hunter2" not in message.lower()
    load_profile(write(text + yaml.safe_dump({"not_secrets": [name]})), {})


def test_a_secret_is_found_in_the_value_of_a_variable(write: Write) -> None:
    for value in ("http://me:hunter2@proxy:3128", f"hf_{'hunter2' * 5}"):
        message = refusal(write(f"environment: {{PLAIN: '{value}'}}\n"))
        assert "environment: PLAIN looks like a secret" in message
        assert "hunter2" not in message


def test_what_only_resembles_a_secret_is_accepted(write: Write) -> None:
    environment = {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_TOKEN_PATH": "/shared/token",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "GOOGLE_APPLICATION_CREDENTIALS": "/shared/google.json",
        "MAX_TOKENS": "512",
        "SSH_AUTH_SOCK": "/run/agent",
        "HTTPS_PROXY": "http://proxy:3128",
        "COMMIT": "0123456789abcdef0123456789abcdef01234567",
    }
    setup = [
        "export HF_TOKEN=$(cat token) JWT=`cat jwt`",
        'export HF_TOKEN="$MINE" GH_PAT=${MINE} DB_PW="${MINE:-$OTHER}" AUTH="Bearer $MINE"',
        "unset WANDB_API_KEY",
        'wandb login; wandb login --relogin "$WANDB_API_KEY"; wandb login $(cat ~/.wandb)',
        'hf auth login --token "$HF_TOKEN"',
        "echo yes | hf auth login; printf '%s\\n' \"$MINE\" | docker login --password-stdin; wandb login <<< $MINE",
        'curl -u me:"$MINE" https://a.example; echo "before login" | tee log; curl -u me https://a.example',
        'curl -H "Authorization: Bearer ${HF_TOKEN}" https://a.example',
        "export HTTPS_PROXY=http://$USER:$MINE@proxy:3128",
        'if [ "$HF_TOKEN" = "" ]; then echo "no token"; fi; cd "$PWD"',
        "conda activate 0123456789abcdef0123456789abcdef01234567",
        "python -c 'print(sorted(names, key=len))'; pat='*.json'; sort --key=2 names",
    ]
    profile = load_profile(write(yaml.safe_dump({"environment": environment, "setup": setup})), {})
    assert (profile.environment, profile.setup) == (environment, tuple(setup))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin: gpu", "unknown key 'partitoin', did you mean 'partition'?"),
        ("partition: a b", 'partition: expected one word without blanks, found "a b"'),
        ("gres: ''", "gres: expected one word"),
        ("nodes: 0", "nodes: Input should be greater than or equal to 1"),
        ("nodes: two", "nodes: Input should be a valid integer"),
        ("gpus_per_node: -1", "gpus_per_node: Input should be greater than or equal to 0"),
        ("cpus_per_task: yes", "cpus_per_task: Input should be a valid integer"),
        ("signal_delay_s: 70000\ntime: 7-00", "signal_delay_s: Input should be less than or equal to 65535"),
        ("mem: 64 G", "mem: expected a number with K, M, G or T"),
        ("mem: 1.5G", "mem: expected a number"),
        ("setup: module load x", "setup: Input should be a valid tuple"),
        ("environment: {A-B: 1}", "environment: 'A-B' is no name of a variable"),
        ("environment: {A: [1]}", "environment: Input should be a valid string"),
        ("container: docker x", "container: expected none, apptainer FILE.sif or pyxis FILE.sqsh"),
        ("container: apptainer", "container: expected none"),
        ("container: none x.sif", "container: expected none"),
        ("container: apptainer $X/x.sif", "container: expected the image's path written out"),
        ("container: apptainer ~nobody-here/x.sif", "container: ~nobody-here names no home folder"),
        ("mounts: [/a]", "mounts: expected SRC:DST, SRC:DST:ro or SRC:DST:rw, two absolute paths without a comma"),
        ("mounts: ['/a:b']", "mounts: expected SRC:DST"),
        ("mounts: ['$HOME/a:/b']", "mounts: expected SRC:DST"),
        ("mounts: ['/a:/b:rx']", "mounts: expected SRC:DST"),
        ("mounts: ['/a:/b,/c:/d']", "mounts: expected SRC:DST"),
        ("mounts: ['/a:/b']", "mounts: only a container has mounts"),
        ("local_cache: cache", "local_cache: expected an absolute path"),
        ("local_cache: /tmp/$(whoami)", "local_cache: expected an absolute path"),
        ("local_cache: '/tmp/\"x'", "local_cache: expected an absolute path"),
        ("- nodes", "expected lines of `key: value`, found a list"),
        ("nodes: 1\nnodes: 2", "line 2, column 1: broken YAML: key 'nodes' is repeated"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_in_a_line_that_names_file_and_key(write: Write, text: str, message: str) -> None:
    path = write(text + "\n")
    found = refusal(path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_all_problems_are_reported_at_once(write: Write) -> None:
    message = refusal(write("nodse: 1\nmem: lots\ncontainer: none\nmounts: [/a:/b]\ntime: 5\n"))
    for part in ("unknown key 'nodse'", "mem: expected", "mounts: only", "signal_delay_s: 600 seconds"):
        assert part in message


def test_the_home_folder_has_its_sign(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/somebody")
    path = write(
        "container: apptainer ~/x.sif\nmounts: ['~/data:/data:ro']\nlocal_cache: ~/cache\npython: ~/venv/bin/python\n"
        "environment: {HF_HOME: ~/hf, FORMAT: ~n}"
    )
    profile = load_profile(path, {})
    assert profile.container_image == "/users/somebody/x.sif"
    assert profile.mounts == ("/users/somebody/data:/data:ro",)
    assert (profile.local_cache, profile.python) == ("/users/somebody/cache", "/users/somebody/venv/bin/python")
    assert profile.environment == {"HF_HOME": "/users/somebody/hf", "FORMAT": "~n"}


def test_a_profile_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Profile().nodes = 2  # type: ignore[misc]


def test_every_key_has_a_line_of_help() -> None:
    for name, field in Profile.model_fields.items():
        assert re.fullmatch(r"[^\n]{10,110}\.", field.description or ""), name
