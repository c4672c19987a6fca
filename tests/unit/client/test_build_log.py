"""What a failed image build says: the step that failed, and its last words."""

from __future__ import annotations

from dockermesh.client.images.build_log import build_failure, build_step

BUILDKIT = """\
#0 building with "default" instance using docker driver
#5 [web 1/3] FROM docker.io/library/base
#5 DONE 0.0s
#6 [web 2/3] RUN make it
#6 0.215 make: *** No rule to make target 'it'.  Stop.
#6 ERROR: process "/bin/sh -c make it" did not complete successfully: exit code: 2
------
 > [web 2/3] RUN make it:
0.215 make: *** No rule to make target 'it'.  Stop.
------
failed to solve: process "/bin/sh -c make it" did not complete successfully: exit code: 2
"""


def test_steps_are_told_by_their_instruction() -> None:
    assert "RUN make it" in build_step("#6 [web 2/3] RUN make it")
    assert build_step("#6 0.215 make: entering") == ""
    assert build_step("#5 DONE 0.0s") == ""


def test_the_cause_of_a_failure_is_its_own_output() -> None:
    said = build_failure(BUILDKIT.splitlines())
    assert "No rule to make target" in said
    assert "exit code: 2" in said
