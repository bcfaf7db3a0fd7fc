"""`python -m governors`."""

from governors.cli.main import main

if __name__ == "__main__":
    main()
