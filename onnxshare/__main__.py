"""`python -m onnxshare`."""

from onnxshare.cli import main

if __name__ == "__main__":
    main()
