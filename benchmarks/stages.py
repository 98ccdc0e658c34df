"""Where the time of one `resnext predict` goes, by stages, from warm caches.

    python benchmarks/stages.py PYTHON [ROUNDS]

PYTHON is that of an environment with this package and no torch. Each round is a process of its
own; what is printed is the median of each stage. "Beside" means: at the same time as the one above.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import paired

PICTURE = Path(__file__).parent.parent / "examples" / "cat.jpg"
CHILD = """
import json, os, sys, time
marks = [("interpreter", time.time())]
def mark(name): marks.append((name, time.time()))
from resnext.cli import app; app.set_interpreter(); mark("import click and the command line")
import numpy; mark("import numpy")
import resnext.cli.predict, resnext.classifier; mark("import Pillow and the rest")
from resnext import weights
from resnext.engines import select
took = {}
def timed(owner, name, stage):
    plain = getattr(owner, name)
    def wrapped(*args, **kwargs):
        start = time.time()
        try:
            return plain(*args, **kwargs)
        finally:
            took[stage] = took.get(stage, 0) + time.time() - start
    setattr(owner, name, wrapped)
timed(weights, "locate", "hash and read the model file")
plain_preload = select.preload
def preload(engine):
    plain_preload(engine)
    from resnext.engines import compiled, openvino
    timed(compiled, "_map_whole", "check the compiled network")
    timed(openvino.OpenVINOEngine, "_compile", "check and load the compiled network")
    timed(openvino.OpenVINOEngine, "_infer", "first answer of the network")
select.preload = preload
timed(select, "preload", "import OpenVINO (beside)")
start = time.time()
code = app.run(["predict", sys.argv[1]])
took["the command itself, in all"] = time.time() - start
begun = float(os.environ["STAGES_BEGUN"])
for name, moment in marks:
    took[name], begun = moment - begun, moment
print(json.dumps(took), file=sys.stderr, flush=True)
os._exit(code)  # as the command does
"""


def main(python: str, rounds: int = 11) -> None:
    """Run the rounds; the first warms the caches."""
    rows = []
    for _ in range(rounds + 1):
        begun = time.time()
        environment = {**os.environ, "STAGES_BEGUN": str(begun)}
        done = subprocess.run(
            [python, "-c", CHILD, str(PICTURE)],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        whole = time.time() - begun
        rows.append({**json.loads(done.stderr.splitlines()[-1]), "the whole process": whole})
    del rows[0]
    stages = {name: [1000 * row[name] for row in rows] for name in rows[0]}
    results = {name: round(statistics.median(times), 1) for name, times in stages.items()}
    paired.report("stages", {"milliseconds": results, "rounds": rounds})


if __name__ == "__main__":
    main(sys.argv[1], *(int(text) for text in sys.argv[2:3]))
