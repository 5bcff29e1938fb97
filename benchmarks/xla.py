"""What XLA costs and gains here: seconds of the first epoch, which compiles, and speed after it.

The same training with and without it, augmented, in turns. After how many photos it has paid for
itself follows from the two.

    python benchmarks/xla.py [--data PHOTOS] [--photos 1920] [--n 3]
"""

from __future__ import annotations

import os
import time

import common
from step import FULL, PARAMS, subset

from catdog_search.machine.backends import choose_backend
from catdog_search.training.execution import Execution
from catdog_search.training.result import TrainData


def measure(data: TrainData, image_size: int, xla: bool) -> tuple[float, float]:
    """Seconds until the first epoch's end, and photos a second in the second epoch."""
    from catdog_search.training.job import job_of
    from catdog_search.training.loop import train

    config = common.study("xla", image_size, 2)
    ends = [time.perf_counter()]
    params = {**PARAMS, "augmentation": 1.0, "augmentation_kinds": FULL}
    job = job_of(config, params, seed=1, execution=Execution(xla=xla))
    train(job, data, lambda *_: ends.append(time.perf_counter()) is None)
    return ends[1] - ends[0], len(data.y_train) / (ends[2] - ends[1])


def main() -> None:
    """Measure in turns and print."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--photos", type=int, default=1920, help="an epoch; default: %(default)s")
    asked = parser.parse_args()
    backend = os.environ["KERAS_BACKEND"] = choose_backend()
    data = subset(common.packed(asked, asked.image_size), asked.photos)
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(asked.n):
        for xla, values in found.items():
            values.append(measure(data, asked.image_size, xla))
    rows = [
        {
            "xla": xla,
            "first_epoch_s": common.spread([first for first, _ in values]),
            "photos_per_second": common.spread([speed for _, speed in values], 1),
        }
        for xla, values in found.items()
    ]
    plain, compiled = ([speed for _, speed in found[xla]] for xla in (False, True))
    rows.append({"speed with XLA over speed without": common.ratio(compiled, plain)})
    facts = {"image_size": asked.image_size, "photos": len(data.y_train)}
    common.report(asked, ("keras", backend), rows, backend=backend, **facts)


if __name__ == "__main__":
    main()
