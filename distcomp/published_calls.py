"""What published functions are made of on their way: publications, and the bytes of calls and results."""

from __future__ import annotations

import json
import re
import struct
from hashlib import blake2b
from typing import Any, NamedTuple

JSON_RESULT = b"j"
PICKLED_RESULT = b"p"
MAGIC = b"dcpublic"
FORMAT_VERSION = 1
MAX_HEADER_BYTES = 1 << 20
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

_PYTHON = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}[A-Za-z0-9+]{0,16}")
_LENGTH = struct.Struct(">I")


class PublishedResult(NamedTuple):
    """What a published function gave: JSON, or a pickle with the reason why it is none."""

    is_json: bool
    data: bytes
    reason: str


def read_result(data: bytes) -> PublishedResult:
    """Take a result apart, without opening it.

    Raises:
        ValueError: it is none.
    """
    if data[:1] == JSON_RESULT:
        return PublishedResult(is_json=True, data=data[1:], reason="")
    if data[:1] != PICKLED_RESULT or len(data) < 1 + _LENGTH.size:
        raise ValueError("this is no result of a published function")
    (length,) = _LENGTH.unpack_from(data, 1)
    begin = 1 + _LENGTH.size
    reason = data[begin : begin + length].decode("utf-8", "replace")
    return PublishedResult(is_json=False, data=data[begin + length :], reason=reason)


class Publication(NamedTuple):
    """A function ready to be published.

    Attributes:
        name: by which it is called.
        version: of the function; any name.
        versions: of distcomp, Python and cloudpickle that it was made with.
        parameters: its signature as JSON.
        doc: its docstring.
        function: the digest of `blob`.
        blob: the pickled callable, which takes and gives bytes.
        bundle: the digest of `modules`; empty if it needs no local modules.
        bundle_name: for people.
        bundle_files: how many files there are in `modules`.
        modules: the bundle of local modules.
    """

    name: str
    version: str
    versions: tuple[str, str, str]
    parameters: list[dict[str, Any]]
    doc: str
    function: bytes
    blob: bytes
    bundle: bytes = b""
    bundle_name: str = ""
    bundle_files: int = 0
    modules: bytes = b""

    def to_bytes(self) -> bytes:
        """It as it is sent."""
        fields = self._asdict()
        blob, modules = fields.pop("blob"), fields.pop("modules")
        fields.update(function=self.function.hex(), bundle=self.bundle.hex(), blob_bytes=len(blob))
        header = json.dumps({"format_version": FORMAT_VERSION, **fields}).encode()
        return b"".join((MAGIC, _LENGTH.pack(len(header)), header, blob, modules))

    @classmethod
    def from_bytes(cls, data: bytes) -> Publication:
        """Read what `to_bytes` made.

        Raises:
            ValueError: it is none, or not whole, or from another version.
        """
        if not data.startswith(MAGIC) or len(data) < len(MAGIC) + _LENGTH.size:
            raise ValueError("this is no publication: `distcomp publish` makes them")
        (length,) = _LENGTH.unpack_from(data, len(MAGIC))
        begin = len(MAGIC) + _LENGTH.size
        if length > min(MAX_HEADER_BYTES, len(data) - begin):
            raise ValueError("this publication is not whole")
        try:
            made = cls._from_fields(json.loads(data[begin : begin + length]), data[begin + length :])
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"this publication is broken ({type(error).__name__}: {error})") from None
        made.check()
        return made

    @classmethod
    def _from_fields(cls, fields: dict[str, Any], rest: bytes) -> Publication:
        if fields.pop("format_version") != FORMAT_VERSION:
            raise ValueError("this publication is of another format: use the same distcomp on both sides")
        size_bytes = int(fields.pop("blob_bytes"))
        fields["function"] = bytes.fromhex(fields["function"])
        fields["bundle"] = bytes.fromhex(fields["bundle"])
        fields["versions"] = tuple(fields["versions"])
        return cls(**fields, blob=rest[:size_bytes], modules=rest[size_bytes:])

    def check(self) -> None:
        """Raise `ValueError` if a field is not as it has to be."""
        for what, name in (("name", self.name), ("version", self.version)):
            if type(name) is not str or not re.fullmatch(NAME_PATTERN, name):
                raise ValueError(f"the {what} of a published function has 1 to 64 letters, digits or ._-")
        if blake2b(self.blob, digest_size=32).digest() != self.function:
            raise ValueError("the function's bytes are not those that its digest names")
        if self.bundle and blake2b(self.modules, digest_size=32).digest() != self.bundle:
            raise ValueError("the bundle's bytes are not those that its digest names")
        texts = (self.doc, self.bundle_name, *self.versions)
        if len(self.versions) != 3 or any(type(each) is not str for each in texts):  # noqa: PLR2004 - see above
            raise ValueError("a text of this publication is none")
        if not _PYTHON.fullmatch(self.versions[1]) or max(map(len, self.versions)) > 64:  # noqa: PLR2004 - a name
            raise ValueError("the versions of this publication cannot be read")
        if type(self.bundle_files) is not int or not 0 <= self.bundle_files < 1 << 31:
            raise ValueError("a count of files that is none")
        if type(self.parameters) is not list or len(self.bundle_name) > 256:  # noqa: PLR2004 - a name on the wire
            raise ValueError("the parameters of this publication cannot be read")
