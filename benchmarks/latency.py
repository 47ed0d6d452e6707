"""Latency of rewritten networks against the original, in ONNX Runtime on the CPU.

Run: python benchmarks/latency.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from paired import ratio

import onnxshare

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime  # after the switch

MODELS = Path(__file__).resolve().parents[1] / "models"
BATCHES = (1, 8, 64)


def session(proto: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])


def main() -> None:
    images = np.load(MODELS / "calibration.npz")["image"]
    print("| network | rewrite | batch | time / time of the original (middle half) |")
    print("|---|---|---:|---:|")
    for name in ("lenet5", "vgg_small"):
        path = MODELS / f"{name}.onnx"
        original = session(path.read_bytes())
        exact = onnxshare.rewrite(path, ["fc-to-conv"])
        pooled = onnxshare.rewrite(
            path, ["fc-to-gap"], approximate=True, samples=MODELS / "calibration.npz"
        )
        for label, result in (("fc-to-conv", exact), ("fc-to-gap", pooled)):
            other = session(result.model.SerializeToString())
            for batch in BATCHES:
                feed = {"image": images[:batch]}
                measured = ratio(
                    lambda s=other, f=feed: s.run(None, f),
                    lambda s=original, f=feed: s.run(None, f),
                    200,
                )
                print(f"| {name} | {label} | {batch} | {measured} |", flush=True)


if __name__ == "__main__":
    main()
