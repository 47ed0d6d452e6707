"""`python -m onnxshare`."""

from onnxshare.cli.main import main

if __name__ == "__main__":
    main()
