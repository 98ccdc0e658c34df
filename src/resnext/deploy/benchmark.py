"""Time a model: engines, precisions, batches, other libraries, in turn.

Every contender runs in a process of its own (`deploy.contender`), and they take turns: a
machine that slows down slows all of them, so ratios hold where single figures do not.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from resnext import arch, cores
from resnext.deploy import roofline, traffic
from resnext.deploy.certificate import software
from resnext.deploy.contender import OWN, PRECISIONS, RIVALS, USUAL, has_own_settings
from resnext.engines import tuning
from resnext.engines.base import Precision
from resnext.errors import ConfigError, EngineError, closest, import_extra
from resnext.provenance import machine
from resnext.weights import LocalModel

HEADER = (
    "engine", "precision", "batch", "images/s", "spread", "p50 ms", "p99 ms", "start s", "MB",
    "of peak", "ratio",
)  # fmt: skip

_PATIENCE = 300.0  # s for a contender to be ready; torch.compile may take a minute or two

Progress = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What was measured of one contender with one batch size.

    Args:
        engine: Of `contender.OWN` or `contender.RIVALS`.
        precision: What it computes in.
        batch_size: Pictures at once.
        threads: Of the processor; None for what it takes by itself.
        images_per_s: Median of the rounds; None where it did not run.
        low: Slowest round.
        high: Fastest round.
        p50_ms: Half of the calls took no longer.
        p99_ms: 99 of 100 calls took no longer.
        startup_s: From the start of the process to the first answer.
        memory_mb: The most memory the process took.
        peak_share: Share of the peak in that precision, 0 to 1: the processor's with as many
            threads, or the GPU's.
        gpu: Name of the GPU it ran on; "" for the processor.
        gpu_memory_mb: The most memory of the GPU that torch held.
        roof_share: On a GPU: share of the most that products and bytes allow, see `traffic`.
        reason: Why it did not run.
        hint: How to mend that; "" where nothing does.
    """

    engine: str
    precision: str
    batch_size: int
    threads: int | None = None
    images_per_s: float | None = None
    low: float = 0.0
    high: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    startup_s: float = 0.0
    memory_mb: float = 0.0
    peak_share: float | None = None
    gpu: str = ""
    gpu_memory_mb: float = 0.0
    roof_share: float | None = None
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was measured.

    Args:
        model: Name of the model.
        architecture: Its network.
        input_size: Side of its input.
        rounds: Turns of each contender.
        rows: One per contender, number of threads and batch size.
        peaks: Multiply-adds a second of this processor, by precision, then by the number of
            threads as text, "auto" where it was left open.
        gpu: What `gpu.measure` says of the GPU; empty where none was used.
        machine: What it is.
        software: What ran.
        sha256: Identifies the content of the model.
        date: When it was begun.
        asked: What was asked for, in the words of the command line.
    """

    model: str
    architecture: str
    input_size: int
    rounds: int
    rows: tuple[Row, ...]
    peaks: dict[str, dict[str, float]]
    gpu: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=machine)
    software: dict[str, str | None] = field(default_factory=software)
    sha256: str = ""
    date: str = ""
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Row | None:
        """The fastest row, or None where nothing ran."""
        ran = [row for row in self.rows if row.images_per_s is not None]
        return max(ran, key=lambda row: row.images_per_s or 0, default=None)

    @property
    def tells_threads(self) -> bool:
        """Whether rows differ in their number of threads."""
        return len({row.threads for row in self.rows}) > 1

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)


def choose(
    engines: Sequence[str] = (),
    against: Sequence[str] = (),
    precisions: Sequence[str] = (),
    *,
    eight_bits: bool = False,
) -> list[tuple[str, str]]:
    """Return the pairs of engine and precision to measure.

    Args:
        engines: Of this package; `contender.USUAL` if empty.
        against: Other libraries, see `contender.RIVALS`.
        precisions: "fp32", "bf16", "int8", "fp16", "tf32"; the first three if empty.
        eight_bits: Whether the model was quantized.

    Raises:
        ConfigError: A name is unknown, or there is no such pair.
    """
    every = get_args(Precision)
    for given, known in ((engines, OWN), (against, RIVALS), (precisions, every)):
        for name in given:
            if name not in known:
                near = closest(name, known)
                raise ConfigError(
                    f"{name!r} is unknown; expected one of {', '.join(known)}",
                    hint=f"did you mean {near[0]!r}?" if near else "",
                )
    wanted = precisions or ("fp32", "bf16", *(["int8"] if eight_bits else []))
    names = (*(engines or USUAL), *against)
    pairs = [
        (name, precision)
        for name in names
        for precision in PRECISIONS[name]
        if precision in (*wanted, "auto")
    ]
    if not pairs:
        raise ConfigError(
            f"nothing to measure: none of {', '.join(names)} computes in {', '.join(wanted)}",
            hint="; ".join(f"{name} has {', '.join(PRECISIONS[name])}" for name in names),
        )
    return pairs


def benchmark(
    local: LocalModel,
    contenders: Sequence[tuple[str, str]],
    *,
    batch_sizes: Sequence[int] = (1, 8),
    rounds: int = 5,
    seconds: float = 1.0,
    threads: Sequence[int] = (),
    progress: Progress | None = None,
) -> Report:
    """Measure a model.

    Args:
        local: The model.
        contenders: What `choose` returned.
        batch_sizes: Pictures at once.
        rounds: Turns of each contender and batch size.
        seconds: Length of a turn.
        threads: Numbers of processor threads, each of them for each contender, plain runtimes
            aside; what each takes by itself if empty.
        progress: Called with the turns done and those of all.

    Raises:
        EngineError: A contender ended in the middle.
    """
    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with contextlib.ExitStack() as stack:
        open_ones = [
            stack.enter_context(_opened(local, engine, precision, number))
            for engine, precision in contenders
            for number in ((None,) if has_own_settings(engine) else threads or (None,))
        ]
        turns = [
            (one, size) for one in open_ones if not one.reason for size in batch_sizes
        ]  # in this order in each round
        done = 0
        for _ in range(rounds):
            for one, size in turns:
                one.take_turn(size, seconds)
                done += 1
                if progress is not None:
                    progress(done, rounds * len(turns))
    report = _report(local, open_ones, batch_sizes, rounds=rounds)
    asked = _words(contenders)
    asked |= {"batches": list(batch_sizes), "rounds": rounds, "seconds": seconds}
    asked["threads"] = list(threads) or None
    return replace(report, sha256=local.sha256, date=began, asked=asked)


def _words(contenders: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return what `choose` takes for these."""
    names, precisions = (list(dict.fromkeys(words)) for words in zip(*contenders, strict=True))
    return {
        "engines": [name for name in names if name in OWN],
        "against": [name for name in names if name in RIVALS],
        "precisions": [name for name in precisions if name != "auto"],
    }


def _report(
    local: LocalModel,
    contenders: Sequence[_Contender],
    batch_sizes: Sequence[int],
    *,
    rounds: int,
) -> Report:
    spec, size = local.document.architecture, local.document.preprocess.input_size
    ran = [one for one in contenders if not one.reason]
    peaks = roofline.measure((one.precision, one.threads) for one in ran if not one.gpu)
    gpu: dict[str, Any] = {}
    if on_gpu := sorted({one.precision for one in ran if one.gpu}, reverse=True):
        gpu = import_extra("resnext.deploy.gpu", extra="torch").measure(on_gpu)
    macs, work = arch.num_macs(spec, size), traffic.kernels(spec, size)

    def row(one: _Contender, count: int) -> Row:
        if one.reason or not one.gpu:
            known = peaks.get(one.precision, {})
            return one.row(count, known.get(roofline.name(one.threads), 0.0) / macs)
        peak, bandwidth = gpu["peaks"][one.precision], gpu["bandwidth"]
        width = 2 if one.precision in ("bf16", "fp16") else 4
        roof = traffic.images_per_s(work, count, peak=peak, bandwidth=bandwidth, width=width)
        found = one.row(count, peak / macs)
        return replace(found, roof_share=(found.images_per_s or 0.0) / roof)

    return Report(
        model=local.document.name,
        architecture=spec.name,
        input_size=size,
        rounds=rounds,
        rows=tuple(
            row(one, count)
            for one in contenders
            for count in (batch_sizes if not one.reason else batch_sizes[:1])
        ),
        peaks=peaks,
        gpu=gpu,
    )


def check_threads(threads: Iterable[int]) -> None:
    """Refuse numbers of threads that `remember` would not keep.

    Raises:
        ConfigError: There are more than can run at the same time here.
    """
    most = cores.available()
    if too_many := [str(number) for number in threads if number > most]:
        raise ConfigError(
            f"threads {', '.join(too_many)}: expected at most {most} to remember, which is what"
            " can run at the same time here",
            hint="leave them out, or measure without remembering",
        )


def remember(local: LocalModel, report: Report) -> Path:
    """Let the fastest engine of this package be what "auto" takes for a model here.

    In all, and for each precision, with the number of threads it was measured with; a precision
    that was not measured now stays as it was. Not torch:compile: every start would take minutes.

    Returns:
        The file that says so.

    Raises:
        ConfigError: It was measured with more threads than can run at the same time here.
        EngineError: None of them ran.
        OutputError: The cache cannot be written.
    """
    check_threads(row.threads for row in report.rows if row.threads)
    ran = [
        row
        for row in report.rows
        if row.engine in OWN and row.engine != "torch:compile" and row.images_per_s is not None
    ]
    if not ran:
        raise EngineError(
            "no engine of this package ran, torch:compile aside; there is nothing to remember"
        )
    fastest: dict[str, Row] = {}
    for row in sorted(ran, key=lambda row: row.images_per_s or 0):
        fastest[row.precision] = row
    return tuning.remember(local, [_make_choice(row) for row in fastest.values()])


def _make_choice(row: Row) -> tuning.Choice:
    return tuning.Choice(
        engine=row.engine,
        precision=row.precision,
        batch_size=row.batch_size,
        images_per_s=round(row.images_per_s or 0, 2),
        gpu=bool(row.gpu),
        threads=None if row.gpu else row.threads,  # for a GPU, the fastest was so by chance
    )


def header(report: Report) -> tuple[str, ...]:
    """Return the names of the columns of `table`."""
    return (*HEADER[:2], "threads", *HEADER[2:]) if report.tells_threads else HEADER


def table(report: Report) -> list[tuple[str, ...]]:
    """Return a row of texts for each row of a report that ran, under `header`."""
    best = report.best
    rows: list[tuple[str, ...]] = []
    for row in report.rows:
        if row.images_per_s is None or best is None or best.images_per_s is None:
            continue
        threads = (roofline.name(row.threads),) if report.tells_threads else ()
        share = "" if row.peak_share is None else f"{100 * row.peak_share:.0f}%"
        rows.append((
            row.engine,
            row.precision,
            *threads,
            str(row.batch_size),
            f"{row.images_per_s:.1f}",
            f"{row.low:.1f}-{row.high:.1f}",
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.startup_s:.2f}",
            f"{row.memory_mb:.0f}",
            share,
            f"{row.images_per_s / best.images_per_s:.2f}",
        ))  # fmt: skip
    return rows


def notes(report: Report) -> list[str]:
    """Return a sentence for what did not run, once, and each hint once, behind its sentences."""
    reasons: dict[str, dict[str, None]] = {}
    for row in report.rows:
        if row.reason:
            said = f"note: {row.engine} ({row.precision}) did not run: {row.reason}"
            reasons.setdefault(row.hint, {})[said] = None  # not for each number of threads
    return [
        sentence
        for hint, sentences in reasons.items()
        for sentence in (*sentences, *([f"hint: {hint}"] if hint else []))
    ]


class _Contender:
    """A process that waits for its turns.

    Args:
        task: What `contender.main` takes.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        self.engine, self.precision = task["engine"], task["precision"]
        self.threads: int | None = task["threads"]
        self.memory = self.gpu_memory = 0.0
        self.rounds: dict[int, list[list[float]]] = {}
        start = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "resnext.deploy.contender", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        answer = self._hear()
        self.startup = time.perf_counter() - start
        self.reason, self.gpu = answer.get("error", ""), answer.get("gpu", "")
        self.hint = answer.get("hint", "")

    def take_turn(self, batch_size: int, seconds: float) -> None:
        """Let it run, and keep how long each call took."""
        assert self.process.stdin is not None
        order = {"batch": batch_size, "seconds": seconds}
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `_hear` says so
        answer = self._hear()
        if "latencies" not in answer:
            raise EngineError(f"{self.engine} ({self.precision}) ended: {answer.get('error')}")
        self.rounds.setdefault(batch_size, []).append(answer["latencies"])
        self.memory, self.gpu_memory = answer["memory"], answer["gpu_memory"]

    def row(self, batch_size: int, peak_rate: float) -> Row:
        """Sum up its turns with one batch size.

        Args:
            batch_size: Pictures at once.
            peak_rate: Pictures a second at the processor's peak; 0 where it is not known.
        """
        names: Any = {"engine": self.engine, "precision": self.precision}
        names |= {"threads": self.threads, "batch_size": batch_size}
        if self.reason:
            return Row(**names, reason=self.reason, hint=self.hint)
        turns = self.rounds[batch_size]
        rates = [batch_size * len(turn) / sum(turn) for turn in turns]
        calls = sorted(1000 * seconds for turn in turns for seconds in turn)
        rate = statistics.median(rates)
        return Row(
            **names,
            images_per_s=rate,
            low=min(rates),
            high=max(rates),
            p50_ms=statistics.median(calls),
            p99_ms=calls[min(len(calls) - 1, int(0.99 * len(calls)))],
            startup_s=self.startup,
            memory_mb=self.memory,
            gpu=self.gpu,
            gpu_memory_mb=self.gpu_memory,
            peak_share=rate / peak_rate if peak_rate else None,
        )

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _hear(self) -> dict[str, Any]:
        """Wait for a line; runtimes may print other things, which are no JSON."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    return found
        return {"error": f"its process ended with {self.process.wait()}"}


@contextlib.contextmanager
def _opened(
    local: LocalModel, engine: str, precision: str, threads: int | None
) -> Iterator[_Contender]:
    task = {
        "model": str(local.path),
        "engine": engine,
        "precision": precision,
        "threads": threads,
    }
    one = _Contender(task)
    try:
        yield one
    finally:
        one.close()
