"""Turns a user's mistake into one line and an exit code; a mistake of ours keeps its traceback."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What a person can put right: a path, a permission, room on the disk. Any other OSError is unexpected.
_USER_ERRNOS = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
}
_INTERRUPTED = 128 + 2
_BROKEN_PIPE = 128 + 13


@contextmanager
def user_errors(verb: str = "") -> Iterator[None]:
    """Reports mistakes of the user raised inside as `tandem VERB: message` on stderr, with exit code 2.

    Those are ValueError, an OSError about a path, a permission or a full disk, and the ImportError of an extra that
    is not installed. Ctrl-C exits with 130, and a reader that went away (`tandem ... | head`) ends the program quietly.
    With TANDEM_DEBUG=1 the original exception and its traceback are shown instead.

    Raises:
        SystemExit: as above.
    """
    try:
        yield
    except KeyboardInterrupt:
        _leave(_INTERRUPTED, verb, "interrupted")
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which would print the error that is being silenced here.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(_BROKEN_PIPE) from None
    except (ValueError, OSError, ImportError) as error:
        if not _is_users(error) or os.environ.get("TANDEM_DEBUG") == "1":
            raise
        _leave(2, verb, _one_line(error))


def _is_users(error: Exception) -> bool:
    if isinstance(error, ImportError):
        return "pip install" in str(error)
    return isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in _USER_ERRNOS)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        remedy = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        return f"{error.strerror}{place}{remedy}"
    return " ".join(str(error).split()) or type(error).__name__


def _leave(code: int, verb: str, message: str) -> None:
    print(f"tandem {verb}: {message}" if verb else f"tandem: {message}", file=sys.stderr)
    raise SystemExit(code)
