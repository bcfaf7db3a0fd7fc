"""`governors machines`: the machines of this program as a document."""

from governors.machines.diagram import document


def machines() -> None:
    """Print the machines as Markdown: a diagram of each, and the sentences of its rules.

    Example: governors machines > machines.md
    """
    print(document(), end="")
