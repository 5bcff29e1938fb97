"""Champions swapped under load: how many requests fail, and what it costs the others.

python benchmarks/swap.py --model catdog.onnx [--n 200] [--clients 4]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import common
import common_serving as serving
import httpx
import onnx

from catdog_search.answering.runtime import OnnxModel
from catdog_search.exporting.graph import with_facts
from catdog_search.exporting.served import write_whole

_LONGEST_SWAP_S = 60


def versions(model: Path, n: int) -> list[bytes]:
    """The same network as so many versions."""
    graph, facts = onnx.load(model), OnnxModel.open(model).facts
    return [with_facts(graph, facts.model_copy(update={"version": v})) for v in range(1, n + 1)]


def swap(service: serving.Started, path: Path, contents: list[bytes]) -> list[float]:
    """Lay each into the file's place as soon as the one before answers; seconds that each took."""
    took = []
    for number, content in enumerate(contents, 1):
        began = time.perf_counter()
        write_whole(path, content)
        while httpx.get(f"{service.url}/model").json()["version"] != number:
            if time.perf_counter() - began > _LONGEST_SWAP_S:
                raise TimeoutError(f"version {number} doesn't answer")
            time.sleep(0.02)
        took.append(time.perf_counter() - began)
    return took


def main() -> None:
    """Swap under load, and print."""
    parser = common.parser(__doc__, n=200)
    parser.add_argument("--model", type=Path, required=True, help="file of `model export`")
    parser.add_argument("--clients", type=int, default=4, help="who ask at a time")
    asked = parser.parse_args()
    photos = serving.photos(asked)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "catdog.onnx")
        path.write_bytes(asked.model.read_bytes())
        with serving.service(path) as service:
            service.wait("/ready", 60)
            alone = serving.Load(service.url, "/predict", photos, asked.clients)
            with alone:
                time.sleep(5)
            under = serving.Load(service.url, "/predict", photos, asked.clients)
            before = service.memory_mb()
            with under, serving.Peak(service) as peak:
                took = swap(service, path, versions(asked.model, asked.n))
            after = service.memory_mb()
    rows = [{"load": "alone", **alone.facts()}, {"load": "while swapping", **under.facts()}]
    memory = {"before": round(before, 1), "peak": round(peak.mb, 1), "after": round(after, 1)}
    common.report(
        asked,
        ("fastapi", "uvicorn", "onnxruntime"),
        rows,
        swaps=len(took),
        seconds_a_swap=common.spread(took),
        memory_mb=memory,
    )


if __name__ == "__main__":
    main()
