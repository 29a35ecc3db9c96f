"""Rounds: the contenders run in turn, repeatedly, so that a disturbance of the machine affects all of them alike."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from tests.bench.contenders import Contender, Gateway, references, stand_in
from tests.bench.jobs import Job
from tests.bench.litellm import litellm
from tests.bench.options import Options
from tests.bench.processes import SpoiltError
from tests.bench.runs import Sample, sample

BUSY_SHARE = 0.93
"""A single-threaded process that uses this share of a core is saturated."""
JOINED_SHARE = 0.2
"""If this share of the reads holds more than one chunk, some process is behind: chunks that share a read share its cost."""
OTHERS_SHARE = 0.3
"""Share of a core for everything else on the machine, kernel threads too: above it, do not trust times, and ratios only a little."""

Samples = dict[str, list[Sample]]


class Arena:
    """The upstream and the contenders in front of it, all running."""

    def __init__(self, options: Options, upstream: Contender, contenders: Sequence[Contender]) -> None:
        self.options = options
        self.upstream = upstream
        self.contenders = list(contenders)

    @property
    def gateway(self) -> Gateway:
        found = self.contenders[0]
        assert isinstance(found, Gateway)
        return found

    def rounds(self, job: Callable[[Contender], Job], *, direct: bool = False, rounds: int | None = None) -> Samples:
        """Run the job on each contender for some rounds, each beginning with another; ``direct``: on the upstream itself too.

        A contender that dies is reported, and left out from then on. Raises: SpoiltError if it is the gateway or the upstream.
        """
        samples: Samples = {}
        for turn in range(rounds or self.options.rounds):
            taking_part = [self.upstream, *self.contenders] if direct else list(self.contenders)
            first = turn % len(taking_part)
            for contender in taking_part[first:] + taking_part[:first]:
                found = self._sample(job(contender), contender)
                if found is not None:
                    samples.setdefault(contender.name, []).append(found)
        return {name: samples[name] for name in self._names(direct) if name in samples}

    def sample(self, job: Job, contender: Contender) -> Sample:
        """Run one job. Raises: SpoiltError."""
        return sample(job, contender, self.upstream.process, self.options.directory)

    def _sample(self, job: Job, contender: Contender) -> Sample | None:
        try:
            return self.sample(job, contender)
        except SpoiltError as death:
            if contender in (self.gateway, self.upstream):
                raise
            say(f"left out from here on: {death}")
            self.contenders.remove(contender)
            return None

    def _names(self, direct: bool) -> list[str]:
        return [*([self.upstream.name] if direct else []), *(contender.name for contender in self.contenders)]


@contextmanager
def arena(options: Options, *, alone: bool = False, accounts: int = 1) -> Iterator[Arena]:
    """Start the upstream and all contenders, or (``alone``) the upstream and the gateway only, in a directory of their own."""
    directory = Path(tempfile.mkdtemp(dir=options.directory))
    is_alone = alone or options.alone
    with ExitStack() as stack:
        upstream = stack.enter_context(stand_in(directory))
        found = stack.enter_context(references(upstream.target.port, directory, alone=is_alone, accounts=accounts))
        if options.litellm is not None and not is_alone:
            peer = stack.enter_context(litellm(upstream.target.port, directory, options.litellm))
            found += [peer] if peer else []
        yield Arena(replace(options, directory=directory), upstream, found)


def saturation(samples: Sequence[Sample]) -> str:
    """Return a text that names saturated processes and other problems; empty if there were none."""
    worst = max(samples, key=lambda one: one.share)
    failed = sum(one.report.failed for one in samples)
    joined = max(one.report.joined_share for one in samples)
    others = max(one.others_share for one in samples)
    said = [
        f"disturbed: others on this machine took {others:.0%} of a core" if others > OTHERS_SHARE else "",
        f"{failed} requests failed" if failed else "",
        f"saturated: {worst.share:.0%} of a core" if worst.report.chunks and worst.share > BUSY_SHARE else "",
        f"behind: {joined:.0%} of the reads held several chunks" if joined > JOINED_SHARE else "",
        *(
            f"the {who} itself took {share:.0%} of a core"
            for who, share in (
                ("upstream", max(one.upstream_share for one in samples)),
                ("load", max(one.load_share for one in samples)),
            )
            if share > BUSY_SHARE
        ),
    ]
    return "; ".join(filter(None, said))


def say(line: str) -> None:
    """Print progress to standard error; the tables are on standard output."""
    print(line, file=sys.stderr, flush=True)
