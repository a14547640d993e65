"""Reads the Kubernetes manifests."""

import yaml

from paths import ROOT

FOLDER = ROOT / "packaging" / "kubernetes"
PLAIN, TLS = FOLDER / "toggled.yaml", FOLDER / "toggled-tls.yaml"


class _Strict(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate key: {keys} {node.start_mark}"
        return super().construct_mapping(node, deep)


def objects(file) -> dict[str, dict]:
    """The objects in a file, by kind."""
    found = list(yaml.load_all(file.read_text(), Loader=_Strict))
    assert len({one["kind"] for one in found}) == len(found)
    return {one["kind"]: one for one in found}


def pod(deployment) -> dict:
    return deployment["spec"]["template"]["spec"]


def container(deployment) -> dict:
    (only,) = pod(deployment)["containers"]
    return only


def environment(deployment) -> dict[str, str | None]:
    """The container's settings; None for values from a secret."""
    return {setting["name"]: setting.get("value") for setting in container(deployment)["env"]}
