"""What must agree between the files of the cluster, and what is decided about a running one."""

import json
import re

import pytest
import yaml
from binaries import KUBERNETES
from diagnosis import PORTS, failing_component, listening_ports
from host import HERE
from images import BUSYBOX_IMAGE, PROVISIONER_IMAGE, component_targets
from lifecycle import KUBECONFIG, foreign_kubeconfig, loaded

NODE = HERE / "images" / "node" / "files"
WANTED = [f"registry/kube-proxy:v{KUBERNETES}", "registry/coredns/coredns:v1.12.1", "registry/etcd:3.6.5-0"]


def test_every_component_has_its_target_in_the_dockerfile():
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (HERE / "images/components/Dockerfile").read_text(), re.MULTILINE))
    targets = component_targets(WANTED)

    assert targets[WANTED[1]] == "coredns"
    assert targets[WANTED[2]] == "etcd"
    assert set(targets.values()) <= stages


def test_the_modules_are_the_versions_that_the_images_are_named_after():
    kubernetes = (HERE / "go/kubernetes/go.mod").read_text()
    staged = re.findall(r"=> (k8s\.io/\S+) (\S+)", kubernetes)

    assert f"k8s.io/kubernetes v{KUBERNETES}" in kubernetes
    assert {version for _, version in staged} == {f"v0.{KUBERNETES.partition('.')[2]}"}
    provisioner = PROVISIONER_IMAGE.rpartition(":")[2]
    assert f"local-path-provisioner {provisioner}" in (HERE / "go/local-path-provisioner/go.mod").read_text()


def test_volumes_are_made_by_images_that_the_node_carries():
    documents = list(yaml.safe_load_all((NODE / "kind/manifests/default-storage.yaml").read_text()))
    deployment = next(document for document in documents if document["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    settings = next(document for document in documents if document["kind"] == "ConfigMap")["data"]
    helper = yaml.safe_load(settings["helperPod.yaml"])

    assert container["image"] == PROVISIONER_IMAGE
    assert container["args"][container["args"].index("--helper-image") + 1] == BUSYBOX_IMAGE
    assert helper["spec"]["containers"][0]["image"] == BUSYBOX_IMAGE
    assert json.loads(settings["config.json"])["nodePathMap"]


def test_pods_get_their_addresses_from_the_cluster_s_subnet():
    cluster = yaml.safe_load((HERE / "kind/built.yaml").read_text())
    network = json.loads((NODE / "etc/cni/net.d/10-forebay.conflist").read_text())

    assert network["plugins"][0]["ipam"]["ranges"] == [[{"subnet": cluster["networking"]["podSubnet"]}]]


@pytest.mark.parametrize("name", ["built", "public"])
def test_both_clusters_have_one_name_and_patches_that_parse(name):
    cluster = yaml.safe_load((HERE / f"kind/{name}.yaml").read_text())

    assert cluster["name"] == "forebay"
    assert yaml.safe_load(cluster["kubeadmConfigPatches"][0])["kind"] == "KubeletConfiguration"


def test_ports_are_read_whatever_the_address():
    sockets = "LISTEN 0 4096 127.0.0.1:2379 0.0.0.0:*\nLISTEN 0 4096 *:6443 *:*\nLISTEN 0 4096 [::1]:10257 [::]:*\n"

    assert listening_ports(sockets) == {2379, 6443, 10257}


ACTIVE = {"containerd": "active", "kubelet": "active"}


@pytest.mark.parametrize(
    ("units", "missing", "component"),
    [
        ({"containerd": "failed", "kubelet": "inactive"}, [], "containerd"),
        (ACTIVE | {"kubelet": "activating"}, ["etcd"], "kubelet"),
        (ACTIVE, ["kube-apiserver", "kube-scheduler"], "kube-apiserver"),
        (ACTIVE, ["kube-proxy"], "kube-proxy"),
        (ACTIVE, [], "pods"),
    ],
)
def test_the_component_to_blame_is_the_first_that_others_need(units, missing, component):
    listening = {port for name, port in PORTS.items() if name not in missing}

    assert failing_component(units, listening) == component


LISTING = """\
REF                          TYPE  DIGEST       SIZE    PLATFORMS   LABELS
localhost/forebay-sink:dev   x/y   sha256:aaa   1.0 MiB linux/amd64 managed
sha256:0123                  x/y   sha256:aaa   1.0 MiB linux/amd64 managed
sha256:4567                  x/y   sha256:bbb   1.0 MiB linux/amd64 managed
"""


def test_only_the_very_same_image_counts_as_loaded():
    assert loaded(LISTING, "localhost/forebay-sink:dev", "0123")
    assert loaded(LISTING, "localhost/forebay-sink:dev", "sha256:0123")
    assert not loaded(LISTING, "localhost/forebay-sink:dev", "4567")
    assert not loaded(LISTING, "localhost/forebay-sink:dev", "89ab")
    assert not loaded(LISTING, "localhost/forebay-sink:other", "0123")


def test_a_kubeconfig_of_ones_own_is_used_and_ours_is_no_such(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert foreign_kubeconfig() == tmp_path / "config"

    monkeypatch.setenv("KUBECONFIG", str(KUBECONFIG))
    assert foreign_kubeconfig() is None

    monkeypatch.delenv("KUBECONFIG")
    assert foreign_kubeconfig() is None
