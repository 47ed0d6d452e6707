"""One call into onnx in a process of its own, with a limit on memory: run by `onnx_process.py`.

Reads a model from stdin and writes to stdout: `+` and the resulting model, `-` and why onnx rejects
it, or `!` and why it was given up.
"""

from __future__ import annotations

import contextlib
import sys
import warnings


def limit_memory(size: int) -> None:
    """Let no allocation of this process succeed beyond so many bytes, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def work(task: str, data: bytes) -> bytes:
    """Do one task on a model, serialized but for `parse FORM`, and return the serialized result."""
    import onnx

    if task.startswith("parse "):
        parsed = onnx.ModelProto()
        serializer = onnx.serialization.registry.get(task.removeprefix("parse "))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the text form is experimental, says onnx
            parsed = serializer.deserialize_proto(data.decode("utf-8-sig"), parsed)
        return bytes(parsed.SerializeToString())
    if task == "inline":
        from onnx import inliner

        model = onnx.ModelProto()
        model.ParseFromString(data)
        return bytes(inliner.inline_local_functions(model).SerializeToString())
    if task.startswith("opset "):
        from onnx import version_converter

        model = version_converter.convert_version(onnx.load_from_string(data), int(task[6:]))
        return bytes(model.SerializeToString())
    strict, values = task.startswith("strict"), not task.endswith("without values")
    inferred = onnx.shape_inference.infer_shapes(data, strict_mode=strict, data_prop=values)
    return bytes(inferred.SerializeToString())


def main() -> None:
    """Run one task: the arguments are its name and the memory it may use."""
    task, size = sys.argv[1:]
    data = sys.stdin.buffer.read()
    limit_memory(int(size))
    try:
        answer = b"+" + work(task, data)
    except MemoryError:
        answer = b"!it needs too much memory"
    except Exception as error:
        answer = b"-" + str(error).strip()[:4000].encode(errors="replace")
    sys.stdout.buffer.write(answer)


if __name__ == "__main__":
    main()
