import inspect
import pickle

import pytest

from helpers import errors
from helpers.errors import EndpointError, EndpointFailed, InvocationError, WorkshopError

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_a_workshop_error_with_a_docstring(kind):
    assert issubclass(kind, WorkshopError)
    assert kind.__doc__


def test_a_notebook_shows_one_sentence_and_no_traceback():
    error = EndpointFailed("The endpoint failed: see its log.")
    assert error._render_traceback_() == ["EndpointFailed: The endpoint failed: see its log."]
    assert isinstance(error, EndpointError)


def test_ipython_shows_the_sentence():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell()
    with capture_output() as captured:
        shell.run_cell(
            "from helpers.errors import SessionError; raise SessionError('No AWS region.')"
        )
    assert "SessionError: No AWS region." in captured.stdout + captured.stderr
    assert "Traceback" not in captured.stdout + captured.stderr


def test_an_invocation_error_survives_a_process_boundary():
    error = InvocationError("Too many.", kind="throttled", status=400, partial="Once upon")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.kind, copy.status, copy.partial) == (
        "Too many.",
        "throttled",
        400,
        "Once upon",
    )


def test_an_error_on_purpose_is_said_and_the_lesson_goes_on():
    said = []
    with errors.shown(said.append):
        raise EndpointFailed("It failed: see its log.")
    assert said == ["EndpointFailed: It failed: see its log."]


def test_an_error_that_is_no_lesson_is_not_hidden():
    with pytest.raises(ZeroDivisionError), errors.shown(print):
        raise ZeroDivisionError
