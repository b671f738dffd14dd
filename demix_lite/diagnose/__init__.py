"""``demix-lite diagnose``: from a file to a diagnosis, a repaired file and a report."""

from demix_lite.diagnose.command import Outcome, diagnose_file, diagnose_frame, write_outcome
from demix_lite.diagnose.files import check_folder

__all__ = ["Outcome", "check_folder", "diagnose_file", "diagnose_frame", "write_outcome"]
