"""LiteLLM's deployments: which of them share data, and under which names Tollgate knows them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ._litellm_request import FIELDS

_SERVER = "litellm.proxy.proxy_server"
_REQUIRED = ("org", "project")
_KEYS = (*_REQUIRED, "model")


@dataclass(frozen=True)
class Target:
    """What a deployment that shares is called in Tollgate, and what it adds to a request."""

    org: str
    project: str
    model: str
    #: Its fields of a request's body, as JSON.
    fields: str = field(default="{}", repr=False)

    def is_same(self, other: Target) -> bool:
        """Whether both are one thing in Tollgate."""
        return replace(self, fields="") == replace(other, fields="")


def target_of(deployment: Mapping[str, Any]) -> Target | None:
    """What a deployment is called in Tollgate; None if it does not share. Raises ValueError for wrong settings."""
    settings = (deployment.get("model_info") or {}).get("tollgate")
    if settings is None:
        return None
    params = deployment.get("litellm_params") or {}
    model = str(params.get("model") or "")
    if fault := _fault(settings):
        info = deployment.get("model_info") or {}
        name = f"{deployment.get('model_name') or model} ({info.get('id') or model})"
        raise ValueError(f"deployment {name}: model_info.tollgate{fault}")
    fields = {
        key: params[key]
        for key in (*FIELDS, "extra_body", "additional_drop_params")
        if params.get(key) is not None
    }
    return Target(
        settings["org"],
        settings["project"],
        settings.get("model") or model.partition("/")[2] or model,
        json.dumps(fields, default=str),
    )


def _fault(settings: Any) -> str:
    """What is wrong with a deployment's settings."""
    if not isinstance(settings, dict):
        return f": it must have the keys {', '.join(_REQUIRED)}"
    for key in settings:
        if key not in _KEYS:
            return f".{key}: unknown key; the keys are {', '.join(_KEYS)}"
    for key in _REQUIRED:
        if key not in settings:
            return f".{key}: missing"
    for key, value in settings.items():
        if not isinstance(value, str) or not value:
            return f".{key}: {value!r} is not a text"
    return ""


def targets_of(deployments: Iterable[Mapping[str, Any]]) -> list[Target]:
    """What those of the deployments that share are called. Raises ValueError for wrong settings."""
    found = (target_of(it) for it in deployments)
    return list(dict.fromkeys(it for it in found if it is not None))


def check_config() -> None:
    """Raises ValueError if a deployment of the proxy's configuration, which is being loaded, has wrong settings."""
    server = sys.modules.get(_SERVER)
    if server is not None:
        targets_of(server.proxy_config.get_config_state().get("model_list") or [])


def router() -> Any:
    """The proxy's router; None before it is made."""
    return getattr(sys.modules.get(_SERVER), "llm_router", None)


def group_of(name: Any) -> list[dict[str, Any]]:
    """All deployments of a model group, also those that LiteLLM leaves out for a while."""
    its_router = router()
    if its_router is None or not isinstance(name, str) or not name:
        return []
    return its_router.get_model_list(model_name=name) or []


def siblings_of(model_info: Any) -> list[dict[str, Any]]:
    """All deployments of the group to which the deployment with this model_info belongs."""
    deployment_id = (model_info or {}).get("id")
    its_router = router() if deployment_id else None
    found = its_router.get_deployment(model_id=deployment_id) if its_router else None
    return group_of(found.model_name) if found else []
