"""`aioapiqueue limits --prices`: what LLM calls cost, by the package and by prices of our own."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from aioapiqueue.integrations.llm.spi import PriceList
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.console import console
from aioapiqueue_run.cli.limits.price_table import show_table
from tests.helpers.price_snapshot import model, own_prices, price
from tests.helpers.words import words_of

pytestmark = pytest.mark.real

VERSION = f"genai-prices {importlib.metadata.version('genai-prices')}"


def prices(*arguments):
    """Run the command, whose output is no terminal."""
    return CliRunner().invoke(app, ["limits", "--prices", *arguments], env={"COLUMNS": "80"})


@pytest.fixture
def _own_prices():
    with own_prices():
        yield


# With the prices of the package


def test_table_fits_80_columns():
    """It has the providers with profiles, and ends with the version of the package."""
    shown = prices()
    assert shown.exit_code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line for line in lines if line.endswith(", USD per million tokens")]
    providers = ["openai", "anthropic", "gemini", "bedrock", "groq"]
    assert [head.partition(",")[0] for head in heads] == providers
    assert re.search(r"(?m)^gpt-4o +[\d.]+ +[\d.]+ +[\d.]+ +-$", shown.stdout)
    assert lines[-1] == f"Prices: {VERSION}"


def test_all_models_can_be_shown():
    """Each one that the package has, of all providers, and as JSON."""
    told = json.loads(prices("--provider", "all", "--json").stdout)
    assert told["prices"] == VERSION
    assert len(told["models"]) > 1000
    assert len({one["provider"] for one in told["models"]}) > 20
    shown = prices("flash", "--provider", "gemini", "--provider", "openrouter")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.count("a call reserves ") > 10
    assert max(len(line) for line in shown.stdout.splitlines() if "https:" not in line) <= 80


def test_package_is_needed(monkeypatch):
    """Without it, the extra is named, and nothing is printed."""
    for name in [one for one in sys.modules if one.startswith("genai_prices")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    ended = prices()
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "--prices needs genai-prices, which is not installed: pip install" in ended.stderr
    assert "'aioapiqueue[prices]'" in ended.stderr


@pytest.mark.parametrize("options", [["limits"], ["limits", "--prices"]])
def test_other_commands_import_nothing(options):
    """The package takes half a second to import."""
    code = (
        "import sys\nfrom typer.testing import CliRunner\n"
        "from aioapiqueue_run.cli.app import app\n"
        f"assert CliRunner().invoke(app, {options}).exit_code == 0\n"
        "print(*(one for one in ('genai_prices', 'aioapiqueue.integrations.llm')"
        " if one in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = ["genai_prices", "aioapiqueue.integrations.llm"] if "--prices" in options else []
    assert done.stdout.split() == loaded


# With prices of our own


@pytest.mark.usefixtures("_own_prices")
def test_table_marks_and_leaves_out():
    """Higher prices are marked; deprecated models and those without tokens are only counted."""
    assert prices().stdout.splitlines() == [
        "openai, USD per million tokens",
        "Model    input output cache cache",
        "                       read write",
        "slow    0.0005      -     - 1,000",
        "swift-1   1.5+     6+  0.15     -",
        "",
        "gemini, USD per million tokens",
        "Model              input output cache cache",
        "                                 read write",
        "dated                  3      4     -     -",
        r"raw-[bold]\x1b[31m     1      -     -     -",
        "",
        "+ higher for long prompts, or at another time of the day",
        "Not shown: 1 model without prices for tokens, 1 deprecated model",
        "For all prices of a model: aioapiqueue limits --prices MODEL",
        "For 1 other provider: --provider NAME, or --provider all",
        f"Prices: {VERSION}",
    ]
    other = prices("--provider", "elsewhere", "--provider", "gemini").stdout
    assert re.findall(r"(\w+), USD", other) == ["elsewhere", "gemini"]
    every = prices("--provider", "all").stdout
    assert re.findall(r"(\w+), USD", every) == ["elsewhere", "gemini", "openai"]
    assert "other provider" not in every


@pytest.mark.usefixtures("_own_prices")
@pytest.mark.parametrize(
    ("hour", "hourly", "nightly"),
    [(0, "0.5+ 2+", "1 2"), (1, "1 4", "0.25+ -"), (17, "0.5+ 2+", "1 2")],
)
def test_cheap_hours_are_marked(hour, hourly, nightly, capsys):
    """The price is that of now, and a higher one of today is announced; no earlier one."""
    now = dt.datetime(2026, 1, 31, hour, 15, tzinfo=dt.UTC)
    show_table(console(), [*PriceList(now).containing("ly", ["elsewhere"])], now.date())
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["hourly", *hourly.split(), "-", "-"] in rows
    assert ["nightly", *nightly.split(), "-", "-"] in rows


@pytest.mark.usefixtures("_own_prices")
def test_model_has_all_its_prices():
    """For long prompts, in service tiers, later, and not for tokens; with an example."""
    shown = prices("Swift-1-20260131")
    assert shown.stdout.splitlines() == [
        "swift-1 (openai)",
        "  Swift 1, context window of 1,000,000 tokens",
        "  USD per million tokens standard flex",
        "  input                       1.5 0.75",
        "    above 200,000               3    2",
        "    above 400,000             4.5    2",
        "  cache read                 0.15 0.15",
        "  cache write 1h                3    3",
        "  output                        6    3",
        "    above 200,000               9    3",
        '  "above": all tokens of a call whose prompt has more tokens than this',
        "  10 USD per 1,000 web searches",
        "  from 2999-01-31 on with service_tier=late: input 0.5 (above 9,000: 0.6)",
        "  Cache reads are cheap.",
        "  a call reserves 0.00465 USD for 1,000 bytes of prompt and 500 output tokens",
        "",
        "For 1 other provider: --provider NAME, or --provider all",
        f"Prices: {VERSION}",
    ]


@pytest.mark.usefixtures("_own_prices")
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("dated", "  in force since 2020-01-31\n  from 2999-01-31 on: input 5, output 6.5\n"),
        (
            "hourly",
            (
                "  each day from 00:30 to 16:30 UTC: input 1, output 4\n"
                "  at other times: input 0.5, output 2\n"
                "  a call reserves 0.0031 USD for 1,000 bytes of prompt and 500 output tokens\n"
            ),
        ),
        ("soon", "  output                        2\n  from 2999-01-31 on: input 5, output 6.5\n"),
        (
            "listener",
            (
                "listener (openai)\n  0.36 USD per hour of audio\n"
                "  not priced by tokens alone: a budget in USD refuses its calls without prices=\n"
            ),
        ),
        ("slow", "  a call reserves 1.1 USD for 1,000 bytes"),
        ("swift-0", "swift-0 (openai)\n  deprecated\n"),
        ("raw", "raw-[bold]\\x1b[31m (gemini)\n  USD per million tokens standard\n  input "),
    ],
)
def test_times_and_units_have_words(model, expected):
    """When prices change, and what is not priced by tokens; long comments are left out."""
    shown = prices(model).stdout
    assert expected in shown
    assert "xxx" not in shown


@pytest.mark.usefixtures("_own_prices")
def test_part_of_a_name_is_enough():
    """All models that have it are shown; with a whole name, the others are only named."""
    part = prices("SWIFT").stdout
    assert re.findall(r"(?m)^(\S+) \(", part) == ["swift-0", "swift-1"]
    assert "Similar names" not in part
    whole = prices("slow", "--provider", "openai")
    assert re.findall(r"(?m)^(\S+) \(", whole.stdout) == ["slow"]
    names = [f"{number}-slow-and-slower-yet" for number in range(10, 40)]
    with own_prices(*(model(name, price(input_mtok="1")) for name in names)):
        whole = prices("slow").stdout
    assert re.findall(r"\d+-slow-and-slower-yet", whole) == names[:20]
    assert "\nSimilar names: 10-slow-and-slower-yet, 11" in whole
    assert re.search(r" and 10\s+more\n", whole)
    assert max(map(len, whole.splitlines())) <= 80


@pytest.mark.usefixtures("_own_prices")
def test_unknown_model_is_refused():
    """With similar names, and the three ways to set its price."""
    ended = prices("swift-2")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.replace("aioapiqueue: ", "").splitlines() == [
        f'--prices: {VERSION} has no model "swift-2". Similar names: swift-1, swift-0',
        "You can set its price in profile.with_(...), in one of three ways:",
        '  prices={"swift-2": "swift-1"}  # the prices of a known model',
        '  prices={"swift-2": {"input": 2.5, "output": 10}}  # USD per million tokens',
        "  prices=function  # called with (request, usage), returns USD",
    ]
    ended = prices("?", "--json")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert 'has no model "?" You can' in words_of(ended.stderr)
    ended = prices("slow", "--provider", "gemini", "--provider", "groq")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert 'gemini or groq has no model "slow". Providers that have it: openai' in ended.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--provider", "groq"], "--provider shows prices: use it with --prices"),
        (["--prices", "--provider", "grok"], "--provider grok: did you mean groq? Use all, or one"),
        (["--prices", "--limits", "x.toml"], "use it without --limits"),
        (["--prices", "x", "--service", "s3"], "use it without --service"),
        (["--prices", "--share", "9%"], "use it without --share"),
        (["--prices", "--no-check"], "use it without --no-check"),
    ],
)
def test_mistakes_are_refused(options, message):
    """Options that do not go together, and providers that do not exist."""
    ended = CliRunner().invoke(app, ["limits", *options])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert message in ended.stderr
