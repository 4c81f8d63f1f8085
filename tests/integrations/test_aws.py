"""What AWS's answers mean, held against the documentation in the installed botocore's models."""

import gzip
import json
import re
import string
from dataclasses import dataclass
from pathlib import Path

import botocore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioapiqueue.integrations.spi import account_of, hold_of, is_throttle
from tests.helpers import introspect
from tests.helpers.lazily import lazily

AWS_MAX_HOLD = 300.0
THROTTLE_CODES = introspect.aws_throttle_codes()

moto = lazily("moto.iam.utils")

# Words with which AWS documents a rate of requests, and those with which it documents a quota.
RATE = re.compile(
    r"throttl|rate limit(?!er)|request rate|rate at which requests|rate-related|per second|per unit"
    r"|short period|too frequently|too (quickly|short)|too many ([a-z]+ )?(requests|calls)"
    r"|number of (concurrent stream )?requests|request throughput"
    r"|requests (being|exceeds)|API operation limits|maximum number of operations"
    r"|exceeded a limit\. Try your request again",
    re.IGNORECASE,
)
QUOTA = re.compile(
    r"quotas?\b|resource limit|service limit|creat(e|ing)|per account|account limit|already reached"
    r"|resources?\b.* (exceed|beyond)|number of (resources|pipelines|user pools)|allowed limit"
    r"|limits? for (the|a|this)|limit is exceeded|more than the allowed",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Documented:
    """An error as a service's model documents it."""

    service: str
    service_id: str
    code: str
    status: int | None
    says: str
    operations: tuple[str, ...]

    def throttles(self, operation, service=None):
        """Tell how we judge it as an answer to a call of the service."""
        return is_throttle(
            self.code, self.status, operation=operation, service=service or self.service
        )


@pytest.fixture(scope="module")
def documented():
    """Read the errors of all services from the botocore that is installed."""
    errors = []
    for path in sorted(Path(botocore.__file__).parent.glob("data/*/*/service-2.json.gz")):
        model = json.loads(gzip.decompress(path.read_bytes()))
        service_id = model["metadata"]["serviceId"].lower().replace(" ", "-")
        for name, shape in model["shapes"].items():
            if shape.get("exception"):
                error = shape.get("error", {})
                errors.append(
                    Documented(
                        service=path.parts[-3],
                        service_id=service_id,
                        code=error.get("code", name),
                        status=error.get("httpStatusCode"),
                        says=re.sub("<[^>]+>", "", shape.get("documentation", "")),
                        operations=tuple(model["operations"]),
                    )
                )
    assert len(errors) > 1000
    return errors


def test_botocores_throttle_codes_are_known():
    """The codes are botocore's, and RateExceeded."""
    ours = THROTTLE_CODES - {"RateExceeded"}
    assert ours == introspect.throttle_codes()


def test_documented_quotas_are_no_throttles(documented):
    """Where the documentation speaks of a quota, and not of a rate, no call is throttled."""
    quotas = [
        error
        for error in documented
        if (error.code in ("LimitExceededException", "TooManyRequestsException"))
        or (error.status == 429 and error.code not in THROTTLE_CODES)
        if QUOTA.search(error.says) and not RATE.search(error.says)
    ]
    # Kafka Connect has one code for both, whatever it documents: there, calls that read count.
    wrong = [
        (error.service, error.code, operation, error.says)
        for error in quotas
        for operation in error.operations
        if error.throttles(operation)
        and not (error.service == "kafkaconnect" and operation.startswith(("Describe", "List")))
    ]
    assert not wrong
    assert len(quotas) > 50


def test_limit_exceeded_follows_the_documentation(documented):
    """For a service that says nothing of a rate, LimitExceededException never counts."""
    counted = {
        error.service: error.says
        for error in documented
        if error.code == "LimitExceededException" and any(map(error.throttles, error.operations))
    }
    said = {service: text for service, text in counted.items() if RATE.search(text)}
    # Lex's runtime says only "Exceeded a limit", with status 429, and can create nothing.
    assert counted.keys() - said.keys() == {"lex-runtime"}
    assert {"apigateway", "ce", "kinesis", "dynamodb", "personalize"} <= said.keys()


@pytest.mark.parametrize(
    ("service", "code"),
    [
        ("iam", "LimitExceeded"),  # its wire code, with status 409
        ("iam", "LimitExceededException"),
        ("kms", "LimitExceededException"),
        ("config", "LimitExceededException"),
        ("logs", "LimitExceededException"),
        ("cloudformation", "LimitExceededException"),
        ("ecs", "LimitExceededException"),
        ("route53resolver", "LimitExceededException"),
        ("directconnect", "LimitExceededException"),  # "rate limiter limit": a thing, not a rate
        ("codeconnections", "LimitExceededException"),  # with status 429
        ("lambda", "LimitExceededException"),  # documented nowhere
        (None, "LimitExceededException"),
        ("efs", "TooManyRequests"),
        ("oam", "ServiceQuotaExceededException"),
        ("workdocs", "TooManyLabelsException"),
        ("cloudwatch", "ConcurrentModificationException"),
    ],
)
@pytest.mark.parametrize("operation", ["CreateThing", "ListThings", None])
def test_quotas_of_resources_are_no_throttles(service, code, operation):
    """A quota slows nothing down, whatever the status and the operation."""
    assert not is_throttle(code, 429, operation=operation, service=service)
    assert not is_throttle(code, 400, operation=operation, service=service)


@pytest.mark.parametrize("service", ["kinesis", "dynamodb", "securityhub", "dynamodb-streams"])
def test_ambiguous_codes_throttle_reading_calls(service):
    """A call that creates nothing cannot meet a quota of resources; any other one can."""
    code = "LimitExceededException"
    for operation in ("ListThings", "DescribeThing", "GetThing", "BatchGetThings"):
        assert is_throttle(code, 400, operation=operation, service=service)
    for operation in ("CreateThing", "UpdateThing", None):
        assert not is_throttle(code, 400, operation=operation, service=service)


def test_both_service_names_mean_the_same(documented):
    """The name that create_client takes and the service id lead to the same judgement."""
    for error in documented:
        if error.code in THROTTLE_CODES or error.status == 429:
            for operation in (error.operations[0], "ListThings", "CreateThing"):
                assert error.throttles(operation) == error.throttles(
                    operation, service=error.service_id
                ), error


def test_documented_429_codes_are_judged(documented):
    """Status 429 with a code of its own is a throttle just where the documentation says so."""
    coded = [e for e in documented if e.status == 429 and e.code not in THROTTLE_CODES]
    wrong = [
        (error.service, error.code, error.says)
        for error in coded
        if error.throttles("ListThings") != bool(RATE.search(error.says))
        if error.service != "efs"  # "if you don't wait at least 24 hours"
    ]
    assert not wrong
    assert len(coded) > 20


@pytest.mark.parametrize("code", sorted(THROTTLE_CODES - {"LimitExceededException"}))
def test_throttle_codes_count_whatever_the_status(code):
    """EC2 throttles with 503, Auto Scaling with 400."""
    for status in (400, 429, 503, None):
        assert is_throttle(code, status, operation="DescribeThings", service="ec2")


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        (None, 429, True),
        ("429", 429, True),
        ("SomethingNew", 429, True),
        (None, 503, False),
        ("503", 503, False),
        ("ServiceUnavailable", 503, False),
        ("AccessDenied", 403, False),
        (None, 200, False),
        (None, None, False),
    ],
)
def test_bare_status_codes(code, status, expected):
    """An answer without a code that says more is judged by its status."""
    assert is_throttle(code, status) is expected


@given(
    st.none() | st.text() | st.sampled_from(sorted(THROTTLE_CODES)),
    st.none() | st.integers(),
    st.none() | st.text(),
    st.none() | st.text(),
)
def test_any_answer_can_be_judged(code, status, operation, service):
    """No answer raises."""
    assert is_throttle(code, status, operation=operation, service=service) in (True, False)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-amz-retry-after": "1500"}, 1.5),
        ({"X-Amz-Retry-After": " 250 "}, 0.25),
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"Retry-After": "9", "x-amz-retry-after": "100"}, 0.1),
        ({"Retry-After": "9", "x-amz-retry-after": "soon"}, 9.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "86400"}, 86400.0),
    ],
)
def test_retry_headers_are_read(headers, seconds):
    """Milliseconds in AWS's own header, seconds in HTTP's; the former counts."""
    assert hold_of(headers, max_hold=86400)[0] == seconds


NONSENSE = ["", "-1", "NaN", "inf", "1e9", "1_0", "٣", "soon", "9" * 16, "1" * 10_000_000, "1;2"]


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: value[:8] or "empty")
@pytest.mark.parametrize("name", ["x-amz-retry-after", "Retry-After"])
def test_nonsense_holds_nothing_and_is_malformed(name, value):
    """What is no number of a plain length holds nothing, and differs from no header at all."""
    assert hold_of({name: value}) == (None, True)


def test_hold_has_a_maximum():
    """A longer hold than the caller's maximum is cut, and malformed."""
    assert hold_of({"Retry-After": "300"}) == (300.0, False)
    assert hold_of({"Retry-After": "301"}) == (AWS_MAX_HOLD, True)
    assert hold_of({"x-amz-retry-after": "999999999999999"}) == (AWS_MAX_HOLD, True)
    assert hold_of({"Retry-After": "301"}, max_hold=600) == (301.0, False)
    assert hold_of({"Retry-After": "5"}, max_hold=2) == (2.0, True)


@given(
    st.dictionaries(st.sampled_from(["retry-after", "X-Amz-Retry-After", "Date"]), st.text()),
    st.floats(min_value=0, max_value=1e6),
)
def test_any_header_holds_within_bounds(headers, max_hold):
    """No header raises, or gives a hold that the queue would refuse."""
    seconds, malformed = hold_of(headers, max_hold=max_hold)
    assert seconds is None or 0 <= seconds <= max_hold
    assert malformed in (True, False)


@pytest.mark.parametrize(
    ("key", "account"),
    [
        ("ASIAQNZGKIQY56JQ7WML", "029608264753"),
        ("ASIAY34FZKBOKMUTVV7A", "609629065308"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),  # AWS's example is an old one
        ("AKIAJ2222222222222AA", "AKIAJ2222222222222AA"),
        ("AKIDEXAMPLE", "AKIDEXAMPLE"),
        ("ASIAQNZGKIQY56JQ7WM", "ASIAQNZGKIQY56JQ7WM"),
        ("asiaqnzgkiqy56jq7wml", "asiaqnzgkiqy56jq7wml"),
        ("ASIA77777777777777AA", "ASIA77777777777777AA"),  # more than twelve digits
        ("", ""),
    ],
)
def test_newer_key_id_has_the_account(key, account):
    """Published pairs of key and account; what encodes none stands for itself."""
    assert account_of(key) == account


def test_known_account_id_comes_first():
    """Credentials that carry the account's id are believed."""
    assert account_of("ASIAQNZGKIQY56JQ7WML", "123456789012") == "123456789012"
    assert account_of("ASIAQNZGKIQY56JQ7WML", "") == "029608264753"


@given(st.integers(0, 10**12 - 1), st.sampled_from(["AKIA", "ASIA"]))
def test_refreshed_credentials_keep_their_account(account, prefix):
    """Every key that moto makes for an account, by its own arithmetic, tells that account."""
    expected = f"{account:012}"
    for _ in range(2):
        assert account_of(moto.generate_access_key_id_from_account_id(expected, prefix)) == expected


@given(
    st.text()
    | st.text(string.ascii_uppercase + "234567", min_size=16, max_size=16).map("ASIA".__add__)
    | st.text(string.ascii_uppercase + string.digits, min_size=20, max_size=20)
)
def test_any_string_stands_for_an_account(key):
    """No key raises: it gives twelve digits, or itself."""
    account = account_of(key)
    assert account == key or re.fullmatch("[0-9]{12}", account)
