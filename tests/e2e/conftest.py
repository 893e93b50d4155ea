"""Running the command line as a user would, in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from commandline import Said

from boxatlas.cli import main


@pytest.fixture
def boxatlas(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Call with arguments of the command line."""

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call
