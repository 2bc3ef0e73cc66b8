"""Is a private training run what its claim assumes?"""

from dpclip.doctor.examining import Report, examine

__all__ = ["Report", "examine"]
