from pathlib import Path

import pytest

from governors.auth.token_file import TokenFile
from governors.auth.tokens import TOKEN_BYTES, TokenFileError, digest_of, new_token

OLD, NEW = (new_token(bytes([number]) * TOKEN_BYTES) for number in (1, 2))


def entry(token: str) -> str:
    return f"  - {{name: feed, sha256: {digest_of(token)}, roles: [ingest]}}\n"


def put(path: Path, text: str) -> None:
    """As an editor or Kubernetes does it: another file under the same name."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


class Heard:
    def __init__(self) -> None:
        self.all: list[tuple[int, str]] = []

    def __call__(self, tokens: int, problem: str) -> None:
        self.all.append((tokens, problem))


def known(file: TokenFile) -> list[bool]:
    return [file.principal_of(token.encode()) is not None for token in (OLD, NEW)]


async def test_tokens_are_rotated_by_changing_the_file(tmp_path: Path) -> None:
    path, heard = tmp_path / "tokens.yaml", Heard()
    put(path, "tokens:\n" + entry(OLD))
    file = TokenFile(path, lambda: 0, heard)
    assert known(file) == [True, False]

    put(path, "tokens:\n" + entry(OLD) + entry(NEW))
    await file.look()
    assert known(file) == [True, True]

    put(path, "tokens:\n" + entry(NEW))
    await file.look()
    assert known(file) == [False, True]

    await file.look()
    assert heard.all == [(2, ""), (1, "")]


async def test_a_bad_or_missing_file_changes_nothing_and_is_said_once(tmp_path: Path) -> None:
    path, heard = tmp_path / "tokens.yaml", Heard()
    put(path, "tokens:\n" + entry(OLD))
    file = TokenFile(path, lambda: 0, heard)

    put(path, "tokens: {")
    await file.look()
    await file.look()
    path.unlink()
    await file.look()

    assert known(file) == [True, False]
    assert [tokens for tokens, _ in heard.all] == [1, 1]
    assert "not YAML" in heard.all[0][1]
    assert "tokens.yaml" in heard.all[1][1]

    put(path, "tokens: []\n")
    await file.look()
    assert known(file) == [False, False], "an empty list shuts everybody out"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"tokens: 1", b""])
def test_the_start_needs_a_file_that_can_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokens.yaml"
    with pytest.raises(TokenFileError, match=r"tokens\.yaml"):
        TokenFile(path, lambda: 0, Heard())
    path.write_bytes(content)
    with pytest.raises(TokenFileError, match=r"tokens\.yaml"):
        TokenFile(path, lambda: 0, Heard())
