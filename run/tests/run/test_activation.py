"""Never silently unpaced: what would not activate is refused, what did not stopped or reported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from tests.helpers.stalls import Stalls
from tests.helpers.words import words_of

if os.name != "posix":
    pytest.skip("needs Unix domain sockets", allow_module_level=True)

from aioapiqueue_run.cli.run.errors import NotStarted
from aioapiqueue_run.cli.run.launch import examine

pytestmark = pytest.mark.real
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.parametrize(
    "options",
    [
        ["-I"],
        ["-E"],
        ["-S"],
        ["-sE"],
        ["-uS"],
        ["-W", "ignore", "-I"],
        ["-Wignore", "-X", "dev", "-uE"],
        ["--check-hash-based-pycs", "always", "-I"],
    ],
)
def test_options_preventing_activation_are_refused(options, python):
    """-I, -E and -S are seen wherever they stand among the interpreter's own options."""
    with pytest.raises(NotStarted, match=r"nothing was started\. Remove -") as refused:
        examine([python, *options, "script.py"])
    assert refused.value.code == 2
    assert f" -{options[-1][-1]} cannot be paced" in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["script.py", "-I"],
        ["-s", "-P", "-u", "-B", "script.py"],
        ["-c", "pass", "-E"],
        ["-m", "module", "-S"],
        ["-W", "-I", "script.py"],
        ["-WE", "-XS", "script.py"],
        ["-", "-I"],
        ["--", "-I"],
        ["-OOm", "x"],
        [],
    ],
)
def test_harmless_python_options_are_accepted(arguments, python):
    """Options that do no harm, and those of the program itself, are accepted."""
    assert examine([python, *arguments]).python is True


LONG = "#!/bin/sh\n'''exec' \"{python}\" {option} \"$0\" \"$@\"\n' '''\n"


@pytest.mark.parametrize(
    ("shebang", "option"),
    [
        ("#!{python} -I", "-I"),
        ("#! {python} -sE", "-E"),
        ("#!/usr/bin/env -S python3 -I", "-I"),
        ("#!/usr/bin/env -vS python3 -u -S", "-S"),
        ("#!/usr/bin/env -Spython3 -E", "-E"),
        ("#!/usr/bin/env --split-string=NAME=value python3 -E", "-E"),
        (LONG.replace("{option}", "-I"), "-I"),
    ],
)
def test_shebang_preventing_activation_is_refused(shebang, option, python, tmp_path):
    """What a shebang leads to is followed, by way of env and of installers' detour by sh too."""
    script = tmp_path / "script"
    script.write_text(f"{shebang.format(python=python)}\npass\n")
    script.chmod(0o755)
    with pytest.raises(NotStarted, match="nothing was started") as refused:
        examine([str(script)])
    assert f" {option} in the shebang of {script}" in str(refused.value)


@pytest.mark.parametrize(
    ("shebang", "is_python"),
    [
        ("#!{python}", True),
        ("#!{python} -sP", True),
        ("#!/usr/bin/env python3", True),
        ("#!/usr/bin/env -S NAME=value python3 -P", True),
        (LONG.replace("{option}", ""), True),
        ("#!/bin/sh", False),
        ("#!", False),
        ("\x7fELF", False),
    ],
)
def test_script_is_followed_to_its_interpreter(shebang, is_python, python, tmp_path):
    """A console script is Python; a shell script is not, whatever it may start."""
    script = tmp_path / "script"
    script.write_text(f"{shebang.format(python=python)}\n-I\n")
    script.chmod(0o755)
    assert examine([str(script)]).python is is_python


@pytest.mark.parametrize(
    "arguments",
    [
        ["-i", "python3"],
        ["-u", "PYTHONPATH", "python3"],
        ["-uPYTHONPATH", "python3"],
        ["-iu", "HOME", "python3"],
        ["--unset=AIOAPIQUEUE_HUB", "python3"],
        ["PYTHONPATH=/mine", "python3"],
        ["-iS", "python3 x"],
        ["-", "PATH=/usr/bin", "python3"],
        ["-u", "HOME", "-", "python3"],
    ],
)
def test_env_removing_our_variables_is_refused(arguments):
    """An `env` without PYTHONPATH would run an unpaced Python: it belongs before us."""
    with pytest.raises(NotStarted, match="Put env first: env "):
        examine(["env", *arguments])


def test_env_that_leaves_them_is_followed():
    """Other variables may come and go; what env starts is examined."""
    assert examine(["env", "-u", "HOME", "A=b", "python3", "x"]).python is True
    assert examine(["env", "A=b", "sh"]).python is False
    with pytest.raises(NotStarted, match="-I"):
        examine(["env", "-C", "/", "A=b", "python3", "-I"])


def test_launcher_preventing_activation_is_refused(tmp_path):
    """OpenTelemetry's launcher lets no other sitecustomize in: it belongs before us."""
    launcher = tmp_path / "opentelemetry-instrument"
    launcher.write_text("#!/bin/sh\n")
    launcher.chmod(0o755)
    with pytest.raises(NotStarted, match="opentelemetry-instrument aioapiqueue run "):
        examine([str(launcher), "python3", "x.py"])


def test_refusal_starts_nothing(quiet_run, python):
    """`run -- python -I script.py`: a message, exit code 2."""
    ended = quiet_run("--limit", "ec2=1/s", "--", python, "-I", "-c", "print('started')")
    assert (ended.code, ended.out) == (2, b"")
    assert "-I cannot be paced; nothing was started. Remove -I (-s and -P are fine)." in ended.words
    assert quiet_run.leftovers == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--", "echo", "hello"], 3),
        (["--allow-inactive", "--", "echo", "hello"], 0),
        (["--", "sh", "-c", "echo hello; exit 5"], 5),
    ],
)
def test_program_other_than_python_is_reported(quiet_run, arguments, code):
    """Nothing activated: said at the start and the end, exit code 3, unless that is allowed."""
    ended = quiet_run("--no-any", "--limit", "ec2=1/s", *arguments)
    assert (ended.code, ended.out) == (code, b"hello\n")
    name = "sh" if "sh" in arguments else "echo"
    assert f"{name} is not Python: only Python programs that it starts are paced" in ended.words
    assert "nothing was paced: no Python process loaded the pacing" in ended.words


def test_dry_run_warns_of_nothing_counted(quiet_run):
    """It would have paced nothing in any case: that nothing was counted is what matters."""
    ended = quiet_run("--no-any", "--dry-run", "--limit", "ec2=1/s", "--", "echo", "hello")
    assert (ended.code, ended.out) == (3, b"hello\n")
    assert "only Python programs that it starts are counted" in ended.words
    assert "nothing was counted: no Python process loaded the pacing" in ended.words


def test_python_below_a_shell_is_paced(run, aws, python):
    """A program that is not Python is fine where its children are."""
    program = run.script("calls(3)")
    ended = run("--limit", "ec2=50/s", "--", "sh", "-c", f"{python} {program}; exit 0")
    assert ended.code == 0
    assert "3 AWS calls, 3 paced" in ended.words
    assert "WARNING" not in ended.words


def test_python_without_hello_is_stopped(quiet_run, python, stalls):
    """However it came to it, a Python program that has not activated is ended: exit code 3."""
    shell = f"unset PYTHONPATH; exec {python} -c 'import time; time.sleep(30)'"
    began = time.monotonic()
    ended = quiet_run("--no-any", "--limit", "ec2=1/s", "--grace", "0.5", "--", "sh", "-c", shell)
    assert ended.code == 3
    assert time.monotonic() - began < 15 + stalls.seconds
    assert "is Python, but did not load the pacing" in ended.words
    assert "It is stopped, so that no call is sent unpaced." in ended.words
    assert quiet_run.leftovers == []


@pytest.fixture
def slow_start(python, tmp_path):
    """Give the command of a Python that computes for 1.6 s before our hello."""
    subprocess.run([python, "-m", "venv", "--without-pip", tmp_path / "slow"], check=True)
    (packages,) = (tmp_path / "slow").glob("lib/python*/site-packages")
    busy = "while time.process_time() < 1.6: pass"
    (packages / "slow.pth").write_text(f"import time; exec({busy!r})\n")
    return ("--", tmp_path / "slow" / "bin" / "python", "-c", "print('here')")


def test_slow_start_ends_the_program(quiet_run, slow_start):
    """What `.pth` files do comes before our hello; too much of it ends the program."""
    ended = quiet_run("--limit", "ec2=1/s", "--grace", "0.3", *slow_start)
    assert ended.code == 3
    assert "If it only starts slowly, use --grace 60." in ended.words


@pytest.mark.slow  # it computes to the end, on top of what a run takes
def test_usual_grace_allows_slow_starts(quiet_run, slow_start):
    """The same program is not ended where it is given longer."""
    ended = quiet_run("--limit", "ec2=1/s", *slow_start)
    assert (ended.code, ended.out) == (0, b"here\n")


@pytest.mark.parametrize("below_a_shell", [False, True])
def test_exec_of_unpaced_python_is_stopped(quiet_run, python, stalls, below_a_shell):
    """A hello counts for what said it: after an `exec` that loses us, the whole family is ended."""
    launcher = quiet_run.plain("""
        del os.environ["PYTHONPATH"]
        print("launched", flush=True)
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(30); print(1)"])
    """)
    began = time.monotonic()
    shell = f"{python} {launcher}; echo survived"
    command = ("sh", "-c", shell) if below_a_shell else (python, launcher)
    ended = quiet_run("--no-any", "--limit", "ec2=1/s", "--grace", "0.3", "--", *command)
    assert (ended.code, ended.out) == (3, b"launched\n")
    assert "loaded the pacing, then replaced itself with another Python" in ended.words
    assert "because of the options -I, -E or -S, a changed PYTHONPATH, or a launcher" in ended.words
    assert "use the other order: LAUNCHER aioapiqueue run ... -- COMMAND." in ended.words
    assert time.monotonic() - began < 15 + stalls.seconds


@linux
def test_inactive_child_is_reported_at_once(quiet_run, python, tmp_path):
    """A child with -I is warned of while it runs; the program goes on, as it may be a helper."""
    log = tmp_path / "log"
    log.touch()
    program = quiet_run.plain(f"""
        import subprocess
        child = '''
        import time
        deadline = time.monotonic() + 60
        while "did not load" not in open({str(log)!r}).read():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        '''
        import textwrap
        subprocess.run([sys.executable, "-I", "-c", textwrap.dedent(child)], check=True)
        print("done")
    """)
    options = ("--limit", "ec2=1/s", "--grace", "0.5", "--log", log)
    ended = quiet_run(*options, "--", python, program)
    assert (ended.code, ended.out, ended.err) == (3, b"done\n", b"")
    words = words_of(log.read_text())
    assert "is Python, but did not load the pacing" in words
    assert words.count("It is not paced.") == 1
    assert "WARNING: not paced: " in words


@linux
def test_long_commands_are_told_apart(quiet_run, python):
    """Each unpaced Python is reported, even if only the end of its command line is different."""
    program = quiet_run.plain("""
        import subprocess
        child = [sys.executable, "-I", "-c", "import time; time.sleep(1)", "a-long-argument"]
        for one in [subprocess.Popen([*child, name]) for name in ("first", "second")]:
            one.wait()
    """)
    ended = quiet_run.here("--limit", "ec2=1/s", "--", python, program)
    assert ended.code == 3
    assert all(f"a-long-argument {name}" in ended.words for name in ("first", "second"))


@linux
def test_forked_then_executed_helper_ends_nothing(quiet_run, python):
    """With preexec_fn, Python forks, and the fork says hello; its -I is a helper's all the same."""
    program = quiet_run.plain("""
        import subprocess
        helper = [sys.executable, "-I", "-c", "import time; time.sleep(1.2)"]
        subprocess.run(helper, preexec_fn=os.setsid, check=True)
        print("done")
    """)
    ended = quiet_run("--limit", "ec2=1/s", "--grace", "0.5", "--", python, program)
    assert (ended.code, ended.out) == (3, b"done\n")
    assert "is Python, but did not load the pacing" in ended.words
    assert "replaced itself with another Python" not in ended.words


def assert_no_alarm(run, python, program):
    """No process of a program is reported. It is told for how long to run: longer than the grace.

    A busy machine may hold up a process for longer than the grace, and then the report is right. In
    that case, the program runs again with a longer grace.
    """
    for grace in (0.4, 1.5, 4.5):
        options = ("--limit", "ec2=1/s", "--grace", str(grace))
        with Stalls() as stalls:
            ended = run(*options, "--", python, run.plain(program), str(grace + 0.35))
        if ended.code == 0 or stalls.seconds < grace / 5:
            break
    assert ended.code == 0, ended.err
    assert "did not load the pacing" not in ended.words
    assert "WARNING" not in ended.words


@linux
def test_children_of_every_kind_are_known(quiet_run, python):
    """Forked, spawned and forkserver's children, closed files and other programs: no alarm."""
    program = """
        import multiprocessing, subprocess
        seconds = float(sys.argv[1])
        def work():
            time.sleep(seconds)
        if __name__ == "__main__":
            time.sleep(0.2)
            if os.fork() == 0:  # as daemons do, but in the foreground
                os.closerange(3, 100)
                time.sleep(seconds)
                os._exit(0)
            children = [
                multiprocessing.get_context(way).Process(target=work)
                for way in ("fork", "spawn", "forkserver")
            ]
            for child in children: child.start()
            subprocess.run(["sleep", str(seconds)], check=True)
            for child in children: child.join()
    """
    assert_no_alarm(quiet_run, python, program)


@linux
def test_exec_of_another_python_is_known(quiet_run, python):
    """A Python that another one becomes, and that says hello, too, raises no alarm."""
    program = """
        time.sleep(0.2)
        wait = f"import time; time.sleep({sys.argv[1]})"
        os.execv(sys.executable, [sys.executable, "-c", wait])
    """
    assert_no_alarm(quiet_run, python, program)


def test_program_without_botocore_is_reported(quiet_run, python):
    """A program whose botocore is not botocore, or that has none (s3cmd), is not paced: it is said.

    And what would pace it.
    """
    ended = quiet_run("--limit", "ec2=1/s", "--", python, "-c", "pass")
    assert ended.code == 0
    assert "nothing was paced: no process used botocore" in ended.words
    assert "If the program calls AWS in another way, use --any" in ended.words


HIDDEN = """
import sys
machinery = sys.modules["_frozen_importlib"]
seen = machinery._find_spec
[machinery._find_spec] = [one.cell_contents for one in seen.__closure__]
"""


def test_late_botocore_is_reported(run, aws, python):
    """Calls of a botocore that came past our hooks are known at the end: exit code 3."""
    program = run.script("calls(2)")
    hidden = f"{HIDDEN}exec(open({program!r}).read())"
    ended = run("--limit", "ec2=50/s", "--", python, "-c", hidden)
    assert (ended.code, len(aws.arrivals)) == (3, 2)
    assert "no AWS calls counted" in ended.words
    assert re.search(r"WARNING: not paced: \S+ .*\(process \d+, at first\)", ended.words)


def test_unhookable_botocore_is_stopped(quiet_run, python):
    """One that is found too late to refuse its import ends the program: exit code 3."""
    program = quiet_run.plain("""
        import types
        class Closed(type):
            def __setattr__(cls, name, value):
                raise TypeError("closed")
        class BaseClient(metaclass=Closed):
            pass
        sys.modules["botocore.client"] = types.SimpleNamespace(BaseClient=BaseClient)
        import colorsys
        time.sleep(60)
    """)
    ended = quiet_run("--limit", "ec2=1/s", "--", python, program)
    assert (ended.code, ended.seconds < 50) == (3, True)
    assert "uses a botocore that cannot be paced: botocore.client: " in ended.words
    assert "It is stopped, so that no call is sent unpaced." in ended.words
