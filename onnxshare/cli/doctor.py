"""`onnxshare doctor`: what is installed, and what of it works."""

from __future__ import annotations

from onnxshare.cli import options


def command(
    output: options.TableOrJson = "table",
    out: options.Out = None,
    force: options.Force = False,
) -> int:
    """Show which versions are installed and where models really run, and why not elsewhere.

    Exit code: 0 if everything needed works, 1 if something is broken.

    Example: onnxshare doctor --format json
    """
    from onnxshare.runtime.doctor import examine

    with options.report_to(out, read={}, force=force):
        diagnosis = examine()
        if output == "json":
            options.print_json(diagnosis.to_dict())
        else:
            from onnxshare.report.console import print_diagnosis

            print_diagnosis(diagnosis)
    return 0 if diagnosis.healthy else 1
