"""Object stores as sources, through the drivers of fsspec."""

from moegrow.errors import MoegrowError
from moegrow.origin import Access, Origin, scheme


def find(text: str, access: Access) -> tuple[Origin, str]:
    raise MoegrowError(f"{scheme(text)} is not known")
