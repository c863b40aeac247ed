"""Run by test_coverage_guided.py: atheris feeds the readers of text files, guided by the lines that it reaches.

    python tests/data/coverage_guided.py FOLDER SECONDS

Anything but one of this project's own errors ends it with a code other than 0 and the input in FOLDER.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vizsage"]):
    from vizsage.config import build_config, load_config
    from vizsage.data.knowledge import KnowledgeTable
    from vizsage.data.sources import open_split
    from vizsage.errors import VizSageError
    from vizsage.evaluation.score import read_rows

SEEDS = [
    b'0[{"image": "a.jpg", "question": "q", "answer": 1.5, "answers": ["a"], "need_external_knowledge": true}]',
    b'1{"image": "a.jpg", "question": "q", "answer": "a"}\n{"image": "b.jpg", "question": "q", "answers": ["a"]}\n',
    b'2{"prediction": null, "answer": "a", "image": "a.jpg", "question": "q", "tags": {"style": "oil"}}\n',
    b'3image,description\n"a.jpg","says ""so"", he\nsaid"\nb.jpg,plain\n',
    b"4lr: 1e-4\nepochs: &n 2\nwandb_tags: [a, b]\nmax_steps: *n\n",
]


def read(folder: Path, kind: int, content: bytes) -> None:
    """Read `content` as a file of `kind`, and everything in it."""
    name = ("AQUA/train.json", "AQUA/train.jsonl", "predictions.jsonl", "table.csv", "settings.yaml")[kind]
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        if kind < 2:
            open_split(build_config({"base_path": str(folder)}), "train").load()
        elif kind == 2:
            list(read_rows(path, name))
        elif kind == 3:
            KnowledgeTable.load(path)
        else:
            load_config(path, [])
    finally:
        path.unlink()


def main(folder: Path, seconds: str) -> None:
    """Fuzz for `seconds`; does not return."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS):
        (corpus / str(number)).write_bytes(seed)

    def one_input(data: bytes) -> None:
        if not data:
            return
        try:
            read(folder, (data[0] - ord("0")) % len(SEEDS), data[1:])
        except VizSageError as error:
            if not str(error).strip():
                raise

    limits = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=3000", "-seed=1"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/", str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
