"""Kubernetes as a scheduler of `python -m jobs`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jobs.schedulers.scheduler import Job, JobOptions, JobStatus, Option, Scheduler, path_or_name

if TYPE_CHECKING:
    from jobs.schedulers.kubernetes.apply import Shipment
    from jobs.spec import Work
    from jobs.submissions import Submission

# A host, which has a dot or a port or is localhost; the name; the tag; the digest.
_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    r"(?:(?:localhost|(?=[^/]*[.:])(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:]+\]))(?::\d+)?/)?"
    rf"{_PART}(?:/{_PART})*(?::\w[\w.-]{{0,127}})?(?:@[A-Za-z][\w.+-]*:[0-9a-fA-F]{{32,}})?",
    re.ASCII,
)


def _overlays() -> list[str]:
    from jobs.schedulers.kubernetes.apply import overlay_names

    return overlay_names()


def _check_image(image: str | None) -> None:
    """Raise ConfigError for what no container runtime takes for the name of an image, such as REGISTRY/vizsage."""
    from vizsage.errors import ConfigError, quoted

    if image is not None and not _IMAGE.fullmatch(image):
        raise ConfigError(
            f"--image: {quoted(image)} is no name of an image: expected HOST/NAME:TAG, the name in small letters, such "
            "as registry.example.com/team/vizsage:1.0"
        )


class Kubernetes(Scheduler["Shipment"]):
    """Manifests made of an overlay, applied with kubectl.

    Each member of a sweep is a separate Job with its own retries and its own end; the cluster sees to their order. An
    evaluation after a training runs in the same Job, because Jobs cannot depend on each other.
    """

    name = "kubernetes"
    title = "Kubernetes"
    options = (
        Option(
            "--overlay",
            "NAME",
            "k8s/overlays/NAME, or a folder (default: single-gpu, multi-gpu or multi-node, by what is asked for)",
            convert=path_or_name,
            names=_overlays,
        ),
        Option(
            "--image",
            "IMAGE",
            "instead of the overlay's",
            expected="the name of an image",
            is_valid=lambda text: bool(text.strip()),
        ),
        Option("--namespace", "NS", "instead of the one that kubectl uses"),
    )
    example = "--gpus-per-node 4"
    time_limit = "of the Job"
    shares_files = False
    node_rank_variable = "JOB_COMPLETION_INDEX"

    def prepare(self, works: Sequence[Work], options: JobOptions) -> list[Job[Shipment]]:
        """See Scheduler."""
        from jobs.schedulers.kubernetes.apply import Shipment, build, manifest, overlay_for
        from jobs.schedulers.kubernetes.manifest import Request
        from jobs.time_limit import seconds
        from vizsage.errors import ConfigError

        try:
            time_s = None if options.time is None else seconds(options.time) or 0
        except ValueError as error:
            raise ConfigError(f"--time: {error}, found {options.time!r}") from None
        own = options.own
        _check_image(own.get("image"))
        request = Request(options.nodes, options.gpus_per_node, own.get("image"), time_s, options.then_eval)
        overlay = overlay_for(own.get("overlay"), request)
        documents = build(overlay)
        labels = [[options.label, *([one.run_dir.name] if options.is_sweep else [])] for one in works]
        return [
            Job((one,), Shipment(manifest(overlay, documents, one, request, *words), own.get("namespace")))
            for one, words in zip(works, labels, strict=True)
        ]

    def render(self, jobs: Sequence[Job[Shipment]]) -> str:
        """See Scheduler."""
        return "---\n".join(job.prepared.manifest.text_without_secrets for job in jobs)

    def submit(self, job: Job[Shipment], after: Submission | None = None) -> list[Submission]:
        """See Scheduler."""
        from jobs.schedulers.kubernetes.apply import Unclear, submission_of, submit
        from jobs.submissions import note
        from jobs.terminal import warn

        [work] = job.works
        sent = submission_of(work, job.prepared.manifest, job.prepared.namespace)
        try:
            for problem in submit(work, job.prepared.manifest, sent):
                warn(problem)
        except (Unclear, KeyboardInterrupt):
            note(sent)
            raise
        return [sent]

    def ask(self, submission: Submission) -> JobStatus | None:
        """See Scheduler."""
        from jobs.schedulers.kubernetes.job_states import ask

        return ask(submission)

    def cancel(self, submission: Submission) -> None:
        """See Scheduler."""
        from jobs.schedulers.kubernetes.apply import cancel

        cancel(submission)

    def logs(self, submissions: Sequence[Submission], follow: bool, begin: Callable[[], None]) -> None:
        """See Scheduler. Those of all pods of the newest job."""
        from jobs.schedulers.kubernetes.pod_logs import print_logs

        begin()
        print_logs(submissions[-1], follow)

    def step(self, submission: Submission) -> int | None:
        """See Scheduler. Read from the log of the first node."""
        from jobs.schedulers.kubernetes.pods import step

        return step(submission)
