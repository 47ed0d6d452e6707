"""The command line: parse, call, print, exit; no logic."""

from onnxshare.cli.app import main

__all__ = ["main"]
