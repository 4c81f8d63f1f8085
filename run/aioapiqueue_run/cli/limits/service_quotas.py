"""Asks Service Quotas for the quotas of an account. Needs the extra `aws`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]  # ships no types
from aiobotocore.session import get_session  # type: ignore[import-untyped]  # as above
from botocore.exceptions import (  # type: ignore[import-untyped]  # as above
    BotoCoreError,
    ClientError,
    NoRegionError,
)
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]  # as above

from aioapiqueue.integrations.aiobotocore import pace_session
from aioapiqueue.integrations.spi import is_throttle
from aioapiqueue.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioapiqueue_run.cli.limits.quotas import ServiceQuota

__all__ = ["QuotasError", "fetch_quotas"]

_TIMEOUT = 20  # seconds for one call
_ATTEMPTS = 3
# The exceptions that botocore raises if a response has JSON of an unexpected form.
_PARSE_ERRORS = (AttributeError, LookupError, TypeError, RecursionError)


class QuotasError(Exception):
    """Raised when Service Quotas does not return all quotas; the message has the reason."""


async def fetch_quotas(
    services: Mapping[str, str], *, region: str | None, seconds: float
) -> tuple[dict[str, list[ServiceQuota]], dict[str, str]]:
    """Return the quotas of services: those applied to the account, or else AWS's defaults.

    The calls are paced, at the default share of the limits that AWS publishes for Service Quotas.

    Args:
        services: the code of each service in Service Quotas, by the service's name.
        region: the Region of the quotas. Default: that of the environment.
        seconds: longest time for all calls together, in seconds.

    Returns:
        The quotas of each service, as Service Quotas returns them; and the services that it does
        not know in this Region, each with its message.

    Raises:
        QuotasError: permission, network or credentials are missing, the account is throttled, no
            service is known, or the time is over.
    """
    registry = Registry.parse('[service-quotas]\npreset = "aws"')
    config = AioConfig(
        connect_timeout=_TIMEOUT,
        read_timeout=_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    )
    quotas: dict[str, list[ServiceQuota]] = {}
    unknown: dict[str, str] = {}
    try:
        session = get_session()
        pace_session(session, {"service-quotas": registry})  # inside `try`: it reads the profile
        async with (
            asyncio.timeout(seconds),
            registry,
            session.create_client("service-quotas", region_name=region, config=config) as client,
        ):
            for one, code in services.items():
                try:
                    quotas[one] = await _quotas(client, code)
                except client.exceptions.NoSuchResourceException as error:
                    # A service may have no quotas in this Region, while the next one has.
                    unknown[one] = _reason_of(error)
    except TimeoutError:
        raise QuotasError(
            f"Service Quotas did not finish within {seconds:g} s: ask for fewer services "
            "(--service ec2) or raise --timeout"
        ) from None
    except ClientError as error:
        raise QuotasError(_reason_of(error)) from None
    except NoRegionError:
        raise QuotasError("no Region is set: choose one, such as --region eu-west-1") from None
    except (BotoCoreError, ResponseParserError, OSError, ValueError) as error:
        raise QuotasError(f"cannot reach Service Quotas: {error}") from None
    # A proxy, or a page with a login form, may respond with status 200, too.
    except _PARSE_ERRORS as error:
        raise QuotasError(
            f"the response is not from Service Quotas ({type(error).__name__})"
        ) from None
    if not quotas:
        raise QuotasError("; ".join(dict.fromkeys(unknown.values())))
    return quotas, unknown


async def _quotas(client: Any, code: str) -> list[ServiceQuota]:  # noqa: ANN401 - botocore makes it
    """Return the quotas of a service: those applied, and the defaults of all others."""
    found = await _list(client, "list_aws_default_service_quotas", code)
    for quota_code, quota in (await _list(client, "list_service_quotas", code)).items():
        if "Value" in quota or quota_code not in found:
            found[quota_code] = quota
    return list(found.values())


async def _list(client: Any, method: str, code: str) -> dict[str, ServiceQuota]:  # noqa: ANN401
    """Return all pages of a listing, by the codes of the quotas."""
    pages = client.get_paginator(method).paginate(ServiceCode=code)
    listed = await pages.build_full_result()
    return {quota["QuotaCode"]: quota for quota in listed["Quotas"]}


def _reason_of(error: Any) -> str:  # noqa: ANN401 - a ClientError
    code = error.response.get("Error", {}).get("Code", "?")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    message = error.response.get("Error", {}).get("Message") or code
    if is_throttle(code, status, operation=error.operation_name, service="service-quotas"):
        return f"Service Quotas throttled this account ({code}): try again later"
    if "AccessDenied" in code or "Unauthorized" in code:
        return (
            f"no permission ({message}): allow servicequotas:ListServiceQuotas and "
            "ListAWSDefaultServiceQuotas"
        )
    return f"Service Quotas refused {error.operation_name}: {code}: {message}"
