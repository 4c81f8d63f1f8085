from __future__ import annotations

import gzip
import time
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.awsrequest import create_request_object, prepare_request_dict
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.serialize import create_serializer

from aioapiqueue.registry import parameter_counts
from aioapiqueue_run.gateway.calls import (
    MAX_FORM,
    MAX_PARSED,
    UNKNOWN,
    HttpRequest,
    find_call,
    wants_body,
)
from aioapiqueue_run.gateway.table import AwsService, table
from tests.helpers.models import INSTALLED, OLDER, UNLISTED
from tests.helpers.yardstick import slowness

LOADER = Loader()
DEPTH = 5
HOSTS = {"s3control": "123456789012.s3-control.us-east-1.amazonaws.com"}
ALIKE = {"docdb": "rds", "neptune": "rds"}


def value_of(shape, *, whole, depth=0):
    """Return parameters for a shape: those it requires, or with `whole` all of the first level."""
    kind = shape.type_name
    if kind == "structure":
        if depth >= DEPTH:
            return {}
        names = list(shape.required_members)
        if getattr(shape, "is_tagged_union", False):
            names = [next(iter(shape.members))]
        elif whole and depth < 4:
            names = [name for name, one in shape.members.items() if one.type_name != "timestamp"]
        return {name: value_of(shape.members[name], whole=whole, depth=depth + 1) for name in names}
    if kind == "list":
        return [] if depth >= DEPTH else [value_of(shape.member, whole=whole, depth=depth + 1)] * 2
    if kind == "map":
        return {} if depth >= DEPTH else {"k": value_of(shape.value, whole=whole, depth=depth + 1)}
    if kind == "string":
        return shape.enum[0] if shape.enum else "x1234567890"
    return {
        "integer": 7,
        "long": 7,
        "double": 1.5,
        "float": 1.5,
        "boolean": True,
        "timestamp": "2026-01-01T00:00:00Z",
        "blob": b"x",
    }[kind]


def protocol_of(model):
    """Return the protocol that botocore would speak; an older one knows a single one of each."""
    return getattr(model, "resolved_protocol", model.metadata["protocol"])


def request_of(model, operation, parameters):
    """Return the request that botocore would send, signed for us-east-1."""
    serializer = create_serializer(protocol_of(model), include_validation=False)
    sent = serializer.serialize_to_request(parameters, operation)
    name = model.service_name
    host = HOSTS.get(name, f"{model.endpoint_prefix}.us-east-1.amazonaws.com")
    prepare_request_dict(sent, endpoint_url=f"https://{host}", context={})
    request = create_request_object(sent).prepare()
    url = urlsplit(request.url)
    headers = {
        name.lower(): one.decode() if isinstance(one, bytes) else str(one)
        for name, one in request.headers.items()
    }
    scope = f"AKIAIOSFODNN7EXAMPLE/20261127/us-east-1/{model.signing_name}/aws4_request"
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, x"
    body = request.body or b""
    return HttpRequest(
        request.method,
        host,
        (url.path or "/") + (f"?{url.query}" if url.query else ""),
        headers,
        body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else b"",
    )


def each_operation(names):
    """Yield the models of all operations of services that botocore has."""
    for name in names:
        model = ServiceModel(LOADER.load_service_model(name, "service-2"), name)
        for operation in model.operation_names:
            yield model, model.operation_model(operation)


EQUAL = {
    # These are sent exactly as those, to the same hosts.
    ("s3", "GetBucketLifecycle"): "GetBucketLifecycleConfiguration",
    ("s3", "PutBucketLifecycle"): "PutBucketLifecycleConfiguration",
    ("s3", "GetBucketNotification"): "GetBucketNotificationConfiguration",
    ("s3", "PutBucketNotification"): "PutBucketNotificationConfiguration",
    ("s3", "ListDirectoryBuckets"): "ListBuckets",
}
SIBLINGS = {
    "docdb": "rds",
    "neptune": "rds",
    "greengrassv2": "greengrass",
    "lambda-microvms": "lambda",
    "sms-voice": "pinpoint-sms-voice",
    "wisdom": "qconnect",
}
"""Services of which some requests are exactly those of another one, to the same hosts."""


NOT_THE_SAME = {
    # They have more parameters than are counted, and of these some others are.
    ("rds", "CreateDBInstance"),
    ("rds", "ModifyDBInstance"),
    # Of structures with nothing in them, nothing is sent.
    ("ec2", "CreateNetworkInsightsAccessScope"),
    ("ec2", "DescribeScheduledInstanceAvailability"),
    ("ec2", "DescribeScheduledInstances"),
    ("elasticache", "DescribeUpdateActions"),
    ("redshift", "CreateRedshiftIdcApplication"),
    ("redshift", "ModifyRedshiftIdcApplication"),
}


def top(counts):
    """Return the numbers of a call's own parameters, without those in structures."""
    return {name: number for name, number in counts.items() if "." not in name}


SERVICES = sorted(INSTALLED - UNLISTED)
"""All but those that were closed since."""
SOME = sorted({*SERVICES[::40], "ec2", "rds", "s3", "s3control", "sqs"} & {*SERVICES})
"""S3, those that most call, and every 40th; all where slow tests run."""


@pytest.mark.parametrize(
    "services", [SOME, pytest.param(SERVICES, marks=pytest.mark.slow)], ids=len
)
def test_every_operation_is_told_by_its_request(services):
    """Each operation of botocore, as botocore would send it; at least 99 % by their own names.

    Of an older botocore at least 95 %: some have gone since, and no other name is found for them.
    Where a form or JSON is sent, its parameters have the numbers that `parameter_counts` returns of
    what was given to botocore.
    """
    exact, total, compared, wrong, others = 0, 0, 0, [], []
    for model, operation in each_operation(services):
        service, name, shape = model.service_name, operation.name, operation.input_shape
        request = request_of(model, operation, value_of(shape, whole=False) if shape else {})
        call = find_call(request)
        total += 1
        if (call.service, call.operation) == (service, name):
            exact += 1
        elif OLDER and call.operation == UNKNOWN:
            continue
        elif EQUAL.get((service, name)) != call.operation and (
            SIBLINGS.get(service) != call.service or call.operation != name
        ):
            wrong.append(((service, name), (call.service, call.operation)))
        assert call.key == "AKIAIOSFODNN7EXAMPLE"
        prefix = AwsService("", "", model.endpoint_prefix, "", None, (), (), {})
        assert call.region == table().region_of(prefix, "us-east-1")
        if shape and protocol_of(model) in {"ec2", "query", "json"}:
            given = value_of(shape, whole=True)
            found = find_call(request_of(model, operation, given))
            compared += 1
            if top(found.parameters) != top(parameter_counts(given)):
                others.append((service, name))
    assert not wrong
    assert exact >= (0.95 * total if OLDER else 0.99 * total)
    part = len(services) / len(SERVICES)
    assert total > (15_000 if OLDER else 19_000) * part
    assert set(others) <= NOT_THE_SAME
    assert compared > 5_000 * part


def call_of(method="POST", host="ec2.eu-west-1.amazonaws.com", target="/", body="", **headers):
    """Return the call that a request is; `sign` is the end of its signature's scope."""
    sign = headers.pop("sign", "eu-west-1/ec2")
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if sign:
        key = f"AKIAIOSFODNN7EXAMPLE/20261127/{sign}/aws4_request"
        given["authorization"] = f"AWS4-HMAC-SHA256 Credential={key}, SignedHeaders=host, x"
    return find_call(HttpRequest(method, host, target, given, body.encode()))


FORM = "application/x-www-form-urlencoded; charset=utf-8"


def test_region_is_botocores():
    """Services with one endpoint have the Region that botocore gives them, wherever it is."""
    body = "Action=ListUsers&Version=2010-05-08"
    for signed, expected in (
        ("us-east-1", "aws-global"),
        ("cn-north-1", "aws-cn-global"),
        ("us-gov-west-1", "aws-us-gov-global"),
    ):
        host = "iam.amazonaws.com"
        call = call_of(host=host, body=body, content_type=FORM, sign=f"{signed}/iam")
        client = boto3.client(
            "iam",
            region_name=signed,
            aws_access_key_id="x",
            aws_secret_access_key="x",  # noqa: S106
        )
        assert call.region == expected == client.meta.region_name
    assert call_of(body="Action=DescribeVolumes", content_type=FORM).region == "eu-west-1"


@pytest.mark.parametrize(
    ("host", "target", "expected"),
    [
        ("s3.eu-west-1.amazonaws.com", "/", "ListBuckets"),
        ("s3.eu-west-1.amazonaws.com", "/some-bucket", "ListObjects"),
        ("s3.eu-west-1.amazonaws.com", "/some-bucket/", "ListObjects"),
        ("s3.eu-west-1.amazonaws.com", "/some-bucket/a/b%20c/", "GetObject"),
        ("some.bucket.s3.eu-west-1.amazonaws.com", "/?list-type=2", "ListObjectsV2"),
        ("s3.s3.amazonaws.com", "/?acl", "GetBucketAcl"),
        ("some-bucket.s3.dualstack.eu-west-1.amazonaws.com", "/key?tagging", "GetObjectTagging"),
        ("some-bucket.s3-accelerate.amazonaws.com", "/key", "GetObject"),
        ("point-123456789012.s3-accesspoint.eu-west-1.amazonaws.com", "/key", "GetObject"),
        ("bucket.vpce-1a-2b.s3.eu-west-1.vpce.amazonaws.com", "/some-bucket", "ListObjects"),
        ("x.bucket.vpce-1a-2b.s3.eu-west-1.vpce.amazonaws.com", "/key", "GetObject"),
    ],
)
def test_bucket_is_in_host_or_path(host, target, expected):
    """Every form of S3's host names; the same for what is not signed."""
    for sign in ("eu-west-1/s3", ""):
        call = call_of("GET", host, target, sign=sign)
        assert (call.service, call.operation) == ("s3", expected)


def test_host_tells_what_signs_alike():
    """S3 and its control plane, and the versions of load balancers."""
    host = "123456789012.s3-control.eu-west-1.amazonaws.com"
    target = "/v20180820/configuration/publicAccessBlock"
    call = call_of("GET", host, target, sign="eu-west-1/s3", x_amz_account_id="1")
    assert (call.service, call.operation) == ("s3control", "GetPublicAccessBlock")
    for version, expected in (("2012-06-01", "elb"), ("2015-12-01", "elbv2")):
        call = call_of(
            host="elasticloadbalancing.eu-west-1.amazonaws.com",
            body=f"Action=DescribeLoadBalancers&Version={version}",
            content_type=FORM,
            sign="eu-west-1/elasticloadbalancing",
        )
        assert (call.service, call.operation) == (expected, "DescribeLoadBalancers")


def test_unsigned_call_is_told_by_its_host():
    """A call with a token of its own has no access key; a private endpoint's name comes first."""
    body = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=x"
    call = call_of(host="sts.eu-west-1.amazonaws.com", body=body, content_type=FORM, sign="")
    expected = "sts", "AssumeRoleWithWebIdentity", "eu-west-1", None
    assert (call.service, call.operation, call.region, call.key) == expected
    call = call_of(
        "GET", "portal.sso.eu-west-1.amazonaws.com", "/federation/credentials?x=1", sign=""
    )
    assert call.service == "sso"
    host = "vpce-1a2b-3c4d.sts.eu-west-1.vpce.amazonaws.com"
    assert call_of(host=host, body=body, content_type=FORM, sign="").service == "sts"


def test_dynamodb_by_account_is_dynamodb():
    """The name of the host begins with the account, as boto3 makes it once it knows that."""
    call = call_of(
        host="123456789012.ddb.eu-west-1.amazonaws.com",
        body='{"TableName": "x", "Limit": 25}',
        x_amz_target="DynamoDB_20120810.Scan",
        content_type="application/x-amz-json-1.0",
        sign="eu-west-1/dynamodb",
    )
    assert (call.service, call.operation) == ("dynamodb", "Scan")
    assert call.parameters == {"TableName": 1, "Limit": 25}


def test_presigned_call_has_its_signature_in_query():
    """So does a link to an object."""
    scope = "AKIAIOSFODNN7EXAMPLE%2F20261127%2Feu-west-1%2Fs3%2Faws4_request"
    target = f"/key?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={scope}&X-Amz-Signature=1"
    call = call_of("GET", "some-bucket.s3.amazonaws.com", target, sign="")
    assert (call.operation, call.region, call.key) == (
        "GetObject",
        "eu-west-1",
        "AKIAIOSFODNN7EXAMPLE",
    )


def test_signature_for_several_regions():
    """One for a single Region has it; one for more has none."""
    for regions, expected in (("eu-west-1", "eu-west-1"), ("*", None), ("a,b", None)):
        call = find_call(
            HttpRequest(
                "GET",
                "x.accesspoint.s3-global.amazonaws.com",
                "/key",
                {
                    "authorization": "AWS4-ECDSA-P256-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/"
                    "20261127/s3/aws4_request, SignedHeaders=host, Signature=1",
                    "x-amz-region-set": regions,
                },
            )
        )
        assert (call.service, call.operation, call.region) == ("s3", "GetObject", expected)


def test_new_operation_of_a_known_service():
    """Its name is taken where the request has one; otherwise it comes under the service's limit."""
    call = call_of(body="Action=DescribeNovelties&Version=2016-11-15", content_type=FORM)
    assert (call.service, call.operation) == ("ec2", "DescribeNovelties")
    call = call_of(
        "GET", "lambda.eu-west-1.amazonaws.com", "/2031-01-01/novelties", sign="eu-west-1/lambda"
    )
    assert (call.service, call.operation) == ("lambda", UNKNOWN)


@pytest.mark.parametrize(
    "request_",
    [
        HttpRequest("GET", "novelties.eu-west-1.amazonaws.com", "/", {}),
        HttpRequest("GET", "amazonaws.com", "/", {"authorization": "Basic eA=="}),
        HttpRequest("GET", "x.amazonaws.com", "/", {"authorization": "Credential=a/b/c/D..E/e"}),
    ],
)
def test_unknown_service_is_none(request_):
    """Nothing tells what it is."""
    assert find_call(request_) is None


def test_new_service_is_told_by_its_signature():
    """One that botocore lacks comes under the limits of its name, or of all others."""
    call = call_of("GET", "novelties.eu-west-1.amazonaws.com", sign="eu-west-1/novelties")
    assert (call.service, call.operation, call.region) == ("novelties", UNKNOWN, "eu-west-1")
    assert call.key == "AKIAIOSFODNN7EXAMPLE"


@pytest.mark.parametrize(
    ("sign", "method", "host", "target", "expected"),
    [
        ("s3-outposts", "GET", "p-1.op-1.s3-outposts.us-east-1.amazonaws.com", "/key",
         "s3.GetObject"),
        ("s3-outposts", "GET", "s3-outposts.us-east-1.amazonaws.com",
         "/v20180820/bucket/b", "s3control.GetBucket"),
        ("s3-outposts", "GET", "s3-outposts.us-east-1.amazonaws.com",
         "/S3Outposts/ListEndpoints", "s3outposts.ListEndpoints"),
        ("s3", "GET", "123456789012.s3-control-fips.us-east-1.amazonaws.com",
         "/v20180820/jobs", "s3control.ListJobs"),
        ("s3", "GET", "123456789012.control.vpce-1-a.s3.us-east-1.vpce.amazonaws.com",
         "/v20180820/jobs", "s3control.ListJobs"),
        ("s3-object-lambda", "GET", "p-1.s3-object-lambda.us-east-1.amazonaws.com", "/key",
         "s3.GetObject"),
        ("s3-object-lambda", "POST", "route.s3-object-lambda.us-east-1.amazonaws.com",
         "/WriteGetObjectResponse", "s3.WriteGetObjectResponse"),
        ("s3express", "GET", "s3express-control.us-east-1.amazonaws.com", "/",
         "s3.ListDirectoryBuckets"),
        ("s3express", "GET", "b--use1-az1--x-s3.s3express-use1-az1.us-east-1.amazonaws.com",
         "/key", "s3.GetObject"),
        ("cloudsearch", "GET", "search-x-1.us-east-1.cloudsearch.amazonaws.com",
         "/2013-01-01/search?format=sdk&pretty=true&q=x", "cloudsearchdomain.Search"),
    ],
)  # fmt: skip
def test_hosts_that_sign_alike(sign, method, host, target, expected):
    """Names of hosts and of signatures that several services share."""
    given = {"x_amz_account_id": "1", "x_amz_request_route": "r", "x_amz_request_token": "t"}
    call = call_of(method, host, target, sign=f"us-east-1/{sign}", **given)
    assert f"{call.service}.{call.operation}" == expected


@pytest.mark.parametrize(
    ("host", "target", "expected"),
    [
        ("ingest-cell2.timestream.us-east-1.amazonaws.com", "WriteRecords", "timestream-write"),
        ("query-cell1.timestream.us-east-1.amazonaws.com", "Query", "timestream-query"),
        ("timestream-ingest.us-east-1.api.aws", "WriteRecords", "timestream-write"),
    ],
)
def test_cells_of_timestream(host, target, expected):
    """Each account has hosts of its own."""
    sign, target = "us-east-1/timestream", f"Timestream_20181101.{target}"
    assert call_of(host=host, sign=sign, x_amz_target=target).service == expected


def test_protocol_that_the_model_has_lost():
    """SQS is asked by forms, too, by older SDKs."""
    body = "Action=SendMessage&Version=2012-11-05&MessageBody=x"
    host, sign = "sqs.us-east-1.amazonaws.com", "us-east-1/sqs"
    call = call_of(host=host, body=body, content_type=FORM, sign=sign)
    assert (call.service, call.operation) == ("sqs", "SendMessage")


def test_compressed_form_is_read():
    """SDKs compress long ones; what is no gzip, or a bomb, does no harm."""
    form = b"Action=PutMetricData&Version=2010-08-01&Namespace=x&MetricData.member.1.MetricName=y"
    scope = "AKIAIOSFODNN7EXAMPLE/1/us-east-1/monitoring/x"
    headers = {
        "content-type": FORM,
        "content-encoding": "gzip",
        "authorization": f"AWS4-HMAC-SHA256 Credential={scope}",
    }
    host = "monitoring.us-east-1.amazonaws.com"
    call = find_call(HttpRequest("POST", host, "/", headers, gzip.compress(form)))
    assert (call.service, call.operation) == ("cloudwatch", "PutMetricData")
    assert call.parameters == {"Namespace": 1, "MetricData": 1}
    for body in (b"x", gzip.compress(bytes(50_000_000))):
        assert find_call(HttpRequest("POST", host, "/", headers, body)).operation == UNKNOWN


def test_long_form_is_told_by_its_action():
    """Its parameters are not read: that would hold up all others."""
    body = "Action=DescribeTags&Version=2016-11-15&" + "&".join(f"a{n}=1" for n in range(50_000))
    began = time.process_time()
    call = call_of(body=body, content_type=FORM)
    assert time.process_time() - began < 0.1 * slowness()
    assert (call.operation, call.parameters) == ("DescribeTags", {})


def test_region_in_a_bucket_is_none():
    """A bucket may be called as if it were one."""
    for bucket in ("my-data-1", "eu-west-1"):
        host = f"{bucket}.s3.us-east-1.amazonaws.com"
        assert call_of("GET", host, "/key", sign="").region == "us-east-1"


def test_data_of_others_is_not_read():
    """What a function is given, and what a bucket gets, has no parameters of the call."""
    body = '{"MaxCount": 500, "secret": "x"}'
    target = "/2015-03-31/functions/x/invocations"
    host, sign = "lambda.us-east-1.amazonaws.com", "us-east-1/lambda"
    call = call_of("POST", host, target, body, content_type="application/json", sign=sign)
    assert (call.operation, call.parameters) == ("Invoke", {})
    call = call_of("PUT", "b.s3.us-east-1.amazonaws.com", "/k", "<a><b/></a>", sign="us-east-1/s3")
    assert (call.operation, call.parameters) == ("PutObject", {})


def test_names_that_are_too_long_are_none():
    """They would end the connection to the hub, for all."""
    long = "A" * 9_000
    for scope in (f"{long}/1/us-east-1/ec2/x", f"AKIAIOSFODNN7EXAMPLE/1/{long}/ec2/x"):
        headers = {"content-type": FORM, "authorization": f"AWS4 Credential={scope}"}
        call = find_call(
            HttpRequest("POST", "ec2.us-east-1.amazonaws.com", "/", headers, b"Action=RunInstances")
        )
        assert (call.operation, call.key) == ("RunInstances", None)
        assert call.region in {"us-east-1", None}


def test_name_of_operation_is_a_name():
    """What would break the hub's protocol, or a terminal, is no operation's name."""
    for body in ("Action=%1b%5b2J", f"Action={'x' * 200}", "Action="):
        assert call_of(body=body, content_type=FORM).operation == UNKNOWN
    call = call_of(x_amz_target="DynamoDB_20120810.\x1b[2J", sign="eu-west-1/dynamodb")
    assert call.operation == UNKNOWN


def test_numbers_in_a_form():
    """Lists of each form, numbers, and what is in a structure."""
    body = (
        "Action=RunInstances&MaxCount=5&MinCount=1&ImageId=ami-1&SecurityGroupId.1=a&"
        "SecurityGroupId.2=b&Placement.Tenancy=default&TagSpecification.1.ResourceType=x&"
        "TagSpecification.1.Tag.1.Key=y&DryRun=true"
    )
    call = call_of(body=body, content_type=FORM)
    assert call.parameters == {
        "MaxCount": 5,
        "MinCount": 1,
        "ImageId": 1,
        "DryRun": 1,
        "SecurityGroupIds": 2,
        "TagSpecifications": 1,
        "Placement": 1,
        "Placement.Tenancy": 1,
    }
    body = (
        "Action=CreateDBSubnetGroup&SubnetIds.SubnetIdentifier.1=a&SubnetIds.SubnetIdentifier.2=b"
    )
    host, sign = "rds.eu-west-1.amazonaws.com", "eu-west-1/rds"
    call = call_of(host=host, body=body, content_type=FORM, sign=sign)
    assert call.parameters == {"SubnetIds": 2}


def test_numbers_in_xml():
    """A list of changes, as Route 53 limits their number."""
    change = "<Change><Action>UPSERT</Action></Change>"
    body = (
        '<ChangeResourceRecordSetsRequest xmlns="https://route53.amazonaws.com/doc/2013-04-01/">'
        f"<ChangeBatch><Comment>x</Comment><Changes>{change * 3}</Changes></ChangeBatch>"
        "</ChangeResourceRecordSetsRequest>"
    )
    target = "/2013-04-01/hostedzone/Z1/rrset/"
    call = call_of("POST", "route53.amazonaws.com", target, body, sign="us-east-1/route53")
    assert (call.service, call.operation) == ("route53", "ChangeResourceRecordSets")
    assert call.parameters == {"ChangeBatch": 1, "ChangeBatch.Comment": 1, "ChangeBatch.Changes": 3}


@pytest.mark.parametrize("body", ["{", "[1]", "<a>", "\0", "[" * 100_000, "<a/>" * 2])
def test_malformed_body_has_no_numbers(body):
    """It is sent all the same: what it is worth is for AWS to say."""
    for target, host in (
        ("/2013-04-01/hostedzone", "route53"),
        ("/2015-03-31/functions", "lambda"),
    ):
        call = call_of(
            "POST", f"{host}.eu-west-1.amazonaws.com", target, body, sign=f"eu-west-1/{host}"
        )
        assert call.operation != UNKNOWN
        assert not call.parameters


def test_only_needed_bodies_are_kept():
    """A form, as it has the operation's name; others only if they are small."""

    def wanted(kind, length=None, target="/"):
        headers = {"content-type": kind}
        if length is not None:
            headers["content-length"] = str(length)
        return wants_body(HttpRequest("POST", "x", target, headers))

    assert wanted(FORM) == MAX_FORM
    assert wanted(FORM, target="/?Action=ListUsers") == 0
    assert wanted("application/x-amz-json-1.1", 10) == MAX_PARSED
    assert wanted("application/x-amz-json-1.1", MAX_PARSED + 1) == 0
    assert wanted("application/x-amz-json-1.1") == 0
    assert wanted("application/octet-stream", 10) == 0
