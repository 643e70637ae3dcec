"""cluster.yaml and docs/cluster/ against Ray's own schema and code, and each other; no cloud is asked.

None of it proves that AWS or Kubernetes take it: docs/cluster.md says what was checked.
"""

import copy
import json
import re
import shlex
import subprocess
import textwrap
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import botocore.session
import pytest
import yaml
from botocore.awsrequest import AWSResponse
from botocore.validate import validate_parameters
from ray.autoscaler._private.aws.config import (
    _check_ami,
    _create_default_inbound_rules,
    _resource,
    bootstrap_aws,
)
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import resource_cache
from ray.autoscaler._private.docker import docker_start_cmds
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config, with_envs, with_head_node_ip
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME, TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from tagger.engine.machines import Machines, parse_groups

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "docs/cluster"
FILLED_IN = {
    "FILL-IN-REGION": "eu-central-1",
    "FILL-IN-AMI": "ami-0123456789abcdef0",
    "FILL-IN-HEAD-INSTANCE-PROFILE-ARN": "arn:aws:iam::123456789012:instance-profile/tagger-head",
    "FILL-IN-WORKER-INSTANCE-PROFILE-ARN": "arn:aws:iam::123456789012:instance-profile/tagger-worker",
}
GROUPS = ("head", "cpu", "gpu")


def filled() -> dict[str, Any]:
    text = (ROOT / "cluster.yaml").read_text()
    for name, value in FILLED_IN.items():
        text = text.replace(name, value)
    return yaml.safe_load(text)


@pytest.fixture
def config() -> dict[str, Any]:
    return filled()


@pytest.fixture
def prepared(config, monkeypatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)  # where `ray up` runs; Ray looks at what is mounted
    return prepare_config(config)


def nodes(config: dict[str, Any]) -> dict[str, Any]:
    return config["available_node_types"]


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found, package
    return found[1]


def python_version() -> str:
    """Of the environment the pins were made in: the one mypy is told of."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]


def test_ray_accepts_it(prepared):
    validate_config(prepared)
    _check_ami(prepared)  # the last step of `ray up` before it asks AWS for anything
    assert [nodes(prepared)[name]["node_config"]["ImageId"] for name in GROUPS] == [
        FILLED_IN["FILL-IN-AMI"]
    ] * 3


@pytest.mark.parametrize("name", GROUPS)
def test_aws_knows_every_field_of_a_node(prepared, name):
    # The model of the API that boto3 carries, and checks what it sends against.
    run_instances = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    node = nodes(prepared)[name]["node_config"] | {"MinCount": 1, "MaxCount": 1}
    validate_parameters(node, run_instances.input_shape)
    if market := node.get("InstanceMarketOptions"):
        shape = run_instances.input_shape.members["InstanceMarketOptions"]
        spot = shape.members["SpotOptions"].members
        assert market["MarketType"] in shape.members["MarketType"].enum
        assert all(value in spot[key].enum for key, value in market["SpotOptions"].items())


def test_the_autoscaler_on_the_head_reads_the_same_groups(prepared):
    autoscaling = AutoscalingConfig(copy.deepcopy(prepared), skip_content_hash=True)
    groups = autoscaling.get_node_type_configs()
    assert {name: group.resources for name, group in groups.items()} == {
        "head": {"CPU": 0, "GPU": 0},
        "cpu": {"CPU": 16},
        "gpu": {"CPU": 4, "GPU": 1},
    }
    assert [groups[name].min_worker_nodes for name in GROUPS] == [0, 0, 0]
    assert autoscaling.get_docker_config("gpu")["worker_run_options"][0] == "--gpus all"
    assert "worker_run_options" not in autoscaling.get_docker_config("cpu")


def test_four_settings_at_the_top_are_all_there_is_to_fill_in(config):
    text = (ROOT / "cluster.yaml").read_text()
    assert set(re.findall(r"FILL-IN[A-Z-]*", text)) == set(FILLED_IN)
    assert max(text.index(name) for name in FILLED_IN) < text.index("\nprovider:")
    assert not re.search(r"FILL-?IN|<[a-z_-]+>|TODO|XXX", json.dumps(config), re.IGNORECASE)
    assert config["provider"]["region"] == "eu-central-1"


def test_every_placeholder_is_explained_in_the_docs():
    docs = (ROOT / "docs/cluster.md").read_text()
    for path in (ROOT / "cluster.yaml", *CLUSTER.iterdir()):
        for name in set(re.findall(r"FILL-IN[A-Z0-9-]*[A-Z]", path.read_text())):
            assert f"`{name}`" in docs, (path.name, name)


def test_groups_grow_from_zero_within_the_limit_of_the_cluster(config):
    assert tuple(nodes(config)) == GROUPS
    assert config["head_node_type"] == "head"
    assert nodes(config)["head"]["max_workers"] == 0
    assert all(nodes(config)[name]["min_workers"] == 0 for name in GROUPS)
    assert sum(nodes(config)[name]["max_workers"] for name in GROUPS) == config["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 10


def test_only_the_gpu_group_is_spot_and_nothing_is_kept_stopped(config):
    markets = {name: nodes(config)[name]["node_config"].get("InstanceMarketOptions") for name in GROUPS}
    assert markets["head"] is None
    assert markets["cpu"] is None
    assert markets["gpu"]["MarketType"] == "spot"
    assert config["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("name", GROUPS)
def test_every_node_has_its_role_imdsv2_and_an_encrypted_disk(config, name):
    node = nodes(config)[name]["node_config"]
    role = "HEAD" if name == "head" else "WORKER"
    assert node["IamInstanceProfile"] == {"Arn": FILLED_IN[f"FILL-IN-{role}-INSTANCE-PROFILE-ARN"]}
    assert node["MetadataOptions"]["HttpTokens"] == "required"
    assert node["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


def starts(config: dict[str, Any]) -> list[str]:
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


def test_every_start_command_turns_the_token_on(config):
    assert len(starts(config)) == 2
    token = "/home/ray/.ray/auth_token"
    for command in starts(config):
        before, _, _ = command.partition("ray start")
        assert f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token};" in before
    assert config["file_mounts"][token] == "~/.ray/auth_token"
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]  # of `ray exec` and jobs
    assert f"-e RAY_AUTH_TOKEN_PATH={token}" in config["docker"]["run_options"]


def test_the_dashboard_listens_on_loopback(config):
    head, _ = starts(config)
    assert "--dashboard-host=127.0.0.1" in head.split()
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head.split()
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()


def test_only_ssh_is_let_in_from_outside(config):
    group = config["provider"]["security_group"]
    assert set(group) == {"GroupName"}
    # What Ray itself would write into a group that is not there yet:
    within, *others = _create_default_inbound_rules({"sg-1"}, group.get("IpPermissions", []))
    assert within["UserIdGroupPairs"] == [{"GroupId": "sg-1"}]
    assert "IpRanges" not in within
    assert [(rule["FromPort"], rule["ToPort"]) for rule in others] == [(22, 22)]
    assert all("SecurityGroupIds" not in nodes(config)[name]["node_config"] for name in GROUPS)


def test_the_container_publishes_no_port(prepared):
    gpu = AutoscalingConfig(copy.deepcopy(prepared), skip_content_hash=True).get_docker_config("gpu")
    options = gpu["run_options"] + gpu["worker_run_options"]
    command = docker_start_cmds(
        "ubuntu", gpu["image"], prepared["file_mounts"], "tagger", options, "tagger", "/home/ray", "docker"
    )
    words = shlex.split(command)
    assert not {"-p", "-P", "--publish", "--privileged"} & set(words)
    assert words[words.index("--gpus") + 1] == "all"
    subprocess.run(["bash", "-n", "-c", command], check=True)


def test_versions_are_the_pinned_ones(config):
    ray, python = pinned("ray"), python_version()
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(f">={ray.rpartition('.')[0]}" in one for one in required if one.startswith("ray["))
    image = f"rayproject/ray:{ray}-py{python.replace('.', '')}"
    assert config["docker"]["image"] == image
    assert f"\nFROM {image}\n" in (CLUSTER / "Dockerfile").read_text()
    assert job()["spec"]["rayClusterSpec"]["rayVersion"] == ray
    for text in (config["setup_commands"][-1], (CLUSTER / "Dockerfile").read_text()):
        assert f"assert sys.version_info[:2] == ({python.replace('.', ', ')})," in text
        assert f'assert ray.__version__ == "{ray}",' in text


def test_what_is_mounted_is_there_and_is_what_pip_needs(config):
    mounts = {remote: local for remote, local in config["file_mounts"].items() if not local.startswith("~")}
    for remote, local in mounts.items():
        assert (ROOT / local).exists(), local
        assert remote == f"/home/ray/tagger-src/{local}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"tagger", "pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    assert set(mounts.values()) == needed
    copied = re.findall(r"^COPY --chown=\S+ (.+) \S+$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert set(" ".join(copied).split()) == needed
    let_in = re.findall(r"^!(.+)$", (CLUSTER / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert set(let_in) == needed


def commands_of_docs() -> list[str]:
    text = (ROOT / "docs/cluster.md").read_text()
    blocks = re.findall(r"^( *)```\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in blocks]


def test_every_command_is_valid_bash(prepared):
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    commands = [
        *prepared["initialization_commands"],
        *prepared["head_setup_commands"],
        *prepared["worker_setup_commands"],
        *with_envs(prepared["head_start_ray_commands"], {"RAY_NODE_TYPE_NAME": "head"}),
        *with_head_node_ip(prepared["worker_start_ray_commands"], "10.0.0.1"),
        *re.findall(r"^RUN ((?:.*\\\n)*.*)$", dockerfile, re.MULTILINE),
        *commands_of_docs(),
    ]
    assert len(commands) > 20
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


# ---- rights on AWS


def statements(name: str) -> list[dict[str, Any]]:
    policy = json.loads((CLUSTER / name).read_text())
    assert policy["Version"] == "2012-10-17"
    assert all(one["Effect"] == "Allow" for one in policy["Statement"])
    return policy["Statement"]


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def allowed(name: str) -> dict[str, set[str]]:
    """Return which resources each action is allowed on, by the last part of their names."""
    found: dict[str, set[str]] = {}
    for one in statements(name):
        for action in as_list(one["Action"]):
            found.setdefault(action, set()).update(
                resource.split(":")[-1] for resource in as_list(one["Resource"])
            )
    return found


def test_workers_may_read_the_source_and_write_the_collection_only():
    collection = "FILL-IN-RESULTS-BUCKET/FILL-IN-COLLECTION-PREFIX/*"
    assert allowed("s3-policy.json") == {
        "s3:ListBucket": {"FILL-IN-SOURCE-BUCKET", "FILL-IN-RESULTS-BUCKET"},
        "s3:GetObject": {"FILL-IN-SOURCE-BUCKET/*", collection},
        "s3:PutObject": {collection},
        "s3:DeleteObject": {collection},
        "s3:AbortMultipartUpload": {collection},
    }


def test_the_head_may_start_and_end_workers_of_this_cluster_only(config):
    assert allowed("head-policy.json") == {
        "ec2:DescribeInstances": {"*"},
        "ec2:RunInstances": {
            "image/*", "instance/*", "key-pair/tagger-ray", "network-interface/*", "security-group/*",
            "spot-instances-request/*", "subnet/*", "volume/*",
        },
        "ec2:CreateTags": {"instance/*"},
        "ec2:TerminateInstances": {"instance/*"},
        "iam:PassRole": {"role/tagger-worker"},
    }  # fmt: skip
    by_name = {
        one["Sid"]: one.get("Condition", {}).get("StringEquals", {}) for one in statements("head-policy.json")
    }
    assert by_name["StartWorkersOfThisCluster"] == {
        "aws:RequestTag/ray-cluster-name": config["cluster_name"],
        "ec2:InstanceType": [nodes(config)[name]["node_config"]["InstanceType"] for name in ("cpu", "gpu")],
    }
    assert by_name["TagAndEndNodesOfThisCluster"] == {
        "aws:ResourceTag/ray-cluster-name": config["cluster_name"]
    }
    assert by_name["TagAtTheStart"] == {"ec2:CreateAction": "RunInstances"}
    assert by_name["GiveWorkersTheirRole"] == {"iam:PassedToService": "ec2.amazonaws.com"}
    assert config["provider"]["key_pair"]["key_name"] == "tagger-ray"


class Amazon:
    """Answers Ray's requests to EC2 in place of the network, and remembers them."""

    ANSWERS: ClassVar[dict[str, dict[str, Any]]] = {
        "DescribeKeyPairs": {"KeyPairs": [{"KeyName": "tagger-ray"}]},
        "DescribeSubnets": {
            "Subnets": [
                {
                    "SubnetId": "subnet-1",
                    "VpcId": "vpc-1",
                    "AvailabilityZone": "eu-central-1a",
                    "State": "available",
                    "MapPublicIpOnLaunch": True,
                }
            ]
        },
        "DescribeSecurityGroups": {
            "SecurityGroups": [
                {
                    "GroupId": "sg-1",
                    "GroupName": "tagger-ray",
                    "VpcId": "vpc-1",
                    "IpPermissions": [{"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp"}],
                }
            ]
        },
        "RunInstances": {"Instances": [{"InstanceId": "i-1", "State": {"Name": "pending"}}]},
        "DescribeInstances": {
            "Reservations": [{"Instances": [{"InstanceId": "i-1", "Tags": [], "State": {"Name": "running"}}]}]
        },
        "CreateTags": {},
        "TerminateInstances": {},
    }

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.launched: dict[str, list[str]] = {}

    def listen(self, *resources: Any) -> None:
        for resource in resources:
            resource.meta.client.meta.events.register_first("before-call.ec2", self)

    def __call__(self, model, params, **_):
        self.asked.append(model.name)
        if model.name == "RunInstances":
            self.launched = params["body"]
        return AWSResponse("", 200, {}, None), self.ANSWERS[model.name]


def test_ray_needs_no_right_that_the_policies_and_docs_do_not_name(prepared, monkeypatch, tmp_path):
    resource_cache.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/tagger-ray.pem").touch()  # as an earlier `ray up` left it
    amazon = Amazon()

    amazon.listen(_resource("ec2", prepared))
    config = bootstrap_aws(prepared)
    of_user = set(amazon.asked)
    assert of_user == {"DescribeKeyPairs", "DescribeSubnets", "DescribeSecurityGroups"}  # nothing is made
    docs = (ROOT / "docs/cluster.md").read_text()
    assert all(f"`{action}`" in docs for action in of_user)

    amazon.asked.clear()
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    amazon.listen(provider.ec2, provider.ec2_fail_fast)
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_NODE_NAME: "ray-tagger-worker"}
    provider.create_node(nodes(config)["gpu"]["node_config"], tags, 1)
    assert provider.non_terminated_nodes({}) == ["i-1"]
    provider.set_node_tags("i-1", {"ray-node-status": "up-to-date"})
    provider.terminate_nodes(["i-1"])
    rights = {action.removeprefix("ec2:") for action in allowed("head-policy.json")} - {"iam:PassRole"}
    assert set(amazon.asked) == rights

    # What the conditions of the policy look at:
    sent = amazon.launched
    tag = {key: value for key, value in sent.items() if key.startswith("TagSpecification")}
    number = next(key for key, value in tag.items() if value == TAG_RAY_CLUSTER_NAME)
    assert tag[number.replace(".Key", ".Value")] == "tagger"
    assert {value for key, value in tag.items() if key.endswith("ResourceType")} == {"instance"}
    assert sent["InstanceType"] == "g6.xlarge"
    assert sent["InstanceMarketOptions.MarketType"] == "spot"
    assert sent["IamInstanceProfile.Arn"].endswith("/tagger-worker")
    assert sent["KeyName"] == "tagger-ray"
    resource_cache.cache_clear()


@pytest.mark.parametrize("name", ["s3-policy.json", "head-policy.json"])
def test_no_action_is_a_pattern_and_no_resource_is_everything(name):
    for one in statements(name):
        actions, resources = as_list(one["Action"]), as_list(one["Resource"])
        assert not any("*" in action for action in actions)
        # AWS knows no narrower form of Describe; every other action names what it is for.
        assert "*" not in resources or actions == ["ec2:DescribeInstances"], one["Sid"]
        assert all(resource == "*" or resource.startswith("arn:aws:") for resource in resources)


def test_only_instances_take_the_roles():
    (one,) = statements("trust-policy.json")
    assert (one["Principal"], one["Action"]) == ({"Service": "ec2.amazonaws.com"}, "sts:AssumeRole")


def test_every_request_that_storage_makes_is_allowed():
    needs = {
        "list": "s3:ListBucket", "list_objects_v2": "s3:ListBucket", "head_bucket": "s3:ListBucket",
        "get": "s3:GetObject", "get_range": "s3:GetObject", "get_object": "s3:GetObject",
        "head": "s3:GetObject", "head_object": "s3:GetObject",
        "put": "s3:PutObject", "put_object": "s3:PutObject",
        "delete": "s3:DeleteObject", "delete_object": "s3:DeleteObject",
    }  # fmt: skip
    made = set()
    for path in (ROOT / "tagger/storage").glob("*.py"):
        text = path.read_text()
        made |= set(
            re.findall(r"obstore\.(get|get_range|get_ranges|head|put|delete|list|copy|rename)\(", text)
        )
        made |= set(re.findall(r"\.(?:call|send)\(\s*\"(\w+)\"", text))
        made |= set(re.findall(r"\.client\.(\w+)\(Bucket", text))
    assert len(made) > 8
    assert {needs[one] for one in made} <= set(allowed("s3-policy.json"))


# ---- Kubernetes


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text()))


def job() -> dict[str, Any]:
    (found,) = (one for one in manifests() if one["kind"] == "RayJob")
    return found


def groups_of_job() -> dict[str, Any]:
    spec = job()["spec"]["rayClusterSpec"]
    return {"head": spec["headGroupSpec"]} | {one["groupName"]: one for one in spec["workerGroupSpecs"]}


def test_kubernetes_has_the_same_groups(config):
    # Ray's autoscaler makes its configuration of a RayCluster with this function.
    cluster = {
        "metadata": {"name": "tagger", "namespace": "default"},
        "spec": job()["spec"]["rayClusterSpec"],
    }
    derived = _derive_autoscaling_config_from_ray_cr(cluster)
    names = dict(zip(GROUPS, derived["available_node_types"], strict=True))
    for name, derived_name in names.items():
        theirs, ours = derived["available_node_types"][derived_name], nodes(config)[name]
        assert {key: theirs["resources"].get(key) for key in ours["resources"]} == ours["resources"]
        assert theirs["resources"].get("GPU", 0) == ours["resources"].get("GPU", 0)
        assert (theirs["min_workers"], theirs["max_workers"]) == (ours["min_workers"], ours["max_workers"])
    assert derived["max_workers"] == config["max_workers"]
    assert derived["idle_timeout_minutes"] == config["idle_timeout_minutes"]


def test_a_run_is_told_what_the_groups_may_grow_to(config):
    workers = [nodes(config)[name] for name in ("cpu", "gpu")]
    groups = [
        Machines(one["resources"]["CPU"], one["resources"].get("GPU", 0), now=0, most=one["max_workers"])
        for one in workers
    ]
    (told,) = [
        option.removeprefix("-e TAGGER_MACHINES=")
        for option in config["docker"]["run_options"]
        if option.startswith("-e TAGGER_MACHINES=")
    ]
    assert parse_groups(told) == groups
    (head,) = groups_of_job()["head"]["template"]["spec"]["containers"]
    assert [one["value"] for one in head["env"] if one["name"] == "TAGGER_MACHINES"] == [told]


def test_the_job_asks_for_a_token_and_takes_its_cluster_along():
    spec = job()["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] > 0
    assert spec["entrypoint"].startswith("tagger tag ")


def memory_gib(text: str) -> int:
    assert text.endswith("Gi")
    return int(text.removesuffix("Gi"))


@pytest.mark.parametrize("name", GROUPS)
def test_every_pod_has_its_account_shared_memory_and_limits(name):
    pod = groups_of_job()[name]["template"]["spec"]
    (container,) = pod["containers"]
    accounts = {one["metadata"]["name"] for one in manifests() if one["kind"] == "ServiceAccount"}
    assert pod["serviceAccountName"] in accounts
    assert (pod["serviceAccountName"] == "tagger-head") == (name == "head")
    assert pod.get("automountServiceAccountToken", True) is (name == "head")  # only the head asks Kubernetes
    assert container["volumeMounts"] == [{"name": "shm", "mountPath": "/dev/shm"}]
    (volume,) = pod["volumes"]
    assert volume["emptyDir"]["medium"] == "Memory"
    limits = container["resources"]["limits"]
    shared = memory_gib(volume["emptyDir"]["sizeLimit"])
    assert shared >= 4, "three chunks of 77 MB for each of 16 fetch tasks"
    assert shared < memory_gib(limits["memory"]) / 2
    assert limits["memory"] == container["resources"]["requests"]["memory"]
    asked = int(container["resources"]["requests"]["cpu"])
    assert name == "head" or asked < int(groups_of_job()[name]["rayStartParams"]["num-cpus"])


def test_the_gpu_pods_go_to_spot_nodes_with_a_gpu():
    pod = groups_of_job()["gpu"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "SPOT" in pod["nodeSelector"].values()
    assert {one["key"] for one in pod["tolerations"]} >= {"nvidia.com/gpu"}
    assert "nodeSelector" not in groups_of_job()["cpu"]["template"]["spec"]


def test_the_job_uses_fields_that_kuberay_documents():
    # From the field reference of KubeRay 1.6; what is misspelt is silently dropped by Kubernetes.
    group = {"rayStartParams", "template", "resources", "labels"}
    known = {
        "spec": {
            "activeDeadlineSeconds", "backoffLimit", "entrypoint", "rayClusterSpec", "submissionMode",
            "shutdownAfterJobFinishes", "submitterConfig", "submitterPodTemplate", "suspend",
            "ttlSecondsAfterFinished",
        },
        "cluster": {
            "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "headGroupSpec", "rayVersion",
            "workerGroupSpecs",
        },
        "autoscaler": {"idleTimeoutSeconds", "upscalingMode", "version", "resources", "image", "env"},
        "head": group | {"serviceType", "headService", "enableIngress"},
        "worker": group | {"groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds"},
    }  # fmt: skip
    spec = job()["spec"]
    cluster = spec["rayClusterSpec"]
    assert job()["apiVersion"] == "ray.io/v1"
    assert set(spec) <= known["spec"]
    assert set(cluster) <= known["cluster"]
    assert set(cluster["autoscalerOptions"]) <= known["autoscaler"]
    assert set(cluster["headGroupSpec"]) <= known["head"]
    for one in cluster["workerGroupSpecs"]:
        assert set(one) <= known["worker"]
