"""Running models: the only part of onnxshare that imports ONNX Runtime."""

import os

# Since 1.29 ONNX Runtime otherwise writes a device id and a database as soon as it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
