"""Make a small data set of the demo and the tests: python workflow/scripts/make_small_data.py NAME [FOLDER]

NAME is imagenet-small, voc-small or coco-small; its archives are written to FOLDER/NAME, by default data/NAME.
"""

import hashlib
import sys
from pathlib import Path

import small_detection
import small_imagenet
from identity_mappings.errors import UserError
from identity_mappings.parameters.load import read_entry
from identity_mappings.records.files import write_atomically


def make(name: str, folder: Path) -> None:
    """Write the archives of data/NAME.

    Raises:
        UserError: the installed Pillow, scipy or scikit-learn make other bytes than the pinned ones; nothing is
            written.
    """
    pinned = read_entry(name).archives
    made = small_imagenet.archives() if name == small_imagenet.NAME else small_detection.archives(name)
    for file, content in made.items():
        if (found := hashlib.md5(content).hexdigest()) != pinned[file].md5:
            raise UserError(
                f"{name}: {file}, as the installed Pillow, scipy and scikit-learn make it, has the MD5 {found}, not "
                f"{pinned[file].md5}: install the versions of requirements.lock (make env)"
            )
    for file, content in made.items():
        write_atomically(folder / name / file, content)


if __name__ == "__main__":
    try:
        make(sys.argv[1], Path(*sys.argv[2:] or ("data",)))
    except UserError as error:
        sys.exit(str(error))
