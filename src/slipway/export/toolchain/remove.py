"""Remove an installed toolchain."""

from __future__ import annotations

import shutil

from slipway.core.errors import from_os_error
from slipway.core.files import locked
from slipway.core.paths import Home
from slipway.export.toolchain.checks import forget_checks
from slipway.export.toolchain.find import named_install, pin


def remove_toolchain(home: Home, name: str) -> int:
    """Remove the toolchain of that name; returns the bytes freed.

    When it was the chosen one, the best of those left is used from now on.

    Raises:
        NotFoundError: there is none of that name.
        SlipwayError: its folder cannot be removed.
    """
    with locked(home.toolchains / "install"):
        item = named_install(home, name)
        folder = item.toolchain.folder
        # a name that nothing looks for first: half a toolchain must not be found
        gone = folder.with_name(f".{name}.removed")
        try:
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone)
        except OSError as error:
            raise from_os_error(error, folder) from error
        if item.pinned:
            pin(home, None)
        forget_checks(home, name)
    return sum(file.size for file in item.manifest.files)
