"""Keys of other providers, sealed at rest with AES-256-GCM under a key file beside the database."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.core.errors import InputError, NotFoundError, missing_extra
from slipway.core.files import write_bytes
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BYTES = 32
_NONCE_BYTES = 12


def seal(key_file: Path, secret: str, label: str) -> bytes:
    """Encrypt a secret; the key file is made at first use, readable by its owner only.

    Args:
        label: what the secret belongs to; it opens only under the same label.
    """
    if not key_file.exists():
        write_bytes(key_file, os.urandom(_KEY_BYTES), mode=0o600)
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher(key_file).encrypt(nonce, secret.encode(), label.encode())


def unseal(key_file: Path, sealed: bytes, label: str) -> str:
    """Decrypt what `seal` made.

    Raises:
        NotFoundError: the key file is gone.
        InputError: it is another key than the one that sealed, or the sealed bytes were changed.
    """
    from cryptography.exceptions import InvalidTag

    try:
        plain = _cipher(key_file).decrypt(
            sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], label.encode()
        )
    except (InvalidTag, ValueError) as error:
        raise InputError(
            "gateway.seal_broken",
            tr(
                "the key of channel `{name}` cannot be opened with {path}",
                name=label,
                path=key_file,
            ),
            tr("add the channel again with `--replace` and its key"),
        ) from error
    return plain.decode()


def _cipher(key_file: Path) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise missing_extra("cryptography", "gateway") from error
    try:
        return AESGCM(key_file.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(
            "gateway.seal_key_missing",
            tr("{path}, which opens the channels' keys, is missing", path=key_file),
            tr("restore it, or add the channels again with `--replace` and their keys"),
        ) from error
